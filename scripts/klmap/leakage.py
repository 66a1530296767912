"""Models that know the texts better than their benchmark scores tell, as if they had seen them.

That a model which saw the text set in training has too high a mean log-likelihood for its
benchmark scores is Oyama et al. 2025 (section 5); how such models are found is klmap's own. A
robust line gives the code length of the texts that is expected of a model with these scores, and
its externally studentised residual says how far below the model is. For a domain the line has the
code length of all other texts as a second variable. Models differ in how well they fit texts at
all, a chat model less than its base; what all domains share is then part of what is expected,
and a leak of one domain stands out although it hardly moves the mean over all texts. A leak of
all domains together is seen in the overall residual alone.

Residuals are positive where the texts cost fewer bits than expected, that is, where the mean
log-likelihood is too high. A flag is a question and no proof: a model of code knows code well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from klmap import code_lengths, robust
from klmap.arrays import Floats
from klmap.benchmark_tasks import coverage, main_tasks, one_unit, scales
from klmap.benchmarks import MEAN_TASKS, Benchmarks
from klmap.code_lengths import LEAST_TEXTS
from klmap.errors import InputError
from klmap.files import write_tsv
from klmap.log import logger
from klmap.models_table import Model
from klmap.robust import Fit

FLAG = 3.0
"""Studentised residuals above this one are flagged."""

FEWEST = 20
"""Models with scores without which there is no line."""

COLUMNS = (
    "model", "family", "benchmark_mean", "mean_loglik", "bits_per_byte", "expected", "residual",
    "studentised", "q", "flag", "most_suspicious_domain", "domain_studentised",
)  # fmt: skip
DOMAIN_COLUMNS = ("domain", "texts", "model", "residual", "studentised", "q", "flag")


@dataclass(frozen=True)
class Residuals:
    """How far models are from what is expected of them, over some of the texts.

    Attributes:
        residual: (n,) expected minus found code length, bits per byte.
        studentised: (n,) the same over its standard deviation.
        q: (n,) share of false flags to expect if this model and all above it were flagged, over
            all tests that are made together (Benjamini and Hochberg 1995).
        by_chance: how many flags to expect where no model is leaked and errors are normal.
    """

    residual: Floats
    studentised: Floats
    q: Floats
    by_chance: float

    @property
    def flag(self) -> npt.NDArray[np.bool_]:
        """(n,) which models are flagged."""
        return self.studentised > FLAG


@dataclass(frozen=True)
class Leakage:
    """Residuals of the n models with scores, over all texts and by domain.

    Attributes:
        rows: (n,) rows of the models in models.tsv, ascending.
        score: what the benchmark mean is the mean of, in words.
        benchmark: (n,) benchmark mean.
        bits: (n,) code length of all texts, bits per byte, from models.tsv.
        line: code length on benchmark mean; its design is ones and the benchmark mean.
        overall: over all texts.
        names: of the D domains that are told apart, the largest first.
        texts: D numbers of texts; of a selection, of those that were chosen.
        domains: over each domain's texts; ``q`` is over all models and domains together.
        reference: number of texts that a selection stands for; None where all were scored.
    """

    rows: npt.NDArray[np.intp]
    score: str
    benchmark: Floats
    bits: Floats
    line: Fit
    overall: Residuals
    names: tuple[str, ...]
    texts: tuple[int, ...]
    domains: tuple[Residuals, ...]
    reference: int | None = None

    @property
    def studentised(self) -> Floats:
        """(n, D) studentised residuals by domain."""
        return np.stack([domain.studentised for domain in self.domains], axis=1)


def benchmark_mean(benchmarks: Benchmarks, tasks: Sequence[str]) -> tuple[Floats, str]:
    """One benchmark score for each model.

    Args:
        benchmarks: of the K models.
        tasks: whose mean is taken, of models that have them all; if none are named, a column
            that is a mean already, else the tasks that about the same models have
            (:func:`klmap.benchmarks.main_tasks`).

    Returns:
        (K,) float64, NaN where a score is missing, and what it is in words.

    Raises:
        InputError: there is no such task, or no task at all, or none are named and those to
            average are in different units.
    """
    if not benchmarks.tasks:
        raise InputError("no benchmark scores of models on this map; give tables that have some")
    named = list(tasks) or [name for name in MEAN_TASKS if name in benchmarks.tasks][:1]
    chosen = benchmarks.of(named or main_tasks(benchmarks, FEWEST))
    if not named:
        _tell_left_out(benchmarks, chosen)
        if not one_unit(chosen):
            raise InputError(
                f"the tasks are in different units ({scales(chosen)}), so that their mean says "
                "nothing; name those to average, or a single one, under analyses.leakage.tasks"
            )
    if len(chosen.tasks) == 1:
        return chosen.values[:, 0], chosen.tasks[0]
    logger.info("benchmark mean of %s: %s", ", ".join(chosen.tasks), coverage(chosen))
    return chosen.values.mean(axis=1), f"mean of {len(chosen.tasks)} tasks"


def _tell_left_out(benchmarks: Benchmarks, chosen: Benchmarks) -> None:
    """Say which tasks are not part of the mean, and what it would be of with each of them."""
    kept = len(chosen.complete())
    for task in benchmarks.tasks:
        if task not in chosen.tasks:
            logger.warning(
                "%s is left out of the benchmark mean: with it %d models would have every task, "
                "without it %d",
                task, len(benchmarks.of([*chosen.tasks, task]).complete()), kept,
            )  # fmt: skip


def find(
    matrix: code_lengths.Texts,
    models: Sequence[Model],
    benchmarks: Benchmarks,
    tasks: Sequence[str] = (),
) -> Leakage:
    """Compare what each model knows of the texts with what its benchmark scores let expect.

    Args:
        matrix: the K models and N texts.
        models: rows of models.tsv, in the order of the matrix.
        benchmarks: scores in the same order.
        tasks: as for :func:`benchmark_mean`.

    Raises:
        InputError: fewer than 20 models have scores, or a task is unknown.
    """
    mean, words = benchmark_mean(benchmarks, tasks)
    bits = np.array([model.bits_per_byte for model in models])
    rows = np.flatnonzero(np.isfinite(mean) & np.isfinite(bits))
    if len(rows) < FEWEST:
        raise InputError(
            f"{len(rows)} models of this map have a benchmark score ({words}); to tell an unusual "
            f"model from a usual one takes {FEWEST}: add scores, or name tasks that more models "
            "have"
        )
    benchmark, bits = mean[rows], bits[rows]
    design = np.stack([np.ones(len(rows)), benchmark], axis=1)
    line = robust.fit(design, bits)
    overall = _residuals([line])[0]
    names, texts, fits = _by_domain(matrix, rows, design)
    reference = None if matrix.design is None else matrix.design.texts
    found = Leakage(
        rows, words, benchmark, bits, line, overall, names, texts, tuple(_residuals(fits)),
        reference,
    )  # fmt: skip
    _tell(found, models)
    return found


def _by_domain(
    matrix: code_lengths.Texts, rows: npt.NDArray[np.intp], design: Floats
) -> tuple[tuple[str, ...], tuple[int, ...], list[Fit]]:
    """Names and numbers of texts of the domains, and a fit for each."""
    domains = code_lengths.told_apart(matrix.domain)
    lengths = code_lengths.by_domain(matrix, domains)[rows]
    sizes = code_lengths.sizes(matrix, domains)
    total = lengths @ sizes
    kept, fits = [], []
    for number, count in enumerate(domains.sizes):
        columns = design
        if len(domains.names) > 1:
            if count < LEAST_TEXTS:
                continue
            others = (total - lengths[:, number] * sizes[number]) / (sizes.sum() - sizes[number])
            columns = np.column_stack([design, others])
        kept.append(number)
        fits.append(robust.fit(columns, lengths[:, number]))
    return (
        tuple(domains.names[number] for number in kept),
        tuple(domains.sizes[number] for number in kept),
        fits,
    )


def _residuals(fits: Sequence[Fit]) -> list[Residuals]:
    """Residuals of fits to code lengths; their q-values are over all of them."""
    chance = [fit.chance(-fit.studentised) for fit in fits]
    q = np.split(stats.false_discovery_control(np.concatenate(chance)), len(fits))
    return [
        Residuals(
            residual=-fit.residuals,
            studentised=-fit.studentised,
            q=np.asarray(own, np.float64),
            by_chance=len(own) * float(fit.chance(np.array([FLAG]))[0]),
        )
        for fit, own in zip(fits, q, strict=True)
    ]


def _tell(found: Leakage, models: Sequence[Model]) -> None:
    flagged = np.flatnonzero(found.overall.flag)
    logger.info(
        "%d of %d models are flagged over all texts (%.1f by chance): %s",
        len(flagged),
        len(found.rows),
        found.overall.by_chance,
        ", ".join(models[found.rows[place]].model for place in flagged[:10]) or "none",
    )
    logger.info(
        "%d of %d models and domains are flagged (%.1f by chance)",
        sum(int(domain.flag.sum()) for domain in found.domains),
        len(found.domains) * len(found.rows),
        sum(domain.by_chance for domain in found.domains),
    )


def write(folder: Path, found: Leakage, models: Sequence[Model]) -> None:
    """Write ``leakage.tsv`` and ``domains.tsv``, the most suspicious models first.

    Args:
        folder: to write to.
        found: of the models with scores; the others are in neither table.
        models: rows of models.tsv.
    """
    overall, worst = found.overall, found.studentised.argmax(axis=1)
    order = np.argsort(-overall.studentised, kind="stable")
    write_tsv(
        folder / "leakage.tsv",
        COLUMNS,
        [
            (
                models[found.rows[place]].model,
                models[found.rows[place]].family,
                float(found.benchmark[place]),
                models[found.rows[place]].mean_loglik,
                float(found.bits[place]),
                float(found.line.expected[place]),
                *_cells(overall, place),
                found.names[worst[place]],
                float(found.domains[worst[place]].studentised[place]),
            )
            for place in order
        ],
    )
    write_tsv(
        folder / "domains.tsv",
        DOMAIN_COLUMNS,
        [
            (name, count, models[found.rows[place]].model, *_cells(domain, place))
            for name, count, domain in zip(found.names, found.texts, found.domains, strict=True)
            for place in np.argsort(-domain.studentised, kind="stable")
        ],
    )


def _cells(residuals: Residuals, place: int) -> tuple[float, float, float, str]:
    """Residual, studentised residual, q and flag of one model."""
    return (
        float(residuals.residual[place]),
        float(residuals.studentised[place]),
        float(residuals.q[place]),
        "true" if residuals.flag[place] else "false",
    )
