"""config.yaml: every key, its default, its check and its documentation.

The pydantic models here are the single source: the JSON schema for editors, the fingerprints of
the scores and the names of all files come from them; ``klmap.configfile`` reads and checks a file
against them. Importable without torch, numpy or
Snakemake, because every Snakemake process reads it while it parses the workflow.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from klmap.config_analyses import Analyses
from klmap.config_models import (
    Dtype,
    Likelihood,
    Merge,
    ModelEntry,
    Overlength,
    Prefix,
    source_of,
)
from klmap.config_prompts import PMI, Strict
from klmap.config_published import Published
from klmap.config_texts import DrawnTexts, SelectionTexts, TextSet, VariantTexts
from klmap.files import canonical
from klmap.likelihoods import CAUSAL

SCORER_VERSION = 1
"""Number of the scoring protocol; raised by hand when the numbers of a score change."""

RESERVED_TEXT_NAMES = ("models", "published")


class Scoring(Strict):
    """How log-likelihoods are computed, unless a model says otherwise."""

    dtype: Dtype = "auto"
    """float32, float16, bfloat16, or auto: the most exact that is fast on the device."""
    prefix: Prefix = "default"
    """default: the special tokens the tokenizer adds by itself, as in the published vectors.
    bos: exactly one beginning-of-sequence token, so that every real token is scored."""
    overlength: Overlength = "window"
    """Texts longer than the context: window scores every token once, truncate cuts as published,
    fail refuses."""
    keep_tokens: bool = False
    """Also store the log-probability of every token."""
    likelihood: Likelihood = CAUSAL
    """What stands for the log-likelihood of a text: causal, that of a model that reads from left to
    right; masked, the pseudo-log-likelihood of a masked language model; seq2seq, that of a response
    by an encoder-decoder which has read the prompt; prefix, that of a response by a model which
    reads the prompt in both directions (docs/extending.md). Models of two kinds stand on one map
    only where `map.mixed_likelihoods` says so."""


class Map(Strict):
    """Settings of the layout, the distances and the figures."""

    method: Literal["tsne", "opentsne", "umap", "pca"] = "tsne"
    """Layout method. tsne is scikit-learn's as published, and openTSNE above `dense_limit` models;
    opentsne is openTSNE for any number."""
    stable: Literal[True, False, "fixed"] = True
    """Models keep their places, as far as the distances allow, when others are added. With false
    every layout is made afresh, as it is where layout.tsv has been removed. With `fixed` (t-SNE
    only) models whose log-likelihoods are the same do not move at all, and the others are placed
    among them."""
    metric: Literal["euclidean", "sqeuclidean"] = "euclidean"
    """What t-SNE calls a distance: the square root of KL, or KL itself as in the first paper."""
    perplexity: float = Field(30, gt=1)
    """t-SNE perplexity; lowered by itself for few models."""
    iterations: int = Field(1000, ge=500)
    """t-SNE iterations, of which the first 250 only gather groups; 10,000 in the published map."""
    seed: int = 42
    """Seed of the layout and of the bootstrap."""
    color_by: Literal[
        "family", "architecture", "parameters", "bits_per_byte", "created_at", "base_model"
    ] = "family"
    """The column of models.tsv that colours the points."""
    clip_threshold: float | None = None
    """Nats; lower log-likelihoods count as this one. Null takes the 2 % quantile of all values;
    give the number stored in another matrix.h5 to place models on that map."""
    neighbors: int = Field(10, ge=1)
    """How many nearest models are listed for each model."""
    dense_limit: int = Field(5000, ge=2)
    """Up to this many models all pairs are stored, above it only the neighbours; what needs all
    pairs (tree, heatmap, ellipses, maps by domain) is then left out."""
    bootstrap: int = Field(100, ge=0)
    """Bootstrap samples of the texts, for the support of each join of the tree and the ellipses;
    0 for none."""
    ellipses: bool = False
    """Also draw each model's 95 % ellipse: where other samples of the texts would place it. Needs
    at least two bootstrap samples."""
    domains: bool = True
    """Also draw one map for each domain of the texts."""
    mixed_likelihoods: bool = False
    """Let models whose `likelihood` is of different kinds stand on one map. Their distances are no
    KL divergences."""

    @model_validator(mode="after")
    def _fixed_by_tsne(self) -> Map:
        if self.stable == "fixed" and self.method not in ("tsne", "opentsne"):
            raise ValueError(
                f"stable: fixed needs method: tsne or opentsne, found {self.method!r}; with "
                "stable: true models stay as near as the method allows"
            )
        return self


class Hardware(Strict):
    """What the machines offer. Never part of a fingerprint."""

    gpu_memory_gb: float = Field(80, gt=0)
    """Memory of one GPU."""
    max_gpus: int = Field(4, ge=0)
    """GPUs one job may ask for; 0 for a machine without."""
    cpus: int = Field(4, ge=1)
    """CPUs of one scoring job."""
    disk_budget_gb: float = Field(500, gt=0)
    """How much disk downloaded weights may hold at one time; fetching waits for its turn."""
    download_on: Literal["head", "nodes"] = "head"
    """Where models are looked up and downloaded: on the machine that runs Snakemake, because
    compute nodes often have no internet, or in jobs of their own like everything else."""
    mirrors: list[str] = Field(default_factory=list)
    """Caches of the Hub filled by others (`models--org--name`), or folders with `org/name` in
    them. What they hold is linked instead of downloaded; one's own cache always counts."""
    batch_tokens: int | None = Field(None, ge=1)
    """Tokens per batch; null chooses by device."""


class Config(Strict):
    """The whole of config.yaml."""

    results: str = Field("results", pattern=r"^[A-Za-z0-9._/~-]+$")
    """Where everything is written; a path without spaces."""
    given: dict[str, TextSet] = Field(min_length=1, alias="texts")
    """One map per text set."""
    entries: list[ModelEntry] = Field(default_factory=list, alias="models")
    """One model per line, or several of one kind."""
    model_files: list[str] = Field(default_factory=list)
    """Further models: .yaml lists or .tsv sheets with the same keys."""
    published: dict[str, Published] = Field(default_factory=dict)
    """Log-likelihoods that others have computed, each release under a name of its own; its models
    stand on the map of their text set."""
    scoring: Scoring = Scoring()
    """How log-likelihoods are computed."""
    on_model_failure: Literal["stop", "skip"] = "stop"
    """stop: no map until every model has a score. skip: the map is drawn without the failed
    ones."""
    map: Map = Map()
    """How the map is drawn."""
    hardware: Hardware = Hardware()
    """What the machines offer."""
    analyses: Analyses = Analyses()
    """Analyses beyond the map."""

    @field_validator("entries", mode="before")
    @classmethod
    def _plain_ids(cls, value: Any) -> Any:
        if isinstance(value, list):
            return [{"id": item} if isinstance(item, str) else item for item in value]
        return value

    @cached_property
    def texts(self) -> dict[str, TextSet | VariantTexts]:
        """Every text set: those that are given, each with its variants behind it."""
        found: dict[str, TextSet | VariantTexts] = {}
        for name, texts in self.given.items():
            found[name] = texts
            if not isinstance(texts, SelectionTexts):
                found |= {
                    f"{name}.{edit or PMI}": VariantTexts(of=name, base=texts, edit=edit)
                    for edit in [*texts.edits, *([None] if texts.pmi else [])]
                }
        # Two of one name are refused; until then it is that of the one which is given.
        return found | self.given

    @cached_property
    def variants(self) -> dict[str, VariantTexts]:
        """The text sets that follow from others with prompts."""
        return {
            name: texts for name, texts in self.texts.items() if isinstance(texts, VariantTexts)
        }

    @cached_property
    def edited(self) -> dict[str, dict[str, str]]:
        """Names of the edited text sets of each text set with prompts, by the name of the edit."""
        found: dict[str, dict[str, str]] = {}
        for name, texts in self.variants.items():
            if texts.edit is not None:
                found.setdefault(texts.of, {})[texts.edit] = name
        return found

    @cached_property
    def paired(self) -> dict[str, DrawnTexts]:
        """The text sets whose texts are responses to prompts, but for variants of these."""
        return {
            name: texts
            for name, texts in self.given.items()
            if not isinstance(texts, SelectionTexts) and texts.is_paired
        }

    def scored_as(self, texts: str) -> str:
        """The text set whose scores stand on a map: for PMI that of the same responses.

        Args:
            texts: name of the text set.
        """
        variant = self.variants.get(texts)
        return texts if variant is None or variant.edit is not None else variant.of

    @cached_property
    def models(self) -> list[ModelEntry]:
        """Every model that is to be scored: the entries, with those that stand for several."""
        return [model for entry in self.entries for model in entry.models]

    @cached_property
    def by_slug(self) -> dict[str, ModelEntry]:
        """Every model under its name on the map."""
        return {entry.slug: entry for entry in self.models}

    @cached_property
    def by_source(self) -> dict[str, ModelEntry]:
        """One model for every source; variants of a source share its weights."""
        return {entry.source: entry for entry in self.models}

    def part(self, name: str) -> ModelEntry | None:
        """The model that something is made of; None if it is not configured.

        Args:
            name: its id, with ``@revision`` behind it where there is one, or its name on the map.
        """
        return self.by_slug.get(name) or self.by_source.get(source_of(name))

    def _parts(self, merge: Merge) -> list[str]:
        """What a merge is made of, spelled in one way however the configuration names it."""
        found = [(name, self.part(name)) for name in merge.of]
        return [
            name
            if part is None
            else "@".join(filter(None, [part.repository, part.effective_revision]))
            for name, part in found
        ]

    @cached_property
    def selections(self) -> dict[str, SelectionTexts]:
        """The text sets that are selections of others."""
        return {
            name: texts for name, texts in self.texts.items() if isinstance(texts, SelectionTexts)
        }

    @cached_property
    def scored_on(self) -> dict[str, dict[str, ModelEntry]]:
        """The models that are scored on each text set, by their names on the map, as configured.

        Nothing is scored for PMI alone.
        """
        own = [name for name in self.texts if self.scored_as(name) == name]
        found: dict[str, dict[str, ModelEntry]] = {name: {} for name in own}
        for slug, entry in self.by_slug.items():
            named = self._named(entry)
            for name in own:
                if name not in named:
                    continue
                selection = self.selections.get(name)
                if selection is None or selection.of not in named or selection.of not in self.texts:
                    found[name][slug] = entry
        return found

    def _named(self, entry: ModelEntry) -> set[str]:
        """The text sets that a model is to be scored on.

        A text set means its edited ones too, unless some of these are named themselves. Shifts are
        those of models on the map.
        """
        named = set(self.given if entry.texts is None else entry.texts)
        for name in [*named] if entry.on_map else ():
            edited = set(self.edited.get(name, {}).values())
            if not edited & named:
                named |= edited
        return named

    @cached_property
    def mapped_on(self) -> dict[str, dict[str, ModelEntry]]:
        """Of these, the ones that stand on the map of each text set."""
        return self._standing(True)

    @cached_property
    def unmapped_on(self) -> dict[str, dict[str, ModelEntry]]:
        """The others, which analyses use alone."""
        return self._standing(False)

    def _standing(self, on_map: bool) -> dict[str, dict[str, ModelEntry]]:
        """The models of each text set that stand on its map, or those that do not."""
        return {
            name: {
                slug: entry
                for slug, entry in self.scored_on[self.scored_as(name)].items()
                if entry.on_map == on_map
            }
            for name in self.texts
        }

    def recipe(self, texts: str) -> dict[str, Any]:
        """What decides the texts of a set, and those of its reference where that is configured.

        Args:
            texts: name of the text set.
        """
        recipe = self.texts[texts].recipe()
        selection = self.selections.get(texts)
        if selection is not None and selection.of in self.texts:
            recipe["of"] = self.texts[selection.of].recipe()
        return recipe

    def likelihood(self, entry: ModelEntry) -> str:
        """What stands for the log-likelihood of a text by a model."""
        return entry.likelihood or self.scoring.likelihood

    def spec(
        self, texts: str, entry: ModelEntry, recipe: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The science of one score, and nothing else: what the fingerprint hashes.

        Args:
            texts: name of the text set.
            entry: the model.
            recipe: of the texts, where it does not follow from the configuration alone.
        """
        spec: dict[str, Any] = {
            "id": entry.repository,
            "revision": entry.effective_revision,
            "dtype": entry.dtype or self.scoring.dtype,
            "quantization": None if entry.quantization == "none" else entry.quantization,
            "prefix": entry.prefix or self.scoring.prefix,
            "overlength": entry.overlength or self.scoring.overlength,
            "texts": self.recipe(texts) if recipe is None else recipe,
            "scorer_version": SCORER_VERSION,
        }
        # Left out, not None, where there is none: the specs of earlier scores stay as they are,
        # to the letter, and Snakemake compares letters.
        if entry.remote_code:
            spec["remote_code"] = True
        if spec["quantization"] in ("nf4", "fp4"):
            # Raised when numbers of these alone change: on a CPU, rows that were no whole number
            # of blocks were unpacked with the wrong scales.
            spec["four_bit_version"] = 2
        if entry.layers is not None:
            spec["layers"] = entry.layers
        if (likelihood := self.likelihood(entry)) != CAUSAL:
            spec["likelihood"] = likelihood
        if texts in self.paired and self.paired[texts].pmi:
            spec["pmi"] = True
        if entry.merge is not None:
            spec["merge"] = {"of": self._parts(entry.merge), "weights": entry.merge.weights[0]}
        return spec


def fingerprint(spec: Mapping[str, Any]) -> str:
    """12 hexadecimal digits of a score's settings.

    Keys that are None are left out and the rest sorted, so a new optional key changes no old
    fingerprint and the order of keys never matters.
    """
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:12]


def json_schema() -> str:
    """The JSON schema of config.yaml, for editors."""
    for section in _sections(Strict):
        _describe(section)
    schema = Config.model_json_schema(by_alias=True)
    entry = schema["properties"]["models"]["items"]
    schema["properties"]["models"]["items"] = {"anyOf": [{"type": "string"}, entry]}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"


def _sections(base: type[Strict]) -> Iterator[type[Strict]]:
    """All classes below one, each before those below it."""
    for section in base.__subclasses__():
        yield section
        yield from _sections(section)


def _describe(section: type[Strict]) -> None:
    """Make the string below each key its description.

    pydantic does so by itself where it is asked to, but then every process that starts looks for
    the source of each class, which takes longer than all the rest of the configuration.
    """
    for parent in section.__bases__:
        for name, field in getattr(parent, "model_fields", {}).items():
            section.model_fields[name].description = field.description
    (tree,) = ast.parse(inspect.getsource(section)).body
    for key, below in itertools.pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
        match key, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                section.model_fields[name].description = inspect.cleandoc(text)
    section.model_rebuild(force=True)
