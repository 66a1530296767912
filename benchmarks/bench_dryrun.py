"""Time and memory of a dry run over many configured models: before anything is there, when every
model has been looked up, and when all is scored.

Beside it, in the same run, the least that Snakemake itself needs for three jobs per model: bare
rules without logs, parameters, resources or environments. Once as it comes, when it describes every
job; once with `--quiet`, when it stops behind the table of jobs, as klmap does by itself. Prints a
Markdown table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import configfile
from klmap.cards import Card
from klmap.config import fingerprint

ROOT = Path(__file__).parents[1]
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
GOALS = {1018: 5, 10000: 30}

BARE = """\
rule all:
    input: expand("results/{{model}}.h5", model=[f"model-{{i}}" for i in range({models})])
rule resolve:
    output: "results/models/{{model}}/card.json"
    shell: "touch {{output}}"
rule fetch:
    input: "results/models/{{model}}/card.json"
    output: temp(directory("results/models/{{model}}/weights"))
    shell: "mkdir {{output}}"
rule score:
    input: "results/models/{{model}}/card.json", ancient("results/models/{{model}}/weights")
    output: "results/{{model}}.h5"
    shell: "touch {{output}}"
"""

MEASURE = """\
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3)
"""


def measure(arguments: list[str], runs: int) -> tuple[float, float]:
    """Median seconds and peak MB of a dry run."""
    command = [sys.executable, "-c", MEASURE, SNAKEMAKE, "--dry-run", *arguments]
    results = []
    for _ in range(runs):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results.append(tuple(map(float, done.stdout.split())))
    return sorted(results)[len(results) // 2][0], max(peak for _, peak in results)


def klmap_arguments(folder: Path, models: int) -> list[str]:
    """klmap's own workflow over made-up Hub ids."""
    lines = "".join(f"  - org{number % 50}/model-{number}\n" for number in range(models))
    config = folder / "config.yaml"
    config.write_text(f"texts:\n  demo: {{source: environment}}\nmodels:\n{lines}")
    snakefile = str(ROOT / "Snakefile")
    return ["--snakefile", snakefile, "--directory", str(folder), "--configfile", str(config)]


def look_up(folder: Path) -> None:
    """Cards of all models, as they are once a model has been looked up."""
    for source in configfile.load(folder / "config.yaml").by_source:
        card = Card(id=source, commit="0" * 40, parameters=7 * 10**9, bytes=14 * 10**9)
        path = folder / "results/models" / source / "card.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(asdict(card)))


def score(folder: Path) -> None:
    """Files in place of all scores and of the map, each newer than what it is made from."""
    config = configfile.load(folder / "config.yaml")
    results = folder / "results/demo"
    scores = [
        f"scores/{model}.{fingerprint(config.spec('demo', entry))}.h5"
        for model, entry in config.by_slug.items()
    ]
    drawn = ["index.tsv", "matrix.h5", "models.tsv", "failures.tsv", "kl.h5", "neighbors.tsv"]
    drawn += ["layout.tsv", "tree.nwk"]
    figures = ["map", "loglik", "dendrogram", "heatmap"]
    drawn += [f"figures/{name}.{ending}" for name in figures for ending in ("png", "svg")]
    now = time.time() - 60
    for age, names in enumerate((["texts.jsonl", "texts.json"], scores, drawn, ["map.html"])):
        for name in names:
            (results / name).parent.mkdir(parents=True, exist_ok=True)
            (results / name).touch()
            os.utime(results / name, (now + age, now + age))
    (results / "failures.tsv").write_text("model\tid\trevision\treason\n")
    os.utime(results / "failures.tsv", (now + 2, now + 2))
    for card in folder.glob("results/models/*/card.json"):
        os.utime(card, (now, now))


STATES = {"nothing": None, "every card": look_up, "every score": score}


def bare_arguments(folder: Path, models: int) -> list[str]:
    """The same number of jobs with nothing in them."""
    snakefile = folder / "bare.smk"
    snakefile.write_text(BARE.format(models=models))
    policy = ["--scheduler", "greedy", "--rerun-triggers", "mtime", "params", "input"]
    return ["--snakefile", str(snakefile), "--directory", str(folder), *policy]


def main() -> None:
    """Parse the arguments, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[1018, 10000])
    parser.add_argument("--runs", type=int, default=3, help="runs, of which the median counts")
    arguments = parser.parse_args()
    print(
        "| models | there already | seconds | goal | peak memory | bare, every job described |"
        " bare, the table only | this / the table only |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for models in arguments.models:
        goal = f"< {GOALS[models]}" if models in GOALS else ""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            bare = bare_arguments(folder, models)
            described, _ = measure(bare, arguments.runs)
            table, _ = measure([*bare, "--quiet"], arguments.runs)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            ours = klmap_arguments(folder, models)
            for state, prepare in STATES.items():
                if prepare is not None:
                    prepare(folder)
                seconds, peak = measure(ours, arguments.runs)
                beside = f"{described:.1f} s | {table:.1f} s | {seconds / table:.2f}"
                print(
                    f"| {models:,} | {state} | {seconds:.1f} | {goal} | {peak:,.0f} MB "
                    f"| {beside if prepare is None else ' | | '} |"
                )


if __name__ == "__main__":
    main()
