"""How long the published map takes, from three files of the same format and size to the page.

The release is made up (`tests/release.py`); the configuration is examples/published.yaml with the
addresses replaced by paths. Prints a Markdown table.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from tests.release import make_release

ROOT = Path(__file__).resolve().parents[1]
MODELS, TEXTS = 1018, 10_000


def main() -> None:
    """Make the release, run the workflow in three steps, print a Markdown table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        release = make_release(folder / "release", MODELS, TEXTS)
        config = yaml.safe_load((ROOT / "examples" / "published.yaml").read_text())
        config["texts"]["pile"] = {
            "source": "file", "path": str(release.texts), "domain_field": "pile_set_name",
        }  # fmt: skip
        config["published"]["oyama2025"] |= {
            "loglik": str(release.raw), "metadata": str(release.metadata),
        }  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        steps = {
            "import of 1,018 vectors": [f"{config['results']}/published/oyama2025/index.tsv"],
            "the map with its tables, figures and page": ["map"],
            "predict, leakage, axes, robustness": ["analyses"],
        }
        times = {words: seconds(folder, targets) for words, targets in steps.items()}
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(f"{MODELS:,} models, {TEXTS:,} texts, t-SNE with 10,000 iterations.\n")
    print("| step | seconds |")
    print("|---|---:|")
    for words, taken in times.items():
        print(f"| {words} | {taken:.0f} |")
    print(f"| **together** | **{sum(times.values()):.0f}** |")
    print(f"\nThe largest process took {peak:.2f} GB.")


def seconds(folder: Path, targets: list[str]) -> float:
    """Wall-clock seconds of one call of Snakemake on two cores."""
    command = [
        str(Path(sys.executable).with_name("snakemake")),
        *targets,
        *("--cores", "2", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder)),
        *("--configfile", str(folder / "config.yaml")),
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
