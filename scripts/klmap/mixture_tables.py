"""Tables of the mixtures that were found, and weights read back from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.mixture import PROBES, Mixture

WEIGHT_COLUMNS = ("plan", "domain", "weight", "low", "high", "known", "probe")
PLAN_COLUMNS = (
    "plan", "base", "target", "directions", "cosine", "cosine_uniform", "share", "length",
    "length_unit", "kl", "kl_se", "kl_end", "kl_end_se", "noise_floor", "note",
)  # fmt: skip
PATH_COLUMNS = ("plan", "step", "length", "domain", "kl", "kl_se")

Kind = Literal["found", "uniform"]
"""Under which weights a base is trained on: those of the table, or equal ones."""

LENGTH_UNITS = {PROBES: "probes"}
_OF_TEXTS = "bits/byte"


def write(folder: Path, mixtures: Sequence[Mixture]) -> None:
    """Write weights.tsv, plans.tsv and path.tsv."""
    write_tsv(
        folder / "weights.tsv", WEIGHT_COLUMNS, (row for each in mixtures for row in _weights(each))
    )
    write_tsv(folder / "plans.tsv", PLAN_COLUMNS, map(_plan, mixtures))
    write_tsv(folder / "path.tsv", PATH_COLUMNS, (row for each in mixtures for row in _path(each)))


def length_unit(directions: str) -> str:
    """In what the length of a way is counted."""
    return LENGTH_UNITS.get(directions, _OF_TEXTS)


def _weights(each: Mixture) -> Iterator[tuple[str | float | None, ...]]:
    known = each.plan.known
    for row, domain in enumerate(each.plan.domains):
        yield (
            each.plan.name, domain, float(each.found.weights[row]), float(each.low[row]),
            float(each.high[row]), known.get(domain, 0.0) if known else None,
            each.probes[row] if each.probes else "",
        )  # fmt: skip


def _plan(each: Mixture) -> tuple[str | float | None, ...]:
    return (
        each.plan.name, each.base, each.target, each.plan.directions, _known(each.found.cosine),
        _known(each.cosine_uniform), _known(each.share), each.found.length,
        length_unit(each.plan.directions), *each.kl, *each.end, _known(each.noise_floor), each.note,
    )  # fmt: skip


def _path(each: Mixture) -> Iterator[tuple[str | float | None, ...]]:
    last = len(each.lengths) - 1
    for step, length in enumerate(each.lengths):
        start = each.plan.name, step / last, float(length)
        yield (*start, "", float(each.path[step, 0]), float(each.path[step, 1]))
        for domain, part in zip(each.domains.names, each.parts[step], strict=True):
            yield (*start, domain, float(part), None)


def _known(value: float) -> float | None:
    """The number, or None, an empty cell, where there is none."""
    return None if math.isnan(value) else value


def read_weights(path: Path, plan: str, kind: Kind = "found") -> dict[str, float]:
    """The share of every domain under which a base is to be trained on.

    Args:
        path: weights.tsv.
        plan: name of the plan.
        kind: the weights that were found, or equal ones of the same domains.

    Returns:
        Shares by domain, with the sum 1.

    Raises:
        InputError: the table is broken, or has no weights for the plan.
    """
    rows = [row for row in read_tsv(path) if row.get("plan") == plan]
    try:
        found = {row["domain"]: float(row["weight"]) for row in rows}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None
    if not found:
        raise InputError(f"{path}: no plan {plan!r}; run mixture again")
    if kind == "uniform":
        return dict.fromkeys(found, 1 / len(found))
    total = math.fsum(found.values())
    if not total > 0:
        raise InputError(
            f"{path}: every mixture of {plan!r} leads away from its target, so there is nothing "
            f"to train under; set analyses.mixture.plans.{plan}.check to false"
        )
    # The table holds six digits.
    return {domain: weight / total for domain, weight in found.items()}
