"""Time and memory of a dry run over many configured models, none of which has been scored."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMITS = {1018: 5, 10000: 30}


def measure(models: int, runs: int) -> tuple[float, float]:
    """Median seconds and peak MB of `snakemake -n` over ``models`` Hub ids."""
    lines = "".join(f"  - org{number % 50}/model-{number}\n" for number in range(models))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        config.write_text(f"texts:\n  demo: {{source: environment}}\nmodels:\n{lines}")
        command = [
            str(Path(sys.executable).with_name("snakemake")),
            *("--dry-run", "--quiet", "all"),
            *("--snakefile", str(ROOT / "Snakefile"), "--directory", folder),
            *("--configfile", str(config)),
        ]
        seconds, peaks = [], []
        for _ in range(runs):
            code = (
                "import resource, subprocess, sys, time\n"
                "start = time.perf_counter()\n"
                "subprocess.run(sys.argv[1:], check=True, capture_output=True)\n"
                "usage = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
                "print(time.perf_counter() - start, usage.ru_maxrss / 1e3)\n"
            )
            done = subprocess.run(
                [sys.executable, "-c", code, *command], check=True, capture_output=True, text=True
            )
            second, peak = map(float, done.stdout.split())
            seconds.append(second)
            peaks.append(peak)
    return sorted(seconds)[len(seconds) // 2], max(peaks)


def main() -> None:
    """Parse the arguments, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[1018, 10000])
    parser.add_argument("--runs", type=int, default=3, help="runs, of which the median counts")
    arguments = parser.parse_args()
    print("| models | jobs | seconds | goal | peak memory |")
    print("|---:|---:|---:|---:|---:|")
    for models in arguments.models:
        seconds, peak = measure(models, arguments.runs)
        goal = f"< {LIMITS[models]}" if models in LIMITS else ""
        print(f"| {models:,} | {3 * models + 9:,} | {seconds:.1f} | {goal} | {peak:,.0f} MB |")


if __name__ == "__main__":
    main()
