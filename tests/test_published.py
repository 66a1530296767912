"""Import of a release: vectors become score files once, whole, and only where all fits."""

from __future__ import annotations

import functools
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from klmap import collect, files, geometry, models_table, published, texts, webfile
from klmap.benchmarks import read_benchmarks
from klmap.config_published import Published
from klmap.config_texts import FileTexts
from klmap.errors import InputError
from klmap.metadata import MOST_TAGS, Described, read_metadata
from klmap.store_score import Score, read_score, write_score
from tests.release import Release, dump, make_release

SCRIPT = Path(__file__).parents[1] / "scripts" / "published.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "f" * 40


@dataclass
class Import:
    """A place to import a release to, and its recipe."""

    folder: Path
    release: Release
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def places(self) -> published.Places:
        texts_folder, folder = self.folder / "pile", self.folder / "published"
        return published.Places(
            texts=texts_folder / "texts.jsonl",
            manifest=texts_folder / "texts.json",
            scores=texts_folder / "scores",
            downloads=folder / "files",
            index=folder / "index.tsv",
            benchmarks=folder / "benchmarks.tsv",
            report=folder / "report.json",
        )

    @property
    def keys(self) -> dict[str, Any]:
        return {"texts": "pile", "loglik": str(self.release.raw), **self.recipe}

    @property
    def spec(self) -> dict[str, Any]:
        manifest = files.read_json(self.places.manifest)
        return {"texts": manifest["recipe"]}

    def run(self, **recipe: Any) -> dict[str, Any]:
        """Import, and return the report."""
        self.recipe = recipe or self.recipe
        keys = Published.model_validate(self.keys)
        published.import_release("oyama2025", keys, self.spec["texts"], self.places)
        return files.read_json(self.places.report)

    def refusal(self, **recipe: Any) -> str:
        """What is said instead; nothing claims to be an import."""
        with pytest.raises(InputError) as error:
            self.run(**recipe)
        assert not self.places.index.exists()
        return str(error.value)

    def command(self) -> list[str]:
        arguments = {"--name": "oyama2025", "--recipe": json.dumps(self.keys)}
        arguments["--spec"] = json.dumps(self.spec)
        for name, path in vars(self.places).items():
            arguments[f"--{name}"] = str(path)
        return [sys.executable, str(SCRIPT), *(word for pair in arguments.items() for word in pair)]

    def scores(self) -> dict[str, Score]:
        """By model, read through the index."""
        rows = files.read_tsv(self.places.index)
        return {
            row["model"]: read_score(self.places.scores / f"{row['model']}.{row['fingerprint']}.h5")
            for row in rows
        }

    def state(self) -> dict[str, tuple[int, bytes]]:
        """Time stamp and content of every file of the folder of scores."""
        found = sorted(self.places.scores.iterdir())
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make_release(tmp_path_factory.mktemp("release"), models=40, texts=60)


@pytest.fixture
def place(tmp_path: Path, release: Release) -> Import:
    return at(tmp_path, release)


def at(folder: Path, release: Release) -> Import:
    made = Import(folder, release)
    recipe = FileTexts(source="file", path=str(release.texts), domain_field="pile_set_name")
    texts.build(recipe, made.places.texts, made.places.manifest)
    return made


def all_files(release: Release) -> dict[str, str]:
    return {"clipped": str(release.clipped), "metadata": str(release.metadata)}


def slug(name: str) -> str:
    return name.replace("/", "--")


def changed(release: Release, path: Path, **vectors: Any) -> str:
    """A copy of the raw vectors with some of them changed, added or, where None, left out."""
    rows = dict(zip(release.names, release.loglik, strict=True)) | vectors
    dump(path, {name: row for name, row in rows.items() if row is not None})
    return str(path)


def described(release: Release, path: Path, change: Any) -> str:
    """A copy of the metadata, each entry put through a function."""
    with release.metadata.open("rb") as file:
        dump(path, [change(row) for row in pickle.load(file)])
    return str(path)


# What comes out


def test_every_vector_becomes_a_score_file(place, release):
    report = place.run(**all_files(release), dtype="bfloat16", prefix="bos", overlength="window")
    assert report["models"] == len(release.names)
    sha256 = files.read_json(place.places.manifest)["sha256"]
    scores = place.scores()
    assert sorted(scores) == sorted(slug(name) for name in release.names)
    for name, row in zip(release.names, release.loglik, strict=True):
        score = scores[slug(name)]
        np.testing.assert_array_equal(score.loglik, row)
        assert (score.status, score.commit, score.texts_sha256) == ("ok", "", sha256)
        assert score.spec["id"] == name
        assert score.spec["texts"] == place.spec["texts"]
        assert not score.n_tokens.any()
        assert not score.n_scored.any()
        assert not score.truncated.any()
        known = score.attributes
        assert (known["dtype"], known["prefix"], known["overlength"]) == (
            "bfloat16",
            "bos",
            "window",
        )
        assert known["imported"] == "oyama2025"
        assert "noise_nats" not in known


def test_the_index_names_them_sorted_with_their_types(place, release):
    place.run(**all_files(release))
    rows = files.read_tsv(place.places.index)
    assert [row["model"] for row in rows] == sorted(slug(name) for name in release.names)
    for row in rows:
        assert row["family"] == release.families[row["id"]]
        assert (row["source"], row["revision"], row["variant"]) == ("", "", "")
    place.run(loglik=str(release.raw))
    assert {row["family"] for row in files.read_tsv(place.places.index)} == {""}


def test_the_matrix_reads_them_like_scores_of_klmap(place, release):
    place.run(**all_files(release))
    where = place.places
    matrix = place.folder / "matrix.h5"
    found = collect.collect(
        where.index, where.scores, place.folder, where.texts, where.manifest, matrix
    )
    models = {model.id: model for model in found.models}
    assert set(models) == set(release.names)
    for name, row in zip(release.names, release.loglik, strict=True):
        assert models[name].family == release.families[name]
        assert models[name].mean_loglik == pytest.approx(row.mean())
        assert models[name].parameters
        assert models[name].created_at.endswith("+00:00")
        assert models[name].license == "apache-2.0"


def test_cards_tell_what_the_metadata_tells(place, release):
    place.run(**all_files(release))
    known = read_metadata(release.metadata)
    for score in place.scores().values():
        card = json.loads(score.attributes["card"])
        row = known[score.spec["id"]]
        assert card["model_type"] == row.model_type
        assert card["parameters"] == row.parameters > 1e9
        assert card["created_at"] == row.created_at
        assert card["downloads"] == row.downloads
        assert card["tags"] == list(row.tags)
        assert set(card["base_model"]) <= set(release.names) - {score.spec["id"]}
    assert sum(bool(row.base_model) for row in known.values()) > len(known) / 3


def test_benchmarks_are_those_of_the_metadata(place, release):
    place.run(**all_files(release))
    rows = files.read_tsv(place.places.benchmarks)
    assert list(rows[0]) == ["model", *release.tasks]
    assert [row["model"] for row in rows] == sorted(slug(name) for name in release.names)
    models = [models_table.Model(slug(name)) for name in release.names]
    found = read_benchmarks([place.places.benchmarks], models)
    np.testing.assert_array_equal(found.values, release.scores)
    assert np.isnan(found.values).any()


def test_without_metadata_the_table_of_benchmarks_has_its_header_alone(place, release):
    place.run(loglik=str(release.raw))
    assert place.places.benchmarks.read_text() == "model\n"


def test_the_report_says_what_was_imported(place, release):
    report = place.run(**all_files(release))
    assert report["name"] == "oyama2025"
    assert report["texts"] == len(release.domain)
    assert report["minimum"] == release.loglik.min()
    assert report["maximum"] == release.loglik.max()
    assert report["clip_threshold"] == pytest.approx(release.threshold, abs=1e-9)
    assert report["convention"] == {
        "dtype": "float16",
        "prefix": "default",
        "overlength": "truncate",
    }
    assert report["without_metadata"] == report["without_vectors"] == []
    assert report["mean_logp_differs"] == 0
    for key, path in [("loglik", release.raw), ("metadata", release.metadata)]:
        assert report["files"][key] == {
            "sha256": files.sha256_of(path),
            "bytes": path.stat().st_size,
        }


def test_vectors_in_another_order_than_the_texts_are_suspected(place, release, caplog):
    assert place.run(loglik=str(release.raw))["length_correlation"] > 0.5
    assert "in the order of the texts" not in caplog.text
    mixed = np.random.default_rng(0).permutation(release.loglik.T).T
    dump(place.folder / "mixed.pkl", dict(zip(release.names, mixed, strict=True)))
    place.run(loglik=str(place.folder / "mixed.pkl"))
    assert "are the vectors in the order of the texts?" in caplog.text


def test_the_threshold_is_the_quantile_or_that_of_the_clipped_file(place, release):
    alone = place.run(loglik=str(release.raw))["clip_threshold"]
    assert alone == geometry.clip_threshold(release.loglik)
    other = release.threshold - 7
    path = place.folder / "clipped.pkl"
    rows = zip(release.names, np.maximum(release.loglik, other), strict=True)
    dump(path, dict(reversed(list(rows))))
    assert place.run(clipped=str(path))["clip_threshold"] == other


def test_a_list_with_metadata_is_both_vectors_and_metadata(place, release):
    place.run(**all_files(release))
    first = place.state()
    report = place.run(loglik=str(release.metadata), metadata=str(release.metadata))
    assert report["models"] == len(release.names)
    assert place.state() == first


@pytest.mark.parametrize("kind", ["npy", "csv"])
def test_the_format_of_a_vector_changes_nothing(place, release, kind):
    place.run(**all_files(release))
    first = place.state()
    path = place.folder / f"vectors.{kind}"
    names = place.folder / "names.txt"
    names.write_text("\n".join(release.names))
    if kind == "npy":
        np.save(path, release.loglik)
        recipe = {"names": str(names)}
    else:
        lines = [",".join(["model", *map(str, range(release.loglik.shape[1]))])]
        pairs = zip(release.names, release.loglik.tolist(), strict=True)
        lines += [",".join([name, *map(repr, row)]) for name, row in pairs]
        path.write_text("\n".join(lines))
        recipe = {}
    place.run(**all_files(release), loglik=str(path), **recipe)
    assert place.state() == first


# What is there already


def test_importing_again_writes_no_score(place, release):
    place.run(**all_files(release))
    first = place.state()
    assert len(first) == len(release.names)
    table = place.places.index.read_bytes(), place.places.benchmarks.read_bytes()
    place.run()
    assert place.state() == first
    assert (place.places.index.read_bytes(), place.places.benchmarks.read_bytes()) == table


def test_a_vector_that_has_changed_becomes_another_score(place, release):
    place.run(**all_files(release))
    first = place.state()
    name = release.names[3]
    loglik = changed(release, place.folder / "new.pkl", **{name: release.loglik[3] - 1})
    place.run(loglik=loglik, metadata=str(release.metadata))
    second = place.state()
    assert first.items() <= second.items()
    (added,) = set(second) - set(first)
    assert added.startswith(slug(name))
    np.testing.assert_array_equal(place.scores()[slug(name)].loglik, release.loglik[3] - 1)


def test_another_convention_is_another_score(place, release):
    place.run(**all_files(release))
    first = set(place.state())
    place.run(**all_files(release), prefix="bos")
    assert len(set(place.state()) - first) == len(release.names)


def test_newer_metadata_reaches_the_score_of_its_model_alone(place, release):
    place.run(**all_files(release))
    first = place.state()
    name = release.names[3]
    path = described(
        release,
        place.folder / "new.pkl",
        lambda row: {**row, "model_type": "new"} if row["model_name"] == name else row,
    )
    place.run(loglik=str(release.raw), metadata=path)
    second = place.state()
    assert list(second) == list(first)
    (other,) = [file for file in first if first[file] != second[file]]
    assert other.startswith(slug(name))
    score = place.scores()[slug(name)]
    assert json.loads(score.attributes["card"])["model_type"] == "new"
    np.testing.assert_array_equal(score.loglik, release.loglik[3])


def test_a_score_file_that_is_broken_is_written_again(place, release):
    place.run(**all_files(release))
    first = place.state()
    broken, short = sorted(place.places.scores.iterdir())[:2]
    broken.write_bytes(b"nothing")
    score = read_score(short)
    score.loglik = score.loglik - 1
    write_score(short, score)
    place.run()
    second = place.state()
    assert {name for name in first if first[name] != second.pop(name)} == {broken.name, short.name}
    assert not second
    scores = place.scores()
    for name, row in zip(release.names, release.loglik, strict=True):
        np.testing.assert_array_equal(scores[slug(name)].loglik, row)


def test_an_import_that_fails_midway_goes_on_where_it_stopped(place, release, monkeypatch):
    write = published.write_score
    written: list[Path] = []

    def failing(path: Path, score: Score) -> None:
        if len(written) == 7:
            raise OSError("the disk is full")
        write(path, score)
        written.append(path)

    monkeypatch.setattr(published, "write_score", failing)
    with pytest.raises(OSError, match="disk is full"):
        place.run(**all_files(release))
    first = place.state()
    assert len(first) == 7
    assert not place.places.index.exists()
    monkeypatch.undo()
    place.run()
    assert first.items() <= place.state().items()
    assert len(place.scores()) == len(release.names)


def test_a_killed_import_leaves_whole_files_and_is_carried_on(tmp_path):
    release = make_release(tmp_path / "release", models=400, texts=40)
    place = at(tmp_path, release)
    place.recipe = all_files(release)
    place.places.scores.mkdir()
    with subprocess.Popen(place.command(), stderr=subprocess.DEVNULL) as process:
        while sum(1 for _ in place.places.scores.glob("[!.]*.h5")) < 20:
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = sorted(place.places.scores.glob("[!.]*.h5"))
    assert 20 <= len(done) < len(release.names)
    for path in done:
        assert len(read_score(path).loglik) == 40
    assert not place.places.index.exists()
    # What a killed import leaves of its last file; another job's file stays.
    rest = done[0].with_name(f".{done[0].name}.local.host.1.tmp")
    other = done[0].with_name(".org--x.0123456789ab.h5.local.host.1.tmp")
    for path in (rest, other):
        path.write_text("half")
    first = place.state()
    completed = subprocess.run(place.command(), capture_output=True, text=True, check=True)
    assert f"{len(done)} were there" in completed.stderr
    second = place.state()
    assert {path.name: first[path.name] for path in done}.items() <= second.items()
    assert [name for name in second if name.startswith(".")] == [other.name]
    assert len(place.scores()) == len(release.names)


# What does not fit


def test_a_wrong_hash_is_refused_with_both_hashes(place, release):
    wrong = "0" * 64
    found = place.refusal(loglik={"path": str(release.raw), "sha256": wrong})
    assert wrong in found
    assert files.sha256_of(release.raw) in found
    right = files.sha256_of(release.raw).upper()
    place.run(loglik={"path": str(release.raw), "sha256": right})


def test_a_file_that_is_missing_is_named_with_its_key(place):
    found = place.refusal(metadata=str(place.folder / "none.pkl"))
    assert "none.pkl: no such file; config.yaml names it as metadata:" in found


def test_vectors_of_other_texts_are_refused(place, tmp_path):
    other = make_release(tmp_path / "other", models=40, texts=50)
    found = place.refusal(loglik=str(other.raw))
    assert "the text set has 60 texts" in found
    assert f"{other.names[0]} has 50" in found


def test_a_map_of_other_texts_is_refused_by_its_hash(place, release):
    path = place.folder / "matrix.h5"
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "klmap-matrix"
        file.attrs["texts_sha256"] = "f00d"
        file["L"], file["model"] = release.loglik, release.names
    found = place.refusal(loglik=str(path))
    assert "f00d" in found
    assert files.read_json(place.places.manifest)["sha256"] in found
    with h5py.File(path, "r+") as file:
        file.attrs["texts_sha256"] = files.read_json(place.places.manifest)["sha256"]
    assert place.run()["models"] == len(release.names)


def test_another_number_of_models_than_announced_is_refused(place):
    found = place.refusal(models=41)
    assert "holds 40 models, but config.yaml says models: 41" in found
    place.run(models=40)


def test_clipped_values_must_be_the_raw_ones_after_clipping(place, release):
    rows = {
        name: np.maximum(row, release.threshold)
        for name, row in zip(release.names, release.loglik, strict=True)
    }
    path = place.folder / "clipped.pkl"
    name = release.names[5]
    rows[name][9] += 1e-5
    dump(path, rows)
    assert f"{name}, text 9: " in place.refusal(clipped=str(path))
    rows[name][9] -= 1e-5
    rows["org/other"] = rows.pop(name)
    dump(path, rows)
    found = place.refusal(clipped=str(path))
    assert "not the models of the raw log-likelihoods; 2 are in one of the files alone" in found
    assert "org/other" in found
    rows[name] = rows.pop("org/other")
    rows[name][9] += 1e-7
    dump(path, rows)
    place.run(clipped=str(path))


def test_a_hostile_pickle_writes_nothing(place):
    class Hostile:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {place.folder / 'marker'}",)

    path = place.folder / "hostile.pkl"
    for key in ("loglik", "clipped", "metadata"):
        dump(path, {"org/one": Hostile()})
        assert "posix.system" in place.refusal(**{key: str(path)})
    assert not (place.folder / "marker").exists()
    assert not place.places.scores.exists()


def test_names_on_one_side_alone_are_told_with_the_nearest(place, release, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("klmap"), "propagate", True)
    old = release.names[:7]
    path = described(
        release,
        place.folder / "new.pkl",
        lambda row: {
            **row,
            "model_name": row["model_name"] + "x" * (row["model_name"] in old),
        },
    )
    with caplog.at_level(logging.WARNING, "klmap"):
        report = place.run(loglik=str(release.raw), metadata=path)
    assert report["without_metadata"] == sorted(old)
    assert report["without_vectors"] == sorted(f"{name}x" for name in old)
    first = sorted(old)[0]
    # A record can reach the handlers of pytest twice, by the logger's own and by the root's.
    said = "\n".join({record.getMessage() for record in caplog.records})
    assert f"7 models have a vector and no metadata: {first} (like {first}x?)" in said
    assert f"7 models have metadata and no vector: {first}x (like {first}?)" in said
    assert said.count("and 2 more") == 2
    assert len(place.scores()) == len(release.names)
    families = {row["id"]: row["family"] for row in files.read_tsv(place.places.index)}
    assert {families[name] for name in old} == {""}
    assert len(files.read_tsv(place.places.benchmarks)) == len(release.names) - 7


def test_metadata_of_other_models_altogether_is_refused(place, release):
    path = described(
        release, place.folder / "new.pkl", lambda row: {**row, "model_name": row["model_name"][4:]}
    )
    found = place.refusal(loglik=str(release.raw), metadata=path)
    assert "none of its 40 models has a vector" in found
    assert release.names[0] in found


def test_means_that_are_neither_raw_nor_clipped_are_counted(place, release):
    raw = dict(zip(release.names, release.loglik.mean(axis=1), strict=True))
    shifts = {release.names[0]: 0.0, release.names[1]: 0.02, release.names[2]: -5.0}
    path = described(
        release,
        place.folder / "new.pkl",
        lambda row: {
            **row,
            "mean_logp": float(raw[row["model_name"]]) + shifts.get(row["model_name"], 0.0),
        },
    )
    report = place.run(loglik=str(release.raw), metadata=path)
    assert report["mean_logp_differs"] == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_name": 5}, "has the model_name 5, expected an id"),
        ({"model_name": "org/twice"}, "org/twice stands there twice"),
        ({"created_at": 2024}, "created_at is 2024, expected a text"),
        ({"model_type": ["llama"]}, "model_type is a list, expected a text"),
        ({"model_type": "x" * 200_000}, "model_type has 200,000 characters"),
        ({"model_name": [["x"]]}, "has the model_name a list, expected an id"),
        ({"model_size": 10**400}, "model_size is a number of more than 300 digits"),
        ({"model_size": 1e300}, "model_size is 1e+300, expected billions of weights"),
        ({"model_size": 7e9}, "model_size is 7e+09, expected billions of weights"),
        ({"score_ARC": 10**400}, "score_ARC is a number of more than 300 digits"),
        ({"score_model": 1.0}, "'score_model' names no benchmark"),
        ({"model_size": "7B"}, "model_size is '7B', expected a number"),
        ({"score_v1_ARC": "high"}, "score_v1_ARC is 'high', expected a number"),
        ({"score_v1_ARC": True}, "score_v1_ARC is True, expected a number"),
        ({"tags": "llama"}, "tags is a str, expected a list"),
    ],
)
def test_metadata_of_another_shape_is_refused(tmp_path, release, change, word):
    path = tmp_path / "metadata.pkl"
    described(release, path, lambda row: {**row, **change})
    with pytest.raises(InputError) as error:
        read_metadata(path)
    assert word in str(error.value)
    assert "metadata.pkl" in str(error.value)


def test_metadata_that_is_no_list_is_refused(tmp_path):
    for value, word in (({}, "holds a dict"), ([1], "holds a list")):
        dump(tmp_path / "metadata.pkl", value)
        with pytest.raises(InputError, match=word):
            read_metadata(tmp_path / "metadata.pkl")


def test_scores_of_any_version_are_known_by_their_keys(tmp_path):
    row = {"model_name": "a", "score_v1_ARC": 1, "score_v2_MATH": 2.5, "score_6-taskmean": None}
    dump(tmp_path / "metadata.pkl", [row])
    found = read_metadata(tmp_path / "metadata.pkl")["a"]
    assert found.scores == {"ARC": 1.0, "v2_MATH": 2.5, "6-TaskMean": None}
    assert (found.parameters, found.created_at, found.mean_logp) == (None, "", None)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"score_v1_ARC": 50.0, "score_ARC": None}, {"ARC": 50.0}),
        ({"score_v1_ARC": None, "score_ARC": 50.0}, {"ARC": 50.0}),
        ({"score_v1_ARC": 50.0, "score_ARC": float("nan")}, {"ARC": 50.0}),
        ({"score_v1_ARC": 50.0, "score_ARC": 50}, {"ARC": 50.0}),
        ({"score_v1_ARC": None, "score_ARC": None}, {"ARC": None}),
        ({"score_v1_ARC": 1, "score_x": 2, "score_ARC": None}, {"ARC": 1.0, "x": 2.0}),
    ],
)
def test_a_known_score_is_not_hidden_by_another_key(tmp_path, scores, expected):
    dump(tmp_path / "metadata.pkl", [{"model_name": "a", **scores}])
    found = read_metadata(tmp_path / "metadata.pkl")["a"].scores
    assert found == expected
    assert list(found) == list(expected)


def test_two_scores_for_one_benchmark_are_refused_with_both_keys(tmp_path):
    row = {"model_name": "org/a", "score_v1_ARC": 50.0, "score_ARC": 20.0}
    dump(tmp_path / "metadata.pkl", [row])
    with pytest.raises(InputError, match="org/a: score_v1_ARC is 50 and score_ARC is 20") as error:
        read_metadata(tmp_path / "metadata.pkl")
    assert "both are scores for ARC" in str(error.value)


def test_only_texts_are_tags_and_each_is_one(tmp_path):
    endless = ["x"]
    for _ in range(26):
        endless = [endless, endless]
    tags = ["base_model:a/b", endless, None, 7, "license:mit", "base_model:a/b"]
    dump(tmp_path / "metadata.pkl", [{"model_name": "a", "tags": tags}])
    found = read_metadata(tmp_path / "metadata.pkl")["a"]
    assert found.tags == ("base_model:a/b", "license:mit")


@pytest.mark.parametrize("key", ["model_type", "model_size", "model_name"])
def test_lists_within_lists_do_not_fill_the_memory(tmp_path, key):
    endless = ["x"]
    for _ in range(26):
        endless = [endless, endless]
    dump(tmp_path / "metadata.pkl", [{"model_name": "a", key: endless}])
    with pytest.raises(InputError, match=f"{key} .*a list"):
        read_metadata(tmp_path / "metadata.pkl")


@pytest.mark.parametrize(
    ("tags", "parents"),
    [
        ([], []),
        (["base_model:a/b", "base_model:finetune:a/b"], ["a/b"]),
        (["base_model:merge:a/b", "base_model:merge:c/d"], ["a/b", "c/d"]),
        (["base_model:a/b", "base_model:a/b", "license:mit"], ["a/b"]),
        (["base_model:"], []),
    ],
)
def test_parents_are_read_off_the_tags(tags, parents):
    assert Described("x", tags=tuple(tags)).base_model == parents


def test_very_many_tags_do_not_spoil_a_file(place, release):
    path = described(
        release,
        place.folder / "new.pkl",
        lambda row: {**row, "tags": [f"{'dataset' * 10}:{i}" for i in range(5000)]},
    )
    place.run(loglik=str(release.raw), metadata=path)
    for score in place.scores().values():
        assert len(json.loads(score.attributes["card"])["tags"]) == MOST_TAGS


# The web


class _Quiet(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A server of a folder: its address, and what was asked of it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def web(tmp_path: Path, release: Release) -> Iterator[tuple[str, list[str], Path]]:
    folder = tmp_path / "web"
    for commit in (COMMIT, OTHER_COMMIT):
        (folder / commit).mkdir(parents=True)
        (folder / commit / "raw.pkl").write_bytes(release.raw.read_bytes())
    with serving(folder) as (url, asked):
        yield url, asked, folder


def test_files_of_the_web_are_fetched_once(place, release, web):
    url, asked, _ = web
    sha256 = files.sha256_of(release.raw)
    for _ in range(2):
        report = place.run(loglik={"url": f"{url}/{COMMIT}/raw.pkl?key=5", "sha256": sha256})
        assert report["files"]["loglik"]["sha256"] == sha256
        assert report["files"]["loglik"]["url"] == f"{url}/{COMMIT}/raw.pkl?..."
    assert len(asked) == 1
    assert (place.places.downloads / "loglik.pkl").read_bytes() == release.raw.read_bytes()
    assert len(place.scores()) == len(release.names)


def test_a_file_that_no_longer_fits_its_hash_is_fetched_again(place, release, web):
    url, asked, _ = web
    sha256 = files.sha256_of(release.raw)
    address = f"{url}/{COMMIT}/raw.pkl"
    for recipe in ({"url": address, "sha256": sha256}, {"url": address}):
        place.run(loglik=recipe)
        before = len(asked)
        (place.places.downloads / "loglik.pkl").write_bytes(b"changed")
        place.run()
        assert len(asked) == before + 1


def test_an_address_with_a_commit_needs_no_hash_and_notes_what_came(place, release, web):
    url, asked, folder = web
    report = place.run(loglik={"url": f"{url}/{COMMIT}/raw.pkl"})
    assert report["files"]["loglik"]["sha256"] == files.sha256_of(release.raw)
    place.run()
    assert len(asked) == 1
    name = release.names[0]
    changed(release, folder / OTHER_COMMIT / "raw.pkl", **{name: release.loglik[0] - 1})
    place.run(loglik={"url": f"{url}/{OTHER_COMMIT}/raw.pkl"})
    assert len(asked) == 2
    np.testing.assert_array_equal(place.scores()[slug(name)].loglik, release.loglik[0] - 1)


def test_a_wrong_file_of_the_web_is_refused_and_not_kept(place, release, web):
    url, _, _ = web
    wrong = "0" * 64
    found = place.refusal(loglik={"url": f"{url}/{COMMIT}/raw.pkl", "sha256": wrong})
    assert wrong in found
    assert files.sha256_of(release.raw) in found
    assert not (place.places.downloads / "loglik.pkl").exists()


def test_the_pointer_of_a_large_file_is_no_file(place, web):
    url, _, folder = web
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (folder / COMMIT / "large.pkl").write_text(pointer)
    found = place.refusal(loglik={"url": f"{url}/{COMMIT}/large.pkl"})
    assert "the pointer that Git LFS keeps" in found
    assert not (place.places.downloads / "loglik.pkl").exists()


def test_a_download_without_a_hash_returns_what_came(tmp_path, release, web):
    url, _, _ = web
    found = webfile.download(f"{url}/{COMMIT}/raw.pkl", None, tmp_path / "a")
    assert found == files.sha256_of(tmp_path / "a") == files.sha256_of(release.raw)


# The script


def test_the_script_imports_what_the_library_imports(place, release, tmp_path):
    place.recipe = all_files(release)
    subprocess.run(place.command(), check=True, capture_output=True)
    other = at(tmp_path / "other", release)
    other.run(**all_files(release))
    for name, (_, data) in place.state().items():
        assert other.state()[name][1] == data
    assert place.places.index.read_bytes() == other.places.index.read_bytes()


def test_the_script_refuses_a_recipe_that_is_none(place):
    place.recipe = {"unknown": 5}
    done = subprocess.run(place.command(), capture_output=True, text=True)
    assert done.returncode == 1
    assert "--recipe or --spec: not what config.yaml gives" in done.stderr
    assert "Traceback" not in done.stderr
