"""What finished maps and analyses consist of, and which tables of others they are made from.

Everything follows from the configuration. Rules call this while they are parsed, so nothing heavy
is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from klmap.config_analyses import (
    NEED_ALL_TEXTS,
    NEED_BENCHMARKS,
    OF_WHOLE_SETS,
    Comparison,
)
from klmap.plan import Plan
from klmap.plan_prompts import checked_on, mixtures_on

FIGURE_TITLES = {
    "map": "Map",
    "loglik": "Map by mean log-likelihood",
    "dendrogram": "Tree",
    "heatmap": "KL of all pairs",
    "checkpoints": "Checkpoints",
    "paper": "Map for a paper",
    "layout": "How faithful the map is",
    "ellipses": "Map with its uncertainty",
    "domains": "Maps by domain",
}
"""What the report calls each figure of a map."""

ANALYSES = {
    "predict": (
        ["accuracy.tsv", "predictions.tsv", "curve.tsv"],
        {
            "scatter": "Benchmark scores, predicted",
            "accuracy": "How well scores are predicted",
            "curve": "By number of models",
        },
    ),
    "leakage": (
        ["leakage.tsv", "domains.tsv"],
        {"leakage": "Models that may have seen the texts"},
    ),
    "axes": (
        ["variance.tsv", "places.tsv", "texts.tsv", "domains.tsv", "correlations.tsv"],
        {
            "variance": "Variance of the axes",
            "axes": "Principal axes",
            "correlations": "Log-likelihood and benchmark scores",
        },
    ),
    "contrast": (
        ["comparisons.tsv", "domains.tsv", "texts.tsv"],
        {"contrast": "What carries the distance"},
    ),
    "resample": (
        ["errors.tsv", "numbers.tsv", "stability.tsv", "ellipses.tsv", "places.tsv"],
        {
            "errors": "What fewer texts cost",
            "stability": "Maps by fewer texts",
            "places": "New models by fewer texts",
        },
    ),
    "scale": (
        ["scale.tsv", "pairs.tsv", "orderings.tsv"],
        {"scale": "What a KL means"},
    ),
    "trajectories": (
        ["runs.tsv", "steps.tsv", "exponents.tsv", "texts.tsv"],
        {
            "steps": "How far each step of a training goes",
            "exponents": "How training diffuses",
            "paths": "Paths of training",
        },
    ),
    "merges": (
        ["merges.tsv", "paths.tsv"],
        {"merges": "How straight the ways of merges are"},
    ),
    "quantization": (
        ["shift.tsv", "methods.tsv", "orderings.tsv", "cosines.tsv", "domains.tsv"],
        {"shift": "What precisions cost", "cosines": "Where precisions shift models"},
    ),
    "true_kl": (
        ["true_kl.tsv", "summary.tsv"],
        {"true_kl": "Estimated against true KL"},
    ),
    "prompts": (
        [
            *("shifts.tsv", "edits.tsv", "cosines.tsv", "additivity.tsv", "domains.tsv"),
            *("missing.tsv", "ways.tsv"),
        ],
        {
            "arrows": "Where edits of the prompt move models",
            "edits": "What edits of the prompt do",
            "additivity": "Whether edits of the prompt add up",
        },
    ),
    "generation": (
        ["generation.tsv", "summary.tsv"],
        {"generation": "Estimated KL against what models write"},
    ),
    "mixture": (
        ["weights.tsv", "plans.tsv", "path.tsv", "ways.tsv"],
        {"weights": "Which data would move a model", "path": "How near it would come"},
    ),
    "mixture_check": (
        ["check.tsv"],
        {"check": "How near it came"},
    ),
    "robustness": (
        ["halves.tsv", "domains.tsv", "numbers.tsv", "sets.tsv"],
        {"robustness": "How far distances depend on the texts"},
    ),
}
"""Tables of each analysis, and its figures with what the report calls them."""

_MAP = (
    "kl.h5", "neighbors.tsv", "layout.tsv", "layout.json", "models.tsv", "failures.tsv", "map.html",
)  # fmt: skip


def release_inputs(plan: Plan, release: str) -> list[str]:
    """Files of a release that lie on this machine."""
    return plan.release(release).paths()


def release_texts(plan: Plan, release: str) -> str:
    """The texts of a release."""
    return f"{plan.results}/{plan.release(release).texts}/texts.jsonl"


def release_manifest(plan: Plan, release: str) -> str:
    """Manifest of the texts of a release."""
    return f"{plan.results}/{plan.release(release).texts}/texts.json"


def release_scores(plan: Plan, release: str) -> str:
    """Where the scores of a release go: beside all others of its text set."""
    return f"{plan.results}/{plan.release(release).texts}/scores"


def releases_on(plan: Plan, texts: str) -> list[str]:
    """Names of the releases whose models stand on the map of a text set, first configured first.

    Those of a reference stand on the maps of its selections.
    """
    stands = {texts, plan.reference_name(texts)}
    return [name for name, each in plan.config.published.items() if each.texts in stands]


def of_reference(plan: Plan, texts: str, name: str) -> list[str]:
    """A file of the text set that another one is a selection of, where there is one.

    Of a reference that was made before only what is there: it may have no ellipses.
    """
    reference = plan.references.get(texts)
    if reference is None or not (reference.name or Path(reference.file(name)).is_file()):
        return []
    return [reference.file(name)]


def selection_file(plan: Plan, texts: str) -> list[str]:
    """The selection that the texts of a map are; nothing for texts of their own."""
    return [f"{plan.results}/{texts}/selection.h5"] if texts in plan.references else []


def release_tables(plan: Plan, texts: str) -> list[str]:
    """Lists of the models of each release that was scored on all of a text set."""
    return [] if texts in plan.references else release_files(plan, texts, "index.tsv")


def release_reports(plan: Plan, texts: str) -> list[str]:
    """What was found out about each release on the map of a text set."""
    return release_files(plan, texts, "report.json")


def release_files(plan: Plan, texts: str, name: str) -> list[str]:
    """One file of each release on the map of a text set.

    Args:
        plan: of the configuration.
        texts: name of the text set.
        name: of the file in the folder of a release.
    """
    folder = f"{plan.results}/published"
    return [f"{folder}/{release}/{name}" for release in releases_on(plan, texts)]


def benchmarks_on(plan: Plan, texts: str) -> list[str]:
    """Tables of benchmark scores for the models of a text set."""
    tables = [
        f"{plan.results}/published/{release}/benchmarks.tsv"
        for release in releases_on(plan, texts)
        if plan.config.published[release].metadata is not None
    ]
    return [*tables, *plan.config.analyses.benchmarks]


def predictions_on(plan: Plan, texts: str) -> list[str]:
    """Predicted benchmark scores, where they are asked for and there are scores to learn from."""
    wanted = plan.config.analyses.predict and benchmarks_on(plan, texts)
    return [f"{plan.results}/{texts}/predict/predictions.tsv"] if wanted else []


def index_files(plan: Plan, texts: str) -> list[str]:
    """Tables of all models that are scored on a text set."""
    off = ["offmap-index.tsv"] if plan.config.unmapped_on[texts] else []
    return [f"{plan.results}/{texts}/{name}" for name in ["index.tsv", *off]]


def offmap(plan: Plan, texts: str) -> list[str]:
    """Matrix of the models that are scored but kept off the map; nothing where there are none."""
    return [f"{plan.results}/{texts}/offmap.h5"] if plan.config.unmapped_on[texts] else []


def offmap_models(plan: Plan, texts: str) -> list[str]:
    """What is known of these."""
    return [f"{plan.results}/{texts}/offmap.tsv"] if plan.config.unmapped_on[texts] else []


def other_matrices(plan: Plan, texts: str) -> dict[str, str]:
    """Matrices of the other text sets, by name, but for selections and variants of others."""
    return {
        other: f"{plan.results}/{other}/matrix.h5"
        for other in plan.config.texts
        if other != texts and other not in plan.references and other not in plan.config.variants
    }


def other_paths(plan: Plan, texts: str) -> list[str]:
    """Matrices of the other text sets."""
    return [*other_matrices(plan, texts).values()]


def most_models(plan: Plan) -> int:
    """The most models on one map: those of a release are known when its files have been read."""
    return max(map(plan.models_on, plan.config.texts))


def most_scored(plan: Plan) -> int:
    """The most models that one job works on: those of a map, and those that are kept off it."""
    return max(plan.models_on(texts) + plan.models_off(texts) for texts in plan.config.texts)


def has_all_pairs(plan: Plan) -> bool:
    """Whether the distances of all pairs are computed."""
    return most_models(plan) <= plan.config.map.dense_limit


def has_ellipses(plan: Plan) -> bool:
    """Whether the uncertainty of the map is drawn."""
    return has_all_pairs(plan) and plan.config.map.ellipses and plan.config.map.bootstrap > 1


def has_domains(plan: Plan) -> bool:
    """Whether there is a map for each domain of the texts."""
    return has_all_pairs(plan) and plan.config.map.domains


def figure_names(plan: Plan) -> list[str]:
    """Figures that a configuration can fill; what needs all pairs is left out above the limit."""
    names = ["map", "loglik", "paper", "layout"]
    if has_all_pairs(plan):
        names += ["dendrogram", "heatmap"]
        # Variants of one revision are no checkpoints, and those off the map are not drawn.
        mapped = {(entry.repository, entry.source) for entry in plan.config.models if entry.on_map}
        revisions = Counter(repository for repository, _ in mapped)
        if max(revisions.values(), default=0) > 2:
            names.append("checkpoints")
    if has_ellipses(plan):
        names.append("ellipses")
    if has_domains(plan):
        names.append("domains")
    return names


def map_files(plan: Plan) -> list[str]:
    """Everything that the finished maps consist of."""
    names = [*_MAP, *(f"figures/{name}" for name in _with_endings(figure_names(plan)))]
    if has_all_pairs(plan):
        names.append("tree.nwk")
    if has_ellipses(plan):
        names.append("ellipses.tsv")
    if has_domains(plan):
        names.append("domains.tsv")
    return [f"{plan.results}/{texts}/{name}" for texts in _mapped(plan) for name in names]


def _mapped(plan: Plan) -> list[str]:
    """Text sets that have a map; of edited prompts there are shifts instead."""
    variants = plan.config.variants
    return [
        name for name in plan.config.texts if name not in variants or variants[name].edit is None
    ]


def comparisons_on(plan: Plan, texts: str) -> dict[str, Comparison]:
    """What is to be compared on a text set, by name."""
    asked = plan.config.analyses.contrast
    found = {} if asked is None else asked.comparisons
    return {name: each for name, each in found.items() if each.texts is None or texts in each.texts}


def ways_on(plan: Plan, texts: str) -> list[str]:
    """Tables of ways that the page of a map draws."""
    return [
        f"{plan.results}/{texts}/{name}/ways.tsv"
        for name in ("prompts", "mixture")
        if getattr(plan.config.analyses, name) is not None and _has_material(plan, name, texts)
    ]


def _has_material(plan: Plan, analysis: str, texts: str) -> bool:
    """Whether there is what an analysis works on."""
    variant = plan.config.variants.get(texts)
    if variant is not None and (variant.edit is not None or analysis in OF_WHOLE_SETS):
        return False
    if analysis in NEED_ALL_TEXTS and texts in plan.references:
        return False
    if analysis == "contrast":
        return bool(comparisons_on(plan, texts))
    if analysis == "true_kl":
        return bool(plan.divergences.of(texts))
    if analysis == "generation":
        return bool(plan.samples.of(texts))
    if analysis == "prompts":
        return texts in plan.config.edited
    if analysis == "mixture":
        return bool(mixtures_on(plan, texts))
    if analysis == "trajectories":
        scored = plan.config.scored_on[texts].values()
        return any(plan.is_checkpoint(entry.source) for entry in scored)
    return analysis not in NEED_BENCHMARKS or bool(benchmarks_on(plan, texts))


def analysis_files(plan: Plan) -> list[str]:
    """Everything that the configured analyses write."""
    return [
        f"{plan.results}/{texts}/{name}/{file}"
        for texts in plan.config.texts
        for name in plan.config.analyses.on
        if _has_material(plan, name, texts)
        for file in _files(name)
    ] + [
        f"{plan.results}/{texts}/mixture_check/{file}"
        for texts in plan.config.given
        if _has_material(plan, "mixture", texts) and checked_on(plan, texts)
        for file in _files("mixture_check")
    ]


def _files(analysis: str) -> list[str]:
    """Tables and figures of an analysis."""
    return [*ANALYSES[analysis][0], *_with_endings(ANALYSES[analysis][1])]


def _with_endings(figures: Iterable[str]) -> list[str]:
    """Both files of each figure."""
    return [f"{name}.{ending}" for name in figures for ending in ("png", "svg")]
