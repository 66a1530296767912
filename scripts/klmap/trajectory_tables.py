"""The tables of the training runs: runs, moves, exponents, and the texts that were left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from klmap.diffusion import Diffusion
from klmap.files import write_tsv
from klmap.models_table import Model
from klmap.texts import Text, excerpt
from klmap.trajectories import Trajectory

RUN_COLUMNS = (
    "run", "variant", "checkpoints", "first_step", "last_step", "final", "texts", "dropped",
    "mean_bytes", "exponent", "exponent_low", "exponent_high", "weight_exponent",
    "weight_exponent_low", "weight_exponent_high", "settled_at", "times_floor", "trend",
    "trend_low", "trend_high", "floor_at", "floor_at_low", "floor_at_high", "hint",
)  # fmt: skip
STEP_COLUMNS = (
    "run", "variant", "first", "second", "first_step", "second_step", "elapsed", "kl", "se",
    "kl_per_step", "noise_floor", "below_noise", "within_noise", "counts", "weight_distance",
)  # fmt: skip
EXPONENT_COLUMNS = ("run", "variant", "space", "start", "exponent", "low", "high", "points")
TEXT_COLUMNS = ("run", "variant", "rank", "index", "domain", "jump", "first", "second", "text")

SPACES = ("likelihood", "weights")
"""Values of the column ``space``."""


def write_runs(path: Path, runs: Sequence[Trajectory]) -> None:
    """Write runs.tsv: one row per run."""
    rows = (
        (
            run.id, run.variant, len(run.rows), _step(run.steps[0]), _last_step(run), run.final,
            run.texts, len(run.dropped), run.mean_bytes, *_mean(run.likelihood),
            *_mean(run.weights), _step(run.settled.at), _known(run.settled.times_floor),
            *_trend(run), run.settled.words,
        )
        for run in runs
    )  # fmt: skip
    write_tsv(path, RUN_COLUMNS, rows)


def write_steps(path: Path, runs: Sequence[Trajectory], models: Sequence[Model]) -> None:
    """Write steps.tsv: the moves of each run in order; cells of an unknown step are empty."""
    rows = (
        (
            run.id, run.variant, models[run.rows[move.first]].model,
            models[run.rows[move.second]].model, _step(move.start), _step(move.end),
            _step(move.elapsed), move.kl, move.se, _known(move.rate), _known(move.floor),
            _flag(move.below_noise), _flag(move.within_noise), _flag(run.counts(move)),
            _known(run.weight_distances[number]),
        )
        for run in runs
        for number, move in enumerate(run.moves)
    )  # fmt: skip
    write_tsv(path, STEP_COLUMNS, rows)


def write_exponents(path: Path, runs: Sequence[Trajectory]) -> None:
    """Write exponents.tsv: for each run and space the mean, as start ``all``, and each start."""
    rows: list[Sequence[Any]] = []
    for run in runs:
        for space, found in zip(SPACES, (run.likelihood, run.weights), strict=True):
            if found is None:
                continue
            head = (run.id, run.variant, space)
            rows.append((*head, "all", *_mean(found), len(found.starts)))
            for start in found.starts:
                step = _step(run.steps[start.row])
                ends = (start.exponent, start.low, start.high)
                rows.append((*head, step, *ends, len(start.elapsed)))
    write_tsv(path, EXPONENT_COLUMNS, rows)


def write_texts(
    path: Path, runs: Sequence[Trajectory], models: Sequence[Model], texts: Sequence[Text]
) -> None:
    """Write texts.tsv: the texts that each run leaves out, the largest jump first.

    Args:
        path: the table.
        runs: the runs.
        models: of the runs.
        texts: in the order of the matrix.
    """
    rows = (
        (
            run.id, run.variant, rank, texts[outlier.column].index, texts[outlier.column].domain,
            outlier.jump, *(models[run.rows[outlier.move + n]].model for n in (0, 1)),
            excerpt(texts[outlier.column].text),
        )
        for run in runs
        for rank, outlier in enumerate(run.dropped, start=1)
    )  # fmt: skip
    write_tsv(path, TEXT_COLUMNS, rows)


def _last_step(run: Trajectory) -> int | None:
    """The last step that is known."""
    return _step(max((step for step in run.steps if math.isfinite(step)), default=math.nan))


def _mean(found: Diffusion | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if found is None else (found.exponent, found.low, found.high)


def _trend(run: Trajectory) -> tuple[float | int | None, ...]:
    trend = run.settled.trend
    if trend is None:
        return (None,) * 6
    meeting = (trend.reached, trend.earliest, trend.latest)
    return (trend.exponent, trend.low, trend.high, *map(_known, meeting))


def _step(value: float) -> int | None:
    """A step as a whole number, or an empty cell where it is unknown."""
    return round(value) if math.isfinite(value) else None


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _flag(value: bool) -> str:
    return "true" if value else ""
