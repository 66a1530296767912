"""The figure of the scale: rows in order, marks where they belong, at every number of pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from klmap import clouds, figure_scale, relations, scale
from klmap.arrays import Floats
from klmap.relations import Related
from klmap.scale import Measured

RELATIONS = {
    "bfloat16": 3e-5,
    "int8": 3e-4,
    "nf4": 0.01,
    "fp4": 0.016,
    "stored-gptq-4bit": 0.012,
    **scale.PUBLISHED,
    relations.MERGE: 0.1,
    relations.SIBLINGS: 0.7,
}
PRECISIONS = ("bfloat16", "float16", "int8", "nf4", "fp4", "stored-gptq-4bit")


def measured(name: str, kl: Floats, floor: float = 1e-7, **changes: object) -> Measured:
    places = np.arange(len(kl))
    related = Related(name, name in PRECISIONS, places, places + 1, **changes)
    medians = np.median(kl) * np.random.default_rng(1).normal(1, 0.05, 50)
    return Measured(related, kl, kl * 0.05, np.full(len(kl), floor), medians)


def every(pairs: int, floor: float = 1e-7) -> list[Measured]:
    rng = np.random.default_rng(0)
    return [
        measured(name, middle * np.exp(rng.normal(0, 0.8, pairs)), floor, sampled=pairs > 1000)
        for name, middle in RELATIONS.items()
    ]


def names(figure: Figure) -> list[str]:
    """Bold names beside the rows, from the top."""
    (axes,) = figure.axes
    found = [text for text in axes.texts if text.get_weight() == "bold" and text.xy[0] == 0]
    return [text.get_text() for text in sorted(found, key=lambda text: text.xy[1])]


def diamonds(figure: Figure) -> list[tuple[float, float]]:
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_marker() == "D"]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]


def texts(figure: Figure) -> str:
    (axes,) = figure.axes
    return "\n".join(text.get_text() for text in [*axes.texts, *figure.texts])


def test_rows_rise_by_their_median():
    figure = figure_scale.draw(
        [
            measured(relations.ACROSS, np.array([2.0, 3.0])),
            measured("int8", np.array([0.001])),
            measured(relations.SEEDS, np.array([0.1, 0.2, 0.3])),
        ],
        "three relations",
    )
    assert names(figure) == ["int8", "another seed", "across families"]


def test_published_medians_stand_in_the_rows_of_their_relations_alone():
    items = every(5)
    figure = figure_scale.draw(items, "all relations")
    order = sorted(items, key=lambda item: item.median)
    expected = {(item.published, row) for row, item in enumerate(order) if item.published}
    assert {(x, round(y)) for x, y in diamonds(figure)} == expected
    assert len(expected) == len(scale.PUBLISHED)


@pytest.mark.parametrize("pairs", [1, 5, figure_scale.MOST_DOTS, 61, 20_000])
def test_every_number_of_pairs_is_drawn(pairs: int, tmp_path: Path):
    figure_scale.write(tmp_path, every(pairs), "all relations")
    assert {path.name for path in tmp_path.iterdir()} == {"scale.png", "scale.svg"}


def test_single_pairs_are_drawn_one_by_one_at_their_kl():
    kl = np.array([0.02, 0.05, 0.4])
    (axes,) = figure_scale.draw([measured(relations.PARENT, kl)], "one relation").axes
    (dots,) = [item for item in axes.collections if len(item.get_offsets()) == 3]
    assert sorted(np.asarray(dots.get_offsets())[:, 0]) == pytest.approx(kl)


def test_equal_models_stand_at_the_left_end_and_are_counted():
    kl = np.array([0.0, 0.0, 0.02])
    figure = figure_scale.draw([measured("float16", kl), measured("int8", kl[2:])], "equal models")
    low, high = figure.axes[0].get_xlim()
    assert 0 < low < 0.02 < high
    assert "2 equal" in texts(figure)


def test_all_models_equal_is_no_error(tmp_path: Path):
    figure_scale.write(tmp_path, [measured("int8", np.zeros(3)), measured("nf4", np.zeros(90))], "")
    assert (tmp_path / "scale.png").exists()


def test_nearly_exact_scores_do_not_press_the_rest_to_the_right():
    low, high = figure_scale.limits(every(20, floor=1e-13))
    assert low > 1e-7
    wide = [measured(relations.SEEDS, np.array([1e-14, 0.1, 1.0]))]
    low, high = figure_scale.limits(wide)
    assert math.log10(high / low) < figure_scale.MOST_DECADES + 1


def test_the_noise_floor_is_drawn_where_it_can_be_seen():
    def bands(floor: float) -> int:
        (axes,) = figure_scale.draw([measured("int8", np.array([0.01, 0.02]), floor)], "").axes
        return sum(patch.get_facecolor()[:3] == pytest.approx((229 / 255, 231 / 255, 235 / 255))
                   for patch in axes.patches)  # fmt: skip

    assert bands(0.008) == 1
    assert bands(1e-13) == 0
    assert bands(math.nan) == 0


def test_pairs_below_noise_and_beyond_are_counted_at_the_right():
    kl = np.array([0.001, 0.002, 1.0, 9.0])
    figure = figure_scale.draw([measured(relations.ACROSS, kl, 0.0015)], "")
    assert "25 % below noise" in texts(figure)
    assert "25 % above 8" in texts(figure)


def test_a_median_beyond_the_range_of_a_kl_is_marked():
    figure = figure_scale.draw([measured(relations.ACROSS, np.array([1.0, 20, 30, 40]))], "")
    assert "no KL: 75 % above 8" in texts(figure)


def test_all_pairs_below_noise_are_a_hundred_percent():
    assert "\n100 % below" in texts(figure_scale.draw([measured("int8", np.zeros(3))], ""))


def test_an_expected_order_that_is_not_found_is_said_so():
    def drawn(nf4: float, fp4: float) -> str:
        items = [measured("nf4", np.array([nf4])), measured("fp4", np.array([fp4]))]
        return texts(figure_scale.draw(items, ""))

    assert "nf4 below fp4: the other way round (1 and 1 pairs)" in drawn(0.02, 0.01)
    assert "nf4 below fp4: cannot be told" in drawn(0.01, 0.01)
    assert "nf4 below fp4" not in drawn(0.01, 0.02)


def test_dots_at_one_place_stand_beside_each_other():
    heights = clouds.spread(np.array([0.1, 0.1, 0.1, 0.9]), 0, 1)
    assert len({*heights[:3]}) == 3
    assert heights[3] == 0


def test_without_relations_the_figure_says_what_to_add():
    assert "config.yaml" in texts(figure_scale.draw([], "no models"))


def test_a_density_is_highest_where_most_values_are():
    values = np.concatenate([np.full(900, -1.0), np.full(100, 1.0)])
    places, heights = clouds.density(values, -2, 2)
    assert heights.max() == 1
    assert abs(places[heights.argmax()] + 1) < 0.05
    assert heights[np.abs(places - 1).argmin()] == pytest.approx(1 / 9, rel=0.1)
    assert clouds.density(np.full(100, 0.5), 0, 1)[1].max() == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0"), (0.7, "0.70"), (2.53, "2.5"), (12.3, "12"), (0.0123, "0.012"), (3.2e-7, "3.2e-7")],
)
def test_numbers_have_two_digits(value: float, words: str):
    assert figure_scale.number(value) == words


def test_the_same_numbers_make_the_same_files(tmp_path: Path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        figure_scale.write(tmp_path / name, every(30), "twice")
    for name in ("scale.png", "scale.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
