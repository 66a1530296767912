"""Merges that are made here: what is known of one before any weights are read.

A merge is the weighted mean of the weights of two or more checkpoints of one architecture. Its card
follows from the cards of these, so that a merge which cannot be made is refused before anything is
downloaded. Interpolating weights is an old idea; how it is checked here is klmap's own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from klmap.cards import Card
from klmap.errors import InputError, PermanentFailure
from klmap.files import read_json
from klmap.log import logger

RECIPE = "weighted mean 1"
"""Part of each merge's commit; another one where merges of the same parents would change."""

FLOATS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
"""Number formats that can be averaged, and their bytes."""

LARGEST_RATIO = 1.5
"""Stored parameters of two parents may differ by this factor (own), see :func:`merge_card`."""

_SAME = ("architecture", "model_type", "vocabulary")
_SUM = 1e-6
_NO_MATTER = frozenset(
    {
        *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"),
        *("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "unsloth_version"),
    }
)


def check_weights(weights: Sequence[float], parents: int) -> None:
    """Refuse weights that are no weighted mean of so many parents.

    Raises:
        InputError: there are fewer than two, not one for each parent, or they do not sum to 1.
    """
    if parents < 2 or len(weights) != parents:
        raise InputError(
            f"{len(weights)} weights for {parents} parents; give two or more parents, each with "
            "one weight"
        )
    total = math.fsum(weights)
    if not abs(total - 1) <= _SUM:
        shown = ", ".join(f"{weight:g}" for weight in weights)
        raise InputError(f"the weights {shown} sum to {total:g}; they must sum to 1")


def merge_card(id: str, parents: Sequence[Card], weights: Sequence[float]) -> Card:
    """The card of a merge, from the cards of its parents.

    Numbers of stored parameters may differ by half, because masks may be stored and tied weights
    stored twice; of pickled weights they are estimates, and are not compared. What is left over is
    found when the tensors are compared one by one. A tokenizer of another hash is allowed with a
    warning where the vocabulary has the same size: a chat template changes the hash and no token.
    Whether tokens have the same numbers is seen in the files (:func:`check_tokens`).

    Args:
        id: of the merge.
        parents: cards of the parents, in the order of the configuration.
        weights: one for each parent, with the sum 1.

    Returns:
        A card whose ``commit`` is a hash over commits and weights of the parents in their order,
        with the properties of the first parent. ``bytes`` are those that will be written, in the
        wider number format where the parents' differ; ``license`` is known where all agree.

    Raises:
        InputError: the weights are wrong.
        PermanentFailure: the parents cannot be averaged; the message names them and the fix.
    """
    check_weights(weights, len(parents))
    first = parents[0]
    for parent in parents:
        _check_one(id, parent)
    for parent in parents[1:]:
        _check_pair(id, first, parent)
    dtype = _common_dtype(parents)
    text = "".join(
        f"{parent.commit}\0{float(weight)!r}\n"
        for parent, weight in zip(parents, weights, strict=True)
    )
    licenses = {parent.license for parent in parents}
    return Card(
        id=id,
        commit=hashlib.sha256(f"{RECIPE}\n{text}".encode()).hexdigest()[:40],
        architecture=first.architecture,
        model_type=first.model_type,
        parameters=first.parameters,
        bytes=first.bytes * FLOATS[dtype] // FLOATS[str(first.dtype)],
        dtype=dtype,
        context=first.context,
        vocabulary=first.vocabulary,
        tokenizer_sha256=first.tokenizer_sha256,
        base_model=[name_of(parent) for parent in parents],
        license=licenses.pop() if len(licenses) == 1 else None,
        relation="merge",
        gated=any(parent.gated for parent in parents),
        private=any(parent.private for parent in parents),
        active_parameters=first.active_parameters,
        chat_template_sha256=first.chat_template_sha256,
    )


def merge_card_or_explain(id: str, parents: Sequence[Card], weights: Sequence[float]) -> Card:
    """As :func:`merge_card`, but a merge that cannot be made gets a card whose ``error`` says why.

    Raises:
        InputError: the weights are wrong.
    """
    try:
        return merge_card(id, parents, weights)
    except PermanentFailure as failure:
        names = [name_of(parent) for parent in parents]
        return Card(
            id=id, base_model=names, relation="merge", error=str(failure), state=failure.state
        )


def name_of(card: Card) -> str:
    """The id of a model, with ``@revision`` where one is configured."""
    return card.id if card.revision is None else f"{card.id}@{card.revision}"


def _check_one(id: str, parent: Card) -> None:
    if parent.error:
        raise PermanentFailure(
            f"{id}: cannot be made, because {name_of(parent)} cannot be used: {parent.error}",
            parent.state or "unusable",
        )
    if parent.quantization is not None or parent.dtype not in FLOATS:
        raise PermanentFailure(
            f"{id}: cannot be made, because the weights of {name_of(parent)} are stored as "
            f"{parent.quantization or parent.dtype}, and rounded numbers cannot be averaged; give "
            "the original model"
        )


def _check_pair(id: str, first: Card, other: Card) -> None:
    names = name_of(first), name_of(other)
    for key in _SAME:
        mine, others = getattr(first, key), getattr(other, key)
        if mine != others:
            raise _different(id, names, key.replace("_", " "), (mine, others))
    counts = first.parameters, other.parameters
    if _is_counted(first) and _is_counted(other) and max(counts) > LARGEST_RATIO * min(counts):
        shown = f"{counts[0]:,}", f"{counts[1]:,}"
        raise _different(id, names, "number of parameters", shown)
    if first.tokenizer_sha256 != other.tokenizer_sha256:
        logger.warning(
            "%s: the tokenizer files of %s and %s differ; those of the first are used", id, *names
        )


def _different(
    id: str, names: tuple[str, str], what: str, found: tuple[Any, Any]
) -> PermanentFailure:
    return PermanentFailure(
        f"{id}: {names[0]} and {names[1]} cannot be averaged, because their {what} differs "
        f"({found[0]} and {found[1]}); give checkpoints of one architecture and size, or remove "
        "the merge from config.yaml"
    )


def _is_counted(card: Card) -> bool:
    """Whether the parameters were counted in headers, and not estimated from the size."""
    return any(name.endswith(".safetensors") for name in card.names)


def _common_dtype(parents: Sequence[Card]) -> str:
    """The narrowest format that holds all of the parents'."""
    found = {str(parent.dtype) for parent in parents}
    if found == {"bfloat16", "float16"}:
        return "float32"
    return max(sorted(found), key=FLOATS.__getitem__)


def check_tokens(id: str, folders: Sequence[Path]) -> None:
    """Refuse parents in whose vocabularies a token has different numbers.

    Rows of their embeddings would then be averages of different tokens. Tokens that only one of
    them has are allowed: fine-tunes name reserved rows.

    Args:
        id: of the merge.
        folders: with the files of the parents. Vocabularies that are not in tokenizer.json or
            vocab.json are not compared.

    Raises:
        PermanentFailure: names a token that differs.
    """
    known = [(folder, tokens) for folder in folders if (tokens := _tokens(folder))]
    for folder, tokens in known[1:]:
        first_folder, first = known[0]
        differing = [token for token in first if tokens.get(token, first[token]) != first[token]]
        if differing:
            token = differing[0]
            raise PermanentFailure(
                f"{id}: {len(differing)} tokens have other numbers in {folder} than in "
                f"{first_folder} ({token!r} is {tokens[token]} and {first[token]}), so their "
                "embeddings cannot be averaged; give checkpoints with one tokenizer"
            )


def _tokens(folder: Path) -> dict[str, int]:
    """Numbers of the tokens in a folder; empty where they are in no file that is read here."""
    if (folder / "tokenizer.json").is_file():
        stored = read_json(folder / "tokenizer.json")
        model = stored.get("model") or {}
        added = {
            str(entry["content"]): int(entry["id"]) for entry in stored.get("added_tokens") or ()
        }
        return {**_vocabulary(model.get("vocab")), **added}
    if (folder / "vocab.json").is_file():
        return _vocabulary(read_json(folder / "vocab.json"))
    return {}


def _vocabulary(stored: Any) -> dict[str, int]:
    """Token numbers of a vocabulary: a mapping, or for unigrams (token, score) in their order."""
    if isinstance(stored, Mapping):
        return {str(token): int(number) for token, number in stored.items()}
    return {str(entry[0]): number for number, entry in enumerate(stored or ())}


def differing_settings(folders: Sequence[Path]) -> list[str]:
    """Keys of config.json that decide what a model computes, and are not the same everywhere.

    Args:
        folders: with a config.json each.

    Raises:
        InputError: one of them is missing or broken.
    """
    first, *others = (read_json(folder / "config.json") for folder in folders)
    keys = {key for config in (first, *others) for key in config} - _NO_MATTER
    return sorted(key for key in keys if any(o.get(key) != first.get(key) for o in others))
