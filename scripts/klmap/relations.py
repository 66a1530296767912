"""Pairs of models by how the two are related, each pair under its closest relation alone.

Which relations there are follows Kishino et al. 2026 (ACL Findings, "Establishing a Scale for KL
Divergence in Language Models Across Various Settings"). Merges, siblings and precisions one by one,
the order in which a pair that fits several is given to one of them, and what is read off the
names of models are klmap's own.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from klmap import lineage, pair_samples
from klmap.arrays import Bools, Rows
from klmap.config_models import MERGES
from klmap.models_table import Model
from klmap.pair_samples import Labels, Pair

LAYERS = "adjacent-layers"
EARLY = "early-checkpoints"
LATER = "later-checkpoints"
MERGE = "merge"
PARENT = "parent-child"
SEEDS = "seeds"
SIBLINGS = "siblings"
SIZES = "sizes"
FAMILY = "same-family"
ACROSS = "across-families"
STORED = "stored-quantised"

_QUANTIZATIONS = ("int8", "nf4", "fp4")
_EXACTNESS = {"float64": 3, "float32": 2, "float16": 1, "bfloat16": 1}
_PRECISIONS = {*_QUANTIZATIONS, *_EXACTNESS, "none", "auto", ""}
_SEED = re.compile(r"[-_.](?:seed|s)[-_]?\d+(?![A-Za-z0-9])", re.IGNORECASE)
_SIZE = re.compile(r"(?<![A-Za-z0-9.])\d+(?:\.\d+)?[mMbB](?![A-Za-z0-9])")
_METHOD = re.compile(
    r"(?<![a-z])(gptq|awq|bnb|gguf|exl2|hqq|aqlm|quip|w\d+a\d+|int[248]|fp8|nf4|fp4)(?![a-z])"
)
_BITS = re.compile(r"(?<!\d)([2-8])[-_]?bits?(?![a-z])")


@dataclass(frozen=True)
class Related:
    """Pairs of models with one relation.

    Attributes:
        name: of the relation: one of the constants of this module, or a precision.
        precision: whether the pairs differ in their numbers alone.
        first: (P,) rows of the models that came first: full precision, layer, earlier checkpoint,
            parent, part of a merge. Of other relations the lower row.
        second: (P,) rows of the others.
        sampled: whether there are more such pairs.
    """

    name: str
    precision: bool
    first: Rows
    second: Rows
    sampled: bool = False

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self.first)

    @property
    def models(self) -> int:
        """How many different models they are of."""
        return len(np.union1d(self.first, self.second))


def find(
    models: Sequence[Model], on_map: Bools, early_until: float | None, most: int, seed: int
) -> list[Related]:
    """All pairs that have a relation, the closest that applies to each; klmap's own.

    In this order, and a pair that has one of them has none of the later ones:

    1. *Precisions*, each method a relation of its own: one id and revision, and otherwise the same
       settings, against the most exact row of them. Number formats count where that one is float32.
       A model that is stored quantised counts against the model that its card names.
    2. *Adjacent layers*: hidden states behind n and n + 1 blocks, and the one before the last
       block with the model itself.
    3. *Consecutive checkpoints* of one run, as far as they were scored: how far apart they are
       decides how large these KLs are. Early is a pair whose later checkpoint was reached by
       ``early_until``. Two of one commit, the same weights, and other pairs have no relation.
    4. *Merges* and each model that they were made of.
    5. *Parent and child*: fine-tunes and adapters, and what a card names without saying more.
    6. *Seeds*: the same ``seed_group``, or ids that differ in a seed alone, where the id without
       any is there too; the same step of both, or the final weights, whatever they are pinned
       to. They come before siblings, because two fine-tunes of one model that differ in their
       seed are told more exactly so.
    7. *Siblings*: children of one parent, which need not be there.
    8. *Sizes*: the same ``size_group``, or ids that differ in the size alone, at the same step.
    9. *Same family*, and 10. *across families*; models without a family have neither.

    From 5 on a model counts once: on the map, in its plainest variant, with final weights or the
    last checkpoint that there is. Merges that were made here, which are points on the way
    between two models, and copies of a model that is there are left out of these. Models off the
    map count up to 4.

    Args:
        models: K rows, those of the map first.
        on_map: (K,) which of them stand on the map.
        early_until: training steps; None for half of the last known step of each run.
        most: pairs of each relation that are kept; of more, a sample.
        seed: of the samples. The same models in the same order give the same sample.

    Returns:
        Relations that have pairs, in the order above. Up to about a thousand models all pairs are
        looked at; of more, relations with over a million pairs are drawn from.
    """
    every, mapped = _plain(models), _plain(models, on_map)
    found: dict[str, list[Pair]] = {name: [] for name in _precision_names(models)}
    precisions = set(found)
    for name, pairs in (
        *_precisions(models),
        *_stored(models, every),
        (LAYERS, _layers(models)),
        *_checkpoints(models, every, early_until),
        (MERGE, _merges(models, every)),
    ):
        found.setdefault(name, []).extend(pairs)
    # Other precisions of one id are no copies: _plain chooses among them.
    copies = {b for name in precisions for a, b in found[name] if models[a].id != models[b].id}
    wholes = _last(models, mapped)
    found[PARENT] = _children(models, wholes, mapped, copies)
    taken: set[Pair] = set()
    result = []
    for name, listed in found.items():
        ordered = [pair for pair in dict.fromkeys(listed) if _sorted(pair) not in taken]
        taken.update(map(_sorted, ordered))
        kept = pair_samples.sample(ordered, most, _generator(name, seed))
        result.append(_related(name, name in precisions, *kept))
    rows = [row for row in wholes.values() if row not in copies and not _made_here(models[row])]
    levels: list[tuple[str, Labels]] = [
        (SEEDS, _seeds(models, mapped, wholes)),
        (SIBLINGS, _parents(models, rows)),
        (SIZES, _sizes(models, rows)),
        (FAMILY, {row: frozenset({(models[row].family,)}) for row in rows if models[row].family}),
        (ACROSS, {row: frozenset({()}) for row in rows if models[row].family}),
    ]
    closer: list[Labels] = []
    for name, labels in levels:

        def fits(pair: Pair) -> bool:
            return pair not in taken and not any(_share(pair, others) for others in closer)

        kept = pair_samples.within(pair_samples.grouped(labels), fits, most, _generator(name, seed))
        result.append(_related(name, False, *kept))
        closer.append(labels)
    return [item for item in result if item.pairs]


def _sorted(pair: Pair) -> Pair:
    return (min(pair), max(pair))


def _share(pair: Pair, labels: Labels) -> bool:
    """Whether both rows have a label in common."""
    first, second = (labels.get(row) for row in pair)
    return bool(first and second and not first.isdisjoint(second))


def _made_here(model: Model) -> bool:
    return model.id.startswith(MERGES)


def _plainness(variant: str) -> tuple[bool, int, str]:
    parts = [part for part in variant.split("+") if part]
    return (any(part in _QUANTIZATIONS for part in parts), len(parts), variant)


def _plain(models: Sequence[Model], among: Bools | None = None) -> dict[tuple[str, str], int]:
    """Rows by id and revision, of each id in the plainest variant that it has."""
    by_id: dict[str, list[int]] = defaultdict(list)
    for row, model in enumerate(models):
        if model.layer is None and (among is None or among[row]):
            by_id[model.id].append(row)
    found: dict[tuple[str, str], int] = {}
    for id_, rows in by_id.items():
        variant = min((models[row].variant for row in rows), key=_plainness)
        for row in rows:
            if models[row].variant == variant:
                found.setdefault((id_, models[row].revision), row)
    return found


def _last(models: Sequence[Model], plain: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Of each id the row of its final weights, or of its last checkpoint."""
    by_id: dict[str, list[int]] = defaultdict(list)
    for (id_, _), row in plain.items():
        by_id[id_].append(row)
    return {id_: lineage.last(models, rows) for id_, rows in by_id.items()}


def _named(base: str, plain: Mapping[tuple[str, str], int]) -> int | None:
    """The row of an id as base_model has it, with ``@revision`` behind it or not."""
    if (base, "") in plain:
        return plain[base, ""]
    id_, _, revision = base.rpartition("@")
    return plain.get((id_, revision))


def _precision_names(models: Sequence[Model]) -> list[str]:
    """Methods from the most exact to the least, as far as they can occur."""
    stored = {_stored_name(model) for model in models if model.relation == "quantized"}
    return ["bfloat16", "float16", *_QUANTIZATIONS, *sorted(stored)]


def _precisions(models: Sequence[Model]) -> Iterable[tuple[str, list[Pair]]]:
    """Rows that differ in their precision alone, against the most exact of them."""
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, model in enumerate(models):
        if model.layer is None:
            others = sorted({*model.variant.split("+")} - _PRECISIONS)
            groups[model.id, model.revision, *others].append(row)
    for rows in groups.values():
        full = [row for row in rows if _quantization(models[row]) is None]
        if len(rows) < 2 or not full:
            continue
        exact = max(full, key=lambda row: (_exactness(models[row]), -len(models[row].variant)))
        for row in rows:
            method = _quantization(models[row]) or models[row].dtype
            less = _exactness(models[row]) < _exactness(models[exact])
            if _quantization(models[row]) or (less and method in ("float16", "bfloat16")):
                yield method, [(exact, row)]


def _quantization(model: Model) -> str | None:
    return next((part for part in model.variant.split("+") if part in _QUANTIZATIONS), None)


def _exactness(model: Model) -> int:
    return _EXACTNESS.get(model.dtype, 0)


def _stored(
    models: Sequence[Model], plain: Mapping[tuple[str, str], int]
) -> Iterable[tuple[str, list[Pair]]]:
    """Models that are stored quantised, against those that their cards name."""
    last = _last(models, plain)
    for (id_, _), row in plain.items():
        if models[row].relation != "quantized":
            continue
        for base in models[row].base_model:
            parent = last.get(base, _named(base, plain))
            if parent is not None and models[parent].id != id_:
                yield _stored_name(models[row]), [(parent, row)]


def _stored_name(model: Model) -> str:
    """How a model is stored, as its name says: ``stored-gptq-4bit``."""
    name = model.id.rpartition("/")[2].lower()
    parts = [found[1] for pattern in (_METHOD, _BITS) if (found := pattern.search(name))]
    if not parts:
        return STORED
    ending = f"{parts[1]}bit" if len(parts) > 1 else ""
    single = f"{parts[0]}bit" if parts[0].isdigit() else parts[0]
    return "-".join(filter(None, ("stored", single, ending)))


def _layers(models: Sequence[Model]) -> list[Pair]:
    """Hidden states one block apart, and the last one with the model itself."""
    groups: dict[tuple[str, str, str], dict[int, int]] = defaultdict(dict)
    whole: dict[tuple[str, str, str], int] = {}
    for row, model in enumerate(models):
        if model.layer is None:
            whole.setdefault((model.id, model.revision, model.variant), row)
        else:
            own = f"layer{model.layer}"
            variant = "+".join(part for part in model.variant.split("+") if part != own)
            groups[model.id, model.revision, variant].setdefault(model.layer, row)
    pairs = []
    for key, layers in groups.items():
        pairs += [(layers[n], layers[n + 1]) for n in sorted(layers) if n + 1 in layers]
        last = models[next(iter(layers.values()))].n_layers
        if key in whole and last is not None and last - 1 in layers:
            pairs.append((layers[last - 1], whole[key]))
    return pairs


def _checkpoints(
    models: Sequence[Model], plain: Mapping[tuple[str, str], int], early_until: float | None
) -> list[tuple[str, list[Pair]]]:
    """Consecutive checkpoints, early and later ones."""
    rows = sorted(plain.values())
    early: list[Pair] = []
    later: list[Pair] = []
    for run in lineage.runs([models[row] for row in rows]):
        own = [rows[place] for place in run.rows]
        known = [models[row].step for row in own if math.isfinite(models[row].step)]
        bound = early_until or max(known, default=0) / 2
        for first, second in pairwise(own):
            same = models[first].commit and models[first].commit == models[second].commit
            if models[first].step < models[second].step and not same:
                (early if models[second].step <= bound else later).append((first, second))
    return [(EARLY, early), (LATER, later)]


def _is_merge(model: Model) -> bool:
    return model.relation == "merge" or (not model.relation and len(model.base_model) > 1)


def _merges(models: Sequence[Model], plain: Mapping[tuple[str, str], int]) -> list[Pair]:
    """Merges and each model that they were made of."""
    pairs = []
    for row in plain.values():
        for base in models[row].base_model if _is_merge(models[row]) else ():
            part = _named(base, plain)
            if part is not None and part != row:
                pairs.append((part, row))
    return pairs


def _children(
    models: Sequence[Model],
    wholes: Mapping[str, int],
    plain: Mapping[tuple[str, str], int],
    copies: set[int],
) -> list[Pair]:
    """Models and what was made from them by training."""
    pairs = []
    for id_, row in wholes.items():
        if row in copies or _is_merge(models[row]):
            continue
        for base in models[row].base_model:
            parent = wholes.get(base, _named(base, plain))
            if parent is not None and models[parent].id != id_:
                pairs.append((parent, row))
    return pairs


def _parents(models: Sequence[Model], rows: Sequence[int]) -> Labels:
    """Of each child the ids of what it was made from."""
    return {
        row: frozenset((base,) for base in models[row].base_model)
        for row in rows
        if models[row].base_model and not _is_merge(models[row])
    }


def _seeds(
    models: Sequence[Model], plain: Mapping[tuple[str, str], int], wholes: Mapping[str, int]
) -> Labels:
    """Of each checkpoint its seed group and its step; of revisions without one the last."""
    ids = {id_ for id_, _ in plain}
    stems = {id_: _SEED.sub("", id_, count=1) for id_ in ids}
    several = {stem for id_, stem in stems.items() if stem != id_ and stem in ids}
    found: dict[int, frozenset[tuple[object, ...]]] = {}
    for (id_, _), row in plain.items():
        model = models[row]
        if math.isinf(model.step) and row != wholes[id_]:
            continue
        groups: list[tuple[object, ...]] = []
        if model.seed_group:
            groups.append(("group", model.seed_group, model.step))
        if stems[id_] in several:
            groups.append(("id", stems[id_], model.step))
        if groups:
            found[row] = frozenset(groups)
    return found


def _sizes(models: Sequence[Model], rows: Sequence[int]) -> Labels:
    """Of each model its size group, and its id without one of the sizes in it."""
    found: dict[int, frozenset[tuple[object, ...]]] = {}
    for row in rows:
        model = models[row]
        groups: list[tuple[object, ...]] = []
        if model.size_group:
            groups.append(("group", model.size_group))
        for size in _SIZE.finditer(model.id):
            stem = f"{model.id[: size.start()]}*{model.id[size.end() :]}"
            groups.append(("id", stem, model.step))
        if groups:
            found[row] = frozenset(groups)
    return found


def _related(name: str, precision: bool, pairs: Rows, sampled: bool) -> Related:
    return Related(name, precision, pairs[:, 0], pairs[:, 1], sampled)


def _generator(name: str, seed: int) -> np.random.Generator:
    return np.random.default_rng([seed, *name.encode()])
