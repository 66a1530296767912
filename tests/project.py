"""A klmap clone in a temporary folder, to run the real workflow in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.builders import tiny_model, tiny_texts

ROOT = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "scripts", "profiles", "envs")
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))

AGGREGATION = dict.fromkeys(
    ("index", "matrix", "kl", "layout", "tree", "domains", "figures", "explorer"), 1
)
"""What follows every change of the list of models."""


@dataclass
class Project:
    """One clone with its configuration and results."""

    folder: Path
    environment: dict[str, str] | None = None

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment of its processes; tests of the scorer set variables of the Hub."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        return {**kept, **(self.environment or {})}

    def configure(self, **changes: object) -> None:
        """Replace top-level keys of config.yaml."""
        path = self.folder / "config.yaml"
        config = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump({**config, **changes}, sort_keys=False))

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Snakemake as a user does, in the clone."""
        done = subprocess.run(
            [SNAKEMAKE, *arguments],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=600,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"snakemake {arguments} failed:\n{done.stdout}\n{done.stderr}")
        return done

    def run(self, *arguments: str, check: bool = True) -> str:
        """Run the workflow on both cores and return everything it said."""
        done = self.snakemake("--cores", "2", *arguments, check=check)
        return done.stdout + done.stderr

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs by rule that a dry run lists."""
        done = self.snakemake("--dry-run", *arguments)
        return job_counts(done.stdout + done.stderr)

    def copy(self, target: Path) -> Project:
        """The same clone elsewhere, with all time stamps."""
        shutil.copytree(self.folder, target, symlinks=True)
        return Project(target, self.environment)

    def scores(self, texts: str = "tiny") -> dict[str, tuple[int, bytes]]:
        """Time stamp and bytes of every score file, by model."""
        return {
            path.name.rsplit(".", 2)[0]: (path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted((self.folder / "results" / texts / "scores").glob("*.h5"))
        }

    def leftovers(self) -> list[Path]:
        """Temporary files that should not have survived."""
        return list((self.folder / "results").rglob("*.tmp"))


def job_counts(output: str) -> dict[str, int]:
    """Jobs by rule from the table that Snakemake prints, without targets and total."""
    table = output.rpartition("Job stats:")[2] if "Job stats:" in output else ""
    counts = dict(re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE))
    return {name: int(n) for name, n in counts.items() if name not in ("all", "total")}


def copy_clone(folder: Path) -> Project:
    """What a user clones, without a configuration."""
    folder.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=ignore)
        else:
            shutil.copy2(source, folder / part)
    return Project(folder)


def make_project(folder: Path) -> Project:
    """A clone with three tiny models, of which two are configured, and twelve texts."""
    project = copy_clone(folder)
    for seed, (name, kind) in enumerate({"a": "gpt2", "b": "llama", "c": "gpt_neox"}.items()):
        tiny_model(folder / "models" / name, kind, seed=seed)
    tiny_texts(folder / "texts.jsonl", n=12)
    project.configure(
        texts={"tiny": {"source": "file", "path": "texts.jsonl"}},
        models=["./models/a", "./models/b"],
    )
    return project
