"""Run every benchmark and keep its table in docs/benchmarks.md."""

import argparse
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
SECTIONS = {
    "demo": (
        "The demo",
        "From an empty folder to the map: texts, training, scoring, figures.",
    ),
    "dryrun": (
        "Looking before anything runs",
        "`snakemake -n` over models of which none has been scored. The peer is Snakemake itself "
        "with three bare rules per model.",
    ),
    "geometry": (
        "From scores to a map",
        "Made-up log-likelihoods of 1,018 models on 10,000 texts.",
    ),
    "score": (
        "Scoring on a CPU",
        "The peer is the published practice, written out in the benchmark: one text at a time "
        "through the whole model, values gathered one by one.",
    ),
}


def machine() -> str:
    """What the figures were measured on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "snakemake"))
    return (
        f"{len(names)} cores ({names[0]}), Python {platform.python_version()}, {packages}; "
        f"{datetime.now(UTC):%Y-%m-%d}"
    )


def main() -> None:
    """Parse the arguments, run, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    arguments = parser.parse_args()
    parts = [
        "# Benchmarks",
        f"Written by `make bench`. Measured on {machine()}. The machine is shared with others, so "
        "ratios say more than seconds.",
    ]
    for name in arguments.only:
        title, text = SECTIONS[name]
        print(f"{title} ...", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, str(HERE / f"bench_{name}.py")],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        parts += [f"## {title}", text, done.stdout.strip()]
        print(done.stdout, file=sys.stderr)
    if arguments.only == list(SECTIONS):
        PAGE.write_text("\n\n".join(parts) + "\n")
        print(f"wrote {PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
