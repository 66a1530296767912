"""Layers, relations given by hand, models off the map: from scores to what analyses open."""

from __future__ import annotations

import dataclasses
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from klmap import files, geometry, index, models_table, prune, selection, store, store_score
from klmap.arrays import Floats
from klmap.config_texts import SelectionTexts
from klmap.errors import InputError, PermanentFailure
from klmap.gathered import gathered
from klmap.models_table import Model
from klmap.store_selection import read_selection
from tests.mapfiles import Folder, Made

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
CELLS = ("model", "source", "fingerprint", "id", "revision", "family", "variant")


class Related(Folder):
    """A folder whose index has what a configuration says of its models."""

    def __init__(self, root: Path, **keys: Any) -> None:
        super().__init__(root, **keys)
        self.given: dict[str, dict[str, str]] = {}
        self.name = "index.tsv"
        self.taken: list[Path] = []

    @property
    def index(self) -> Path:
        return self.root / self.name

    def say(self, model: str, **cells: str) -> None:
        """What the configuration says of a model."""
        self.given[model] = cells

    def rows(self) -> list[str]:
        """Lines of the index, as ``plan_tables`` makes them."""
        lines = []
        for made in self.made:
            cells = [made.model, made.model, made.fingerprint, made.id, made.revision, made.family]
            cells.append(made.variant)
            said = self.given.get(made.model, {})
            if self.given:
                cells += [said.get(column, "") for column in index.GIVEN]
            lines.append("\t".join(cells))
        return lines

    def write_index(self, order: list[int] | None = None) -> None:
        rows = self.rows()
        rows = [rows[i] for i in order or range(len(rows))]
        index.write_index(self.index, rows, [], self.taken)

    def add_layers(self, model: str, layers: list[int], values: Floats, **keys: Any) -> Made:
        """A model whose score has hidden states too."""
        made = self.add(model, **keys)
        self.write(made, layers=np.array(layers, np.int32), layer_loglik=values)
        return made


@pytest.fixture
def folder(tmp_path: Path) -> Related:
    found = Related(tmp_path / "results/demo")
    for name in ("org--b", "org--a", "org--d"):
        found.add(name, card={"base_model": ["card/base"], "relation": "adapter"})
    return found


def lens(folder: Folder, count: int) -> Floats:
    """Log-likelihoods of hidden states: worse than any model."""
    return np.stack([3 * folder.values() for _ in range(count)])


# The index


def test_what_is_said_of_models_is_read_as_it_was_written(folder: Related) -> None:
    folder.say("org--a", layers="0,12", seed_group='odd "name"', size_group="sizes")
    folder.say("org--b", parents="org/x,./own/y", relation="merge")
    folder.write_index()
    a, b, d = index.read_index(folder.index, folder.scores, folder.cards)
    assert (a.layers, a.parents, a.relation) == ("0,12", (), "")
    assert (a.seed_group, a.size_group) == ('odd "name"', "sizes")
    assert (b.layers, b.parents, b.relation) == ("", ("org/x", "./own/y"), "merge")
    assert (d.layers, d.parents, d.relation, d.seed_group, d.size_group) == ("", (), "", "", "")
    assert all(entry.layer is None and entry.row == entry.model for entry in (a, b, d))


def test_an_index_of_which_nothing_is_said_has_the_columns_that_it_had(folder: Related) -> None:
    folder.write_index()
    lines = folder.index.read_text().splitlines()
    assert lines[0].split("\t") == list(CELLS)
    assert lines[1:] == folder.rows()
    entry = index.read_index(folder.index, folder.scores, folder.cards)[0]
    assert (entry.layers, entry.parents, entry.seed_group) == ("", (), "")


def test_a_release_beside_them_is_said_nothing_of(folder: Related, tmp_path: Path) -> None:
    folder.say("org--a", layers="all")
    release = tmp_path / "release.tsv"
    files.write_tsv(release, CELLS, [("lab--x", "", "0" * 12, "lab/x", "", "f", "")])
    index.write_index(folder.index, folder.rows(), [release])
    found = {e.model: e for e in index.read_index(folder.index, folder.scores, folder.cards)}
    assert found["lab--x"].layers == ""
    assert found["org--a"].layers == "all"


def test_a_tab_beside_what_is_said_is_refused(folder: Related) -> None:
    folder.say("org--a", seed_group="two\tparts")
    with pytest.raises(InputError, match="'org--a' has 13 cells in the index"):
        folder.write_index()


def test_an_empty_index_says_how_to_fill_it(folder: Related) -> None:
    index.write_index(folder.index, [], [])
    with pytest.raises(InputError, match=r"no models; add one .* without on_map: false"):
        index.read_index(folder.index, folder.scores, folder.cards)


# Joined scores


def test_hidden_states_are_rows_behind_their_model(folder: Related) -> None:
    values = lens(folder, 3)
    made = folder.add_layers(
        "org--c+nf4", [0, 2, 11], values, variant="nf4", id="org/c", family="mine",
        card={"base_model": ["org/base"], "relation": "quantized", "parameters": 7},
        attributes={"n_layers": 11},
    )  # fmt: skip
    folder.say("org--c+nf4", layers="all", seed_group="seeds", size_group="sizes")
    found = folder.collect()
    rows = ["org--c+nf4", *(f"org--c+nf4+layer{n}" for n in (0, 11, 2))]
    names = ["org--a", "org--b", *rows, "org--d"]
    assert found.matrix.model == [row.model for row in found.models] == names
    expected = [made.loglik, values[0], values[2], values[1]]
    np.testing.assert_array_equal(found.matrix.loglik[2:6], np.stack(expected))
    models = {row.model: row for row in found.models}
    assert [models[row].layer for row in rows] == [None, 0, 11, 2]
    assert [models[row].variant for row in rows] == [
        *("nf4", "nf4+layer0", "nf4+layer11", "nf4+layer2")
    ]
    for row in rows:
        model = models[row]
        assert (model.id, model.family, model.parameters, model.n_layers) == (
            "org/c",
            "mine",
            7,
            11,
        )
        assert (model.seed_group, model.size_group) == ("seeds", "sizes")
        assert model.mean_loglik == pytest.approx(found.matrix.loglik[names.index(row)].mean())
    assert models[rows[0]].base_model == ("org/base",)
    assert models[rows[0]].noise_nats == 0.01
    for row in rows[1:]:
        # It is made from no model, and nobody measured how exact it is.
        assert (models[row].base_model, models[row].relation) == ((), "")
        assert models[row].noise_nats is None
    noise = dict(zip(names, found.matrix.noise, strict=True))
    assert [name for name in names if np.isnan(noise[name])] == sorted(rows[1:])


def test_hidden_states_that_are_not_asked_for_are_no_rows(folder: Related) -> None:
    folder.add_layers("org--c", [0, 1], lens(folder, 2))
    assert folder.collect().matrix.model == ["org--a", "org--b", "org--c", "org--d"]


def test_a_plain_map_is_the_same_whether_or_not_columns_say_something(folder: Related) -> None:
    plain = folder.collect()
    whole = (folder.root / "collected.h5").read_bytes()
    folder.say("org--a", seed_group="seeds")
    said = folder.collect()
    assert (folder.root / "collected.h5").read_bytes() == whole
    assert said.models[0] == dataclasses.replace(plain.models[0], seed_group="seeds")
    assert said.models[1:] == plain.models[1:]


def test_order_of_the_index_changes_no_byte_with_layers(folder: Related) -> None:
    folder.add_layers("org--c", [1, 10, 2], lens(folder, 3))
    folder.say("org--c", layers="1,2,10")
    written = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        folder.write_index(order)
        path = folder.root / "collected.h5"
        folder.collect()
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_a_failed_model_has_no_hidden_states_and_can_be_skipped(folder: Related) -> None:
    folder.add("org--c", error="boom")
    folder.say("org--c", layers="all")
    found = folder.collect(skip_failures=True)
    assert found.matrix.model == ["org--a", "org--b", "org--d"]
    assert [failure.model for failure in found.failures] == ["org--c"]


def test_a_name_that_is_a_hidden_state_too_is_refused_with_both(folder: Related) -> None:
    folder.add_layers("org--c", [0, 3], lens(folder, 2))
    folder.say("org--c", layers="all")
    folder.add("org--c+layer3")
    with pytest.raises(InputError, match=r"'org--c\+layer3' is the name of a model and of a hidden "
                       r"state of 'org--c'; give one of them another name with name:"):  # fmt: skip
        folder.collect()


@pytest.mark.parametrize(
    ("said", "card", "bases", "relation"),
    [
        ({}, {"base_model": ["c/x"], "relation": "adapter"}, ("c/x",), "adapter"),
        ({}, {"base_model": ["c/x"]}, ("c/x",), ""),
        ({}, {}, (), ""),
        ({"parents": "o/p"}, {"base_model": ["c/x"], "relation": "adapter"}, ("o/p",), "adapter"),
        ({"parents": "o/p"}, {"base_model": ["c/x"]}, ("o/p",), "finetune"),
        ({"parents": "o/p,o/q"}, {}, ("o/p", "o/q"), "finetune"),
        (
            {"parents": "o/p,o/q", "relation": "merge"},
            {"base_model": ["c/x"], "relation": "finetune"},
            ("o/p", "o/q"),
            "merge",
        ),
    ],
)
def test_what_is_given_by_hand_goes_before_the_card(
    folder: Related, said: dict[str, str], card: dict[str, Any], bases: Any, relation: str
) -> None:
    folder.add("org--z", card=card)
    folder.say("org--z", **said)
    found = folder.collect().models[-1]
    assert (found.model, found.base_model, found.relation) == ("org--z", bases, relation)


def test_hidden_states_of_a_reference_stand_on_its_selections(tmp_path: Path) -> None:
    """And relations too, whether or not the selection's own models have any."""
    pile = Related(tmp_path / "results/pile", n_texts=200)
    pile.add("org--a")
    values = lens(pile, 2)
    pile.add_layers("org--b", [0, 5], values)
    pile.add("org--c")
    pile.say("org--b", layers="all")
    pile.say("org--c", parents="org/a", seed_group="seeds")
    whole = pile.collect()
    models_table.write_models(pile.root / "models.tsv", whole.models)
    recipe = SelectionTexts.model_validate({"source": "selection", "of": "pile", "n": 60})
    of = selection.Reference(pile.root / "collected.h5", pile.texts, pile.manifest)
    fewer = Related(tmp_path / "results/fewer")
    made = selection.Made(fewer.texts, fewer.manifest, fewer.root / "selection.h5")
    selection.build(recipe, "fewer", of, made)
    described = files.read_json(made.manifest)
    drawn = read_selection(made.selection).index
    fewer.sha256, fewer.lengths = described["sha256"], pile.lengths[drawn]
    own = pile.values()[drawn]
    fewer.add("org--own", own, attributes={"selection": described["selection"]["fingerprint"]})
    fewer.taken = [pile.index, pile.root / "models.tsv"]
    for said in ({}, {"org--own": {"size_group": "sizes"}}):
        fewer.given = said
        found = fewer.collect(selection=made.selection)
        names = ["org--a", "org--b", "org--b+layer0", "org--b+layer5", "org--c", "org--own"]
        assert found.matrix.model == names
        np.testing.assert_array_equal(found.matrix.loglik[2:4], values[:, drawn])
        c, mine = found.models[4:]
        assert (c.base_model, c.relation, c.seed_group) == (("org/a",), "finetune", "seeds")
        assert mine.size_group == ("sizes" if said else "")


# Off the map


def run(monkeypatch: pytest.MonkeyPatch, *words: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["offmap.py", *map(str, words)])
    runpy.run_path(str(SCRIPTS / "offmap.py"))["main"]()


@pytest.fixture
def both(folder: Related, monkeypatch: pytest.MonkeyPatch) -> Related:
    """A finished map of three models, and one with two hidden states off it."""
    models_table.write_models(folder.root / "models.tsv", folder.collect().models)
    (folder.root / "collected.h5").rename(folder.root / "matrix.h5")
    folder.made, folder.name = [], "offmap-index.tsv"
    folder.add_layers("org--off", [0, 4], lens(folder, 2), attributes={"noise_nats": 0.25})
    folder.say("org--off", layers="all")
    folder.write_index()
    off(folder, monkeypatch)
    return folder


def off(folder: Related, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Call the command as the rule does, where there is no selection."""
    run(
        monkeypatch, "--index", folder.index, "--clip-from", folder.root / "matrix.h5",
        "--scores", folder.scores, "--cards", folder.cards, "--texts", folder.texts,
        "--manifest", folder.manifest, "--selection", *words,
        "--offmap", folder.root / "offmap.h5", "--models", folder.root / "offmap.tsv",
        "--failures", folder.root / "offmap-failures.tsv",
    )  # fmt: skip


def paths(folder: Folder) -> list[Path]:
    """Files of a map, and of what is off it."""
    return [folder.root / name for name in ("matrix.h5", "models.tsv", "offmap.h5", "offmap.tsv")]


def test_what_is_off_the_map_is_clipped_as_the_map_and_moves_nothing(both: Related) -> None:
    on, off = (store.read_matrix(both.root / name) for name in ("matrix.h5", "offmap.h5"))
    assert off.clip_threshold == on.clip_threshold == geometry.clip_threshold(on.loglik)
    assert off.clip_threshold > np.quantile(off.loglik, 0.02), "they are worse than the map's"
    assert off.model == ["org--off", "org--off+layer0", "org--off+layer4"]
    assert off.texts_sha256 == on.texts_sha256
    rows = models_table.read_models(both.root / "offmap.tsv", off.model)
    assert [row.layer for row in rows] == [None, 0, 4]
    assert (both.root / "offmap-failures.tsv").read_text() == "model\tid\trevision\treason\n"


def test_failed_models_off_the_map_are_listed_beside_it(
    both: Related, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.add("org--x", error="boom")
    both.write_index()
    off(both, monkeypatch, "--on-failure", "skip")
    failed = files.read_tsv(both.root / "offmap-failures.tsv")
    assert [row["reason"] for row in failed] == ["boom"]
    assert len(models_table.read_models(both.root / "offmap.tsv")) == 3


def test_where_all_models_off_the_map_fail_analyses_go_on_with_the_map(
    both: Related, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.made, both.given = [], {}
    both.add("org--x", error="boom")
    both.write_index()
    off(both, monkeypatch, "--on-failure", "skip")
    with gathered(*paths(both)) as found:
        assert [model.model for model in found.models] == ["org--a", "org--b", "org--d"]
        assert found.on_map.all()
        assert found.loglik([0, 2]).shape == (2, len(found.domain))
    with pytest.raises(PermanentFailure, match="boom"):
        off(both, monkeypatch, "--on-failure", "stop")


def test_gathered_models_are_those_of_the_map_and_then_the_others(both: Related) -> None:
    on, off = (store.read_matrix(both.root / name) for name in ("matrix.h5", "offmap.h5"))
    slow = np.concatenate([on.loglik, off.loglik])
    with gathered(*paths(both)) as found:
        assert [row.model for row in found.models] == [*on.model, *off.model]
        assert found.on_map.tolist() == [True] * 3 + [False] * 3
        for rows in ([0], [5, 0, 3, 2, 3], np.array([4, 1]), list(range(6))):
            np.testing.assert_array_equal(found.raw(rows), slow[rows])
            clipped = np.maximum(slow[rows], on.clip_threshold)
            np.testing.assert_array_equal(found.loglik(rows), clipped)
        assert found.loglik([]).shape == (0, len(both.lengths))
        assert found.clip_threshold == on.clip_threshold
        assert found.domain == on.domain
        assert found.n_bytes.tolist() == both.lengths.tolist()
        assert found.mean_bytes == both.lengths.mean()
        assert found.design is None
        np.testing.assert_array_equal(found.noise, [0.01, 0.01, 0.01, 0.25, np.nan, np.nan])
        pairs = np.array([[0, 1], [0, 3], [3, 4]])
        floor = found.noise_floor(pairs[:, 0], pairs[:, 1])
        unit = 2 * found.mean_bytes * np.log(2)
        expected = [2 * 0.01**2 / unit, (0.01**2 + 0.25**2) / unit, np.nan]
        np.testing.assert_allclose(floor, expected)


def test_models_off_the_map_of_another_kind_of_likelihood_are_left_out(both: Related) -> None:
    *on, off_matrix, off_models = paths(both)
    with gathered(*on, off_matrix, off_models) as found:
        names = [model.model for model in found.models]
        values = found.raw(range(len(names)))
        first = int(found.on_map.sum())
    assert len(names) > first + 1
    rows = models_table.read_models(off_models, names[first:])
    rows[0] = dataclasses.replace(rows[0], likelihood="masked")
    models_table.write_models(off_models, rows)
    with gathered(*on, off_matrix, off_models) as found:
        assert [model.model for model in found.models] == names[:first] + names[first + 1 :]
        kept = np.delete(values, first, axis=0)
        assert (found.raw(range(len(found.models))) == kept).all()
        assert len(found.noise) == len(found.on_map) == len(kept)


def test_without_models_off_the_map_it_is_the_map(both: Related) -> None:
    matrix, models = paths(both)[:2]
    with gathered(matrix, models) as found:
        assert len(found.models) == 3
        assert found.on_map.all()
        on = store.read_matrix(matrix)
        np.testing.assert_array_equal(
            found.loglik([2, 0]), np.maximum(on.loglik[[2, 0]], on.clip_threshold)
        )


def test_what_does_not_belong_together_is_refused(both: Related, tmp_path: Path) -> None:
    matrix, models, off, off_models = paths(both)
    other = Folder(tmp_path / "results/other", seed=5)
    other.add("org--off")
    rows = other.collect().models
    models_table.write_models(tmp_path / "other.tsv", rows)
    path = other.root / "collected.h5"
    with pytest.raises(InputError, match="of other texts than"):
        gathered(matrix, models, path, tmp_path / "other.tsv").__enter__()
    with pytest.raises(InputError, match=r"other\.tsv: its 1 models are not the 3 of the matrix"):
        gathered(matrix, models, off, tmp_path / "other.tsv").__enter__()
    with pytest.raises(InputError, match=r"models\.tsv: its 3 models are not the 3"):
        gathered(off, models).__enter__()
    off.unlink()
    with pytest.raises(InputError, match=r"offmap\.h5: no such file"):
        gathered(matrix, models, off, off_models).__enter__()


# The table of models


def test_the_new_columns_come_back(tmp_path: Path) -> None:
    rows = [
        Model("a", relation="merge", base_model=("x/y", "x/z@s"), seed_group="s", size_group="g"),
        Model("a+layer0", layer=0, n_layers=12, variant="layer0"),
        Model("b"),
    ]
    rows = [dataclasses.replace(row, bits_per_byte=1.0, mean_loglik=-2.0) for row in rows]
    models_table.write_models(tmp_path / "models.tsv", rows)
    assert models_table.read_models(tmp_path / "models.tsv") == rows


@pytest.mark.parametrize("column", ["relation", "seed_group", "size_group", "layer"])
def test_a_table_of_an_earlier_klmap_is_refused_with_the_fix(tmp_path: Path, column: str) -> None:
    path = tmp_path / "models.tsv"
    models_table.write_models(path, [Model("a", bits_per_byte=1.0, mean_loglik=-2.0)])
    kept = [{k: v for k, v in row.items() if k != column} for row in files.read_tsv(path)]
    files.write_tsv(path, list(kept[0]), [list(row.values()) for row in kept])
    with pytest.raises(InputError, match=f"no column '{column}'; remove it and run again"):
        models_table.read_models(path)


def test_a_layer_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.tsv"
    models_table.write_models(path, [Model("a", layer=3, bits_per_byte=1.0, mean_loglik=-2.0)])
    path.write_text(path.read_text().replace("\t3\t", "\tlast\t"))
    with pytest.raises(InputError, match=r"'last'; remove it and run again"):
        models_table.read_models(path)


# Score files


def layered(**changes: Any) -> store_score.Score:
    """A score of seven texts with two hidden states and a sketch."""
    count = np.ones(7, np.int32)
    values: dict[str, Any] = {
        "loglik": -np.arange(7.0),
        **{"n_tokens": count, "n_scored": count, "truncated": np.zeros(7, np.bool_)},
        "layers": np.array([0, 6], np.int32),
        "layer_loglik": np.arange(14.0).reshape(2, 7) - 99,
        "weights_sketch": np.linspace(-1, 1, 5),
        **changes,
    }
    return store_score.Score("org--a", "c0ffee", "f" * 64, "0" * 12, {"layers": [0, 6]}, **values)


def test_layers_and_sketch_come_back(tmp_path: Path) -> None:
    path, made = tmp_path / "x.h5", layered()
    store_score.write_score(path, made)
    found = store_score.read_score(path)
    for name in ("loglik", "layers", "layer_loglik", "weights_sketch"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
    assert [str(each.dtype) for each in (found.layers, found.layer_loglik)] == ["int32", "float64"]
    assert store_score.read_layers(path) == [0, 6]
    sketch = store_score.read_sketch(path)
    assert sketch is not None
    np.testing.assert_array_equal(sketch, made.weights_sketch)
    for row, number in enumerate((0, 6)):
        one = store_score.read_score(path, only=(), layer=number)
        np.testing.assert_array_equal(one.loglik, made.layer_loglik[row])
        assert (len(one.layers), one.weights_sketch) == (0, None)
        np.testing.assert_array_equal(one.n_scored, made.n_scored)
    with pytest.raises(InputError, match="holds no layer 1; remove it and run again"):
        store_score.read_score(path, layer=1)


def test_a_score_without_layers_and_sketch_has_none(tmp_path: Path) -> None:
    path, rest = tmp_path / "x.h5", {"layers": np.zeros(0, np.int32), "weights_sketch": None}
    store_score.write_score(path, layered(**rest, layer_loglik=np.zeros((0, 7))))
    with h5py.File(path) as file:
        assert set(file) == {"loglik", "n_tokens", "n_scored", "truncated"}
    found = store_score.read_score(path)
    assert (len(found.layers), found.weights_sketch) == (0, None)
    assert store_score.read_layers(path) == []
    assert store_score.read_sketch(path) is None
    with pytest.raises(InputError, match="holds no layer 0"):
        store_score.read_score(path, layer=0)


@pytest.mark.parametrize(
    "values", [np.zeros((2, 6)), np.zeros((3, 7)), np.zeros((1, 7)), np.zeros(7), np.zeros((0, 0))]
)
def test_hidden_states_of_another_shape_are_refused(tmp_path: Path, values: Floats) -> None:
    path = tmp_path / "x.h5"
    store_score.write_score(path, layered(layer_loglik=values))
    for way in ({}, {"layer": 0}, {"only": (), "layer": 6}):
        with pytest.raises(InputError, match=r"layers/loglik has the shape .* for 2 layers and 7"):
            store_score.read_score(path, **way)


@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_a_hidden_state_that_is_not_finite_is_refused(tmp_path: Path, wrong: float) -> None:
    path, values = tmp_path / "x.h5", np.zeros((2, 7))
    values[1, 3] = wrong
    store_score.write_score(path, layered(layer_loglik=values))
    with pytest.raises(InputError, match="1 log-likelihoods are not finite"):
        store_score.read_score(path, only=(), layer=6)
    assert store_score.read_score(path, only=(), layer=0).loglik.tolist() == [0.0] * 7


def test_a_failed_score_has_no_layer_to_give(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    failed = store_score.Score(
        "org--a", "c0ffee", "f" * 64, "0" * 12, {}, status="failed", error="boom"
    )
    store_score.write_score(path, failed)
    found = store_score.read_score(path, only=(), layer=3)
    assert (found.status, found.error, len(found.loglik)) == ("failed", "boom", 0)
    assert store_score.read_layers(path) == []


# Prune


def test_scores_and_weights_off_the_map_are_kept(both: Related) -> None:
    both.add("org--gone")
    gone = both.score_path("org--gone")
    weights = [both.cards / name / "weights" for name in ("org--off", "org--a", "org--gone")]
    for path in weights:
        path.mkdir(parents=True)
        (path / "model.safetensors").write_text("")
    tables = [both.root / "index.tsv", both.root / "offmap-index.tsv"]
    listing = both.root / "prune.tsv"
    assert prune.prune(tables, both.cards, listing) == []
    shown = [row["file"] for row in files.read_tsv(listing)]
    assert shown == [str(gone), str(weights[2])]
    assert prune.prune(tables, both.cards, listing) == [gone, weights[2]]
    assert weights[0].exists()
    assert not gone.exists()
    assert len(list(both.scores.glob("*.h5"))) == 4
    # Without their index they are what nobody asks for.
    prune.prune(tables[:1], both.cards, listing)
    shown = [Path(row["file"]).name for row in files.read_tsv(listing)]
    assert shown == [both.score_path("org--off").name, "weights"]


def test_scores_of_one_text_set_are_not_kept_by_the_index_of_another(
    both: Related, tmp_path: Path
) -> None:
    other = Related(tmp_path / "results/other", seed=3)
    other.add("org--off")
    other.add("org--mine")
    other.made.pop(0)
    other.write_index()
    tables = [both.root / "index.tsv", both.root / "offmap-index.tsv", other.index]
    prune.prune(tables, both.cards, tmp_path / "prune.tsv")
    shown = [Path(row["file"]) for row in files.read_tsv(tmp_path / "prune.tsv")]
    assert [(path.parents[1].name, path.name.split(".")[0]) for path in shown] == [
        ("other", "org--off")
    ]
    assert json.loads((both.cards / "org--off" / "card.json").read_text())["id"] == "org/off"
