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


WIDTH, HEADS, LAYERS = 32, 2, 2
"""Sizes of the tiny models."""

WINDOW = 24
"""Tokens that a layer with a sliding window sees; every text of ``sample_texts`` is longer."""

_MODERN: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": CONTEXT,
}
_GPT: dict[str, Any] = {
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": CONTEXT,
}
_HEAD = {"head_dim": WIDTH // HEADS}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": WIDTH}
_ROUTED = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": WIDTH,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
_LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
_MAMBA2 = {
    "mamba_n_heads": 4,
    "mamba_d_head": WIDTH // 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 32,
}
_DELTA = {
    **_HEAD,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_SLIDING = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}

_SIZES: dict[str, dict[str, Any]] = {
    "bamba": {**_MODERN, **_MAMBA2, "attn_layer_indices": [1]},
    "bloom": {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": HEADS},
    "codegen": {**_GPT, "n_head": 4, "rotary_dim": 8},
    "cohere": {**_MODERN, "logit_scale": 0.5},
    "cohere2": {**_MODERN, **_SLIDING, "logit_scale": 0.5},
    "deepseek_v2": {**_MODERN, **_ROUTED, **_LATENT, "topk_method": "group_limited_greedy"},
    "deepseek_v3": {**_MODERN, **_ROUTED, **_LATENT},
    "ernie4_5_moe": {
        **_MODERN,
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_intermediate_size": WIDTH,
    },
    "exaone4": {**_MODERN, **_SLIDING},
    "falcon": {**_MODERN, "alibi": True, "new_decoder_architecture": False},
    "falcon_h1": {
        **_MODERN,
        **_MAMBA2,
        "mamba_d_ssm": 2 * WIDTH,
        "lm_head_multiplier": 0.5,
        "embedding_multiplier": 2.0,
        "key_multiplier": 0.5,
    },
    "gemma": {**_MODERN, **_HEAD},
    "gemma2": {
        **_MODERN,
        **_HEAD,
        **_SLIDING,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 2.0,
        "query_pre_attn_scalar": 16,
    },
    "gemma3_text": {**_MODERN, **_HEAD, **_SLIDING, "query_pre_attn_scalar": 16},
    "glm": {**_MODERN, **_HEAD},
    "glm4": {**_MODERN, **_HEAD},
    "glm4_moe": {**_MODERN, **_HEAD, **_ROUTED, "use_qk_norm": True},
    "gpt2": _GPT,
    "gpt_bigcode": _GPT,
    "gpt_neo": {
        "hidden_size": WIDTH,
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "attention_types": [[["global", "local"], 1]],
        "window_size": WINDOW,
        "max_position_embeddings": CONTEXT,
    },
    "gpt_oss": {
        **_MODERN,
        **_HEAD,
        **_SLIDING,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
    },
    "gptj": {**_GPT, "rotary_dim": 8},
    "granite": {
        **_MODERN,
        "logits_scaling": 2.0,
        "embedding_multiplier": 6.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
    },
    "granitemoe": {**_MODERN, "logits_scaling": 2.0, "num_local_experts": 4},
    "granitemoehybrid": {
        **_MODERN,
        **_MAMBA2,
        "logits_scaling": 2.0,
        "layer_types": ["mamba", "attention"],
        "num_local_experts": 4,
        "shared_intermediate_size": WIDTH,
    },
    "helium": {**_MODERN, **_HEAD},
    "hunyuan_v1_dense": {**_MODERN, **_HEAD},
    "hyperclovax": {**_MODERN, "logits_scaling": 0.5, "attention_multiplier": 0.3},
    "inkling_text": {
        **_MODERN,
        **_HEAD,
        **_ROUTED,
        "swa_num_attention_heads": HEADS,
        "swa_num_key_value_heads": HEADS,
        "swa_head_dim": WIDTH // HEADS,
        "sliding_window_size": WINDOW,
        "layer_types": ["hybrid_sliding", "hybrid"],
        "mlp_layer_types": ["dense", "sparse"],
        "rel_extent": 64,
        "logits_mup_width_multiplier": 2.0,
    },
    "jamba": {
        **_MODERN,
        "num_experts": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
    },
    "lfm2": {**_MODERN, "layer_types": ["conv", "full_attention"]},
    "llama4_text": {
        **_MODERN,
        **_HEAD,
        "intermediate_size_mlp": 2 * WIDTH,
        "num_local_experts": 4,
        "attention_chunk_size": 2 * WINDOW,
        "layer_types": ["chunked_attention", "full_attention"],
        "no_rope_layers": [1, 0],
        "floor_scale": 16,
    },
    "mamba": {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "state_size": 4},
    "mamba2": {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_heads": 2 * HEADS,
        "head_dim": WIDTH // HEADS,
        "state_size": 8,
        "chunk_size": 32,
        "n_groups": 1,
    },
    "minicpm3": {**_MODERN, **_LATENT, "dim_model_base": 16},
    "minimax": {
        **_MODERN,
        "num_local_experts": 4,
        "block_size": 32,
        "layer_types": ["linear_attention", "full_attention"],
    },
    "ministral": {**_MODERN, **_HEAD, **_SLIDING},
    "mistral": {**_MODERN, "sliding_window": WINDOW},
    "mixtral": {**_MODERN, "num_local_experts": 4, "sliding_window": WINDOW},
    "mpt": {"d_model": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "max_seq_len": CONTEXT},
    "nemotron_h": {
        **_MODERN,
        **_HEAD,
        "layers_block_type": ["mamba", "attention", "mlp", "moe"],
        "num_hidden_layers": 4,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 8,
        "n_groups": 1,
        "chunk_size": 32,
        "n_routed_experts": 4,
        "moe_intermediate_size": WIDTH,
        "moe_shared_expert_intermediate_size": WIDTH,
    },
    "olmo3": {**_MODERN, **_SLIDING},
    "olmoe": {**_MODERN, "num_experts": 4, "num_experts_per_tok": 2},
    "openai-gpt": _GPT,
    "opt": {
        "hidden_size": WIDTH,
        "word_embed_proj_dim": WIDTH // 2,
        "ffn_dim": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "dropout": 0.5,
    },
    "phi3": {**_MODERN, "sliding_window": WINDOW},
    "phimoe": {**_MODERN, "num_local_experts": 4},
    "qwen2_moe": {**_MODERN, **_EXPERTS, "shared_expert_intermediate_size": WIDTH},
    "qwen3": {**_MODERN, **_HEAD},
    "qwen3_5_text": {**_MODERN, **_DELTA},
    "qwen3_moe": {**_MODERN, **_HEAD, **_EXPERTS},
    "qwen3_next": {
        **_MODERN,
        **_DELTA,
        **_EXPERTS,
        "shared_expert_intermediate_size": WIDTH,
    },
    "recurrent_gemma": {
        **_MODERN,
        "num_hidden_layers": 3,
        "attention_window_size": WINDOW,
        "logits_soft_cap": 3.0,
    },
    "rwkv": {"hidden_size": WIDTH, "num_hidden_layers": LAYERS},
    "seed_oss": {**_MODERN, **_HEAD},
    "starcoder2": {**_MODERN, "sliding_window": WINDOW},
    "vaultgemma": {
        **_MODERN,
        **_HEAD,
        **_SLIDING,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 16,
    },
    "xglm": {
        "d_model": WIDTH,
        "ffn_dim": 2 * WIDTH,
        "num_layers": LAYERS,
        "attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
    },
    "xlstm": {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_heads": HEADS,
        "chunk_size": 16,
        "output_logit_soft_cap": 3.0,
    },
    "zamba2": {
        **_MODERN,
        "layers_block_type": ["linear_attention", "hybrid"],
        "mamba_d_state": 8,
        "n_mamba_heads": 4,
        "chunk_size": 32,
        "adapter_rank": 8,
    },
}
"""Small configurations by type; types that are not here take the keys of Llama."""


def _config(kind: str, vocabulary: int, overrides: dict[str, Any]) -> Any:
    """A configuration of a few small layers for one model type."""
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    values = {**_SIZES.get(kind, _MODERN), **ends, "vocab_size": vocabulary, **overrides}
    return transformers.AutoConfig.for_model(kind, **values)


def _others(model: Any) -> Iterator[torch.Tensor]:
    """Stored tensors of at most one dimension, buffers included."""
    for tensor in model.state_dict(keep_vars=True).values():
        if tensor.is_floating_point() and tensor.dim() <= 1:
            yield tensor


def tiny_model(
    folder: Path,
    kind: str = "gpt2",
    seed: int = 0,
    *,
    tokenizer: str = "bytes",
    vocabulary: int = 512,
    spread: float = 0.3,
    jitter: float = 0.0,
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
        jitter: standard deviation of what is added to all other numbers that are stored (biases,
            norms, attention sinks, ...), most of which begin as zeros or ones.
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
            for tensor in _others(model) if jitter else ():
                tensor.add_(torch.randn_like(tensor), alpha=jitter)
    transformers.utils.logging.disable_progress_bar()
    model.to(dtype).save_pretrained(folder)
    if readme is not None:
        (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder
