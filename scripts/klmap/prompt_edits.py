"""The models of a text set beside the same ones with edited prompts, joined by name.

Log-likelihoods are read by blocks of models, so that no more than some blocks of 32 MB are held at
a time. What is made of them is in :mod:`klmap.prompts`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from klmap.arrays import Bools, Floats, Rows
from klmap.blocks import ranges
from klmap.errors import InputError
from klmap.gathered import Gathered
from klmap.geometry import nats_per_unit
from klmap.log import logger
from klmap.split import Domains, domains_of
from klmap.store import MatrixFile


def named(values: Sequence[str], option: str) -> list[tuple[str, str]]:
    """Names and what they stand for, of arguments ``NAME=...``.

    Args:
        values: the arguments.
        option: their option, for messages.

    Raises:
        InputError: an argument is not of that form, or two have one name.
    """
    pairs = [(name, rest) for name, _, rest in (value.partition("=") for value in values)]
    for value, (name, rest) in zip(values, pairs, strict=True):
        if not name or not rest:
            raise InputError(f"{option} {value}: expected NAME=..., such as brief=matrix.h5")
    twice = [name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1]
    if twice:
        raise InputError(f"{option}: {twice[0]} is named twice; name each edit once")
    return pairs


@dataclass(frozen=True)
class Block:
    """Some models, and these models under every edit; an edit may have fewer of them.

    Attributes:
        rows: (b,) rows of the models.
        base: (b, N) log-likelihoods with the prompts as they are, clipped and centred, nats.
        places: for each edit (n,) which of the b models it has.
        shifts: for each edit (n, N) how the models shift, clipped and centred over texts, nats.
        gains: for each edit (n, N) by how much it makes each response likelier, nats; not clipped.
    """

    rows: Rows
    base: Floats
    places: list[Rows]
    shifts: list[Floats]
    gains: list[Floats]


@dataclass(frozen=True)
class Edited:
    """The models of a text set, and the same ones with edited prompts, read by blocks.

    Attributes:
        found: K models with the prompts as they are.
        names: E edits.
        composed: of edits that are several others one after another, the names of these.
        files: E open matrices of the same responses.
        rows: (E, K) rows of the models in these; -1 where an edit lacks a model.
        extra: for each edit, models that are scored with it alone.
        domains: of the texts.
    """

    found: Gathered
    names: list[str]
    composed: dict[str, tuple[str, ...]]
    files: list[MatrixFile]
    rows: Rows
    extra: list[list[str]]
    domains: Domains

    @property
    def texts(self) -> int:
        """Number of texts, N."""
        return len(self.found.domain)

    @property
    def unit(self) -> float:
        """What a variance over texts, nats^2, is divided by to be a KL in bits per byte."""
        return 2 * nats_per_unit(self.found.mean_bytes)

    @property
    def scale(self) -> float:
        """What makes squared lengths of vectors over texts, nats, KLs in bits per byte."""
        return 1 / math.sqrt(self.texts * self.unit)

    @property
    def under(self) -> Bools:
        """(E, K) whether a model is scored with an edit."""
        return np.asarray(self.rows >= 0, np.bool_)

    def noise(self, edit: int) -> Floats:
        """(K,) RMS error of the scores with an edit, nats per text; NaN where unknown."""
        rows = self.rows[edit]
        return np.where(rows >= 0, self.files[edit].noise[rows], math.nan)

    def blocks(self, rows: Rows, edits: Sequence[int] | None = None) -> Iterator[Block]:
        """Some models under some edits, by blocks.

        Args:
            rows: of models, rising.
            edits: which edits; all of them by default.

        Raises:
            InputError: a file is truncated.
        """
        some = range(len(self.names)) if edits is None else edits
        for begin, end in ranges(len(rows), 8 * self.texts * (2 * len(some) + 2)):
            yield self._block(rows[begin:end], some)

    def _block(self, rows: Rows, edits: Sequence[int]) -> Block:
        raw = self.found.raw(rows)
        base = self._centred(raw)
        places, shifts, gains = [], [], []
        for edit in edits:
            here = np.flatnonzero(self.under[edit, rows])
            gain = np.empty((len(here), self.texts))
            for place, row in enumerate(self.rows[edit, rows[here]]):
                gain[place] = self.files[edit].loglik(row, row + 1)[0]
            shift = self._centred(gain)
            shift -= base[here]
            gain -= raw[here]
            places.append(here)
            shifts.append(shift)
            gains.append(gain)
        return Block(rows, base, places, shifts, gains)

    def _centred(self, raw: Floats) -> Floats:
        clipped = np.maximum(raw, self.found.clip_threshold)
        clipped -= clipped.mean(axis=1, keepdims=True)
        return clipped


def edited(
    found: Gathered, files: Mapping[str, MatrixFile], composed: Mapping[str, Sequence[str]]
) -> Edited:
    """Join the models of a text set with the same ones under every edit, by name.

    Args:
        found: the models with the prompts as they are.
        files: open matrices of the edits by name, in the order in which they are told.
        composed: of an edit that is several others, the names of these.

    Raises:
        InputError: an edit is of other responses or lacks every model, a composed one has parts
            that are no edits, or the texts are a selection.
    """
    if found.design is not None:
        raise InputError(
            "prompts: these texts are a selection of others; what an edit does is measured on all "
            "of them: remove analyses.prompts for this text set"
        )
    if not files:
        raise InputError("prompts: no edit of the prompt; add edits: to the text set")
    for name, parts in composed.items():
        for part in (name, *parts):
            if part not in files:
                raise InputError(
                    f"prompts: the composed edit {name} needs {part}, and the edits are "
                    f"{', '.join(files)}; add {part} to them"
                )
        if len(set(parts)) < 2 or name in parts:
            raise InputError(
                f"prompts: the composed edit {name} consists of {', '.join(parts) or 'nothing'}; "
                "name two or more other edits"
            )
    row = {model.model: place for place, model in enumerate(found.models)}
    rows = np.full((len(files), len(row)), -1, np.intp)
    extra = []
    for edit, (name, file) in enumerate(files.items()):
        _check(found, file)
        for place, model in enumerate(file.model):
            if model in row:
                rows[edit, row[model]] = place
        extra.append([model for model in file.model if model not in row])
        if not (rows[edit] >= 0).any():
            raise InputError(f"{file.path}: the edit {name} has none of the models of its text set")
    domains = domains_of(found.domain)
    sums = {name: tuple(parts) for name, parts in composed.items()}
    result = Edited(found, list(files), sums, list(files.values()), rows, extra, domains)
    for name, what in missing(result):
        logger.warning("%s: %d models are left out, the first %s", name, len(what), what[0])
    return result


def _check(found: Gathered, file: MatrixFile) -> None:
    """Refuse an edit whose responses are not those of the text set."""
    what = file.path
    wanted = f"not an edit of {found.parts[0].path}"
    way_out = "an edit changes prompts alone; remove it and run again"
    if len(file.domain) != len(found.domain):
        raise InputError(
            f"{what}: {wanted}: {len(file.domain)} texts instead of {len(found.domain)}; {way_out}"
        )
    other = np.flatnonzero(file.n_bytes != found.n_bytes)
    if len(other):
        text = int(other[0])
        raise InputError(
            f"{what}: {wanted}: response {text} has {file.n_bytes[text]} bytes instead of "
            f"{found.n_bytes[text]}; {way_out}"
        )
    for text, (domain, own) in enumerate(zip(file.domain, found.domain, strict=True)):
        if domain != own:
            raise InputError(
                f"{what}: {wanted}: response {text} is of {domain} instead of {own}; {way_out}"
            )


def missing(some: Edited) -> list[tuple[str, list[str]]]:
    """For each edit the models that are scored on one side alone, if any are.

    A model off the map counts where another edit has it.
    """
    wanted = some.found.on_map | some.under.any(axis=0)
    found = []
    for edit, name in enumerate(some.names):
        lacking = np.flatnonzero(wanted & ~some.under[edit])
        what = [some.found.models[row].model for row in lacking] + some.extra[edit]
        if what:
            found.append((name, what))
    return found
