"""Tables of the mixtures that were found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from klmap.files import write_tsv
from klmap.mixture import PROBES, Mixture

WEIGHT_COLUMNS = ("plan", "domain", "weight", "low", "high", "known", "probe")
PLAN_COLUMNS = (
    "plan", "base", "target", "directions", "cosine", "cosine_uniform", "share", "length",
    "length_unit", "kl", "kl_se", "kl_end", "kl_end_se", "noise_floor", "note",
)  # fmt: skip
PATH_COLUMNS = ("plan", "step", "length", "domain", "kl", "kl_se")


def write(folder: Path, mixtures: Sequence[Mixture]) -> None:
    """Write weights.tsv, plans.tsv and path.tsv."""
    write_tsv(
        folder / "weights.tsv", WEIGHT_COLUMNS, (row for each in mixtures for row in _weights(each))
    )
    write_tsv(folder / "plans.tsv", PLAN_COLUMNS, map(_plan, mixtures))
    write_tsv(folder / "path.tsv", PATH_COLUMNS, (row for each in mixtures for row in _path(each)))


def length_unit(directions: str) -> str:
    """In what the length of a way is counted."""
    return "probes" if directions == PROBES else "bits/byte"


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
