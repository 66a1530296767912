"""KLs of related models: against the plain formulas, and what the tables say of them."""

from __future__ import annotations

import math
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klmap import bootstrap, files, geometry, models_table, relations, scale, store
from klmap.arrays import Floats, Rows
from klmap.gathered import Gathered, gathered
from klmap.models_table import Model
from klmap.relations import Related
from klmap.scale import Measured
from klmap.store import Matrix
from tests import mapfiles

SCRIPT = Path(__file__).parents[1] / "scripts" / "scale.py"
BYTES = 700.0
UNIT = 2 * BYTES * math.log(2)
TEXTS = 150
REPLICATES = 8


def matrix_of(values: Floats, threshold: float, names: list[str]) -> Matrix:
    return Matrix(
        loglik=values,
        coordinates=geometry.double_centre(values, threshold).astype(np.float32),
        model=names,
        domain=["all"] * values.shape[1],
        n_bytes=np.full(values.shape[1], int(BYTES), np.int32),
        clip_quantile=0.02,
        clip_threshold=threshold,
        mean_bytes=BYTES,
        texts_sha256="0" * 64,
        noise=np.full(len(values), 0.5),
    )


def values_of(models: int, texts: int = TEXTS, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    places = rng.normal(0, 40, (models, 3)) @ rng.normal(0, 1, (3, texts))
    return np.asarray(-600 + places + rng.standard_t(4, (models, texts)) * 10, np.float64)


def written(folder: Path, matrix: Matrix, models: list[Model], stem: str = "matrix") -> list[str]:
    store.write_matrix(folder / f"{stem}.h5", matrix)
    table = folder / ("models.tsv" if stem == "matrix" else f"{stem}.tsv")
    models_table.write_models(table, models)
    return [str(folder / f"{stem}.h5"), str(table)]


class Found:
    """An open matrix of some models, with the design of a selection or without."""

    def __init__(self, root: Path, models: int = 12) -> None:
        self.values = values_of(models)
        self.threshold = geometry.clip_threshold(self.values)
        names = [f"a--m{n}" for n in range(models)]
        rows = [Model(name, id=name) for name in names]
        matrix = matrix_of(self.values, self.threshold, names)
        written(root, matrix, rows)
        self.root, self.open = root, ExitStack()

    def __enter__(self) -> Gathered:
        return self.open.enter_context(gathered(self.root / "matrix.h5", self.root / "models.tsv"))

    def __exit__(self, *error: Any) -> None:
        self.open.close()


def pairs_of(models: int, name: str = relations.SEEDS) -> Related:
    first, second = np.triu_indices(models, 1)
    return Related(name, False, first, second)


def test_kls_and_errors_are_those_of_the_plain_formulas(tmp_path: Path):
    source = Found(tmp_path)
    with source as found:
        (measured,) = scale.measure(found, [pairs_of(12)], REPLICATES, 1)
    clipped = np.maximum(source.values, source.threshold)
    for place in range(measured.related.pairs):
        apart = clipped[measured.related.first[place]] - clipped[measured.related.second[place]]
        squares = (apart - apart.mean()) ** 2
        assert measured.kl[place] == pytest.approx(np.var(apart) / UNIT, rel=1e-12)
        assert measured.se[place] == pytest.approx(squares.std() / TEXTS**0.5 / UNIT, rel=1e-9)
    assert measured.noise_floor == pytest.approx(2 * 0.5**2 / UNIT)


@pytest.mark.parametrize("name", [relations.EARLY, relations.LATER])
def test_final_weights_that_cannot_be_told_from_the_last_step_are_no_pair(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    values = values_of(6)
    values[1] = values[0]  # a/m: final weights that are the last step
    values[3] = values[2] + np.tile([0.4, -0.4], TEXTS // 2)  # b/m: below the noise
    rows = [
        Model(f"{id_}{at}", id=id_, revision=at)
        for id_, at in [("a", "step1"), ("a", ""), ("b", "step1"), ("b", ""), ("c", "step1"),
                        ("c", "")]
    ]  # fmt: skip
    threshold = geometry.clip_threshold(values)
    written(tmp_path, matrix_of(values, threshold, [row.model for row in rows]), rows)
    related = Related(name, False, np.array([0, 2, 4]), np.array([1, 3, 5]))
    equal_steps = Related(name, False, np.array([1, 0]), np.array([0, 4]))
    seeds = replace(related, name=relations.SEEDS)
    none = Related(name, False, np.array([0]), np.array([1]))
    with gathered(tmp_path / "matrix.h5", tmp_path / "models.tsv") as found:
        measured = scale.measure(found, [related, equal_steps, seeds, none], REPLICATES, 1)
        alone = Related(name, False, np.array([4]), np.array([5]))
        (only,) = scale.measure(found, [alone], REPLICATES, 1)
    assert [item.related.pairs for item in measured] == [1, 2, 3]
    assert (measured[0].related.first, measured[0].related.second) == ([4], [5])
    for one, two in ((measured[0].kl, only.kl), (measured[0].se, only.se),
                     (measured[0].noise_floor, only.noise_floor),
                     (measured[0].medians, only.medians)):  # fmt: skip
        np.testing.assert_allclose(one, two)
    assert "2 pairs of a last step" in caplog.text


def test_they_agree_with_all_pairs_of_a_map(tmp_path: Path):
    source = Found(tmp_path)
    with source as found:
        (measured,) = scale.measure(found, [pairs_of(12)], REPLICATES, 1)
    q = geometry.double_centre(source.values, source.threshold)
    kl, se = geometry.pairwise_kl(q, BYTES)
    upper = measured.related.first, measured.related.second
    assert measured.kl == pytest.approx(kl[upper], rel=1e-9)
    assert measured.se == pytest.approx(se[upper], rel=1e-5)


@pytest.mark.parametrize("replace", [True, False])
def test_a_selection_of_texts_is_weighted(tmp_path: Path, replace: bool):
    rng = np.random.default_rng(3)
    texts = 400
    design, index = mapfiles.drawn(rng.uniform(0.5, 2, texts), 150, rng, replace)
    values = values_of(6, texts)[:, index]
    threshold = float(np.quantile(values, 0.02))
    names = [f"a--m{n}" for n in range(6)]
    matrix = matrix_of(values, threshold, names)
    low = geometry.double_centre(values, threshold, design)
    matrix.coordinates = low.astype(np.float32)
    matrix.design, matrix.complete = design, np.ones(6, np.bool_)
    matrix.selection = "5e1ec7ed0000"
    written(tmp_path, matrix, [Model(name, id=name) for name in names])
    with gathered(tmp_path / "matrix.h5", tmp_path / "models.tsv") as found:
        (measured,) = scale.measure(found, [pairs_of(6)], REPLICATES, 1)
    kl, se = geometry.pairwise_kl(low, BYTES, design)
    upper = np.triu_indices(6, 1)
    assert measured.kl == pytest.approx(kl[upper], rel=1e-9)
    assert measured.se == pytest.approx(se[upper], rel=1e-5)
    for sample in range(REPLICATES):
        times = bootstrap.reweigh(design, 1, sample)
        clipped = np.maximum(values, threshold)
        replicate = bootstrap.kl_of_sample(clipped, times, BYTES, texts)[upper]
        assert measured.medians[sample] == pytest.approx(np.median(replicate), rel=1e-9)


def test_medians_of_bootstrap_samples_are_those_of_texts_that_were_repeated(tmp_path: Path):
    source = Found(tmp_path)
    with source as found:
        one, two = scale.measure(found, [pairs_of(12), pairs_of(5, relations.SIZES)], REPLICATES, 7)
    clipped = np.maximum(source.values, source.threshold)
    for sample in range(REPLICATES):
        texts = np.repeat(np.arange(TEXTS), bootstrap.draw(TEXTS, 7, sample))
        for measured, models in ((one, 12), (two, 5)):
            kl = [
                np.var(clipped[a, texts] - clipped[b, texts]) / UNIT
                for a, b in zip(*np.triu_indices(models, 1), strict=True)
            ]
            assert measured.medians[sample] == pytest.approx(np.median(kl), rel=1e-9)
    assert one.median_se == pytest.approx(np.std(one.medians, ddof=1))


def test_the_error_of_a_median_of_one_pair_is_that_of_its_kl(tmp_path: Path):
    single = Related(relations.SEEDS, False, np.array([0]), np.array([1]))
    with Found(tmp_path) as found:
        (measured,) = scale.measure(found, [single], 400, 1)
    assert measured.median_se == pytest.approx(measured.se[0], rel=0.15)


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Found(tmp_path) as found:
        (whole,) = scale.measure(found, [pairs_of(12)], REPLICATES, 1)
        monkeypatch.setattr(scale, "_ROWS_BYTES", 8 * TEXTS * 5)
        monkeypatch.setattr(scale, "_BLOCK_BYTES", 8 * TEXTS * 2)
        (parts,) = scale.measure(found, [pairs_of(12)], REPLICATES, 1)
    assert np.array_equal(whole.kl, parts.kl)
    assert np.array_equal(whole.se, parts.se)
    assert whole.medians == pytest.approx(parts.medians, rel=1e-12)


def test_equal_models_have_a_kl_of_zero(tmp_path: Path):
    values = np.repeat(values_of(1), 2, axis=0)
    names = ["a--x", "a--y"]
    matrix = matrix_of(values, -1e9, names)
    written(tmp_path, matrix, [Model(name, id=name) for name in names])
    with gathered(tmp_path / "matrix.h5", tmp_path / "models.tsv") as found:
        (measured,) = scale.measure(found, [pairs_of(2)], REPLICATES, 1)
    assert measured.kl == [0]
    assert measured.median_se == 0
    assert measured.below.all()


def made(name: str, medians: Floats, floor: float = 0.0) -> Measured:
    kl = np.array([float(np.mean(medians))])
    rows: Rows = np.array([0])
    return Measured(Related(name, False, rows, rows + 1), kl, kl, np.array([floor]), medians)


def verdict(first: Floats, second: Floats, floor: float = 0.0) -> tuple[float, str]:
    pair = [made(relations.SEEDS, first, floor), made(relations.PARENT, second, floor)]
    (found,) = scale.orderings(pair)
    assert found.expected
    return found.probability, found.verdict


def test_an_order_is_told_where_nearly_all_samples_agree():
    low = np.linspace(1, 2, 200)
    assert verdict(low, low + 0.1) == (1, scale.FIRST)
    assert verdict(low + 0.1, low) == (0, scale.SECOND)
    assert verdict(low, low) == (0.5, scale.UNCLEAR)
    mixed = np.where(np.arange(200) < 20, low - 0.1, low + 0.1)
    assert verdict(low, mixed) == (0.9, scale.UNCLEAR)


def test_a_difference_below_the_noise_floor_tells_nothing():
    low = np.linspace(1, 2, 200)
    assert verdict(low, low + 0.1, floor=0.2) == (1, scale.UNCLEAR)
    assert verdict(low, low + 0.1, floor=math.nan) == (1, scale.FIRST)


def test_orderings_are_the_expected_ones_and_neighbours_each_pair_once():
    items = [
        made(name, np.full(20, middle))
        for name, middle in (("int8", 0.3), ("nf4", 0.2), ("fp4", 0.4), (relations.ACROSS, 2.0))
    ]
    found = [(item.first.name, item.second.name, item.expected) for item in scale.orderings(items)]
    assert found == [
        ("int8", "nf4", True), ("nf4", "fp4", True), ("int8", "fp4", False),
        ("fp4", relations.ACROSS, False),
    ]  # fmt: skip


def zoo(folder: Path) -> list[str]:
    """Arguments of the script for a map with seeds, a fine-tune, another family and layers."""
    rng = np.random.default_rng(5)
    base = rng.normal(-600, 100, TEXTS)
    family, tuned = rng.normal(0, 60, TEXTS), rng.normal(0, 30, TEXTS)
    far = np.where(np.arange(TEXTS) % 2, 2000.0, -2000.0)

    def near(*parts: Floats) -> Floats:
        return np.asarray(base + sum(parts) + rng.normal(0, 5, TEXTS), np.float64)

    on = {
        "o/llama": near(), "o/llama-seed2": near(), "t/code": near(tuned),
        "o/gpt": near(family), "o/broken": near(far),
    }  # fmt: skip
    families = {"o/gpt": "gpt2", "o/broken": "broken"}
    models = [
        Model(
            id.replace("/", "--"), id=id, family=families.get(id, "llama"), dtype="float32",
            base_model=("o/llama",) if id == "t/code" else (), bits_per_byte=1.0, mean_loglik=-1.0,
        )
        for id in on
    ]  # fmt: skip
    off = {n: near(rng.normal(0, 60, TEXTS)) for n in range(2)}
    layers = [
        replace(models[0], model=f"o--llama+layer{n}", variant=f"layer{n}", layer=n, n_layers=2)
        for n in off
    ]
    names = [model.model for model in models]
    matrix = matrix_of(np.stack([*on.values()]), -4000.0, names)
    rest = matrix_of(np.stack([*off.values()]), -4000.0, [model.model for model in layers])
    paths = [*written(folder, matrix, models), *written(folder, rest, layers, "offmap")]
    options = ("--matrix", "--models", "--offmap", "--offmap-models")
    return [part for pair in zip(options, paths, strict=True) for part in pair]


def script(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--bootstrap", "50", "--folder", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_script_writes_tables_and_figure_the_same_way_each_time(tmp_path: Path):
    arguments = zoo(tmp_path)
    out, again = tmp_path / "out", tmp_path / "again"
    for folder in (out, again):
        folder.mkdir()
        assert script(arguments, folder).returncode == 0
    names = {"scale.tsv", "pairs.tsv", "orderings.tsv", "scale.png", "scale.svg"}
    assert {path.name for path in out.iterdir()} == names
    assert all((out / name).read_bytes() == (again / name).read_bytes() for name in names)

    rows = {row["relation"]: row for row in files.read_tsv(out / "scale.tsv")}
    assert [*rows] == [
        relations.LAYERS, relations.PARENT, relations.SEEDS, relations.FAMILY, relations.ACROSS,
    ]  # fmt: skip
    medians = {name: float(row["median"]) for name, row in rows.items()}
    assert medians[relations.SEEDS] < medians[relations.PARENT] < medians[relations.ACROSS]
    assert rows[relations.SEEDS]["published"] == "0.12"
    assert float(rows[relations.ACROSS]["beyond"]) == pytest.approx(4 / 7, rel=1e-5)
    assert rows[relations.LAYERS]["pairs"] == "2"

    pairs = files.read_tsv(out / "pairs.tsv")
    assert [*pairs[0].values()][:3] == [
        relations.LAYERS, "o--llama+layer0", "o--llama+layer1",
    ]  # fmt: skip
    beyond = {row["first"] for row in pairs if row["beyond"]} | {
        row["second"] for row in pairs if row["beyond"]
    }
    assert "o--broken" in beyond
    assert all((float(row["kl"]) > 8) == (row["beyond"] == "beyond") for row in pairs)

    order = {(r["first"], r["second"]): r for r in files.read_tsv(out / "orderings.tsv")}
    assert order[relations.SEEDS, relations.PARENT]["verdict"] == scale.FIRST
    assert order[relations.SEEDS, relations.PARENT]["expected"] == "expected"


def test_the_script_works_without_models_off_the_map_and_without_relations(tmp_path: Path):
    arguments = written(tmp_path, matrix_of(values_of(2), -900.0, ["a", "b"]), [
        Model("a", id="x/a", bits_per_byte=1.0, mean_loglik=-1.0),
        Model("b", id="x/b", bits_per_byte=1.0, mean_loglik=-1.0),
    ])  # fmt: skip
    options = ["--matrix", arguments[0], "--models", arguments[1], "--offmap", "--offmap-models"]
    done = script(options, tmp_path)
    assert done.returncode == 0, done.stderr
    assert files.read_tsv(tmp_path / "scale.tsv") == []
    assert (tmp_path / "scale.svg").exists()


def test_steps_that_are_no_number_are_an_error_with_a_way_out(tmp_path: Path):
    done = script([*zoo(tmp_path), "--early-until", "soon"], tmp_path)
    assert done.returncode == 1
    assert "--early-until soon: neither a number" in done.stderr
