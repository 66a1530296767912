"""Which models a comparison means: names, ids and families, found on the map or explained."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from klmap.benchmarks import rows_by_id
from klmap.config_models import final_revision
from klmap.errors import InputError
from klmap.log import logger
from klmap.models_table import Model

FAMILY = "family:"
"""In front of a family's name where a model's would stand: all models of the family."""

_KEY = "analyses.contrast.comparisons"


@dataclass(frozen=True)
class Groups:
    """Which models are compared.

    Attributes:
        name: of the comparison.
        first: rows of models.tsv, ascending.
        second: rows of the other group; empty where the pairs within the first are meant.
        labels: what the two groups were called.
    """

    name: str
    first: tuple[int, ...]
    second: tuple[int, ...] = ()
    labels: tuple[str, str] = ("first", "second")

    @property
    def pairs(self) -> int:
        """Pairs of different models that the KL is a mean over."""
        if not self.second:
            return len(self.first) * (len(self.first) - 1) // 2
        return len(self.first) * len(self.second) - len({*self.first} & {*self.second})


def find(comparisons: str, models: Sequence[Model]) -> list[Groups]:
    """The rows of the models that each comparison names.

    An item is a model's name on the map, or an id, or ``family:NAME``. An id stands for the model
    whose name is made from it; without one, for the last checkpoint of its plainest variant. A
    model of both groups is not paired with itself.

    Args:
        comparisons: JSON, ``{"name": {"first": [items], "second": [items] or null}}``.
        models: rows of models.tsv.

    Raises:
        InputError: no such model or family, an id of several models, one model alone, or two
            groups of the same models.
    """
    try:
        wanted = json.loads(comparisons)
        items = [
            (str(name), list(groups["first"]), list(groups.get("second") or ()))
            for name, groups in wanted.items()
        ]
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"--comparisons: {error!r}; expected JSON of names, each with first and second, a "
            "list of models each"
        ) from None
    return [_groups(name, first, second, models) for name, first, second in items]


def one(item: str, models: Sequence[Model], place: str) -> int:
    """The row of the one model that a name or an id means, as in :func:`find`.

    Args:
        item: a model's name on the map, or an id.
        models: rows of models.tsv.
        place: key of config.yaml that names it, for the message.

    Raises:
        InputError: no such model, or an id of several.
    """
    return _of_name(item, models, place)[0]


def _groups(
    name: str, first: Sequence[Any], second: Sequence[Any], models: Sequence[Model]
) -> Groups:
    place = f"{_KEY}.{name}"
    found = Groups(
        name,
        _rows(first, models, f"{place}.first"),
        _rows(second, models, f"{place}.second"),
        (_label(first), _label(second)),
    )
    if not found.first:
        raise InputError(f"{place}.first: no models; name one, or {FAMILY}NAME")
    if not found.second and len(found.first) < 2:
        raise InputError(
            f"{place}: {models[found.first[0]].model} alone has no distance; name another model "
            "under second, or more under first"
        )
    if found.first == found.second:
        raise InputError(
            f"{place}: first and second are the same ({len(found.first)} of the map's models); "
            "leave second out for the distances within a group"
        )
    both = len({*found.first} & {*found.second})
    if both:
        logger.warning("%s: %d in both groups, not paired with themselves", name, both)
    return found


def _label(items: Sequence[Any]) -> str:
    return ", ".join(str(item).removeprefix(FAMILY) for item in items)


def _rows(items: Sequence[Any], models: Sequence[Model], place: str) -> tuple[int, ...]:
    rows = {row for item in items for row in _matching(str(item), models, place)}
    return tuple(sorted(rows))


def _matching(item: str, models: Sequence[Model], place: str) -> list[int]:
    """Rows of one item of a group."""
    if item.startswith(FAMILY):
        family = item.removeprefix(FAMILY)
        rows = [row for row, model in enumerate(models) if model.family == family]
        if not rows:
            raise InputError(
                f"{place}: no family {family!r} on this map"
                f"{_close(family, sorted({model.family for model in models}))}"
            )
        return rows
    return _of_name(item, models, place)


def _of_name(item: str, models: Sequence[Model], place: str) -> list[int]:
    """The row of the model that a name or an id means."""
    rows = [row for row, model in enumerate(models) if model.model == item]
    if not rows:
        rows = rows_by_id(models).get(item, [])
        plain = min((models[row].variant for row in rows), default="")
        rows = [row for row in rows if models[row].variant == plain]
        last = max((models[row].step for row in rows), default=0)
        rows = [row for row in rows if models[row].step == last]
        end = final_revision({models[row].revision for row in rows})
        rows = [row for row in rows if end is None or models[row].revision == end]
    if len(rows) > 1:
        raise InputError(
            f"{place}: {item!r} is the id of {len(rows)} models of this map; use the name of the "
            f"one that is meant: {', '.join(models[row].model for row in rows)}"
        )
    if not rows:
        names = [model.model for model in models] + [model.id for model in models]
        raise InputError(
            f"{place}: no model {item!r} on this map{_close(item, names)}; names and ids are in "
            "models.tsv, and models that failed in failures.tsv"
        )
    return rows


def _close(item: str, names: Sequence[str]) -> str:
    """The names most like one that is not there, as the end of a sentence."""
    lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(item.lower(), list(lower), 3, 0.4)
    if found:
        return "; did you mean " + " or ".join(repr(lower[name]) for name in found) + "?"
    return f"; there are {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"
