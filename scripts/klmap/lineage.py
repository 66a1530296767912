"""Who comes from whom: checkpoints of one training run, and fine-tunes and merges of parents."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from klmap.config_models import final_revision
from klmap.models_table import Model


@dataclass(frozen=True)
class Run:
    """The checkpoints of one training run, or the layers of one model.

    Attributes:
        id: the id that all of them share.
        variant: the variant that all of them share, for example ``int8``.
        rows: their rows in the order of training, or of layers, at least two.
    """

    id: str
    variant: str
    rows: tuple[int, ...]


def last(models: Sequence[Model], rows: Sequence[int]) -> int:
    """Of some rows of one id that of the final weights, else of the last step, else any.

    Args:
        models: all rows.
        rows: those to choose from, at least one. The same row whatever their order.
    """
    end = _end(models, rows)

    def order(row: int) -> tuple[bool, float, str, str]:
        model = models[row]
        step = model.step if math.isfinite(model.step) else -1.0
        return (model.revision == end, step, model.revision, model.model)

    return max(rows, key=order)


def runs(models: Sequence[Model]) -> list[Run]:
    """All training runs with at least two checkpoints on the map.

    Checkpoints are ordered by the step that their revision names; the final weights, as far as it
    can be told which these are, come last. Other revisions without a step are left out.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row, model in enumerate(models):
        groups[model.id, model.variant].append(row)
    found = []
    for (id_, variant), rows in sorted(groups.items()):
        end = _end(models, rows)
        own = [
            row for row in rows if math.isfinite(models[row].step) or models[row].revision == end
        ]
        if len(own) > 1:
            found.append(Run(id_, variant, tuple(sorted(own, key=lambda row: _order(models[row])))))
    return found


def layers(models: Sequence[Model]) -> list[Run]:
    """Hidden states of one model in their order, and the model itself where it is on the map."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for row, model in enumerate(models):
        own = f"layer{model.layer}"
        variant = "+".join(part for part in model.variant.split("+") if part != own)
        groups[model.id, model.revision, variant].append(row)
    found = []
    for (id_, _, variant), rows in sorted(groups.items()):
        inside = [row for row in rows if models[row].layer is not None]
        whole = [row for row in rows if models[row].layer is None][:1]
        inside.sort(key=lambda row: (models[row].layer or 0, row))
        if inside and len(inside + whole) > 1:
            found.append(Run(id_, variant, (*inside, *whole)))
    return found


def ways(models: Sequence[Model]) -> list[Run]:
    """What a map joins by lines: checkpoints of a training run, and layers of a model."""
    return [*runs(models), *layers(models)]


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
        child = _first(models, rows)
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
    """What sets a row apart from the others of its run: ``step20``, ``final``, ``layer3``."""
    return model.revision or "final" if model.layer is None else f"layer{model.layer}"


def _order(model: Model) -> tuple[float, str, str]:
    return (model.step, model.revision, model.model)


def _end(models: Sequence[Model], rows: Sequence[int]) -> str | None:
    return final_revision({models[row].revision for row in rows})


def _first(models: Sequence[Model], rows: Sequence[int]) -> int:
    """The plainest row of an id and of its checkpoints the first; other branches come last."""
    end = _end(models, rows)

    def order(row: int) -> tuple[str, float, bool, tuple[float, str, str]]:
        model = models[row]
        return (model.variant, model.step, model.revision != end, _order(model))

    return min(rows, key=order)


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
    return last(models, same or rows)
