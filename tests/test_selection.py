"""A selection of texts as a text set: its files, what they vouch for, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from klmap import files, geometry, selection, store
from klmap.config_texts import SelectionTexts
from klmap.errors import InputError
from klmap.selection import Made, Reference
from klmap.store_selection import Selection, read_selection, write_selection
from klmap.texts import read_texts
from tests import mapfiles

SCRIPT = Path(__file__).parents[1] / "scripts" / "selection.py"
TEXTS = 150
DOMAINS = ("code", "legal", "prose")


def reference(folder: Path, models: int = 8, seed: int = 0) -> Reference:
    """A text set with origins and non-ASCII texts, and the matrix of models that differ."""
    rng = np.random.default_rng(seed)
    rows = [
        {"index": i, "text": text, "domain": DOMAINS[i % 3], "n_bytes": len(text.encode())}
        | ({"origin": f"file {i}"} if i % 2 else {})
        for i, text in enumerate(f"ü text {seed} {i} " + "x" * (i % 40) for i in range(TEXTS))
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    made = Reference(folder / "matrix.h5", folder / "texts.jsonl", folder / "texts.json")
    files.write_text(made.texts, text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    sizes = np.array([row["n_bytes"] for row in rows], np.int32)
    files.write_json(made.manifest, {"sha256": digest, "n": TEXTS})
    size = np.exp(rng.normal(0, 0.8, TEXTS))
    loglik = -60 + 4 * size * rng.normal(size=(models, TEXTS))
    threshold = geometry.clip_threshold(loglik)
    matrix = store.Matrix(
        loglik=loglik,
        coordinates=geometry.double_centre(loglik, threshold).astype(np.float32),
        model=[model.model for model in mapfiles.models(models)],
        domain=[str(row["domain"]) for row in rows],
        n_bytes=sizes,
        clip_quantile=0.02,
        clip_threshold=threshold,
        mean_bytes=float(sizes.mean()),
        texts_sha256=digest,
    )
    store.write_matrix(made.matrix, matrix)
    return made


def recipe(**keys: Any) -> SelectionTexts:
    number = {} if {"n", "error", "path"} & set(keys) else {"n": 60}
    return SelectionTexts(source="selection", of="all", **{**number, **keys})


def build(folder: Path, of: Reference, name: str = "some", **keys: Any) -> Made:
    made = Made(*(folder / name / file for file in ("texts.jsonl", "texts.json", "selection.h5")))
    selection.build(recipe(**keys), name, of, made)
    return made


def content(made: Made) -> list[bytes]:
    return [path.read_bytes() for path in (made.texts, made.manifest, made.selection)]


def test_texts_are_those_of_the_reference_and_know_their_place_there(tmp_path: Path) -> None:
    of = reference(tmp_path)
    made = build(tmp_path, of)
    chosen = read_selection(made.selection)
    all_texts, some = read_texts(of.texts), read_texts(made.texts, made.manifest)
    records = [json.loads(line) for line in made.texts.read_text().splitlines()]
    assert [record["reference_index"] for record in records] == chosen.index.tolist()
    for text, record in zip(some, records, strict=True):
        place = record["reference_index"]
        assert dataclasses.replace(all_texts[place], index=text.index) == text
        assert record.get("origin") == (f"file {place}" if place % 2 else None)


def test_the_manifest_vouches_for_texts_and_names_the_reference(tmp_path: Path) -> None:
    of = reference(tmp_path)
    made = build(tmp_path, of)
    found, chosen = files.read_json(made.manifest), read_selection(made.selection)
    some = read_texts(made.texts, made.manifest)
    domains = [text.domain for text in some]
    assert found["n"] == len(some) == len(chosen.index) < 60
    assert found["mean_bytes"] == pytest.approx(np.mean([text.n_bytes for text in some]))
    assert found["domains"] == {name: domains.count(name) for name in DOMAINS}
    assert found["candidates"] == TEXTS
    assert found["recipe"] == recipe().recipe()
    matrix = store.read_matrix(of.matrix)
    assert found["selection"] == {
        "fingerprint": chosen.fingerprint,
        "method": "ls",
        "replacement": True,
        "n": 60,
        "seed": 42,
        "error": None,
        "share": None,
        "reference": {
            "fingerprint": chosen.reference,
            "texts_sha256": matrix.texts_sha256,
            "n": TEXTS,
            "mean_bytes": matrix.mean_bytes,
            "models": 8,
        },
    }


@pytest.mark.parametrize("replacement", [True, False])
def test_weighted_texts_stand_for_all_of_the_reference(tmp_path: Path, replacement: bool) -> None:
    of = reference(tmp_path)
    matrix = store.read_matrix(of.matrix)
    exact = geometry.pairwise_kl(matrix.coordinates.astype(np.float64), matrix.mean_bytes)[0]
    upper = np.triu_indices(8, 1)
    errors = []
    for seed in range(6):
        made = build(tmp_path, of, n=90, replacement=replacement, seed=seed)
        chosen = read_selection(made.selection)
        some = matrix.loglik[:, chosen.index]
        q = geometry.double_centre(some, chosen.clip_threshold, chosen.design)
        squares = ((q[upper[0]] - q[upper[1]]) ** 2).sum(axis=1)
        unit = 2 * chosen.texts * geometry.nats_per_unit(chosen.mean_bytes)
        errors.append(squares / unit / exact[upper] - 1)
    assert np.abs(errors).mean() < 0.12
    assert abs(np.mean(errors)) < 0.06


def test_the_selection_knows_what_texts_are_like_on_average(tmp_path: Path) -> None:
    of = reference(tmp_path)
    chosen, matrix = (
        read_selection(build(tmp_path, of).selection),
        store.read_matrix(of.matrix),
    )
    mean = matrix.loglik.mean(axis=0)
    np.testing.assert_allclose(chosen.expected, mean[chosen.index])
    assert chosen.expected_mean == pytest.approx(mean.mean())
    assert chosen.clip_threshold == matrix.clip_threshold
    assert (chosen.texts, chosen.models, chosen.count.sum()) == (TEXTS, 8, 60)


@pytest.mark.parametrize("replacement", [True, False])
def test_the_same_reference_and_recipe_give_the_same_bytes(
    tmp_path: Path, replacement: bool
) -> None:
    of = reference(tmp_path)
    first = content(build(tmp_path, of, replacement=replacement))
    assert content(build(tmp_path, of, "again", replacement=replacement)) == first
    assert content(build(tmp_path, of, replacement=replacement, seed=7)) != first


def test_another_model_in_the_reference_is_another_reference(tmp_path: Path) -> None:
    first = read_selection(build(tmp_path, reference(tmp_path), n=40).selection)
    more = read_selection(build(tmp_path, reference(tmp_path, models=9), n=40).selection)
    assert first.texts_sha256 == more.texts_sha256
    assert first.reference != more.reference


def test_an_error_in_place_of_n_is_kept_in_the_manifest_with_the_number_it_takes(
    tmp_path: Path,
) -> None:
    of = reference(tmp_path)
    few, many = (
        files.read_json(build(tmp_path, of, error=error, replacement=False).manifest)
        for error in (0.3, 0.1)
    )
    assert few["selection"]["error"] == 0.3
    assert few["selection"]["share"] == 0.95
    assert few["selection"]["n"] == few["n"] < many["n"] < TEXTS


def test_the_log_says_what_was_drawn_and_how_exact_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("klmap"), "propagate", True)
    caplog.set_level(logging.INFO, logger="klmap")
    found = files.read_json(build(tmp_path, reference(tmp_path)).manifest)
    assert "some: 60 draws with replacement (ls)" in caplog.text
    assert f"{found['n']} of 150 texts ({100 * found['n'] / 150:.1f} %), 3 of 3" in caplog.text
    assert "% for the median pair" in caplog.text
    assert "klmap's own estimate" in caplog.text


def test_a_selection_that_was_drawn_before_is_taken_as_it_is(tmp_path: Path) -> None:
    of = reference(tmp_path)
    drawn = build(tmp_path, of, method="kl", seed=3)
    reference(tmp_path, models=9)  # the reference has grown since
    taken = build(tmp_path, of, "taken", path=str(drawn.selection))
    assert taken.texts.read_bytes() == drawn.texts.read_bytes()
    assert taken.selection.read_bytes() == drawn.selection.read_bytes()
    first, second = (files.read_json(made.manifest) for made in (drawn, taken))
    assert first["selection"] == second["selection"]
    assert first["selection"]["reference"]["models"] == 8
    assert second["recipe"] == {"source": "selection", "of": "all", "path": str(drawn.selection)}


def test_a_selection_of_another_reference_is_refused_by_name(tmp_path: Path) -> None:
    other = build(tmp_path, reference(tmp_path / "other", seed=1))
    of = reference(tmp_path)
    with pytest.raises(InputError, match="selection of another reference") as raised:
        build(tmp_path, of, "taken", path=str(other.selection))
    assert str(other.selection) in str(raised.value)
    assert str(of.manifest) in str(raised.value)
    assert not (tmp_path / "taken" / "texts.json").exists()


def test_a_matrix_of_other_texts_is_refused(tmp_path: Path) -> None:
    of = reference(tmp_path)
    other = reference(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="made of texts with sha256"):
        build(tmp_path, dataclasses.replace(of, matrix=other.matrix))


def test_a_matrix_that_is_a_selection_itself_is_refused(tmp_path: Path) -> None:
    of = reference(tmp_path)
    chosen = read_selection(build(tmp_path, of).selection)
    matrix = store.read_matrix(of.matrix)
    store.write_matrix(of.matrix, mapfiles.selected(matrix, chosen.design, chosen.index))
    with pytest.raises(InputError, match="are a selection themselves; of: must name"):
        build(tmp_path, of)


def test_texts_that_have_changed_are_refused(tmp_path: Path) -> None:
    of = reference(tmp_path)
    of.texts.write_text(of.texts.read_text().replace("text 0 7", "text 0 8"))
    with pytest.raises(InputError, match="were changed after they were made"):
        build(tmp_path, of)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n": TEXTS + 1, "replacement": False}, r"texts\.some: 151 texts .* lower n"),
        ({"error": 1e-4}, r"texts\.some: .* use replacement: false, or a larger error"),
    ],
)
def test_more_than_the_reference_has_is_refused(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build(tmp_path, reference(tmp_path), **keys)


def test_models_that_do_not_differ_are_refused(tmp_path: Path) -> None:
    of = reference(tmp_path)
    matrix = store.read_matrix(of.matrix)
    same = np.repeat(matrix.loglik[:1], 8, axis=0)
    zero = np.zeros_like(matrix.coordinates)
    store.write_matrix(of.matrix, dataclasses.replace(matrix, loglik=same, coordinates=zero))
    for method in ("ls", "kl"):
        with pytest.raises(InputError, match=r"texts\.some: .* models .* use method: uniform"):
            build(tmp_path, of, method=method)
    build(tmp_path, of, method="uniform")
    one = dataclasses.replace(
        matrix, loglik=same[:1], coordinates=zero[:1], model=["a"], noise=np.zeros(1),
        complete=np.ones(1, np.bool_),
    )  # fmt: skip
    store.write_matrix(of.matrix, one)
    with pytest.raises(InputError, match=r"1 model; .* score at least 2 models"):
        build(tmp_path, of)


def example(**changes: Any) -> Selection:
    values: dict[str, Any] = {
        "index": np.array([1, 4, 6], np.int32),
        "weight": np.array([1.5, 2.0, 1.0]),
        "variance": np.array([1.0, 0.5, 1.0]),
        "balance": np.array([1.0, 2.0, 1.0]),
        "probability": np.array([0.1, 0.2, 0.3]),
        "count": np.array([1, 2, 1], np.int32),
        "expected": np.array([-30.0, -40.0, -50.0]),
        "expected_mean": -41.5,
        "method": "ls",
        "replacement": True,
        "n": 4,
        "seed": 42,
        "texts": 7,
        "mean_bytes": 640.5,
        "texts_sha256": "ab" * 32,
        "reference": "0123456789ab",
        "models": 12,
        "clip_threshold": -900.5,
    }
    return Selection(**{**values, **changes})


def test_a_selection_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "selection.h5"
    for selected in (example(), example(replacement=False, method="kl")):
        write_selection(path, selected)
        found = read_selection(path)
        for field in dataclasses.fields(Selection):
            first, second = getattr(selected, field.name), getattr(found, field.name)
            np.testing.assert_array_equal(first, second)
            assert type(first) is type(second)
            assert not isinstance(first, np.ndarray) or first.dtype == second.dtype
        assert found.fingerprint == selected.fingerprint
        assert found.design.texts == 7


def test_the_fingerprint_is_over_what_decides_estimates() -> None:
    first = example().fingerprint
    assert len(first) == 12
    same = {"seed": 1, "method": "kl", "n": 9, "reference": "f" * 12, "clip_threshold": -1.0}
    assert example(**same).fingerprint == first
    for changes in (
        {"index": np.array([1, 4, 5], np.int32)},
        {"weight": np.array([1.5, 2.0, 1.1])},
        {"variance": np.array([1.0, 0.5, 0.9])},
        {"balance": np.array([1.0, 2.0, 1.1])},
        {"texts_sha256": "cd" * 32},
    ):
        assert example(**changes).fingerprint != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": np.array([4, 1, 6], np.int32)}, "does not rise"),
        ({"index": np.array([1, 1, 6], np.int32)}, "does not rise"),
        ({"texts": 6}, "leaves the 6 texts of the reference"),
        ({"index": np.array([-1, 1, 6], np.int32)}, "leaves the 7 texts"),
        ({"weight": np.array([1.0, 0.0, 1.0])}, r"weight\[1\] is 0.0, expected above 0"),
        ({"weight": np.array([1.0, 2.0, np.inf])}, r"weight\[2\] is inf"),
        ({"variance": np.array([-1.0, 0.5, 1.0])}, r"variance\[0\] is -1.0, expected 0 or more"),
        ({"balance": np.array([1.0, 2.0, np.nan])}, r"balance\[2\] is nan"),
        ({"probability": np.array([0.1, 0.2, 1.3])}, "a probability is not above 0"),
        ({"count": np.array([1, 0, 1], np.int32)}, "never drawn"),
        ({"expected": np.array([-1, np.nan, -2])}, "not finite"),
        ({"weight": np.array([1.0, 2.0])}, r"weight is \(2,\), expected \(3,\)"),
    ],
)
def test_a_broken_selection_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "selection.h5"
    write_selection(path, example(**changes))
    with pytest.raises(InputError, match=message) as raised:
        read_selection(path)
    assert str(path) in str(raised.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "selection.h5"
    with pytest.raises(InputError, match="no such file"):
        read_selection(path)
    of = reference(tmp_path)
    with pytest.raises(InputError, match="'klmap-matrix', expected 'klmap-selection'"):
        read_selection(of.matrix)
    write_selection(path, example())
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match="truncated"):
        read_selection(path)
    write_selection(path, example())
    with h5py.File(path, "a") as file:
        del file["balance"]
    with pytest.raises(InputError, match="truncated or not a klmap file"):
        read_selection(path)


def run(of: Reference, folder: Path, text: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        *(sys.executable, str(SCRIPT), "--recipe", text),
        *("--reference-matrix", str(of.matrix), "--reference-texts", str(of.texts)),
        *("--reference-manifest", str(of.manifest), "--texts", str(folder / "texts.jsonl")),
        *("--manifest", str(folder / "texts.json"), "--selection", str(folder / "selection.h5")),
        *more,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_the_same_files(tmp_path: Path) -> None:
    of = reference(tmp_path)
    made = build(tmp_path, of)
    done = run(of, tmp_path / "command", json.dumps(recipe().recipe()), "--path")
    assert done.returncode == 0, done.stderr
    assert "command: 60 draws with replacement (ls)" in done.stderr
    again = Made(*(tmp_path / "command" / path.name for path in vars(made).values()))
    assert content(again) == content(made)


def test_the_command_refuses_what_is_no_selection(tmp_path: Path) -> None:
    done = run(reference(tmp_path), tmp_path / "command", '{"source": "selection", "of": "all"}')
    assert done.returncode == 1
    assert "--recipe: not a selection of config.yaml" in done.stderr
    assert "Traceback" not in done.stderr
