"""What the scoring jobs of a plan ask for, and which of them share an allocation.

``allocation`` knows what one model needs; here stands what is known of the models at the moment:
cards that have arrived, the size of the texts, the speed of finished scores, how earlier attempts
ended. Snakemake asks again before it submits a job.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from klmap import allocation, estimates
from klmap.allocation import Request
from klmap.cards import Card, read_card
from klmap.errors import InputError
from klmap.estimates import Measured, Speed
from klmap.pair_jobs import SAMPLES, PairJobs
from klmap.plan import Plan


class Submission:
    """What is asked for when the scores of a plan are submitted.

    Args:
        plan: the plan.
        components: tells how many jobs of each size class are to share an allocation; asked when
            the first job is looked at, because Snakemake does not know earlier.
    """

    def __init__(self, plan: Plan, components: Callable[[], Mapping[str, int]]) -> None:
        self._plan = plan
        self._config = plan.config
        self._results = Path(plan.results)
        self._components = components
        self._cards: dict[str, Card] = {}
        self._manifests: dict[str, dict[str, Any]] = {}
        self._sharing: dict[str, int] | None = None
        self._speed: tuple[list[Measured], tuple[Speed, Speed]] | None = None

    def request(self, texts: str, model: str) -> Request:
        """What the first attempt at a score asks for.

        Args:
            texts: name of the text set.
            model: name of the model on the map.
        """
        found = self._plain(texts, model)
        entry = self._config.by_slug[model]
        card = self._card(entry.source)
        if entry.layers is None or card is None:
            return found
        factor = allocation.layers_factor(card, entry.layers)
        return replace(found, minutes=math.ceil(factor * found.minutes))

    def _plain(self, texts: str, model: str, jobs: PairJobs | None = None) -> Request:
        """What a model asks for without its hidden states, or as one of a pair."""
        entry = self._config.by_slug[model]
        manifest = self._manifest(texts)
        spec = json.loads(self._plan.spec(texts, model))
        measured, speeds = self._speeds()
        tokens = estimates.tokens_of(*self._plan.sizes(texts), manifest, measured)
        asked = self._config.analyses.generation
        if jobs is not None and jobs.kind == SAMPLES and asked is not None:
            responses = 2 * asked.prompts * asked.samples
            tokens = estimates.tokens_of_writing(responses, asked.tokens, manifest)
        elif tokens is not None:
            tokens *= estimates.read_per_scored(estimates.reading_of(spec), manifest)
        return allocation.request(
            self._card(entry.source),
            spec["dtype"],
            spec["quantization"] or "",
            tokens,
            self._config.hardware,
            speeds[0 if entry.is_tiny else 1],
            demo=entry.is_tiny,
            skip=self._config.on_model_failure == "skip",
            shared=self.sharing(),
        )

    def pair(self, jobs: PairJobs, texts: str, first: str, second: str) -> Request:
        """What the first attempt at comparing two models asks for: both are loaded in one job.

        Args:
            jobs: the kind of comparison.
            texts: name of the text set.
            first: name of one model on the map.
            second: name of the other one.
        """
        one, other = (self._plain(texts, model, jobs) for model in (first, second))
        gpus, most = max(one.gpus, other.gpus), self._config.hardware.max_gpus
        cards = [self._card(source) for source in jobs.sources(texts, first, second)]
        specs = [json.loads(self._plan.spec(texts, model)) for model in (first, second)]
        pair = [
            (card, spec["dtype"], spec["quantization"] or "")
            for card, spec in zip(cards, specs, strict=True)
            if card is not None and not card.error
        ]
        if gpus and len(pair) > 1:
            gpus = allocation.gpus_of_pair(pair, self._config.hardware)
        refusal = one.refusal or other.refusal
        if not refusal and gpus > most > 0:
            refusal = (
                f"{first} and {second} together need {gpus} GPUs, and hardware.max_gpus is {most}; "
                f"take the pair out of analyses.{jobs.analysis}, or raise it"
            )
        return Request(
            gpus=0 if refusal else gpus,
            cpus=max(one.cpus, other.cpus),
            memory=one.memory + other.memory,
            minutes=one.minutes + other.minutes,
            refusal=refusal,
        )

    def gpus(self, texts: str, model: str, attempt: int, log: str) -> int:
        """GPUs of one scoring job, more where those of the last attempt had too little memory.

        Args:
            texts: name of the text set.
            model: name of the model on the map.
            attempt: 1 for the first.
            log: file that the last attempt wrote to.
        """
        gpus = self.request(texts, model).gpus
        if attempt == 1 or not gpus:
            return gpus
        short = "GPU memory" in last_error(log)
        return min(gpus * attempt, self._config.hardware.max_gpus) if short else gpus

    def sharing(self) -> dict[str, int]:
        """How many jobs of a size class share an allocation.

        All weights of an allocation are on the disk at one time. A class for which the disk budget
        is too small is left out: its models would wait for each other's room.
        """
        if self._sharing is None:
            asked = self._components()
            self._sharing = {}
            left = self._config.hardware.disk_budget_gb * 1e9 / 2
            for size, largest in {allocation.CPU: 0, **allocation.SIZES}.items():
                room = 4 * largest * asked.get(size, 1)
                if asked.get(size, 1) > 1 and room <= left:
                    self._sharing[size] = asked[size]
                    left -= room
        return self._sharing

    def blocks(self, texts: str) -> dict[str, tuple[str, str]]:
        """The allocation of each model that shares one: neighbours in the configuration.

        So their weights are fetched one after the other, and none waits for long.

        Args:
            texts: name of the text set.

        Returns:
            Name and size class of the allocation, by model.
        """
        found = {}
        seen: Counter[str] = Counter()
        sharing = self.sharing()
        for model, entry in self._config.scored_on[texts].items():
            size = self.request(texts, model).size
            if size in sharing and not self._was_refused(entry.source):
                found[model] = f"{size}_{texts}_{seen[size] // sharing[size]}", size
                seen[size] += 1
        return found

    def measure(self) -> None:
        """Look at finished scores again, so that what is submitted from now on asks for less."""
        estimates.measure(self._results)
        self._speed = None

    def _speeds(self) -> tuple[list[Measured], tuple[Speed, Speed]]:
        """What finished scores told when last looked at; how fast demo models are, and others."""
        if self._speed is None:
            measured = estimates.read_measured(self._results)
            self._speed = measured, estimates.speeds(measured, self._config.hardware)
        return self._speed

    def _card(self, source: str) -> Card | None:
        """The card of a source, once it is there: before that the question is asked again."""
        if source not in self._cards:
            try:
                self._cards[source] = read_card(Path(self._plan.card(source)))
            except InputError:
                return None
        return self._cards[source]

    def _manifest(self, texts: str) -> dict[str, Any] | None:
        """The manifest of a text set, once it is there; a broken one is for others to report."""
        if texts not in self._manifests:
            try:
                text = (self._results / texts / "texts.json").read_text(encoding="utf-8")
                found = json.loads(text)
                float(found["n"] * found["mean_bytes"])
            except (OSError, ValueError, KeyError, TypeError):
                return None
            self._manifests[texts] = found
        return self._manifests[texts]

    def _was_refused(self, source: str) -> bool:
        """Whether the last attempt to fetch a model failed.

        It would keep those that share its allocation waiting, in every run.
        """
        arrived = Path(self._plan.weights(source)).exists()
        return not arrived and bool(last_error(f"logs/fetch/{source}.log"))


def last_error(log: str) -> str:
    """The line with which a job failed; empty where it did not, or never began."""
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    last = text.rstrip().rpartition("\n")[2]
    return last if " ERROR " in last else ""
