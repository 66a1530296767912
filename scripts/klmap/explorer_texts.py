"""What the page says of the texts: how many, of which domains, and what they were selected from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from klmap import chosen, split
from klmap.config_prompts import PMI
from klmap.design import Design
from klmap.errors import InputError
from klmap.store import MatrixFile


def texts(
    name: str, manifest: Mapping[str, Any], matrix: MatrixFile, domains: split.Domains
) -> dict[str, Any]:
    """The text set in numbers.

    Args:
        name: of the set.
        manifest: what texts.json holds.
        matrix: of the models on these texts.
        domains: the D domains of the texts, by falling size.

    Returns:
        ``name``, ``n``, ``mean_bytes``, ``sha256``, ``domains`` (D times ``name``, ``n``; of a
        selection also ``share``, what part of all texts of the reference they stand for),
        ``responses``, true, where the texts are responses to prompts, and ``pmi``, true, where the
        map is of what these gain by their prompts.
    """
    found: dict[str, Any] = {
        "name": name,
        "n": len(matrix.domain),
        "mean_bytes": matrix.mean_bytes,
        "sha256": matrix.texts_sha256,
        "domains": _domains(domains, matrix.design),
    }
    if "template" in manifest:
        found["responses"] = True
    if matrix.vector == PMI:
        found["pmi"] = True
    return found


def _domains(domains: split.Domains, design: Design | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "n": size} for name, size in zip(domains.names, domains.sizes, strict=True)
    ]
    if design is not None:
        shares = np.bincount(domains.code, design.share, len(found))
        found = [{**one, "share": float(own)} for one, own in zip(found, shares, strict=True)]
    return found


def selection(
    path: Path, manifest: Mapping[str, Any], matrix: MatrixFile, reference: str | None
) -> dict[str, Any] | None:
    """What is said of a text selection, and who was scored on it alone.

    Args:
        path: texts.json.
        manifest: what it holds.
        matrix: of the models on these texts.
        reference: name of the text set that the texts are a selection of, where it is known.

    Returns:
        None, or of a text selection ``method``, its ``words``, ``draws``, ``texts``, ``of`` (texts
        of the reference), ``reference`` (its name, or None), ``added`` (rows of the models that
        were scored on the selection alone). ``mean_bytes`` of the texts is then that of the
        reference.

    Raises:
        InputError: only one of manifest and matrix is of a text selection.
    """
    found = chosen.chosen_of(path, manifest)
    if (found is None) != (matrix.design is None):
        raise InputError(
            f"{path} and {matrix.path}: only one of them is of a text selection; remove the "
            "matrix and run again"
        )
    if found is None:
        return None
    added = np.flatnonzero(~matrix.complete)
    return {**asdict(found), "words": found.words, "reference": reference, "added": added.tolist()}
