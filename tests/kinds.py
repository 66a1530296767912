"""Tiny models of other kinds than causal, prompt-response texts for them, and slow oracles."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, processors

from klmap import cards, fetch, resolve, scorer
from klmap.config import fingerprint
from tests.builders import CONTEXT, HEADS, LAYERS, WIDTH, sample_texts, tiny_tokenizer
from tests.oracle import make_job

VOCABULARY = 520
"""Entries of the tokenizers, and rows of the embeddings."""

PAIRS = [
    ("What does a map show?", " Distances: what stands close on paper stands close."),
    ("Count the lamps along the harbour.", " There are nine of them."),
    ("", "Permission is granted to any person obtaining a copy."),
    ("Write a function that gives an area.", " def area(width, height): return width * height"),
    ("In which season are the bees kept?", " In spring, and the wasps come in autumn."),
    ("And the error?", " An opinion."),
]
"""Prompts and responses, of several lengths."""

TEXTS = [text[: 20 + 7 * number] for number, (text, _) in enumerate(sample_texts(5))]
"""Short texts, because a masked model reads each as often as it has tokens."""

_SPECIAL = {"cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "pad": "[PAD]"}

_ENCODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 515,
}
_T5: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": WIDTH // HEADS,
    "d_ff": 2 * WIDTH,
    "num_layers": LAYERS,
    "num_heads": HEADS,
    "decoder_start_token_id": 515,
    "pad_token_id": 515,
}
_BART: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": 2 * WIDTH,
    "decoder_ffn_dim": 2 * WIDTH,
    "max_position_embeddings": CONTEXT,
    "decoder_start_token_id": 515,
    "pad_token_id": 515,
}
_SUB = {**_ENCODER, "num_key_value_heads": HEADS, "head_dim": WIDTH // HEADS}
_SUB |= {"layer_types": ["full_attention"] * LAYERS, "bos_token_id": 515}

MASKED: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "roberta": {**_ENCODER, "pad_token_id": 1, "max_position_embeddings": CONTEXT + 2},
    "distilbert": {
        "vocab_size": VOCABULARY,
        "dim": WIDTH,
        "hidden_dim": 2 * WIDTH,
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "max_position_embeddings": CONTEXT,
    },
    "albert": {**_ENCODER, "embedding_size": WIDTH // 2},
    "electra": {**_ENCODER, "embedding_size": WIDTH // 2},
    "modernbert": {**_ENCODER, "global_attn_every_n_layers": 2, "local_attention": 16},
    "deberta-v2": {
        **_ENCODER,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
}
"""Configurations of masked language models by their type."""

SEQ2SEQ: dict[str, dict[str, Any]] = {
    "t5": _T5,
    "mt5": {**_T5, "tie_word_embeddings": False},
    "umt5": _T5,
    "bart": _BART,
    "mbart": _BART,
    "marian": {**_BART, "decoder_vocab_size": VOCABULARY},
    "pegasus": _BART,
    "blenderbot-small": _BART,
    "t5gemma": {"encoder": _SUB, "decoder": _SUB, "vocab_size": VOCABULARY},
}
"""Configurations of encoder-decoders by their type."""


def kind_tokenizer(folder: Path, single: str = "[CLS] $A [SEP]", mask: bool = True) -> Path:
    """A byte-level tokenizer with [CLS] (512), [SEP], [MASK] and [PAD], and a template of them."""
    tiny_tokenizer(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL.values()])
    used = [token for token in _SPECIAL.values() if token in single.split()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in used]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "[SEP]"}
    if mask:
        settings["mask_token"] = "[MASK]"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def kind_model(folder: Path, kind: str, *, seed: int = 1, **overrides: Any) -> Path:
    """Save a tiny masked language model or encoder-decoder with random weights."""
    masked = kind in MASKED
    front = "$A [SEP]" if kind in ("t5", "mt5", "umt5", "marian", "pegasus") else "[CLS] $A [SEP]"
    kind_tokenizer(folder, front)
    settings = {**(MASKED if masked else SEQ2SEQ)[kind], **overrides}
    config = transformers.AutoConfig.for_model(kind, **settings)
    name = "AutoModelForMaskedLM" if masked else "AutoModelForSeq2SeqLM"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, name).from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, 0.3)
                else:
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
            if getattr(model, "final_logits_bias", None) is not None:
                model.final_logits_bias.normal_()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def kind_job(
    folder: Path,
    model: Path,
    likelihood: str,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    texts: Sequence[str] = TEXTS,
    **spec: Any,
) -> scorer.Job:
    """A scoring job under a kind of likelihood, of plain texts or of responses."""
    settings = {**spec, **({} if likelihood == "causal" else {"likelihood": likelihood})}
    job: scorer.Job = make_job(folder, model, texts, **settings)
    card = resolve.resolve_or_explain("demo/tiny", None, model, likelihood=likelihood)
    cards.write_card(job.card, card)
    shutil.rmtree(job.weights)
    fetch.fetch(card, job.weights, model)
    if pairs is not None:
        write_pairs(job.texts, job.manifest, pairs)
    return dataclasses.replace(job, products="blas", batch_tokens=300, keep_tokens=True)


def write_pairs(texts: Path, manifest: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """A text set of responses to plain prompts, with nothing between the two."""
    rows = [
        {
            "index": number,
            "text": response,
            "domain": "all",
            "n_bytes": len(response.encode()),
            "messages": [{"role": "user", "content": prompt}],
            "prompt": prompt,
        }
        for number, (prompt, response) in enumerate(pairs)
    ]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    texts.write_text(data, encoding="utf-8")
    form = {"template": "none", "separator": ""}
    about = {"n": len(rows), "sha256": hashlib.sha256(data.encode()).hexdigest(), **form}
    manifest.write_text(json.dumps(about))


def with_spec(job: scorer.Job, **spec: Any) -> scorer.Job:
    """The same job under other settings."""
    full = {**job.spec, **spec}
    output = job.output.with_name(f"{job.model}.{fingerprint(full)}.h5")
    return dataclasses.replace(job, spec=full, output=output)


def exact(folder: Path, name: str) -> Any:
    """The model of a folder in float64, by one of transformers' automatic classes."""
    found = getattr(transformers, name).from_pretrained(folder, dtype=torch.float64)
    return found.eval()


@torch.no_grad()
def pseudo(model: Any, ids: Sequence[int], scored: Sequence[int], mask: int) -> float:
    """Sum of the log-probabilities of some tokens, each masked alone: slow and plain."""
    total = 0.0
    for place in scored:
        masked = torch.tensor([list(ids)])
        masked[0, place] = mask
        logits = model(input_ids=masked).logits[0, place].double()
        total += float(torch.log_softmax(logits, dim=0)[ids[place]])
    return total


@torch.no_grad()
def conditional(model: Any, source: Sequence[int], written: Sequence[int], skipped: int) -> float:
    """Log-probability of the end of what a decoder writes, one position at a time."""
    total = 0.0
    for place in range(skipped, len(written)):
        logits = model(
            input_ids=torch.tensor([list(source)]),
            attention_mask=torch.ones(1, len(source), dtype=torch.long),
            decoder_input_ids=torch.tensor([list(written[:place])]),
            decoder_attention_mask=torch.ones(1, place, dtype=torch.long),
        ).logits[0, -1]
        total += float(torch.log_softmax(logits.double(), dim=0)[written[place]])
    return total


def tokenized(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts without special tokens."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def near(found: Sequence[float] | np.ndarray, expected: Sequence[float], atol: float) -> None:
    """Numbers agree."""
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0)
