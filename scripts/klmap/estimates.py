"""How long scoring will take, before anything is loaded.

Time is start-up, reading the weights, and two floating-point operations per parameter and token;
idle experts of a mixture do not count. How fast that goes is taken from the scores that are
finished in the results folder. What was measured there is kept as a small table, which every
process of the workflow can read at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from klmap import releases
from klmap.cards import Card, read_card
from klmap.config import Hardware
from klmap.config_models import consists_of_demo, source_of
from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.log import logger

BYTES_PER_TOKEN = 3.6
"""UTF-8 bytes per token (own): 2.7 million tokens in the 10,000 published texts."""

CHUNK_SHARE = 0.95
"""Mean length of chunks as a share of the longest allowed: 972 of 1,024 bytes as published."""

WRITING = 20.0
"""How many times as long a token takes that is written, one after the other, as one that is read
(own)."""

USUAL_BYTES = 1024
"""Longest chunk of the published text set, in UTF-8 bytes."""

ASSUMED_FLOPS = 100e12
"""Operations per second of one GPU where nothing is measured (own)."""

ASSUMED_STARTUP = 60.0
"""Seconds from the start of a job to its first batch where nothing is measured (own)."""

READING = 1e9
"""Bytes of weights that are read per second (own)."""

TABLE = "models/_speed.tsv"
"""Where measurements are kept, below the results folder."""

LARGEST_SAMPLE = 200
"""Score files that are read to measure speed, newest first."""

SIMILAR = 5
"""A model is as fast as the median of so many measured ones, those nearest to it in size: small
models keep no GPU busy."""


_SLOWNESS = {"float32": 4.0, "int8": 4.0, "nf4": 2.0, "fp4": 2.0}
"""Time on a GPU over that of a 16-bit model of the same size (own): products in 32 bits, without
TF32; one text at a time in int8."""


@dataclass(frozen=True)
class Measured:
    """What one finished score tells about speed.

    Attributes:
        parameters: of the model, without idle experts.
        flops: operations per second of one GPU, or of the CPU.
        startup: seconds from the start of the job to the first batch, without reading weights.
        gpus: GPUs that held a part of the model; 0 on a CPU.
        demo: whether it is a model of the demo, which never gets a GPU.
        texts_sha256: hash of its texts.
        tokens: scored tokens of all texts.
    """

    parameters: int
    flops: float
    startup: float
    gpus: int
    demo: bool
    texts_sha256: str
    tokens: int


@dataclass(frozen=True)
class Speed:
    """How fast one kind of device scores.

    Attributes:
        gpu: whether it is a GPU.
        sample: what was measured on it; empty where nothing was.
    """

    gpu: bool
    sample: tuple[Measured, ...] = ()

    @property
    def is_known(self) -> bool:
        """Whether there is any ground for an estimate; a CPU can be anything."""
        return self.gpu or bool(self.sample)

    @property
    def startup(self) -> float:
        """Seconds from the start of a job to its first batch, without reading weights."""
        return median(found.startup for found in self.sample) if self.sample else ASSUMED_STARTUP

    def flops(self, parameters: int) -> float:
        """Operations per second, per GPU, of a model of this size."""
        if not self.sample:
            return ASSUMED_FLOPS
        size = math.log(max(parameters, 1))
        nearest = sorted(self.sample, key=lambda found: abs(math.log(found.parameters) - size))
        return median(found.flops for found in nearest[:SIMILAR])

    def seconds(
        self,
        card: Card,
        tokens: float,
        gpus: int = 1,
        dtype: str = "auto",
        quantization: str = "",
    ) -> float | None:
        """Device seconds of one score, on all its GPUs together; None where unknown.

        Args:
            card: the model.
            tokens: of all texts.
            gpus: GPUs that hold it.
            dtype: as configured.
            quantization: ``int8``, ``nf4``, ``fp4``; empty for none.
        """
        if not self.is_known:
            return None
        waiting = self.startup + card.bytes / READING
        working = card.working_parameters
        slowness = _SLOWNESS.get(quantization or dtype, 1.0) if self.gpu else 1.0
        return waiting * gpus + slowness * 2.0 * working * tokens / self.flops(working)


def measure(results: Path) -> list[Measured]:
    """Read the newest score files of a results folder, and keep what they tell as a table.

    Files that are broken, failed, or whose card is gone tell nothing and are left out.
    """
    imported = releases.score_names(results)
    paths = [
        (path.stat().st_mtime_ns, path)
        for path in results.glob("*/scores/*.h5")
        if path.name not in imported
    ]
    newest = [path for _, path in sorted(paths, reverse=True)[:LARGEST_SAMPLE]]
    measured = [found for path in newest if (found := _measure(path, results)) is not None]
    if measured:
        names = [field.name for field in fields(Measured)]
        write_tsv(results / TABLE, names, (astuple(found) for found in measured))
    return measured


def read_measured(results: Path) -> list[Measured]:
    """What was measured when scores were last read; nothing where the table is not usable."""
    try:
        return [_parsed(row) for row in read_tsv(results / TABLE)]
    except (InputError, KeyError, ValueError):
        return []


def _parsed(row: Mapping[str, str]) -> Measured:
    return Measured(
        parameters=int(row["parameters"]),
        flops=float(row["flops"]),
        startup=float(row["startup"]),
        gpus=int(row["gpus"]),
        demo=row["demo"] == "True",
        texts_sha256=row["texts_sha256"],
        tokens=int(row["tokens"]),
    )


def _measure(path: Path, results: Path) -> Measured | None:
    # Rules read the table with every process that they start, and h5py takes a while to load.
    from klmap import store_score

    try:
        score = store_score.read_score(path)
        source = source_of(str(score.spec["id"]), score.spec["revision"])
        card = read_card(results / "models" / source / "card.json")
    except (InputError, KeyError, ValueError) as error:
        logger.debug("%s: not measured: %s", path, error)
        return None
    known = score.attributes
    rate = float(known.get("tokens_per_second") or 0.0)
    if score.status != "ok" or rate <= 0 or card.parameters <= 0:
        return None
    if score.spec.get("layers") is not None:
        return None  # a head for each of them makes models look slow
    gpus = int(known.get("gpus", 0))
    return Measured(
        parameters=card.working_parameters,
        flops=2.0 * card.working_parameters * rate / max(gpus, 1),
        startup=max(float(known.get("startup_seconds", 0.0)) - card.bytes / READING, 0.0),
        gpus=gpus,
        demo=consists_of_demo(str(score.spec["id"]), score.spec.get("merge", {}).get("of", ())),
        texts_sha256=score.texts_sha256,
        tokens=int(score.n_scored.sum()),
    )


def speeds(measured: Sequence[Measured], hardware: Hardware) -> tuple[Speed, Speed]:
    """The speed of demo models, and of all others.

    Demo models are scored on a CPU. The others are, too, where no GPU is configured, or where
    only CPU scores of such models were found: then there is none, whatever was configured.
    """
    on_cpu = tuple(found for found in measured if not found.gpus)
    on_gpu = tuple(found for found in measured if found.gpus)
    own = tuple(found for found in on_cpu if not found.demo)
    demo = Speed(False, tuple(found for found in on_cpu if found.demo) or on_cpu)
    if hardware.max_gpus and (on_gpu or not own):
        return demo, Speed(True, on_gpu)
    return demo, Speed(False, own or on_cpu)


def reading_of(spec: Mapping[str, Any]) -> str:
    """How a score reads its texts, where that is not once from left to right: ``masked+pmi``.

    Args:
        spec: settings of the score.
    """
    parts = [
        "masked" if spec.get("likelihood") == "masked" else "",
        "pmi" if spec.get("pmi") else "",
    ]
    return "+".join(part for part in parts if part)


def read_per_scored(reading: str, manifest: Mapping[str, Any] | None) -> float:
    """Tokens that go through a model for each one whose log-probability is wanted (own).

    Prompts are read and not scored, PMI reads the responses once more, and the pseudo-likelihood of
    a masked model reads the whole text for every token.

    Args:
        reading: as ``reading_of`` says.
        manifest: texts.json, once the texts are made.
    """
    response = float((manifest or {}).get("mean_bytes") or CHUNK_SHARE * USUAL_BYTES)
    prompt = float((manifest or {}).get("mean_prompt_bytes") or 0)
    whole = 1 + prompt / response + (1 if "pmi" in reading else 0)
    return whole * (max(response / BYTES_PER_TOKEN, 1) if "masked" in reading else 1)


def tokens_of_writing(responses: int, longest: int, manifest: Mapping[str, Any] | None) -> float:
    """Tokens that take as long to read as it takes to write responses and to score them (own).

    Args:
        responses: of both models of a pair.
        longest: most tokens of a response.
        manifest: texts.json of the prompts, once they are made.
    """
    prompt = float((manifest or {}).get("mean_prompt_bytes") or USUAL_BYTES) / BYTES_PER_TOKEN
    return responses * (prompt + longest) * (1 + WRITING)


def tokens_of(
    n: int | None,
    max_bytes: int,
    manifest: Mapping[str, Any] | None,
    measured: Iterable[Measured],
) -> float | None:
    """Tokens that one model scores in a text set; None where the number of texts is unknown.

    Args:
        n: texts that the recipe asks for; None for all there are.
        max_bytes: longest text that the recipe allows.
        manifest: texts.json, once the texts are made.
        measured: finished scores; those of the same texts know best.
    """
    if manifest is not None:
        counted = [m.tokens for m in measured if m.texts_sha256 == manifest.get("sha256")]
        if counted:
            return float(median(counted))
        return int(manifest["n"]) * float(manifest["mean_bytes"]) / BYTES_PER_TOKEN
    return None if n is None else n * CHUNK_SHARE * max_bytes / BYTES_PER_TOKEN
