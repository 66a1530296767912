"""Small real things for tests: Hugging Face model folders and text files, made in a moment.

Nothing is downloaded. A model folder is what ``save_pretrained`` writes: configuration, random
weights in safetensors, and a tokenizer trained on the text in this file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

PROSE = [
    "The river rose in the night, and by morning the lower road had gone under the water.",
    "A map is a picture of distances: what stands close on paper stands close in the world.",
    "She counted the lamps along the harbour twice, and the second time there was one more.",
    "Every measurement has an error, and a measurement without its error is only an opinion.",
    "In spring the orchard keeps the bees, and in autumn the orchard is kept by the wasps.",
    "Grüße aus Köln, naïve café, señor: letters beyond ASCII belong to real text as well.",
]
CODE = [
    "def area(width: float, height: float) -> float:\n    return width * height\n",
    "for (int i = 0; i < n; ++i) {\n    total += values[i] * weights[i];\n}\n",
    "const names = rows.filter(row => row.kl < limit).map(row => row.name);\n",
    "import numpy as np\n\nx = np.linspace(0.0, 1.0, 11)\nprint(x.mean(), x.std())\n",
]
LEGAL = [
    "Permission is granted, free of charge, to any person obtaining a copy of this work.",
    "The parties agree that any dispute arising under this agreement shall be settled here.",
]
DOMAINS = {"prose": PROSE, "code": CODE, "legal": LEGAL}

CONTEXT = 256
"""Longest input, in tokens, of the models that have a limit."""


def tiny_corpus() -> Iterator[str]:
    """The sentences above, in a fixed order."""
    for lines in DOMAINS.values():
        yield from lines


def sample_texts(n: int = 12) -> list[tuple[str, str]]:
    """``n`` different texts of a few hundred bytes with their domain."""
    rows = []
    names = list(DOMAINS)
    for index in range(n):
        domain = names[index % len(names)]
        lines = DOMAINS[domain]
        body = " ".join(lines[(index + shift) % len(lines)] for shift in range(3))
        rows.append((f"{index}. {body} " + " ".join(body.split()[: index + 2]), domain))
    return rows


def tiny_texts(path: Path, n: int = 12) -> Path:
    """A .jsonl source file of ``n`` texts with the fields ``text`` and ``domain``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": text, "domain": domain}) for text, domain in sample_texts(n)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@functools.lru_cache
def _trained(kind: str, vocabulary: int) -> str:
    """The ``tokenizer.json`` of a trained tokenizer, without any post-processor."""
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
            max_token_length=12,
            show_progress=False,
        )
    tokenizer.train_from_iterator(tiny_corpus(), trainer)
    return str(tokenizer.to_str())


def tiny_tokenizer(
    folder: Path,
    kind: str = "bytes",
    *,
    vocabulary: int = 512,
    template: bool | None = None,
    settings: dict[str, Any] | None = None,
) -> Path:
    """Save a tokenizer as ``tokenizer.json`` and ``tokenizer_config.json``.

    Args:
        folder: where to.
        kind: ``bytes`` (byte-level BPE, ``<|endoftext|>`` ends a text, nothing is added by
            itself) or ``sentencepiece`` (metaspace BPE with byte fallback, ``<s>`` and ``</s>``).
        vocabulary: number of entries.
        template: whether tokenizer.json itself puts the BOS token in front; by default as usual
            for the kind.
        settings: further keys of tokenizer_config.json, such as ``add_bos_token`` or
            ``tokenizer_class``; None removes a key.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_str(_trained(kind, vocabulary))
    special = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    if kind == "sentencepiece":
        special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    bos = special["bos_token"]
    if kind == "sentencepiece" if template is None else template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special, **(settings or {})}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return folder


def _config(kind: str, vocabulary: int, overrides: dict[str, Any]) -> Any:
    """A configuration of two small layers for one model type."""
    width, heads, layers = 32, 2, 2
    modern = {
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": CONTEXT,
    }
    old = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": CONTEXT}
    special: dict[str, dict[str, Any]] = {
        "gpt2": old,
        "gptj": {**old, "rotary_dim": 8},
        "codegen": {**old, "n_head": 4, "rotary_dim": 8},
        "gpt_bigcode": old,
        "gpt_neo": {
            "hidden_size": width,
            "num_layers": layers,
            "num_heads": heads,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": CONTEXT,
        },
        "opt": {
            "hidden_size": width,
            "word_embed_proj_dim": width // 2,
            "ffn_dim": 2 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "max_position_embeddings": CONTEXT,
            "dropout": 0.5,
        },
        "bloom": {"hidden_size": width, "n_layer": layers, "n_head": heads},
        "falcon": {**modern, "alibi": True, "new_decoder_architecture": False},
        "mamba": {"hidden_size": width, "num_hidden_layers": layers, "state_size": 4},
        "mamba2": {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_heads": 2 * heads,
            "head_dim": width // heads,
            "state_size": 8,
            "chunk_size": 32,
            "n_groups": 1,
        },
        "gemma2": {
            **modern,
            "head_dim": 16,
            "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 16,
        },
        "gemma": {**modern, "head_dim": 16},
        "cohere": {**modern, "logit_scale": 0.25},
        "granite": {**modern, "logits_scaling": 4.0, "embedding_multiplier": 6.0},
        "mpt": {"d_model": width, "n_heads": heads, "n_layers": layers, "max_seq_len": CONTEXT},
    }
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    values = {**special.get(kind, modern), **ends, "vocab_size": vocabulary, **overrides}
    return transformers.AutoConfig.for_model(kind, **values)


def tiny_model(
    folder: Path,
    kind: str = "gpt2",
    seed: int = 0,
    *,
    tokenizer: str = "bytes",
    vocabulary: int = 512,
    spread: float = 0.3,
    dtype: torch.dtype = torch.float32,
    readme: str | None = None,
    template: bool | None = None,
    settings: dict[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """Save a tiny causal language model with random weights as an ordinary Hugging Face folder.

    Args:
        folder: where to; made if missing.
        kind: a ``model_type`` of transformers (gpt2, llama, gpt_neox, opt, mamba, ...).
        seed: of the weights; different seeds are different models.
        tokenizer: kind of tokenizer, as in ``tiny_tokenizer``.
        vocabulary: entries of the tokenizer, and rows of the embedding unless overridden.
        spread: standard deviation of the matrices, in which random models differ visibly.
        dtype: of the stored weights.
        readme: text of the model card, such as front matter with ``base_model``.
        template: passed to ``tiny_tokenizer``.
        settings: passed to ``tiny_tokenizer``.
        overrides: keys of the model's configuration.
    """
    tiny_tokenizer(folder, tokenizer, vocabulary=vocabulary, template=template, settings=settings)
    config = _config(kind, vocabulary, overrides)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, spread)
    transformers.utils.logging.disable_progress_bar()
    model.to(dtype).save_pretrained(folder)
    if readme is not None:
        (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder
