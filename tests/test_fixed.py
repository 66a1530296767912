"""Maps on which old models do not move at all when others are added."""

from __future__ import annotations

import numpy as np
import pytest

from klmap import embedding, fixed, layout, placement
from klmap.arrays import Floats
from klmap.embedding import Metric, Settings
from klmap.placement import Cloud, Layout
from tests.test_placement import cloud_of, faithful, families, kept

HOLD = Settings(iterations=500, fixed=True)


def held(first: Cloud, now: Cloud, settings: Settings = HOLD) -> tuple[Layout, Layout]:
    before = placement.make(first, settings, placement.FIRST)
    return before, placement.make(now, settings, kept(before, first, settings))


def places(made: Layout) -> dict[str, tuple[float, float]]:
    return {row.model: (row.x, row.y) for row in made.places}


def cost(place: Floats, others: Floats, affinity: Floats) -> float:
    """t-SNE's cost of one model, written down plainly."""
    closeness = [1 / (1 + np.sum((place - other) ** 2)) for other in others]
    shares = np.array(closeness) / np.sum(closeness)
    return float(np.sum(affinity * np.log(affinity / shares)))


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_old_models_stay_to_the_bit_and_new_ones_find_their_neighbours(metric: Metric) -> None:
    points = families(220)
    settings = Settings(metric=metric, iterations=500, fixed=True)
    before, after = held(cloud_of(points, range(200)), cloud_of(points, range(220)), settings)
    assert places(before).items() <= places(after).items()
    assert after.movement is not None
    assert (after.movement.kept, after.movement.new, after.movement.largest) == (200, 20, 0.0)
    xy = layout.plane_of(after.places)
    near = np.linalg.norm(xy[200:, None] - xy[None, :200], axis=2).argsort(axis=1)[:, :10]
    true = np.linalg.norm(points[200:, None] - points[None, :200], axis=2).argsort(axis=1)[:, :10]
    found = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(near, true, strict=True)])
    assert found > faithful(before, points[:200]).preserved - 0.1


def test_a_new_model_stands_where_it_costs_least() -> None:
    points = families(61)
    plane = embedding.fresh(points[:60], HOLD)
    made = fixed.place(points, np.arange(60), plane, HOLD)
    squared = ((points[:60] - points[60]) ** 2).sum(axis=1)
    affinity = embedding.affinities(squared[None], embedding.perplexity(61, HOLD))[0]
    scale = embedding.natural_scale(points[:60], plane, HOLD)
    best = cost(scale * made[60], scale * plane, affinity)
    low, high = plane.min(axis=0), plane.max(axis=0)
    grid = [np.array([x, y]) for x in np.linspace(low[0], high[0], 40)
            for y in np.linspace(low[1], high[1], 40)]  # fmt: skip
    assert best <= min(cost(scale * at, scale * plane, affinity) for at in grid) + 1e-6


def test_a_model_with_other_log_likelihoods_is_placed_anew() -> None:
    points = families(100)
    first = cloud_of(points, range(100))
    changed = points.copy()
    changed[3] = points[70] + 1e-3
    before, after = held(first, cloud_of(changed, range(100)))
    old, new = places(before), places(after)
    moved = {name for name in old if old[name] != new[name]}
    assert moved == {"org--m0003"}
    near = np.array(list(new.values()))
    assert np.linalg.norm(near[3] - near[70]) < 0.05 * np.ptp(near)


def test_models_that_leave_move_nobody() -> None:
    points = families(80)
    before, after = held(cloud_of(points, range(80)), cloud_of(points, range(70)))
    assert places(after).items() <= places(before).items()


def test_a_layout_that_does_not_know_by_what_it_was_made_goes_on_as_usual() -> None:
    points = families(80)
    first, now = cloud_of(points, range(78)), cloud_of(points, range(80))
    before = placement.make(first, HOLD, placement.FIRST)
    found = kept(before, first, HOLD)
    found.report.vectors.clear()
    made = placement.make(now, HOLD, found)
    assert made.movement is not None
    assert made.movement.largest > 0


def test_a_map_that_was_not_held_before_can_be_held_from_now_on() -> None:
    points = families(80)
    first, now = cloud_of(points, range(78)), cloud_of(points, range(80))
    free = Settings(iterations=500)
    before = placement.make(first, free, placement.FIRST)
    made = placement.make(now, HOLD, kept(before, first, free))
    assert places(before).items() <= places(made).items()


def test_one_old_model_is_enough_to_hold() -> None:
    points = np.random.default_rng(0).normal(size=(6, 4))
    made = fixed.place(points, np.array([2]), np.array([[1.0, 2.0]]), HOLD)
    assert made[2].tolist() == [1.0, 2.0]
    assert np.isfinite(made).all()
