"""Ways that analyses expect models to take, and kinds of likelihood, as the page has them."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klmap import explorer, explorer_data, explorer_ways, files, layout, models_table
from klmap.errors import InputError
from klmap.models_table import Model
from tests.mapfiles import Folder
from tests.pagefiles import MapFiles, add_column, write_map, write_ways

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MapFiles:
    return write_map(tmp_path_factory.mktemp("ways"), 12)


@pytest.fixture(scope="module")
def places(made: MapFiles) -> list[layout.Place]:
    return layout.read_layout(made.path("layout.tsv"), made.models)


def array(value: dict[str, Any]) -> Any:
    order = {"u2": "<u2", "u4": "<u4", "f4": "<f4"}
    return np.frombuffer(base64.b64decode(value["data"]), order[value["dtype"]])


def table(path: Path, rows: Sequence[Sequence[Any]]) -> Path:
    files.write_tsv(path, explorer_ways.COLUMNS, rows)
    return path


def test_every_way_keeps_its_model_its_places_and_its_words(
    places: list[layout.Place], tmp_path: Path
) -> None:
    first, second = places[7], places[2]
    path = table(
        tmp_path / "mixture" / "ways.tsv",
        [
            ("code", first.model, 1, 1.5, 2.5, "one"),
            ("code", first.model, 0, first.x, first.y, "begin"),
            ("code", second.model, 0, second.x, second.y, "begin"),
            ("code", second.model, 1, -3.0, 0.25, "end"),
            ("prose", "org--elsewhere", 0, 0.0, 0.0, "begin"),
            ("prose", "org--elsewhere", 1, 4.0, 4.0, "end"),
            ("code", first.model, 2, 7.5, -1.0, "two"),
        ],
    )
    code, prose = explorer_ways.read([path], places)
    assert (code["key"], code["kind"], code["name"]) == ("mixture/code", "Mixture", "code")
    assert code["note"].count(".") == 1
    assert "klmap's own" in code["help"]
    assert array(code["rows"]).tolist() == [7, 2]
    assert array(code["steps"]).tolist() == [3, 2]
    np.testing.assert_allclose(array(code["x"]), [first.x, 1.5, 7.5, second.x, -3], rtol=1e-5)
    np.testing.assert_allclose(array(code["y"]), [first.y, 2.5, -1, second.y, 0.25], rtol=1e-5)
    words = [code["labels"][number] for number in array(code["label"])]
    assert words == ["begin", "one", "two", "begin", "end"]
    assert prose["off"] == ["org--elsewhere"]
    assert array(prose["rows"]).tolist() == [12]


def test_groups_of_both_analyses_stand_in_the_order_of_the_tables(
    made: MapFiles, places: list[layout.Place], tmp_path: Path
) -> None:
    paths = write_ways(made, tmp_path)
    found = explorer_ways.read(paths, places)
    keys = ["prompts/polite", "prompts/german", "mixture/code"]
    assert [group["key"] for group in found] == keys
    assert found[0]["kind"] == "Edit of the prompt"
    assert explorer_ways.read(paths[:1], places) == found[:2]


def test_a_table_without_ways_is_no_group(places: list[layout.Place], tmp_path: Path) -> None:
    assert explorer_ways.read([table(tmp_path / "prompts" / "ways.tsv", [])], places) == []


def broken(places: list[layout.Place]) -> dict[str, tuple[list[tuple[Any, ...]], str]]:
    model, x, y = places[3].model, places[3].x, places[3].y
    start = ("polite", model, 0, x, y, "")
    return {
        "words for a number": ([start, ("polite", model, 1, "far", y, "")], r"ways.tsv:3: .*'far'"),
        "no number": ([start, ("polite", model, 1, "nan", y, "")], r"ways.tsv:3: x and y are nan"),
        "half a step": ([start, ("polite", model, 1.5, x, y, "")], r"ways.tsv:3: .*'1.5'"),
        "no end": ([start], r"ways.tsv:2: the way 'polite' of .* steps 0, expected"),
        "a hole": ([start, ("polite", model, 2, x, y, "")], r"steps 0, 2, expected 0, 1"),
        "a step twice": ([start, ("polite", model, 1, x, y, "")] * 2, r"steps 0, 0, 1, 1, exp"),
        "another layout": (
            [("polite", model, 0, x + 50, y, ""), ("polite", model, 1, x, y, "")],
            r"ways.tsv:2: .* begins at .* but the model stands at .* another layout",
        ),
    }


@pytest.mark.parametrize(
    "case",
    ["words for a number", "no number", "half a step", "no end", "a hole", "a step twice",
     "another layout"],
)  # fmt: skip
def test_broken_tables_are_refused_with_their_place(
    case: str, places: list[layout.Place], tmp_path: Path
) -> None:
    rows, message = broken(places)[case]
    path = table(tmp_path / "prompts" / "ways.tsv", rows)
    with pytest.raises(InputError, match=message) as caught:
        explorer_ways.read([path], places)
    assert str(path) in str(caught.value)
    assert "run again" in str(caught.value)


def test_tables_of_other_columns_or_analyses_are_refused(
    places: list[layout.Place], tmp_path: Path
) -> None:
    path = tmp_path / "prompts" / "ways.tsv"
    files.write_tsv(path, ("group", "model"), [("polite", "a")])
    with pytest.raises(InputError, match=r"ways.tsv: no column step, x, y, label"):
        explorer_ways.read([path], places)
    with pytest.raises(InputError, match=r"of prompts and mixture, .* not of 'axes'"):
        explorer_ways.read([table(tmp_path / "axes" / "ways.tsv", [])], places)
    with pytest.raises(InputError, match="no such file"):
        explorer_ways.read([tmp_path / "mixture" / "ways.tsv"], places)


def test_only_a_page_with_ways_has_room_for_them(made: MapFiles, tmp_path: Path) -> None:
    without, given = made.payload(), made.payload(ways_paths=write_ways(made, tmp_path))
    assert "ways" not in without
    assert {key: value for key, value in given.items() if key != "ways"} == without
    plain, page = explorer.page(without), explorer.page(given)
    for mark in ('id="ways"', '"ends-source"', "<b>Ways</b>"):
        assert mark not in plain
        assert mark in page
    assert explorer.page(made.payload(ways_paths=[])) == plain


def test_the_command_takes_any_number_of_tables(made: MapFiles, tmp_path: Path) -> None:
    paths = write_ways(made, tmp_path)
    shared = ["--models", made.path("models.tsv"), "--layout", made.path("layout.tsv")]
    shared += ["--layout-report", made.path("layout.json"), "--kl", made.path("kl.h5")]
    shared += ["--neighbors-table", made.path("neighbors.tsv")]
    shared += ["--matrix", made.path("matrix.h5"), "--manifest", made.path("texts.json")]
    for number, ways in enumerate(([], paths)):
        page = tmp_path / f"{number}.html"
        own = ["--ways", *ways, "--texts", "demo", "--page", page]
        command = [sys.executable, ROOT / "scripts" / "explorer.py", *shared, *own]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        expected = explorer.page(made.payload(ways_paths=ways))
        assert page.read_text(encoding="utf-8") == expected


def test_kinds_of_likelihood_are_a_column_only_where_one_is_not_causal(tmp_path: Path) -> None:
    path = tmp_path / "models.tsv"
    causal = [Model("a", mean_loglik=-1.0), Model("b", mean_loglik=-2.0)]
    models_table.write_models(path, causal)
    assert "likelihood" not in files.read_tsv(path)[0]
    assert [row.likelihood for row in models_table.read_models(path)] == ["causal", "causal"]
    models_table.write_models(path, [*causal, Model("c", likelihood="masked")])
    kinds = ["causal", "causal", "masked"]
    assert [row["likelihood"] for row in files.read_tsv(path)] == kinds
    assert [row.likelihood for row in models_table.read_models(path)] == kinds


def test_the_kind_of_likelihood_is_read_from_the_score(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.add("org--a", attributes={"likelihood": "masked"})
    folder.add("org--b", attributes={"likelihood": "causal"})
    folder.add("org--c")
    found = folder.collect(mixed_likelihoods=True)
    assert [model.likelihood for model in found.models] == ["masked", "causal", "causal"]


def test_a_map_of_two_kinds_says_what_distances_between_them_are_not(
    made: MapFiles, tmp_path: Path
) -> None:
    words = "distances between models of different kinds are no KL divergences"
    kinds = ["masked" if row % 4 == 0 else "causal" for row in range(12)]
    mixed = made.payload(models_path=add_column(made, tmp_path / "a.tsv", "likelihood", kinds))
    assert explorer.of_likelihoods(mixed) == [
        f"Likelihoods of 2 kinds are on this map (causal and masked): {words}."
    ]
    assert words in explorer.page(mixed)
    same = made.payload(
        models_path=add_column(made, tmp_path / "b.tsv", "likelihood", ["seq2seq"] * 12)
    )
    for payload in (same, made.payload()):
        assert explorer.of_likelihoods(payload) == []


def test_bytes_are_those_of_responses_where_there_are_prompts(
    made: MapFiles, tmp_path: Path
) -> None:
    manifest = files.read_json(made.path("texts.json"))
    files.write_json(tmp_path / "texts.json", {**manifest, "template": "none"})
    payload = made.payload(manifest_path=tmp_path / "texts.json")
    assert payload["texts"]["responses"] is True
    page = explorer.page(payload)
    for words in (
        "200 responses of “demo”",
        "in bits per byte of the response, estimated",
        "the same prompts and responses",
        "when they find the same responses likely",
    ):
        assert words in page
    plain = made.payload()
    assert "responses" not in plain["texts"]
    for words in ("200 texts of “demo”", "in bits per byte, estimated", "read the same texts, and"):
        assert words in explorer.page(plain)
    assert json.loads(explorer_data.to_json(payload))["texts"]["responses"] is True
