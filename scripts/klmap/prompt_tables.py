"""The tables of what edits of the prompt do; see docs/formats.md for their columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from klmap.arrays import Floats
from klmap.files import write_tsv
from klmap.log import logger
from klmap.prompt_additivity import Sum
from klmap.prompt_directions import Cosine
from klmap.prompt_edits import Edited, missing
from klmap.prompts import Edit

SURE = 2.0
"""Standard errors from which a gain counts as more than chance."""

SHIFT_COLUMNS = (
    "model", "edit", "family", "kl", "se", "noise_floor", "below_noise", "mean_shift",
    "mean_shift_se", "cosine", "cosine_families",
)  # fmt: skip
EDIT_COLUMNS = (
    "edit", "parts", "models", "missing", "below_noise", "median_kl", "q25", "q75", "mean_shift",
    "likelier", "less_likely", "coherence", "coherence_families", "pairs_before", "pairs_after",
    "pairs_change", "pairs_change_se",
)  # fmt: skip
COSINE_COLUMNS = ("first", "second", "cosine", "low", "high", "models", "median_model")
SUM_COLUMNS = (
    "model", "edit", "parts", "kl", "predicted_kl", "cosine", "relative_error",
    "relative_error_se", "nearest_part_error", "noise_error", "r2", "slope", "mean_shift",
    "predicted_mean_shift",
)  # fmt: skip
DOMAIN_COLUMNS = (
    "edit", "domain", "texts", "text_share", "share", "share_se", "ratio", "mean_shift",
    "mean_shift_se",
)  # fmt: skip


def write(
    folder: Path,
    some: Edited,
    edits: Sequence[Edit],
    cosines: Sequence[Cosine],
    sums: Sequence[Sum],
) -> None:
    """Write shifts.tsv, edits.tsv, cosines.tsv, additivity.tsv, domains.tsv and missing.tsv.

    Args:
        folder: to write to.
        some: the models and edits.
        edits: what was measured of each edit.
        cosines: of their directions.
        sums: of the composed edits.
    """
    models = some.found.models
    lacking = missing(some)
    count = {name: len(what) for name, what in lacking}
    write_tsv(folder / "shifts.tsv", SHIFT_COLUMNS, (
        (
            models[row].model, edit.name, models[row].family,
            *_cells(edit.kl[n], edit.se[n], edit.floor[n]), _below(edit, n),
            *_cells(edit.gain[n], edit.gain_se[n], edit.cosine[n], edit.across[n]),
        )
        for edit in edits
        for n, row in enumerate(edit.rows)
    ))  # fmt: skip
    write_tsv(folder / "edits.tsv", EDIT_COLUMNS, (
        (
            edit.name, ", ".join(some.composed.get(edit.name, ())), len(edit.rows),
            count.get(edit.name, 0), int(edit.below.sum()),
            *_cells(*np.quantile(edit.kl, (0.5, 0.25, 0.75)), np.median(edit.gain)),
            *surely(edit),
            *_cells(coherence(edit.cosine), coherence(edit.across), edit.before, edit.after,
                    edit.after - edit.before, edit.change_se),
        )
        for edit in edits
    ))  # fmt: skip
    write_tsv(folder / "cosines.tsv", COSINE_COLUMNS, (
        (
            some.names[item.first], some.names[item.second],
            *_cells(item.cosine, item.low, item.high), item.models, *_cells(item.median),
        )
        for item in cosines
    ))  # fmt: skip
    write_tsv(folder / "additivity.tsv", SUM_COLUMNS, (
        (
            models[row].model, item.name, ", ".join(item.parts),
            *_cells(*(values[n] for values in (
                item.kl, item.predicted_kl, item.cosine, item.relative_error,
                item.relative_error_se, item.alone, item.noise_error, item.r2, item.slope,
                item.gain, item.predicted_gain,
            ))),
        )
        for item in sums
        for n, row in enumerate(item.rows)
    ))  # fmt: skip
    sizes = np.bincount(some.domains.code, minlength=len(some.domains.names))
    write_tsv(folder / "domains.tsv", DOMAIN_COLUMNS, (
        (
            edit.name, name, int(sizes[n]),
            *_cells(
                sizes[n] / some.texts, edit.share[n], edit.share_se[n],
                edit.share[n] * some.texts / sizes[n], edit.domain_gain[n], edit.domain_gain_se[n],
            ),
        )
        for edit in edits
        for n, name in enumerate(some.domains.names)
    ))  # fmt: skip
    write_tsv(folder / "missing.tsv", ("edit", "model"), (
        (name, model) for name, what in lacking for model in what
    ))  # fmt: skip
    for edit in edits:
        logger.info(
            "%s: %d models, median shift %.3g bits/byte (%d below the noise), responses likelier "
            "by %.3g, coherence %.2f",
            edit.name, len(edit.rows), np.median(edit.kl), edit.below.sum(), np.median(edit.gain),
            coherence(edit.cosine),
        )  # fmt: skip
    for item in sums:
        if len(item.rows):
            logger.info(
                "%s against the sum of %s: median cosine %.2f, relative error %.2f",
                item.name, " and ".join(item.parts), np.nanmedian(item.cosine),
                np.nanmedian(item.relative_error),
            )  # fmt: skip


def coherence(cosines: Floats) -> float:
    """Mean of the cosines that are known; NaN where none is."""
    known = cosines[np.isfinite(cosines)]
    return float(known.mean()) if known.size else math.nan


def surely(edit: Edit) -> tuple[int, int]:
    """Models whose responses an edit makes likelier, and less likely, by two standard errors."""
    sure = SURE * edit.gain_se
    return int((edit.gain > sure).sum()), int((edit.gain < -sure).sum())


def _below(edit: Edit, number: int) -> str:
    if math.isnan(edit.floor[number]):
        return ""
    return "yes" if edit.below[number] else "no"


def _cells(*values: float) -> list[float | None]:
    """Numbers, or None, an empty cell, where there is none."""
    return [None if math.isnan(value) else float(value) for value in values]
