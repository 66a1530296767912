"""Log-likelihoods of others: every format gives the same vectors, every fault its reason."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from klmap import store
from klmap.errors import InputError
from klmap.vectors import VECTOR_KEY, read_vectors

NAMES = ["org/one", "org/two", "three"]
LOGLIK = -np.random.default_rng(0).gamma(4, 100, (3, 5))


def csv_of(names: list[str], rows: Any, sign: str = ",", header: str = "model") -> str:
    lines = [[header, *map(str, range(len(rows[0])))]]
    lines += [[name, *map(repr, map(float, row))] for name, row in zip(names, rows, strict=True)]
    return "".join(sign.join(line) + "\n" for line in lines)


def write(folder: Path, kind: str, names: list[str] = NAMES, rows: Any = LOGLIK) -> Path:
    """One matrix in a file of one kind."""
    path = folder / f"a.{kind}"
    if kind == "pkl":
        path.write_bytes(pickle.dumps(dict(zip(names, rows, strict=True))))
    elif kind == "pickle":
        pairs = zip(names, rows, strict=True)
        path.write_bytes(pickle.dumps([{"model_name": n, VECTOR_KEY: row} for n, row in pairs]))
    elif kind == "npy":
        np.save(path, rows)
        (folder / "names.txt").write_text("\n".join(names) + "\n\n")
        (folder / "names.tsv").write_text("model\tsize\n" + "".join(f"{n}\t7\n" for n in names))
        (folder / "names.csv").write_text("model\n" + "".join(f"{n}\n" for n in names))
    elif kind in ("csv", "tsv"):
        path.write_text(csv_of(names, rows, "," if kind == "csv" else "\t"))
    else:
        with h5py.File(path, "w") as file:
            file["L"] = rows
            file["model"] = names
    return path


def refusal(path: Path, **keys: Any) -> str:
    with pytest.raises(InputError) as error:
        read_vectors(path, **keys)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["pkl", "pickle", "npy", "csv", "tsv", "h5", "hdf5"])
def test_every_format_gives_the_same_vectors(tmp_path, kind):
    path = write(tmp_path, kind)
    found = read_vectors(path, tmp_path / "names.txt" if kind == "npy" else None, texts=5)
    assert found.names == NAMES
    assert found.slugs == ["org--one", "org--two", "three"]
    assert found.loglik.dtype == np.float64
    np.testing.assert_array_equal(found.loglik, LOGLIK)
    assert found.texts_sha256 is None


@pytest.mark.parametrize("names", ["names.txt", "names.tsv", "names.csv"])
def test_names_of_an_array_come_as_lines_or_as_a_table(tmp_path, names):
    assert read_vectors(write(tmp_path, "npy"), tmp_path / names).names == NAMES


def test_numbers_of_other_kinds_become_float64(tmp_path):
    for kind in ("pkl", "npy", "h5"):
        for dtype in (np.float32, np.float16, np.int64):
            rows = LOGLIK.astype(dtype)
            path = write(tmp_path, kind, rows=rows)
            found = read_vectors(path, tmp_path / "names.txt" if kind == "npy" else None)
            np.testing.assert_array_equal(found.loglik, rows.astype(np.float64))


def test_datasets_of_other_names_are_read_by_their_names(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["scores/loglik"] = LOGLIK
        file["scores/names"] = np.array(NAMES, "S")
    found = read_vectors(path, dataset="scores/loglik", names_dataset="scores/names")
    assert found.names == NAMES
    np.testing.assert_array_equal(found.loglik, LOGLIK)


def test_a_matrix_of_klmap_tells_its_texts(tmp_path):
    path = tmp_path / "matrix.h5"
    store.write_matrix(
        path,
        store.Matrix(
            loglik=LOGLIK,
            coordinates=LOGLIK.astype(np.float32),
            model=NAMES,
            domain=["all"] * 5,
            n_bytes=np.full(5, 300, np.int32),
            clip_quantile=0.02,
            clip_threshold=-1e4,
            mean_bytes=300.0,
            texts_sha256="f00d",
        ),
    )
    found = read_vectors(path)
    assert (found.names, found.texts_sha256) == (NAMES, "f00d")
    np.testing.assert_array_equal(found.loglik, LOGLIK)


@pytest.mark.parametrize("kind", ["pkl", "pickle", "npy", "csv", "tsv"])
def test_vectors_of_other_texts_are_refused_with_their_lengths(tmp_path, kind):
    path = write(tmp_path, kind)
    found = refusal(path, names=tmp_path / "names.txt", texts=10_000)
    assert "3 of 3 vectors do not fit: the text set has 10,000 texts, org/one has 5" in found


def test_a_dataset_of_other_texts_is_refused_before_it_is_read(tmp_path):
    path = write(tmp_path, "h5")
    found = refusal(path, texts=10_000)
    assert "L has 5 columns, but the text set has 10,000 texts" in found
    assert "computed on other texts" in found
    # It holds nothing, and would be larger than any memory.
    with h5py.File(path, "w") as file:
        file.create_dataset("L", (3, 10**14), "f8", chunks=(1, 1024))
        file["model"] = NAMES
    assert path.stat().st_size < 1e5
    assert "L has 100,000,000,000,000 columns" in refusal(path, texts=5)
    assert "larger than the memory" in refusal(path)
    with h5py.File(path, "w") as file:
        file["L"] = LOGLIK
        file.create_dataset("model", (10**14,), "S8", chunks=(1024,))
    assert "L has 3 rows for 100000000000000 names" in refusal(path)


def test_vectors_of_different_lengths_are_refused_by_name(tmp_path):
    rows = [LOGLIK[0], LOGLIK[1, :4], LOGLIK[2]]
    found = refusal(write(tmp_path, "pkl", rows=rows))
    assert "1 of 3 vectors do not fit: org/one has 5 texts, org/two has 4" in found
    (tmp_path / "b.csv").write_text("model,0,1\na,-1,-2\nb,-1\n")
    assert "b.csv:3: 2 columns where the header has 3" in refusal(tmp_path / "b.csv")


@pytest.mark.parametrize("kind", ["pkl", "npy", "csv", "h5"])
@pytest.mark.parametrize(
    ("value", "word"),
    [
        (np.nan, "org/two, text 3: nan is not finite"),
        (-np.inf, "org/two, text 3: -inf is not finite"),
        (2.5, "org/two, text 3: 2.5 is above 0, so it is no log-likelihood of a text; if these"),
    ],
)
def test_what_is_no_log_likelihood_is_refused_with_its_place(tmp_path, kind, value, word):
    rows = LOGLIK.copy()
    rows[1, 3] = value
    found = refusal(write(tmp_path, kind, rows=rows), names=tmp_path / "names.txt")
    assert word in found
    assert "(1 of 5 values of this model)" in found


def test_losses_are_told_from_log_likelihoods(tmp_path):
    found = refusal(write(tmp_path, "csv", rows=-LOGLIK))
    assert "if these are losses, turn the sign" in found
    assert "(5 of 5 values" in found


def test_rounding_above_zero_is_forgiven(tmp_path):
    rows = LOGLIK.copy()
    rows[0, 0] = 1e-7
    assert read_vectors(write(tmp_path, "npy", rows=rows), tmp_path / "names.txt").loglik[0, 0] > 0


@pytest.mark.parametrize(
    ("names", "word"),
    [
        (["a", "b", "a"], "a stands there 2 times"),
        (["a/b", "c", "a--b"], "a--b and a/b would both be called a--b"),
        (["../up", "b", "c"], "'../up' cannot be a model's name"),
        (["/etc/passwd", "b", "c"], "cannot be a model's name"),
        (["a b", "b", "c"], "'a b' cannot be a model's name"),
        (["a/b\x00", "b", "c"], "cannot be a model's name"),
        (["-rf", "b", "c"], "cannot be a model's name"),
        (["", "b", "c"], "row 1 has no name"),
    ],
)
def test_names_that_cannot_be_told_apart_or_name_a_file_are_refused(tmp_path, names, word):
    path = tmp_path / "a.pickle"
    rows = [{"model_name": n, VECTOR_KEY: row} for n, row in zip(names, LOGLIK, strict=True)]
    path.write_bytes(pickle.dumps(rows))
    assert word in refusal(path)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({}, "holds no models"),
        ("word", "holds a str, expected a dict of name and vector"),
        ([1, 2], "holds a list, expected"),
        ({1: LOGLIK[0]}, "a model is named 1, expected a text"),
        ([{"model_name": [["a"]], VECTOR_KEY: LOGLIK[0]}], "a model is named a list, expected"),
        ({"a": [-1.0, -2.0]}, "a has a list, expected a vector of numbers"),
        ({"a": LOGLIK}, "a has float64 of shape (3, 5), expected a vector"),
        ({"a": np.array(["x"])}, "a has <U1 of shape (1,), expected a vector"),
        ([{"model_name": "a", "mean": 1}], f"no key {VECTOR_KEY!r}; its keys: model_name, mean"),
        ([{"name": "a"}], "entry 0 has no key 'model_name'; its keys: name"),
    ],
)
def test_a_pickle_of_something_else_is_told(tmp_path, content, word):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content))
    assert word in refusal(path)


def test_an_array_needs_as_many_names_as_rows(tmp_path):
    path = write(tmp_path, "npy")
    assert "add names:" in refusal(path)
    (tmp_path / "two.txt").write_text("a\nb\n")
    assert "3 rows, but" in refusal(path, names=tmp_path / "two.txt")
    (tmp_path / "five.txt").write_text("a\nb\nc\nd\ne\n")
    assert "transpose" in refusal(path, names=tmp_path / "five.txt")
    np.save(tmp_path / "flat.npy", LOGLIK[0])
    assert "one matrix" in refusal(tmp_path / "flat.npy", names=tmp_path / "names.txt")


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([[None]], object), allow_pickle=True)
    (tmp_path / "names.txt").write_text("a\n")
    assert "not a .npy file of numbers" in refusal(path, names=tmp_path / "names.txt")
    path.write_bytes(pickle.dumps([1]))
    assert "not a .npy file of numbers" in refusal(path, names=tmp_path / "names.txt")


def test_a_table_begins_with_its_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("org/one,-1,-2\n")
    assert "begins with 'org/one'; expected a header line whose first column is 'model'" in (
        refusal(path)
    )
    path.write_text("")
    assert "expected a header line" in refusal(path)
    path.write_text(csv_of(NAMES, LOGLIK, "\t"))
    assert "expected a header line" in refusal(path)
    path.write_text("model,0\na,-1\nb,\n")
    assert "b: could not convert" in refusal(path)
    path.write_text("\ufeffmodel,0\na,-1\n", encoding="utf-8")
    assert read_vectors(path).names == ["a"]


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("0,1,10,2,3,4,5,6,7,8,9", "column '10' stands where 2 is expected"),
        ("1,10,11,2,3,4,5,6,7,8,9", "column '10' stands where 2 is expected"),
        ("text_0,text_1,text_10,text_2,text_3,text_4,text_5,text_6,text_7,text_8,text_9", "'text_"),
        ("1,10,100,11,12,13,14,15,16,17,2", "column '10' stands where 2 is expected"),
        ("10,9,8,7,6,5,4,3,2,1,0", "column '10' stands where 0 is expected"),
    ],
)
def test_columns_that_are_numbered_in_another_order_are_refused(tmp_path, header, word):
    path = tmp_path / "a.csv"
    path.write_text(f"model,{header}\norg/one,{','.join(['-1'] * 11)}\n")
    found = refusal(path)
    assert word in found
    assert "sort them by number" in found


@pytest.mark.parametrize("header", ["0,1,2", "1,2,3", "a,c,b", "3,1,2x", "5,9,7", "t1,t2,t3", ",,"])
def test_columns_of_other_names_are_taken_as_they_stand(tmp_path, header):
    path = tmp_path / "a.csv"
    path.write_text(f"model,{header}\norg/one,-1,-2,-3\n")
    np.testing.assert_array_equal(read_vectors(path).loglik, [[-1, -2, -3]])


def test_datasets_that_are_missing_are_told_with_those_there_are(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/values"] = LOGLIK
        file["model"] = NAMES
    assert "no dataset 'L'; it has group/values, model: name the right one with dataset:" in (
        refusal(path)
    )
    assert "with names_dataset:" in refusal(path, dataset="group/values", names_dataset="id")
    with h5py.File(path, "w") as file:
        file["L"] = LOGLIK.T
        file["model"] = NAMES
    assert "L has 5 rows for 3 names; it stands on its side: transpose it" in refusal(path)
    with h5py.File(path, "w") as file:
        file["L"] = LOGLIK
        file["model"] = [1, 2, 3]
    assert "model is int64 of shape (3,), expected one name per model" in refusal(path)
    with h5py.File(path, "w") as file:
        file["L"] = LOGLIK[0]
        file["model"] = NAMES
    assert "L is float64 of shape (5,)" in refusal(path)


@pytest.mark.parametrize("kind", ["pkl", "npy", "csv", "h5"])
def test_a_broken_or_missing_file_is_named(tmp_path, kind):
    path = write(tmp_path, kind)
    names = tmp_path / "names.txt"
    path.write_bytes(b"\x80\xff\xfe" * 40)
    assert str(path) in refusal(path, names=names)
    path.unlink()
    assert "no such file" in refusal(path, names=names)


def test_a_file_of_another_kind_is_refused(tmp_path):
    assert "read from .pkl, .npy, .csv, .tsv or .h5" in refusal(tmp_path / "a.parquet")
