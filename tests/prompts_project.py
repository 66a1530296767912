"""Small twins of the examples of prompts and of mixtures, both made in one run of a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from klmap.files import read_tsv
from tests.project import ROOT, Project, copy_clone
from tests.zoo_project import give_zoo

QUICK_MAP = {"iterations": 500, "bootstrap": 0, "domains": False}
BASES = ["gpt2-base", "llama-base", "llama-code"]
"""What answers prompts, and stands on the map of mixtures too."""

PROBES = ["docstrings", "headers", "licences", "python"]
"""Of the seven domains: those of the mixture that is known, and one that is none of it."""

EDITS = ["code", "code-licence", "licence"]
"""Of which the second is made of the others."""


def settings() -> dict[str, Any]:
    """Both examples with fewer texts, models and pairs, as one configuration.

    `questions` of the example is left out: what else it shows is seen on tiny models.
    """
    prompts, mixture = (
        yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
        for name in ("prompts", "mixture")
    )
    continuations = {**prompts["texts"]["continuations"], "n": 60}
    demo = {**mixture["texts"]["demo"], "n": 400}
    families = {entry["id"]: entry for entry in prompts["models"]}
    probes = {name: f"demo/gpt2-probe-{name}" for name in PROBES}
    plans = mixture["analyses"]["mixture"]["plans"]
    legal = {**plans["legal"], "target": "demo/llama-code", "check": False}
    plans = {"mixed": plans["mixed"], "code": legal, "cheap": plans["cheap"]}
    for name in ("mixed", "code"):
        plans[name] = {**plans[name], "probes": probes}
    pairs = [["demo--gpt2-base", "demo--llama-base"], ["demo--llama-base", "demo--llama-code"]]
    generation = {"texts": "continuations", "prompts": 10, "samples": 2, "tokens": 16}
    return {
        "results": "results",
        "texts": {"continuations": continuations, "demo": demo},
        "models": [
            *(families[f"demo/{name}"] for name in BASES),
            {"id": "demo/gpt2-mixed", "family": "gpt2", "texts": "demo"},
            *({"id": name, "texts": "demo", "on_map": False} for name in probes.values()),
        ],
        "map": QUICK_MAP,
        "analyses": {
            "prompts": {"bootstrap": 50},
            "generation": {**generation, "pairs": pairs},
            "mixture": {"bootstrap": 50, "plans": plans},
        },
    }


def twins(factory: pytest.TempPathFactory) -> Project:
    """The project in which both are finished. Copy it before any change."""
    folder = factory.getbasetemp() / "prompts-and-mixtures"
    if folder.exists():
        project = Project(folder)
    else:
        project = copy_clone(folder)
        runs = [*BASES, "gpt2-mixed", *(f"gpt2-probe-{name}" for name in PROBES)]
        give_zoo(factory, project, *runs)
        project.configure(**settings())
    # In parts, none of which takes long.
    project.run("scores")
    project.run()
    return project


def rows(project: Project, name: str) -> list[dict[str, str]]:
    """Lines of a table below `results`."""
    return read_tsv(project.folder / "results" / name)


def number(row: dict[str, str], column: str) -> float:
    """A cell; NaN where it is empty."""
    return float(row[column] or "nan")


def assert_complete(folder: Path, tables: list[str], figures: list[str]) -> None:
    """Every table and figure is there, and none is empty."""
    for table in tables:
        assert (folder / table).stat().st_size > 0
    for figure in figures:
        assert (folder / f"{figure}.png").stat().st_size > 10_000
        assert "</svg>" in (folder / f"{figure}.svg").read_text()[-100:]
