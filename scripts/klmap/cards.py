"""The card of a model: what is known of it before, and without, loading its weights.

A card decides which files are fetched and what the map's table says about a model. It holds
nothing that changes while the model stays the same: no downloads, no likes, no time of writing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from klmap.config import ModelEntry
from klmap.errors import InputError, PermanentFailure
from klmap.files import read_json, write_json
from klmap.quantization import Packing, packing_of

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

_VOCABULARY_FILES = tuple(
    name for name in TOKENIZER_FILES if "config" not in name and "_" not in name
)
_CODE_FILES = (".py", ".model", ".tiktoken", ".txt", ".vocab", ".bpe")
"""Endings of code and of the vocabularies that it may read, under names of its own."""

_SAFETENSORS = re.compile(r"model(?:-(\d{5})-of-(\d{5}))?\.safetensors")
_PICKLED = re.compile(r"pytorch_model(?:-(\d{5})-of-(\d{5}))?\.bin")

ENCODER_DECODERS = frozenset(
    {
        "bart",
        "blenderbot",
        "encoder-decoder",
        "led",
        "longt5",
        "m2m_100",
        "marian",
        "mbart",
        "mt5",
        "pegasus",
        "prophetnet",
        "switch_transformers",
        "t5",
        "umt5",
        "whisper",
    }
)
"""Model types that are encoder-decoders even where the configuration does not say so."""

RECURRENT = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})
"""Model types without a longest input."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")
_CODE_CONTEXT_KEYS = ("seq_length", "n_ctx", "max_seq_length", "block_size", "model_max_length")
"""Names that configurations with code of their own have given to the longest input besides."""


@dataclass
class Card:
    """Identity and properties of one model at one revision.

    Attributes:
        id: the id of the configuration.
        revision: the configured revision; None for the default branch.
        commit: commit hash on the Hub, or for a folder 40 hexadecimal digits of its content.
        architecture: first entry of ``architectures`` in config.json.
        model_type: ``model_type`` of config.json.
        parameters: number of stored parameters; packed ones count as what they unpack to.
        bytes: size of the weight files.
        dtype: what most stored parameters are (``float32``, ``bfloat16``, ...).
        context: longest input in tokens; None where there is no limit.
        vocabulary: rows of the embedding that config.json announces.
        tokenizer_sha256: hash over the tokenizer's files.
        base_model: ids of the models this one was made from.
        created_at: day and time (ISO 8601) at which the repository was made; None for a folder.
        license: as the model's README names it.
        files: name and size in bytes of every file that scoring needs, sorted by name.
        error: why the model cannot be used; empty where it can.
        quantization: how the stored weights are quantised, such as ``gptq-4bit``; None for
            ordinary weights.
    """

    id: str
    revision: str | None = None
    commit: str = ""
    architecture: str | None = None
    model_type: str | None = None
    parameters: int = 0
    bytes: int = 0
    dtype: str | None = None
    context: int | None = None
    vocabulary: int | None = None
    tokenizer_sha256: str | None = None
    base_model: list[str] = field(default_factory=list)
    created_at: str | None = None
    license: str | None = None
    files: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    quantization: str | None = None

    @property
    def names(self) -> list[str]:
        """Names of the files that scoring needs."""
        return [str(entry["name"]) for entry in self.files]


def read_card(path: Path) -> Card:
    """Read a card.

    Raises:
        InputError: the file is missing, not JSON, or not a card of this version.
    """
    values = read_json(path)
    known = set(Card.__dataclass_fields__)
    if "id" not in values or not set(values) <= known:
        extra = ", ".join(sorted(set(values) - known)) or "no key 'id'"
        raise InputError(
            f"{path}: not a card that this klmap wrote ({extra}); remove it, run again"
        )
    return Card(**values)


def write_card(path: Path, card: Card) -> None:
    """Write a card atomically; ``error`` and ``quantization`` only where there is one."""
    values = asdict(card)
    for key in ("error", "quantization"):
        if not values[key]:
            del values[key]
    write_json(path, values)


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


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a configuration that describes the language model of a multimodal one."""
    text = config.get("text_config")
    return text if isinstance(text, Mapping) else config


def needed_files(where: str, names: Iterable[str], *, remote_code: bool = False) -> list[str]:
    """The files of a repository or folder that scoring needs, sorted.

    Safetensors are preferred to pickled weights; only files at the top count, so that copies in
    other formats (``onnx/``, ``original/``) are left alone.

    Args:
        where: the id or folder, for messages.
        names: everything that is there, relative to the top.
        remote_code: whether the code of the repository may be run, and so is needed too.

    Raises:
        PermanentFailure: this is no complete transformers model; the message says what it is.
    """
    present = {name for name in names if "/" not in name}
    weights = _weights(where, present, _SAFETENSORS, "model.safetensors")
    weights = weights or _weights(where, present, _PICKLED, "pytorch_model.bin")
    if "config.json" not in present or not weights:
        raise PermanentFailure(f"{where}: {_what_it_is(present, bool(weights))}")
    tokenizer = tokenizer_files(present)
    # Code may need no vocabulary, or read it from a file of any name.
    by_code = remote_code and "tokenizer_config.json" in present
    if not set(_VOCABULARY_FILES) & set(tokenizer) and not by_code:
        raise PermanentFailure(
            f"{where}: no tokenizer (no tokenizer.json, vocab.json or tokenizer.model); copy the "
            "tokenizer's files of the model it was made from into the folder"
        )
    code = [name for name in present if remote_code and name.endswith(_CODE_FILES)]
    return sorted({"config.json", *weights, *tokenizer, *code})


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
    if not present:
        return "empty"
    return "neither config.json nor weights; this is no transformers model"


def model_code(config: Mapping[str, Any]) -> str | None:
    """The class of the repository's own code that is its causal language model; None without.

    Such as ``modeling_x.XForCausalLM``, or ``org/repository--modeling_x.XForCausalLM`` where the
    code is in another repository.
    """
    classes = config.get("auto_map")
    found = classes.get("AutoModelForCausalLM") if isinstance(classes, Mapping) else None
    return str(found) if found else None


def how_to_opt_in(card: Card | None) -> str:
    """What to write into config.yaml so that the code of a model is run."""
    pin = ""
    if card is not None:
        entry = ModelEntry(id=card.id)
        pin = "" if entry.is_local or entry.is_demo else f" and revision: {card.commit}"
    return f"read that code and, if you trust it, give the model remote_code: true{pin}"


def recognise(
    where: str,
    config: Mapping[str, Any],
    card: Card | None = None,
    *,
    remote_code: bool = False,
) -> Packing | None:
    """Refuse what config.json already shows to be no causal language model klmap can score.

    The scorer has the last word; this saves a download.

    Args:
        where: the id or folder, for messages.
        config: the content of config.json.
        card: of the model, if there is one yet, for its commit in messages.
        remote_code: whether the code of the repository may be run.

    Returns:
        How the stored weights are quantised; None for ordinary weights.

    Raises:
        PermanentFailure: encoder-decoder, no language-model head, or quantised in a way that
            klmap does not read.
    """
    architectures = [str(name) for name in config.get("architectures") or []]
    kind = config.get("model_type")
    shown = ", ".join(architectures) or str(kind)
    if config.get("is_encoder_decoder") or kind in ENCODER_DECODERS:
        raise PermanentFailure(
            f"{where}: an encoder-decoder ({shown}); klmap scores causal language models, which "
            "give a text a probability without a source text"
        )
    code = model_code(config)
    if code and remote_code:
        return packing_of(where, config)
    if architectures and not any(_has_causal_head(name) for name in architectures):
        if code:
            raise PermanentFailure(
                f"{where}: {shown} is no class of transformers with a causal language-model head, "
                f"and code of a repository ({code}) is not run without being asked to; "
                f"{how_to_opt_in(card)}"
            )
        raise PermanentFailure(
            f"{where}: {shown} has no causal language-model head (an encoder, a classifier, or the "
            "bare body of a model); give the repository of the causal language model itself"
        )
    return packing_of(where, config)


def _has_causal_head(architecture: str) -> bool:
    causal = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    return architecture.endswith(causal) and not architecture.startswith(("XLNet", "T5", "Bart"))


def front_matter_list(value: Any) -> list[str]:
    """One id, several or none, as a sorted list without repetition."""
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    return sorted({str(item) for item in values if item})


def digest(pairs: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over (name, hash) pairs in the order of the names, as 64 hexadecimal digits."""
    text = "".join(f"{name}\0{value}\n" for name, value in sorted(pairs))
    return hashlib.sha256(text.encode()).hexdigest()
