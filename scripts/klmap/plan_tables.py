"""The tables that a plan is handed on in: a tab-separated line for each model, source or score."""

from __future__ import annotations

import json
from collections.abc import Mapping

from klmap import estimates
from klmap.config_models import ModelEntry
from klmap.likelihoods import CAUSAL
from klmap.plan import Plan

PLAN_COLUMNS = ("model", "source", "texts", "score", "dtype", "quantization", "reading")
"""Columns of the table of scores that pre-flight and status read."""


def index_rows(plan: Plan, texts: str) -> list[str]:
    """One line per model of a map: what the aggregation has to join.

    Args:
        plan: of the configuration.
        texts: name of the text set.
    """
    return _index_rows(plan, texts, plan.config.mapped_on[texts])


def offmap_rows(plan: Plan, texts: str) -> list[str]:
    """The same of the models that are scored, but are kept off the map."""
    return _index_rows(plan, texts, plan.config.unmapped_on[texts])


def _index_rows(plan: Plan, texts: str, entries: Mapping[str, ModelEntry]) -> list[str]:
    rows = []
    given = {model: _given(entry) for model, entry in entries.items()}
    says_more = any(map(any, given.values()))
    for model, entry in sorted(entries.items()):
        variant = (entry.quantization, entry.dtype, entry.prefix, entry.overlength)
        cells = [
            model,
            entry.source,
            plan.score(texts, model).rsplit(".", 2)[1],
            entry.repository,
            entry.effective_revision or "",
            entry.family or "",
            "+".join(part for part in variant if part),
            *(given[model] if says_more else ()),
        ]
        rows.append("\t".join(cells))
    return rows


def _given(entry: ModelEntry) -> list[str]:
    """What the configuration says of how a model is related to others, as cells of the index."""
    layers = entry.layers
    return [
        ",".join(map(str, layers)) if isinstance(layers, list) else layers or "",
        ",".join(entry.merge_of or entry.parent or ()),
        "merge" if entry.merge_of else "",
        entry.seed_group or "",
        entry.size_group or "",
    ]


def source_header(plan: Plan) -> str:
    """First line of the table of sources."""
    return "\t".join(_source_columns(plan))


def _source_columns(plan: Plan) -> list[str]:
    """Columns of the table of sources; the last two only where they say anything of a model."""
    columns = ["source", "id", "revision", "folder"]
    columns += ["remote_code"] * any(map(plan.runs_code, plan.models_of))
    kinds = set(map(plan.config.likelihood, plan.config.models))
    return columns + ["likelihood"] * bool(kinds - {CAUSAL})


def source_rows(plan: Plan) -> list[str]:
    """One line per configured source: what refresh has to ask about."""
    columns = _source_columns(plan)
    rows = []
    for source, entry in sorted(plan.config.by_source.items()):
        cells = {
            "source": source,
            "id": entry.repository,
            "revision": entry.effective_revision or "",
            "folder": plan.folder(source),
            "remote_code": "true" if plan.runs_code(source) else "",
            "likelihood": plan.config.likelihood(entry),
        }
        rows.append("\t".join(cells[column] for column in columns))
    return rows


def score_rows(plan: Plan) -> list[str]:
    """One line per wanted score: what pre-flight has to look for."""
    rows = []
    for texts in sorted(plan.config.scored_on):
        for model, entry in sorted(plan.config.scored_on[texts].items()):
            spec = json.loads(plan.spec(texts, model))
            made_as = [spec["dtype"], spec["quantization"] or "", estimates.reading_of(spec)]
            path = plan.score(texts, model)
            rows.append("\t".join([model, entry.source, texts, path, *made_as]))
    return rows
