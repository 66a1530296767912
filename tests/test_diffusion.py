"""Diffusion exponents against walks whose exponent is known, and whether a run has settled."""

from __future__ import annotations

import math

import numpy as np
import pytest

from klmap import diffusion, settling
from klmap.arrays import Floats
from klmap.bootstrap import draw
from klmap.settling import Move

STEPS = np.arange(1, 41) * 1000.0


def walk(rng: np.random.Generator, steps: Floats = STEPS, texts: int = 200) -> Floats:
    """Log-likelihoods that are random walks over the steps, each text by itself."""
    gaps = np.diff(steps, prepend=steps[0])
    moves = rng.normal(0, 1, (len(steps), texts)) * np.sqrt(gaps)[:, None]
    return np.asarray(rng.normal(-700, 100, texts) + np.cumsum(moves, axis=0))


def exponent(values: Floats, steps: Floats = STEPS, **more: object) -> diffusion.Diffusion:
    settings: dict[str, object] = {"centred": True, "bootstrap": 100, "seed": 1, **more}
    found = diffusion.measure(values, steps, 10, **settings)  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_random_walk_has_exponent_one() -> None:
    rng = np.random.default_rng(0)
    found = [exponent(walk(rng)) for _ in range(20)]
    error = np.std([item.exponent for item in found]) / math.sqrt(len(found))
    assert abs(np.mean([item.exponent for item in found]) - 1) < 4 * error + 1e-3
    assert error < 0.01


def test_uneven_steps_change_nothing_in_that() -> None:
    steps = np.cumsum(np.random.default_rng(1).integers(100, 3000, 60)).astype(np.float64)
    found = exponent(walk(np.random.default_rng(2), steps, 2000), steps)
    assert found.exponent == pytest.approx(1, abs=0.05)


def test_a_straight_line_has_exponent_two() -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(-700, 100, 50) + STEPS[:, None] * rng.normal(0, 1, 50)
    found = exponent(values)
    assert found.exponent == pytest.approx(2, abs=1e-9)
    assert found.low == pytest.approx(2, abs=1e-6)
    assert found.high == pytest.approx(2, abs=1e-6)


def test_steps_that_are_taken_back_have_an_exponent_below_one() -> None:
    rng = np.random.default_rng(4)
    around = rng.normal(-700, 100, 300) + rng.normal(0, 5, (40, 300))
    assert exponent(around).exponent == pytest.approx(0, abs=0.03)
    assert 0.1 < exponent(around + 0.1 * walk(rng, texts=300)).exponent < 0.9


def test_intervals_of_random_walks_hold_one_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    held = [(item := exponent(walk(rng))).low <= 1 <= item.high for _ in range(60)]
    assert np.mean(held) >= 0.88
    narrow = exponent(walk(rng, texts=5000))
    wide = exponent(walk(rng, texts=100))
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_intervals_are_wide_where_a_few_directions_move_all_texts() -> None:
    rng = np.random.default_rng(6)
    few = walk(rng, texts=3) @ rng.normal(0, 1, (3, 400))
    common, alone = exponent(few), exponent(walk(rng, texts=400))
    assert common.high - common.low > 2 * (alone.high - alone.low)


def test_exponents_are_slopes_of_the_next_distances() -> None:
    """Against a least-squares fit that is written out."""
    rng = np.random.default_rng(7)
    values = walk(rng, texts=80)
    found = exponent(values)
    assert [start.row for start in found.starts] == list(range(37))
    for start in (found.starts[0], found.starts[36]):
        later = range(start.row + 1, min(start.row + 11, 40))
        kl = [np.var(values[other] - values[start.row]) for other in later]
        np.testing.assert_allclose(start.squares, kl, rtol=1e-12)
        gone = [STEPS[other] - STEPS[start.row] for other in later]
        slope = np.polyfit(np.log(gone), np.log(kl), 1)[0]
        assert start.exponent == pytest.approx(slope, rel=1e-9)
    assert len(found.starts[36].elapsed) == diffusion.LEAST_POINTS
    assert found.exponent == pytest.approx(np.mean([start.exponent for start in found.starts]))


def test_intervals_of_a_start_are_those_of_samples_of_texts() -> None:
    """The slow way: columns taken out of the matrix, variances computed anew."""
    values = walk(np.random.default_rng(8), texts=60)
    start = exponent(values, seed=3).starts[5]
    slopes = []
    for sample in range(100):
        columns = np.repeat(np.arange(60), draw(60, 3, sample))
        kl = np.var(values[6:16][:, columns] - values[5][columns], axis=1)
        slopes.append(np.polyfit(np.log(start.elapsed), np.log(kl), 1)[0])
    np.testing.assert_allclose(
        [start.low, start.high], np.quantile(slopes, [0.025, 0.975]), rtol=1e-8
    )


def test_without_centring_a_shift_of_all_columns_counts() -> None:
    """In weight space a distance is no variance."""
    values = np.outer(STEPS, np.ones(30))
    found = exponent(values, centred=False)
    assert found.exponent == pytest.approx(2, abs=1e-9)
    np.testing.assert_allclose(found.starts[0].squares, found.starts[0].elapsed ** 2)


def test_distances_below_the_noise_are_left_out_and_counted() -> None:
    values = walk(np.random.default_rng(9), texts=5000)
    # KLs of neighbours are about 1,000 nats^2, and those of the next but one 2,000.
    found = exponent(values, noise=np.full(40, math.sqrt(750.0)))
    assert found.below_noise == 39
    assert min(found.starts[0].elapsed) == 2000
    assert diffusion.measure(
        values, STEPS, 10, centred=True, noise=np.full(40, 1e4), bootstrap=10
    ) is None  # fmt: skip
    unknown = exponent(values, noise=np.full(40, math.nan))
    assert unknown.below_noise == 0


def test_results_are_the_same_every_time() -> None:
    values = walk(np.random.default_rng(10))
    first, again, other = exponent(values), exponent(values), exponent(values, seed=2)
    assert (first.low, first.high) == (again.low, again.high) != (other.low, other.high)


def test_blocks_of_samples_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = walk(np.random.default_rng(11))
    whole = exponent(values)
    monkeypatch.setattr(diffusion, "_VALUES", 7 * values.shape[1])
    parts = exponent(values)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), rel=1e-9)


def moves(
    rates: Floats, floor: float = 0.0, se: float = 0.05, gap: float = 1000.0, first: float = 2000
) -> list[Move]:
    """A run with these KLs per step; standard errors are shares of the KLs."""
    return [
        Move(n, n + 1, first + gap * n, first + gap * (n + 1), r * gap, se * r * gap, floor)
        for n, r in enumerate(rates)
    ]


def power(exponent: float, count: int = 30, spread: float = 0.0, seed: int = 0) -> Floats:
    middle = 2500 + 1000.0 * np.arange(count)
    noise = np.random.default_rng(seed).normal(0, spread, count)
    return np.asarray(1e-3 * (middle / 2500) ** exponent * np.exp(noise))


def test_a_run_has_settled_from_the_step_on_from_which_all_moves_are_noise() -> None:
    rates = np.array([1e-3, 1e-6, 1e-3, 1e-6, 1e-6, 1e-6])
    found = settling.judge(moves(rates, floor=2e-3))
    assert found.at == 5000
    assert "within noise from step 5,000 on" in found.words
    assert math.isnan(settling.judge(moves(rates[:3], floor=2e-3)).at)


def test_a_move_is_noise_where_texts_could_have_made_it() -> None:
    sure = Move(0, 1, 0, 1, kl=1.0, se=0.2, floor=0.5)
    unsure = Move(0, 1, 0, 1, kl=1.0, se=0.3, floor=0.5)
    assert not sure.within_noise
    assert unsure.within_noise
    assert not unsure.below_noise
    unknown = Move(0, 1, 0, 1, kl=1.0, se=0.3, floor=math.nan)
    assert not unknown.within_noise


def test_a_power_law_meets_the_floor_where_it_does() -> None:
    rates = power(-1.5)
    floor = 1000 * 1e-3 * (100_000 / 2500) ** -1.5  # of a move of 1,000 steps, at step 100,000
    trend = settling.judge(moves(rates, floor)).trend
    assert trend is not None
    assert trend.exponent == pytest.approx(-1.5, abs=1e-9)
    assert trend.reached == pytest.approx(100_000, rel=1e-6)


def test_the_interval_of_the_meeting_holds_it_about_as_often_as_it_says() -> None:
    floor = 1000 * 1e-3 * (100_000 / 2500) ** -1.5
    held, widths = [], []
    for seed in range(300):
        trend = settling.judge(moves(power(-1.5, spread=0.3, seed=seed), floor)).trend
        assert trend is not None
        held.append(trend.earliest <= 100_000 <= trend.latest)
        widths.append(trend.latest / trend.earliest)
        assert trend.earliest < trend.reached < trend.latest
    assert 0.92 < np.mean(held) < 0.98
    assert 1.2 < np.median(widths) < 10


def test_a_hint_says_that_it_extrapolates() -> None:
    floor = 1000 * 1e-3 * (100_000 / 2500) ** -1.5
    words = settling.judge(moves(power(-1.5, spread=0.1), floor)).words
    assert "times the noise floor" in words
    assert "would reach it at step" in words
    assert "extrapolated" in words


@pytest.mark.parametrize(
    ("rates", "floor", "words"),
    [
        (power(0.0, spread=0.3), 1e-3, "does not surely fall"),
        (power(-0.5), 1e-3, "not there within 10 times the training"),
        (power(-0.5), 1e-9, "far above the noise floor"),
        (power(-1.5)[:3], 1e-3, "too few moves for a trend"),
        (power(-1.5), math.nan, "numerical noise unknown"),
        (np.zeros(0), 1.0, "too few checkpoints"),
    ],
)
def test_a_hint_says_what_it_cannot_know(rates: Floats, floor: float, words: str) -> None:
    found = settling.judge(moves(rates, floor))
    assert words in found.words
    assert "would reach" not in found.words
    assert math.isnan(found.at)


def test_final_weights_at_an_unknown_step_count_as_the_end_but_not_for_the_trend() -> None:
    known = moves(power(-1.5), floor=1e-9)
    final = Move(30, 31, known[-1].end, math.inf, kl=5.0, se=0.1, floor=1e-9)
    assert math.isnan(final.rate)
    with_final, without = settling.judge([*known, final]), settling.judge(known)
    assert with_final.trend == without.trend
    assert with_final.times_floor == pytest.approx(5e9)
    still = Move(30, 31, known[-1].end, math.inf, kl=1e-10, se=0.0, floor=1e-9)
    assert settling.judge([*known, still]).at == known[-1].end
