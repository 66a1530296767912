"""Pickles of others, read without running what they ask for.

A pickle is a program: reading one with Python's own ``pickle`` runs whatever its author wrote. Here
plain containers, numbers, strings and numpy arrays of them are read, and everything else is
refused by name. The few functions that a pickled array calls are replaced by stand-ins, so that
nothing of numpy, whose own ones trust their arguments, sees what a file says before it is checked.
"""

from __future__ import annotations

import math
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO, NoReturn, cast

import numpy as np
import numpy.typing as npt

from klmap.errors import InputError

DEEPEST = 32
"""Containers within containers; a release has three."""

LONGEST_SCALAR = 4096
"""Bytes of a single text of numpy; each use of its bytes is a copy of them."""

_DTYPE = re.compile(r"(?:[?]|b1|[iu][1248]|f[248]|[SU]\d{1,6})")
_MOST_DIMENSIONS = 32
_LONGEST_AXIS = 2**48
_MODULES = ("numpy.core", "numpy._core")
_PLAIN = (str, bytes, bytearray, int, float, bool, type(None))
_ELSEWHERE = "ask for the numbers as .npy, .csv or .h5, which hold no programs"
_HINTS = {
    "collections": "have it saved again as a plain dict",
    "pandas": "have it saved again as .csv, or as a plain dict",
    "_codecs": "have it saved again with protocol 4 or later",
    "builtins": "have it saved again as plain dicts, lists, numbers and strings",
}


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain containers, numbers, strings and numpy arrays.

    Args:
        path: the file, of protocol 3 or later (sets from 4 on), by numpy 1 or 2.

    Returns:
        Dictionaries, lists, tuples, sets, strings, bytes, numbers, None, and read-only arrays of
        numbers, truth values or strings; scalars of numpy become Python's. Keys of dictionaries and
        members of sets are strings, bytes, numbers or truth values.

    Raises:
        InputError: the file is missing, is no pickle, is truncated, or holds anything else; nothing
            of it was run.
    """
    try:
        with path.open("rb") as file:
            _Scan(path).check(file)
            file.seek(0)
            return _Result(path).plain(_Unpickler(path, file).load())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise InputError(
            f"{path}: not a pickle, or truncated ({reason}); compare its sha256 with the published "
            "one and fetch it again"
        ) from None


def shown(value: Any) -> str:
    """A value as messages show it; of all but short ones only the type.

    A list that holds another one twice, and so on, is small and its text is endless.
    """
    if isinstance(value, str):
        return repr(value[:40])
    if isinstance(value, (bool, float, type(None))):
        return str(value)
    if isinstance(value, int) and abs(value) < 2**63:
        return str(value)
    return f"a {type(value).__name__}"


_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)
"""What reading a broken pickle raises."""


_INTEGERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_KEYS = (
    *("NEWTRUE", "NEWFALSE", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "REDUCE"),
)
"""Instructions whose values may be keys. What a call makes is a number or text of numpy, or one of
the stand-ins below, which are refused later."""


class _Scan:
    """Goes through the instructions of a pickle without following them.

    What must be refused before a pickle is read: the memo of an unpickler is an array, and a single
    number makes it as long as all memory. And a key is hashed at once; the hash of a tuple goes
    through all that is in it, however often it is the same, and ends Python where it is too deep.
    Of each value on the stack this therefore knows whether it may be a key.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[bool] = []
        self.marks: list[int] = []
        self.memo: dict[int, bool] = {}

    def check(self, file: BinaryIO) -> None:
        """Raise what speaks against reading the file."""
        if not file.seek(0, 2):
            raise ValueError("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            codes = pickletools.genops(cast("IO[bytes]", data))
            for count, (code, argument, _) in enumerate(codes):
                if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
                    raise ValueError(f"its memo would hold {argument:,} values")
                self._follow(code, argument)

    def _follow(self, code: pickletools.OpcodeInfo, argument: Any) -> None:
        """What an instruction does to the stack."""
        name, stack = code.name, self.stack
        if name == "MARK":
            self.marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            [top] = self._pop(1)
            stack.append(top)
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = top
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[int(argument)])
        elif name == "DUP":
            stack += self._pop(1) * 2
        elif name == "POP" and self.marks and self.marks[-1] == len(stack):
            self.marks.pop()
        else:
            self._replace(code, argument)

    def _replace(self, code: pickletools.OpcodeInfo, argument: Any) -> None:
        """An instruction that takes values from the stack and puts others there."""
        name, before = code.name, code.stack_before
        items: list[bool] = []
        count = len(before)
        if pickletools.markobject in before:
            mark = self.marks.pop()
            items = self.stack[mark:]
            del self.stack[mark:]
            count = before.index(pickletools.markobject)
        taken = self._pop(count)
        if name == "SETITEM":
            items = taken[1:]
        if not all(items[::2] if name in ("SETITEM", "SETITEMS", "DICT") else items) and (
            name in ("SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET")
        ):
            raise InputError(
                f"{self.path}: has a key of a dict, or a member of a set, that is no text, number "
                f"or truth value; {_ELSEWHERE}"
            )
        if name in _INTEGERS:
            # Longer ones can be made to have one hash all.
            after = [abs(argument) < 2**63]
        elif name in ("BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS"):
            after = taken[:1]
        else:
            after = [name in _KEYS] * len(code.stack_after)
        self.stack += after

    def _pop(self, count: int) -> list[bool]:
        """The last values on the stack, of those behind the last mark."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("an instruction lacks its values")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds nothing but the stand-ins."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        super().__init__(file, fix_imports=False)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for what an array needs; refuses all else."""
        makers: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): _no_call,
            ("numpy", "dtype"): self._dtype,
        }
        for package in _MODULES:
            makers[f"{package}.multiarray", "_reconstruct"] = self._reconstruct
            makers[f"{package}.multiarray", "scalar"] = self._scalar
            makers[f"{package}.numeric", "_frombuffer"] = self._frombuffer
        found = makers.get((module, name))
        if found is None:
            hint = _HINTS.get(str(module).partition(".")[0], _ELSEWHERE)
            self._refuse(f"it asks for {module}.{name}", hint)
        return _Function((module, name), found)

    def persistent_load(self, _: Any) -> NoReturn:
        """Refuse what a pickle says to lie elsewhere."""
        self._refuse("it refers to data outside of itself (a persistent id)", _ELSEWHERE)

    def _refuse(self, what: str, fix: str) -> NoReturn:
        raise InputError(
            f"{self.path}: {what}; only plain dicts, lists, numbers, strings and numpy arrays are "
            f"read, because a pickle can run any program. Nothing was run: {fix}"
        )

    def _dtype(self, code: Any, *_: Any) -> _Dtype:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            shown = repr(code[:40]) if isinstance(code, str) else "that is none"
            self._refuse(f"it has an array of dtype {shown}", _ELSEWHERE)
        return _Dtype(np.dtype(code))

    def _reconstruct(self, kind: Any, *_: Any) -> _Array:
        if not isinstance(kind, _Function) or kind.name != ("numpy", "ndarray"):
            self._refuse("it has an array that is no plain numpy.ndarray", _ELSEWHERE)
        return _Array()

    def _frombuffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        array = _Array()
        array.values = _array(data, dtype, shape, order)
        return array

    def _scalar(self, dtype: Any, data: Any = None) -> Any:
        if isinstance(data, (bytes, bytearray)) and len(data) > LONGEST_SCALAR:
            raise ValueError(f"a single value of {len(data):,} bytes")
        return _array(data, dtype, (), "C").item()


def _no_call(*_: Any) -> NoReturn:
    raise ValueError("an array that is made in an unknown way")


class _Function:
    """What stands in for a function; a pickle can call it, and change nothing of it."""

    __slots__ = ("make", "name")

    def __init__(self, name: tuple[str, str], make: Callable[..., Any]) -> None:
        self.name, self.make = name, make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise ValueError("a function that is changed")


class _Dtype:
    """What stands in for ``numpy.dtype`` until an array is made of it."""

    __slots__ = ("value",)

    def __init__(self, value: np.dtype[Any]) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        """Take the byte order; refuse fields, subarrays and notes, which plain numbers lack."""
        version, order, subarray, names, fields, *rest = state
        if version != 3 or order not in ("<", ">", "|", "="):
            raise ValueError("a dtype of an unknown version")
        if subarray is not None or names is not None or fields is not None or len(rest) != 3:
            raise ValueError("a dtype with fields or notes")
        self.value = self.value.newbyteorder(order)


class _Array:
    """What stands in for ``numpy.ndarray`` until all is read."""

    __slots__ = ("values",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.values: npt.NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, fortran, data = state
        if version != 1 or self.values is not None:
            raise ValueError("an array of an unknown version")
        self.values = _array(data, dtype, shape, "F" if fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    """An array over bytes of the file, if they are as many as its shape says."""
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _Dtype):
        raise ValueError("an array of something else than bytes")
    if (
        not isinstance(shape, tuple)
        or len(shape) > _MOST_DIMENSIONS
        or not all(type(n) is int and 0 <= n < _LONGEST_AXIS for n in shape)
    ):
        raise ValueError("an array whose shape is none")
    if len(data) != math.prod(shape) * dtype.value.itemsize or order not in ("C", "F"):
        raise ValueError(f"an array of shape {str(shape)[:40]} with {len(data):,} bytes")
    values = np.frombuffer(data, dtype.value) if data else np.zeros(0, dtype.value)
    values = values.reshape(shape, order=order)
    values.flags.writeable = False
    return values


class _Result:
    """Puts arrays in the place of their stand-ins, and refuses whatever else is left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, Any] = {}
        """By the id of a container what has become of it; None while it is worked at."""

    def plain(self, value: Any, depth: int = 0) -> Any:
        """The value itself; each container is gone through once, however often it occurs."""
        if type(value) in _PLAIN:
            return value
        if isinstance(value, _Array) and value.values is not None:
            return value.values
        if type(value) not in (dict, list, tuple, set, frozenset):
            raise InputError(f"{self.path}: holds a function, or half an array; {_ELSEWHERE}")
        known = self.done.get(id(value), value)
        if known is None or depth == DEEPEST:
            raise InputError(
                f"{self.path}: holds a container within itself, or more than {DEEPEST} within each "
                f"other; {_ELSEWHERE}"
            )
        if known is value:
            self.done[id(value)] = None
            self.done[id(value)] = self._container(value, depth + 1)
        return self.done[id(value)]

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            pairs = value.items()
            return {self.plain(key, depth): self.plain(item, depth) for key, item in pairs}
        return type(value)(self.plain(item, depth) for item in value)
