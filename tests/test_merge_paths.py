"""Merges between their parents: on a straight way, beside it, and what a way over several is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from klmap import figure_merges, merge_paths
from klmap.arrays import Floats
from klmap.design import Design
from klmap.errors import InputError
from klmap.files import read_tsv
from klmap.merge_paths import Merges, Stretch, Way, known_parents, measure, weights_in
from klmap.models_table import Model

TEXTS, BYTES = 400, 700.0
UNIT = BYTES * math.log(2)


@dataclass
class Scored:
    """The face of gathered models, in memory."""

    models: list[Model]
    values: Floats
    clip_threshold: float = -1e9
    mean_bytes: float = BYTES
    design: Design | None = None
    noise: Floats = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        self.domain = ["x"] * self.values.shape[1]
        if not self.noise.size:
            self.noise = np.full(len(self.models), 0.01)

    def raw(self, rows: Any) -> Floats:
        return self.values[list(rows)].copy()

    def loglik(self, rows: Any) -> Floats:
        return np.maximum(self.raw(rows), self.clip_threshold)


def model(id: str, base: tuple[str, ...] = (), **values: Any) -> Model:
    relation = "merge" if base else ""
    name = id.replace("/", "--")
    return Model(name, **{"id": id, "base_model": base, "relation": relation, **values})


def parents(count: int = 2, seed: int = 0) -> Floats:
    """Log-likelihoods of models that differ by about 20 nats per text."""
    rng = np.random.default_rng(seed)
    common = -700 + rng.normal(0, 60, TEXTS)
    values: Floats = common + rng.normal(0, 20, (count, TEXTS)) - 5 * np.arange(count)[:, None]
    return values


def scored(values: Floats, id: str = "merge/m-0.7-0.3", **changes: Any) -> Any:
    """Parents a, b, ... and in the last row their merge."""
    names = [f"org/{letter}" for letter in "abcdef"[: len(values) - 1]]
    models = [*map(model, names), model(id, tuple(names))]
    return Scored(models, values, **changes)


def only(found: Merges) -> Way:
    (way,) = found.ways
    return way


def centred(values: Floats) -> Floats:
    return values - values.mean(axis=-1, keepdims=True)


def test_a_merge_on_the_line_between_its_parents_does_not_bend():
    ab = parents()
    way = only(measure(scored(np.vstack([ab, 0.7 * ab[0] + 0.3 * ab[1] + 2.5]))))
    assert way.shares == pytest.approx([0.7, 0.3], abs=1e-12)
    assert way.off[0] == pytest.approx(0, abs=1e-20)
    assert way.bend[0] == pytest.approx(0, abs=1e-20)
    assert way.weights == pytest.approx((0.7, 0.3))


def test_what_is_orthogonal_to_the_line_is_the_bend():
    ab = parents()
    side = centred(ab[1] - ab[0])
    apart = centred(np.random.default_rng(5).normal(0, 3, TEXTS))
    apart -= side * (apart @ side) / (side @ side)
    way = only(measure(scored(np.vstack([ab, 0.25 * ab[0] + 0.75 * ab[1] + apart]))))
    assert way.shares == pytest.approx([0.25, 0.75], abs=1e-12)
    assert way.off[0] == pytest.approx((apart**2).mean() / (2 * UNIT), rel=1e-12)
    assert way.bend[0] == pytest.approx((apart**2).sum() / (side**2).sum(), rel=1e-12)
    assert way.between[0] == pytest.approx(side.var() / (2 * UNIT), rel=1e-12)
    expected = [0.75**2 * side.var() + apart.var(), 0.25**2 * side.var() + apart.var()]
    assert way.to_parents == pytest.approx(np.array(expected) / (2 * UNIT), rel=1e-12)


def test_three_parents_have_a_plane_and_its_nearest_point_is_the_minimum():
    three = parents(3)
    merge = np.array([0.2, 0.5, 0.3]) @ three + np.random.default_rng(3).normal(0, 4, TEXTS)
    way = only(measure(scored(np.vstack([three, merge]), "merge/m-0.2-0.5-0.3")))
    xi = centred(np.vstack([three, merge]))

    def distance(t: Floats) -> float:
        return float(((xi[3] - np.array([1 - t.sum(), *t]) @ xi[:3]) ** 2).mean())

    best = scipy.optimize.minimize(distance, [0.3, 0.3], tol=1e-12)
    assert way.shares[1:] == pytest.approx(best.x, abs=1e-5)
    assert way.shares.sum() == pytest.approx(1, abs=1e-12)
    assert way.off[0] == pytest.approx(best.fun / (2 * UNIT), rel=1e-8)
    pairs = [xi[0] - xi[1], xi[0] - xi[2], xi[1] - xi[2]]
    assert way.between[0] == pytest.approx(np.mean([d.var() for d in pairs]) / (2 * UNIT))
    assert way.weights == pytest.approx((0.2, 0.5, 0.3))


def test_standard_errors_are_those_of_a_bootstrap():
    ab = parents()
    noise = np.random.default_rng(1).normal(0, 8, TEXTS)
    values = np.vstack([ab, 0.6 * ab[0] + 0.4 * ab[1] + noise])
    way = only(measure(scored(values, "merge/m-0.6-0.4")))
    rng = np.random.default_rng(2)
    drawn = [
        only(measure(scored(values[:, rng.integers(0, TEXTS, TEXTS)], "merge/m-0.6-0.4")))
        for _ in range(600)
    ]

    def spread(values: list[float]) -> float:
        return float(np.std(values))

    for name in ("between", "off", "bend", "gain", "over_best"):
        estimate, error = getattr(way, name)
        assert math.isfinite(estimate)
        assert error == pytest.approx(spread([getattr(d, name)[0] for d in drawn]), rel=0.15), name
    assert way.shares_se[1] == pytest.approx(spread([d.shares[1] for d in drawn]), rel=0.15)
    assert way.shares_se[0] == pytest.approx(way.shares_se[1])
    assert way.to_parents_se[0] == pytest.approx(spread([d.to_parents[0] for d in drawn]), rel=0.15)


def test_the_prediction_follows_the_weights_in_the_id_else_the_measured_shares():
    ab = parents()
    values = np.vstack([ab, 0.4 * ab[0] + 0.6 * ab[1] + 3.0])
    named = only(measure(scored(values, "merge/m-0.7-0.3")))
    assert named.predicted == pytest.approx(-(0.7 * ab[0] + 0.3 * ab[1]).mean() / UNIT)
    assert named.bits_per_byte == pytest.approx(-values[2].mean() / UNIT)
    assert named.gain[0] == pytest.approx(named.predicted - named.bits_per_byte)
    other = only(measure(scored(values, "org/souped")))
    assert other.weights is None
    assert other.predicted == pytest.approx(-(0.4 * ab[0] + 0.6 * ab[1]).mean() / UNIT)
    assert other.gain[0] == pytest.approx(3.0 / UNIT)
    assert other.over_best[0] == pytest.approx((values[2] - ab[0]).mean() / UNIT)


def test_clipping_touches_distances_and_never_the_code_length():
    ab = parents()
    values = np.vstack([ab, 0.5 * ab[0] + 0.5 * ab[1]])
    values[2, 0] = -90_000
    way = only(measure(scored(values, "merge/m-0.5-0.5", clip_threshold=-1000.0)))
    assert way.bits_per_byte == pytest.approx(-values[2].mean() / UNIT)
    clipped = centred(np.maximum(values, -1000.0))
    assert way.to_parents[0] == pytest.approx((clipped[2] - clipped[0]).var() / (2 * UNIT))


def test_equal_parents_have_no_bend_and_equal_shares():
    a = parents(1)[0]
    found = measure(scored(np.vstack([a, a, a + np.random.default_rng(0).normal(0, 1, TEXTS)])))
    way = only(found)
    assert math.isnan(way.bend[0])
    assert way.shares == pytest.approx([0.5, 0.5])
    assert math.isnan(found.paths[0].ratio[0])


def test_a_bend_within_the_errors_of_the_scores_is_marked():
    ab = parents()
    noise = np.random.default_rng(1).normal(0, 1, TEXTS)
    values = np.vstack([ab, 0.5 * ab[0] + 0.5 * ab[1] + noise])
    assert not only(measure(scored(values, noise=np.full(3, 0.1)))).is_below_noise
    way = only(measure(scored(values, noise=np.full(3, 2.0))))
    assert way.is_below_noise
    expected = (4 + 4 * (way.shares**2).sum()) / (2 * UNIT)
    assert way.floor == pytest.approx(expected)
    assert not only(measure(scored(values, noise=np.full(3, np.nan)))).is_below_noise


def test_merges_of_one_pair_are_a_path_in_the_order_of_their_weights():
    ab = parents()
    bulge = centred(np.random.default_rng(4).normal(0, 6, TEXTS))
    weights = [0.25, 0.75, 0.5]
    rows = [(1 - w) * ab[0] + w * ab[1] + bulge * w * (1 - w) for w in weights]
    ids = [f"merge/m-{1 - w:g}-{w:g}" for w in weights]
    models = [model("org/a"), model("org/b"), *(model(id, ("org/a", "org/b")) for id in ids)]
    # The same merge named the other way round: its weight of b is the first.
    models[4] = model("merge/n-0.5-0.5", ("org/b", "org/a"))
    found = measure(Scored(models, np.vstack([ab, *rows])))  # type: ignore[arg-type]
    assert [way.model for way in found.ways] == [models[2].model, models[4].model, models[3].model]
    (path,) = found.paths
    assert path.merges == tuple(way.model for way in found.ways)
    xi = centred(np.vstack([ab[0], rows[0], rows[2], rows[1], ab[1]]))
    steps = np.sqrt(np.diff(xi, axis=0).var(axis=1) / (2 * UNIT))
    assert path.length == pytest.approx(steps.sum())
    assert path.direct == pytest.approx(math.sqrt((xi[0] - xi[4]).var() / (2 * UNIT)))
    assert path.ratio[0] == pytest.approx(path.length / path.direct)
    assert path.ratio[0] > 1
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        texts = rng.integers(0, TEXTS, TEXTS)
        values = np.vstack([ab, *rows])[:, texts]
        drawn.append(measure(Scored(models, values)).paths[0].ratio[0])  # type: ignore[arg-type]
    assert path.ratio[1] == pytest.approx(np.std(drawn), rel=0.15)


def test_a_straight_path_is_as_long_as_the_direct_way():
    ab = parents()
    models = [model("a"), model("b")]
    rows = []
    for w in (0.1, 0.6):
        models.append(model(f"merge/x-{1 - w:g}-{w:g}", ("a", "b")))
        rows.append((1 - w) * ab[0] + w * ab[1])
    (path,) = measure(Scored(models, np.vstack([ab, *rows]))).paths  # type: ignore[arg-type]
    assert path.ratio[0] == pytest.approx(1, abs=1e-12)


def test_a_quantised_merge_is_no_station_between_merges_in_full_precision():
    ab = parents()
    pair = ("a", "b")
    half, shift = ab.mean(axis=0), np.random.default_rng(3).normal(0, 8, TEXTS)
    models = [
        model("a"), model("b"), model("merge/m-0.5-0.5", pair),
        Model("merge--m-0.5-0.5+int8", id="merge/m-0.5-0.5", base_model=pair, relation="merge",
              variant="int8"),
        model("merge/n-0.2-0.8", pair),
    ]  # fmt: skip
    values = np.vstack([ab, half, half + shift, 0.2 * ab[0] + 0.8 * ab[1]])
    found = measure(Scored(models, values))  # type: ignore[arg-type]
    plain, quantised = found.paths
    assert plain.merges == ("merge--m-0.5-0.5", "merge--n-0.2-0.8")
    assert plain.ratio[0] == pytest.approx(1, abs=1e-12)
    assert quantised.merges == ("merge--m-0.5-0.5+int8",)
    assert quantised.ratio[0] > 1.01
    shown = words(figure_merges.draw(found, "demo"))
    longer = f"the way {100 * (quantised.ratio[0] - 1):.2g} % longer than"
    assert shown.count("a → b") == 2
    assert shown.count(longer) == 1


def test_three_parents_make_no_path():
    three = parents(3)
    assert measure(scored(np.vstack([three, three.mean(axis=0)]), "merge/t-1-0-0")).paths == []


def test_parents_are_found_by_id_and_revision_and_the_plain_one_of_several():
    models = [
        model("a", variant="int8"),
        model("a"),
        model("a", revision="step10"),
        model("b", revision="step20"),
        model("a", layer=2, variant="layer2"),
        model("merge/x", ("a@step10", "b@step20")),
        model("merge/y", ("a", "b")),
        model("merge/z", ("a", "b@step20")),
        model("merge/w", ("a", "b@step20"), variant="int8"),
        model("child", ("a", "b@step20"), relation="finetune"),
        model("merge/v", ("a", "nowhere", "b@step20")),
    ]
    assert known_parents(models) == [
        (5, (2, 3)), (7, (1, 3)), (8, (0, 3)), (10, (1, 3)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("id", "parents", "expected"),
    [
        ("merge/mix-0.75-0.25", 2, (0.75, 0.25)),
        ("merge/v-2-0.75-0.25", 2, (0.75, 0.25)),
        ("merge/mix-1-0", 2, (1.0, 0.0)),
        ("merge/mix--0.5-1.5", 2, (-0.5, 1.5)),
        ("merge/mix-0.333-0.333-0.333", 3, (1 / 3, 1 / 3, 1 / 3)),
        ("merge/mix-0.75-0.75", 2, None),
        ("merge/mix-0.75-0.25", 3, None),
        ("merge/mix", 2, None),
        ("org/mix-0.75-0.25", 2, None),
    ],
)
def test_weights_are_read_from_the_ids_of_merges_made_here(id, parents, expected):
    found = weights_in(id, parents)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_weights_say_nothing_where_a_parent_was_not_scored():
    ab = parents()
    models = [model("a"), model("b"), model("merge/m-0.5-0.3-0.2", ("a", "b", "c"))]
    found = measure(Scored(models, np.vstack([ab, ab.mean(axis=0)])))  # type: ignore[arg-type]
    assert only(found).weights is None


def test_tables_have_a_row_for_each_merge_and_path(tmp_path: Path):
    ab = parents()
    merge_paths.write(tmp_path, measure(scored(np.vstack([ab, ab.mean(axis=0)]))))
    (row,) = read_tsv(tmp_path / "merges.tsv")
    assert row["parents"] == "org--a,org--b"
    assert row["weights"] == "0.7,0.3"
    assert row["weights_from"] == "id"
    assert [float(share) for share in row["shares"].split(",")] == pytest.approx([0.5, 0.5])
    assert row["best_parent"] == "org--a"
    assert row["better_than_all"] == "no"
    (path,) = read_tsv(tmp_path / "paths.tsv")
    assert float(path["ratio"]) == pytest.approx(1)
    assert path["models"] == "merge--m-0.7-0.3"


def test_without_merges_tables_are_headers_and_the_figure_says_why(tmp_path: Path):
    found = measure(Scored([model("a"), model("b")], parents()))  # type: ignore[arg-type]
    merge_paths.write(tmp_path, found)
    assert read_tsv(tmp_path / "merges.tsv") == read_tsv(tmp_path / "paths.tsv") == []
    figure_merges.write(tmp_path, found, "demo")
    assert "No merge has two parents" in words(figure_merges.draw(found, "demo"))


def test_selections_are_refused():
    found = scored(parents(3))
    found.design = object()
    with pytest.raises(InputError, match="leave merges out"):
        measure(found)


def words(figure: Any) -> str:
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return "\n".join(text.get_text() for text in texts)


def many(count: int) -> Merges:
    """Merges of as many pairs."""
    ways, paths = [], []
    for n in range(count):
        names = (f"org--{n}a", f"org--{n}b")
        two = np.array([0.5, 0.5])
        ways.append(
            Way(
                f"org--merge{n}", names, None, two, two / 50, (0.4, 0.02), (0.01 * n, 0.001), 1e-6,
                (0.02 * n, 0.002), two / 10, two / 100, 1.0, 1.01, (0.01, 0.002), 0, (0.005, 0.002),
            )
        )  # fmt: skip
        paths.append(Stretch(*names, (f"org--merge{n}",), 1.1, 1.0, (1.1, 0.01)))
    return Merges(ways, paths, 3 * count, 600)


@pytest.mark.parametrize("count", [1, 50])
def test_the_figure_names_every_merge_and_its_way(count: int):
    shown = words(figure_merges.draw(many(count), "demo"))
    assert all(f"merge{n}" in shown for n in range(count))
    assert "0a → 0b" in shown
    assert "the way 10 % longer than the direct one" in shown
    assert f"{count} merge{'s' if count > 1 else ''} among" in shown


def test_a_figure_of_too_many_merges_says_how_many_it_shows():
    assert "60 of 70 merges" in words(figure_merges.draw(many(70), "demo"))


def test_the_figure_is_the_same_every_time(tmp_path: Path):
    for name in ("one", "two"):
        figure_merges.write(tmp_path / name, many(3), "demo")
    for ending in ("png", "svg"):
        first, second = (tmp_path / name / f"merges.{ending}" for name in ("one", "two"))
        assert first.read_bytes() == second.read_bytes()
