"""What a configuration asks for: the scores, where they lie, and what is there.

Every process of the workflow makes a `Plan` when it starts, and asks it several times for each of
thousands of jobs. So nothing heavy is imported, and whatever the configuration decides is worked
out once. What follows from a plan is in ``plan_tables`` (which list it), ``turns``, ``products``
(maps and analyses), ``arguments`` (command lines) and ``submission`` (what jobs ask for).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from klmap import pair_jobs, references, zoo_runs
from klmap.config import Config, fingerprint
from klmap.config_models import ModelEntry
from klmap.config_published import Published
from klmap.config_texts import SelectionTexts
from klmap.errors import ConfigError, InputError
from klmap.files import read_json
from klmap.pair_jobs import PairJobs

_MOST_LAYERS = 40
"""Blocks that a model is taken to have where all hidden states are asked for (own)."""


class Plan:
    """The scores of a configuration, and the models behind them.

    Args:
        config: the configuration.
        file: the file that messages name.

    Attributes:
        config: the configuration.
        results: the results folder, as configured.
        models_of: names on the map of the models of each source.
        places: rank of each source in the configuration; the first is 0.
        zoo: folder of the demo models.
        references: of each text set that is a selection, the text set that it is one of.
        merges_of: sources of the merges that each source is a part of.
        divergences: the pairs of models that are compared token by token.
        samples: the pairs that are compared by texts which they write.

    Raises:
        ConfigError: there is no such model in the demo zoo, or no such reference.
    """

    def __init__(self, config: Config, file: Path) -> None:
        self.config = config
        self.results = config.results
        self.zoo = f"{self.results}/models/_zoo"
        self.models_of: dict[str, list[str]] = {}
        for slug, entry in config.by_slug.items():
            self.models_of.setdefault(entry.source, []).append(slug)
        sources = dict.fromkeys(entry.source for entry in config.models)
        self.places = {source: place for place, source in enumerate(sources)}
        self._file = file
        self._zoo_models = {
            entry.source: zoo_runs.locate(entry.repository, entry.effective_revision)
            for entry in config.models
            if entry.is_demo
        }
        self.references = {name: references.find(config, name, file) for name in config.selections}
        self._recipes = {name: self._recipe(name) for name in config.texts}
        self._specs: dict[tuple[str, str], str] = {}
        self._scores: dict[tuple[str, str], str] = {}
        self._finished: dict[tuple[str, str], bool] = {}
        self._partly: dict[str, bool] = {}
        self.divergences = PairJobs(self, pair_jobs.DIVERGENCES, file)
        self.samples = PairJobs(self, pair_jobs.SAMPLES, file)
        self._revisions: Counter[str] = Counter()
        self.merges_of: dict[str, list[str]] = {}
        for entry in config.by_source.values():
            for part in self.parts(entry.source):
                self.merges_of.setdefault(part, []).append(entry.source)

    # Scores

    def spec(self, texts: str, model: str) -> str:
        """Settings of one score as JSON.

        Args:
            texts: name of the text set.
            model: name of the model on the map.
        """
        texts = self.config.scored_as(texts)
        key = texts, model
        if key not in self._specs:
            spec = self.config.spec(texts, self.config.by_slug[model], self._recipes[texts])
            self._specs[key] = json.dumps(spec, sort_keys=True)
        return self._specs[key]

    def score(self, texts: str, model: str) -> str:
        """File of one model's score; that of the same responses for PMI."""
        texts = self.config.scored_as(texts)
        key = texts, model
        if key not in self._scores:
            digits = fingerprint(json.loads(self.spec(texts, model)))
            self._scores[key] = f"{self.results}/{texts}/scores/{model}.{digits}.h5"
        return self._scores[key]

    def is_finished(self, texts: str, model: str) -> bool:
        """Whether a score is there and no older than the cards and the manifest it was made from.

        Looked up once: a plan does not change while it is made.
        """
        texts = self.config.scored_as(texts)
        key = texts, model
        if key not in self._finished:
            source = self.config.by_slug[model].source
            self._finished[key] = self.is_newer(self.score(texts, model), texts, source)
        return self._finished[key]

    def _manifest(self, texts: str) -> str:
        return f"{self.results}/{texts}/texts.json"

    def is_newer(self, made: str, texts: str, *sources: str) -> bool:
        """Whether a file is there, and nothing that it was made from is newer.

        Args:
            made: the file.
            texts: name of the text set.
            sources: of the models.
        """
        return _is_newer(made, (*self._cards(*sources), self._manifest(texts)))

    def is_partly_finished(self, source: str) -> bool:
        """Whether some of what is made from a source's weights is there, and some is not.

        A merge that is finished counts too where the weights of a part of it come again.
        """
        if source not in self._partly:
            done = set(self.are_finished(source))
            again = False in done or any(map(self.is_partly_finished, self.parts(source)))
            self._partly[source] = True in done and again
        return self._partly[source]

    def _cards(self, *sources: str) -> Iterator[str]:
        """Cards of sources, and those that the card of a merge follows from."""
        for source in sources:
            yield self.card(source)
            yield from self._cards(*self.parts(source))

    def are_finished(self, source: str) -> Iterator[bool]:
        """Of each score and comparison that needs a source's weights, whether it is there."""
        for texts, scored in self.config.scored_on.items():
            for model in self.models_of[source]:
                if model in scored:
                    yield self.is_finished(texts, model)
            for jobs in (self.divergences, self.samples):
                for pair in jobs.needing(texts, source):
                    yield jobs.is_made(texts, *pair)
        for merge in self.merges_of.get(source, ()):
            yield from self.are_finished(merge)

    def entry(self, texts: str, model: str, digits: str) -> ModelEntry:
        """The configured model behind a score, which must be what its file name says.

        Args:
            texts: name of the text set.
            model: name of the model on the map.
            digits: the fingerprint in the name of the file.

        Raises:
            ConfigError: the configuration no longer asks for this score; it was edited while the
                job waited, or the file was asked for by hand.
        """
        entry = self.config.by_slug.get(model)
        if entry is None or model not in self.config.scored_on.get(texts, ()):
            raise ConfigError(
                f"{self._file}: no model {model!r} for the texts {texts!r}; it was removed while "
                "its job waited, or the name is mistyped"
            )
        asked = self.score(texts, model)
        job = f"{self.results}/{texts}/scores/{model}.{digits}.h5"
        if asked != job:
            raise ConfigError(
                f"{self._file}: this job is to write {job}, but the configuration now asks for "
                f"{asked}: it was edited while the job waited. Nothing was computed; run "
                "snakemake again."
            )
        return entry

    # What scores are made from

    def source(self, source: str) -> ModelEntry:
        """The configured model that a folder of `models` belongs to.

        Raises:
            ConfigError: no configured model has this source.
        """
        try:
            return self.config.by_source[source]
        except KeyError:
            raise ConfigError(f"{self._file}: no model is filed under {source!r}") from None

    def release(self, name: str) -> Published:
        """A configured release.

        Raises:
            ConfigError: the configuration has no such release.
        """
        try:
            return self.config.published[name]
        except KeyError:
            known = ", ".join(self.config.published) or "none"
            raise ConfigError(
                f"{self._file}: published: no release {name!r}; configured: {known}"
            ) from None

    def reference_name(self, texts: str) -> str:
        """The configured text set that another one is a selection of; empty if there is none."""
        reference = self.references.get(texts)
        return "" if reference is None else reference.name

    def reference_title(self, texts: str) -> str:
        """What people call the text set that another one is a selection of; empty for others."""
        reference = self.references.get(texts)
        return "" if reference is None else Path(reference.folder).name

    def models_on(self, texts: str) -> int:
        """The most models on one map: those of a release are known when its files are read."""
        released = [each for each in self.config.published.values() if each.texts == texts]
        own = self._rows(self.config.mapped_on[texts].values())
        own += sum(each.count for each in released)
        return own + self.models_of_reference(texts)

    def models_off(self, texts: str) -> int:
        """The most models that are scored on a text set and kept off its map."""
        return self._rows(self.config.unmapped_on[texts].values())

    @staticmethod
    def _rows(entries: Iterable[ModelEntry]) -> int:
        """How many rows models are on a map at the most, with their hidden states."""
        rows = 0
        for entry in entries:
            hidden = 0 if entry.layers is None else _MOST_LAYERS
            rows += 1 + (len(entry.layers) if isinstance(entry.layers, list) else hidden)
        return rows

    def models_of_reference(self, texts: str) -> int:
        """The most models of the text set that another one is a selection of; 0 for others."""
        reference = self.references.get(texts)
        if reference is None:
            return 0
        return self.models_on(reference.name) if reference.name else reference.models

    def sizes(self, texts: str) -> tuple[int | None, int]:
        """How many texts a set has at the most, None if nobody knows, and how long they can be.

        Returns:
            Number of texts, and UTF-8 bytes.
        """
        configured = self.config.texts[texts]
        if not isinstance(configured, SelectionTexts):
            return configured.n, configured.max_bytes
        reference = self.references[texts]
        if reference.name:
            most, longest = self.sizes(reference.name)
        else:
            most, longest = reference.texts, reference.max_bytes
        known = [number for number in (configured.n, most) if number is not None]
        return min(known, default=None), longest

    def is_drawn(self, texts: str) -> bool:
        """Whether a selection is there, of the texts that its reference has and is to have."""
        reference = self.references[texts]
        made, of = Path(self.results, texts), Path(reference.folder)
        try:
            found = read_json(made / "texts.json")["selection"]["reference"]
            manifest = read_json(of / "texts.json")
        except (InputError, KeyError, TypeError):
            return False
        wanted = self._recipes[reference.name] if reference.name else manifest.get("recipe")
        same = found.get("texts_sha256") == manifest.get("sha256")
        return same and manifest.get("recipe") == wanted and (made / "selection.h5").is_file()

    def recipe(self, texts: str) -> str:
        """What decides which texts come out, as JSON.

        Raises:
            ConfigError: the configuration has no such text set.
        """
        if texts not in self.config.texts:
            raise ConfigError(
                f"{self._file}: texts: no text set {texts!r}; configured: "
                f"{', '.join(self.config.texts)}"
            )
        return json.dumps(self._recipes[texts], sort_keys=True)

    def _recipe(self, texts: str) -> dict[str, Any]:
        recipe = self.config.recipe(texts)
        reference = self.references.get(texts)
        if reference is not None and reference.recipe is not None:
            recipe["of"] = reference.recipe
        return recipe

    def card(self, source: str) -> str:
        """File of a source's card."""
        return f"{self.results}/models/{source}/card.json"

    def weights(self, source: str) -> str:
        """Folder of a source's weights."""
        return f"{self.results}/models/{source}/weights"

    def parts(self, source: str) -> list[str]:
        """Sources of what a merge is made of, as configured; none for any other model."""
        merge = self.config.by_source[source].merge
        found = [] if merge is None else [self.config.part(name) for name in merge.of]
        return [entry.source for entry in found if entry is not None]

    def shares(self, source: str) -> list[float]:
        """The share of each of its parts in the weights of a merge; none for any other model."""
        merge = self.config.by_source[source].merge
        return [] if merge is None else merge.weights[0]

    def is_checkpoint(self, source: str) -> bool:
        """Whether a source is one of at least three revisions of one repository."""
        if not self._revisions:
            sources = self.config.by_source.values()
            self._revisions.update(entry.repository for entry in sources)
        return self._revisions[self.config.by_source[source].repository] > 2

    def zoo_run(self, source: str) -> list[str]:
        """The training run that builds a demo model; nothing for any other model."""
        if self.source(source).is_demo:
            return [f"{self.zoo}/runs/{self._zoo_models[source][0]}"]
        return []

    def zoo_parents(self, run: str) -> list[str]:
        """The runs whose last models a run of the demo zoo starts from."""
        return [f"{self.zoo}/runs/{parent}" for parent in zoo_runs.RUNS[run].parents]

    def folder(self, source: str) -> str:
        """The folder on this machine that holds a model, or nothing for one of the Hub."""
        entry = self.config.by_source[source]
        if entry.is_demo:
            return "/".join((self.zoo, "runs", *self._zoo_models[source]))
        return str(Path(entry.repository).expanduser()) if entry.is_local else ""

    def runs_code(self, source: str) -> bool:
        """Whether the code of a repository is fetched: one of its models opted in."""
        return any(self.config.by_slug[model].remote_code for model in self.models_of[source])


def _is_newer(made: str, made_from: Sequence[str]) -> bool:
    """Whether a file is there, and none that it was made from is newer or missing."""
    try:
        when = Path(made).stat().st_mtime
        return all(Path(path).stat().st_mtime <= when for path in made_from)
    except OSError:
        return False
