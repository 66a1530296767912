"""Time and memory of a dry run over many configured models, none of which has been scored.

Beside it, in the same run, the least that Snakemake itself needs for three jobs per model: bare
rules without logs, parameters, resources or environments. Prints a Markdown table.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

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
    command = [sys.executable, "-c", MEASURE, SNAKEMAKE, "--dry-run", "--quiet", "all", *arguments]
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
    print("| models | seconds | goal | peak memory | bare Snakemake | ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    for models in arguments.models:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            seconds, peak = measure(klmap_arguments(folder, models), arguments.runs)
            bare, _ = measure(bare_arguments(folder, models), arguments.runs)
        goal = f"< {GOALS[models]}" if models in GOALS else ""
        print(
            f"| {models:,} | {seconds:.1f} | {goal} | {peak:,.0f} MB | {bare:.1f} s "
            f"| {seconds / bare:.2f} |"
        )


if __name__ == "__main__":
    main()
