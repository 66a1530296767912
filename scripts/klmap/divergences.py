"""Which pairs of models are compared token by token, or by texts that they write themselves.

Both models of a pair are loaded in one job (``pair_jobs``). What is compared is in
``scorer_divergence`` and in ``scorer_samples``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping

from klmap.config import Config
from klmap.config_models import ModelEntry, final_revision, revision_step
from klmap.likelihoods import CAUSAL


def pairs(config: Config, texts: str) -> list[tuple[str, str]]:
    """Names on the map of the pairs that are to be compared on a text set.

    Args:
        config: the configuration.
        texts: name of the text set.

    Returns:
        Each pair once: originals before their quantised models, earlier checkpoints before later
        ones, others in the order of names, so that a pair written the other way round is the same.
        None for a selection of texts, and for edited prompts.
    """
    asked = config.analyses.true_kl
    if asked is None or texts in config.selections or texts in config.variants:
        return []
    scored = {
        model: entry
        for model, entry in config.scored_on[texts].items()
        if config.likelihood(entry) == CAUSAL
    }
    own = {frozenset(pair): pair for pair in _own(scored)}
    found = dict(own) if asked.own else {}
    for pair in asked.pairs:
        if pair[0] != pair[1] and set(pair) <= set(scored):
            key = frozenset(pair)
            found[key] = own.get(key) or (min(pair), max(pair))
    return list(found.values())


def sampled(config: Config, texts: str) -> list[tuple[str, str]]:
    """Names on the map of the pairs that write responses to the prompts of a text set.

    Args:
        config: the configuration.
        texts: name of the text set.

    Returns:
        Each pair once, in the order of names. None for a text set without prompts.
    """
    asked = config.analyses.generation
    if asked is None or texts not in config.paired or texts not in (asked.texts or [texts]):
        return []
    scored = config.scored_on[texts]
    pairs = dict.fromkeys((min(pair), max(pair)) for pair in asked.pairs)
    return [pair for pair in pairs if pair[0] != pair[1] and set(pair) <= set(scored)]


def _own(scored: Mapping[str, ModelEntry]) -> Iterable[tuple[str, str]]:
    """Quantised models with their originals, and consecutive checkpoints: one vocabulary each."""
    plain: dict[tuple[str, ...], str] = {}
    runs: dict[tuple[str, ...], dict[str, str]] = {}
    # Whatever the order of the configuration: under its own name before that of its layers.
    named = sorted(scored.items(), key=lambda item: (item[1].layers is not None, item[0]))
    for model, entry in named:
        if entry.quantization in (None, "none"):
            plain.setdefault(_how(entry), model)
            run = runs.setdefault(_how(entry)[:1] + _how(entry)[2:], {})
            run.setdefault(entry.effective_revision or "", model)
    for model, entry in named:
        if entry.quantization not in (None, "none") and _how(entry) in plain:
            yield plain[_how(entry)], model
    for run in runs.values():
        yield from itertools.pairwise(_in_order(run))


def _in_order(run: Mapping[str, str]) -> list[str]:
    """Models of a run in the order of training, one of each step; branches and tags are left out.

    Args:
        run: models by revision.
    """
    steps: dict[float, str] = {}
    for revision, model in run.items():
        if math.isfinite(step := revision_step(revision)):
            steps.setdefault(step, model)
    end = final_revision([revision for revision in run if math.isinf(revision_step(revision))])
    return [steps[step] for step in sorted(steps)] + ([] if end is None else [run[end]])


def _how(entry: ModelEntry) -> tuple[str, ...]:
    """What a model has in common with its quantised variants; its revision stands second."""
    parts = (entry.dtype, entry.prefix, entry.overlength)
    return (entry.repository, entry.effective_revision or "", *(part or "" for part in parts))
