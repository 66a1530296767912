"""How straight the way between models is, by the merges on it. klmap's own, beyond the papers.

A merge averages weights. Were log-likelihoods linear in the weights, its vector would lie on the
line between those of its parents, at the share that the weights give. With row-centred vectors
``xi`` (Oyama et al. 2025, section 3) the nearest point of that line, or of the plane of three
parents, is ``sum_i t_i xi_i`` with ``sum_i t_i = 1`` by least squares; what is left of the merge's
vector says how far the way bends. Distances are KLs as everywhere, ``mean(d^2) / (2 B ln 2)`` of a
difference ``d``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from klmap.arrays import Floats
from klmap.errors import InputError
from klmap.files import write_tsv
from klmap.gathered import Gathered
from klmap.geometry import BEYOND, nats_per_unit
from klmap.log import logger
from klmap.models_table import Model

MERGE_COLUMNS = (
    "model", "parents", "weights", "weights_from", "shares", "shares_se", "kl_between",
    "kl_between_se", "beyond", "off", "off_se", "noise_floor", "bend", "bend_se", "kl_to_parents",
    "kl_to_parents_se", "bits_per_byte", "predicted", "gain", "gain_se", "best_parent",
    "gain_over_best", "gain_over_best_se", "better_than_all",
)  # fmt: skip
PATH_COLUMNS = ("first", "second", "merges", "models", "length", "direct", "ratio", "ratio_se")

_NUMBER = r"-(-?\d+(?:\.\d+)?(?:e-?\d+)?)"
_ROUNDED = 0.01
_FINAL = ("", "main")
_RANK = 1e-10


@dataclass(frozen=True)
class Way:
    """A merge, and where it lies between its parents.

    Attributes:
        model: name of the merge.
        parents: names of its k parents that were scored, in the order of its card.
        weights: k weights of its recipe, with the sum 1; None where its id does not tell.
        shares: (k,) barycentric coordinates of the nearest point between the parents.
        shares_se: (k,) their standard errors over texts.
        between: mean KL of the pairs of parents, and its standard error, bits per byte.
        off: KL between the merge and the nearest point, and its standard error, bits per byte.
        floor: what ``off`` is by the numerical errors of the scores alone, bits per byte; NaN if
            unknown.
        bend: ``off`` in units of ``between``, and its standard error; NaN between equal parents.
        to_parents: (k,) KLs between the merge and each parent, bits per byte.
        to_parents_se: (k,) their standard errors, bits per byte.
        bits_per_byte: mean code length of the texts under the merge, of unclipped values.
        predicted: the same, interpolated between the parents by ``weights``, else by ``shares``.
        gain: ``predicted`` less ``bits_per_byte``, and its standard error: above 0 the merge is
            better than the mean of its parents.
        best: row of the best parent among ``parents``.
        over_best: bits per byte by which the merge is better than that one, and the standard error.
    """

    model: str
    parents: tuple[str, ...]
    weights: tuple[float, ...] | None
    shares: Floats
    shares_se: Floats
    between: tuple[float, float]
    off: tuple[float, float]
    floor: float
    bend: tuple[float, float]
    to_parents: Floats
    to_parents_se: Floats
    bits_per_byte: float
    predicted: float
    gain: tuple[float, float]
    best: int
    over_best: tuple[float, float]

    @property
    def is_below_noise(self) -> bool:
        """Whether the bend is no larger than what the errors of the scores make."""
        return self.off[0] < self.floor

    @property
    def place(self) -> tuple[float, ...]:
        """How much of each parent is in it: its weights, else what was measured."""
        return self.weights or tuple(float(share) for share in self.shares)


@dataclass(frozen=True)
class Stretch:
    """The merges of one pair of models, as stations of the way from one to the other.

    All are of one variant: a quantised merge is no station between merges in full precision.

    Attributes:
        first: name of the model at which it begins.
        second: name of the other.
        merges: names of the merges by rising weight of the second.
        length: sum of the distances ``sqrt(KL)`` of neighbours, square roots of bits per byte.
        direct: the distance of the two models themselves.
        ratio: ``length / direct``, 1 for a straight way, and its standard error over texts.
    """

    first: str
    second: str
    merges: tuple[str, ...]
    length: float
    direct: float
    ratio: tuple[float, float]


@dataclass(frozen=True)
class Merges:
    """All ways, by parents, variant and rising weight, and a path for each two and variant."""

    ways: list[Way]
    paths: list[Stretch]
    models: int
    texts: int


def measure(found: Gathered) -> Merges:
    """Measure every merge of which at least two parents were scored.

    Args:
        found: the models, on the map and off it.

    Raises:
        InputError: the texts are a selection, of which means say nothing without weights; or a
            file is truncated.
    """
    if found.design is not None:
        raise InputError("merges are measured on all texts; leave merges out for selections")
    groups: dict[frozenset[int], dict[str, list[tuple[Way, int, tuple[int, ...]]]]] = {}
    for row, parents in known_parents(found.models):
        variants = groups.setdefault(frozenset(parents), {})
        members = variants.setdefault(found.models[row].variant, [])
        members.append((_way(found, row, parents), row, parents))
    ways, paths = [], []
    for members in (members for variants in groups.values() for members in variants.values()):
        order = members[0][2]
        members.sort(key=lambda item: (_along(item[0], item[2], order), item[0].model))
        ways += [way for way, _, _ in members]
        if len(order) == 2:
            paths.append(_path(found, order, [row for _, row, _ in members]))
    logger.info("%d merges of known parents, on %d paths", len(ways), len(paths))
    return Merges(ways, paths, len(found.models), len(found.domain))


def known_parents(models: Sequence[Model]) -> list[tuple[int, tuple[int, ...]]]:
    """Rows of the merges, each with the rows of its parents, where two of them or more are known.

    A parent is the row with its id, and its revision where the merge's card names one, of the same
    variant as the merge, else the plain one. Hidden states are neither merges nor parents.
    """
    by_name: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for row, model in enumerate(models):
        if model.layer is not None:
            continue
        names = [f"{model.id}@{model.revision}"] if model.revision else []
        if model.revision in _FINAL:
            names.append(model.id)
        for name in names:
            by_name[name, model.variant].setdefault(model.revision, row)
    found = []
    for row, model in enumerate(models):
        if model.relation != "merge" or model.layer is not None:
            continue
        parents = [
            parent
            for base in model.base_model
            if (parent := _parent(by_name, base, model.variant)) is not None and parent != row
        ]
        if len(set(parents)) == len(parents) >= 2:
            found.append((row, tuple(parents)))
    return found


def _parent(
    by_name: Mapping[tuple[str, str], Mapping[str, int]], base: str, variant: str
) -> int | None:
    rows = by_name.get((base, variant)) or by_name.get((base, "")) or {}
    return min(rows.items())[1] if rows else None


def weights_in(id: str, parents: int) -> tuple[float, ...] | None:
    """The weights that the id of a merge made here ends in, ``merge/mix-0.75-0.25``.

    Args:
        id: of the merge.
        parents: how many weights there must be.

    Returns:
        Weights with the sum 1, rounded ones made so; None where the id is another.
    """
    match = re.search(_NUMBER * parents + "$", id) if id.startswith("merge/") else None
    if match is None:
        return None
    weights = [float(text) for text in match.groups()]
    total = math.fsum(weights)
    return tuple(w / total for w in weights) if abs(total - 1) <= _ROUNDED else None


def _way(found: Gathered, row: int, parents: tuple[int, ...]) -> Way:
    model, unit = found.models[row], nats_per_unit(found.mean_bytes)
    raw = found.raw((row, *parents))
    xi = np.maximum(raw, found.clip_threshold)
    xi -= xi.mean(axis=1, keepdims=True)
    shares, shares_se, rest = _nearest(xi[0], xi[1:])
    squares = np.mean([(xi[a] - xi[b]) ** 2 for a, b in _pairs(len(parents))], axis=0)
    between, off = float(squares.mean()), float((rest**2).mean())
    bend = off / between if between > 0 else math.nan
    # The nearest point moves with the texts too, but at a minimum that changes nothing.
    bend_se = _error(rest**2 - bend * squares) / between if between > 0 else math.nan
    apart = (xi[0] - xi[1:]) ** 2
    whole = len(parents) == len(model.base_model)
    weights = weights_in(model.id, len(parents)) if whole else None
    part = np.array(weights or shares)
    gain = raw[0] - part @ raw[1:]
    best = int(np.argmax(raw[1:].mean(axis=1)))
    over = raw[0] - raw[1 + best]
    noise = found.noise[[row, *parents]]
    names = [found.models[parent].model for parent in parents]
    return Way(
        model=model.model,
        parents=tuple(names),
        weights=weights,
        shares=shares,
        shares_se=shares_se,
        between=(between / (2 * unit), _error(squares) / (2 * unit)),
        off=(off / (2 * unit), _error(rest**2) / (2 * unit)),
        floor=float(noise[0] ** 2 + shares**2 @ noise[1:] ** 2) / (2 * unit),
        bend=(bend, bend_se),
        to_parents=apart.mean(axis=1) / (2 * unit),
        to_parents_se=np.array([_error(square) for square in apart]) / (2 * unit),
        bits_per_byte=-float(raw[0].mean()) / unit,
        predicted=-float(part @ raw[1:].mean(axis=1)) / unit,
        gain=(float(gain.mean()) / unit, _error(gain) / unit),
        best=best,
        over_best=(float(over.mean()) / unit, _error(over) / unit),
    )


def _pairs(count: int) -> list[tuple[int, int]]:
    """Rows of all pairs of parents behind the row of their merge."""
    return list(combinations(range(1, count + 1), 2))


def _error(values: Floats) -> float:
    """Standard error over texts of the mean of some values."""
    return float(values.std() / math.sqrt(len(values)))


def _nearest(merge: Floats, parents: Floats) -> tuple[Floats, Floats, Floats]:
    """The point between the parents that is nearest to a merge.

    Args:
        merge: (N,) row-centred log-likelihoods, nats.
        parents: (k, N) the same of its parents.

    Returns:
        (k,) shares with the sum 1, (k,) their standard errors, and (N,) what is left, nats. Equal
        parents have equal shares.
    """
    count, texts = parents.shape
    sides = parents[1:] - parents[0]
    gram = sides @ sides.T / texts
    inverse = np.linalg.pinv(gram, rcond=_RANK, hermitian=True)
    # From the middle, so that directions in which the parents do not differ stay there.
    middle = parents.mean(axis=0)
    further = inverse @ (sides @ (merge - middle)) / texts
    shares = np.full(count, 1 / count)
    shares[1:] += further
    shares[0] -= further.sum()
    rest = merge - shares @ parents
    moves = inverse @ (sides * rest)
    moves = np.vstack([-moves.sum(axis=0), moves])
    errors = np.sqrt((moves**2).mean(axis=1) / texts)
    return shares, np.asarray(errors, np.float64), np.asarray(rest, np.float64)


def _along(way: Way, parents: tuple[int, ...], order: tuple[int, ...]) -> float:
    """How much of the second of the parents, in the order of the first merge, is in a merge."""
    return way.place[parents.index(order[1])]


def _path(found: Gathered, ends: tuple[int, ...], merges: Sequence[int]) -> Stretch:
    """The way from one model to another over their merges.

    The standard error of the ratio is by the delta method: of a distance ``sqrt(m)`` with
    ``m = mean(d^2)`` each text has the part ``(d^2 - m) / (2 sqrt(m))``.
    """
    stations = [ends[0], *merges, ends[1]]
    xi = found.loglik(stations)
    xi -= xi.mean(axis=1, keepdims=True)
    unit = math.sqrt(2 * nats_per_unit(found.mean_bytes))
    length, moves = 0.0, np.zeros(xi.shape[1])
    for here, there in pairwise(xi):
        step, move = _distance(here - there)
        length, moves = length + step, moves + move
    direct, straight = _distance(xi[0] - xi[-1])
    ratio = length / direct if direct > 0 else math.nan
    error = _error(moves - ratio * straight) / direct if direct > 0 else math.nan
    names = [found.models[row].model for row in stations]
    return Stretch(
        first=names[0],
        second=names[-1],
        merges=tuple(names[1:-1]),
        length=length / unit,
        direct=direct / unit,
        ratio=(ratio, error),
    )


def _distance(difference: Floats) -> tuple[float, Floats]:
    """Root of the mean square, and how much each text moves it."""
    squares = difference**2
    root = math.sqrt(squares.mean())
    if not root:
        return 0.0, np.zeros_like(squares)
    return root, (squares - squares.mean()) / (2 * root)


def write(folder: Path, found: Merges) -> None:
    """Write merges.tsv and paths.tsv; both have a header where there are no merges."""
    write_tsv(folder / "merges.tsv", MERGE_COLUMNS, (_row(way) for way in found.ways))
    rows = (
        (
            item.first, item.second, len(item.merges), ",".join(item.merges), item.length,
            item.direct, _known(item.ratio[0]), _known(item.ratio[1]),
        )
        for item in found.paths
    )  # fmt: skip
    write_tsv(folder / "paths.tsv", PATH_COLUMNS, rows)


def _row(way: Way) -> tuple[str | float | None, ...]:
    return (
        way.model, ",".join(way.parents), _joined(way.place), "id" if way.weights else "measured",
        _joined(way.shares), _joined(way.shares_se), *way.between,
        "beyond" if way.between[0] > BEYOND else "", *way.off, _known(way.floor),
        _known(way.bend[0]), _known(way.bend[1]), _joined(way.to_parents),
        _joined(way.to_parents_se), way.bits_per_byte, way.predicted, *way.gain,
        way.parents[way.best], *way.over_best, "yes" if way.over_best[0] > 0 else "no",
    )  # fmt: skip


def _joined(values: Sequence[float] | Floats) -> str:
    return ",".join(f"{value:.6g}" for value in values)


def _known(value: float) -> float | None:
    """The number, or None, an empty cell, where there is none."""
    return None if math.isnan(value) else value
