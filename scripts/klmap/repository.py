"""What a repository or folder is, by the names of its files and its config.json alone.

Which files scoring needs, and why there is no model where they are lacking: before any weights are
downloaded. Whether it is a model of the wanted kind is left to ``recognition``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from klmap import cards, natives
from klmap.cards import Card
from klmap.config_models import ModelEntry
from klmap.errors import PermanentFailure

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files that, where present, decide how a text becomes tokens."""

CHAT_TEMPLATE = "chat_template.jinja"
"""How a model wants conversations written; where it is lacking, tokenizer_config.json may say. It
decides nothing about how a text becomes tokens."""

_VOCABULARY_FILES = tuple(
    name for name in TOKENIZER_FILES if "config" not in name and "_" not in name
)
_CODE_FILES = (".py", ".model", ".tiktoken", ".txt", ".vocab", ".bpe")
"""Endings of code and of the vocabularies that it may read, under names of its own."""

NO_MODEL = "not a causal LM"
"""State of a repository that holds something else."""

NEEDS_CODE = "needs remote code"
"""State of a model that only code of its repository can load."""

_SAFETENSORS = re.compile(r"model(?:-(\d{5})-of-(\d{5}))?\.safetensors")
_PICKLED = re.compile(r"pytorch_model(?:-(\d{5})-of-(\d{5}))?\.bin")

RECURRENT = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})
"""Model types without a longest input."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
_CODE_CONTEXT_KEYS = ("seq_length", "n_ctx", "max_seq_length", "block_size", "model_max_length")
"""Names that configurations with code of their own have given to the longest input besides."""


_EXPERT_KEYS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN_KEYS = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k")
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers")
_WIDTH_KEYS = ("expert_ffn_hidden_size", "intermediate_size", "ffn_dim")
_STEP_KEYS = ("decoder_sparse_step", "interleave_moe_layer_step", "expert_layer_period")


def describe(card: Card, config: Mapping[str, Any]) -> None:
    """Fill in what config.json says: architecture, type, context and vocabulary."""
    architectures = config.get("architectures") or [None]
    card.architecture = architectures[0]
    card.model_type = config.get("model_type")
    card.context = context_length(config)
    text = _text_part(config)
    vocabulary = text.get("vocab_size")
    card.vocabulary = int(vocabulary) if vocabulary is not None else None


def context_length(config: Mapping[str, Any], *, own_code: bool = False) -> int | None:
    """The longest input in tokens that a configuration allows; None where there is no limit.

    Args:
        config: the content of config.json.
        own_code: whether a class of the repository gives its keys their meaning.
    """
    text = _text_part(config)
    if text.get("model_type") in RECURRENT:
        return None
    for key in (*_CONTEXT_KEYS, *(_CODE_CONTEXT_KEYS if own_code else ())):
        value = text.get(key)
        if isinstance(value, int) and value > 0:
            return value
    return None


def active_parameters(config: Mapping[str, Any], parameters: int) -> int | None:
    """How many parameters of a mixture of experts work on one token.

    An expert is counted as three matrices between the hidden states and its own width, as in all
    causal mixtures that transformers has but a few. Experts that would be larger than the whole
    model show that a configuration means something else by these keys.

    Args:
        config: the content of config.json.
        parameters: number of stored parameters.

    Returns:
        That number; None where all parameters work, or where the configuration does not tell.
    """
    text = _text_part(config)
    experts, chosen = _number(text, _EXPERT_KEYS), _number(text, _CHOSEN_KEYS)
    hidden, layers = _number(text, ("hidden_size", "d_model")), _number(text, _LAYER_KEYS)
    width = _number(text, ("moe_intermediate_size", *_WIDTH_KEYS))
    if not (0 < chosen < experts and hidden and layers and width):
        return None
    dense = _number(text, ("first_k_dense_replace",)) + len(text.get("mlp_only_layers") or ())
    mixed = (layers - dense) // (_number(text, _STEP_KEYS) or 1)
    idle = 3 * hidden * width * mixed * (experts - chosen)
    return parameters - idle if 0 < idle <= parameters * (1 - chosen / experts) else None


def _number(config: Mapping[str, Any], keys: Sequence[str]) -> int:
    """The first of several keys that holds a positive whole number; else 0."""
    values = (config.get(key) for key in keys)
    return next((value for value in values if type(value) is int and value > 0), 0)


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model of a multimodal one."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def needed_files(
    where: str, names: Iterable[str], *, remote_code: bool = False, encoder_decoder: bool = False
) -> list[str]:
    """The files of a repository or folder that scoring needs, sorted.

    Safetensors are preferred to pickled weights; only files at the top count, so that copies in
    other formats (``onnx/``, ``original/``) are left alone.

    Args:
        where: the id or folder, for messages.
        names: everything that is there, relative to the top.
        remote_code: whether the code of the repository may be run, and so is needed too.
        encoder_decoder: whether it is one, whose decoder may begin with a token that only
            ``generation_config.json`` names.

    Raises:
        PermanentFailure: this is no complete transformers model; the message says what it is.
    """
    present = {name for name in names if "/" not in name}
    weights = _weights(where, present, _SAFETENSORS, "model.safetensors")
    weights = weights or _weights(where, present, _PICKLED, "pytorch_model.bin")
    if "config.json" not in present or not weights:
        raise PermanentFailure(f"{where}: {_what_it_is(present, bool(weights))}", NO_MODEL)
    tokenizer = tokenizer_files(present)
    # Code may need no vocabulary, or read it from a file of any name.
    by_code = remote_code and "tokenizer_config.json" in present
    if not set(_VOCABULARY_FILES) & set(tokenizer) and not by_code:
        raise PermanentFailure(
            f"{where}: no tokenizer (no tokenizer.json, vocab.json or tokenizer.model); copy the "
            "tokenizer's files of the model it was made from into the folder"
        )
    code = [name for name in present if remote_code and name.endswith(_CODE_FILES)]
    small = {CHAT_TEMPLATE, *(["generation_config.json"] if encoder_decoder else [])} & present
    return sorted({"config.json", *weights, *tokenizer, *small, *code})


def folder_commit(hashes: Mapping[str, str]) -> str:
    """What stands for the commit of a folder: 40 hexadecimal digits of its content.

    The chat template is left out, which only some text sets have a use for.

    Args:
        hashes: SHA-256 of each file that scoring needs, by its name.
    """
    return cards.digest(item for item in hashes.items() if item[0] != CHAT_TEMPLATE)[:40]


def tokenizer_files(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that decide how a text becomes tokens, sorted."""
    return sorted(name for name in names if name in TOKENIZER_FILES or name.endswith(".tiktoken"))


def weight_files(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that hold weights, sorted."""
    return sorted(n for n in names if _SAFETENSORS.fullmatch(n) or _PICKLED.fullmatch(n))


def _weights(where: str, present: set[str], pattern: re.Pattern[str], whole: str) -> list[str]:
    """The one whole file of a format, or all its shards with their index, or nothing."""
    if whole in present:
        return [whole]
    shards = {name: match for name in present if (match := pattern.fullmatch(name))}
    if not shards:
        return []
    index = f"{whole}.index.json"
    expected = max(int(match[2]) for match in shards.values())
    missing = expected - len(shards)
    if missing > 0 or index not in present:
        lack = f"{missing} of {expected} weight files" if missing > 0 else index
        raise PermanentFailure(f"{where}: incomplete, {lack} missing; upload or copy it again")
    return [*sorted(shards), index]


def _what_it_is(present: set[str], weights: bool) -> str:
    """Why these files are no model: the most specific true statement."""
    if "adapter_config.json" in present:
        return (
            "only an adapter (PEFT), no model; merge it into its base model with "
            "merge_and_unload() and save that, then give the merged folder"
        )
    if any(name.endswith(".gguf") for name in present) and not weights:
        return (
            "only GGUF files, made for llama.cpp; give the original repository with safetensors "
            "weights (the model card usually links to it)"
        )
    if weights:
        return "weights but no config.json; this is no transformers model folder"
    if any(name.endswith((".h5", ".msgpack", ".onnx", ".ckpt")) for name in present):
        return "no PyTorch weights, only those of another framework; convert them to safetensors"
    if "config.json" in present:
        return "config.json but no weights (model.safetensors or pytorch_model.bin)"
    if not present - {".gitattributes", "README.md"}:
        return "empty; give a repository that holds a model"
    return "neither config.json nor weights; this is no transformers model"


def model_code(config: Mapping[str, Any], loads: str = natives.CAUSAL) -> str | None:
    """The class of the repository's own code that is its language model; None without.

    Such as ``modeling_x.XForCausalLM``, or ``org/repository--modeling_x.XForCausalLM`` where the
    code is in another repository.

    Args:
        config: the content of config.json.
        loads: the class of transformers that would load it.
    """
    classes = config.get("auto_map")
    found = classes.get(loads) if isinstance(classes, Mapping) else None
    return str(found) if found else None


def how_to_opt_in(card: Card | None) -> str:
    """What to write into config.yaml so that the code of a model is run."""
    pin = ""
    if card is not None:
        entry = ModelEntry(id=card.id)
        pin = "" if entry.is_local or entry.is_demo else f" and revision: {card.commit}"
    return f"read that code and, if you trust it, give the model remote_code: true{pin}"
