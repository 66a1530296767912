"""Which models are others in a lower precision: quantised, or in a shorter number format.

A rule of klmap's own, by what models.tsv says of them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from klmap.models_table import Model

QUANTIZATIONS = ("int8", "nf4", "fp4")
"""What weights are quantised to while loading, from the one that should cost least."""

DTYPES = ("float32", "float16", "bfloat16")
"""Number formats, from the most exact one."""

STORED = "stored"
"""Method of weights that are stored quantised where nothing tells how."""

_LADDER = (*DTYPES, *QUANTIZATIONS)
_PACKERS = re.compile(r"gptq|awq|hqq|aqlm|exl2|bnb|bitsandbytes|nf4|fp4|fp8")
_BITS = re.compile(r"(\d)[-_]?bits?\b|\bint(\d)\b|\bw(\d)a\d+\b")

_Group = tuple[str, str, str]
_Source = tuple[str, str]


@dataclass(frozen=True)
class Pair:
    """A model in a lower precision, and the same in full precision.

    Attributes:
        row: of the first.
        full: of the second.
        method: how precision was lowered: ``int8``, ``nf4+bfloat16``, ``float16``, ``gptq-4bit``.
    """

    row: int
    full: int
    method: str


def lowered(models: Sequence[Model]) -> list[Pair]:
    """All pairs of a model in a lower precision and the same one in full precision.

    Full precision is the row of the same source, prefix and handling of long texts that is not
    quantised, in the most exact number format; of weights that are stored quantised, that of their
    base model. Hidden states are left out.
    """
    groups: dict[_Group, list[int]] = defaultdict(list)
    for row, model in enumerate(models):
        if model.layer is None:
            groups[model.id, model.revision, _apart(model)[1]].append(row)
    full = {key: best for key, rows in groups.items() if (best := _full(models, rows)) is not None}
    sources: dict[_Source, list[int]] = defaultdict(list)
    for (id_, _, rest), row in full.items():
        sources[id_, rest].append(row)
    pairs = []
    for key, rows in groups.items():
        for row in rows:
            original, method = full.get(key), _method(models[row])
            if _is_stored(models[row]):
                original = _base(models, sources, models[row])
            elif original is not None and not _quantised(models[row]):
                # The same numbers under another name, or a plain row that is the less exact one.
                method = _dtype(models[row])
                method = "" if method == _dtype(models[original]) else method
            if original is not None and original != row and method:
                pairs.append(Pair(row, original, method))
    return sorted(pairs, key=lambda pair: pair.row)


def orphans(models: Sequence[Model], pairs: Collection[Pair]) -> list[int]:
    """Rows of quantised models without the same model in full precision."""
    paired = {pair.row for pair in pairs}
    return [
        row
        for row, model in enumerate(models)
        if model.layer is None and row not in paired and (_quantised(model) or _is_stored(model))
    ]


def ladder(methods: Collection[str]) -> list[str]:
    """Methods from the one that should cost least; those of unknown rank last, by name."""
    rank = {name: number for number, name in enumerate(_LADDER)}
    return sorted(methods, key=lambda name: (rank.get(name.partition("+")[0], 99), name))


def _apart(model: Model) -> tuple[list[str], str]:
    """Parts of a variant that are a precision, and all others."""
    parts = [part for part in model.variant.split("+") if part and part != "none"]
    precision = [part for part in parts if part in _LADDER]
    return precision, "+".join(part for part in parts if part not in _LADDER)


def _quantised(model: Model) -> bool:
    """Whether weights were quantised while loading."""
    return any(part in QUANTIZATIONS for part in _apart(model)[0])


def _is_stored(model: Model) -> bool:
    """Whether weights come quantised, from a model that is named."""
    return model.relation == "quantized" and bool(model.base_model) and not _quantised(model)


def _full(models: Sequence[Model], rows: Sequence[int]) -> int | None:
    """The most exact row of a group; the plainest of several."""

    def cost(row: int) -> tuple[int, int, str]:
        dtype = models[row].dtype
        exact = DTYPES.index(dtype) if dtype in DTYPES else len(DTYPES)
        return exact, len(_apart(models[row])[0]), models[row].model

    whole = [row for row in rows if not _quantised(models[row])]
    return min(whole, key=cost, default=None)


def _method(model: Model) -> str:
    """How the precision of a row was lowered; empty for a plain row."""
    precision = _apart(model)[0]
    if _is_stored(model):
        return "+".join([_stored(model.id), *precision])
    return "+".join(precision)


def _dtype(model: Model) -> str:
    """The number format of a row, as far as it is known."""
    return model.dtype or next((part for part in _apart(model)[0] if part in DTYPES), "")


def _stored(id_: str) -> str:
    """What the name of a repository tells of how its weights are stored."""
    name = id_.rpartition("/")[2].lower()
    packer, bits = _PACKERS.search(name), _BITS.search(name)
    parts = [packer[0]] if packer else []
    if bits:
        parts.append(f"{bits[1] or bits[2] or bits[3]}bit")
    return "-".join(parts) or STORED


def _base(
    models: Sequence[Model], sources: Mapping[_Source, Sequence[int]], model: Model
) -> int | None:
    """The row in full precision of the first base model that is there."""
    rest = _apart(model)[1]
    for base in model.base_model:
        id_, _, revision = base.partition("@")
        found = [
            row
            for row in sources.get((id_, rest), ())
            if not revision or models[row].revision == revision
        ]
        found = [row for row in found if not _is_stored(models[row])]
        if found:
            return max(found, key=lambda row: (models[row].step, not models[row].revision, -row))
    return None
