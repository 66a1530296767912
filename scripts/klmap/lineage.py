"""Who comes from whom: checkpoints of one training run, and fine-tunes and merges of parents."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from klmap.models_table import Model


@dataclass(frozen=True)
class Run:
    """The checkpoints of one training run.

    Attributes:
        id: the id that all of them share.
        variant: the variant that all of them share, for example ``int8``.
        rows: their rows in the order of training, at least two.
    """

    id: str
    variant: str
    rows: tuple[int, ...]


def runs(models: Sequence[Model]) -> list[Run]:
    """All training runs with at least two checkpoints on the map.

    Checkpoints are ordered by the step that their revision names; the default revision, which
    names none, is the end of the training.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, model in enumerate(models):
        groups[model.id, model.variant].append(row)
    return [
        Run(id_, variant, tuple(sorted(rows, key=lambda row: _order(models[row]))))
        for (id_, variant), rows in sorted(groups.items())
        if len(rows) > 1
    ]


def parents(models: Sequence[Model]) -> list[tuple[int, int]]:
    """Rows of (parent, child) for every base model that is on the map itself.

    The parent is the last checkpoint of the id that the child's card names (or the revision, where
    it names one), in the child's variant if there is one. Of a child with several
    checkpoints or variants only the first and plainest row counts.
    """
    by_id: dict[str, list[int]] = defaultdict(list)
    for row, model in enumerate(models):
        by_id[model.id].append(row)
    pairs = []
    for rows in by_id.values():
        child = min(rows, key=lambda row: (models[row].variant, _order(models[row])))
        for base in models[child].base_model:
            parent = _parent(models, by_id, base, models[child].variant)
            if parent is not None and models[parent].id != models[child].id:
                pairs.append((parent, child))
    return sorted(pairs)


def short_names(models: Sequence[Model]) -> list[str]:
    """Names for labels: without the organisation where they stay different without it."""
    short = [model.model.partition("--")[2] or model.model for model in models]
    count = Counter(short)
    return [
        name if count[name] == 1 else model.model for name, model in zip(short, models, strict=True)
    ]


def checkpoint_name(model: Model) -> str:
    """What sets a checkpoint apart from the others of its run: ``step20``, or ``final``."""
    return model.revision or "final"


def _order(model: Model) -> tuple[float, str, str]:
    return (math.inf if not model.revision else model.step, model.revision or "~", model.model)


def _parent(
    models: Sequence[Model], by_id: dict[str, list[int]], base: str, variant: str
) -> int | None:
    rows = by_id.get(base, [])
    if not rows and "@" in base:
        id_, _, revision = base.rpartition("@")
        rows = [row for row in by_id.get(id_, []) if models[row].revision == revision]
    if not rows:
        return None
    same = [row for row in rows if models[row].variant == variant]
    return max(same or rows, key=lambda row: _order(models[row]))
