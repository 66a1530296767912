"""Pickles of others: numbers come out, programs do not run."""

from __future__ import annotations

import collections
import copyreg
import datetime
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from klmap.errors import InputError
from klmap.pickles import DEEPEST, read_pickle

VALUES = {
    "org/one": np.array([-1.5, -2.25, -1e300]),
    "org/two": np.arange(6, dtype=np.float32).reshape(2, 3),
    "turned": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "big-endian": np.array([1.0, 2.0], ">f8"),
    "names": np.array(["a", "bcd"]),
    "bytes": np.array([b"a", b"bcd"]),
    "truth": np.array([True, False]),
    "none": np.zeros(0),
    "point": np.array(3.5),
}
PLAIN = {
    "list": [1, -2.5, True, None, "word", b"bytes", 2**200],
    "nested": [({"a": {1, 2}}, frozenset({3}), ()), []],
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(tmp_path: Path, value: Any, protocol: int = 4) -> str:
    """What is said of a pickle; ``value`` is its bytes, or what is pickled."""
    data = value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol)
    with pytest.raises(InputError) as error:
        read_pickle(write(tmp_path / "hostile.pkl", data))
    assert "hostile.pkl" in str(error.value)
    return str(error.value)


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """A pickle that calls a function; arguments are instructions that push one value each."""
    asked = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    return b"\x80\x04" + asked + b"\x93(" + b"".join(arguments) + b"tR."


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def as_numpy_1(data: bytes) -> bytes:
    """The same pickle, of protocol 4 and one frame, as numpy before 2.0 writes it."""
    assert data[2] == 0x95
    body = data[11:]
    for name in (b"multiarray", b"numeric"):
        word = b"numpy._core." + name
        new = b"numpy.core." + name
        body = body.replace(bytes([len(word)]) + word, bytes([len(new)]) + new)
    return data[:3] + struct.pack("<Q", len(body)) + body


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_numbers_and_containers_come_out_as_they_went_in(tmp_path, protocol):
    given = PLAIN if protocol > 3 else PLAIN["list"]  # which makes sets by a call
    path = write(tmp_path / "a.pkl", pickle.dumps([VALUES, given], protocol=protocol))
    arrays, plain = read_pickle(path)
    assert plain == given
    assert list(arrays) == list(VALUES)
    for name, expected in VALUES.items():
        assert arrays[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(arrays[name], expected)
        assert type(arrays[name]) is np.ndarray


@pytest.mark.parametrize("protocol", [4, 5])
def test_both_names_of_the_modules_of_numpy_are_known(tmp_path, protocol):
    new = pickle.dumps({"m": VALUES["org/one"], "s": np.float64(2.5)}, protocol=protocol)
    old = as_numpy_1(new)
    assert b"_core" in new
    assert b"_core" not in old
    for data in (new, old):
        found = read_pickle(write(tmp_path / "a.pkl", data))
        np.testing.assert_array_equal(found["m"], VALUES["org/one"])
        assert found["s"] == 2.5
        assert type(found["s"]) is float


def test_scalars_of_numpy_become_those_of_python(tmp_path):
    given = [np.float32(1.5), np.int16(-3), np.bool_(True), np.str_("word"), np.float64("nan")]
    found = read_pickle(write(tmp_path / "a.pkl", pickle.dumps(given)))
    assert [type(value) for value in found] == [float, int, bool, str, float]
    assert found[:4] == [1.5, -3, True, "word"]
    assert np.isnan(found[4])


def test_what_occurs_twice_is_one_thing(tmp_path):
    shared = np.arange(3.0)
    found = read_pickle(write(tmp_path / "a.pkl", pickle.dumps([shared, [shared], {"a": shared}])))
    assert found[0] is found[1][0] is found[2]["a"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("importlib", "import_module"),
        ("subprocess", "Popen"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "testing.measure"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy._core.multiarray", "_reconstruct.__class__"),
        ("numpy._core.multiarray", "scalar.__self__"),
        ("numpy._core.multiarray", "fromfile"),
        ("klmap.pickles", "Path"),
        ("klmap.pickles", "pickle.loads"),
    ],
)
def test_nothing_is_looked_up_but_what_an_array_needs(tmp_path, module, name):
    marker = tmp_path / "marker"
    data = call(module, name, text(f"touch {marker}"))
    found = refusal(tmp_path, data)
    assert f"{module}.{name}" in found
    assert "Nothing was run" in found
    assert not marker.exists()


def test_a_program_does_not_run(tmp_path):
    marker = tmp_path / "marker"
    command = f"touch {marker}"
    for value in (
        Calls(os.system, command),
        [VALUES, Calls(os.system, command)],
        {"model": Calls(eval, f"open({str(marker)!r}, 'w')")},
        Calls(map, os.system, [command]),
    ):
        for protocol in (2, 3, 4, 5):
            refusal(tmp_path, value, protocol)
    assert not marker.exists()
    # The pickle does what it is made for where nothing stands in its way.
    pickle.loads(pickle.dumps(Calls(os.system, command)))
    assert marker.exists()


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (collections.defaultdict(list), "collections.defaultdict"),
        (pd.DataFrame({"a": [1.0]}), "pandas"),
        (pd.Timestamp("2024-04-20"), "pandas"),
        (datetime.datetime(2024, 4, 20), "datetime.datetime"),
        (Calls(copyreg._reconstructor, object, object, None), "copyreg._reconstructor"),
        (np.array([1, "a", None], object), "dtype 'O8'"),
        (np.array([Calls(os.system, "true")], object), "dtype 'O8'"),
        (np.zeros(2, [("a", "f8")]), "dtype 'V8'"),
        (np.array(["2024-04-20"], "M8[s]"), "dtype 'M8'"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "numpy.ma"),
        (np.recarray(1, "f8"), "numpy.rec.recarray"),
        (np.longdouble(1), "dtype 'f16'"),
        (Path("a"), "pathlib"),
        (slice(1), "builtins.slice"),
    ],
)
def test_other_objects_are_refused_by_name(tmp_path, value, word):
    found = refusal(tmp_path, value)
    assert word in found
    assert "only plain dicts, lists, numbers, strings and numpy arrays are read" in found


def test_a_refusal_says_what_to_do(tmp_path):
    assert "have it saved again as a plain dict" in refusal(tmp_path, collections.OrderedDict())
    assert ".csv" in refusal(tmp_path, pd.DataFrame({"a": [1.0]}))
    assert ".npy, .csv or .h5" in refusal(tmp_path, Calls(os.system, "true"))


# Instructions that push numpy's parts: the function, numpy.ndarray, a dtype in its first state.
MAKE = text("numpy._core.multiarray") + text("_reconstruct") + b"\x93"
NDARRAY = text("numpy") + text("ndarray") + b"\x93"
DTYPE = text("numpy") + text("dtype") + b"\x93"
F8 = DTYPE + b"(" + text("f8") + b"\x89\x88tR"
ARRAY = MAKE + b"(" + NDARRAY + b"(K\x00tC\x01btR"
EIGHT = b"C\x08" + bytes(8)


def state(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    return b"(K\x01(" + shape + b"t" + dtype + b"\x89" + data + b"tb"


def test_the_parts_of_these_tests_make_an_array(tmp_path):
    data = b"\x80\x04" + ARRAY + state(b"K\x01", F8, EIGHT) + b"."
    assert read_pickle(write(tmp_path / "a.pkl", data)).tolist() == [0.0]


@pytest.mark.parametrize(
    "program",
    [
        # attributes of the function, of numpy.ndarray, of a dtype, of a dict
        MAKE + b"}" + text("make") + b"K\x01sb",
        MAKE + b"N}" + text("__defaults__") + b"K\x01s\x86b",
        NDARRAY + b"}" + text("__reduce__") + b"K\x01sb",
        F8 + b"}" + text("value") + b"K\x01sb",
        b"}}" + text("a") + b"K\x01sb",
        # an array of something else than numpy.ndarray, or made directly
        MAKE + b"(" + DTYPE + b"(K\x00tC\x01btR",
        NDARRAY + b"(K\x05tR",
        NDARRAY + b")\x81",
        # a dtype with fields, with notes, of Python objects, of another name
        F8 + b"(K\x03X\x01\x00\x00\x00<NN}NNNtb",
        F8 + b"(K\x04X\x01\x00\x00\x00<NNNK\x08K\x08K\x00}tb",
        DTYPE + b"(" + text("O8") + b"\x89\x88tR",
        DTYPE + b"(" + text("f8,O") + b"\x89\x88tR",
        DTYPE + b"(" + NDARRAY + b"\x89\x88tR",
        # shapes that the bytes do not fill, that are negative, that are no numbers
        ARRAY + state(b"J\xff\xff\xff\x7f", F8, EIGHT),
        ARRAY + state(b"J\xff\xff\xff\xff", F8, EIGHT),
        ARRAY + state(b"G" + struct.pack(">d", 1.0), F8, EIGHT),
        ARRAY + state(b"\x88", F8, EIGHT),
        ARRAY + state(b"K\x01", F8, b"]K\x01a"),
        ARRAY + state(b"K\x01", text("f8"), EIGHT),
        # an array changed after it was made
        ARRAY + state(b"K\x01", F8, EIGHT) + state(b"K\x01", F8, EIGHT),
        # an array that never was filled, a function as a value
        ARRAY,
        b"]" + MAKE + b"a",
        b"}" + text("a") + F8 + b"s",
        # data elsewhere, registered extensions
        b"Pname\n",
        b"K\x01Q",
        b"\x82\x01",
        b"\x97",
    ],
)
def test_the_parts_of_an_array_serve_for_nothing_else(tmp_path, program):
    refusal(tmp_path, b"\x80\x04" + program + b".")
    # And nothing of it stays: the next file is read as ever.
    test_the_parts_of_these_tests_make_an_array(tmp_path)


def test_a_list_within_itself_and_one_too_deep_are_refused(tmp_path):
    endless: list[Any] = [1]
    endless += [endless, endless]
    assert "within itself" in refusal(tmp_path, endless)
    deep: list[Any] = []
    for _ in range(DEEPEST):
        deep = [deep]
    assert f"more than {DEEPEST}" in refusal(tmp_path, deep)
    assert read_pickle(write(tmp_path / "a.pkl", pickle.dumps(deep[0])))


def test_shared_lists_are_gone_through_once(tmp_path):
    value: list[Any] = [1]
    for _ in range(DEEPEST - 2):
        value = [value, value, value, value]
    assert read_pickle(write(tmp_path / "a.pkl", pickle.dumps(value)))[0][0][0]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04K\x01r\xff\xff\xff\xff.",
        b"\x80\x04K\x01p4294967295\n.",
        b"\x80\x04B\xff\xff\xff\xffab.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fab.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x0fK\x01.",
    ],
)
def test_a_number_does_not_fill_the_memory(tmp_path, data):
    refusal(tmp_path, data)


def shared_tuples(depth: int) -> bytes:
    """A tuple that holds another one twice, and so on."""
    return b"X\x01\x00\x00\x00x" + b"2\x86" * depth


# Programs that use a value as a key: directly, from the memo, behind marks that are taken back.
KEYED = [
    b"}%bK\x01s.",
    b"}(K\x01K\x02%bK\x01u.",
    b"(%bK\x01d.",
    b"\x8f(K\x01%b\x90.",
    b"(K\x01%b\x91.",
    b"}%b\x940h\x00K\x01s.",
    b"}K\x07q\x000%bq\x010h\x01K\x01s.",
    b"}(1%bK\x01s.",
    b"}(0%bK\x01s.",
]


@pytest.mark.parametrize("key", [shared_tuples(60), b"N" + b"\x85" * 200_000, b")", b"N", b"(l"])
def test_only_texts_and_numbers_are_keys(tmp_path, key):
    # Python would hash it at once: for ever, or until it crashes.
    for program in KEYED:
        found = refusal(tmp_path, b"\x80\x04" + program % key)
        assert "a key of a dict, or a member of a set, that is no text, number" in found


@pytest.mark.parametrize("program", KEYED)
def test_the_programs_of_these_tests_use_keys(tmp_path, program):
    path = write(tmp_path / "a.pkl", b"\x80\x04" + program % b"K\x05")
    assert 5 in read_pickle(path)


def test_keys_of_all_plain_kinds_are_read(tmp_path):
    given = [
        {"a": 1, b"b": 2, 3: 4, 2.5: 5, True: 6, -(2**62): 7, "shared": 8},
        {"shared": 9},
        {1, 2, "a"},
        frozenset({b"x"}),
        {np.str_("scalar"): 1, np.int64(5): 2},
    ]
    for protocol in (4, 5):
        path = write(tmp_path / "a.pkl", pickle.dumps(given, protocol=protocol))
        assert read_pickle(path) == given


def test_numbers_that_could_share_one_hash_are_no_keys(tmp_path):
    refusal(tmp_path, {k * (2**61 - 1): 0 for k in range(100)})


def test_tuples_that_are_no_keys_may_be_shared_and_not_deep(tmp_path):
    pair = (1, 2)
    given = [(pair, 3), (pair, 4), {"a": (pair, pair)}]
    assert read_pickle(write(tmp_path / "a.pkl", pickle.dumps(given))) == given
    deep = b"\x80\x04N" + b"\x85" * 200_000 + b"."
    assert f"more than {DEEPEST}" in refusal(tmp_path, deep)


def test_a_shape_or_a_text_of_numpy_does_not_fill_the_memory(tmp_path):
    large = b"\x8b" + struct.pack("<i", 100_000) + b"\x7f" * 100_000
    many = large + b"\x940" + b"h\x00" * 20_000
    refusal(tmp_path, b"\x80\x04" + ARRAY + state(many, F8, EIGHT) + b".")
    refusal(tmp_path, b"\x80\x04" + ARRAY + state(b"K\x01" * 100, F8, EIGHT) + b".")
    refusal(tmp_path, [np.str_("x" * 100_000)])


@pytest.mark.parametrize(
    "data", [b"", b".", b"model,a,b\n", b"\x89HDF\r\n", b"\x80\x04", b"\x80\x09N."]
)
def test_what_is_no_pickle_is_said_to_be_none(tmp_path, data):
    assert "not a pickle, or truncated" in refusal(tmp_path, data)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.pkl: no such file"):
        read_pickle(tmp_path / "none.pkl")


def test_every_beginning_of_a_pickle_is_refused(tmp_path):
    data = pickle.dumps({"a": VALUES["org/one"], "b": [1, "word", np.float64(2)]})
    for end in range(len(data)):
        refusal(tmp_path, data[:end])


def test_whatever_bytes_come_there_is_a_value_or_a_refusal(tmp_path):
    generator = random.Random(0)
    data = pickle.dumps({"a": VALUES["org/one"], "b": [1, "word", np.float64(2)]})
    read = 0
    for _ in range(3000):
        changed = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(len(data))] = generator.randrange(256)
        try:
            read_pickle(write(tmp_path / "changed.pkl", bytes(changed)))
            read += 1
        except InputError:
            continue
    assert 0 < read < 3000
