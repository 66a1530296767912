"""Which mixture of domains moves one model towards another, in the space of log-likelihoods.

That the weights of domains in training data can be chosen so that the update of a model's
log-likelihoods points at a target is the idea of Kishino et al. 2026 ("Domain Mixture Design via
Log-Likelihood Differences"). The formulas are klmap's own. With ``xi`` a row of clipped
log-likelihoods, centred over the texts (Oyama et al. 2025, section 3),
``r = xi_target - xi_base`` is where the target lies, and the direction of domain d is
``v_d = xi_probe_d - xi_base`` of a probe, a model that was trained on from the base on that domain
alone for a short while. Wanted are weights ``w >= 0`` with the sum 1 for which the cosine of
``sum_d w_d v_d`` and ``r`` is greatest.

These are the non-negative least squares solution ``c``, scaled to the sum 1: for a given ``w`` the
best length ``t >= 0`` leaves ``min_t |t v_w - r|^2 = |r|^2 (1 - max(cos, 0)^2)`` of ``r``, so the
``c = t w`` that leaves least is the one whose cosine is greatest. The sum of ``c`` is the number of
probe lengths after which the straight way comes nearest to the target. Where no ``c`` but 0 is best
every mixture leads away from it.

Without probes the texts of a domain are its direction: that every byte of them becomes cheaper by
one bit, and no other. That is a proxy which costs nothing and knows nothing of how domains help
each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from klmap import bootstrap, groups, split
from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.gathered import Gathered
from klmap.geometry import BEYOND, nats_per_unit
from klmap.log import logger

STEPS = 10
"""Parts into which a path is divided."""

INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap samples between which an interval lies."""

PROBES, TEXTS = "probes", "texts"
"""What directions are made from: models, or the texts of the domains."""

_KEY = "analyses.mixture.plans"


@dataclass(frozen=True)
class Plan:
    """One question: which mixture leads from one model to another.

    Attributes:
        name: of the plan.
        base: row of the model that is to be trained on.
        target: row of the model that it is to come near to.
        domains: D names.
        probes: D rows of the models whose directions these are; none where the texts are.
        known: the share of each domain that the target was trained on; empty if unknown.
    """

    name: str
    base: int
    target: int
    domains: tuple[str, ...]
    probes: tuple[int, ...]
    known: Mapping[str, float]

    @property
    def directions(self) -> str:
        """What the directions are made from, :data:`PROBES` or :data:`TEXTS`."""
        return PROBES if self.probes else TEXTS


@dataclass(frozen=True)
class Solution:
    """The mixture whose direction has the greatest cosine with that of the target.

    Attributes:
        weights: (D,) with the sum 1; zeros where every mixture leads away.
        length: how many probes long the way is; bits per byte, where texts are the directions.
        cosine: with the direction of the target; 0 where every mixture leads away, NaN where base
            and target do not differ.
    """

    weights: Floats
    length: float
    cosine: float

    @property
    def is_none(self) -> bool:
        """Whether no mixture leads towards the target."""
        return not self.length > 0


@dataclass(frozen=True)
class Mixture:
    """What was found for a plan.

    Attributes:
        plan: the question.
        base: name of the base.
        target: name of the target.
        probes: D names; empty where texts are the directions.
        found: the weights.
        low: (D,) lower ends of their intervals over texts.
        high: (D,) upper ends.
        cosine_uniform: cosine of equal weights; NaN where there is none.
        kl: between base and target, and its standard error over texts, bits per byte.
        end: the same, expected where the way comes nearest to the target.
        noise_floor: bits per byte below which base and target could not be told apart; NaN if
            unknown.
        lengths: (STEPS + 1,) lengths along the way.
        path: (STEPS + 1, 2) expected KL to the target there and its standard error.
        parts: (STEPS + 1, T) what each domain of the texts has of it.
        domains: of the texts.
    """

    plan: Plan
    base: str
    target: str
    probes: tuple[str, ...]
    found: Solution
    low: Floats
    high: Floats
    cosine_uniform: float
    kl: tuple[float, float]
    end: tuple[float, float]
    noise_floor: float
    lengths: Floats
    path: Floats
    parts: Floats
    domains: split.Domains

    @property
    def share(self) -> float:
        """Share of the squared distance from base to target that the way covers."""
        return self.found.cosine**2

    @property
    def note(self) -> str:
        """What a reader has to know of it; empty if nothing."""
        if math.isnan(self.found.cosine):
            return "base and target have the same log-likelihoods"
        if self.found.is_none:
            return "every mixture of these domains leads away from the target"
        if self.kl[0] < self.noise_floor:
            return "base and target are nearer than their scores can tell"
        if self.kl[0] > BEYOND:
            return "beyond: base and target are too far apart for a KL"
        return ""


def read_plans(plans: str, found: Gathered) -> list[Plan]:
    """The questions, with the rows of the models that they name.

    Args:
        plans: JSON, ``{"name": {"base": model, "target": model, "probes": {domain: model},
            "known": {domain: share}}}``; a model is its name on the map, or its id.
        found: the models, on the map and off it.

    Raises:
        InputError: it is another JSON, or there is no such model or domain.
    """
    try:
        wanted = json.loads(plans)
        asked = [
            (str(name), str(plan["base"]), str(plan["target"]), dict(plan.get("probes") or {}),
             {str(key): float(value) for key, value in (plan.get("known") or {}).items()})
            for name, plan in wanted.items()
        ]  # fmt: skip
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"--plans: {error!r}; expected JSON of names, each with base, target and perhaps "
            "probes and known"
        ) from None
    return [_plan(*each, found) for each in asked]


def _plan(
    name: str,
    base: str,
    target: str,
    probes: Mapping[str, Any],
    known: Mapping[str, float],
    found: Gathered,
) -> Plan:
    place, models = f"{_KEY}.{name}", found.models
    domains = tuple(probes) or tuple(sorted(set(found.domain)))
    plan = Plan(
        name,
        groups.one(base, models, f"{place}.base"),
        groups.one(target, models, f"{place}.target"),
        domains,
        tuple(
            groups.one(str(model), models, f"{place}.probes.{domain}")
            for domain, model in probes.items()
        ),
        known,
    )
    if plan.base == plan.target:
        raise InputError(f"{place}: base and target are the same model, {models[plan.base].model}")
    if strange := sorted(set(known) - set(domains)):
        raise InputError(
            f"{place}.known: {', '.join(strange)}: no such domain; the directions are of "
            f"{', '.join(domains)}"
        )
    return plan


def measure(found: Gathered, plans: Sequence[Plan], replicates: int, seed: int) -> list[Mixture]:
    """Find the mixture of every plan.

    Args:
        found: the models.
        plans: the questions.
        replicates: bootstrap samples of the texts for the intervals.
        seed: of these.

    Raises:
        InputError: the texts are a selection, of which means say nothing without weights; or a
            file is truncated.
    """
    if found.design is not None:
        raise InputError("mixtures are found on all texts; leave mixture out for selections")
    domains = split.domains_of(found.domain, most=len(found.domain))
    return [_measure(found, plan, domains, replicates, seed) for plan in plans]


def _measure(
    found: Gathered, plan: Plan, domains: split.Domains, replicates: int, seed: int
) -> Mixture:
    away, directions = vectors(found, plan)
    best = solve(directions, away)
    low, high = _intervals(directions, away, replicates, seed)
    lengths = best.length * np.arange(STEPS + 1) / STEPS
    left = away - lengths[:, None] * (best.weights @ directions)
    path = np.array([kl_of(row, found.mean_bytes) for row in left])
    ends = np.array([plan.base]), np.array([plan.target])
    logger.info(
        "%s: %s; cosine %.3f, KL %.4f, expected %.4f bits/byte after %.2f lengths",
        plan.name,
        ", ".join(
            f"{domain} {100 * weight:.0f} %"
            for weight, domain in sorted(zip(best.weights, plan.domains, strict=True), reverse=True)
            if weight > 0
        ) or "no weights",
        best.cosine, path[0, 0], path[-1, 0], best.length,
    )  # fmt: skip
    return Mixture(
        plan=plan,
        base=found.models[plan.base].model,
        target=found.models[plan.target].model,
        probes=tuple(found.models[row].model for row in plan.probes),
        found=best,
        low=low,
        high=high,
        cosine_uniform=cosine(directions.mean(axis=0), away),
        kl=(float(path[0, 0]), float(path[0, 1])),
        end=(float(path[-1, 0]), float(path[-1, 1])),
        noise_floor=float(found.noise_floor(*ends)[0]),
        lengths=lengths,
        path=path,
        parts=_by_domain(left, domains, found.mean_bytes),
        domains=domains,
    )


def vectors(found: Gathered, plan: Plan) -> tuple[Floats, Floats]:
    """Where the target lies from the base, and where the domains lead.

    Args:
        found: the models.
        plan: which of them.

    Returns:
        ``r`` (N,) and ``v`` (D, N), row-centred, nats per text; without probes row d of ``v`` is
        what one bit per byte is on the texts of the domain.

    Raises:
        InputError: a file is truncated.
    """
    rows = centred(found.loglik((plan.base, plan.target, *plan.probes)))
    if plan.probes:
        return rows[1] - rows[0], rows[2:] - rows[0]
    mine = np.array(found.domain)[None] == np.array(plan.domains)[:, None]
    return rows[1] - rows[0], centred(mine * found.n_bytes * math.log(2))


def centred(rows: Floats) -> Floats:
    """Rows less their means over the texts."""
    return np.asarray(rows - rows.mean(axis=1, keepdims=True), np.float64)


def solve(directions: Floats, away: Floats) -> Solution:
    """The mixture of directions that points best at the target.

    Args:
        directions: (D, N) nats per text, one row for each domain.
        away: (N,) the way to the target, nats per text.
    """
    if not away.any():
        return Solution(np.zeros(len(directions)), 0.0, math.nan)
    # So that the solver's tolerances do not depend on units, nor a tiny direction on others.
    size = np.linalg.norm(directions, axis=1)
    kept = size > 0
    scaled = nnls((directions[kept] / size[kept, None]).T, away / np.linalg.norm(away))[0]
    weights = np.zeros(len(directions))
    weights[kept] = scaled * np.linalg.norm(away) / size[kept]
    length = float(weights.sum())
    if not length > 0:
        return Solution(np.zeros(len(directions)), 0.0, 0.0)
    return Solution(weights / length, length, cosine(weights @ directions, away))


def cosine(first: Floats, second: Floats) -> float:
    """Cosine of two vectors; NaN where one is 0."""
    size = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / size if size > 0 else math.nan


def _intervals(
    directions: Floats, away: Floats, replicates: int, seed: int
) -> tuple[Floats, Floats]:
    """(D,) lower and (D,) upper ends of the weights' intervals, by drawing texts again.

    The products of all vectors over the drawn texts say everything that the solver needs, so a
    replicate works on D + 1 numbers for each vector and no longer on N.
    """
    rows = np.vstack([directions, away])
    texts = rows.shape[1]
    weights = np.empty((replicates, len(directions)))
    for replicate in range(replicates):
        times = bootstrap.draw(texts, seed, replicate)
        mean = rows @ times / texts
        products = (rows * times) @ rows.T - texts * np.outer(mean, mean)
        values, axes = np.linalg.eigh(products)
        small = axes * np.sqrt(np.maximum(values, 0))
        weights[replicate] = solve(small[:-1], small[-1]).weights
    low, high = np.percentile(weights, INTERVAL, axis=0)
    return low, high


def kl_of(difference: Floats, mean_bytes: float) -> tuple[float, float]:
    """KL of two models by their difference, and its standard error over texts.

    Args:
        difference: (N,) of row-centred log-likelihoods, nats per text.
        mean_bytes: UTF-8 bytes per text, B.

    Returns:
        ``Var(d) / (2 B ln 2)`` with ddof=0 (Oyama et al. 2025, section 3), bits per byte, and
        the standard error of ``geometry.pairwise_kl``.
    """
    squares = difference**2
    unit = 2 * nats_per_unit(mean_bytes)
    return float(squares.mean()) / unit, float(squares.std() / math.sqrt(len(squares))) / unit


def _by_domain(left: Floats, domains: split.Domains, mean_bytes: float) -> Floats:
    """(P, T) parts of the KL of P differences that the domains of the texts have."""
    members = np.arange(len(domains.names))[:, None] == domains.code[None]
    parts = left**2 @ members.T / (2 * nats_per_unit(mean_bytes) * left.shape[1])
    return np.asarray(parts, np.float64)
