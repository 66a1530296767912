"""The matrix by blocks is the matrix at once, bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from klmap import blocks, centring, geometry, store
from klmap.arrays import Floats
from klmap.centring import LowQuantile


def parts(values: Floats, rng: np.random.Generator) -> list[Floats]:
    """The values in a random order, cut at random places; some parts may be empty."""
    cuts = np.sort(rng.integers(0, len(values) + 1, rng.integers(0, 6)))
    return np.split(rng.permutation(values), cuts)


@pytest.mark.parametrize("seed", range(60))
def test_a_stream_has_numpys_quantile_to_the_last_bit(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many sizes, ties, a spare so small that the lowest are sorted out again and again."""
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(centring, "_SPARE", int(rng.integers(1, 50)))
    size = int(rng.choice([1, 2, 3, 49, 50, 51, 52, 100, 101, 1000, 4999, 5001, 20_011]))
    values = -np.exp(rng.normal(5, 2, size))
    if seed % 3 == 0:
        values = np.round(values, -1 if seed % 2 else -3)
    share = float(rng.choice([0.02, 0.02, 0.001, 0.5, 0.0]))
    spare = int(rng.choice([0, 1, 300]))  # models that failed: fewer values than there could be
    stream = LowQuantile(share, size + spare)
    for part in parts(values, rng):
        stream.add(part)
    assert stream.value() == np.quantile(values, share)


def test_values_that_fall_all_the_time_are_the_worst_case_and_still_right() -> None:
    values = -np.arange(3_000_000.0)
    stream = LowQuantile(0.02, len(values))
    for begin in range(0, len(values), 10_000):
        stream.add(values[begin : begin + 10_000].reshape(10, -1))
    assert stream.value() == np.quantile(values, 0.02)


def test_only_the_lowest_values_are_kept() -> None:
    stream = LowQuantile(0.02, 10**9)
    assert stream._lowest.nbytes < 1.5 * 0.02 * 10**9 * 8 + 1e6


@pytest.mark.parametrize("size", [1, 7 * 8 * 60, 1 << 25])
def test_coordinates_do_not_depend_on_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    rng = np.random.default_rng(2)
    loglik = rng.normal(-600, 150, (41, 60))
    threshold = geometry.clip_threshold(loglik)
    expected = geometry.double_centre(loglik, threshold).astype(np.float32)
    ranges = blocks.ranges
    monkeypatch.setattr(centring, "ranges", lambda total, row: ranges(total, row, size))
    with store.create_matrix(tmp_path / "m.h5", 41, 60) as file:
        file.write_loglik(0, loglik)
        centring.write_coordinates(file, threshold)
        file.describe(
            model=[str(row) for row in range(41)], domain=["x"] * 60,
            n_bytes=np.ones(60, np.int32), noise=np.ones(41), clip_quantile=0.02,
            clip_threshold=threshold, mean_bytes=1.0, texts_sha256="f" * 64,
        )  # fmt: skip
    found = store.read_matrix(tmp_path / "m.h5")
    assert np.array_equal(found.loglik, loglik)
    assert np.array_equal(found.coordinates, expected)
