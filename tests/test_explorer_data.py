"""What the page knows, read back by a decoder of its own and compared with the files."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klmap import explorer_arrays, explorer_columns, explorer_data, files, lineage, store
from klmap.benchmarks import Benchmarks
from klmap.errors import InputError
from tests.pagefiles import (
    BYTES,
    HOSTILE,
    TASKS,
    MapFiles,
    write_map,
    write_scores,
    write_selection,
)

ADDED = [4, 21, 55]


def array(value: dict[str, Any]) -> Any:
    """An array of the page."""
    order = {"u1": "B", "u2": "<u2", "u4": "<u4", "i2": "<i2", "f4": "<f4", "f8": "<f8"}
    data = np.frombuffer(base64.b64decode(value["data"]), order[value["dtype"]])
    return data.reshape(value["shape"])


def split_of(data: dict[str, Any], i: int, j: int) -> Any:
    """Domains of a pair from the components, in bits per byte."""
    found = data["components"]
    residual = array(found["residual"])
    result = []
    for domain, (points, scale) in enumerate(
        zip(array(found["points"]), array(found["scale"]), strict=True)
    ):
        total = float(residual[domain, i]) ** 2 + float(residual[domain, j]) ** 2
        for a, b, step in zip(points[i].tolist(), points[j].tolist(), scale.tolist(), strict=True):
            total += (step * (a - b)) ** 2
        result.append(total)
    return np.array(result)


def exact(made: MapFiles, i: int, j: int, names: list[str]) -> Any:
    """The same from the log-likelihoods."""
    first, second = np.maximum(made.loglik[[i, j]], made.threshold)
    square = (first - second - (first - second).mean()) ** 2
    square /= 2 * BYTES * np.log(2) * len(made.domain)
    labels = np.array(made.domain)
    return np.array([square[labels == name].sum() for name in names])


def domains(data: dict[str, Any]) -> list[str]:
    return [domain["name"] for domain in data["texts"]["domains"]]


def column(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(found for found in data["columns"] if found["name"] == name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MapFiles:
    return write_map(tmp_path_factory.mktemp("page"), 60, 240, 4)


@pytest.fixture(scope="module")
def data(made: MapFiles) -> dict[str, Any]:
    text = explorer_data.to_json(made.payload(ellipses_path=made.path("ellipses.tsv")))
    return json.loads(text)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> MapFiles:
    return write_map(tmp_path_factory.mktemp("large"), 1018, 600, 22)


@pytest.fixture(scope="module")
def chosen(made: MapFiles, tmp_path_factory: pytest.TempPathFactory) -> MapFiles:
    return write_selection(made, tmp_path_factory.mktemp("chosen"), ADDED)


def weighted(made: MapFiles, i: int, j: int, names: list[str]) -> Any:
    """Domains of a pair, in bits per byte of all texts, from those of a selection."""
    design = store.read_matrix(made.path("matrix.h5")).design
    assert design is not None
    first, second = np.maximum(made.loglik[[i, j]], made.threshold)
    times = design.weight**2
    difference = first - second - (times @ (first - second)) / times.sum()
    square = times * difference**2 / (2 * BYTES * np.log(2) * design.texts)
    labels = np.array(made.domain)
    return np.array([square[labels == name].sum() for name in names])


def test_of_a_selection_the_page_knows_its_reference_and_who_was_added(chosen: MapFiles) -> None:
    data = chosen.payload(reference="pile")
    texts = data["texts"]
    assert texts["n"] == len(chosen.domain) < 90
    assert texts["mean_bytes"] == BYTES
    assert data["selection"] == {
        "method": "ls", "words": "LS selection", "draws": 90, "texts": len(chosen.domain),
        "of": 240, "reference": "pile", "added": ADDED,
    }  # fmt: skip
    assert sum(domain["n"] for domain in texts["domains"]) == texts["n"]
    assert sum(domain["share"] for domain in texts["domains"]) == pytest.approx(1)
    design = store.read_matrix(chosen.path("matrix.h5")).design
    assert design is not None
    times = design.weight**2
    for domain in texts["domains"]:
        own = np.array(chosen.domain) == domain["name"]
        assert domain["share"] == pytest.approx(times[own].sum() / times.sum())
    scored = array(column(data, "texts")["values"])
    assert np.flatnonzero(scored < 240).tolist() == ADDED


def test_of_a_selection_pairs_of_the_reference_are_exact_and_others_have_wider_errors(
    made: MapFiles, chosen: MapFiles
) -> None:
    data = chosen.payload()
    whole = store.read_distances(made.path("kl.h5"))
    assert whole.kl is not None
    assert whole.se is not None
    first, second = np.triu_indices(60, 1)
    code = array(data["pairs"]["kl"]).astype(float)
    kl = np.where(code == 0, 0, np.exp(data["pairs"]["low"] + (code - 1) * data["pairs"]["step"]))
    ratio = np.exp(data["pairs"]["se_low"] + array(data["pairs"]["se"]) * data["pairs"]["se_step"])
    new = np.isin(first, ADDED) | np.isin(second, ADDED)
    np.testing.assert_allclose(kl[~new], whole.kl[first, second][~new], rtol=2e-4)
    np.testing.assert_allclose((kl * ratio)[~new], whole.se[first, second][~new], rtol=0.03)
    wider = (kl * ratio)[new] / whole.se[first, second][new]
    assert np.median(wider) > 1.2
    names = domains(data)
    for i, j in ((4, 21), (55, 0), (4, 30)):
        at = np.flatnonzero((first == min(i, j)) & (second == max(i, j)))
        assert kl[at] == pytest.approx(weighted(chosen, i, j, names).sum(), rel=3e-4)


def test_of_a_selection_domains_are_split_by_the_weights_of_its_texts(chosen: MapFiles) -> None:
    data = chosen.payload()
    names = domains(data)
    for i, j in ((4, 21), (0, 59), (55, 3)):
        parts = weighted(chosen, i, j, names)
        np.testing.assert_allclose(split_of(data, i, j), parts, atol=1e-3 * parts.sum())
    index, share = array(data["neighbors"]["index"]), array(data["neighbors"]["domains"])
    for i in (0, 4, 33):
        parts = weighted(chosen, i, int(index[i, 0]), names)
        assert np.abs(share[i, 0] / 255 - parts / parts.sum()).max() <= 0.5 / 255 + 1e-9


def test_a_text_set_of_its_own_is_no_selection(data: dict[str, Any]) -> None:
    assert data["selection"] is None
    assert not any("share" in domain for domain in data["texts"]["domains"])


def test_a_manifest_and_a_matrix_that_do_not_agree_on_a_selection_are_refused(
    chosen: MapFiles, tmp_path: Path
) -> None:
    manifest = files.read_json(chosen.path("texts.json"))
    own = {key: value for key, value in manifest.items() if key != "selection"}
    files.write_json(tmp_path / "texts.json", own)
    with pytest.raises(InputError, match="only one of them is of a text selection"):
        chosen.payload(manifest_path=tmp_path / "texts.json")
    for broken in ({"method": "ls"}, "ls", {**manifest["selection"], "reference": {}}):
        files.write_json(tmp_path / "texts.json", {**manifest, "selection": broken})
        with pytest.raises(InputError, match=r"texts\.json: its block selection is broken"):
            chosen.payload(manifest_path=tmp_path / "texts.json")


def test_pairs_are_exact_to_their_codes(made: MapFiles, data: dict[str, Any]):
    distances = store.read_distances(made.path("kl.h5"))
    assert distances.kl is not None
    assert distances.se is not None
    upper = np.triu_indices(60, 1)
    code = array(data["pairs"]["kl"]).astype(float)
    kl = np.where(code == 0, 0, np.exp(data["pairs"]["low"] + (code - 1) * data["pairs"]["step"]))
    np.testing.assert_allclose(kl, distances.kl[upper], rtol=2e-4)
    ratio = np.exp(data["pairs"]["se_low"] + array(data["pairs"]["se"]) * data["pairs"]["se_step"])
    np.testing.assert_allclose(kl * ratio, distances.se[upper], rtol=0.03)


def test_equal_models_have_code_0():
    kl = np.array([[0, 0, 2], [0, 0, 1e-5], [2, 1e-5, 0.0]])
    found = explorer_arrays.pairs(kl, (kl / 10).astype(np.float32))
    assert array(found["kl"]).tolist()[0] == 0
    assert array(found["kl"]).tolist()[1:] == [65535, 1]
    nothing = explorer_arrays.pairs(np.zeros((2, 2)), np.zeros((2, 2), np.float32))
    assert array(nothing["kl"]).tolist() == [0]


def test_pairs_of_any_range_keep_the_larger_ones_exact():
    values = np.geomspace(1e-300, 10, 45)
    kl = np.zeros((10, 10))
    kl[np.triu_indices(10, 1)] = values
    found = explorer_arrays.pairs(kl, kl.astype(np.float32))
    back = np.exp(found["low"] + (array(found["kl"]).astype(float) - 1) * found["step"])
    seen = values > 1e-10
    np.testing.assert_allclose(back[seen], values[seen], rtol=2.1e-4)


def test_neighbours_are_those_of_the_table(made: MapFiles, data: dict[str, Any]):
    index = array(data["neighbors"]["index"])
    kl, se = array(data["neighbors"]["kl"]), array(data["neighbors"]["se"])
    flags = array(data["neighbors"]["flags"])
    row = {name: number for number, name in enumerate(data["models"])}
    table = files.read_tsv(made.path("neighbors.tsv"))
    assert len(table) == index.size
    for line in table:
        place = row[line["model"]], int(line["rank"]) - 1
        assert index[place] == row[line["neighbor"]]
        assert kl[place] == pytest.approx(float(line["kl"]), rel=1e-6)
        assert se[place] == pytest.approx(float(line["se"]), rel=1e-6)
        marks = [name for bit, name in ((1, "beyond"), (2, "below_noise")) if flags[place] & bit]
        assert ",".join(marks) == line["flags"]


def test_domains_of_neighbours_are_their_exact_shares(made: MapFiles, data: dict[str, Any]):
    index, share = array(data["neighbors"]["index"]), array(data["neighbors"]["domains"])
    assert share.shape == (60, 10, 4)
    for i in range(0, 60, 7):
        for rank in range(10):
            parts = exact(made, i, int(index[i, rank]), domains(data))
            assert np.abs(share[i, rank] / 255 - parts / parts.sum()).max() <= 0.5 / 255 + 1e-9


def test_few_models_have_the_domains_of_every_pair(made: MapFiles, data: dict[str, Any]):
    found = data["components"]
    assert found["exact"] is True
    assert not array(found["residual"]).any()
    assert found["error"]["largest"] < 1e-3
    for i, j in ((0, 59), (3, 17), (40, 41), (58, 2)):
        parts = exact(made, i, j, domains(data))
        np.testing.assert_allclose(split_of(data, i, j), parts, atol=1e-3 * parts.sum())
        assert split_of(data, i, j).sum() == pytest.approx(parts.sum(), rel=1e-3)


def test_many_models_have_them_within_the_stated_error(large: MapFiles):
    data = large.payload()
    found = data["components"]
    assert found["exact"] is False
    rng = np.random.default_rng(5)
    names, parts_off, sums_off = domains(data), [], []
    for i, j in rng.integers(0, 1018, (150, 2)):
        if i == j:
            continue
        parts = exact(large, i, j, names)
        wrong = split_of(data, i, j) - parts
        parts_off += (np.abs(wrong) / parts.sum()).tolist()
        sums_off.append(abs(wrong.sum()) / parts.sum())
    for wrong, stated in ((parts_off, found["error"]), (sums_off, found["kl_error"])):
        assert stated["pairs"] == 2000
        assert np.median(wrong) < 1.3 * stated["median"]
        assert np.quantile(wrong, 0.95) < 1.3 * stated["p95"]
        assert 0 < stated["median"] < stated["p95"] < stated["largest"]


def test_a_thousand_models_leave_room_for_the_page(large: MapFiles):
    text = explorer_data.to_json(large.payload(ellipses_path=large.path("ellipses.tsv")))
    assert len(text.encode()) < 4_400_000


def test_without_stored_pairs_the_coordinates_stand_for_them(made: MapFiles, tmp_path: Path):
    distances = store.read_distances(made.path("kl.h5"))
    distances.kl = distances.se = distances.below_noise = None
    store.write_distances(tmp_path / "kl.h5", distances)
    data = made.payload(kl_path=tmp_path / "kl.h5")
    assert data["pairs"] is None
    assert data["components"]["kl_error"]["largest"] < 1e-3


def test_a_page_that_would_grow_too_large_has_fewer_coordinates_or_none(
    made: MapFiles, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(explorer_data, "LARGEST_PAGE", 60_000)
    smaller = made.payload()
    assert smaller["components"]["points"]["shape"][2] >= explorer_data.LEAST_RANK
    assert not smaller["components"]["exact"]
    assert len(explorer_data.to_json(smaller)) < 61_000
    monkeypatch.setattr(explorer_data, "LARGEST_PAGE", 40_000)
    assert made.payload()["components"] is None
    monkeypatch.setattr(explorer_data, "PAIR_BYTES", 100)
    assert made.payload()["pairs"] is None


def test_a_domain_is_the_same_by_either_way_of_computing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    block = rng.normal(size=(90, 8)) @ rng.normal(size=(8, 70)) + 0.01 * rng.normal(size=(90, 70))
    first, second = np.array([0, 5]), np.array([80, 6])
    found = []
    for dense in (explorer_arrays._DENSE, 20):
        monkeypatch.setattr(explorer_arrays, "_DENSE", dense)
        made = explorer_arrays.component(block, 8)
        arrays = made.codes[None], made.scale[None], made.residual[None]
        found.append(explorer_arrays.estimate(*arrays, first, second)[:, 0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    direct = ((block[first] - block[second]) ** 2).sum(axis=1)
    np.testing.assert_allclose(found[0], direct, rtol=5e-3)


def test_every_column_is_there_with_its_kind(made: MapFiles, data: dict[str, Any]):
    with made.path("models.tsv").open(newline="") as file:
        table = list(csv.DictReader(file, delimiter="\t"))
    assert [found["name"] for found in data["columns"]] == [
        name for name in table[0] if name != "model"
    ]
    kinds = {found["name"]: found["kind"] for found in data["columns"]}
    assert kinds["family"] == kinds["license"] == kinds["tuning"] == "category"
    assert kinds["created_at"] == "date"
    assert kinds["mmlu_5shot"] == kinds["bits_per_byte"] == kinds["parameters"] == "number"
    assert kinds["id"] == kinds["commit"] == kinds["note"] == "text"
    assert column(data, "parameters")["log"]
    assert not column(data, "bits_per_byte")["log"]
    assert column(data, "mean_loglik")["label"] == "mean log-likelihood (nats/text)"
    for name in ("parameters", "mmlu_5shot", "noise_nats"):
        expected = [float(row[name]) if row[name] else math.nan for row in table]
        np.testing.assert_array_equal(array(column(data, name)["values"]), expected)
    family = column(data, "family")
    codes = array(family["codes"])
    assert [family["levels"][code] for code in codes] == [row["family"] for row in table]
    assert codes.max() < 65535
    assert np.bincount(codes).argmax() == 0
    empty = [row["license"] == "" for row in table]
    assert (array(column(data, "license")["codes"]) == 65535).tolist() == empty
    days = array(column(data, "created_at")["values"])
    first = next(number for number, row in enumerate(table) if row["created_at"])
    expected = np.datetime64(table[first]["created_at"][:10]) - np.datetime64("1970-01-01")
    assert days[first] == pytest.approx(expected.astype(int) + 8 / 24)
    assert np.isnan(days).sum() == sum(row["created_at"] == "" for row in table)


def test_scores_are_columns_each_with_what_is_predicted_of_it(made: MapFiles) -> None:
    data = made.payload(**write_scores(made))
    measured = {row["model"]: row for row in files.read_tsv(made.path("benchmarks.tsv"))}
    predicted = {
        (row["model"], row["task"]): row for row in files.read_tsv(made.path("predictions.tsv"))
    }
    own = [found for found in data["columns"] if "task" in found]
    assert data["columns"][-len(own) :] == own
    assert [(found["name"], found["task"], found["predicted"]) for found in own] == [
        (name, task, name != task) for task in TASKS for name in (task, f"{task}, predicted")
    ]
    assert {found["kind"] for found in own} == {"number"}
    for task in TASKS:
        scores = array(column(data, task)["values"])
        guesses = array(column(data, f"{task}, predicted")["values"])
        assert np.isnan(scores[:2]).all(), "nobody has measured them"
        assert math.isnan(guesses[0]), "far from all others, so nothing tells how wrong it is"
        for row, model in enumerate(made.models):
            if row > 1:
                assert scores[row] == float(measured[model.model][task])
            if row > 0:
                assert guesses[row] == float(predicted[model.model, task]["predicted"])
    assert len(data["notes"]) == 1
    assert f"{made.models[0].model} was scored with dtype float32" in data["notes"][0]


def test_a_task_with_the_name_of_another_column_takes_nothing_away() -> None:
    found = Benchmarks(["parameters", "ARC"], np.array([[1.0, 2.0], [3.0, math.nan]]))
    made = explorer_columns.scores(found, [], ["a", "b"], ["family", "parameters"])
    assert [one["name"] for one in made] == ["parameters (benchmark)", "ARC"]
    assert [one["task"] for one in made] == ["parameters", "ARC"]


def test_without_scores_nothing_is_said_of_any(data: dict[str, Any]) -> None:
    assert not [found for found in data["columns"] if "task" in found]
    assert data["notes"] == []


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2.5", "", "-3e-2"], "number"),
        (["1", "nan", "inf", "4"], "number"),
        (["nan", ""], "text"),
        (["1", "2", "x", "2"], "category"),
        (["2024-01-01", "", "2023-05-06T07:08:09Z"], "date"),
        (["2024-01-01", "2023-15-06"], "text"),
        (["True", "False", "True"], "category"),
        (["a", "b", "c"], "text"),
        ([f"level {i // 3}" for i in range(60)], "category"),
        ([f"level {i // 3 * 2}" for i in range(5)], "category"),
        ([f"word {i}" for i in range(99)] + ["word 0"], "text"),
        (["", ""], "text"),
        (["0x10", "0x11", "0x10"], "category"),
    ],
)
def test_unknown_columns_are_what_they_look_like(tmp_path: Path, cells: list[str], kind: str):
    path = tmp_path / "models.tsv"
    files.write_tsv(path, ("model", "own"), [(f"m{i}", cell) for i, cell in enumerate(cells)])
    found = explorer_columns.columns(path)[0]
    assert found["kind"] == kind
    if kind in ("number", "date"):
        values = array(found["values"])
        assert np.isfinite(values[[cell not in ("", "nan", "inf") for cell in cells]]).all()
        assert not np.isinf(values).any()


def test_what_spans_decades_is_logarithmic(tmp_path: Path):
    files.write_tsv(tmp_path / "m.tsv", ("a", "b", "c"), [("0.001", "1", "0"), ("10", "3", "9999")])
    assert [found["log"] for found in explorer_columns.columns(tmp_path / "m.tsv")] == [
        True, False, False,
    ]  # fmt: skip


def test_lineage_layout_and_texts_are_told(made: MapFiles, data: dict[str, Any]):
    assert data["models"] == [model.model for model in made.models]
    assert data["parents"] == [list(pair) for pair in lineage.parents(made.models)]
    assert data["runs"] == [list(run.rows) for run in lineage.ways(made.models)]
    assert data["runs"]
    assert data["parents"]
    assert data["beyond"] == 8.0
    layout = data["layout"]
    assert layout["label"] == "t-SNE on √KL"
    assert layout["stable"]["median"] == 0.004
    table = files.read_tsv(made.path("layout.tsv"))
    np.testing.assert_array_equal(array(layout["x"]), [float(row["x"]) for row in table])
    np.testing.assert_array_equal(array(layout["y"]), [float(row["y"]) for row in table])
    ellipses = files.read_tsv(made.path("ellipses.tsv"))
    for name in ("x", "y", "major", "minor", "angle"):
        expected = np.array([float(row[name]) for row in ellipses], np.float32)
        np.testing.assert_array_equal(array(data["ellipses"][name]), expected)
    noise = array(data["noise"])
    np.testing.assert_array_equal(
        noise, store.read_distances(made.path("kl.h5")).noise.astype(np.float32)
    )
    assert np.isnan(noise).any()
    texts = data["texts"]
    assert (texts["name"], texts["n"]) == ("demo", 240)
    assert {domain["name"]: domain["n"] for domain in texts["domains"]} == {
        name: made.domain.count(name) for name in set(made.domain)
    }


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_models_are_enough(tmp_path: Path, count: int):
    made = write_map(tmp_path, count, 40, 2)
    data = json.loads(explorer_data.to_json(made.payload()))
    assert array(data["neighbors"]["index"]).shape == (count, count - 1)
    assert array(data["pairs"]["kl"]).shape == (count * (count - 1) // 2,)
    assert array(data["components"]["points"]).shape[1] == count
    assert data["ellipses"] is None
    if count > 1:
        parts = exact(made, 0, 1, domains(data))
        assert split_of(data, 0, 1).sum() == pytest.approx(parts.sum(), rel=1e-3)


class Page(HTMLParser):
    """All tags, and the text within the first script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_strings_are_data_and_nothing_else(tmp_path: Path):
    made = write_map(tmp_path, 30, 60, 3, hostile=True)
    text = explorer_data.to_json(made.payload())
    assert not re.search("[<>&\u2028\u2029]", text)
    page = Page(f'<script type="application/json" id="data">{text}</script><p></p>')
    assert page.tags == ["script", "p"]
    data = json.loads(page.text)
    assert data == json.loads(text)
    assert data["models"] == [model.model for model in made.models]
    assert any("</script>" in name for name in data["models"])
    assert data["texts"]["name"] == HOSTILE[0]
    assert sorted(domains(data)) == sorted(set(made.domain))
    licence = column(data, "license")
    found = [licence["levels"][code] for code in array(licence["codes"])]
    assert found == [model.license for model in made.models]
    assert any("\u2028" in level for level in licence["levels"])


def test_the_same_files_give_the_same_bytes(made: MapFiles, data: dict[str, Any]):
    again = explorer_data.to_json(made.payload(ellipses_path=made.path("ellipses.tsv")))
    assert json.loads(again) == data


def test_what_is_not_finite_becomes_null():
    text = explorer_data.to_json({"a": math.nan, "b": [1.0, -math.inf], "c": "NaN"})
    assert json.loads(text) == {"a": None, "b": [1.0, None], "c": "NaN"}


def test_files_of_other_models_or_texts_are_refused(made: MapFiles, tmp_path: Path):
    other = write_map(tmp_path / "other", 60, 240, 4, seed=1)
    with pytest.raises(InputError, match=r"kl\.h5.*not the 60 of"):
        made.payload(matrix_path=other.path("matrix.h5"))
    manifest = files.read_json(made.path("texts.json")) | {"sha256": "f" * 64}
    files.write_json(tmp_path / "texts.json", manifest)
    with pytest.raises(InputError, match=r"texts\.json: of the texts ffffffffffff"):
        made.payload(manifest_path=tmp_path / "texts.json")
    table = files.read_tsv(made.path("neighbors.tsv"))
    files.write_tsv(tmp_path / "n.tsv", list(table[0]), [list(r.values()) for r in table[:-1]])
    with pytest.raises(InputError, match=r"n\.tsv: 9 neighbours of"):
        made.payload(neighbors_path=tmp_path / "n.tsv")
    table[0]["neighbor"] = "nobody"
    files.write_tsv(tmp_path / "n.tsv", list(table[0]), [list(r.values()) for r in table])
    with pytest.raises(InputError, match=r"n\.tsv: 'nobody' is not on the map"):
        made.payload(neighbors_path=tmp_path / "n.tsv")
    short = files.read_tsv(made.path("ellipses.tsv"))[:-1]
    files.write_tsv(tmp_path / "e.tsv", list(short[0]), [list(row.values()) for row in short])
    with pytest.raises(InputError, match=r"e\.tsv"):
        made.payload(ellipses_path=tmp_path / "e.tsv")
