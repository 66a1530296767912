"""Pairs within groups: all of them, or a sample where there are too many to list. klmap's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from klmap.arrays import Rows

ENUMERATED = 1 << 20
"""Up to so many pairs all are looked at; of more, some are drawn."""

_ROUNDS = 40

Pair = tuple[int, int]
Labels = Mapping[int, frozenset[tuple[object, ...]]]


def sample(pairs: Sequence[Pair], most: int, rng: np.random.Generator) -> tuple[Rows, bool]:
    """Some of the pairs in their order, all of them where there are few.

    Args:
        pairs: P of them.
        most: how many are kept at most.
        rng: chooses them.

    Returns:
        (P, 2) the pairs, and whether there are more.
    """
    table: Rows = np.array(pairs, np.intp).reshape(-1, 2)
    if len(table) <= most:
        return table, False
    return table[np.sort(rng.choice(len(table), most, replace=False))], True


def grouped(labels: Labels) -> list[Rows]:
    """Rows that share a label.

    Args:
        labels: of each row.

    Returns:
        Members of each group, rising, at least two.
    """
    groups: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for row in sorted(labels):
        for label in labels[row]:
            groups[label].append(row)
    return [np.array(rows, np.intp) for rows in sorted(groups.values()) if len(rows) > 1]


def within(
    groups: Sequence[Rows], fits: Callable[[Pair], bool], most: int, rng: np.random.Generator
) -> tuple[Rows, bool]:
    """Pairs of members of one group, each pair once.

    Of groups with more than ``ENUMERATED`` pairs in all, pairs are drawn until enough of them fit;
    where only few do, fewer than ``most`` can be the result.

    Args:
        groups: members of each, rising, at least two.
        fits: whether a pair, the lower one first, counts.
        most: how many are kept at most.
        rng: chooses them.

    Returns:
        (P, 2) the pairs in rising order, and whether there are more.
    """
    if sum(len(rows) * (len(rows) - 1) // 2 for rows in groups) <= ENUMERATED:
        listed: set[Pair] = set()
        for rows in groups:
            places = np.triu_indices(len(rows), 1)
            both = zip(*(rows[place].tolist() for place in places), strict=True)
            listed.update(pair for pair in both if fits(pair))
        return sample(sorted(listed), most, rng)
    drawn: dict[Pair, None] = {}
    for _ in range(_ROUNDS):
        drawn.update((pair, None) for pair in _draw(groups, 2 * most, rng) if fits(pair))
        if len(drawn) >= most:
            break
    return np.array(sorted(list(drawn)[:most]), np.intp).reshape(-1, 2), True


def _draw(groups: Sequence[Rows], count: int, rng: np.random.Generator) -> Iterable[Pair]:
    """Pairs within groups, each as likely as any other."""
    sizes = np.array([len(rows) for rows in groups])
    begins = np.concatenate([[0], np.cumsum(sizes)])
    everything = np.concatenate(list(groups))
    chances = sizes * (sizes - 1.0)
    group = rng.choice(len(groups), count, p=chances / chances.sum())
    one = rng.integers(0, sizes[group])
    other = rng.integers(0, sizes[group] - 1)
    other += other >= one
    pairs = np.sort(everything[begins[group] + np.stack([one, other])], axis=0)
    return zip(pairs[0].tolist(), pairs[1].tolist(), strict=True)
