"""What a configuration asks for: the scores, where they lie, what is there, and whose turn it is.

Every process of the workflow makes a `Plan` when it starts, and asks it several times for each of
thousands of jobs. So nothing heavy is imported, and whatever the configuration decides is worked
out once. What follows from a plan is in ``products`` (maps and analyses), ``arguments`` (command
lines) and ``submission`` (what jobs ask for).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from klmap import references, zoo_runs
from klmap.config import Config, ModelEntry, fingerprint
from klmap.config_published import Published
from klmap.config_texts import SelectionTexts
from klmap.errors import ConfigError, InputError
from klmap.files import read_json

PLAN_COLUMNS = ("model", "source", "texts", "score", "dtype", "quantization")
"""Columns of the table of scores that pre-flight and status read."""

_FETCH, _SCORE, _RESOLVE, _STAGES = range(4)


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

    # Scores

    def spec(self, texts: str, model: str) -> str:
        """Settings of one score as JSON.

        Args:
            texts: name of the text set.
            model: name of the model on the map.
        """
        key = texts, model
        if key not in self._specs:
            spec = self.config.spec(texts, self.config.by_slug[model], self._recipes[texts])
            self._specs[key] = json.dumps(spec, sort_keys=True)
        return self._specs[key]

    def score(self, texts: str, model: str) -> str:
        """File of one model's score."""
        key = texts, model
        if key not in self._scores:
            digits = fingerprint(json.loads(self.spec(texts, model)))
            self._scores[key] = f"{self.results}/{texts}/scores/{model}.{digits}.h5"
        return self._scores[key]

    def is_finished(self, texts: str, model: str) -> bool:
        """Whether a score is there and no older than the card and the manifest it was made from.

        Looked up once: a plan does not change while it is made.
        """
        key = texts, model
        if key not in self._finished:
            made_from = (
                self.card(self.config.by_slug[model].source),
                f"{self.results}/{texts}/texts.json",
            )
            try:
                made = Path(self.score(texts, model)).stat().st_mtime
                self._finished[key] = all(Path(path).stat().st_mtime <= made for path in made_from)
            except OSError:
                self._finished[key] = False
        return self._finished[key]

    def is_partly_finished(self, source: str) -> bool:
        """Whether some scores of a source are there and others are not."""
        models = set(self.models_of[source])
        scores = [
            (texts, model)
            for texts, scored in self.config.scored_on.items()
            for model in models.intersection(scored)
        ]
        return len(scores) > 1 and len({self.is_finished(*score) for score in scores}) > 1

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
        own = len(self.config.scored_on[texts]) + sum(each.count for each in released)
        return own + self.models_of_reference(texts)

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

    # Tables

    def index_rows(self, texts: str) -> list[str]:
        """One tab-separated line per model that is scored: what the aggregation has to join."""
        rows = []
        for model, entry in sorted(self.config.scored_on[texts].items()):
            variant = (entry.quantization, entry.dtype, entry.prefix, entry.overlength)
            cells = [
                model,
                entry.source,
                self.score(texts, model).rsplit(".", 2)[1],
                entry.repository,
                entry.effective_revision or "",
                entry.family or "",
                "+".join(part for part in variant if part),
            ]
            rows.append("\t".join(cells))
        return rows

    def source_header(self) -> str:
        """First line of the table of sources."""
        return "\t".join(self._source_columns())

    def _source_columns(self) -> list[str]:
        """Columns of the table of sources; the last one only where some model opted in to it."""
        columns = ["source", "id", "revision", "folder"]
        return columns + ["remote_code"] * any(map(self.runs_code, self.models_of))

    def source_rows(self) -> list[str]:
        """One tab-separated line per configured source: what refresh has to ask about."""
        columns = self._source_columns()
        rows = []
        for source, entry in sorted(self.config.by_source.items()):
            cells = {
                "source": source,
                "id": entry.repository,
                "revision": entry.effective_revision or "",
                "folder": self.folder(source),
                "remote_code": "true" if self.runs_code(source) else "",
            }
            rows.append("\t".join(cells[column] for column in columns))
        return rows

    def score_rows(self) -> list[str]:
        """One tab-separated line per wanted score: what pre-flight has to look for."""
        rows = []
        for texts in sorted(self.config.texts):
            for model, entry in sorted(self.config.scored_on[texts].items()):
                spec = json.loads(self.spec(texts, model))
                made_as = [spec["dtype"], spec["quantization"] or ""]
                path = self.score(texts, model)
                rows.append("\t".join([model, entry.source, texts, path, *made_as]))
        return rows

    # Turns: later stages go first, and within one the order of the configuration counts.
    # Scoring goes before fetching, because it makes room; looking up goes before both, because it
    # is cheap and says early what cannot be scored.

    @property
    def first(self) -> int:
        """Priority of what others wait for: the texts, and the demo's training runs."""
        return (_STAGES + 1) * len(self.places)

    def resolve_turn(self, source: str) -> int:
        """Priority of looking up a model."""
        return self._turn(source, _RESOLVE)

    def score_turn(self, model: str) -> int:
        """Priority of a score."""
        return self._turn(self.config.by_slug[model].source, _SCORE)

    def fetch_turn(self, source: str) -> int:
        """Priority of a download."""
        return self._turn(source, _FETCH)

    def _turn(self, source: str, stage: int) -> int:
        return (stage + 1) * len(self.places) - self.places[source]
