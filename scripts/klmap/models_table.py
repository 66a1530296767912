"""What is known of each model on a map (models.tsv), and why others are missing (failures.tsv)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from klmap.config_models import revision_step
from klmap.errors import InputError
from klmap.files import read_tsv, write_tsv
from klmap.likelihoods import CAUSAL

_LIKELIHOOD = "likelihood"

PMI_COLUMNS = {"bits_per_byte": "pmi_bits_per_byte", "mean_loglik": "mean_pmi"}
"""What stands in models.tsv instead, where the map is of what prompts add."""

_PMI = "pmi"
_MEASURES = (*PMI_COLUMNS, _PMI)

FAILURE_COLUMNS = ("model", "id", "revision", "reason")


@dataclass(frozen=True)
class Model:
    """One row of models.tsv: what is known of a model on the map.

    Attributes:
        model: its name on the map.
        id: Hub id, local folder or demo id.
        revision: the configured revision; empty for the default one, the final weights.
        variant: what sets it apart from other rows of the same source, for example ``int8``.
        family: from the configuration, else the model type or architecture of its card.
        architecture: class name of the model, empty if unknown.
        parameters: number of weights, None if unknown.
        created_at: ISO 8601 date, empty if unknown.
        base_model: ids of the models it was made from.
        relation: what was done to these: ``finetune``, ``merge``, ``adapter`` or ``quantized``;
            empty if unknown.
        seed_group: name that runs share which differ in their seed; empty without one.
        size_group: name that models share which differ in their size; empty without one.
        layer: of a row that is a hidden state, read through the model's own head (logit lens), the
            number of blocks behind it; None for a whole model.
        n_layers: how many blocks that model has; None where its hidden states were not read.
        license: licence identifier, empty if unknown.
        dtype: number format it was computed in.
        prefix: policy for the beginning-of-sequence token.
        overlength: policy for texts longer than the context.
        bits_per_byte: mean code length of the texts; lower is better. Of PMI what prompts add to
            it, which is below 0 where they help.
        mean_loglik: mean log-likelihood, nats per text, before clipping; estimated for a model
            that was scored on a selection of the texts alone. Of PMI its mean.
        texts: number of texts that it was scored on, None if unknown.
        tokens: scored tokens of all texts together, None if unknown.
        truncated: number of texts that were cut to the context length, None if unknown.
        noise_nats: RMS numerical error, nats per text, None if unknown.
        commit: the commit, or content hash, of the weights.
        likelihood: what stands for the log-likelihood of a text (:mod:`klmap.likelihoods`).
        pmi: whether the map is of what responses gain by their prompts (PMI) instead of
            log-likelihoods; in the table the names of columns say so.
    """

    model: str
    id: str = ""
    revision: str = ""
    variant: str = ""
    family: str = ""
    architecture: str = ""
    parameters: int | None = None
    created_at: str = ""
    base_model: tuple[str, ...] = ()
    relation: str = ""
    seed_group: str = ""
    size_group: str = ""
    layer: int | None = None
    n_layers: int | None = None
    license: str = ""
    dtype: str = ""
    prefix: str = ""
    overlength: str = ""
    bits_per_byte: float = math.nan
    mean_loglik: float = math.nan
    texts: int | None = None
    tokens: int | None = None
    truncated: int | None = None
    noise_nats: float | None = None
    commit: str = ""
    likelihood: str = CAUSAL
    pmi: bool = False

    @property
    def pmi_bits_per_byte(self) -> float:
        """Bits per byte of the response that prompts save on average; higher: they help more."""
        return 0.0 - self.bits_per_byte

    @property
    def mean_pmi(self) -> float:
        """Mean PMI, nats per text, before clipping."""
        return self.mean_loglik

    @property
    def step(self) -> float:
        """The training step that the revision names; infinite for the final weights."""
        return revision_step(self.revision)


@dataclass(frozen=True)
class Failure:
    """One row of failures.tsv: a model that is not on the map, and why."""

    model: str
    id: str
    revision: str
    reason: str


def write_models(path: Path, models: Sequence[Model]) -> None:
    """Write models.tsv: one row per model, ``base_model`` joined by commas.

    The column ``likelihood`` is left out where every one is causal. Of PMI ``mean_loglik`` is
    called ``mean_pmi``, and ``pmi_bits_per_byte`` stands for ``bits_per_byte`` with the sign
    turned: the higher, the more prompts help.
    """
    names = [item.name for item in fields(Model) if item.name != _PMI]
    if all(row.likelihood == CAUSAL for row in models):
        names.remove(_LIKELIHOOD)
    if any(row.pmi for row in models):
        names = [PMI_COLUMNS.get(name, name) for name in names]
    write_tsv(path, names, ([_cell(getattr(row, name)) for name in names] for row in models))


def _cell(value: Any) -> Any:
    return ",".join(value) if isinstance(value, tuple) else value


def read_models(path: Path, expected: Sequence[str] | None = None) -> list[Model]:
    """Read models.tsv.

    Args:
        path: the table.
        expected: names, in order, of the matrix that the table should describe.

    Raises:
        InputError: the file is missing, a column is missing, a number is none, or the rows are
            not the expected ones.
    """
    rows = read_tsv(path)
    try:
        models = [_model(row) for row in rows]
    except KeyError as error:
        raise InputError(f"{path}: no column {error}; remove it and run again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None
    if expected is not None and [model.model for model in models] != list(expected):
        raise InputError(
            f"{path}: its {len(models)} models are not the {len(expected)} of the matrix; remove "
            "it and run again"
        )
    return models


def _model(row: dict[str, str]) -> Model:
    row = {_LIKELIHOOD: CAUSAL, **row}
    pmi = PMI_COLUMNS["bits_per_byte"] in row
    text = {item.name: row[item.name] for item in fields(Model) if item.name not in _MEASURES}
    bits, mean = (row[PMI_COLUMNS[name] if pmi else name] for name in PMI_COLUMNS)
    numbers: dict[str, Any] = {
        "parameters": int(text["parameters"]) if text["parameters"] else None,
        "noise_nats": float(text["noise_nats"]) if text["noise_nats"] else None,
        "layer": int(text["layer"]) if text["layer"] else None,
        "n_layers": int(text["n_layers"]) if text["n_layers"] else None,
        "bits_per_byte": 0.0 - float(bits) if pmi else float(bits),
        "mean_loglik": float(mean),
        _PMI: pmi,
        "texts": int(text["texts"]) if text["texts"] else None,
        "tokens": int(text["tokens"]) if text["tokens"] else None,
        "truncated": int(text["truncated"]) if text["truncated"] else None,
        "base_model": tuple(name for name in text["base_model"].split(",") if name),
        _LIKELIHOOD: text[_LIKELIHOOD] or CAUSAL,
    }
    return Model(**{**text, **numbers})


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Write failures.tsv; the header is always there."""
    rows = ((row.model, row.id, row.revision, row.reason) for row in failures)
    write_tsv(path, FAILURE_COLUMNS, rows)
