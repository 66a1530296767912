"""What a run would do, in words: which models are scored already, which are not, and why.

A dry run of Snakemake says which jobs it would run; here each score among them is looked up in
the results folder, where one listing per text set tells what earlier runs have left of it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klmap import leases
from klmap.cards import read_card
from klmap.config_models import FINGERPRINT_PATTERN, MODEL_PATTERN
from klmap.errors import InputError
from klmap.failures import left_reason
from klmap.files import read_tsv
from klmap.leases import Lease
from klmap.terminal import wrapped

NAMED = 10
"""Models of one kind that are named; the others are counted."""

READ = 1000
"""Earlier settings that are looked up, and reasons of failures that are read, at the most."""

_FILE = re.compile(rf"({MODEL_PATTERN})\.{FINGERPRINT_PATTERN}\.h5")
_LABEL = 16
_INDENT = " " * (_LABEL + 10)


@dataclass(frozen=True)
class Planned:
    """What Snakemake would do for one text set.

    Attributes:
        scores: the models that would be scored, with the reason if a score is there already.
        drawn: rules of the aggregation that would run.
        because: why, where it is not for the sake of the scores.
    """

    scores: dict[str, str] = field(default_factory=dict)
    drawn: list[str] = field(default_factory=list)
    because: list[str] = field(default_factory=list)


@dataclass
class Outlook:
    """The models of one text set; each stands in one list.

    Attributes:
        texts: name of the text set.
        planned: what Snakemake would do.
        scored: models that have their score.
        unasked: models that have none, and that this run would not score.
        new: models never scored on these texts.
        changed: models to be scored again, by what has changed.
        running: models that another run is scoring, with what their jobs say about themselves.
        unfinished: models whose job was killed and goes on where it was.
        failed: models that failed for good before, by the reason.
        reference: the text set that this one is a selection of, with the number of its models,
            which are on the map without a score of their own; None where nothing is known of it.
        without: models among the scored ones that have no numbers, because they failed.
        imported: releases that are there, with the number of their models.
        importing: releases that would be imported, with the number of their models where
            config.yaml says it.
    """

    texts: str
    planned: Planned
    scored: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, Lease] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    failed: dict[str, list[str]] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    imported: Mapping[str, int] = field(default_factory=dict)
    importing: Mapping[str, int | None] = field(default_factory=dict)
    reference: tuple[str, int] | None = None

    @property
    def models(self) -> int:
        """Number of models, as far as it is known."""
        own = len(self.scored) + len(self.unasked) + len(self.planned.scores)
        announced = sum(count or 0 for count in self.importing.values())
        known = 0 if self.reference is None else self.reference[1]
        return own + sum(self.imported.values()) + announced + known


def look(
    texts: str,
    folder: Path,
    planned: Planned,
    scores: Mapping[str, Path],
    cards: Mapping[str, Path],
    settings: Mapping[str, Mapping[str, Any]],
    earlier: Callable[[Path], Mapping[str, Any] | None],
    imported: Mapping[str, int],
    importing: Mapping[str, int | None],
    reference: tuple[str, int] | None = None,
) -> Outlook:
    """Sort the models of a text set by what a run would do about them.

    Args:
        texts: name of the text set.
        folder: what belongs to it.
        planned: what Snakemake would do.
        scores: the file of each configured model's score.
        cards: the card of each.
        settings: the settings of each score.
        earlier: settings of a score that is there; None where they are not known.
        imported: releases that are there, with the number of their models.
        importing: releases that would be imported, with that number where it is known.
        reference: the text set that this one is a selection of, with the number of its models.
    """
    outlook = Outlook(texts, planned, imported=imported, importing=importing, reference=reference)
    there = _listing(folder / "scores")
    older = _older(there)
    reader = _Reader(earlier)
    for model, score in scores.items():
        if model not in planned.scores:
            (outlook.scored if score.name in there else outlook.unasked).append(model)
            continue
        lease = leases.read(score.with_suffix(".lease")) if f"{score.stem}.lease" in there else None
        if lease is not None and lease.is_alive(time.time()):
            outlook.running[model] = lease
        elif f"{score.stem}.failed.json" in there and (
            reason := reader.failure(score.with_suffix(".failed.json"), cards[model])
        ):
            outlook.failed.setdefault(reason, []).append(model)
        elif f"{score.stem}.partial" in there:
            outlook.unfinished.append(model)
        elif score.name in there:
            reason = planned.scores[model] or _outdated(there[score.name], cards[model])
            outlook.changed.setdefault(reason, []).append(model)
        elif model in older:
            reason = reader.difference(older[model], settings[model])
            outlook.changed.setdefault(reason, []).append(model)
        else:
            outlook.new.append(model)
    outlook.without = _without(outlook.scored, folder)
    return outlook


def _listing(folder: Path) -> dict[str, os.DirEntry[str]]:
    """Every file beside the scores, by its name."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except OSError:
        return {}


def _older(there: Mapping[str, os.DirEntry[str]]) -> dict[str, os.DirEntry[str]]:
    """The latest score of each model, whatever its settings."""
    found: dict[str, os.DirEntry[str]] = {}
    for name, entry in there.items():
        match = _FILE.fullmatch(name)
        if match:
            model = match.group(1)
            if model not in found or _time(found[model]) < _time(entry):
                found[model] = entry
    return found


def _time(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # removed in the meantime
        return 0.0


def _outdated(score: os.DirEntry[str], card: Path) -> str:
    """Why a score that is there is made again. Snakemake blames its weights."""
    with contextlib.suppress(OSError):
        if card.stat().st_mtime > _time(score):
            return "the card is newer"
    return "what it was made from is newer"


def _without(scored: Sequence[str], folder: Path) -> list[str]:
    """Models that the last aggregation could not put on the map."""
    with contextlib.suppress(InputError):
        failed = {row.get("model") for row in read_tsv(folder / "failures.tsv")}
        return [model for model in scored if model in failed]
    return []


class _Reader:
    """Reads what single files say, of a limited number of them.

    Args:
        earlier: settings of a score that is there; None where they are not known.
    """

    def __init__(self, earlier: Callable[[Path], Mapping[str, Any] | None]) -> None:
        self._earlier = earlier
        self._left = READ

    def failure(self, path: Path, card: Path) -> str:
        """Why the next attempt at a score will end at once; empty where it will not."""
        if self._left <= 0:
            return "for a reason that is kept beside the score"
        self._left -= 1
        with contextlib.suppress(InputError, OSError, ValueError, TypeError, AttributeError):
            return left_reason(path, read_card(card))
        return ""

    def difference(self, score: os.DirEntry[str], now: Mapping[str, Any]) -> str:
        """What has changed since a score was made, as far as that is known."""
        then = None
        if self._left > 0:
            self._left -= 1
            then = self._earlier(Path(score.path))
        return (then and differences(then, now)) or "other settings"


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Settings that differ, as ``dtype is float32, was auto``; empty where none does."""
    parts = []
    for key in sorted({*then, *now}):
        before, after = then.get(key), now.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            parts.append(f"{key}: {differences(before, after)}")
        else:
            parts.append(f"{key} is {_shown(after)}, was {_shown(before)}")
    return "; ".join(parts)


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def render(outlooks: Iterable[Outlook], jobs: Mapping[str, int], width: int, *, short: bool) -> str:
    """The whole of it, ready to print.

    Args:
        outlooks: one per text set.
        jobs: number of jobs by rule.
        width: columns of the terminal.
        short: whether the jobs were left out above.
    """
    lines: list[str] = []
    for outlook in outlooks:
        lines += _paragraph(outlook, width)
    if not lines:
        return ""
    for hint in _hints(jobs, short=short):
        lines += wrapped(hint, width, "")
    return "\n".join(lines) + "\n"


def _paragraph(outlook: Outlook, width: int) -> list[str]:
    plural = "model" if outlook.models == 1 else "models"
    size = f", {outlook.models:,} {plural}" if outlook.models else ""
    lines = [f"Texts {outlook.texts}{size}:"]
    if outlook.reference is not None:
        name, known = outlook.reference
        lines += _entry("of the reference", known, [f"{name}, by all of its texts"], width)
    for release, known in outlook.imported.items():
        lines += _entry("imported", known, [release], width)
    for release, count in outlook.importing.items():
        words = release if count else f"release {release}, with as many models as it has"
        lines += _entry("to be imported", count or 1, [words], width)
    scored = ""
    if outlook.without:
        scored = f"{len(outlook.without):,} of them failed, see failures.tsv: "
        scored += named(outlook.without)
    lines += _entry("scored already", len(outlook.scored), [scored], width)
    lines += _entry("not asked for", len(outlook.unasked), [named(outlook.unasked)], width)
    lines += _entry("new", len(outlook.new), [named(outlook.new)], width)
    groups = [f"{what}: {named(models)}" for what, models in _largest_first(outlook.changed)]
    lines += _entry("changed", _size(outlook.changed), groups, width)
    running = ", ".join(f"{model} ({_at(lease)})" for model, lease in _first(outlook.running))
    left = len(outlook.running) - NAMED
    running += f" and {left:,} more" if left > 0 else ""
    lines += _entry("running now", len(outlook.running), [running], width)
    unfinished = f"will go on where they were: {named(outlook.unfinished)}"
    lines += _entry("unfinished", len(outlook.unfinished), [unfinished], width)
    failures = [f"{named(models)}: {reason}" for reason, models in _largest_first(outlook.failed)]
    ends = ["will fail at once again:", *failures[:NAMED]]
    ends += [f"and {len(failures) - NAMED:,} other reasons"] * (len(failures) > NAMED)
    lines += _entry("failed before", _size(outlook.failed), ends, width)
    drawn = ", ".join(outlook.planned.drawn)
    if outlook.planned.because and drawn:
        drawn += f"; because {' and '.join(outlook.planned.because)}"
    return lines + _entry("to be drawn", len(outlook.planned.drawn), [drawn], width)


def _entry(label: str, number: int, texts: Sequence[str], width: int) -> list[str]:
    """Lines of one kind of models; none where there are none."""
    if not number:
        return []
    head = f"  {label:<{_LABEL}}{number:>6,}  "
    lines: list[str] = []
    for text in texts:
        lines += wrapped(text, width, _INDENT if lines else head, _INDENT)
    return [line.rstrip() for line in lines] or [head.rstrip()]


def named(models: Sequence[str]) -> str:
    """The first of some models, and how many more there are."""
    left = len(models) - NAMED
    text = ", ".join(models[:NAMED])
    return f"{text} and {left:,} more" if left > 0 else text


def _first(running: Mapping[str, Lease]) -> list[tuple[str, Lease]]:
    return list(running.items())[:NAMED]


def _at(lease: Lease) -> str:
    """Where a job is, and how far."""
    share = f", {100 * lease.done / lease.total:.0f}% done" if lease.total else ""
    return f"{lease.whom}{share}"


def _size(groups: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, groups.values()))


def _largest_first(groups: Mapping[str, list[str]]) -> list[tuple[str, list[str]]]:
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _hints(jobs: Mapping[str, int], *, short: bool) -> list[str]:
    """What else one can ask for."""
    hints = []
    unknown = jobs.get("resolve", 0)
    if unknown:
        noun = "model has" if unknown == 1 else "models have"
        hints.append(
            f"{unknown:,} {noun} to be looked up first: `snakemake preflight` does that alone, and "
            "says what cannot be scored and what the rest will take."
        )
    elif jobs.get("score"):
        hints.append("What it will take, and what is in the way: `snakemake preflight`.")
    if short:
        hints.append("Every job with its reason: `snakemake -n -p`.")
    return hints
