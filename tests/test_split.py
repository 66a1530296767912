"""The part of each domain in a KL, against sums that are written out."""

import numpy as np
import pytest

from klmap import split
from tests.mapfiles import InMemory

BYTES = 700.0
LABELS = ["code"] * 5 + ["prose"] * 9 + ["code"] * 4 + ["legal"] * 3


@pytest.fixture
def matrix() -> InMemory:
    rng = np.random.default_rng(3)
    return InMemory(rng.normal(-600, 150, (12, len(LABELS))), LABELS)


def slow(matrix: InMemory, i: int, j: int) -> dict[str, float]:
    """One text after the other."""
    clipped = [[max(v, matrix.clip_threshold) for v in row] for row in matrix.values]
    means = [sum(row) / len(row) for row in clipped]
    total = dict.fromkeys(matrix.domain, 0.0)
    for s, name in enumerate(matrix.domain):
        difference = (clipped[i][s] - means[i]) - (clipped[j][s] - means[j])
        total[name] += difference**2 / (2 * len(LABELS) * BYTES * np.log(2))
    return total


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(count, 1)


def test_a_part_is_the_sum_over_its_texts(matrix: InMemory):
    first, second = pairs(12)
    found = split.parts(matrix, first, second)
    names = split.domains_of(LABELS).names
    assert names == ("code", "prose", "legal")
    for i, j, row in zip(first, second, found, strict=True):
        expected = slow(matrix, i, j)
        np.testing.assert_allclose(row, [expected[name] for name in names], rtol=1e-12)


def test_the_parts_add_up_to_the_kl(matrix: InMemory):
    first, second = pairs(12)
    clipped = np.maximum(matrix.values, matrix.clip_threshold)
    kl = np.var(clipped[first] - clipped[second], axis=1) / (2 * BYTES * np.log(2))
    np.testing.assert_allclose(split.parts(matrix, first, second).sum(axis=1), kl, rtol=1e-12)


def test_near_models_keep_their_digits(matrix: InMemory):
    matrix.values[1] = matrix.values[0] + 1e-4 * np.arange(len(LABELS))
    matrix.clip_threshold = -1e9
    found = split.parts(matrix, np.array([0]), np.array([1]))
    kl = np.var(1e-4 * np.arange(len(LABELS))) / (2 * BYTES * np.log(2))
    np.testing.assert_allclose(found.sum(), kl, rtol=1e-7)


def test_equal_models_differ_nowhere(matrix: InMemory):
    matrix.values[4] = matrix.values[7]
    assert not split.parts(matrix, np.array([4, 2]), np.array([7, 2])).any()


@pytest.mark.parametrize("columns", [1, 4, 20])
def test_blocks_change_nothing(matrix: InMemory, columns: int):
    first, second = np.array([9, 3, 3]), np.array([1, 9, 4])
    expected = split.parts(matrix, first, second)
    found = split.parts(matrix, first, second, block_bytes=8 * 4 * columns)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_whole_domains_are_never_cut(matrix: InMemory):
    domains = split.domains_of(LABELS)
    for columns in (1, 10, 19, 100):
        size = columns * 8 * len(matrix.values)
        found = list(split.blocks(matrix, domains, whole=True, block_bytes=size))
        seen = [set(block.domains.tolist()) for block in found]
        assert sorted(number for some in seen for number in some) == [0, 1, 2]
        assert sum(block.values.shape[1] for block in found) == len(LABELS)
    assert len(found) == 1


def test_no_pairs_have_no_parts(matrix: InMemory):
    none = np.zeros(0, int)
    assert split.parts(matrix, none, none).shape == (0, 3)


def test_the_largest_domains_come_first_and_many_are_joined():
    labels = [f"d{number}" for number in range(40) for _ in range(number + 1)]
    domains = split.domains_of(labels)
    assert len(domains.names) == split.MOST_DOMAINS
    assert domains.names[:2] == ("d39", "d38")
    assert domains.names[-1] == "9 smaller domains"
    assert domains.joined == 9
    assert domains.sizes[-1] == sum(range(1, 10))
    assert domains.sizes == tuple(np.bincount(domains.code))
    assert split.domains_of(labels, most=40).joined == 0
    few = split.domains_of(["a"] * 9 + ["b"] * 2 + ["c"] * 3 + ["d"] * 8, least=5)
    assert few.names == ("a", "d", "2 smaller domains")
    assert few.sizes == (9, 8, 5)


def test_joined_domains_have_a_name_of_their_own_and_one_alone_keeps_its_own() -> None:
    labels = ["a"] * 30 + ["b"] * 25 + ["c"] * 4 + ["d"] * 3
    several = split.domains_of(labels, least=20)
    assert (several.names, several.sizes) == (("a", "b", "2 smaller domains"), (30, 25, 7))
    assert several.joined == 2
    alone = split.domains_of(labels[:-3], least=20)
    assert (alone.names, alone.sizes, alone.joined) == (("a", "b", "c"), (30, 25, 4), 0)
    few = split.domains_of(labels, most=3)
    assert (few.names, few.joined) == (("a", "b", "2 smaller domains"), 2)
