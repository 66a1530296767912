"""Distances of a text selection, against slow oracles, simulations and the distances of all."""

from __future__ import annotations

import itertools
import math
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klmap import blocks, centring, components, geometry, models_table, nearest, neighbors, store
from klmap.arrays import Floats, Ints
from klmap.design import Design
from klmap.errors import InputError
from tests.mapfiles import drawn, everything, models, selected

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
BYTES = 972.3188
UNIT = 2 * BYTES * math.log(2)


def vectors(count: int = 6, texts: int = 400, seed: int = 1) -> Floats:
    """Log-likelihoods, nats: texts differ in how far apart they drive the models."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.normal(3, 0.7, texts))
    return -0.7 * rng.uniform(250, 1024, texts) + rng.normal(size=(count, texts)) * spread


def chances(loglik: Floats) -> Floats:
    """Likelihood variance of each text, the LS chances of the paper."""
    return np.square(geometry.double_centre(loglik, -np.inf)).sum(axis=0)


def matrix(loglik: Floats) -> store.Matrix:
    threshold = float(np.quantile(loglik, 0.02))
    low = geometry.double_centre(loglik, threshold).astype(np.float32)
    count, texts = loglik.shape
    return store.Matrix(
        loglik, low, [f"org--model-{i:04d}" for i in range(count)], ["x"] * texts,
        np.full(texts, 900, np.int32), 0.02, threshold, BYTES, "f" * 64, np.full(count, 0.1),
    )  # fmt: skip


def slow_pair(first: Floats, second: Floats, design: Design) -> tuple[float, float]:
    """KL and standard error of two rows of log-likelihoods, text by text."""
    w, v, a, n = design.weight, design.variance, design.balance, design.texts
    mean_i = sum(w**2 * first) / sum(w**2)
    mean_j = sum(w**2 * second) / sum(w**2)
    t = (w * (first - mean_i) - w * (second - mean_j)) ** 2
    variance = sum((v + 1 / w**2) * t**2) - sum(t) ** 2 / n
    if (v > 0).any():
        variance -= sum(v * a * t) ** 2 / sum(v * a**2)
    return sum(t) / n / UNIT, math.sqrt(max(variance, 0)) / n / UNIT


@pytest.fixture(params=["with", "without", "sizes"])
def case(request: Any) -> tuple[Floats, Design, Ints]:
    """Log-likelihoods of the reference, and a selection of each kind; ``sizes`` fits no formula."""
    loglik = vectors()
    rng = np.random.default_rng(7)
    design, index = drawn(chances(loglik), 150, rng, request.param != "without")
    if request.param == "sizes":
        shape = design.weight.shape
        design = replace(
            design, variance=rng.uniform(0, 1, shape), balance=rng.uniform(1, 3, shape)
        )
    return loglik, design, index


def test_all_pairs_equal_the_slow_formula(case: tuple[Floats, Design, Ints]) -> None:
    loglik, design, index = case
    some = loglik[:, index]
    q = geometry.double_centre(some, -np.inf, design)
    kl, se = geometry.pairwise_kl(q, BYTES, design)
    points = geometry.features(q, BYTES, design.texts)
    for i, j in itertools.combinations(range(len(loglik)), 2):
        slow, error = slow_pair(some[i], some[j], design)
        assert kl[i, j] == pytest.approx(slow, rel=1e-9)
        assert se[i, j] == pytest.approx(error, rel=1e-5)
        assert np.sum((points[i] - points[j]) ** 2) == pytest.approx(slow, rel=1e-9)
    for array in (kl, se):
        assert np.array_equal(array, array.T)
        assert not np.diagonal(array).any()


def test_near_pairs_equal_the_slow_formula_too(case: tuple[Floats, Design, Ints]) -> None:
    loglik, design, index = case
    some = loglik[:, index]
    close = some[0] + np.random.default_rng(3).normal(0, 1e-5, (2, len(index)))
    some = np.vstack([some, close, some[:1]])
    kl, se = geometry.pairwise_kl(geometry.double_centre(some, -np.inf, design), BYTES, design)
    for i, j in itertools.combinations((0, 6, 7), 2):
        slow, error = slow_pair(some[i], some[j], design)
        assert kl[i, j] == pytest.approx(slow, rel=1e-6, abs=0)
        assert se[i, j] == pytest.approx(error, rel=1e-4, abs=0)
    assert kl[0, 8] == 0
    assert se[0, 8] == 0


def test_a_selection_of_all_texts_changes_no_distance() -> None:
    loglik = vectors(30)
    plain = matrix(loglik)
    chosen = selected(plain, everything(400), np.arange(400))
    whole, of_all = (
        geometry.pairwise_kl(geometry.double_centre(loglik, -900), BYTES),
        everything(400),
    )
    again = geometry.pairwise_kl(geometry.double_centre(loglik, -900), BYTES, of_all)
    for one, other in zip(whole, again, strict=True):
        assert one.tobytes() == other.tobytes()
    for limit in (30, 29):
        before, _ = neighbors.measure(plain, 5, limit)
        after, _ = neighbors.measure(chosen, 5, limit)
        assert np.array_equal(before.neighbor_index, after.neighbor_index)
        assert after.n_texts == 400
        # Of float32 coordinates whose last bit may differ, above the dense limit.
        loose = 1e-12 if limit == 30 else 1e-5
        np.testing.assert_allclose(after.neighbor_kl, before.neighbor_kl, rtol=loose)
        np.testing.assert_allclose(after.pca_variance, before.pca_variance, rtol=max(loose, 1e-6))


@pytest.mark.parametrize("again", [True, False], ids=["with", "without"])
@pytest.mark.parametrize("power", [1.0, 0.5], ids=["LS", "flatter"])
def test_errors_hold_the_texts_and_their_choice(again: bool, power: float) -> None:
    """A fresh set of texts and a fresh selection of it, two thousand times."""
    rng = np.random.default_rng(11)
    found, errors, truth, errors_of_all = np.zeros((4, 2000, 3))
    pairs = np.triu_indices(3, 1)
    for turn in range(2000):
        loglik = rng.normal(size=(3, 500)) * np.exp(rng.normal(3, 0.6, 500)) - 500
        whole = geometry.double_centre(loglik, -np.inf)
        design, index = drawn(np.square(whole).sum(axis=0) ** power, 120, rng, again)
        q = geometry.double_centre(loglik[:, index], -np.inf, design)
        kl, se = geometry.pairwise_kl(q, BYTES, design)
        found[turn], errors[turn] = kl[pairs], se[pairs].astype(np.float64) ** 2
        kl, se = geometry.pairwise_kl(whole, BYTES)
        truth[turn], errors_of_all[turn] = kl[pairs], se[pairs].astype(np.float64) ** 2
    claimed, of_all = errors.mean(axis=0), errors_of_all.mean(axis=0)
    np.testing.assert_allclose(np.sqrt(claimed), found.std(axis=0), rtol=0.1)
    # What the choice of the texts adds, by itself: the set of texts says most of the sum.
    added = (found - truth).std(axis=0)
    np.testing.assert_allclose(np.sqrt(claimed - of_all), added, rtol=0.1)
    # But for the mean over few texts, whose own error is of the order of 1 / 120.
    np.testing.assert_allclose(found.mean(axis=0), truth.mean(axis=0), rtol=0.015)


def test_coordinates_are_those_of_the_paper(case: tuple[Floats, Design, Ints]) -> None:
    """Weighted mean over texts, times the weight, less the mean over models; clipped before."""
    loglik, design, index = case
    some = loglik[:, index]
    q = geometry.double_centre(some, -600.0, design)
    expected = np.empty_like(some)
    for row, values in enumerate(np.maximum(some, -600)):
        mean = sum(design.weight**2 * values) / sum(design.weight**2)
        expected[row] = design.weight * (values - mean)
    np.testing.assert_allclose(q, expected - expected.mean(axis=0), atol=1e-9)
    alone = [geometry.centre_texts(some[row : row + 1], -600.0, design) for row in range(len(some))]
    assert np.array_equal(np.vstack(alone), geometry.centre_texts(some, -600.0, design))


@pytest.mark.parametrize("size", [1, 7 * 8 * 60, 1 << 25])
def test_weighted_coordinates_do_not_depend_on_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    reference = matrix(vectors(41))
    design, index = drawn(chances(reference.loglik), 90, np.random.default_rng(0))
    expected = selected(reference, design, index)
    ranges = blocks.ranges
    monkeypatch.setattr(centring, "ranges", lambda total, row: ranges(total, row, size))
    with store.create_matrix(tmp_path / "m.h5", *expected.loglik.shape) as file:
        file.write_loglik(0, expected.loglik)
        centring.write_coordinates(file, expected.clip_threshold, design)
        file.describe(**vars(expected))
    assert np.array_equal(store.read_matrix(tmp_path / "m.h5").coordinates, expected.coordinates)


def test_components_and_neighbours_are_those_of_all_pairs(
    case: tuple[Floats, Design, Ints],
) -> None:
    loglik = vectors(60)
    _, design, index = case
    q = geometry.double_centre(loglik[:, index], -np.inf, design)
    kl, se = geometry.pairwise_kl(q, BYTES, design)
    low = q.astype(np.float32)
    found = components.principal(
        lambda begin, end: low[begin:end], *low.shape, BYTES, reference=design.texts
    )
    squared = ((found.points[:, None].astype(np.float64) - found.points) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared, kl, rtol=1e-3, atol=1e-6)
    by_search = nearest.nearest(low, found, BYTES, 4, design)
    by_pairs = geometry.nearest(kl, se, 4)
    assert by_search.recall == 1
    assert np.array_equal(by_search.neighbors.index, by_pairs.index)
    np.testing.assert_allclose(by_search.neighbors.kl, by_pairs.kl, rtol=1e-5)
    np.testing.assert_allclose(by_search.neighbors.se, by_pairs.se, rtol=1e-4)


def test_what_is_measured_is_the_same_on_both_sides_of_the_dense_limit(
    case: tuple[Floats, Design, Ints],
) -> None:
    _, design, index = case
    chosen = selected(matrix(vectors(60)), design, index)
    dense, near = neighbors.measure(chosen, 4, 60)
    large, found = neighbors.measure(chosen, 4, 59)
    assert dense.kl is not None
    assert large.kl is None
    assert np.array_equal(near.index, found.index)
    np.testing.assert_allclose(found.kl, near.kl, rtol=1e-5)
    np.testing.assert_allclose(found.se, near.se, rtol=1e-4)
    for one in (dense, large):
        assert one.n_texts == design.texts
        assert one.pca_points is not None
        points = one.pca_points.astype(np.float64)
        squared = ((points[:, None] - points) ** 2).sum(axis=2)
        np.testing.assert_allclose(squared, dense.kl, rtol=1e-3, atol=1e-6)


ADDED = [1, 7]


def added_to() -> tuple[store.Distances, store.Matrix]:
    """Distances of ten models on 400 texts, and a selection with those and two more models."""
    whole = matrix(vectors(12))
    old = np.delete(np.arange(12), ADDED)[::-1]  # the reference has an order of its own
    reference = replace(
        whole, loglik=whole.loglik[old], coordinates=whole.coordinates[old],
        model=[whole.model[row] for row in old], noise=whole.noise[old],
    )  # fmt: skip
    distances, _ = neighbors.measure(reference, 5, 5000)
    design, index = drawn(chances(reference.loglik), 150, np.random.default_rng(5))
    complete = np.ones(12, np.bool_)
    complete[ADDED] = False
    return distances, selected(whole, design, index, complete)


def test_pairs_of_complete_models_keep_what_the_reference_says() -> None:
    reference, chosen = added_to()
    estimated, _ = neighbors.measure(chosen, 5, 5000)
    found, nearby = neighbors.measure(chosen, 5, 5000, reference)
    assert found.n_texts == estimated.n_texts == 400
    for one in (found, estimated, reference):
        assert one.kl is not None
        assert one.se is not None
    for i, j in itertools.product(range(12), repeat=2):
        names = chosen.model[i], chosen.model[j]
        if i in ADDED or j in ADDED:
            assert found.kl[i, j] == estimated.kl[i, j]
            assert found.se[i, j] == estimated.se[i, j]
        else:
            there = tuple(reference.model.index(name) for name in names)
            assert found.kl[i, j] == reference.kl[there]
            assert found.se[i, j] == reference.se[there]
            assert i == j or found.kl[i, j] != estimated.kl[i, j]
    again = geometry.nearest(found.kl, found.se, 5)
    assert np.array_equal(nearby.index, again.index)
    assert np.array_equal(found.neighbor_kl, again.kl)
    assert found.below_noise is not None
    assert np.array_equal(found.below_noise, geometry.below_noise(found.kl, chosen.noise, BYTES))


def test_only_complete_models_of_the_reference_keep_their_distances() -> None:
    """A model scored on the selection again, and one that the reference does not know."""
    reference, chosen = added_to()
    estimated, _ = neighbors.measure(chosen, 5, 5000)
    chosen.complete[:] = True
    chosen.complete[4] = False
    found, _ = neighbors.measure(chosen, 5, 5000, reference)
    assert found.kl is not None
    assert estimated.kl is not None
    same = (found.kl == estimated.kl).sum(axis=1)
    assert same[[*ADDED, 4]].tolist() == [12, 12, 12]
    assert (np.delete(same, [*ADDED, 4]) == 4).all()  # with these three and with itself


def test_above_the_dense_limit_all_is_estimated() -> None:
    reference, chosen = added_to()
    for limit, known in ((11, reference), (12, replace(reference, kl=None, se=None))):
        estimated, _ = neighbors.measure(chosen, 5, limit)
        found, _ = neighbors.measure(chosen, 5, limit, known)
        assert np.array_equal(found.neighbor_kl, estimated.neighbor_kl)


@pytest.mark.parametrize("change", [{"mean_bytes": 900.0}, {"n_texts": 401}])
def test_distances_of_other_texts_are_refused(change: dict[str, Any]) -> None:
    reference, chosen = added_to()
    with pytest.raises(InputError, match=r"the selection stands for 400 of 972\.319"):
        neighbors.measure(chosen, 5, 5000, replace(reference, **change))


@pytest.mark.parametrize("given", [True, False])
def test_the_command_takes_the_distances_of_a_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    reference, chosen = added_to()
    paths = {name: tmp_path / name for name in ("m.h5", "models.tsv", "of.h5", "kl.h5", "n.tsv")}
    store.write_matrix(paths["m.h5"], chosen)
    store.write_distances(paths["of.h5"], reference)
    models_table.write_models(paths["models.tsv"], models(12))
    arguments = ["kl.py", "--matrix", paths["m.h5"], "--models", paths["models.tsv"]]
    arguments += ["--reference-kl", *([paths["of.h5"]] if given else [])]
    arguments += ["--kl", paths["kl.h5"], "--neighbors-table", paths["n.tsv"]]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    runpy.run_path(str(SCRIPTS / "kl.py"))["main"]()
    expected, _ = neighbors.measure(chosen, 10, 5000, reference if given else None)
    found = store.read_distances(paths["kl.h5"])
    assert found.kl is not None
    assert np.array_equal(found.kl, expected.kl)
    assert found.n_texts == 400
