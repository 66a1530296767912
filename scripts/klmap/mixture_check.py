"""The check of a mixture: how near to the target a model comes that is trained under it.

The base is trained on twice for as long as a probe, under the mixture that was found and under
equal weights (``zoo_mixture``), and both are compared with the target by the KL of the map, clipped
where the map clips (Oyama et al. 2025, section 3). The check is klmap's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from klmap import geometry, mixture
from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.files import write_tsv
from klmap.gathered import Gathered
from klmap.geometry import nats_per_unit
from klmap.log import logger
from klmap.mixture import PROBES, Plan
from klmap.mixture_weights import read_weights
from klmap.store_score import read_score

COLUMNS = ("plan", "kind", "kl", "se", "expected", "nearer", "nearer_se", "noise_floor")

BASE, UNIFORM, FOUND = "base", "uniform", "found"
KINDS = (BASE, UNIFORM, FOUND)
"""Which models are compared with the target: the base, and two that are trained on from it."""

Trained = Mapping[str, Mapping[str, Path]]


@dataclass(frozen=True)
class End:
    """Where a model of the check ended.

    Attributes:
        kind: one of :data:`KINDS`.
        kl: to the target, bits per byte.
        se: standard error of ``kl`` over texts.
        expected: what the directions of the probes give for ``kl`` after one length; NaN where
            there are no probes.
        nearer: by how much it is nearer than the one trained under uniform weights, and the
            standard error of that over texts, bits per byte.
        noise_floor: bits per byte below which it and the target could not be told apart; NaN if
            unknown.
    """

    kind: str
    kl: float
    se: float
    expected: float
    nearer: tuple[float, float]
    noise_floor: float


@dataclass(frozen=True)
class Check:
    """What came of a plan.

    Attributes:
        plan: its name.
        base: name of the base.
        target: name of the target.
        weights: the mixture that was found, by domain.
        ends: in the order of :data:`KINDS`.
    """

    plan: str
    base: str
    target: str
    weights: Mapping[str, float]
    ends: tuple[End, ...]

    @property
    def is_nearer(self) -> bool:
        """Whether the mixture that was found ended nearer to the target than the uniform one."""
        return self.ends[KINDS.index(FOUND)].kl < self.ends[KINDS.index(UNIFORM)].kl


def read_trained(trained: str) -> Trained:
    """The trained models of each plan.

    Args:
        trained: JSON, ``{"plan": {"found": folder, "uniform": folder}}``.

    Raises:
        InputError: it is another JSON.
    """
    try:
        return {
            str(plan): {kind: Path(kinds[kind]) for kind in (UNIFORM, FOUND)}
            for plan, kinds in json.loads(trained).items()
        }
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"--trained: {error!r}; expected JSON of plans, each with the folders found and uniform"
        ) from None


def check(found: Gathered, plans: Sequence[Plan], weights: Path, trained: Trained) -> list[Check]:
    """Compare what was trained with the targets.

    Args:
        found: the models, on the map and off it.
        plans: the questions that are checked.
        weights: weights.tsv.
        trained: for each plan the folder of each kind of model, its score in it.

    Raises:
        InputError: a plan lacks its models, or a score is missing or of other texts.
    """
    return [_check(found, plan, weights, trained) for plan in plans]


def _check(found: Gathered, plan: Plan, weights: Path, trained: Trained) -> Check:
    if plan.name not in trained:
        raise InputError(f"--trained: no models of the plan {plan.name!r}")
    rows = found.loglik((plan.target, plan.base))
    noise = [float(found.noise[plan.target]), float(found.noise[plan.base])]
    for kind in KINDS[1:]:
        loglik, error = _scored(trained[plan.name][kind], found)
        rows = np.vstack([rows, np.maximum(loglik, found.clip_threshold)])
        noise.append(error)
    xi = mixture.centred(rows)
    apart = xi[1:] - xi[0]
    ends = tuple(
        End(
            kind,
            *mixture.kl_of(apart[number], found.mean_bytes),
            _expected(found, plan, weights, kind),
            _nearer(apart[number], apart[KINDS.index(UNIFORM)], found.mean_bytes),
            geometry.noise_floor(noise[0], noise[1 + number], found.mean_bytes),
        )
        for number, kind in enumerate(KINDS)
    )
    logger.info(
        "%s: KL to the target %.4f of the base, %.4f under uniform weights, %.4f under the "
        "weights that were found", plan.name, *(end.kl for end in ends),
    )  # fmt: skip
    return Check(
        plan.name, found.models[plan.base].model, found.models[plan.target].model,
        read_weights(weights, plan.name), ends,
    )  # fmt: skip


def _scored(folder: Path, found: Gathered) -> tuple[Floats, float]:
    """(N,) log-likelihoods of a trained model, nats, and their error, NaN if unknown."""
    scores = sorted(folder.glob("*.h5"))
    if len(scores) != 1:
        raise InputError(f"{folder}: {len(scores)} score files instead of one; remove the folder")
    score = read_score(scores[0])
    if score.texts_sha256 != found.parts[0].texts_sha256:
        raise InputError(
            f"{scores[0]}: of other texts than {found.parts[0].path}; remove {folder} and run again"
        )
    noise = score.attributes.get("noise_nats")
    return score.loglik, math.nan if noise is None else float(noise)


def _expected(found: Gathered, plan: Plan, weights: Path, kind: str) -> float:
    """KL to the target, bits per byte, one probe length from the base; NaN where none is known."""
    away, directions = mixture.vectors(found, plan)
    if kind == BASE:
        return mixture.kl_of(away, found.mean_bytes)[0]
    if plan.directions != PROBES:
        return math.nan
    named = read_weights(weights, plan.name, "found" if kind == FOUND else "uniform")
    shares = np.array([named[domain] for domain in plan.domains])
    return mixture.kl_of(away - shares @ directions, found.mean_bytes)[0]


def _nearer(apart: Floats, uniform: Floats, mean_bytes: float) -> tuple[float, float]:
    """How much nearer than under uniform weights, and its standard error: the same texts."""
    gain = uniform**2 - apart**2
    unit = 2 * nats_per_unit(mean_bytes)
    return float(gain.mean()) / unit, float(gain.std() / math.sqrt(len(gain))) / unit


def write(path: Path, checks: Sequence[Check]) -> None:
    """Write check.tsv."""
    rows = (
        (each.plan, end.kind, end.kl, end.se, _known(end.expected), *end.nearer,
         _known(end.noise_floor))
        for each in checks
        for end in each.ends
    )  # fmt: skip
    write_tsv(path, COLUMNS, rows)


def _known(value: float) -> float | None:
    """The number, or None, an empty cell, where there is none."""
    return None if math.isnan(value) else value
