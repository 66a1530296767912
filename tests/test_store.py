from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from klmap import store, store_score
from klmap.design import Design
from klmap.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def score(n: int = 50, **changes: Any) -> store_score.Score:
    values: dict[str, Any] = {
        "model": "org--m@step1+int8",
        "commit": "abc",
        "texts_sha256": "f" * 64,
        "fingerprint": "0123456789ab",
        "spec": {"id": "org/m", "dtype": "auto"},
        "loglik": np.linspace(-900, -1, n),
        "n_tokens": np.arange(n, dtype=np.int32),
        "n_scored": np.arange(n, dtype=np.int32),
        "truncated": np.arange(n) % 7 == 0,
        "attributes": {"dtype": "float32", "noise_nats": 0.25, "software": {"torch": "2"}},
    }
    return store_score.Score(**{**values, **changes})


def matrix() -> store.Matrix:
    return store.Matrix(
        np.zeros((2, 3)), np.zeros((2, 3), np.float32), ["ä@1", "b+c"], ["x", "y", "z"],
        np.array([1, 2, 3], np.int32), 0.02, -9.5, 2.0, "f" * 64, np.array([0.5, 1e-9]),
    )  # fmt: skip


def distances() -> store.Distances:
    return store.Distances(
        ["a", "b"], np.array([[1], [0]], np.int32), np.ones((2, 1)), np.ones((2, 2)),
        np.ones((2, 2), np.float32), "f" * 64, 3, 2.0, np.array([0.5, 1e-9]),
        np.array([[True], [False]]), np.array([[False, True], [True, False]]),
        np.array([[1], [-1]], np.float32), np.array([0, 0.5], np.float32), np.ones(1), 1.25, 0.5, 2,
    )  # fmt: skip


WRITERS: list[tuple[Callable[..., None], Callable[..., Any], Callable[[], Any]]] = [
    (store_score.write_score, store_score.read_score, score),
    (store.write_matrix, store.read_matrix, matrix),
    (store.write_distances, store.read_distances, distances),
]


@pytest.mark.parametrize(("write", "read", "make"), WRITERS)
def test_round_trip(tmp_path: Path, write: Any, read: Any, make: Any) -> None:
    path = tmp_path / "x.h5"
    write(path, make())
    found, expected = vars(read(path)), vars(make())
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[key].dtype == value.dtype
            assert np.array_equal(found[key], value)
        elif key != "attributes":
            assert found[key] == value
    if "attributes" in expected:
        assert found["attributes"]["noise_nats"] == 0.25


@pytest.mark.parametrize(("write", "read", "make"), WRITERS)
def test_bytes_are_the_same_every_time(tmp_path: Path, write: Any, read: Any, make: Any) -> None:  # noqa: ARG001
    for name in ("a.h5", "b.h5"):
        write(tmp_path / name, make())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_kept_tokens_come_back(tmp_path: Path) -> None:
    kept = score(
        token_logprob=np.array([-1, -2], np.float32), token_offset=np.array([0, 2], np.int64)
    )
    store_score.write_score(tmp_path / "x.h5", kept)
    found = store_score.read_score(tmp_path / "x.h5")
    assert found.token_logprob is not None
    assert found.token_logprob.tolist() == [-1, -2]


def prompted(**changes: Any) -> store_score.Score:
    """A score of responses that has all there can be of prompts."""
    parts: dict[str, Any] = {
        "unconditional": np.linspace(-800, -2, 50),
        "boundary_loglik": np.where(np.arange(50) % 9 == 0, -1.5, 0.0),
        "chat_template": "{{ messages }} ü" * 10_000,
    }
    return score(**{**parts, **changes})


def test_what_is_known_of_prompts_comes_back(tmp_path: Path) -> None:
    kept = prompted()
    store_score.write_score(tmp_path / "x.h5", kept)
    found = store_score.read_score(tmp_path / "x.h5")
    assert found.chat_template == kept.chat_template
    for name in ("unconditional", "boundary_loglik"):
        assert getattr(found, name).tobytes() == getattr(kept, name).tobytes()
    assert found.loglik.tobytes() == kept.loglik.tobytes()
    few = store_score.read_score(tmp_path / "x.h5", only=())
    assert (few.unconditional, few.boundary_loglik, few.chat_template) == (None, None, None)
    store_score.write_score(tmp_path / "y.h5", score())
    plain = store_score.read_score(tmp_path / "y.h5")
    assert (plain.unconditional, plain.boundary_loglik, plain.chat_template) == (None, None, None)
    with h5py.File(tmp_path / "y.h5") as file:
        assert sorted(file) == ["loglik", "n_scored", "n_tokens", "truncated"]


@pytest.mark.parametrize("only", [None, ("noise_nats",)])
def test_pmi_is_what_responses_gain_by_their_prompts(tmp_path: Path, only: Any) -> None:
    kept = prompted()
    store_score.write_score(tmp_path / "x.h5", kept)
    found = store_score.read_score(tmp_path / "x.h5", only=only, vector="pmi")
    np.testing.assert_array_equal(found.loglik, kept.loglik - kept.unconditional)


def test_pmi_of_a_score_without_the_responses_alone_is_refused(tmp_path: Path) -> None:
    store_score.write_score(tmp_path / "x.h5", score())
    with pytest.raises(InputError, match=r"x\.h5: holds no .* without their prompts.*remove it"):
        store_score.read_score(tmp_path / "x.h5", vector="pmi")
    failed = store_score.Score("m", "c", "s", "f", {}, status="failed", error="no template")
    store_score.write_score(tmp_path / "f.h5", failed)
    assert store_score.read_score(tmp_path / "f.h5", vector="pmi").status == "failed"


@pytest.mark.parametrize("name", ["unconditional", "boundary_loglik"])
def test_responses_of_another_number_are_refused(tmp_path: Path, name: str) -> None:
    store_score.write_score(tmp_path / "x.h5", prompted(**{name: np.zeros(49)}))
    with pytest.raises(InputError, match=r"has the shape \(49,\) for 50 texts"):
        store_score.read_score(tmp_path / "x.h5")


def test_pmi_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    store_score.write_score(tmp_path / "x.h5", prompted(unconditional=np.full(50, -np.inf)))
    with pytest.raises(InputError, match="50 log-likelihoods are not finite"):
        store_score.read_score(tmp_path / "x.h5", vector="pmi")


def test_a_score_is_read_without_what_is_not_asked_for(tmp_path: Path) -> None:
    kept = score(
        token_logprob=np.array([-1, -2], np.float32), token_offset=np.array([0, 2], np.int64)
    )
    store_score.write_score(tmp_path / "x.h5", kept)
    found = store_score.read_score(tmp_path / "x.h5", only=("noise_nats", "never recorded"))
    assert found.attributes == {"noise_nats": 0.25}
    assert (found.spec, found.token_logprob, found.token_offset) == ({}, None, None)
    whole = store_score.read_score(tmp_path / "x.h5")
    for name in ("loglik", "n_tokens", "n_scored", "truncated"):
        assert np.array_equal(getattr(found, name), getattr(whole, name))
        assert getattr(found, name).dtype == getattr(whole, name).dtype
    assert (found.model, found.commit, found.status) == (whole.model, whole.commit, "ok")
    assert store_score.read_status(tmp_path / "x.h5") == "ok"


def test_failed_score_has_a_reason_and_no_numbers(tmp_path: Path) -> None:
    failed = store_score.Score("m", "c", "s", "f", {}, status="failed", error="no weights: 'x' ü")
    store_score.write_score(tmp_path / "x.h5", failed)
    found = store_score.read_score(tmp_path / "x.h5")
    assert (found.status, found.error, len(found.loglik)) == ("failed", failed.error, 0)
    assert store_score.read_status(tmp_path / "x.h5") == "failed"


@pytest.mark.parametrize(("write", "read", "make"), WRITERS)
@pytest.mark.parametrize("keep", [0, 5, 100, 800, 0.5, 0.95])
def test_truncated_files_are_refused(
    tmp_path: Path, write: Any, read: Any, make: Any, keep: float
) -> None:
    path = tmp_path / "x.h5"
    write(path, make())
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else int(keep)])
    with pytest.raises(InputError, match=r"x\.h5"):
        read(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(InputError, match="no such file"):
        store_score.read_score(path)
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(InputError, match="expected 'klmap-score'"):
        store_score.read_score(path)
    path.write_text("not HDF5")
    with pytest.raises(InputError, match="not a klmap file"):
        store_score.read_score(path)
    store.write_matrix(path, matrix())
    with pytest.raises(InputError, match="format is 'klmap-matrix', expected 'klmap-score'"):
        store_score.read_score(path)


def test_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    store_score.write_score(path, score())
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = 99
    with pytest.raises(InputError, match="update klmap"):
        store_score.read_score(path)


def replace_dataset(path: Path, name: str, value: Any) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
        if value is not None:
            file[name] = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("loglik", None, "truncated or not a klmap file"),
        ("loglik", np.zeros(49), "different lengths"),
        ("loglik", np.zeros((50, 2)), "different lengths"),
        ("loglik", np.full(50, np.nan), "not finite"),
        ("loglik", np.full(50, -np.inf), "not finite"),
    ],
)
def test_inconsistent_scores_are_refused(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    path = tmp_path / "x.h5"
    store_score.write_score(path, score())
    replace_dataset(path, name, value)
    with pytest.raises(InputError, match=message):
        store_score.read_score(path)


def test_a_group_in_place_of_a_dataset(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    store_score.write_score(path, score())
    with h5py.File(path, "a") as file:
        del file["loglik"]
        file.create_group("loglik")
    with pytest.raises(InputError, match="remove it"):
        store_score.read_score(path)


def test_unknown_status_is_refused(tmp_path: Path) -> None:
    store_score.write_score(tmp_path / "x.h5", score(status="maybe"))
    with pytest.raises(InputError, match="status is 'maybe'"):
        store_score.read_score(tmp_path / "x.h5")


def test_inconsistent_matrix_and_distances_are_refused(tmp_path: Path) -> None:
    store.write_matrix(tmp_path / "m.h5", matrix())
    replace_dataset(tmp_path / "m.h5", "L", np.zeros((3, 3)))
    with pytest.raises(InputError, match=r"L is \(3, 3\)"):
        store.read_matrix(tmp_path / "m.h5")
    store.write_distances(tmp_path / "k.h5", distances())
    replace_dataset(tmp_path / "k.h5", "kl", np.zeros((3, 3)))
    with pytest.raises(InputError, match=r"kl is \(3, 3\) for 2 models"):
        store.read_distances(tmp_path / "k.h5")


def test_a_matrix_says_what_its_rows_are(tmp_path: Path) -> None:
    store.write_matrix(tmp_path / "plain.h5", matrix())
    store.write_matrix(tmp_path / "pmi.h5", dataclasses.replace(matrix(), vector="pmi"))
    assert store.read_matrix(tmp_path / "pmi.h5").vector == "pmi"
    assert store.read_matrix(tmp_path / "plain.h5").vector == "loglik"
    with h5py.File(tmp_path / "plain.h5") as file:
        assert "vector" not in file.attrs


def designed() -> store.Matrix:
    made = matrix()
    weight, variance, balance = np.array([[1.5, 1, 2], [0.5, 0, 0.25], [2, 1, 4]])
    made.design = Design(weight, variance, balance, 9)
    made.complete = np.array([True, False])
    made.selection = "5e1ec7ed0000"
    return made


def test_a_design_comes_back(tmp_path: Path) -> None:
    made = designed()
    store.write_matrix(tmp_path / "m.h5", made)
    found = store.read_matrix(tmp_path / "m.h5")
    with store.open_matrix(tmp_path / "m.h5") as file:
        for one in (found, file):
            assert (one.texts, one.selection) == (9, "5e1ec7ed0000")
            assert one.complete.tolist() == [True, False]
            assert one.complete.dtype == np.bool_
            assert one.design is not None
            assert one.design.texts == 9
            for key in ("weight", "variance", "balance"):
                array = getattr(one.design, key)
                assert array.dtype == np.float64
                assert np.array_equal(array, getattr(made.design, key))


def test_a_matrix_without_a_design_has_nothing_of_one(tmp_path: Path) -> None:
    store.write_matrix(tmp_path / "m.h5", matrix())
    with h5py.File(tmp_path / "m.h5") as file:
        assert set(file) == {"L", "Q", "model", "domain", "n_bytes", "noise"}
        assert not {"n_reference", "selection"} & set(file.attrs)
    found = store.read_matrix(tmp_path / "m.h5")
    assert found.design is None
    assert (found.texts, found.selection) == (3, "")
    assert found.complete.all()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight", np.ones(2), "weight is"),
        ("weight_variance", np.ones((3, 1)), "weight_variance is"),
        ("weight_balance", None, "truncated or not a klmap file"),
        ("complete", np.ones(3, np.bool_), "complete is"),
    ],
)
def test_a_design_of_other_texts_is_refused(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    store.write_matrix(tmp_path / "m.h5", designed())
    replace_dataset(tmp_path / "m.h5", name, value)
    with pytest.raises(InputError, match=message):
        store.read_matrix(tmp_path / "m.h5")


def test_unknown_noise_comes_back_as_unknown(tmp_path: Path) -> None:
    made = matrix()
    made.noise = np.array([np.nan, 0.5])
    store.write_matrix(tmp_path / "m.h5", made)
    np.testing.assert_array_equal(store.read_matrix(tmp_path / "m.h5").noise, made.noise)


def test_only_neighbours_are_marked_where_only_neighbours_are_stored(tmp_path: Path) -> None:
    sparse = distances()
    sparse.kl = sparse.se = sparse.below_noise = None
    store.write_distances(tmp_path / "k.h5", sparse)
    with h5py.File(tmp_path / "k.h5") as file:
        assert "below_noise" not in file
        assert file["neighbors/below_noise"][:].tolist() == [[True], [False]]
    found = store.read_distances(tmp_path / "k.h5")
    assert found.below_noise is None
    assert found.neighbor_below_noise.tolist() == [[True], [False]]
    assert found.noise.tolist() == [0.5, 1e-9]


def test_files_without_noise_are_read_as_unknown_and_unmarked(tmp_path: Path) -> None:
    """What klmap wrote before it kept the error bars: the same format version, fewer datasets."""
    store.write_matrix(tmp_path / "m.h5", matrix())
    replace_dataset(tmp_path / "m.h5", "noise", None)
    found = store.read_matrix(tmp_path / "m.h5")
    assert found.noise.shape == (2,)
    assert np.isnan(found.noise).all()
    store.write_distances(tmp_path / "k.h5", distances())
    for name in ("noise", "below_noise", "neighbors/below_noise"):
        replace_dataset(tmp_path / "k.h5", name, None)
    old = store.read_distances(tmp_path / "k.h5")
    assert np.isnan(old.noise).all()
    assert old.below_noise is not None
    for marks, shape in ((old.below_noise, (2, 2)), (old.neighbor_below_noise, (2, 1))):
        assert (marks.shape, marks.dtype, marks.any()) == (shape, np.bool_, False)


def test_distances_without_components_are_read_and_written(tmp_path: Path) -> None:
    """What klmap wrote before it kept them."""
    path = tmp_path / "k.h5"
    store.write_distances(path, distances())
    replace_dataset(path, "pca", None)
    with h5py.File(path, "a") as file:
        for name in ("total_variance", "recall", "recall_sample"):
            del file.attrs[name]
    old = store.read_distances(path)
    names = ("pca_points", "pca_residual", "pca_variance", "total_variance", "recall")
    assert [getattr(old, name) for name in (*names, "recall_sample")] == [None] * 6
    store.write_distances(path, old)
    assert store.read_distances(path).pca_points is None


@pytest.mark.parametrize("name", ["pca/points", "pca/residual"])
def test_components_of_other_models_are_refused(tmp_path: Path, name: str) -> None:
    store.write_distances(tmp_path / "k.h5", distances())
    replace_dataset(tmp_path / "k.h5", name, np.zeros((3, 3), np.float32))
    with pytest.raises(InputError, match=rf"k\.h5: {name} is \(3, "):
        store.read_distances(tmp_path / "k.h5")


def larger(models: int = 700, texts: int = 90) -> store.Matrix:
    rng = np.random.default_rng(0)
    return store.Matrix(
        rng.normal(size=(models, texts)), rng.normal(size=(models, texts)).astype(np.float32),
        [f"m{row:04d}" for row in range(models)], ["x"] * texts, np.ones(texts, np.int32),
        0.02, -9.5, 2.0, "f" * 64, rng.normal(size=models),
    )  # fmt: skip


def test_a_matrix_is_read_by_ranges_of_rows(tmp_path: Path) -> None:
    made = larger()
    store.write_matrix(tmp_path / "m.h5", made)
    with store.open_matrix(tmp_path / "m.h5") as file:
        assert (file.model, file.domain) == (made.model, made.domain)
        assert (file.clip_threshold, file.mean_bytes, file.clip_quantile) == (-9.5, 2.0, 0.02)
        assert np.array_equal(file.noise, made.noise)
        for begin, end in ((0, 1), (3, 400), (699, 700), (650, 10_000), (0, 700)):
            assert np.array_equal(file.loglik(begin, end), made.loglik[begin:end])
            assert np.array_equal(file.coordinates(begin, end), made.coordinates[begin:end])
        assert file.loglik(0, 2).dtype == np.float64
        assert file.coordinates(0, 2).dtype == np.float32


def test_parts_that_are_written_give_the_file_that_the_whole_gives(tmp_path: Path) -> None:
    made = larger()
    store.write_matrix(tmp_path / "a.h5", made)
    with store.create_matrix(tmp_path / "b.h5", 700, 90) as file:
        for begin in range(0, 700, 33):
            file.write_loglik(begin, made.loglik[begin : begin + 33])
        assert np.array_equal(file.loglik(31, 35), made.loglik[31:35])
        for begin in range(0, 700, 50):
            file.write_coordinates(begin, made.coordinates[begin : begin + 50])
        file.describe(**vars(made))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


@pytest.mark.parametrize("error", [ValueError("mine"), OSError("mine"), KeyboardInterrupt()])
def test_errors_of_those_who_use_a_matrix_are_their_own(
    tmp_path: Path, error: BaseException
) -> None:
    """They are no fault of the file, and leave nothing behind."""
    store.write_matrix(tmp_path / "m.h5", matrix())
    with pytest.raises(type(error)) as caught, store.open_matrix(tmp_path / "m.h5"):
        raise error
    assert caught.value is error

    def write() -> None:
        with store.create_matrix(tmp_path / "n.h5", 2, 3) as file:
            file.write_loglik(0, np.zeros((2, 3)))
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert [item.name for item in tmp_path.iterdir()] == ["m.h5"]


def test_noise_of_another_shape_is_refused(tmp_path: Path) -> None:
    store.write_matrix(tmp_path / "m.h5", matrix())
    replace_dataset(tmp_path / "m.h5", "noise", np.zeros(3))
    with pytest.raises(InputError, match=r"m\.h5: noise is \(3,\), expected \(2,\)"):
        store.read_matrix(tmp_path / "m.h5")
    for name in ("noise", "below_noise", "neighbors/below_noise"):
        store.write_distances(tmp_path / "k.h5", distances())
        replace_dataset(tmp_path / "k.h5", name, np.zeros((3, 3), np.bool_))
        with pytest.raises(InputError, match=rf"k\.h5: {name} is \(3, 3\), expected"):
            store.read_distances(tmp_path / "k.h5")


@pytest.mark.parametrize("limit", [1_000, 50_000, 250_000])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, limit: int) -> None:
    """A file size limit makes writes fail the way a full disk does, also while closing."""
    path = tmp_path / "x.h5"
    store_score.write_score(path, score())
    before = path.read_bytes()
    code = f"""
        import resource, signal, sys
        from pathlib import Path
        from klmap import store_score
        from tests.test_store import score
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        big = score(20_000)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            store_score.write_score(Path({str(path)!r}), big)
        except OSError as error:
            print(error)
        else:
            sys.exit("the disk was not full")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is the disk full?" in done.stdout
    assert str(path) in done.stdout
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["x.h5"]


@pytest.mark.parametrize("limit", [3_000, 400_000, 700_000])
def test_full_disk_while_a_matrix_is_written_by_rows(tmp_path: Path, limit: int) -> None:
    """Whether it fills up at the first rows, at the coordinates or at the end."""
    path = tmp_path / "m.h5"
    code = f"""
        import resource, signal, sys
        from pathlib import Path
        from klmap import store
        from tests.test_store import larger
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        try:
            store.write_matrix(Path({str(path)!r}), larger())
        except OSError as error:
            print(error)
        else:
            sys.exit("the disk was not full")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "is the disk full?" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_killed_while_writing_leaves_no_file_under_the_name(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from pathlib import Path
        from klmap import store_score
        from tests.test_store import score
        def die(*arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        Path.replace = die
        store_score.write_score(Path({str(tmp_path / "x.h5")!r}), score())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "x.h5").exists()
