"""Edits of the prompt: joining, shifts, directions, sums, ways, tables, figures."""

from __future__ import annotations

import csv
import itertools
import math
import runpy
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from klmap import (
    figure_additivity,
    figure_prompt_arrows,
    figure_prompts,
    fixed,
    geometry,
    layout,
    models_table,
    prompt_additivity,
    prompt_directions,
    prompt_edits,
    prompt_plane,
    prompt_tables,
    prompt_ways,
    prompts,
    store,
)
from klmap.arrays import Floats
from klmap.design import Design
from klmap.embedding import Settings
from klmap.errors import InputError
from klmap.gathered import gathered
from klmap.prompt_edits import Edited
from klmap.quality import Quality
from tests import mapfiles

SCRIPT = Path(__file__).parents[1] / "scripts" / "prompts.py"
THRESHOLD = -900.0
TEXTS = 90


def matrix(
    path: Path, loglik: Floats, names: Sequence[str], noise: float = 0.01, shorter: int = 0
) -> Path:
    """A matrix of the same responses each time; ``shorter`` takes bytes from the last of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = loglik.shape[1]
    n_bytes = 100 + 10 * (np.arange(texts, dtype=np.int32) % 7)
    n_bytes[-1] -= shorter
    store.write_matrix(
        path,
        store.Matrix(
            loglik, geometry.double_centre(loglik, THRESHOLD).astype(np.float32), list(names),
            [mapfiles.DOMAINS[place % 3] for place in range(texts)], n_bytes, 0.02, THRESHOLD,
            float(n_bytes.mean()), "0" * 64, np.full(len(names), noise),
        ),
    )  # fmt: skip
    return path


class Toy:
    """Log-linear models: every edit adds a vector of its own, the composed one the sum of two."""

    def __init__(self, folder: Path, count: int = 6, spread: float = 0.3, seed: int = 4) -> None:
        rng = np.random.default_rng(seed)
        self.folder = folder / "chat"
        self.models = mapfiles.models(count, 2)
        self.names = [model.model for model in self.models]
        base = rng.normal(-300, 40, TEXTS) + rng.normal(0, 12, (count, TEXTS))
        first, second = rng.normal(0, 3, (2, TEXTS))
        own = spread * rng.normal(0, 3, (2, count, TEXTS))
        self.base = base
        self.edits = {"brief": base + first + own[0], "german": base + second + own[1]}
        self.edits["both"] = self.edits["brief"] + self.edits["german"] - base
        self.composed = {"both": ("brief", "german")}
        self.matrix = matrix(self.folder / "matrix.h5", base, self.names)
        self.table = self.folder / "models.tsv"
        models_table.write_models(self.table, self.models)

    def write(self, noise: float = 0.01) -> dict[str, Path]:
        return {
            name: matrix(self.folder.parent / f"chat.{name}" / "matrix.h5", values, self.names,
                         noise)
            for name, values in self.edits.items()
        }  # fmt: skip

    def write_layout(self) -> Path:
        points = layout.points_of(self.base, THRESHOLD, float(self.n_bytes.mean()))
        plane = np.zeros((len(points), 2))
        plane[:, : points.shape[1]] = points[:, :2]
        path = self.folder / "layout.tsv"
        layout.write_layout(path, layout.places_of(self.names, plane, "tsne-euclidean"))
        layout.write_report(path.with_suffix(".json"), report("tsne"))
        return path

    @property
    def n_bytes(self) -> Floats:
        return 100.0 + 10 * (np.arange(TEXTS) % 7)

    @property
    def unit(self) -> float:
        return 2 * math.log(2) * float(self.n_bytes.mean())


def report(method: str) -> layout.Report:
    return layout.Report(
        "0" * 64, method, "euclidean", 30.0, 42, 1000, "", "", Quality(6, 5, 1.0, 1.0, 6), None, "",  # type: ignore[arg-type]
    )  # fmt: skip


@contextmanager
def opened(
    matrix: Path,
    table: Path,
    paths: dict[str, Path],
    composed: dict[str, tuple[str, ...]] | None = None,
    off: tuple[Path | None, Path | None] = (None, None),
) -> Iterator[Edited]:
    with ExitStack() as stack:
        found = stack.enter_context(gathered(matrix, table, *off))
        files = {name: stack.enter_context(store.open_matrix(path)) for name, path in paths.items()}
        yield prompt_edits.edited(found, files, composed or {})


@contextmanager
def toy(folder: Path, **kwargs: object) -> Iterator[tuple[Toy, Edited]]:
    made = Toy(folder, **kwargs)  # type: ignore[arg-type]
    with opened(made.matrix, made.table, made.write(), made.composed) as some:
        yield made, some


def centred(values: Floats) -> Floats:
    return np.asarray(values - values.mean(axis=-1, keepdims=True), np.float64)


def cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / math.sqrt((one @ one) * (other @ other)))


# Shifts


def test_sizes_gains_and_errors_are_those_of_a_slow_oracle(tmp_path):
    with toy(tmp_path) as (made, some):
        edits = prompts.measure(some)
    assert [edit.name for edit in edits] == ["brief", "german", "both"]
    for edit in edits:
        shift = made.edits[edit.name] - made.base
        for place, one in enumerate(shift):
            variance = sum((value - one.mean()) ** 2 for value in one) / TEXTS
            fourth = sum((value - one.mean()) ** 4 for value in one) / TEXTS
            assert edit.kl[place] == pytest.approx(variance / made.unit, rel=1e-10)
            se = math.sqrt((fourth - variance**2) / TEXTS) / made.unit
            assert edit.se[place] == pytest.approx(se, rel=1e-10)
            assert edit.gain[place] == pytest.approx(2 * one.mean() / made.unit, rel=1e-10)
            error = 2 * one.std(ddof=1) / math.sqrt(TEXTS) / made.unit
            assert edit.gain_se[place] == pytest.approx(error, rel=1e-10)
            assert edit.floor[place] == pytest.approx(2 * 0.01**2 / made.unit, rel=1e-10)


def test_directions_and_agreement_are_those_of_a_slow_oracle(tmp_path):
    with toy(tmp_path) as (made, some):
        edits = prompts.measure(some)
    families = [model.family for model in made.models]
    for edit in edits:
        shift = centred(made.edits[edit.name] - made.base)
        assert np.allclose(edit.direction, shift.mean(axis=0), atol=1e-10)
        for place, one in enumerate(shift):
            others = [row for row in range(len(shift)) if row != place]
            found = cosine(one, shift[others].mean(axis=0))
            assert edit.cosine[place] == pytest.approx(found, abs=1e-10)
            strangers = [row for row in others if families[row] != families[place]]
            found = cosine(one, shift[strangers].mean(axis=0))
            assert edit.across[place] == pytest.approx(found, abs=1e-10)


def test_kls_of_pairs_before_and_after_are_those_of_all_pairs(tmp_path):
    with toy(tmp_path) as (made, some):
        edits = prompts.measure(some)

    def mean(values: Floats) -> float:
        pairs = itertools.combinations(centred(values), 2)
        return float(np.mean([np.var(one - other) / made.unit for one, other in pairs]))

    for edit in edits:
        assert edit.before == pytest.approx(mean(made.base), rel=1e-10)
        assert edit.after == pytest.approx(mean(made.edits[edit.name]), rel=1e-10)
        assert edit.change_se > 0


def test_an_edit_that_makes_all_models_alike_brings_them_nearer(tmp_path):
    made = Toy(tmp_path)
    made.edits = {"same": made.base.mean(axis=0) + 0.3 * (made.base - made.base.mean(axis=0))}
    with opened(made.matrix, made.table, made.write()) as some:
        (edit,) = prompts.measure(some)
    assert edit.after == pytest.approx(0.09 * edit.before, rel=1e-9)
    assert edit.before - edit.after > 2 * edit.change_se


def test_parts_of_domains_are_those_of_a_slow_oracle_and_add_up(tmp_path):
    with toy(tmp_path) as (made, some):
        edits = prompts.measure(some)
        domains = some.domains
    for edit in edits:
        shift = made.edits[edit.name] - made.base
        squares = centred(shift) ** 2
        assert edit.share.sum() == pytest.approx(1)
        for code in range(len(domains.names)):
            inside = domains.code == code
            share = np.mean([one[inside].sum() / one.sum() for one in squares])
            assert edit.share[code] == pytest.approx(share, rel=1e-10)
            unit = math.log(2) * made.n_bytes[inside].mean()
            gain = shift[:, inside].mean() / unit
            assert edit.domain_gain[code] == pytest.approx(gain, rel=1e-9)


def test_an_edit_that_changes_nothing_has_no_size_and_is_below_the_noise(tmp_path):
    made = Toy(tmp_path)
    made.edits = {"nothing": made.base.copy(), "brief": made.edits["brief"]}
    with opened(made.matrix, made.table, made.write()) as some:
        nothing, _ = prompts.measure(some)
        (pair,) = prompt_directions.measure(some, prompts.measure(some), 20, 1)
        planes = prompt_plane.find(some, prompts.measure(some))
    assert (nothing.kl == 0).all()
    assert nothing.below.all()
    assert np.isnan(nothing.cosine).all()
    assert np.isnan(nothing.share).all()
    assert nothing.before == nothing.after
    assert math.isnan(pair.cosine)
    assert math.isnan(pair.low)
    assert np.isnan(planes.seen[0])
    assert np.array_equal(planes.begin[0], planes.end[0])


def test_a_constant_is_a_mean_shift_of_no_size(tmp_path):
    made = Toy(tmp_path)
    made.edits = {"likelier": made.base + 7.0}
    with opened(made.matrix, made.table, made.write()) as some:
        (edit,) = prompts.measure(some)
    assert edit.kl == pytest.approx(np.zeros(6), abs=1e-20)
    assert edit.gain == pytest.approx(np.full(6, 7 / (math.log(2) * made.n_bytes.mean())))


def test_both_sides_are_clipped_at_the_threshold_of_the_map_and_the_mean_is_not(tmp_path):
    made = Toy(tmp_path)
    low = made.base.copy()
    low[:, :5] = -1000.0
    made.edits = {"low": low}
    with opened(made.matrix, made.table, made.write()) as some:
        (edit,) = prompts.measure(some)
    shift = np.maximum(low, THRESHOLD) - made.base
    assert edit.kl == pytest.approx(shift.var(axis=1) / made.unit)
    assert edit.gain == pytest.approx(2 * (low - made.base).mean(axis=1) / made.unit)


def test_unknown_errors_of_scores_leave_the_noise_floor_unknown(tmp_path):
    made = Toy(tmp_path)
    with opened(made.matrix, made.table, made.write(math.nan)) as some:
        edit = prompts.measure(some)[0]
    assert np.isnan(edit.floor).all()
    assert not edit.below.any()


# Blocks


def test_results_do_not_depend_on_the_size_of_the_blocks(tmp_path, monkeypatch):
    with toy(tmp_path) as (_, some):
        whole = prompts.measure(some), prompt_additivity.measure(some)
        pairs = prompt_directions.measure(some, whole[0], 30, 2)
        one_by_one = lambda total, _: ((n, n + 1) for n in range(total))  # noqa: E731
        monkeypatch.setattr(prompt_edits, "ranges", one_by_one)
        parts = prompts.measure(some), prompt_additivity.measure(some)
        for one, other in zip(whole[0], parts[0], strict=True):
            assert one.cosine == pytest.approx(other.cosine, abs=1e-12)
            assert one.after == pytest.approx(other.after, rel=1e-12)
            assert one.share_se == pytest.approx(other.share_se, rel=1e-9)
        assert whole[1][0].relative_error == pytest.approx(parts[1][0].relative_error, abs=1e-12)
        again = prompt_directions.measure(some, parts[0], 30, 2)
        for one, other in zip(pairs, again, strict=True):
            assert one.low == pytest.approx(other.low)
            assert one.median == pytest.approx(other.median)


# Directions


def test_cosines_of_directions_are_those_of_mean_shifts_and_of_each_model(tmp_path):
    with toy(tmp_path) as (made, some):
        found = prompt_directions.measure(some, prompts.measure(some), 200, 1)
    names = list(made.edits)
    shifts = {name: centred(made.edits[name] - made.base) for name in names}
    assert [(item.first, item.second) for item in found] == [(0, 1), (0, 2), (1, 2)]
    for item in found:
        one, other = shifts[names[item.first]], shifts[names[item.second]]
        assert item.cosine == pytest.approx(cosine(one.mean(axis=0), other.mean(axis=0)))
        own = [cosine(a, b) for a, b in zip(one, other, strict=True)]
        assert item.median == pytest.approx(np.median(own))
        assert item.low < item.cosine < item.high
        assert item.models == 6


def test_intervals_of_cosines_are_those_of_texts_drawn_again(tmp_path):
    with toy(tmp_path) as (_, some):
        edits = prompts.measure(some)
        found = prompt_directions.measure(some, edits, 1500, 1)
    rng = np.random.default_rng(9)
    drawn = []
    for _ in range(1500):
        texts = rng.integers(0, TEXTS, TEXTS)
        drawn.append(np.corrcoef(edits[0].direction[texts], edits[1].direction[texts])[0, 1])
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert found[0].low == pytest.approx(low, abs=0.03)
    assert found[0].high == pytest.approx(high, abs=0.03)


def test_wordings_that_differ_by_chance_alone_have_cosines_of_one_half(tmp_path):
    """What the docs say that 0.5 means."""
    rng = np.random.default_rng(0)
    wordings = rng.normal(-300, 5, (5, 1, 20_000))
    made = Toy(tmp_path, count=1)
    made.matrix = matrix(made.folder / "matrix.h5", wordings[0], made.names)
    names = ["a", "b", "c", "all"]
    paths = {
        name: matrix(tmp_path / name / "matrix.h5", values, made.names)
        for name, values in zip(names, wordings[1:], strict=True)
    }
    with opened(made.matrix, made.table, paths, {"c": ("a", "b"), "all": ("a", "b", "c")}) as some:
        found = prompt_directions.measure(some, prompts.measure(some), 0, 0)
        sums = prompt_additivity.measure(some)
    assert [item.cosine for item in found] == pytest.approx([0.5] * 6, abs=0.03)
    for item in sums:
        parts = len(item.parts)
        assert item.cosine[0] == pytest.approx(prompt_additivity.chance_cosine(parts), abs=0.03)
        error = prompt_additivity.chance_error(parts)
        assert item.relative_error[0] == pytest.approx(error, abs=0.03)
    assert prompt_additivity.chance_cosine(2) == pytest.approx(0.577, abs=1e-3)
    assert prompt_additivity.chance_error(2) == pytest.approx(math.sqrt(2))


# Sums


def test_shifts_of_log_linear_models_add_up(tmp_path):
    with toy(tmp_path) as (_, some):
        (found,) = prompt_additivity.measure(some)
    assert found.name == "both"
    assert found.parts == ("brief", "german")
    assert found.relative_error == pytest.approx(np.zeros(6), abs=1e-9)
    assert found.cosine == pytest.approx(np.ones(6), abs=1e-9)
    assert found.slope == pytest.approx(np.ones(6), abs=1e-9)
    assert found.r2 == pytest.approx(np.ones(6), abs=1e-9)
    assert found.predicted_kl == pytest.approx(found.kl, rel=1e-9)
    assert found.predicted_gain == pytest.approx(found.gain, rel=1e-9)
    assert (found.alone > 0.3).all()


def test_sums_that_are_off_are_those_of_a_slow_oracle(tmp_path):
    made = Toy(tmp_path)
    rng = np.random.default_rng(1)
    made.edits["both"] = made.base + 0.5 * (made.edits["both"] - made.base)
    made.edits["both"] += rng.normal(0, 2, made.base.shape)
    with opened(made.matrix, made.table, made.write(), made.composed) as some:
        (found,) = prompt_additivity.measure(some)
    shifts = {name: centred(made.edits[name] - made.base) for name in made.edits}
    for place in range(6):
        single = [shifts[name][place] for name in ("brief", "german")]
        predicted, measured = sum(single), shifts["both"][place]
        rest = np.linalg.norm(measured - predicted)
        size = np.linalg.norm(measured)
        assert found.relative_error[place] == pytest.approx(rest / size)
        assert found.r2[place] == pytest.approx(1 - (rest / size) ** 2)
        assert found.cosine[place] == pytest.approx(cosine(measured, predicted))
        slope = np.linalg.lstsq(predicted[:, None], measured, rcond=None)[0][0]
        assert found.slope[place] == pytest.approx(slope)
        nearest = min(np.linalg.norm(measured - one) for one in single)
        assert found.alone[place] == pytest.approx(nearest / size)
        assert found.kl[place] == pytest.approx(size**2 / TEXTS / made.unit)
        noise = math.sqrt(4 * 0.01**2 / (size**2 / TEXTS))
        assert found.noise_error[place] == pytest.approx(noise)
        drawn = [np.random.default_rng(n).integers(0, TEXTS, TEXTS) for n in range(400)]
        errors = [
            np.std((measured - predicted)[texts]) / np.std(measured[texts]) for texts in drawn
        ]
        assert found.relative_error_se[place] == pytest.approx(np.std(errors), rel=0.25)


def test_a_composed_edit_without_its_parts_is_refused(tmp_path):
    made = Toy(tmp_path)
    paths = made.write()
    del paths["german"]
    for composed, words in (
        ({"both": ("brief", "german")}, "needs german"),
        ({"every": ("brief", "both")}, "needs every"),
        ({"both": ("brief",)}, "two or more"),
        ({"both": ("both", "brief")}, "two or more"),
    ):
        with (
            pytest.raises(InputError, match=words),
            opened(made.matrix, made.table, paths, composed),
        ):
            pass


# Joining


def test_models_are_joined_by_name_and_those_of_one_side_are_left_out_and_listed(tmp_path):
    made = Toy(tmp_path)
    paths = made.write()
    order = [4, 2, 0, 1, 3]
    names = [made.names[row] for row in order]
    brief = np.vstack([made.edits["brief"][order], made.base[:1]])
    paths["brief"] = matrix(tmp_path / "b" / "matrix.h5", brief, [*names, "org--new"])
    with opened(made.matrix, made.table, paths, made.composed) as some:
        edits, (sums,) = prompts.measure(some), prompt_additivity.measure(some)
        pairs = prompt_directions.measure(some, edits, 10, 0)
        assert prompt_edits.missing(some) == [("brief", [made.names[5], "org--new"])]
    assert edits[0].rows.tolist() == [0, 1, 2, 3, 4]
    assert edits[1].rows.tolist() == [0, 1, 2, 3, 4, 5]
    shift = made.edits["brief"] - made.base
    assert edits[0].kl == pytest.approx(shift[:5].var(axis=1) / made.unit)
    assert sums.rows.tolist() == [0, 1, 2, 3, 4]
    assert sums.relative_error == pytest.approx(np.zeros(5), abs=1e-9)
    assert [item.models for item in pairs] == [5, 5, 6]


def test_models_off_the_map_count_where_an_edit_has_them(tmp_path):
    made = Toy(tmp_path)
    off = made.folder / "offmap.h5"
    matrix(off, made.base[:2] - 3, ["org--off-a", "org--off-b"])
    table = made.folder / "offmap.tsv"
    models_table.write_models(table, [
        models_table.Model(name, id=name, bits_per_byte=1.0, mean_loglik=-1.0)
        for name in ("org--off-a", "org--off-b")
    ])  # fmt: skip
    paths = made.write()
    values = np.vstack([made.edits["brief"], made.base[:1] - 1])
    paths["brief"] = matrix(tmp_path / "b" / "matrix.h5", values, [*made.names, "org--off-a"])
    with opened(made.matrix, made.table, paths, off=(off, table)) as some:
        assert prompts.measure(some)[0].rows.tolist() == [*range(6), 6]
        lacking = dict(prompt_edits.missing(some))
        places = np.zeros((6, 2))
        assert prompt_ways.find(some, places, report("pca")).rows.tolist() == [*range(6)]
    assert lacking == {"german": ["org--off-a"], "both": ["org--off-a"]}


@pytest.mark.parametrize(
    ("texts", "shorter", "words"),
    [(TEXTS - 1, 0, "89 texts instead of 90"), (TEXTS, 3, r"response 89 has 147 bytes")],
)
def test_an_edit_of_other_responses_is_refused(tmp_path, texts, shorter, words):
    made = Toy(tmp_path)
    path = matrix(tmp_path / "o" / "matrix.h5", made.base[:, :texts], made.names, shorter=shorter)
    with pytest.raises(InputError, match=words), opened(made.matrix, made.table, {"brief": path}):
        pass


def test_an_edit_without_any_model_of_the_set_is_refused(tmp_path):
    made = Toy(tmp_path)
    path = matrix(tmp_path / "o" / "matrix.h5", made.base[:1], ["org--stranger"])
    with pytest.raises(InputError, match="none of the models"):  # noqa: SIM117
        with opened(made.matrix, made.table, {"brief": path}):
            pass


def test_texts_of_a_selection_are_refused(tmp_path):
    made = Toy(tmp_path)
    low = store.read_matrix(made.matrix)
    low.design = Design(np.ones(TEXTS), np.zeros(TEXTS), np.ones(TEXTS), TEXTS)
    store.write_matrix(made.matrix, low)
    with pytest.raises(InputError, match="selection"):  # noqa: SIM117
        with opened(made.matrix, made.table, made.write()):
            pass


def test_arguments_name_each_edit_once():
    assert prompt_edits.named(["a=x=y", "b=z"], "--edits") == [("a", "x=y"), ("b", "z")]
    for wrong in (["a"], ["=x"], ["a="]):
        with pytest.raises(InputError, match="expected NAME="):
            prompt_edits.named(wrong, "--edits")
    with pytest.raises(InputError, match="named twice"):
        prompt_edits.named(["a=x", "a=y"], "--edits")


# Ways and planes


def test_a_way_is_the_difference_of_two_places_among_the_other_models(tmp_path):
    with toy(tmp_path, count=9) as (made, some):
        rng = np.random.default_rng(2)
        places = rng.normal(0, 30, (9, 2))
        ways = prompt_ways.find(some, places, report("tsne"))
    settings = Settings()
    points = centred(made.base) / math.sqrt(TEXTS * made.unit)
    scale = fixed.scale_of(points, places, settings)
    assert np.array_equal(ways.begin, places)
    for edit, name in enumerate(made.edits):
        for row in range(9):
            others = [other for other in range(9) if other != row]
            vectors = centred(np.stack([made.base[row], made.edits[name][row]]))
            squared = [
                [np.var(one - made.base[other]) / made.unit for other in others] for one in vectors
            ]
            before, after = fixed.among(np.array(squared), places[others], settings, scale)
            end = places[row] + after - before
            assert ways.end[edit, row] == pytest.approx(end, abs=1e-3)


def test_a_model_that_an_edit_makes_another_one_ends_beside_it(tmp_path):
    made = Toy(tmp_path, count=12)
    rng = np.random.default_rng(3)
    group = np.arange(12) % 3
    centres = rng.normal(0, 20, (3, TEXTS))
    made.base = rng.normal(-300, 40, TEXTS) + centres[group] + rng.normal(0, 3, (12, TEXTS))
    made.matrix = matrix(made.folder / "matrix.h5", made.base, made.names)
    moved = made.base.copy()
    moved[0] = made.base[1] + rng.normal(0, 1, TEXTS)
    made.edits = {"other": moved}
    places = layout.plane_of(layout.place(store.read_matrix(made.matrix), made.models))
    with opened(made.matrix, made.table, made.write()) as some:
        ways = prompt_ways.find(some, places, report("tsne"))
    assert np.array_equal(ways.end[0, 1:], places[1:])
    nearest = np.hypot(*(places - ways.end[0, 0]).T).argsort()[:4]
    assert set(group[nearest]) == {1}


def test_on_a_map_of_principal_components_shifts_are_projected_as_models_are(tmp_path):
    made = Toy(tmp_path)
    made.edits = {"halfway": made.base + 0.5 * (made.base[1] - made.base[0])}
    points = layout.points_of(made.base, THRESHOLD, float(made.n_bytes.mean()))[:, :2]
    with opened(made.matrix, made.table, made.write()) as some:
        ways = prompt_ways.find(some, points, report("pca"))
    step = 0.5 * (points[1] - points[0])
    assert ways.end[0] == pytest.approx(points + step, abs=1e-8)


def test_planes_show_what_lies_in_them(tmp_path):
    with toy(tmp_path) as (made, some):
        edits = prompts.measure(some)
        planes = prompt_plane.find(some, edits)
    base = centred(made.base) / math.sqrt(TEXTS * made.unit)
    middle = base - base.mean(axis=0)
    values = np.linalg.svd(middle, compute_uv=False)
    assert planes.across == pytest.approx(values[0] ** 2 / (values**2).sum())
    assert np.abs(planes.begin[0, :, 0]) == pytest.approx(
        np.abs(np.linalg.svd(middle)[0][:, 0] * values[0])
    )
    for edit, name in enumerate(made.edits):
        shift = centred(made.edits[name] - made.base) / math.sqrt(TEXTS * made.unit)
        steps = planes.end[edit] - planes.begin[edit]
        assert planes.seen[edit] == pytest.approx((steps**2).sum() / (shift**2).sum())
        assert steps[:, 1].mean() > 0
        # The mean of the shifts lies in the plane.
        length = np.linalg.norm(steps.mean(axis=0))
        assert length == pytest.approx(np.linalg.norm(shift.mean(axis=0)))


# Files


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def run_here(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command in this process, which has imported all that it needs."""
    monkeypatch.setattr(sys, "argv", list(arguments[1:]))
    runpy.run_path(str(SCRIPT))["main"]()


def command(made: Toy, paths: dict[str, Path], folder: Path, *more: str) -> list[str]:
    edits = [f"{name}={path}" for name, path in paths.items()]
    return [
        sys.executable, str(SCRIPT), "--matrix", str(made.matrix), "--models", str(made.table),
        "--offmap", "--offmap-models", "--edits", *edits, "--layout", str(made.write_layout()),
        "--bootstrap", "50", "--folder", str(folder), *more,
    ]  # fmt: skip


def test_the_command_writes_all_tables_and_figures_and_the_same_bytes_again(tmp_path, monkeypatch):
    made = Toy(tmp_path)
    paths = made.write()
    folders = tmp_path / "one", tmp_path / "two"
    sums = ("--composed", "both=brief,german")
    run_here(command(made, paths, folders[0], *sums), monkeypatch)
    done = subprocess.run(command(made, paths, folders[1], *sums), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in folders[0].iterdir()}
    tables = {"shifts", "edits", "cosines", "additivity", "domains", "missing", "ways"}
    figures = {"edits", "arrows", "additivity"}
    assert names == {f"{name}.tsv" for name in tables} | {
        f"{name}.{ending}" for name in figures for ending in ("png", "svg")
    }
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    shifts = read(folders[0] / "shifts.tsv")
    assert len(shifts) == 18
    assert set(shifts[0]) == set(prompt_tables.SHIFT_COLUMNS)
    assert {row["below_noise"] for row in shifts} == {"no"}
    assert [row["parts"] for row in read(folders[0] / "edits.tsv")] == ["", "", "brief, german"]
    assert len(read(folders[0] / "domains.tsv")) == 9
    ways = read(folders[0] / "ways.tsv")
    assert list(ways[0]) == ["group", "model", "step", "x", "y", "label"]
    assert len(ways) == 36
    places = {row.model: (row.x, row.y) for row in layout.read_places(made.folder / "layout.tsv")}
    for row in ways:
        assert row["step"] in ("0", "1")
        if row["step"] == "0":
            assert (float(row["x"]), float(row["y"])) == pytest.approx(places[row["model"]])


@pytest.mark.parametrize("count", [1, 2])
def test_one_model_and_one_edit_have_tables_and_figures(tmp_path, monkeypatch, count):
    made = Toy(tmp_path, count=count)
    paths = {"brief": made.write()["brief"]}
    run_here(command(made, paths, tmp_path / "out", "--composed"), monkeypatch)
    (row,) = read(tmp_path / "out" / "edits.tsv")
    assert (row["pairs_before"] == "") == (count == 1)
    assert (row["coherence"] == "") == (count == 1)
    assert read(tmp_path / "out" / "cosines.tsv") == []
    assert read(tmp_path / "out" / "additivity.tsv") == []
    if count == 1:
        ways = read(tmp_path / "out" / "ways.tsv")
        assert ways == []


def test_the_command_refuses_what_is_no_edit_by_name(tmp_path):
    made = Toy(tmp_path)
    paths = {"brief": matrix(tmp_path / "b" / "matrix.h5", made.base, made.names, shorter=3)}
    done = subprocess.run(command(made, paths, tmp_path / "out"), capture_output=True, text=True)
    assert done.returncode == 1
    assert "not an edit of" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("count", [3, 320])
def test_figures_say_how_many_models_and_texts(tmp_path, count):
    with toy(tmp_path, count=count) as (_, some):
        edits, sums = prompts.measure(some), prompt_additivity.measure(some)
        figures = [
            figure_prompts.draw(some, edits, prompt_directions.measure(some, edits, 20, 1), "chat"),
            figure_prompt_arrows.draw(some, prompt_plane.find(some, edits), "chat"),
            figure_additivity.draw(some, sums, "chat"),
        ]
    for figure in figures:
        words = [text.get_text() for text in figure.texts]
        assert any(f"{count:,} models · 90 texts of “chat”" in line for line in words)
        assert any("klmap's own" in line for line in words)


def test_a_figure_without_composed_edits_says_so(tmp_path):
    made = Toy(tmp_path)
    with opened(made.matrix, made.table, made.write()) as some:
        figure = figure_additivity.draw(some, prompt_additivity.measure(some), "chat")
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert any("No edit is composed" in line for line in words)
