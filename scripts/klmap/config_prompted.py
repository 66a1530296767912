"""What is wrong with prompts, mixtures and kinds of likelihood that single keys do not show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from klmap import likelihoods
from klmap.config import Config
from klmap.config_analyses import MixturePlan
from klmap.config_models import NAME_PATTERN, ModelEntry
from klmap.config_prompts import PMI
from klmap.likelihoods import CAUSAL

Place = list[Any]


def problems(config: Config) -> Iterator[tuple[Place, str]]:
    """Where in the configuration something is wrong, and what, with the fix."""
    yield from _names(config)
    yield from _kinds(config)
    yield from _published_kinds(config)
    yield from _sources(config)
    yield from _suited(config)
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
    for of, texts in config.paired.items():
        kinds = {edit: f"the edit {edit!r}" for edit in texts.edits}
        for edit, kind in (kinds | ({PMI: "PMI"} if texts.pmi else {})).items():
            if (name := f"{of}.{edit}") in config.given:
                yield ["texts", name], f"this is the name of {kind} of {of!r} too; choose another"


def _kinds(config: Config) -> Iterator[tuple[Place, str]]:
    """Maps on which models would stand whose likelihoods are of different kinds."""
    if config.map.mixed_likelihoods:
        return
    seen: set[tuple[str, ...]] = set()
    for texts, mapped in config.mapped_on.items():
        kinds: dict[str, ModelEntry] = {}
        for entry in mapped.values():
            kinds.setdefault(config.likelihood(entry), entry)
        # A text set and those that follow from it have the same models, but for a few.
        of = config.variants[texts].of if texts in config.variants else texts
        models = (of, *sorted(entry.slug for entry in kinds.values()))
        if len(kinds) > 1 and models not in seen:
            seen.add(models)
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
            if entry.layers is not None and not likelihoods.kind(kind).reads_layers:
                yield (
                    ["models", number],
                    f"layers: reads hidden states of causal models, and this one is scored by "
                    f"{kind}; remove it",
                )


def _suited(config: Config) -> Iterator[tuple[Place, str]]:
    """Settings and text sets that a kind of likelihood has no use for."""
    for number, given in enumerate(config.entries):
        for entry in given.models:
            if (name := config.likelihood(entry)) == CAUSAL:
                continue
            kind = likelihoods.kind(name)
            if (entry.prefix or config.scoring.prefix) == "bos" and kind.own_specials:
                yield (
                    ["models", number],
                    f"prefix: bos has no meaning for likelihood: {name}, whose special tokens are "
                    "those of its tokenizer; give the model prefix: default",
                )
            plain = [
                texts
                for texts, scored in config.scored_on.items()
                if entry.slug in scored and texts in config.given and texts not in config.paired
            ]
            if kind.needs_prompts and plain:
                yield (
                    ["models", number],
                    f"likelihood: {name} is that of a response to a prompt, and {plain[0]!r} has "
                    "no prompts; name text sets that have with texts:, or give it prompt_bytes: or "
                    "fields:",
                )
            break


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
        answered = [texts for texts in asked.texts or config.paired if texts in config.paired]
        together = any({*pair} <= {*config.scored_on[texts]} for texts in answered)
        if answered and {*pair} <= {*config.by_slug} and not together:
            yield (
                place,
                f"no text set with prompts has scores of both ({', '.join(answered)}); let both "
                "be scored on one, with texts: of the models",
            )


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
        if plan.check and not re.fullmatch(NAME_PATTERN, name):
            yield (
                place,
                f"{name!r} names folders of what is trained for check:; letters, digits, '.', '_' "
                "and '-' are fine, a letter or digit first",
            )
        if problem := _apart(config, plan):
            yield place, problem


def _apart(config: Config, plan: MixturePlan) -> str:
    """What is wrong where no text set has scores of all models of a mixture; empty if one has."""
    found = [config.part(name) for name in (plan.base, plan.target, *plan.probes.values())]
    models = {entry.slug for entry in found if entry is not None}
    missing = {
        texts: sorted(models - {*config.scored_on[texts]})
        for texts in plan.texts or config.given
        if texts in config.given
    }
    if not missing or [] in missing.values():
        return ""
    texts, left = min(missing.items(), key=lambda each: len(each[1]))
    return (
        f"none of its text sets has all its models ({texts!r} lacks {', '.join(left)}); let these "
        "be scored there too, with texts: of the models"
    )


def _unknown(config: Config, model: str) -> str:
    return (
        f"no model has the name {model!r} on the map; names are those of the first column of "
        f"models.tsv, such as {next(iter(config.by_slug), 'org--name')!r}"
    )
