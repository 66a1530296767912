"""What is wrong with prompts, mixtures and kinds of likelihood that single keys do not show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from klmap.config import Config
from klmap.config_models import ModelEntry
from klmap.likelihoods import CAUSAL

Place = list[Any]


def problems(config: Config) -> Iterator[tuple[Place, str]]:
    """Where in the configuration something is wrong, and what, with the fix."""
    yield from _names(config)
    yield from _kinds(config)
    yield from _published_kinds(config)
    yield from _sources(config)
    yield from _generation(config)
    yield from _mixture(config)
    asked = config.analyses.prompts
    if asked is not None and not config.edited:
        yield (
            ["analyses", "prompts"],
            "no text set has edits: of its prompts, so there is nothing to measure; give one some",
        )


def _names(config: Config) -> Iterator[tuple[Place, str]]:
    """Text sets that have the name of a variant of another one."""
    for name, texts in config.variants.items():
        if name in config.given:
            kind = "PMI" if texts.edit is None else f"the edit {texts.edit!r}"
            yield (
                ["texts", name],
                f"this is the name of {kind} of {texts.of!r} too; choose another",
            )


def _kinds(config: Config) -> Iterator[tuple[Place, str]]:
    """Maps on which models would stand whose likelihoods are of different kinds."""
    if config.map.mixed_likelihoods:
        return
    for texts in config.given:
        kinds: dict[str, ModelEntry] = {}
        for entry in config.mapped_on[texts].values():
            kinds.setdefault(config.likelihood(entry), entry)
        if len(kinds) > 1:
            found = ", ".join(f"{entry.slug} by {kind}" for kind, entry in sorted(kinds.items()))
            yield (
                ["texts", texts],
                f"likelihoods of different kinds would stand on one map ({found}), and their "
                "distances are no KL divergences; score them on text sets of their own (texts: of "
                "the models), keep some off the map (on_map: false), or accept that with "
                "map: {mixed_likelihoods: true}",
            )


def _published_kinds(config: Config) -> Iterator[tuple[Place, str]]:
    """Releases, which are causal, on whose maps models of another kind would stand."""
    if config.map.mixed_likelihoods:
        return
    for name, release in config.published.items():
        for entry in config.mapped_on.get(release.texts, {}).values():
            if (kind := config.likelihood(entry)) != CAUSAL:
                yield (
                    ["published", name],
                    f"its vectors are causal log-likelihoods, and {entry.slug} is scored by "
                    f"{kind}; give that model a text set of its own with texts:",
                )
                break


def _sources(config: Config) -> Iterator[tuple[Place, str]]:
    """Models of one source that would be recognised as two kinds: they share card and weights."""
    kinds: dict[str, tuple[int, str]] = {}
    for number, given in enumerate(config.entries):
        for entry in given.models:
            kind = config.likelihood(entry)
            first, other = kinds.setdefault(entry.source, (number, kind))
            if other != kind:
                yield (
                    ["models", number],
                    f"{entry.id!r} is scored by {other} in models[{first}] and by {kind} here, and "
                    "a model is one or the other; keep one of them",
                )
            if kind != CAUSAL and entry.layers is not None:
                yield (
                    ["models", number],
                    f"layers: reads hidden states of causal models, and this one is scored by "
                    f"{kind}; remove it",
                )


def _generation(config: Config) -> Iterator[tuple[Place, str]]:
    asked = config.analyses.generation
    if asked is None:
        return
    if not config.paired:
        yield (
            ["analyses", "generation"],
            "no text set has prompts that models could answer; give one fields: or prompt_bytes:",
        )
    for texts in asked.texts or []:
        if texts not in config.paired:
            known = ", ".join(config.paired) or "none"
            yield (
                ["analyses", "generation", "texts"],
                f"{texts!r} is no text set with prompts; configured: {known}",
            )
    for number, pair in enumerate(asked.pairs):
        place: Place = ["analyses", "generation", "pairs", number]
        if pair[0] == pair[1]:
            yield place, f"{pair[0]!r} is compared with itself; name two models"
        for model in pair:
            if model not in config.by_slug:
                yield place, _unknown(config, model)
            elif (kind := config.likelihood(config.by_slug[model])) != CAUSAL:
                yield place, f"{model!r} is scored by {kind}, and only causal models write texts"


def _mixture(config: Config) -> Iterator[tuple[Place, str]]:
    asked = config.analyses.mixture
    for name, plan in ({} if asked is None else asked.plans).items():
        place: Place = ["analyses", "mixture", "plans", name]
        for texts in plan.texts or []:
            if texts not in config.given:
                known = ", ".join(config.given)
                yield [*place, "texts"], f"no text set {texts!r}; configured: {known}"
        named = {"base": plan.base, "target": plan.target}
        named |= {f"probes.{domain}": model for domain, model in plan.probes.items()}
        for key, model in named.items():
            if config.part(model) is None:
                yield [*place, key], _unknown(config, model)


def _unknown(config: Config, model: str) -> str:
    return (
        f"no model has the name {model!r} on the map; names are those of the first column of "
        f"models.tsv, such as {next(iter(config.by_slug), 'org--name')!r}"
    )
