"""The card of a model: what is known of it before, and without, loading its weights.

A card decides which files are fetched and what the map's table says about a model. It holds
nothing that changes while the model stays the same: no downloads, no likes, no time of writing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from klmap.errors import InputError
from klmap.files import git_hash_of, read_json, sha256_of, write_json

_RELATIONS = ("finetune", "merge", "adapter", "quantized")
_TAG = "base_model:"
_RARE = (
    *("error", "state", "quantization", "relation", "gated", "private", "active_parameters"),
    "chat_template_sha256",
)


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
        files: ``name``, ``size`` in bytes and hash of every file that scoring needs, sorted by
            name. The hash is a SHA-256 (``sha256``), or for small files of the Hub the id that
            git gives them (``git``).
        error: why the model cannot be used; empty where it can.
        state: the kind of ``error`` in a word or two (see ``PermanentFailure``).
        quantization: how the stored weights are quantised, such as ``gptq-4bit``; None for
            ordinary weights.
        relation: what was done to ``base_model``: ``finetune``, ``merge``, ``adapter`` or
            ``quantized``; None without one.
        gated: whether the Hub hands the files only to accounts that were granted access.
        private: whether only some accounts of the Hub see the repository at all.
        active_parameters: parameters that work on one token of a mixture of experts; None where
            all do.
        chat_template_sha256: hash of the chat template of a folder that has one in a file of its
            own. ``commit`` does not follow from it, because texts without prompts do not; scores
            under it compare this. On the Hub, and within tokenizer_config.json, templates are part
            of ``commit``.
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
    state: str = ""
    quantization: str | None = None
    relation: str | None = None
    gated: bool = False
    private: bool = False
    active_parameters: int | None = None
    chat_template_sha256: str | None = None

    @property
    def working_parameters(self) -> int:
        """Parameters that work on one token: all of them but for idle experts."""
        return self.active_parameters or self.parameters

    @property
    def names(self) -> list[str]:
        """Names of the files that scoring needs."""
        return [str(entry["name"]) for entry in self.files]

    @property
    def size(self) -> int:
        """Bytes of all files that scoring needs."""
        return sum(int(entry["size"]) for entry in self.files)


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
    """Write a card atomically; what most models lack is left out where it is missing."""
    values = asdict(card)
    for key in _RARE:
        if not values[key]:
            del values[key]
    write_json(path, values)


def relation_of(
    parents: Sequence[str],
    stated: str | None,
    tags: Iterable[str],
    quantization: str | None,
) -> str | None:
    """What was done to the models that one was made from.

    Args:
        parents: ids of those models.
        stated: ``base_model_relation`` of the model's README.
        tags: of the repository; the Hub adds ``base_model:<relation>:<id>`` to them.
        quantization: how the stored weights are quantised.

    Returns:
        ``finetune``, ``merge``, ``adapter`` or ``quantized``: as stated, else as the Hub has it,
        else by what the rest shows; None without parents.
    """
    if not parents:
        return None
    tags = list(tags)
    named = [tag.split(":")[1] for tag in tags if tag.count(":") == 2 and tag.startswith(_TAG)]
    for word in (stated, *named):
        if word in _RELATIONS:
            return word
    if quantization:
        return "quantized"
    return "merge" if len(parents) > 1 or {"merge", "mergekit"} & set(tags) else "finetune"


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


def stored_hash(entry: Mapping[str, Any]) -> str:
    """The hash under which a file stands in a card; empty where an older klmap noted none."""
    return str(entry.get("sha256") or entry.get("git") or "")


def mismatch(path: Path, entry: Mapping[str, Any]) -> str:
    """How a file differs from its entry in a card, in words; empty where it is that file.

    Args:
        path: the file.
        entry: its ``name``, ``size`` and, where known, hash.
    """
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != entry["size"]:
        return f"has {size:,} bytes instead of {entry['size']:,}"
    expected = stored_hash(entry)
    if not expected:
        return ""
    found = sha256_of(path) if "sha256" in entry else git_hash_of(path)
    return "" if found == expected else f"has the hash {found[:12]} instead of {expected[:12]}"
