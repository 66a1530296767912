"""What finished maps and analyses consist of, and which tables of others they are made from.

Everything follows from the configuration. Rules call this while they are parsed, so nothing heavy
is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from klmap.config import Config
from klmap.config_analyses import NEED_BENCHMARKS, Comparison

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
    "robustness": (
        ["halves.tsv", "domains.tsv", "numbers.tsv", "sets.tsv"],
        {"robustness": "How far distances depend on the texts"},
    ),
}
"""Tables of each analysis, and its figures with what the report calls them."""

_MAP = (
    "kl.h5", "neighbors.tsv", "layout.tsv", "layout.json", "models.tsv", "failures.tsv", "map.html",
)  # fmt: skip


def releases_on(config: Config, texts: str) -> list[str]:
    """Names of the releases whose models stand on the map of a text set, first configured first."""
    return [name for name, each in config.published.items() if each.texts == texts]


def release_files(config: Config, texts: str, name: str) -> list[str]:
    """One file of each release on the map of a text set.

    Args:
        config: the configuration.
        texts: name of the text set.
        name: of the file in the folder of a release.
    """
    folder = f"{config.results}/published"
    return [f"{folder}/{release}/{name}" for release in releases_on(config, texts)]


def benchmarks_on(config: Config, texts: str) -> list[str]:
    """Tables of benchmark scores for the models of a text set."""
    tables = [
        f"{config.results}/published/{release}/benchmarks.tsv"
        for release in releases_on(config, texts)
        if config.published[release].metadata is not None
    ]
    return [*tables, *config.analyses.benchmarks]


def predictions_on(config: Config, texts: str) -> list[str]:
    """Predicted benchmark scores, where they are asked for and there are scores to learn from."""
    wanted = config.analyses.predict and benchmarks_on(config, texts)
    return [f"{config.results}/{texts}/predict/predictions.tsv"] if wanted else []


def other_matrices(config: Config, texts: str) -> dict[str, str]:
    """Matrices of the other text sets, by name."""
    return {
        other: f"{config.results}/{other}/matrix.h5" for other in config.texts if other != texts
    }


def most_models(config: Config) -> int:
    """The most models on one map: those of a release are known when its files have been read."""
    return len(config.models) + max(
        sum(config.published[name].count for name in releases_on(config, texts))
        for texts in config.texts
    )


def has_all_pairs(config: Config) -> bool:
    """Whether the distances of all pairs are computed."""
    return most_models(config) <= config.map.dense_limit


def has_ellipses(config: Config) -> bool:
    """Whether the uncertainty of the map is drawn."""
    return has_all_pairs(config) and config.map.ellipses and config.map.bootstrap > 1


def has_domains(config: Config) -> bool:
    """Whether there is a map for each domain of the texts."""
    return has_all_pairs(config) and config.map.domains


def figure_names(config: Config) -> list[str]:
    """Figures that a configuration can fill; what needs all pairs is left out above the limit."""
    names = ["map", "loglik", "paper", "layout"]
    if has_all_pairs(config):
        names += ["dendrogram", "heatmap"]
        revisions = Counter(entry.repository for entry in config.models)
        if max(revisions.values(), default=0) > 2:
            names.append("checkpoints")
    if has_ellipses(config):
        names.append("ellipses")
    if has_domains(config):
        names.append("domains")
    return names


def map_files(config: Config) -> list[str]:
    """Everything that the finished maps consist of."""
    names = [*_MAP, *(f"figures/{name}" for name in _with_endings(figure_names(config)))]
    if has_all_pairs(config):
        names.append("tree.nwk")
    if has_ellipses(config):
        names.append("ellipses.tsv")
    if has_domains(config):
        names.append("domains.tsv")
    return [f"{config.results}/{texts}/{name}" for texts in config.texts for name in names]


def comparisons_on(config: Config, texts: str) -> dict[str, Comparison]:
    """What is to be compared on a text set, by name."""
    asked = config.analyses.contrast
    found = {} if asked is None else asked.comparisons
    return {name: each for name, each in found.items() if each.texts is None or texts in each.texts}


def _has_material(config: Config, analysis: str, texts: str) -> bool:
    """Whether there is what an analysis works on."""
    if analysis == "contrast":
        return bool(comparisons_on(config, texts))
    return analysis not in NEED_BENCHMARKS or bool(benchmarks_on(config, texts))


def analysis_files(config: Config) -> list[str]:
    """Everything that the configured analyses write."""
    return [
        f"{config.results}/{texts}/{name}/{file}"
        for texts in config.texts
        for name in config.analyses.on
        if _has_material(config, name, texts)
        for file in [*ANALYSES[name][0], *_with_endings(ANALYSES[name][1])]
    ]


def _with_endings(figures: Iterable[str]) -> list[str]:
    """Both files of each figure."""
    return [f"{name}.{ending}" for name in figures for ending in ("png", "svg")]
