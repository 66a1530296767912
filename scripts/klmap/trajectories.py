"""Training runs: how far a model moves from checkpoint to checkpoint, how fast, and in which way.

Texts on which log-likelihoods jump are left out first: the score of a text is the largest
``|l_next - l_prev|`` over consecutive checkpoints, and the 3 % with the highest go, with the bytes
per text computed anew (Kishino et al. 2026, "Establishing a Scale for KL Divergence in Language
Models Across Various Settings"; for pretraining alone). Each run leaves out its own texts, so that
another run in the configuration changes nothing in it (klmap's own).

Final weights that cannot be told from the last saved step are that step, and are left out. Others
are the end of the last move, but at an unknown step: they have a KL and no speed, and are in no
exponent.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from klmap import diffusion, lineage, settling, store_score
from klmap.arrays import Floats, Rows
from klmap.diffusion import Diffusion
from klmap.errors import InputError
from klmap.gathered import Gathered
from klmap.geometry import nats_per_unit, noise_floor
from klmap.index import read_index
from klmap.log import logger
from klmap.models_table import Model
from klmap.settling import Move, Settled

LEAST_CHECKPOINTS = 3
"""Checkpoints that make a run of an id."""


@dataclass(frozen=True)
class Settings:
    """What is asked for.

    Attributes:
        from_step: training step from which on checkpoints count for outlier texts, exponents and
            the hint.
        drop: share of the texts that is left out.
        ahead: to how many later checkpoints an exponent is fitted.
        bootstrap: bootstrap samples.
        seed: of these.
    """

    from_step: float = 2000
    drop: float = 0.03
    ahead: int = 10
    bootstrap: int = 1000
    seed: int = 42


@dataclass(frozen=True)
class Weights:
    """A sketch of the weights of a checkpoint.

    Attributes:
        values: (S,) float64, whose squared distances estimate those of the weights.
        norm: length of the weights.
        kind: what has to be the same for two of them to be compared.
    """

    values: Floats
    norm: float
    kind: str


@dataclass(frozen=True)
class Outlier:
    """A text that a run leaves out.

    Attributes:
        column: of the matrix.
        jump: largest ``|l_next - l_prev|``, nats.
        move: number of the move that it is at, among those of the run.
    """

    column: int
    jump: float
    move: int


@dataclass(frozen=True)
class Trajectory:
    """One training run.

    Attributes:
        id: the id of its checkpoints.
        variant: their variant.
        rows: (C,) rows of its checkpoints among the models, in order of training.
        steps: (C,) training steps; infinite for final weights.
        final: ``same`` where final weights were left out because they are those of the last saved
            step, ``later`` where they are the last checkpoint, else empty.
        dropped: texts that are left out, the highest score first.
        texts: how many are left, N.
        mean_bytes: bytes of each of these in the mean, B.
        from_step: checkpoints from this step on count.
        moves: from each checkpoint to the next.
        weight_distances: (C - 1,) length of each move in weight space, relative to the norm of the
            earlier checkpoint; NaN without sketches.
        likelihood: exponents of KL; None where there are too few checkpoints.
        weights: exponents of squared distances of the weights; None as well without sketches.
        settled: the hint.
    """

    id: str
    variant: str
    rows: Sequence[int]
    steps: Floats
    final: str
    dropped: Sequence[Outlier]
    texts: int
    mean_bytes: float
    from_step: float
    moves: Sequence[Move]
    weight_distances: Floats
    likelihood: Diffusion | None
    weights: Diffusion | None
    settled: Settled

    @property
    def name(self) -> str:
        """The run in words."""
        return f"{self.id} {self.variant}".strip()

    def counts(self, move: Move) -> bool:
        """Whether a move begins late enough to count."""
        return move.start >= self.from_step


def read_weights(
    indexes: Sequence[Path], scores: Path, models: Sequence[Model]
) -> dict[str, Weights]:
    """The sketches of the weights of some models, by name.

    Args:
        indexes: index.tsv, and offmap-index.tsv where there is one.
        scores: folder of the score files.
        models: whose sketches are wanted; those without one are left out.

    Raises:
        InputError: an index or a score file is broken.
    """
    wanted = {model.model for model in models}
    found = {}
    for entry in (each for index in indexes for each in read_index(index, scores, scores)):
        if entry.model not in wanted or not entry.path.is_file():
            continue
        values = store_score.read_sketch(entry.path)
        if values is not None:
            attributes, _ = store_score.read_summary(entry.path)
            said = json.loads(attributes["weights"])
            kind = f"{said['method']} {said['size']} {said['layout']}"
            found[entry.model] = Weights(values, float(said["norm"]), kind)
    return found


def find(models: Sequence[Model]) -> list[lineage.Run]:
    """The runs with enough checkpoints; hidden states of a model are none.

    Of revisions without a training step in their name only the final weights count
    (``config_models.final_revision``). Where revisions name several stages of a training, the
    longest one counts.
    """
    found = []
    count = Counter((model.id, model.variant) for model in models)
    for run in lineage.runs(models):
        rows = [row for row in run.rows if models[row].layer is None]
        finals = [row for row in rows if math.isinf(models[row].step)][-1:]
        saved = _one_stage(models, [row for row in rows if math.isfinite(models[row].step)])
        left = count[run.id, run.variant] - len(saved) - len(finals)
        if len(saved) + len(finals) < LEAST_CHECKPOINTS:
            continue
        if left:
            logger.info("%s: %d revisions are no steps of one training, left out", run.id, left)
        found.append(lineage.Run(run.id, run.variant, (*saved, *finals)))
    return found


def _one_stage(models: Sequence[Model], rows: Sequence[int]) -> list[int]:
    """Rows whose revisions have the same beginning, the most frequent one, each step once."""
    stages = [models[row].revision.lower().rpartition("step")[0] for row in rows]
    if not stages:
        return []
    count = Counter(stages)
    best = max(count, key=lambda stage: (count[stage], stage))
    by_step: dict[float, int] = {}
    for row, stage in zip(rows, stages, strict=True):
        if stage == best:
            by_step.setdefault(models[row].step, row)
    return [by_step[step] for step in sorted(by_step)]


def measure(
    found: Gathered, weights: Mapping[str, Weights], settings: Settings
) -> list[Trajectory]:
    """All training runs among the models.

    Args:
        found: models and log-likelihoods.
        weights: sketches by the models' names, as far as there are any.
        settings: what is asked for.

    Raises:
        InputError: the texts are a selection; a matrix is truncated.
    """
    if found.design is not None:
        raise InputError(
            "trajectories leave out texts, and those of a selection stand for others; ask for them "
            "on a text set of its own"
        )
    return [_measure(run, found, weights, settings) for run in find(found.models)]


def _measure(
    run: lineage.Run, found: Gathered, weights: Mapping[str, Weights], settings: Settings
) -> Trajectory:
    rows = list(run.rows)
    steps = np.array([found.models[row].step for row in rows])
    loglik = found.loglik(rows)
    final = "" if math.isfinite(steps[-1]) else "later"
    if final and _is_last_step(loglik, found, rows, weights):
        final, rows, steps, loglik = "same", rows[:-1], steps[:-1], loglik[:-1]
    dropped = outliers(loglik, steps, settings)
    kept = np.ones(loglik.shape[1], np.bool_)
    kept[[outlier.column for outlier in dropped]] = False
    loglik = loglik[:, kept]
    mean_bytes = float(np.mean(found.n_bytes[kept], dtype=np.float64))
    moves = _moves(loglik, steps, found.noise[rows], mean_bytes)
    counted = np.flatnonzero(np.isfinite(steps) & (steps >= settings.from_step))
    sketched = [weights.get(found.models[row].model) for row in rows]
    compared, relative = _comparable(sketched, counted)
    settled = settling.judge([move for move in moves if move.start >= settings.from_step])
    result = Trajectory(
        id=run.id,
        variant=run.variant,
        rows=rows,
        steps=steps,
        final=final,
        dropped=dropped,
        texts=int(kept.sum()),
        mean_bytes=mean_bytes,
        from_step=settings.from_step,
        moves=moves,
        weight_distances=_weight_distances(sketched),
        likelihood=_diffusion(
            loglik[counted], steps, counted, settings, noise=found.noise[rows][counted]
        ),
        weights=_diffusion(relative, steps, compared, settings),
        settled=settled,
    )
    _report(result)
    return result


def _is_last_step(
    loglik: Floats, found: Gathered, rows: Sequence[int], weights: Mapping[str, Weights]
) -> bool:
    """Whether the final weights are those of the checkpoint before, as far as one can tell."""
    before, last = (found.models[row] for row in rows[-2:])
    first, second = weights.get(before.model), weights.get(last.model)
    if first is not None and second is not None and first.kind == second.kind:
        return bool(np.array_equal(first.values, second.values))
    kl = (loglik[-1] - loglik[-2]).var() / (2 * nats_per_unit(found.mean_bytes))
    first_noise, last_noise = found.noise[rows[-2:]]
    floor = noise_floor(first_noise, last_noise, found.mean_bytes)
    return bool(kl == 0 or kl < floor)


def outliers(loglik: Floats, steps: Floats, settings: Settings) -> list[Outlier]:
    """The texts that a run leaves out.

    Args:
        loglik: (C, N) nats, a row for each checkpoint in order.
        steps: (C,) training steps; infinite for final weights.
        settings: from which step on moves count, and the share.

    Returns:
        The highest score first, equal ones by column; none where fewer than two checkpoints count.
    """
    (moves,) = np.nonzero(steps[:-1] >= settings.from_step)
    if not len(moves):
        return []
    jumps = np.abs(np.diff(loglik, axis=0))[moves]
    score = jumps.max(axis=0)
    order = np.argsort(-score, kind="stable")[: round(settings.drop * loglik.shape[1])]
    at = moves[jumps.argmax(axis=0)]
    return [Outlier(int(n), float(score[n]), int(at[n])) for n in order]


def _moves(loglik: Floats, steps: Floats, noise: Floats, mean_bytes: float) -> list[Move]:
    """From each checkpoint to the next."""
    unit = 2 * nats_per_unit(mean_bytes)
    found = []
    for row in range(len(steps) - 1):
        power = loglik[row + 1] - loglik[row]
        power = np.square(power - power.mean())
        found.append(
            Move(
                first=row,
                second=row + 1,
                start=float(steps[row]),
                end=float(steps[row + 1]),
                kl=float(power.mean() / unit),
                se=float(power.std() / math.sqrt(len(power)) / unit),
                floor=float(noise_floor(noise[row], noise[row + 1], mean_bytes)),
            )
        )
    return found


def _diffusion(
    values: Floats, steps: Floats, places: Rows, settings: Settings, noise: Floats | None = None
) -> Diffusion | None:
    """Exponents of some of the checkpoints, in likelihood space where their noise is given.

    Args:
        values: (P, N) of these checkpoints.
        steps: (C,) of all.
        places: (P,) which they are.
        settings: what is asked for.
        noise: (P,) nats.
    """
    if len(places) <= diffusion.LEAST_POINTS:
        return None
    found = diffusion.measure(
        values,
        steps[places],
        settings.ahead,
        centred=noise is not None,
        noise=noise,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
    )
    if found is None:
        return None
    starts = [replace(start, row=int(places[start.row])) for start in found.starts]
    return replace(found, starts=starts)


def _comparable(sketched: Sequence[Weights | None], counted: Rows) -> tuple[Rows, Floats]:
    """Which checkpoints have sketches of the most frequent kind, and these.

    Returns:
        (P,) places and (P, S) sketches, so that a mean square over the columns is a squared
        distance relative to the squared norm of the first.
    """
    known = [(place, item) for place in counted if (item := sketched[place]) is not None]
    if not known:
        return np.zeros(0, np.intp), np.zeros((0, 0))
    count = Counter(item.kind for _, item in known)
    kind = max(count, key=lambda name: (count[name], name))
    some = [(place, item) for place, item in known if item.kind == kind]
    values = np.array([item.values for _, item in some])
    values *= math.sqrt(values.shape[1]) / some[0][1].norm
    return np.array([place for place, _ in some], np.intp), values


def _weight_distances(sketched: Sequence[Weights | None]) -> Floats:
    """(C - 1,) how far weights move, relative to the norm of the earlier checkpoint."""
    found = np.full(len(sketched) - 1, np.nan)
    for row, (first, second) in enumerate(itertools.pairwise(sketched)):
        if first is not None and second is not None and first.kind == second.kind:
            found[row] = float(np.linalg.norm(second.values - first.values)) / first.norm
    return found


def _report(found: Trajectory) -> None:
    """A line in the log."""
    exponents = [
        f", exponent of {space} {item.exponent:.2f} ({item.low:.2f} to {item.high:.2f})"
        for space, item in (("KL", found.likelihood), ("weights", found.weights))
        if item is not None
    ]
    if not found.dropped:
        logger.info(
            "%s: fewer than two checkpoints from step %g on, or nothing to drop: all texts count",
            found.name, found.from_step,
        )  # fmt: skip
    logger.info(
        "%s: %d checkpoints, %d texts left out%s; %s",
        found.name, len(found.rows), len(found.dropped), "".join(exponents), found.settled.words,
    )  # fmt: skip
