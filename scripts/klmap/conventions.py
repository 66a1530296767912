"""How log-likelihoods were computed, and what a map that mixes two ways must say.

Scores of klmap and log-likelihoods that others have computed can only be compared where the number
format, the first token and texts beyond the context were treated alike. What differs is refused, or
allowed by name and then reported with the shift to expect. The estimates are klmap's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.geometry import nats_per_unit
from klmap.store_score import Score

KEYS = ("dtype", "prefix", "overlength")
"""What a convention consists of."""

FACTS = ("context", "n_windows", "bos_id")
"""Attributes of a score that tell whether a convention made a difference for its model."""

FIRST_TOKEN = (0.84, 0.27)
"""Mean and standard deviation of the surprisal of a text's first token in units of ln(vocabulary),
as measured on three demo models."""

_UNSEEN_SHIFT = 0.1
_UNSEEN_KL = 1e-4
_SHOWN = 5


@dataclass(frozen=True)
class Scored:
    """What is known of how one model was scored.

    Attributes:
        model: its name on the map.
        release: the release that it came with; empty for a score of klmap.
        convention: values of ``KEYS``.
        noise: RMS numerical error, nats per text; None if unknown.
        vocabulary: entries of its vocabulary; 0 if unknown.
        adds_bos: whether something stands in front of every text; None if unknown.
        overlong: (mean, standard deviation) over texts of the log-likelihood, nats, that lies
            beyond the context; None where no text is longer.
    """

    model: str
    release: str
    convention: dict[str, str]
    noise: float | None = None
    vocabulary: int = 0
    adds_bos: bool | None = None
    overlong: tuple[float, float] | None = None


@dataclass(frozen=True)
class Difference:
    """One model that was scored in another way than the models of a release.

    Attributes:
        model: its name on the map.
        convention: ``dtype``, ``prefix`` or ``overlength``.
        value: how it was scored.
        release: the release.
        expected: how that one was.
        shift: by how much its log-likelihoods are moved, nats per text in the mean over texts.
        kl: KL divergence to itself, scored as the release was, bits per byte.
        basis: where the two numbers come from.
    """

    model: str
    convention: str
    value: str
    release: str
    expected: str
    shift: float = math.nan
    kl: float = math.nan
    basis: str = field(default="unknown")


def scored(
    score: Score, noise: float | None, card: Mapping[str, Any], share: Floats | None = None
) -> Scored:
    """Collect from a score and its card what the comparison needs.

    Args:
        score: with the attributes ``imported`` (the release) and ``FACTS``, where they are known.
        noise: RMS numerical error, nats per text.
        card: of the model.
        share: (N,) weights of the texts, which add up to 1; by default all count alike.
    """
    known = score.attributes
    bos = known.get("bos_id")
    return Scored(
        model=score.model,
        release=str(known.get("imported") or ""),
        convention={key: str(known.get(key, "")) for key in KEYS},
        noise=noise,
        vocabulary=int(card.get("vocabulary") or 0),
        adds_bos=None if bos is None else int(bos) >= 0,
        overlong=_overlong(score, share),
    )


def _overlong(score: Score, share: Floats | None) -> tuple[float, float] | None:
    """Log-likelihood of what lies beyond the context, where every token costs what the text's do.

    A truncated text lacks it, one cut into windows has it.
    """
    limit = int(score.attributes.get("context") or -1)
    excess = np.maximum(score.n_tokens - limit, 0) if limit > 0 else np.zeros(len(score.n_tokens))
    if not excess.any():
        return None
    cost = score.loglik / np.maximum(score.n_scored, 1)
    beyond = cost * excess
    mean = np.average(beyond, weights=share)
    return float(mean), math.sqrt(np.average((beyond - mean) ** 2, weights=share))


def differences(models: Sequence[Scored], mean_bytes: float) -> list[Difference]:
    """Every model that was scored in another way than a release on the same map.

    What made no difference for a model is not listed: a policy for long texts where none is too
    long, or a first token that its tokenizer sets by itself.

    Args:
        models: all models of the map.
        mean_bytes: bytes per text, B.

    Returns:
        By release, then in the order of the models; nothing without a release.
    """
    releases: dict[str, list[dict[str, str]]] = {}
    for model in models:
        known = releases.setdefault(model.release, []) if model.release else []
        if model.release and model.convention not in known:
            known.append(model.convention)
    return [
        _difference(model, key, release, convention[key], mean_bytes)
        for release, conventions in sorted(releases.items())
        for convention in conventions
        for model in models
        if model.release != release
        for key in KEYS
        if _differs(model, key, convention[key])
    ]


def _differs(model: Scored, key: str, expected: str) -> bool:
    if model.convention[key] == expected:
        return False
    if key == "overlength":
        return bool(model.release) or model.overlong is not None
    if key == "prefix" and expected == "bos":
        return model.adds_bos is not True
    return True


def _difference(
    model: Scored, key: str, release: str, expected: str, mean_bytes: float
) -> Difference:
    mean, deviation, basis = math.nan, math.nan, "unknown"
    if key == "dtype" and model.noise is not None:
        mean, deviation, basis = 0.0, model.noise, "numerical error of its score alone"
    elif key == "prefix" and model.vocabulary > 1:
        size = math.log(model.vocabulary)
        sign = -1.0 if model.convention[key] == "bos" else 1.0
        mean, deviation = sign * FIRST_TOKEN[0] * size, FIRST_TOKEN[1] * size
        basis = "first token, none where its tokenizer sets one by itself"
    elif key == "overlength" and model.overlong is not None:
        sign = -1.0 if model.convention[key] == "truncate" else 1.0
        mean, deviation = sign * model.overlong[0], model.overlong[1]
        basis = "tokens beyond its context"
    return Difference(
        model=model.model,
        convention=key,
        value=model.convention[key],
        release=release,
        expected=expected,
        shift=mean,
        kl=deviation**2 / (2 * nats_per_unit(mean_bytes)),
        basis=basis,
    )


def refuse(found: Sequence[Difference], allowed: Sequence[str]) -> None:
    """Refuse a map that mixes conventions, unless they were allowed by name.

    Args:
        found: what differs.
        allowed: names among ``KEYS``.

    Raises:
        InputError: something differs that was not allowed.
    """
    wrong = [item for item in found if item.convention not in allowed]
    if not wrong:
        return
    lines = [
        f"  {item.model}: {item.convention} {item.value or 'unknown'}, {item.release} has "
        f"{item.expected}"
        for item in wrong[:_SHOWN]
    ]
    if len(wrong) > _SHOWN:
        lines.append(f"  and {len(wrong) - _SHOWN:,} more")
    keys = sorted({item.convention for item in wrong}, key=KEYS.index)
    expected = {item.convention: item.expected for item in wrong}
    fix = ", ".join(f"{key}: {expected[key]}" for key in keys)
    release = wrong[0].release
    raise InputError(
        f"scored by other conventions than those of {release}, so that distances would not be KL "
        "divergences:\n" + "\n".join(lines) + "\n"
        f"score them alike (scoring: {{{fix}}}), or accept the shift, which conventions.tsv then "
        f"estimates, with published: {{{release}: {{allow: [{', '.join(keys)}]}}}}; for "
        "models of a text selection its own allow: does as well"
    )


def write_differences(path: Path, found: Sequence[Difference]) -> None:
    """Write conventions.tsv: what differs on a map, and the shift to expect."""
    names = [item.name for item in fields(Difference)]
    write_tsv(path, names, (astuple(item) for item in found))


def read_differences(path: Path) -> list[Difference]:
    """Read conventions.tsv.

    Raises:
        InputError: the file is missing or broken.
    """
    try:
        return [
            Difference(
                model=row["model"],
                convention=row["convention"],
                value=row["value"],
                release=row["release"],
                expected=row["expected"],
                shift=float(row["shift"] or "nan"),
                kl=float(row["kl"] or "nan"),
                basis=row["basis"],
            )
            for row in read_tsv(path)
        ]
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None


def sentences(found: Sequence[Difference]) -> list[str]:
    """What differs on a map, in words: one sentence for each release and convention."""
    groups: dict[tuple[str, str, str], list[Difference]] = {}
    for item in found:
        groups.setdefault((item.release, item.convention, item.expected), []).append(item)
    return [_sentence(*group, items) for group, items in groups.items()]


def _sentence(release: str, key: str, expected: str, found: Sequence[Difference]) -> str:
    who = found[0].model if len(found) == 1 else f"{len(found):,} models"
    was = "was" if len(found) == 1 else "were"
    values = ", ".join(sorted({item.value or "unknown" for item in found}))
    shifts = [abs(item.shift) for item in found if math.isfinite(item.shift)]
    kls = [item.kl for item in found if math.isfinite(item.kl)]
    size = "by how much that moves them is unknown"
    if shifts and kls and max(shifts) < _UNSEEN_SHIFT and max(kls) < _UNSEEN_KL:
        size = f"expected to move the model by a KL below {_UNSEEN_KL:g} bits per byte"
    elif shifts and kls:
        size = (
            f"expected to move the mean log-likelihood by up to {max(shifts):.2g} nats per text, "
            f"and the model by a KL of up to {max(kls):.2g} bits per byte"
        )
    return f"{who} {was} scored with {key} {values}, {release} with {expected}: {size}."
