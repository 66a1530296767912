"""The check of a mixture: how near to the target a model comes that is trained under it.

The models of the check are scored as their base is, and compared with the target by the KL of the
map, clipped where the map clips (Oyama et al. 2025, section 3). They are on no map: all that is
asked of them is one distance. The check is klmap's own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from klmap import geometry, mixture, mixture_tables, resolve, scorer, scorer_job
from klmap.arrays import Floats
from klmap.cards import write_card
from klmap.config import fingerprint
from klmap.errors import InputError
from klmap.files import read_json, write_tsv
from klmap.gathered import Gathered
from klmap.geometry import nats_per_unit
from klmap.log import logger
from klmap.mixture import PROBES, Plan
from klmap.store_score import read_score

COLUMNS = ("plan", "kind", "kl", "se", "expected", "nearer", "nearer_se", "noise_floor")

BASE, UNIFORM, FOUND = "base", "uniform", "found"
KINDS = (BASE, UNIFORM, FOUND)
"""Which models are compared with the target: the base, and two that are trained on from it."""


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
        return self.ends[2].kl < self.ends[1].kl


@dataclass(frozen=True)
class Scoring:
    """How the models of the check are scored.

    Attributes:
        texts: texts.jsonl.
        manifest: texts.json.
        spec: settings of the base's score.
        folder: where cards and scores are put.
        threads: CPU threads.
    """

    texts: Path
    manifest: Path
    spec: Mapping[str, Any]
    folder: Path
    threads: int = 1

    def loglik(self, name: str, model: Path) -> tuple[Floats, float]:
        """Score a model.

        Args:
            name: what it is called.
            model: its Hugging Face folder.

        Returns:
            (N,) log-likelihoods in nats, and their RMS numerical error, NaN if unknown.

        Raises:
            PermanentFailure: it cannot be scored.
        """
        card = self.folder / "cards" / f"{name}.json"
        write_card(card, resolve.resolve(name, folder=model))
        spec = {**self.spec, "id": name, "revision": None, "layers": None}
        job = scorer_job.Job(
            card, model, self.texts, self.manifest, name, spec,
            self.folder / "scores" / f"{name}.{fingerprint(spec)}.h5", threads=self.threads,
        )  # fmt: skip
        scorer.score(job)
        found = read_score(job.output)
        noise = found.attributes.get("noise_nats")
        return found.loglik, math.nan if noise is None else float(noise)


def read_models(models: str) -> dict[str, dict[str, Path]]:
    """The trained models of each plan.

    Args:
        models: JSON, ``{"plan": {"found": folder, "uniform": folder}}``.

    Raises:
        InputError: it is another JSON.
    """
    try:
        return {
            str(plan): {kind: Path(kinds[kind]) for kind in (UNIFORM, FOUND)}
            for plan, kinds in json.loads(models).items()
        }
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"--trained: {error!r}; expected JSON of plans, each with the folders found and uniform"
        ) from None


def check(
    found: Gathered,
    plans: Sequence[Plan],
    weights: Path,
    trained: Mapping[str, Mapping[str, Path]],
    scoring: Scoring,
) -> list[Check]:
    """Score what was trained, and compare it with the targets.

    Args:
        found: the models, on the map and off it.
        plans: the questions that are checked.
        weights: weights.tsv.
        trained: for each plan the folder of each kind of model.
        scoring: how.

    Raises:
        InputError: a plan lacks its models, or the texts are not those of the matrix.
        PermanentFailure: a model cannot be scored.
    """
    sha256 = str(read_json(scoring.manifest).get("sha256"))
    if sha256 != found.parts[0].texts_sha256:
        raise InputError(
            f"{scoring.manifest}: not of the texts of {found.parts[0].path}; remove the matrix "
            "and run again"
        )
    return [_check(found, plan, weights, trained, scoring) for plan in plans]


def _check(
    found: Gathered,
    plan: Plan,
    weights: Path,
    trained: Mapping[str, Mapping[str, Path]],
    scoring: Scoring,
) -> Check:
    if plan.name not in trained:
        raise InputError(f"--trained: no models of the plan {plan.name!r}")
    rows = found.loglik((plan.target, plan.base))
    noise = [float(found.noise[plan.target]), float(found.noise[plan.base])]
    for kind in KINDS[1:]:
        loglik, error = scoring.loglik(f"{plan.name}-{kind}", trained[plan.name][kind])
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
    made = Check(
        plan.name, found.models[plan.base].model, found.models[plan.target].model,
        mixture_tables.read_weights(weights, plan.name), ends,
    )  # fmt: skip
    logger.info(
        "%s: KL to the target %.4f of the base, %.4f under uniform weights, %.4f under the "
        "weights that were found", plan.name, *(end.kl for end in ends),
    )  # fmt: skip
    return made


def _expected(found: Gathered, plan: Plan, weights: Path, kind: str) -> float:
    """KL to the target, bits per byte, one probe length from the base; NaN where none is known."""
    away, directions = mixture.vectors(found, plan)
    if kind == BASE:
        return mixture.kl_of(away, found.mean_bytes)[0]
    if plan.directions != PROBES:
        return math.nan
    named = mixture_tables.read_weights(weights, plan.name, "found" if kind == FOUND else "uniform")
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
