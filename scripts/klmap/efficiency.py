"""What finished scores have cost: time, speed and memory of each, and of each kind of device.

A score file is read once; what it says is kept in a table, which is also how ``status`` knows the
GPU hours of ten thousand scores without opening them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from klmap import releases, store_score
from klmap.cards import Card, read_card
from klmap.config_models import source_of
from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.log import logger

TABLE = "efficiency.tsv"
"""Where it is kept, below the results folder."""


@dataclass(frozen=True)
class Cost:
    """What one score file says about the attempt that finished it.

    Attributes:
        model: its name on the map.
        texts: the text set.
        status: ``ok`` or ``failed``; of a failed one hardly anything is known.
        parameters: stored parameters; 0 where the card is gone.
        dtype: as scored.
        device: as its maker calls it.
        gpus: GPUs that held a part of the model; 0 on a CPU.
        tokens: scored tokens.
        tokens_per_second: of the whole job, while it scored.
        tflops: 2 * parameters * tokens_per_second / 1e12, idle experts left out; of all GPUs.
        seconds: the job from loading to the end.
        scoring_seconds: of these, those in which tokens were scored.
        startup_seconds: from the start of the process to the first batch.
        gpu_hours: ``seconds`` times GPUs; 0 on a CPU.
        idle_hours: hours of its GPUs, or of the CPU, in which no tokens were scored: loading,
            and the error bar.
        memory: bytes held at most: of all GPUs together, on a CPU of main memory.
        asked_memory: bytes of its GPUs, as now configured; 0 on a CPU.
        score: the file.
        written: its time stamp, nanoseconds.
    """

    model: str
    texts: str
    status: str
    parameters: int
    dtype: str
    device: str
    gpus: int
    tokens: int
    tokens_per_second: float
    tflops: float
    seconds: float
    scoring_seconds: float
    startup_seconds: float
    gpu_hours: float
    idle_hours: float
    memory: int
    asked_memory: int
    score: str
    written: int

    @property
    def share(self) -> float | None:
        """Share of the GPU memory that was asked for; None on a CPU."""
        return self.memory / self.asked_memory if self.asked_memory else None

    @property
    def waste(self) -> tuple[float, str]:
        """Sorts the most wasteful first."""
        return -self.idle_hours, self.score


_COLUMNS = tuple(field.name for field in fields(Cost))


def score_files(results: Path) -> dict[str, os.stat_result]:
    """Every score file that was made in a results folder, by path, from listings alone."""
    found = {}
    imported = releases.score_names(results)
    for folder in results.glob("*/scores"):
        for entry in _listing(folder):
            name = entry.name
            if name.endswith(".h5") and not name.startswith(".") and name not in imported:
                try:
                    found[f"{folder}/{entry.name}"] = entry.stat()
                except OSError:  # removed in the meantime
                    continue
    return found


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def read(results: Path, gpu_memory_gb: float, most: int | None = None) -> tuple[list[Cost], int]:
    """What the score files of a results folder have cost; writes the table.

    Files are opened only where the table does not know them, or where they have changed. What
    cannot be read is left out.

    Args:
        results: the results folder.
        gpu_memory_gb: memory of one GPU, as configured.
        most: files that are opened at most, newest first; None for no limit.

    Returns:
        One entry per score file, the most wasteful first, and the number of files that were left
        for another time.
    """
    files = score_files(results)
    before = _rows(results / TABLE)
    costs = {
        cost.score: replace(cost, asked_memory=_asked(cost.gpus, gpu_memory_gb))
        for cost in before
        if cost.score in files and files[cost.score].st_mtime_ns == cost.written
    }
    unknown = [path for path in files if path not in costs]
    unknown.sort(key=lambda path: files[path].st_mtime_ns, reverse=True)
    for path in islice(unknown, most):
        found = _read_one(Path(path), files[path].st_mtime_ns, results, gpu_memory_gb)
        if found is not None:
            costs[path] = found
    rows = sorted(costs.values(), key=lambda cost: cost.waste)
    if rows != before:
        _write(results / TABLE, rows)
    return rows, 0 if most is None else max(len(unknown) - most, 0)


def _write(path: Path, costs: Iterable[Cost]) -> None:
    """Keep the table; a folder that belongs to somebody else stays without."""
    try:
        write_tsv(path, _COLUMNS, ([getattr(cost, name) for name in _COLUMNS] for cost in costs))
    except PermissionError as error:
        logger.warning("%s: not written (%s)", path, error.strerror)


def _rows(path: Path) -> list[Cost]:
    """What earlier calls have read; nothing where the table is not usable."""
    try:
        return [_parsed(row) for row in read_tsv(path)]
    except (InputError, KeyError, ValueError):
        return []


def _asked(gpus: int, gpu_memory_gb: float) -> int:
    return int(gpus * gpu_memory_gb * 1e9)


def _parsed(row: Mapping[str, str]) -> Cost:
    kinds = {"int": int, "float": float, "str": str}
    values: dict[str, Any] = {
        field.name: kinds[str(field.type)](row[field.name]) for field in fields(Cost)
    }
    return Cost(**values)


def _read_one(path: Path, written: int, results: Path, gpu_memory_gb: float) -> Cost | None:
    try:
        known, tokens = store_score.read_summary(path)
        card = _card(known["spec"], results)
        working = card.working_parameters
        rate = float(known.get("tokens_per_second") or 0.0)
        seconds = float(known.get("seconds") or 0.0)
        gpus = int(known.get("gpus") or 0)
        scoring = min(tokens / rate, seconds) if rate > 0 else 0.0
        return Cost(
            model=str(known["model"]),
            texts=path.parents[1].name,
            status=str(known["status"]),
            parameters=card.parameters,
            dtype=str(known.get("dtype") or ""),
            device=str(known.get("device") or ""),
            gpus=gpus,
            tokens=tokens,
            tokens_per_second=rate,
            tflops=2.0 * working * rate / 1e12,
            seconds=seconds,
            scoring_seconds=scoring,
            startup_seconds=float(known.get("startup_seconds") or 0.0),
            gpu_hours=gpus * seconds / 3600,
            idle_hours=max(gpus, 1) * (seconds - scoring) / 3600,
            memory=int(known.get("peak_memory") or 0),
            asked_memory=_asked(gpus, gpu_memory_gb),
            score=str(path),
            written=written,
        )
    except (InputError, KeyError, TypeError, ValueError) as error:
        logger.debug("%s: not counted: %s", path, error)
        return None


def _card(spec: Mapping[str, Any], results: Path) -> Card:
    """The card that a score was made from; an empty one where it is gone."""
    try:
        source = source_of(str(spec["id"]), spec["revision"])
        return read_card(results / "models" / source / "card.json")
    except (InputError, KeyError, ValueError):
        return Card(id="")
