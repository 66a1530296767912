"""How some texts stand for all: weights, shares, and what bootstrap samples make of them."""

from __future__ import annotations

import numpy as np
import pytest

from klmap import resampling
from klmap.arrays import Floats
from klmap.design import Design

DRAWS = 12_000


def drawn(replacement: bool) -> Design:
    chance = np.random.default_rng(0).gamma(2, size=80)
    return resampling.draw(chance / chance.sum(), 50, replacement, None, 1).design


def samples(design: Design) -> Floats:
    generator = np.random.default_rng(7)
    return np.array([design.multipliers(generator) for _ in range(DRAWS)])


def test_times_and_shares_follow_from_the_weights() -> None:
    design = drawn(replacement=True)
    np.testing.assert_allclose(design.times, design.weight**2)
    np.testing.assert_allclose(design.share, design.weight**2 / (design.weight**2).sum())


@pytest.mark.parametrize("replacement", [True, False])
def test_bootstrap_samples_are_the_selection_in_the_mean(replacement: bool) -> None:
    found = samples(drawn(replacement))
    assert (found >= 0).all()
    np.testing.assert_allclose(found.mean(axis=0), 1, atol=0.06)


@pytest.mark.parametrize("replacement", [True, False])
def test_bootstrap_samples_vary_as_choice_of_texts_and_of_their_set_do(replacement: bool) -> None:
    design = drawn(replacement)
    found = samples(design)
    rng = np.random.default_rng(3)
    for _ in range(8):
        t = design.times * rng.gamma(1, size=len(design.weight))
        v, a = design.variance, design.balance
        choice = v @ t**2 - (v * a @ t) ** 2 / (v @ a**2)
        chosen_from = t**2 @ (1 / design.times) - t.sum() ** 2 / design.texts
        assert np.var(found @ t) == pytest.approx(choice + chosen_from, rel=0.15)


def test_texts_that_were_all_taken_vary_as_those_of_an_ordinary_set() -> None:
    texts = 60
    design = Design(np.ones(texts), np.zeros(texts), np.ones(texts), texts)
    found = samples(design)
    np.testing.assert_allclose(found.sum(axis=1), texts)
    t = np.random.default_rng(3).gamma(1, size=texts)
    assert np.var(found @ t) == pytest.approx(texts * np.var(t), rel=0.06)


def test_the_same_generator_makes_the_same_sample() -> None:
    design = drawn(replacement=False)
    first, again = (design.multipliers(np.random.default_rng(5)) for _ in range(2))
    assert first.tobytes() == again.tobytes()
