"""How long the whole demo takes after setup, in an empty folder. Prints a Markdown table."""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Parse the arguments, run the demo, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(Path(sys.executable).with_name("snakemake")),
            *("--cores", str(arguments.cores)),
            *("--snakefile", str(ROOT / "Snakefile"), "--directory", folder),
            *("--configfile", str(ROOT / "config.yaml")),
        ]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds = time.perf_counter() - start
    jobs = Counter(re.findall(r"\(Rule: (\w+)\)", done.stdout + done.stderr))
    print("| demo after setup | seconds | goal |")
    print("|---|---:|---:|")
    print(
        f"| {jobs['zoo_train']} training runs, {jobs['score']} models scored, "
        f"{arguments.cores} cores | {seconds:.0f} | < 300 |"
    )


if __name__ == "__main__":
    main()
