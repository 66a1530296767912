"""Reading config.yaml: every problem in it at once, each with its place and the fix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from klmap import config_entries, config_prompted
from klmap.config import RESERVED_TEXT_NAMES, Config, Hardware, Map, Scoring
from klmap.config_analyses import (
    NEED_BENCHMARKS,
    Analyses,
    Axes,
    Comparison,
    Contrast,
    Generation,
    Leakage,
    Merges,
    Mixture,
    MixturePlan,
    Predict,
    Prompts,
    QuantizationShift,
    Resample,
    Robustness,
    Scale,
    Trajectories,
    TrueKl,
)
from klmap.config_models import (
    FILE_NAMES,
    NAME_PATTERN,
    Merge,
    ModelEntry,
    Steps,
)
from klmap.config_prompts import Edit
from klmap.config_published import Published, PublishedFile
from klmap.config_texts import (
    Convention,
    EnvironmentTexts,
    FileTexts,
    HubTexts,
    SelectionTexts,
    UrlTexts,
)
from klmap.errors import ConfigError
from klmap.likelihoods import CAUSAL
from klmap.places import Places, read_model_file, shown

TEXT_SOURCES: dict[str, type[BaseModel]] = {
    "environment": EnvironmentTexts,
    "file": FileTexts,
    "url": UrlTexts,
    "hub": HubTexts,
    "selection": SelectionTexts,
}

SECTIONS: dict[str, type[BaseModel]] = {
    "scoring": Scoring,
    "map": Map,
    "hardware": Hardware,
    "analyses": Analyses,
}

ANALYSES: dict[str, type[BaseModel]] = {
    "predict": Predict,
    "leakage": Leakage,
    "axes": Axes,
    "contrast": Contrast,
    "robustness": Robustness,
    "resample": Resample,
    "scale": Scale,
    "trajectories": Trajectories,
    "merges": Merges,
    "quantization": QuantizationShift,
    "true_kl": TrueKl,
    "prompts": Prompts,
    "mixture": Mixture,
    "generation": Generation,
}

_INNER: dict[str, type[BaseModel]] = {"contrast": Comparison, "mixture": MixturePlan}
"""What stands under the names of analyses that have several of a kind."""


def load(path: Path) -> Config:
    """Read and check one config.yaml.

    Raises:
        ConfigError: one line per problem, each with its place and the fix.
    """
    return check(Places([path]).merged(), [path])


def check(raw: Mapping[str, Any], paths: Sequence[Path] = ()) -> Config:
    """Check a configuration that somebody else has read, as Snakemake does.

    Args:
        raw: the merged configuration.
        paths: the files it came from, in the order of merging, for the places in messages.

    Raises:
        ConfigError: one line per problem, each with its place and the fix.
    """
    places = Places(paths)
    problems = places.duplicate_keys()
    prepared, origins, file_problems = _with_model_files(raw)
    problems += file_problems
    try:
        config = Config.model_validate(prepared)
    except ValidationError as error:
        problems += [_describe(item, places, origins, prepared) for item in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(problems))) from None
    problems += _cross_checks(config, places, origins)
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    return config


def _with_model_files(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str], list[str]]:
    """Append the models of ``model_files``; the place of each appended model; what went wrong."""
    prepared = dict(raw)
    for section in (*SECTIONS, "models", "model_files", "published"):
        if section in prepared and prepared[section] is None:
            del prepared[section]
    models = prepared.get("models", [])
    files = prepared.get("model_files", [])
    if not isinstance(models, list) or not isinstance(files, list):
        return prepared, [], []
    origins: list[str] = ["" for _ in models]
    problems: list[str] = []
    extra: list[Any] = []
    for name in files:
        if isinstance(name, str):
            try:
                for place, entry in read_model_file(Path(name)):
                    extra.append(entry)
                    origins.append(place)
            except ConfigError as error:
                problems.append(str(error))
    return {**prepared, "models": [*models, *extra]}, origins, problems


def _describe(
    item: Any, places: Places, origins: Sequence[str], prepared: Mapping[str, Any]
) -> str:
    """One pydantic error as `place: what was found, what is expected`."""
    location = list(item["loc"])
    if location[:1] == ["texts"] and len(location) > 2:
        location = location[:2] + location[3:]
    context = item.get("ctx", {})
    value = item.get("input")
    kind = item["type"]
    if kind == "extra_forbidden":
        known = _known_keys(location, prepared)
        text = f"unknown key; {known}"
    elif kind == "missing":
        text = "missing; this key is required"
    elif kind in ("literal_error", "union_tag_invalid"):
        allowed = context.get("expected") or context.get("expected_tags", "")
        allowed = allowed.replace("'", "").replace(" or ", ", ")
        allowed = allowed.replace("True, False", "true, false")
        tag = context.get("tag", value)
        if kind == "union_tag_invalid":
            location = [*location, "source"]
        text = f"{shown(tag)} is not one of {allowed}"
    elif kind == "union_tag_not_found":
        location = [*location, "source"]
        text = "missing; say source: environment, file, url, hub or selection"
    elif kind == "string_pattern_mismatch":
        text = f"{shown(value)} holds a character that file names here may not have; {FILE_NAMES}"
    elif kind == "value_error":
        text = str(context["error"])
    elif kind == "too_short" and context["min_length"] > 1:
        text = f"{context['actual_length']} given; give at least {context['min_length']}"
    elif kind in ("too_short", "string_too_short"):
        text = "is empty; give at least one"
    else:
        message = item["msg"]
        text = f"{shown(value)}: {message[0].lower()}{message[1:]}"
    return f"{places.name(location, origins)}: {text}{places.line(location, origins)}"


def _known_keys(location: Sequence[Any], prepared: Mapping[str, Any]) -> str:
    model: type[BaseModel] = Config
    if location[:1] == ["models"]:
        model = ModelEntry
        if len(location) > 3:
            model = Merge if location[2] == "merge" else Steps
    elif location[:1] == ["texts"] and len(location) > 2:
        source = prepared["texts"][location[1]].get("source")
        model = Edit if location[2:3] == ["edits"] else TEXT_SOURCES.get(source, HubTexts)
    elif location[:1] == ["published"]:
        model = Published if len(location) == 3 else PublishedFile
    elif location[:1] == ["analyses"] and len(location) > 2:
        name = str(location[1])
        model = _INNER[name] if name in _INNER and len(location) > 3 else ANALYSES[name]
    elif len(location) > 1:
        model = SECTIONS[str(location[0])]
    keys = [field.alias or name for name, field in model.model_fields.items()]
    return f"known keys: {', '.join(keys)}" if keys else "this version has none to choose from"


def _cross_checks(config: Config, places: Places, origins: Sequence[str]) -> list[str]:
    """What pydantic cannot see: names that collide or cannot be file names."""
    problems = []
    for name in config.given:
        if (wrong := _texts_problem(config, name)) is not None:
            key, text = wrong
            where = ["texts", name, *key]
            problems.append(f"{places.name(where, origins)}: {text}{places.line(where, origins)}")
    for name, release in config.published.items():
        if (wrong := _release_problem(config, name, release)) is not None:
            key, text = wrong
            where = ["published", name, *key]
            problems.append(f"{places.name(where, origins)}: {text}{places.line(where, origins)}")
    for name in _without_scores(config):
        where = ["analyses", name]
        problems.append(
            f"{places.name(where, origins)}: no benchmark scores to learn from; name tables under "
            f"analyses.benchmarks, or metadata: of a release{places.line(where, origins)}"
        )
    compared = config.analyses.true_kl
    for number, pair in enumerate([] if compared is None else compared.pairs):
        for model in pair:
            if model not in config.by_slug:
                pairs: list[Any] = ["analyses", "true_kl", "pairs", number]
                problems.append(
                    f"{places.name(pairs, origins)}: no model has the name {model!r} on the map; "
                    f"names are those of the first column of models.tsv, such as "
                    f"{next(iter(config.by_slug), 'org--name')!r}{places.line(pairs, origins)}"
                )
            elif (kind := config.likelihood(config.by_slug[model])) != CAUSAL:
                pairs = ["analyses", "true_kl", "pairs", number]
                problems.append(
                    f"{places.name(pairs, origins)}: {model!r} is scored by {kind}, and only "
                    f"causal models can be compared token by token{places.line(pairs, origins)}"
                )
    for where, text in config_prompted.problems(config):
        problems.append(f"{places.name(where, origins)}: {text}{places.line(where, origins)}")
    asked = config.analyses.contrast
    for name, comparison in ({} if asked is None else asked.comparisons).items():
        for texts in comparison.texts or []:
            variant = config.variants.get(texts)
            if texts not in config.texts or (variant is not None and variant.edit is not None):
                where = ["analyses", "contrast", "comparisons", name, "texts"]
                problems.append(
                    f"{places.name(where, origins)}: no text set {texts!r}; configured: "
                    f"{', '.join(config.given)}{places.line(where, origins)}"
                )
    for number, problem in config_entries.problems(config):
        place: list[Any] = ["models", number]
        problems.append(f"{places.name(place, origins)}: {problem}{places.line(place, origins)}")
    return problems


def _texts_problem(config: Config, name: str) -> tuple[tuple[str, ...], str] | None:
    """The key that is wrong with a text set, and why; None for a good one."""
    if name in RESERVED_TEXT_NAMES:
        return (), "this name is reserved for klmap's own folders; choose another"
    if not re.fullmatch(NAME_PATTERN, name):
        return (), f"not a name for a text set; {FILE_NAMES}"
    selection = config.selections.get(name)
    if selection is None:
        published = any(each.texts == name for each in config.published.values())
        if config.scored_on[name] and not config.mapped_on[name] and not published:
            return (), (
                "every model that is scored on it has on_map: false, so there is no map; let at "
                "least one stand on it"
            )
        return None
    if selection.of == name:
        return ("of",), "a text set cannot be a selection of itself; name its reference"
    if selection.of in config.variants:
        return ("of",), (
            f"{selection.of!r} follows from {config.variants[selection.of].of!r}; name that"
        )
    if selection.of in config.selections:
        return ("of",), (
            f"{selection.of!r} is a selection itself, and its models lack most texts; name its "
            f"reference, {config.selections[selection.of].of!r}"
        )
    released = any(each.texts == selection.of for each in config.published.values())
    if selection.of in config.texts and not config.mapped_on[selection.of] and not released:
        return ("of",), (
            f"no model is scored on all of {selection.of!r}, so there is nothing to choose by; a "
            "model without texts: is"
        )
    if "/" not in selection.of and not re.fullmatch(NAME_PATTERN, selection.of):
        return ("of",), f"{selection.of!r} is neither a text set nor a folder; {FILE_NAMES}"
    return None


def _without_scores(config: Config) -> list[str]:
    """Analyses that need benchmark scores, where there are none."""
    released = any(release.metadata is not None for release in config.published.values())
    if released or config.analyses.benchmarks:
        return []
    return [name for name in config.analyses.on if name in NEED_BENCHMARKS]


def _release_problem(
    config: Config, name: str, release: Published
) -> tuple[tuple[str, ...], str] | None:
    """The key that is wrong with a release, and why; None for a good one."""
    if not re.fullmatch(NAME_PATTERN, name):
        return (), f"not a name for a release; {FILE_NAMES}"
    if release.texts not in config.texts:
        known = ", ".join(config.texts)
        return ("texts",), f"no text set {release.texts!r}; configured: {known}"
    if release.texts in config.selections:
        return ("texts",), (
            f"{release.texts!r} is a selection, and a release is one of all texts; it stands on "
            f"this map too with that of the reference: texts: "
            f"{config.selections[release.texts].of}"
        )
    if (of := config.scored_as(release.texts)) != release.texts:
        return ("texts",), (
            f"{release.texts!r} is what prompts add, and releases have one log-likelihood of each "
            f"text; if theirs are of the responses with their prompts: texts: {of}"
        )
    return _convention_problem(config, release)


def _convention_problem(config: Config, release: Published) -> tuple[tuple[str, ...], str] | None:
    """Which models would be scored in another way than a release; found before they are."""
    # Models of a selection of these texts are compared with the release too.
    chosen = {n: each.allow for n, each in config.selections.items() if each.of == release.texts}
    wrong: dict[str, list[str]] = {}
    for key in get_args(Convention):
        sets = [release.texts, *(name for name, allow in chosen.items() if key not in allow)]
        compared = {slug for texts in sets for slug in config.scored_on[texts]}
        expected = getattr(release, key)
        for entry in (each for slug, each in config.by_slug.items() if slug in compared):
            asked = getattr(entry, key) or getattr(config.scoring, key)
            if asked != expected and key not in release.allow:
                wrong.setdefault(key, []).append(f"{entry.slug} by {key}: {asked}")
    if not wrong:
        return None
    found = "; ".join(
        f"{models[0]}{f' and {len(models) - 1:,} more' if len(models) > 1 else ''}"
        for models in wrong.values()
    )
    fix = ", ".join(f"{key}: {getattr(release, key)}" for key in wrong)
    return (), (
        f"would be compared with models that are scored in another way ({found}); score all alike "
        f"(scoring: {{{fix}}}), or accept a shift, which conventions.tsv estimates, with "
        f"allow: [{', '.join(wrong)}]"
    )
