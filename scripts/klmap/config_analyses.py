"""The section `analyses` of config.yaml: what is worked out beyond the map.

Each class documents its keys as ``klmap.config`` does. An analysis is off until it is named;
`predict: {}` runs it with the defaults.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from klmap.config_prompts import Strict

NAMES = (
    *("predict", "leakage", "axes", "contrast", "robustness", "resample"),
    *("scale", "trajectories", "merges", "quantization", "true_kl"),
    *("prompts", "mixture", "generation"),
)
"""All analyses; each is a rule, a script and a folder of this name."""

NEED_BENCHMARKS = ("predict", "leakage")
"""Analyses that are left out where there are no benchmark scores."""


NEED_ALL_TEXTS = (
    *("robustness", "resample", "trajectories", "merges", "quantization", "true_kl"),
    *("prompts", "mixture", "generation"),
)
"""Analyses of what depends on the texts; they are left out for selections of texts."""


OF_WHOLE_SETS = (
    *("leakage", "robustness", "trajectories", "merges", "true_kl"),
    *("prompts", "mixture", "generation"),
)
"""Analyses of log-likelihoods themselves, or of several text sets; they are left out for PMI."""


class Predict(Strict):
    """Benchmark scores predicted from the models' coordinates."""

    tasks: list[str] = Field(default_factory=list)
    """Which columns of the benchmark tables; all without any."""
    features: list[Literal["Q", "L"]] = Field(default=["Q", "L"], min_length=1)
    """Q: double-centred coordinates, as published. L: log-likelihoods as they are, for comparison.
    Models without scores are predicted from the first one."""
    folds: int = Field(5, ge=2)
    """Parts in which the models are divided."""
    seeds: int = Field(5, ge=1)
    """How many divisions."""
    curve: bool = True
    """Also measure how the error falls with the number of models."""


class Leakage(Strict):
    """Models whose log-likelihood is too high for their benchmark scores."""

    tasks: list[str] = Field(default_factory=list)
    """Which columns of the benchmark tables, whose mean is taken; without any `6-TaskMean` or
    `mean` if there is one, else those that about the same models have."""


class Axes(Strict):
    """Principal axes of the map: what sets models apart."""

    components: int = Field(10, ge=2)
    """How many axes are described."""
    ends: int = Field(10, ge=1)
    """How many texts are listed at either end of an axis."""


class Comparison(Strict):
    """Two models, two groups of models, or one group in itself."""

    first: list[str] = Field(min_length=1)
    """Names on the map, ids, or `family:NAME`."""
    second: list[str] | None = Field(None, min_length=1)
    """The same; without it the models of `first` are compared with each other."""
    texts: list[str] | None = Field(None, min_length=1)
    """Text sets on which to compare them; all without any."""

    @field_validator("first", "second", "texts", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Contrast(Strict):
    """Which domains and which texts carry the distance between models."""

    comparisons: dict[str, Comparison] = Field(min_length=1)
    """What to compare, each under a name of its own."""
    ends: int = Field(20, ge=1)
    """How many texts are listed for each."""


class Robustness(Strict):
    """How far distances depend on the texts."""

    splits: int = Field(50, ge=2)
    """How often the texts are divided into two random halves."""
    draws: int = Field(20, ge=2)
    """How many samples of each number of texts."""
    seed: int = 42
    """Seed of both."""


class Resample(Strict):
    """What fewer texts would cost in accuracy."""

    draws: int = Field(100, ge=2)
    """How many selections of each kind and size are drawn to measure errors."""
    maps: int = Field(20, ge=3)
    """How many of them a map is made of."""
    newest: float = Field(0.1, gt=0, lt=1)
    """Share of the models, the newest ones, that are placed as if they were new."""
    error: float = Field(0.05, gt=0, lt=1)
    """A wanted relative error of the KL of a pair ..."""
    share: float = Field(0.95, gt=0, lt=1)
    """... and for which share of the pairs, to say how many texts that takes."""
    seed: int = 42
    """Seed of all that is drawn."""


class Scale(Strict):
    """What a KL means: KLs of pairs by how the two models are related."""

    early_until: float | None = Field(None, gt=0)
    """Training steps up to which consecutive checkpoints count as early; half of the last known
    step of each run without it."""
    pairs: int = Field(20_000, ge=10)
    """At most so many pairs of each relation; more are sampled."""
    bootstrap: int = Field(200, ge=2)
    """Bootstrap samples of the texts, for the standard error of each median."""
    seed: int = 42
    """Seed of both."""


class Trajectories(Strict):
    """Training runs: how fast a model moves, and how."""

    from_step: float = Field(2000, ge=0)
    """Checkpoints from this training step on count for outlier texts, speed and exponents."""
    drop: float = Field(0.03, ge=0, lt=1)
    """Share of the texts that is left out: those on which log-likelihoods jump the most between
    consecutive checkpoints."""
    ahead: int = Field(10, ge=2)
    """How many later checkpoints an exponent is fitted to."""
    bootstrap: int = Field(1000, ge=100)
    """Bootstrap samples, for the confidence intervals."""
    seed: int = 42
    """Seed of these."""


class Merges(Strict):
    """How straight the way between two models is."""


class QuantizationShift(Strict):
    """What a precision does to models, and whether that is more than error."""


class TrueKl(Strict):
    """The exact KL per token of pairs with one vocabulary, to check the estimates by."""

    pairs: list[tuple[str, str]] = Field(default_factory=list)
    """Names on the map, two and two. Both models are loaded in one job."""
    own: bool = True
    """Also each quantised model with its original, and consecutive checkpoints."""
    texts: int = Field(200, ge=2)
    """On how many of the texts, evenly spread over the set."""


class Prompts(Strict):
    """What edits of the prompt do to models: text sets with `edits`."""

    bootstrap: int = Field(200, ge=2)
    """Bootstrap samples of the texts, for the intervals of cosines."""
    seed: int = 42
    """Seed of these."""


class MixturePlan(Strict):
    """One question: which mixture of domains would move one model towards another."""

    base: str = Field(min_length=1)
    """The model to be trained on: its name on the map, or its id."""
    target: str = Field(min_length=1)
    """The model that it is to come near to."""
    probes: dict[str, str] = Field(default_factory=dict)
    """For each domain a model that was trained on from the base on this domain for a short while.
    Without any, the texts of each domain themselves are the directions, a cheap proxy."""
    known: dict[str, float] = Field(default_factory=dict)
    """The shares that the target was trained on, where they are known, to compare with."""
    texts: list[str] | None = Field(None, min_length=1)
    """Text sets on which to look for the mixture; all without any."""
    check: bool = False
    """Train the base on under the mixture that was found, and under a uniform one, and measure how
    far both end from the target: for bases of the demo."""

    @field_validator("texts", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _trainable(self) -> MixturePlan:
        if self.base == self.target:
            raise ValueError(f"base and target are the same model, {self.base!r}; nothing to move")
        if self.check and not self.base.startswith(("demo/", "demo--")):
            raise ValueError(
                f"check: only bases of the demo are trained here, and {self.base!r} is none; train "
                "it under the weights that are found, and add what comes out to models:"
            )
        return self


class Mixture(Strict):
    """Which mixture of domains would move a model towards another one."""

    plans: dict[str, MixturePlan] = Field(min_length=1)
    """What is asked, each question under a name of its own."""
    bootstrap: int = Field(200, ge=2)
    """Bootstrap samples of the texts, for the intervals of the weights."""
    seed: int = 42
    """Seed of these."""


class Generation(Strict):
    """KLs from texts that models write themselves, to check the estimates by: small models."""

    pairs: list[tuple[str, str]] = Field(min_length=1)
    """Names on the map, two and two. Both models are loaded in one job."""
    texts: list[str] | None = Field(None, min_length=1)
    """Text sets whose prompts are answered; all that have prompts without any."""
    prompts: int = Field(50, ge=2)
    """How many prompts, evenly spread over the text set."""
    samples: int = Field(4, ge=1)
    """How many responses each model writes to each of them."""
    tokens: int = Field(64, ge=1)
    """Longest response in tokens."""
    temperature: float = Field(1.0, gt=0)
    """Of the sampling; only at 1 it is the models' own distribution whose KL is estimated."""
    mauve: bool = False
    """Also compute MAUVE, with the package in envs/extras.txt."""
    seed: int = 42
    """Seed of the sampling."""

    @field_validator("texts", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class Analyses(Strict):
    """Analyses beyond the map, each off until named."""

    benchmarks: list[str] = Field(default_factory=list)
    """Tables of benchmark scores, tab-separated: a column `model` (name on the map, or id) and one
    column for each task. Those of published vectors are used without being named."""
    predict: Predict | None = None
    """Predict benchmark scores from coordinates."""
    leakage: Leakage | None = None
    """Look for models that have seen the texts."""
    axes: Axes | None = None
    """Describe the principal axes of the map."""
    contrast: Contrast | None = None
    """Compare models or groups, by domain and by text."""
    robustness: Robustness | None = None
    """Measure how far distances depend on the texts."""
    resample: Resample | None = None
    """Measure what fewer texts would cost."""
    scale: Scale | None = None
    """Draw the scale of KL: pairs by relation."""
    trajectories: Trajectories | None = None
    """Follow training runs."""
    merges: Merges | None = None
    """Measure how straight the ways of merges are."""
    quantization: QuantizationShift | None = None
    """Measure what precisions cost."""
    true_kl: TrueKl | None = None
    """Compute exact KLs of some pairs, and compare the estimates."""
    prompts: Prompts | None = None
    """Measure what edits of the prompt do."""
    mixture: Mixture | None = None
    """Look for the mixture of domains that moves one model towards another."""
    generation: Generation | None = None
    """Compare the estimates with KLs from texts that models write."""

    @model_validator(mode="before")
    @classmethod
    def _named_is_on(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        bare = {*NAMES} - {"contrast", "mixture", "generation"}
        return {
            key: {} if key in bare and item in (None, True) else item
            for key, item in value.items()
            if not (key in bare and item is False)
        }

    @property
    def on(self) -> list[str]:
        """Names of the analyses that are wanted."""
        return [name for name in NAMES if getattr(self, name) is not None]
