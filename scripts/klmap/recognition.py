"""Whether config.json is that of a model of the wanted kind, as the pinned transformers loads it.

Decided from config.json alone, before any weights are downloaded, and without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from klmap import likelihoods, natives
from klmap.cards import Card
from klmap.errors import PermanentFailure
from klmap.likelihoods import CAUSAL, Kind
from klmap.quantization import Packing, packing_of
from klmap.repository import NEEDS_CODE, NO_MODEL, how_to_opt_in, model_code

OTHER_KIND = "of another kind"
"""State of a model that does not have the kind of likelihood that was asked for."""

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

_NOT_CAUSAL = ("XLNet", "T5", "Bart")
"""Beginnings of architectures that are not causal whatever their names end with."""


def recognise(
    where: str,
    config: Mapping[str, Any],
    card: Card | None = None,
    *,
    remote_code: bool = False,
    likelihood: str = CAUSAL,
) -> Packing | None:
    """Refuse what config.json already shows to be no model of the kind that is asked for.

    The scorer has the last word; this saves a download.

    Args:
        where: the id or folder, for messages.
        config: the content of config.json.
        card: of the model, if there is one yet, for its commit in messages.
        remote_code: whether the code of the repository may be run.
        likelihood: the kind of likelihood that is to be computed.

    Returns:
        How the stored weights are quantised; None for ordinary weights.

    Raises:
        InputError: there is no such kind of likelihood.
        PermanentFailure: an encoder-decoder where none is wanted or the other way round, without
            the language-model head, of a type that transformers does not know, or quantised in a
            way that klmap does not read.
    """
    kind = likelihoods.kind(likelihood)
    if is_encoder_decoder(config) != kind.encoder_decoder:
        _refuse_structure(where, config, kind)
    code = model_code(config, kind.loads)
    if code and remote_code:
        return packing_of(where, config)
    if not _has_head(config, kind):
        _refuse_head(where, config, kind, code, card)
    if not _is_known(config, kind):
        _refuse_type(where, config, kind, code, card)
    return packing_of(where, config)


def is_encoder_decoder(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of an encoder-decoder, even where it does not say so."""
    return bool(config.get("is_encoder_decoder")) or config.get("model_type") in ENCODER_DECODERS


def _has_head(config: Mapping[str, Any], kind: Kind) -> bool:
    """Whether one of the architectures has the head of a kind; none named counts as one."""
    names = [str(name) for name in config.get("architectures") or []]
    if not names or not kind.heads:
        return True
    wanted = [name for name in names if name.endswith(kind.heads)]
    if kind.loads == natives.CAUSAL:
        wanted = [name for name in wanted if not name.startswith(_NOT_CAUSAL)]
    return bool(wanted)


def _is_known(config: Mapping[str, Any], kind: Kind) -> bool:
    """Whether transformers has a class of a kind for the type of a model; none named counts."""
    of_type = config.get("model_type")
    if of_type is None or not natives.covers(kind.loads):
        return True
    return natives.class_of(kind.loads, str(of_type)) is not None


def _shown(config: Mapping[str, Any]) -> str:
    """What a configuration calls its model."""
    names = [str(name) for name in config.get("architectures") or []]
    return ", ".join(names) or str(config.get("model_type"))


def _refuse_structure(where: str, config: Mapping[str, Any], kind: Kind) -> NoReturn:
    """Say that a model is an encoder-decoder, or that it is none."""
    if not kind.encoder_decoder:
        why = (
            f"an encoder-decoder ({_shown(config)}); klmap scores causal language models, which "
            "give a text a probability without a source text"
        )
        if kind.name != CAUSAL:
            why = f"an encoder-decoder ({_shown(config)}), not {kind.means}"
    else:
        why = f"{_shown(config)} is no encoder-decoder, and likelihood: {kind.name} needs one"
    raise PermanentFailure(f"{where}: {why}{_other_kind(config, kind)}", _state(kind))


def _refuse_head(
    where: str, config: Mapping[str, Any], kind: Kind, code: str | None, card: Card | None
) -> NoReturn:
    """Say that a model lacks the head that it takes, and what would help."""
    head = "causal language-model head" if kind.loads == natives.CAUSAL else f"{kind.name} LM head"
    if code:
        raise PermanentFailure(
            f"{where}: {_shown(config)} is no class of transformers with a {head}, and code of a "
            f"repository ({code}) is not run without being asked to; {how_to_opt_in(card)}",
            NEEDS_CODE,
        )
    if kind.name == CAUSAL:
        raise PermanentFailure(
            f"{where}: {_shown(config)} has no {head} (an encoder, a classifier, or the bare body "
            "of a model); give the repository of the causal language model itself"
            f"{_other_kind(config, kind)}",
            NO_MODEL,
        )
    raise PermanentFailure(
        f"{where}: {_shown(config)} has no {head}; likelihood: {kind.name} scores {kind.means}"
        f"{_other_kind(config, kind)}",
        _state(kind),
    )


def _refuse_type(
    where: str, config: Mapping[str, Any], kind: Kind, code: str | None, card: Card | None
) -> NoReturn:
    """Say that transformers has no class for a type of model, and what would help."""
    wanted = "causal language model" if kind.loads == natives.CAUSAL else f"{kind.name} model"
    of_type = str(config.get("model_type"))
    known = f"transformers {natives.VERSION} knows no {wanted} of type {of_type!r}"
    if code:
        raise PermanentFailure(
            f"{where}: {known}, and code of a repository ({code}) is not run without being asked "
            f"to; {how_to_opt_in(card)}",
            NEEDS_CODE,
        )
    raise PermanentFailure(
        f"{where}: {known} and the repository brings no code for it; it may need another version "
        "of transformers, or be no text model: give a model of a known type"
        f"{_other_kind(config, kind)}",
        _state(kind),
    )


def _state(kind: Kind) -> str:
    return NO_MODEL if kind.name == CAUSAL else OTHER_KIND


def _other_kind(config: Mapping[str, Any], kind: Kind) -> str:
    """Under which other kind of likelihood a model can be scored, as the end of a message."""
    for name in likelihoods.NAMES:
        other = likelihoods.kind(name)
        fits = (
            name != kind.name
            and config.get("architectures")
            and is_encoder_decoder(config) == other.encoder_decoder
            and _has_head(config, other)
            and _is_known(config, other)
        )
        if fits:
            with_prompts = ", given prompts" if other.needs_prompts else ""
            return (
                f". likelihood: {name} on the entry scores it as {other.means}{with_prompts}: "
                f"another convention than {kind.name}, for a map of its own"
            )
    return ""
