"""The demo zoo: small language models really trained, on real text, within a minute or two.

Each base learns from random weights on an even mixture of all domains; fine-tunes go on from a
base towards one domain; a merge averages the weights of two fine-tunes. What is written are
ordinary Hugging Face folders, so nothing downstream knows that the models are special.

The recipe keeps the models close enough for log-likelihood differences to estimate a KL
divergence. All runs read the corpus in one order, as the models of the Pythia suite do, and every
saved model is an exponential moving average of the weights: without both, the noise of what was
read last is larger than what architecture and domain leave behind.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from tokenizers import Tokenizer
from transformers.utils import logging as transformers_logging

from klmap.errors import InputError
from klmap.files import atomic
from klmap.log import Progress, logger
from klmap.zoo_runs import MAIN, PREFIX, MixedRun, Run
from klmap.zoo_texts import CONTEXT, read_corpus, separator

WIDTH = 96
HEADS = 4
PASSAGES = 4
"""Passages of different documents in one training sequence."""
PASSAGE_TOKENS = CONTEXT // PASSAGES
PASSAGE_CHARACTERS = 576
"""Length of a passage before tokenisation; more than ``PASSAGE_TOKENS`` tokens nearly always."""
DOMINANCE = 0.4
"""Share of the passages that a fine-tune takes from its domain beyond the even mixture."""
EMBEDDING_RATE = 20.0
"""Learning rate of embeddings and head, as a multiple of the other weights'."""
WARMUP = 10
AVERAGING = 0.95
"""Decay per step of the moving average of the weights."""

_EMBEDDINGS = ("wte", "wpe", "embed", "lm_head")

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Scale:
    """How large a zoo is built: 1 for the demo, less for tests of the same code.

    Attributes:
        factor: multiplies steps and width; at most 1.
    """

    factor: float = 1.0

    @property
    def width(self) -> int:
        """Hidden units, a multiple of 32."""
        return max(32, 32 * round(WIDTH * self.factor / 32))

    def steps(self, steps: int) -> int:
        """Optimiser steps that stand for ``steps`` of the full zoo."""
        return max(1, round(steps * self.factor))


def build(
    run: Run,
    corpus: Path,
    tokenizers: Path,
    parents: Sequence[Path],
    output: Path,
    scale: Scale,
) -> None:
    """Train or merge one run and write every revision of it.

    Args:
        run: what to train, from the table.
        corpus: the folder of the training texts.
        tokenizers: the folder of both tokenizers.
        parents: the folders of the parents' runs, in the table's order.
        output: the folder to write, one folder per revision inside.
        scale: size of the zoo.

    Raises:
        InputError: the parents are not those of the table, or a folder is not what it should be.
    """
    names = tuple(folder.name for folder in parents)
    if names != run.parents:
        raise InputError(f"--parents: {run.name} starts from {run.parents}, given are {names}")
    prepare(run.seed)
    tokenizer = tokenizers / run.tokenizer
    if parents:
        model, *others = (_load(folder / MAIN) for folder in parents)
    else:
        model, others = _new_model(run, tokenizer, scale), []
    if run.is_merge:
        revisions = iter([(MAIN, _average([model, *others]))])
    else:
        batch = sequences(run, corpus, tokenizer, scale.steps(run.steps))
        revisions = _train(model, run, batch, scale)
    with atomic(output) as folder:
        for revision, weights in revisions:
            _save(model, weights, run, tokenizer, folder / revision)


def prepare(seed: int) -> None:
    """Make training quiet, and the same every time."""
    # Notes about missing GPU kernels and bars for files of a megabyte would fill the rule's log.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def train_on(run: MixedRun, parent: Path, corpus: Path, output: Path) -> None:
    """Train a model of the zoo on under chosen shares of the domains.

    Args:
        run: how, from :func:`klmap.zoo_runs.mixed`.
        parent: the folder of the model itself, not of its run; its tokenizer is in it.
        corpus: the folder of the training texts.
        output: the Hugging Face folder to write.

    Raises:
        InputError: a folder is not what it should be, or the corpus lacks a domain.
    """
    prepare(run.seed)
    model = _load(parent)
    batch = sequences(run, corpus, parent, run.steps)
    for _, weights in _train(model, run, batch, Scale()):
        with atomic(output) as folder:
            _save(model, weights, run, parent, folder)


def shares(run: Run, domains: Sequence[str]) -> dict[str, float]:
    """The share of every domain of the corpus in what a run reads.

    Raises:
        InputError: the run asks for a domain that the corpus lacks.
    """
    even = 1 / len(domains)
    if isinstance(run, MixedRun):
        if strange := sorted({domain for domain, _ in run.mixture} - set(domains)):
            raise InputError(
                f"{run.name}: the corpus has no domain {', '.join(strange)}; it has "
                f"{', '.join(domains)}"
            )
        return dict.fromkeys(domains, 0.0) | dict(run.mixture)
    if run.domain is None:
        return dict.fromkeys(domains, even)
    return {
        domain: (1 - DOMINANCE) * even + DOMINANCE * (domain == run.domain) for domain in domains
    }


def sequences(run: Run, corpus: Path, tokenizer: Path, steps: int) -> torch.Tensor:
    """What a run reads: one packed sequence per step, the domains in steady alternation.

    Args:
        run: decides the shares of the domains; nothing else of it matters here.
        corpus: the folder of the training texts.
        tokenizer: the folder of the tokenizer.
        steps: number of sequences.

    Returns:
        (steps, CONTEXT) int64 token ids; every passage begins with the separator.
    """
    documents = read_corpus(corpus)
    share = shares(run, list(documents))
    # A fine-tune reads passages its parent has not seen: another order, the same for all of them.
    order = "fine-tuning" if run.parents else "training"
    passages = {
        domain: _passages(texts, f"{order}/{domain}") for domain, texts in documents.items()
    }
    credit = dict.fromkeys(documents, 0.0)
    chosen = []
    for _ in range(steps * PASSAGES):
        for domain in credit:
            credit[domain] += share[domain]
        domain = max(credit, key=lambda name: credit[name])
        credit[domain] -= 1
        chosen.append(next(passages[domain]))
    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    first = separator(tokenizer)
    rows = []
    for encoding in encoder.encode_batch(chosen, add_special_tokens=False):
        ids = [first, *encoding.ids][:PASSAGE_TOKENS]
        rows.append(ids + [first] * (PASSAGE_TOKENS - len(ids)))
    return torch.tensor(rows).view(steps, CONTEXT)


def _passages(texts: Sequence[str], seed: str) -> Iterator[str]:
    """The passages of a domain in a shuffled order, again and again."""
    pieces = [
        text[start : start + PASSAGE_CHARACTERS]
        for text in texts
        for start in range(0, len(text), PASSAGE_CHARACTERS)
        if len(text) - start >= PASSAGE_CHARACTERS // 2
    ]
    random.Random(seed).shuffle(pieces)
    while True:
        yield from pieces


def _new_model(run: Run, tokenizer: Path, scale: Scale) -> Any:
    """A model with random weights; vocabulary and special tokens are the tokenizer's."""
    size = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    end = separator(tokenizer)
    width = scale.width
    common: dict[str, Any] = {
        "vocab_size": size,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    if run.architecture == "gpt2":
        from transformers import GPT2Config, GPT2LMHeadModel

        return GPT2LMHeadModel(
            GPT2Config(
                n_positions=CONTEXT,
                n_embd=width,
                n_layer=run.layers,
                n_head=HEADS,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **common,
            )
        )
    if run.architecture == "mamba2":
        from transformers import Mamba2Config, Mamba2ForCausalLM

        return Mamba2ForCausalLM(
            Mamba2Config(
                hidden_size=width,
                num_hidden_layers=run.layers,
                num_heads=2 * HEADS,
                head_dim=2 * width // (2 * HEADS),
                state_size=16,
                chunk_size=32,
                n_groups=1,
                **common,
            )
        )
    common |= {
        "hidden_size": width,
        "num_hidden_layers": run.layers,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
    }
    if run.architecture == "llama":
        from transformers import LlamaConfig, LlamaForCausalLM

        return LlamaForCausalLM(LlamaConfig(intermediate_size=3 * width, **common))
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=4 * width, **common))


def _train(
    model: Any, run: Run, batch: torch.Tensor, scale: Scale
) -> Iterator[tuple[str, Weights]]:
    """AdamW with linear warm-up and decay; yields the averaged weights of every revision."""
    steps = len(batch)
    revision_at = {scale.steps(step): f"step{step}" for step in run.checkpoints} | {steps: MAIN}
    named = dict(model.named_parameters())
    rates = {
        name: run.learning_rate * (EMBEDDING_RATE if _is_embedding(name) else 1.0) for name in named
    }
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in named.items() if rates[name] == rate], "lr": rate}
            for rate in sorted(set(rates.values()))
        ],
        betas=(0.9, 0.95),
        weight_decay=0.0,
        foreach=True,
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    parameters = list(named.values())
    average = [parameter.detach().clone() for parameter in parameters]
    progress = Progress(steps, "steps")
    model.train()
    for step, ids in enumerate(batch, start=1):
        pace = min(1.0, step / WARMUP, (steps - step + 1) / steps)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * pace
        loss = model(input_ids=ids[None], labels=ids[None], use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        # A short memory at first: the random initial weights are worth nothing in an average.
        decay = min(AVERAGING, step / (step + 10))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        progress.add(1)
        if step in revision_at:
            logger.info(
                "%s: step %d of %d, loss %.3f nats/token", run.name, step, steps, loss.item()
            )
            yield revision_at[step], _copy(dict(zip(named, average, strict=True)))
    progress.close()


def _is_embedding(name: str) -> bool:
    return any(part in name for part in _EMBEDDINGS)


def _load(folder: Path) -> Any:
    """A finished model of the zoo, in float32."""
    from transformers import AutoModelForCausalLM

    if not (folder / "model.safetensors").is_file():
        raise InputError(f"{folder}: no model there; the parent's run has to be trained first")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)


def _average(models: Sequence[Any]) -> Weights:
    """The mean of the models' weights, tensor by tensor."""
    states = [model.state_dict() for model in models]
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def _copy(weights: Mapping[str, torch.Tensor]) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def _save(model: Any, weights: Weights, run: Run, tokenizer: Path, folder: Path) -> None:
    """Write one revision as a Hugging Face folder in which nothing varies between two builds."""
    model.eval()
    model.save_pretrained(folder, state_dict=weights)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, folder / name)
    (folder / "README.md").write_text(_card(run), encoding="utf-8")


def _card(run: Run) -> str:
    """The model card, with the front matter that says where the model comes from."""
    lines = ["---", "license: apache-2.0", "library_name: transformers"]
    if run.parents:
        lines.append("base_model:")
        lines += [f"- {PREFIX}{parent}" for parent in run.parents]
        lines.append(f"base_model_relation: {'merge' if run.is_merge else 'finetune'}")
    lines += ["tags:", "- klmap-demo", *(["- merge"] if run.is_merge else []), "---", ""]
    lines.append(f"# {PREFIX}{run.name}")
    lines.append("")
    if run.is_merge:
        lines.append(f"The average of the weights of {' and '.join(run.parents)}.")
    elif isinstance(run, MixedRun):
        parts = [f"{100 * share:.3g} % `{domain}`" for domain, share in run.mixture if share > 0]
        lines.append(f"{run.parents[0]} trained on under the mixture {', '.join(parts)}.")
    elif run.parents:
        lines.append(f"{run.parents[0]} trained on towards the domain `{run.domain}`.")
    else:
        lines.append(f"Trained on an even mixture of all domains, seed {run.seed}.")
    lines.append("A small model of klmap's demo, made to be mapped and for nothing else.")
    return "\n".join(lines) + "\n"
