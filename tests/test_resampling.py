"""Fewer texts: probabilities, draws, and how exact KLs of a selection are; against simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from klmap import pair_errors, resampling
from klmap.arrays import Floats
from klmap.pair_sums import Pairs
from klmap.resampling import Drawn


def coordinates(models: int = 12, texts: int = 400, uneven: float = 0.8, seed: int = 0) -> Floats:
    """Q of models that differ more on some texts than on others."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.normal(0, uneven, texts))
    shared = rng.normal(size=(models, 3)) @ rng.normal(size=(3, texts))
    q = 20 * size * (shared + rng.normal(size=(models, texts)))
    q -= q.mean(axis=1, keepdims=True)
    return np.asarray(q - q.mean(axis=0))


def chances(q: Floats, method: str = "ls") -> Floats:
    return resampling.probabilities(resampling.moments([q], q.shape[1]), method)


def slow_squares(q: Floats) -> Floats:
    """``y_s`` of every pair, (P, N)."""
    models = len(q)
    return np.array([(q[i] - q[j]) ** 2 for i in range(models) for j in range(i + 1, models)])


def estimates(q: Floats, drawn: Drawn) -> Floats:
    """``sum_u w_u^2 y_u`` of every pair."""
    return np.asarray(slow_squares(q)[:, drawn.index] @ drawn.design.times)


def test_kl_probability_is_the_root_of_the_double_sum_over_pairs() -> None:
    q = coordinates(models=7, texts=50) + 3  # the polynomial needs no centring
    slow = np.sqrt([((q[:, None, s] - q[None, :, s]) ** 4).sum() for s in range(50)])
    np.testing.assert_allclose(chances(q, "kl"), slow / slow.sum(), rtol=1e-9)


def test_ls_probability_is_the_share_of_the_squares_and_uniform_is_even() -> None:
    q = coordinates(models=7, texts=50)
    np.testing.assert_allclose(chances(q), (q**2).sum(axis=0) / (q**2).sum(), rtol=1e-12)
    np.testing.assert_allclose(chances(q, "uniform"), 1 / 50, rtol=1e-12)


def test_moments_do_not_depend_on_the_blocks() -> None:
    q = coordinates(models=9)
    parts = resampling.moments([q[:2], q[2:3], q[3:]], q.shape[1])
    assert parts.models == 9
    powers = np.array([(q**order).sum(axis=0) for order in (1, 2, 3, 4)])
    np.testing.assert_allclose(parts.sums, powers, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("method", ["ls", "kl"])
def test_a_text_on_which_all_models_agree_is_never_drawn(method: str) -> None:
    q = coordinates()
    q[:, [0, 7, 399]] = 0
    chance = chances(q, method)
    assert not chance[[0, 7, 399]].any()
    for replacement in (True, False):
        drawn = resampling.draw(chance, 390, replacement, None, 1)
        assert not {0, 7, 399} & set(drawn.index.tolist())


def test_models_that_all_agree_and_unknown_methods_are_refused() -> None:
    with pytest.raises(ValueError, match="all 3 models agree on every text"):
        chances(np.zeros((3, 10)))
    with pytest.raises(ValueError, match="'length', not one of uniform, ls, kl"):
        chances(coordinates(), "length")


def test_expected_number_of_different_texts_is_the_closed_form() -> None:
    for texts, n in ((10_000, 10_000), (10_000, 2_500), (7, 3)):
        found = resampling.expected_unique(np.full(texts, 1 / texts), n)
        assert found == pytest.approx(texts * (1 - (1 - 1 / texts) ** n))


def test_expected_number_of_different_texts_is_what_draws_find() -> None:
    chance = chances(coordinates())
    found = [len(resampling.draw(chance, 300, True, None, seed).index) for seed in range(400)]
    assert np.mean(found) == pytest.approx(resampling.expected_unique(chance, 300), rel=0.01)


def test_draws_for_is_the_smallest_number_that_finds_so_many() -> None:
    chance = chances(coordinates())
    for unique in (1, 2, 80, 200.5, 399):
        n = resampling.draws_for(chance, unique)
        assert resampling.expected_unique(chance, n) >= unique
        assert n == 1 or resampling.expected_unique(chance, n - 1) < unique
    with pytest.raises(ValueError, match="401 different texts are asked for, of 400"):
        resampling.draws_for(chance, 401)


@pytest.mark.parametrize("n", [1, 40, 200, 399, 400])
def test_inclusion_adds_up_to_n_and_is_in_proportion_below_one(n: int) -> None:
    chance = chances(coordinates(uneven=1.5))
    found = resampling.inclusion(chance, n)
    assert found.sum() == pytest.approx(n)
    assert found.max() <= 1
    below = found < 1
    if below.any():
        ratio = found[below] / chance[below]
        np.testing.assert_allclose(ratio, ratio[0])
        assert (chance[~below] * ratio[0] >= 1 - 1e-6).all()
    if n == 200:
        assert 10 < (~below).sum() < 200


def test_more_texts_than_there_are_is_refused_without_replacement() -> None:
    chance = chances(coordinates())
    chance[:5] = 0
    with pytest.raises(ValueError, match=r"396 texts are asked for .* of 395 .* lower n"):
        resampling.draw(chance, 396, False, None, 0)
    with pytest.raises(ValueError, match="at least one text"):
        resampling.draw(chance, 0, True, None, 0)


def test_without_replacement_each_text_is_in_as_often_as_it_should_be() -> None:
    chance = chances(coordinates(texts=60, uneven=1.2))
    included = resampling.inclusion(chance, 25)
    order = np.random.default_rng(3).permutation(60)
    found = np.zeros(60)
    for seed in range(3000):
        drawn = resampling.draw(chance, 25, False, order, seed)
        assert len(drawn.index) == 25
        assert (np.diff(drawn.index) > 0).all()
        assert (drawn.count == 1).all()
        found[drawn.index] += 1
    np.testing.assert_allclose(found / 3000, included, atol=0.04)
    assert (found[included == 1] == 3000).all()


def test_each_kind_of_text_gets_its_share_without_replacement() -> None:
    code = np.arange(400) % 3
    order = resampling.spread(code, np.random.default_rng(0).normal(size=400))
    assert sorted(order.tolist()) == list(range(400))
    chance = chances(coordinates())
    share = np.bincount(code, resampling.inclusion(chance, 90))
    for seed in range(50):
        drawn = resampling.draw(chance, 90, False, order, seed)
        assert (abs(np.bincount(code[drawn.index]) - share) <= 1.001).all()


def test_spread_goes_by_domain_and_then_along_the_axis() -> None:
    code, axis = np.array([1, 0, 1, 0, 2]), np.array([0.5, 2.0, -1.0, 1.0, 0.0])
    assert resampling.spread(code, axis).tolist() == [3, 1, 2, 0, 4]


def test_with_replacement_a_text_counts_by_its_draws_over_its_chance() -> None:
    chance = chances(coordinates())
    drawn = resampling.draw(chance, 500, True, None, 4)
    assert drawn.count.sum() == 500
    assert drawn.count.max() > 1
    design = drawn.design
    assert design.texts == 400
    np.testing.assert_allclose(design.weight, np.sqrt(drawn.count / (500 * chance[drawn.index])))
    np.testing.assert_allclose(design.variance, 1 / drawn.count)
    np.testing.assert_array_equal(design.balance, drawn.count)


def test_without_replacement_a_text_counts_by_the_inverse_of_its_chance() -> None:
    chance = chances(coordinates(uneven=1.5))
    drawn = resampling.draw(chance, 200, False, None, 4)
    included = resampling.inclusion(chance, 200)[drawn.index]
    np.testing.assert_allclose(drawn.design.weight, included**-0.5)
    np.testing.assert_allclose(drawn.design.variance, 1 - included)
    assert (drawn.design.variance[included == 1] == 0).all()
    assert (drawn.design.balance == 1).all()


def test_fewer_draws_are_the_first_of_more_draws() -> None:
    chance = chances(coordinates())
    counts = []
    for n in (50, 51, 120, 1000):
        drawn = resampling.draw(chance, n, True, None, 9)
        count = np.zeros(400, int)
        count[drawn.index] = drawn.count
        counts.append(count)
    for fewer, more in itertools.pairwise(counts):
        assert (fewer <= more).all()


@pytest.mark.parametrize("replacement", [True, False])
def test_the_seed_decides_the_draw(replacement: bool) -> None:
    chance = chances(coordinates())
    first, again, other = (
        resampling.draw(chance, 100, replacement, None, seed) for seed in (1, 1, 2)
    )
    assert first.index.tolist() == again.index.tolist()
    assert first.design.weight.tobytes() == again.design.weight.tobytes()
    assert first.index.tolist() != other.index.tolist()


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("method", resampling.METHODS)
def test_distances_of_a_selection_are_unbiased(method: str, replacement: bool) -> None:
    q = coordinates(models=5)
    chance = chances(q, method)
    found = [
        estimates(q, resampling.draw(chance, 150, replacement, None, seed)) for seed in range(800)
    ]
    exact = slow_squares(q).sum(axis=1)
    error = np.std(found, axis=0) / math.sqrt(800)
    assert (abs(np.mean(found, axis=0) - exact) < 4 * error).all()


def test_gram_is_that_of_the_weighted_centring() -> None:
    q = coordinates(models=5)
    drawn = resampling.draw(chances(q), 150, True, None, 0)
    weight = drawn.design.weight
    slow = []
    for row in q[:, drawn.index]:
        mean = (weight**2 * row).sum() / (weight**2).sum()
        slow.append(weight * (row - mean))
    np.testing.assert_allclose(
        resampling.gram(q, drawn), [[a @ b for b in slow] for a in slow], rtol=1e-9
    )


def test_gram_of_all_texts_without_replacement_is_exact() -> None:
    q = coordinates()
    drawn = resampling.draw(chances(q), 400, False, None, 0)
    np.testing.assert_allclose(resampling.gram(q, drawn), q @ q.T, rtol=1e-9, atol=1e-6)


def error_of(
    q: Floats, method: str, n: int, replacement: bool = True, draws: int = 60, seed: int = 0
) -> float:
    """Root mean square of the absolute error over draws."""
    exact = resampling.squared_distances(q @ q.T)
    chance = chances(q, method)
    order = np.random.default_rng(5).permutation(q.shape[1])
    found = []
    for draw in range(draws):
        drawn = resampling.draw(chance, n, replacement, order, seed + draw)
        estimate = resampling.squared_distances(resampling.gram(q, drawn))
        found.append(resampling.absolute_error(estimate, exact))
    return math.sqrt(np.mean(np.square(found)))


@pytest.mark.parametrize("method", resampling.METHODS)
def test_errors_fall_with_the_root_of_the_number_of_draws(method: str) -> None:
    q = coordinates()
    few, many = (error_of(q, method, n) for n in (100, 1600))
    assert few / many == pytest.approx(4, rel=0.25)


def test_ls_and_kl_beat_uniform_with_as_many_different_texts() -> None:
    q = coordinates()
    numbers = {
        method: resampling.draws_for(chances(q, method), 120) for method in resampling.METHODS
    }
    error = {method: error_of(q, method, n) for method, n in numbers.items()}
    assert error["uniform"] > 1.4 * error["ls"]
    assert error["uniform"] > 1.4 * error["kl"]


@pytest.mark.parametrize("method", resampling.METHODS)
def test_without_replacement_beats_with_for_as_many_different_texts(method: str) -> None:
    q = coordinates()
    n = resampling.draws_for(chances(q, method), 160)
    assert error_of(q, method, n) > 1.1 * error_of(q, method, 160, replacement=False)


def test_errors_are_those_of_the_formulas() -> None:
    exact = np.array([[0.0, 4.0], [4.0, 0.0]])
    estimate = np.array([[0.0, 5.0], [5.0, 0.0]])
    assert resampling.absolute_error(estimate, exact) == pytest.approx(0.25)
    assert resampling.relative_error(estimate, exact) == pytest.approx(math.sqrt(0.0625 / 2))
    tiny = np.array([[0.0, 1e-4], [1e-4, 0.0]])
    assert resampling.relative_error(2 * tiny, tiny) == pytest.approx(0.1 / math.sqrt(2))


def test_squared_distances_follow_from_inner_products() -> None:
    q = coordinates(models=6)
    slow = [[((a - b) ** 2).sum() for b in q] for a in q]
    np.testing.assert_allclose(resampling.squared_distances(q @ q.T), slow, rtol=1e-9)


def test_sums_over_pairs_are_those_of_their_differences_even_of_near_pairs() -> None:
    q = coordinates(models=8)
    q[3] = q[2] + 1e-6 * q[4]
    q[6] = q[5]
    y = slow_squares(q)
    pairs = Pairs(q)
    weight = np.exp(np.random.default_rng(1).normal(size=400))
    np.testing.assert_allclose(pairs.squares, y.sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(pairs.sums(weight), y @ weight, rtol=1e-9)
    np.testing.assert_allclose(pairs.fourths(weight), y**2 @ weight, rtol=1e-8)
    assert (pairs.squares == 0).sum() == 1


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("method", ["uniform", "ls"])
def test_the_expected_error_of_a_pair_is_what_draws_show(method: str, replacement: bool) -> None:
    q = coordinates(models=6, texts=300)
    chance = chances(q, method)
    exact = slow_squares(q).sum(axis=1)
    rng = np.random.default_rng(2)
    found = [
        estimates(q, resampling.draw(chance, 120, replacement, rng.permutation(300), seed)) / exact
        for seed in range(2500)
    ]
    expected = pair_errors.pair_error(q, chance, 120, replacement)
    assert len(expected) == 15
    np.testing.assert_allclose(np.std(found, axis=0), expected, rtol=0.1)


def test_an_order_of_like_beside_like_makes_errors_smaller_than_expected() -> None:
    rng = np.random.default_rng(0)
    domain = np.arange(600) % 3
    axis = rng.normal(size=600)
    toward = rng.normal(0, 30, (6, 3))[:, domain] + np.outer(rng.normal(0, 30, 6), axis)
    q = toward + rng.normal(0, 10, (6, 600))
    q -= q.mean(axis=1, keepdims=True)
    q -= q.mean(axis=0)
    chance = chances(q)
    order = resampling.spread(domain, axis)
    exact = slow_squares(q).sum(axis=1)
    found = [
        estimates(q, resampling.draw(chance, 120, False, order, seed)) / exact
        for seed in range(400)
    ]
    expected = pair_errors.pair_error(q, chance, 120, replacement=False)
    assert np.mean(np.std(found, axis=0)) < 0.8 * expected.mean()


def test_all_texts_without_replacement_have_no_error() -> None:
    q = coordinates()
    assert pair_errors.pair_error(q, chances(q), 400, replacement=False).max() < 1e-6


def test_pairs_of_equal_models_do_not_count() -> None:
    q = coordinates(models=6)
    q[5] = q[4]
    assert len(pair_errors.pair_error(q, chances(q), 100, replacement=True)) == 14
    with pytest.raises(ValueError, match="no two models differ"):
        pair_errors.pair_error(np.ones((3, 1)) * q[0], chances(q), 100, replacement=True)


def test_share_within_is_the_mean_chance_of_a_normal_error() -> None:
    errors = np.array([0.05, 0.1, 0.0])
    expected = (0.9544997 + 0.6826895 + 1) / 3
    assert pair_errors.share_within(errors, 0.1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("replacement", [True, False])
def test_the_number_of_texts_for_an_error_is_the_smallest(replacement: bool) -> None:
    q = coordinates()
    chance = chances(q)
    n = pair_errors.texts_for(q, chance, replacement, 0.15, 0.9)
    assert n == pair_errors.texts_for(Pairs(q), chance, replacement, 0.15, 0.9)
    shares = []
    for number in (n - 1, n):
        # The mean over the texts is estimated too.
        error = np.sqrt(pair_errors.pair_error(q, chance, number, replacement) ** 2 + 3 / number**2)
        shares.append(pair_errors.share_within(error, 0.15))
    assert shares[0] < 0.9 <= shares[1]


@pytest.mark.parametrize("replacement", [True, False])
def test_a_single_pair_is_no_reason_to_draw_two_texts(replacement: bool) -> None:
    """Its own texts are chosen so well that only the error of the mean is left."""
    q = coordinates()[:2]
    q = q - q.mean(axis=0)
    n = pair_errors.texts_for(q, chances(q), replacement, 0.05, 0.95)
    assert n > 50


@pytest.mark.parametrize("replacement", [True, False])
def test_the_number_of_texts_for_an_error_keeps_what_it_promises(replacement: bool) -> None:
    q = coordinates()
    chance = chances(q)
    n = pair_errors.texts_for(q, chance, replacement, 0.15, 0.9)
    exact = resampling.squared_distances(q @ q.T)[np.triu_indices(len(q), 1)]
    rng = np.random.default_rng(8)
    within = []
    for seed in range(300):
        drawn = resampling.draw(chance, n, replacement, rng.permutation(400), seed)
        found = resampling.squared_distances(resampling.gram(q, drawn))
        within.append(np.mean(abs(found[np.triu_indices(len(q), 1)] / exact - 1) <= 0.15))
    assert np.mean(within) == pytest.approx(0.9, abs=0.03)


def test_an_error_that_takes_nearly_all_texts_is_refused_with_replacement_alone() -> None:
    q = coordinates()
    chance = chances(q)
    with pytest.raises(ValueError, match="use replacement: false, or a larger error"):
        pair_errors.texts_for(q, chance, True, 0.001, 0.99)
    assert 300 < pair_errors.texts_for(q, chance, False, 0.001, 0.99) <= 400
