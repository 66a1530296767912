"""Neighbours among very many models, against all pairs; components, against numpy's SVD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from klmap import blocks, components, geometry, nearest, neighbors, store
from klmap.arrays import Floats, Floats32
from klmap.components import Components

BYTES = 972.3188
UNIT = np.sqrt(2 * BYTES * np.log(2))


def made(models: int, texts: int, rank: int = 12, own: float = 0.2) -> Floats:
    """Log-likelihoods of families along shared directions, with noise of each model's own; nats."""
    rng = np.random.default_rng(models)
    families = rng.normal(size=(models // 15 + 1, rank))
    where = families[rng.integers(0, len(families), models)]
    where = where + 0.3 * rng.normal(size=where.shape)
    shared = (where * np.geomspace(0.8, 0.1, rank) * UNIT) @ rng.normal(size=(rank, texts))
    return shared + rng.normal(0, own * UNIT, (models, texts)) - rng.uniform(200, 700, texts)


def coordinates(loglik: Floats) -> Floats:
    return geometry.double_centre(loglik, -np.inf)


def principal(q: Floats | Floats32, rank: int = 128) -> Components:
    return components.principal(lambda begin, end: q[begin:end], *q.shape, BYTES, rank)


def by_svd(q: Floats) -> tuple[Floats, Floats]:
    left, values, _ = np.linalg.svd(geometry.features(q, BYTES), full_matrices=False)
    return left * values, values**2 / len(q)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few models, so that small data takes the way of large data."""
    ranges = blocks.ranges
    for module in (components, nearest):
        monkeypatch.setattr(module, "ranges", lambda total, row: ranges(total, row, 64 * row + 1))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_leading_components_are_those_of_the_svd(dtype: type) -> None:
    q = coordinates(made(500, 300))
    found = principal(q.astype(dtype), 20)
    expected, variance = by_svd(q)
    np.testing.assert_allclose(found.variance[:11], variance[:11], rtol=1e-4)
    # What follows is noise of nearly equal variance in all directions: any choice is as good.
    assert found.variance.sum() > 0.99 * variance[:20].sum()
    assert found.variance.sum() <= variance[:20].sum() * (1 + 1e-5)
    assert found.total_variance == pytest.approx(variance.sum(), rel=1e-5)
    signs = np.sign(expected[np.abs(expected).argmax(axis=0), np.arange(expected.shape[1])])
    np.testing.assert_allclose(found.points[:, :8], (expected * signs)[:, :8], atol=2e-3)


@pytest.mark.parametrize(("models", "texts"), [(2, 300), (40, 300), (129, 200), (200, 90)])
def test_all_components_leave_nothing_out(models: int, texts: int) -> None:
    q = coordinates(made(models, texts))
    found = principal(q)
    kl, _ = geometry.pairwise_kl(q, BYTES)
    assert found.points.shape == (models, min(models - 1, texts, 128))
    points = found.points.astype(np.float64)
    squared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared, kl, rtol=1e-4, atol=1e-6)
    assert found.residual.max() < 1e-6 * np.sqrt(kl.max())
    assert found.variance.sum() == pytest.approx(found.total_variance, rel=1e-5)


def test_one_model_has_no_components() -> None:
    found = principal(coordinates(made(1, 50)))
    assert found.points.shape == (1, 0)
    assert found.residual.tolist() == [0.0]
    assert found.total_variance == 0


def test_every_kl_lies_within_its_bounds() -> None:
    q = coordinates(made(300, 400))
    found = principal(q, 10)
    kl, _ = geometry.pairwise_kl(q, BYTES)
    points, rest = found.points.astype(np.float64), found.residual.astype(np.float64)
    shared = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    slack = 1e-5 * kl.max()
    assert (shared + (rest[:, None] - rest) ** 2 <= kl + slack).all()
    assert (kl <= shared + (rest[:, None] + rest) ** 2 + slack)[~np.eye(300, dtype=bool)].all()
    near = np.abs(shared + rest[:, None] ** 2 + rest**2 - kl)[np.triu_indices(300, 1)]
    assert np.median(near / kl[np.triu_indices(300, 1)]) < 0.05  # noise of one's own


@pytest.mark.usefixtures("small_blocks")
def test_threads_change_no_bit() -> None:
    q = coordinates(made(400, 64)).astype(np.float32)
    results = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            parts = principal(q, 16)
            found = nearest.nearest(q, parts, BYTES, 5)
            results.append((parts, found))
    (one, first), (two, second) = results
    for name in ("points", "residual", "variance"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
    for name in ("index", "kl", "se"):
        a, b = getattr(first.neighbors, name), getattr(second.neighbors, name)
        assert a.tobytes() == b.tobytes()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rank", [12, 128])
def test_neighbours_are_those_of_all_pairs(rank: int) -> None:
    q = coordinates(made(900, 250))
    kl, se = geometry.pairwise_kl(q, BYTES)
    dense = geometry.nearest(kl, se, 6)
    low = q.astype(np.float32)
    found = nearest.nearest(low, principal(low, rank), BYTES, 6)
    assert found.recall == 1.0
    assert found.sample == nearest.SAMPLE
    assert np.array_equal(found.neighbors.index, dense.index)
    np.testing.assert_allclose(found.neighbors.kl, dense.kl, rtol=1e-5)
    np.testing.assert_allclose(found.neighbors.se, dense.se, rtol=1e-4)


def test_planted_duplicates_are_found_however_far_they_are_from_the_components() -> None:
    """Copies of models of which the components know little, at a millionth of usual distances."""
    rng = np.random.default_rng(5)
    loglik = made(600, 300, own=1.0)
    copies = rng.permutation(600)[:60].reshape(2, 30)
    loglik[copies[1]] = loglik[copies[0]] + rng.normal(0, 1e-3 * UNIT, (30, 300))
    q = coordinates(loglik).astype(np.float32)
    found = nearest.nearest(q, principal(q, 8), BYTES, 4).neighbors
    for one, other in copies.T:
        assert found.index[one, 0] == other
        assert found.index[other, 0] == one
        difference = q[one].astype(np.float64) - q[other]
        expected = (difference**2).mean() / (2 * geometry.nats_per_unit(BYTES))
        assert found.kl[one, 0] == pytest.approx(expected, rel=1e-12)


def test_ties_are_in_the_order_of_the_rows() -> None:
    loglik = made(300, 100)
    alike = [250, 3, 77, 120, 8]
    loglik[alike] = loglik[3]
    q = coordinates(loglik).astype(np.float32)
    found = nearest.nearest(q, principal(q), BYTES, 3).neighbors
    for row in alike:
        assert found.index[row].tolist() == [one for one in sorted(alike) if one != row][:3]
        assert not found.kl[row].any()
        assert not found.se[row].any()


def test_recall_is_measured_and_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One component that says nothing, and too few candidates: the number must show it."""
    q = coordinates(made(900, 100)).astype(np.float32)
    noise = np.random.default_rng(0).normal(size=(900, 1)).astype(np.float32)
    blind = Components(noise, np.ones(900, np.float32), np.ones(1), 1.0)
    monkeypatch.setattr(nearest, "MOST_CANDIDATES", 90)
    found = nearest.nearest(q, blind, BYTES, 6)
    kl, se = geometry.pairwise_kl(q.astype(np.float64), BYTES)
    true = geometry.nearest(kl, se, 6).index
    share = np.mean(
        [np.isin(a, b).mean() for a, b in zip(found.neighbors.index, true, strict=True)]
    )
    assert found.recall < 0.5
    assert found.recall == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("models", [1, 2, 3, 30])
def test_few_models(models: int) -> None:
    q = coordinates(made(models, 40)).astype(np.float32)
    found = nearest.nearest(q, principal(q), BYTES, 10)
    assert found.neighbors.index.shape == (models, min(10, models - 1))
    assert found.recall == 1.0
    assert not (found.neighbors.index == np.arange(models)[:, None]).any()


def test_the_lowest_columns_are_the_lowest() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(20, 5003)).astype(np.float32)
    values[0] = 1.0
    values[1, 100:400] = -9.0
    values[2, -2:] = -99
    for line, found in zip(values, nearest._lowest(values.copy(), 50), strict=True):
        assert len(found) == 50
        assert (np.diff(found) > 0).all()
        assert np.array_equal(np.sort(line[found]), np.sort(line)[:50])


def test_a_large_matrix_is_read_from_the_disk(tmp_path: Path) -> None:
    loglik = made(120, 80)
    matrix = store.Matrix(
        loglik, coordinates(loglik).astype(np.float32), [f"m{i}" for i in range(120)],
        ["x"] * 80, np.ones(80, np.int32), 0.02, -1e9, BYTES, "f" * 64,
    )  # fmt: skip
    store.write_matrix(tmp_path / "matrix.h5", matrix)
    in_memory, _ = neighbors.measure(matrix, 5, 100)
    with store.open_matrix(tmp_path / "matrix.h5") as file:
        from_disk, nearby = neighbors.measure(file, 5, 100)
        dense, exact = neighbors.measure(file, 5, 120)
    assert in_memory.kl is None
    assert dense.kl is not None
    assert np.array_equal(in_memory.neighbor_index, from_disk.neighbor_index)
    assert np.array_equal(nearby.index, exact.index)
    np.testing.assert_allclose(nearby.kl, exact.kl, rtol=1e-5)
    assert (dense.recall, dense.recall_sample) == (1.0, 120)
    assert from_disk.recall == 1.0
    for found in (from_disk, dense):
        store.write_distances(tmp_path / "kl.h5", found)
        back = store.read_distances(tmp_path / "kl.h5")
        assert back.pca_points is not None
        assert back.pca_points.shape == (120, 80)
        assert back.total_variance == found.total_variance


def test_blocks_come_back_in_order_and_errors_are_raised() -> None:
    def work(begin: int, end: int) -> int:
        if begin == 90:
            raise ValueError("block 90")
        return begin * end

    def first(parts: Iterator[tuple[int, int]]) -> list[int]:
        return list(blocks.in_order(work, parts))

    with threadpool_limits(2):
        assert first(blocks.ranges(90, 8, 80)) == [n * (n + 10) for n in range(0, 90, 10)]
        with pytest.raises(ValueError, match="block 90"):
            first(blocks.ranges(100, 8, 80))
    assert list(blocks.ranges(0, 8)) == []
    assert list(blocks.ranges(3, 1 << 40)) == [(0, 1), (1, 2), (2, 3)]
