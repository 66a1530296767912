"""Jobs that load two models at once: which pairs there are, and where their results lie.

There are two kinds: exact divergences, token by token (``divergences``), and texts that models
write themselves (``samples``). A file is named as a score is: by the models and a fingerprint of
all that decides the numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from klmap import divergences
from klmap.config import Config, fingerprint
from klmap.errors import ConfigError

BETWEEN = "~"
"""What stands between the names of two models in the name of a file."""

DIVERGENCES = "divergences"
SAMPLES = "samples"


class Scores(Protocol):
    """What is asked of a plan."""

    config: Config
    results: str

    def spec(self, texts: str, model: str) -> str:
        """Settings of one score as JSON."""

    def card(self, source: str) -> str:
        """File of a source's card."""

    def weights(self, source: str) -> str:
        """Folder of a source's weights."""

    def is_partly_finished(self, source: str) -> bool:
        """Whether some of what is made from a source's weights is there, and some is not."""

    def is_newer(self, made: str, texts: str, *sources: str) -> bool:
        """Whether a file is there, and nothing that it was made from is newer."""


class PairJobs:
    """The pairs of one kind.

    Args:
        plan: of the configuration.
        kind: ``divergences`` or ``samples``, which is also the folder of their files.
        file: of the configuration, for messages.
    """

    def __init__(self, plan: Scores, kind: str, file: Path) -> None:
        self._plan = plan
        self._file = file
        self._pairs: dict[str, list[tuple[str, str]]] = {}
        self._by_source: dict[str, dict[str, list[tuple[str, str]]]] = {}
        self.kind = kind

    @property
    def analysis(self) -> str:
        """The analysis that asks for them."""
        return "true_kl" if self.kind == DIVERGENCES else "generation"

    def of(self, texts: str) -> list[tuple[str, str]]:
        """Names of the pairs of models of a text set."""
        if texts not in self._pairs:
            config = self._plan.config
            found = (
                divergences.pairs(config, texts)
                if self.kind == DIVERGENCES
                else divergences.sampled(config, texts)
            )
            self._pairs[texts] = found
        return self._pairs[texts]

    def needing(self, texts: str, source: str) -> list[tuple[str, str]]:
        """The pairs of a text set that need the weights of a source."""
        if texts not in self._by_source:
            found: dict[str, list[tuple[str, str]]] = {}
            for pair in self.of(texts):
                for needed in set(self.sources(texts, *pair)):
                    found.setdefault(needed, []).append(pair)
            self._by_source[texts] = found
        return self._by_source[texts].get(source, [])

    def settings(self, texts: str, first: str, second: str) -> dict[str, Any]:
        """What decides the numbers of a pair."""
        pair = [json.loads(self._plan.spec(texts, model)) for model in (first, second)]
        for spec in pair:
            # Responses without their prompts, which a score can have too, are none of theirs.
            spec.pop("pmi", None)
        asked = self._plan.config.analyses
        if self.kind == DIVERGENCES:
            number = None if asked.true_kl is None else asked.true_kl.texts
            return {"kind": "divergence", "number": number, "pair": pair}
        how = {} if asked.generation is None else asked.generation.model_dump()
        kept = ("prompts", "samples", "tokens", "temperature", "mauve", "seed")
        return {"kind": "samples", "pair": pair, **{key: how.get(key) for key in kept}}

    def spec(self, texts: str, first: str, second: str) -> str:
        """The same as JSON."""
        return json.dumps(self.settings(texts, first, second), sort_keys=True)

    def file(self, texts: str, first: str, second: str) -> str:
        """File of a pair."""
        digits = fingerprint(self.settings(texts, first, second))
        return self._path(texts, first, second, digits)

    def _path(self, texts: str, first: str, second: str, digits: str) -> str:
        return f"{self._plan.results}/{texts}/{self.kind}/{first}{BETWEEN}{second}.{digits}.h5"

    def asked(self, texts: str, first: str, second: str, digits: str) -> tuple[str, str, str]:
        """Text set and names of a pair, which must be what the name of its file says.

        Raises:
            ConfigError: the configuration no longer asks for this comparison.
        """
        job = self._path(texts, first, second, digits)
        known = texts in self._plan.config.texts and (first, second) in self.of(texts)
        if not known or self.file(texts, first, second) != job:
            raise ConfigError(
                f"{self._file}: the configuration does not ask for {job}: it was edited while the "
                "job waited, or the name is mistyped. Nothing was computed; run snakemake again."
            )
        return texts, first, second

    def sources(self, texts: str, first: str, second: str) -> list[str]:
        """Sources of the two models of a pair."""
        scored = self._plan.config.scored_on[texts]
        return [scored[model].source for model in (first, second)]

    def cards(self, texts: str, first: str, second: str) -> list[str]:
        """Cards of the two models of a pair."""
        return [self._plan.card(source) for source in self.sources(texts, first, second)]

    def weights(self, texts: str, first: str, second: str) -> list[str]:
        """Weights of the two models of a pair; the same where one is a variant of the other."""
        return [self._plan.weights(source) for source in self.sources(texts, first, second)]

    def handed_over(self, texts: str) -> set[str]:
        """Files of finished pairs whose weights are fetched again for something else."""
        return {
            self.file(texts, *pair)
            for pair in self.of(texts)
            if any(map(self._plan.is_partly_finished, self.sources(texts, *pair)))
            and self.is_made(texts, *pair)
        }

    def is_made(self, texts: str, first: str, second: str) -> bool:
        """Whether a pair is done, and nothing that it was made from is newer."""
        made = self.file(texts, first, second)
        return self._plan.is_newer(made, texts, *self.sources(texts, first, second))
