"""Weights of a mixture, read back from its table by what trains under them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from klmap.errors import InputError
from klmap.files import read_tsv

Kind = Literal["found", "uniform"]
"""Under which weights a base is trained on: those of the table, or equal ones."""


def read_weights(path: Path, plan: str, kind: Kind = "found") -> dict[str, float]:
    """The share of every domain under which a base is to be trained on.

    Args:
        path: weights.tsv.
        plan: name of the plan.
        kind: the weights that were found, or equal ones of the same domains.

    Returns:
        Shares by domain, with the sum 1.

    Raises:
        InputError: the table is broken, or has no weights for the plan.
    """
    rows = [row for row in read_tsv(path) if row.get("plan") == plan]
    try:
        found = {row["domain"]: float(row["weight"]) for row in rows}
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: {error}; remove it and run again") from None
    if not found:
        raise InputError(f"{path}: no plan {plan!r}; run mixture again")
    if kind == "uniform":
        return dict.fromkeys(found, 1 / len(found))
    total = math.fsum(found.values())
    if not total > 0:
        raise InputError(
            f"{path}: every mixture of {plan!r} leads away from its target, so there is nothing "
            f"to train under; set analyses.mixture.plans.{plan}.check to false"
        )
    # The table holds six digits.
    return {domain: weight / total for domain, weight in found.items()}
