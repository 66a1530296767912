"""Run every benchmark and keep its figures in docs/benchmarks.md, one section per part.

A part that fails is named on the page with the reason, and the others are kept. The page is
written after every part, so that an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
HEAD = """\
# Benchmarks

Written by `make bench`. The machine is shared with others, so ratios say more than seconds."""
SECTIONS = {
    "demo": (
        "The demo",
        "From an empty folder to the map: texts, training, scoring, figures.",
    ),
    "dryrun": (
        "Looking before anything runs",
        "`snakemake -n`, as typed. The peer is Snakemake itself with three bare rules per model, "
        "of which nothing is there.",
    ),
    "hub": (
        "Models from the Hub",
        "A Hub in miniature runs in a process of its own on the same machine; everything asks it "
        "through the real huggingface_hub, as whole processes with an empty cache. The peers are "
        "the loop that people write, and `snapshot_download` of the library itself.",
    ),
    "slurm": (
        "A thousand models through SLURM",
        "A real SLURM of one node with four invented GPUs. Models are placeholders whose score is "
        "written in an instant, so what is measured is submitting, asking and starting: first "
        "with small models in shared allocations, as the profile has it, then one by one.",
    ),
    "geometry": (
        "From scores to a map",
        "Made-up log-likelihoods of 1,018 models on 10,000 texts.",
    ),
    "layout": (
        "Layouts that stay",
        "Made-up log-likelihoods of 10,000 texts. A layout of 1,018 models, then one of 5 % more: "
        "continued from the first, and afresh, turned onto the first as well as it goes. "
        "Movement is that of the old models, as a share of the map's width. The peers are the "
        "plain libraries on the same points, in one thread as everything here.",
    ),
    "scale": (
        "A hundred thousand models",
        "Made-up scores of 10,000 texts: families along 40 directions, noise of each model's own, "
        "and near copies. The real scripts as whole processes, reading real score files. The peer "
        "is scikit-learn on the finished matrix: beside `kl`, which also computes standard errors "
        "and measures its recall, `PCA` with 128 components and `NearestNeighbors` by brute force; "
        "beside `layout`, `PCA` and `TSNE`.",
    ),
    "published": (
        "The published map",
        "`examples/published.yaml` on three files of the format and size of the published ones, "
        "which are made up. There is no peer: what is published is notebooks.",
    ),
    "predict": (
        "Benchmark scores from coordinates",
        "The protocol of Oyama et al. 2025, section 5: folds by type and at random, five seeds, "
        "five folds, nine penalties chosen by inner folds. The peer is scikit-learn on the raw "
        "columns.",
    ),
    "selection": (
        "Fewer texts",
        "Made-up log-likelihoods whose variance differs from text to text. Errors are means over "
        "ten draws, against the distances by all texts. The peer is the definition of the KL "
        "probabilities, a sum over all pairs of models.",
    ),
    "related": (
        "Related models",
        "Hidden states of Llamas with random weights on real texts; the two analyses that look at "
        "most pairs, on made-up log-likelihoods; sketches and a merge of two checkpoints; exact "
        "divergences of two models. The peers are the loops that people write: every hidden state "
        "kept, read through norm and head; both state dicts in memory; both log-softmaxes whole. "
        "Every way runs as a whole process.",
    ),
    "prompts": (
        "Prompts and responses",
        "Random models on real pairs: texts of the environment of 600 to 1,024 bytes, cut behind "
        "at most 256 bytes. The peers are the loop that people write, written out in "
        "`benchmarks/prompt_loop.py` (one pair at a time; for masked models one masked copy at a "
        "time), and `loglikelihood` of lm-eval in an environment of its own. Every way runs as a "
        "whole process.",
    ),
    "explorer": (
        "The page",
        "Made-up models on 2,000 texts of 22 domains. Pages are opened from the disk in headless "
        "Chromium, whose pictures are painted by the CPU. The peer is the page that Bokeh itself "
        "writes for a plain scatter plot of the same points with names on hover: no search, no "
        "distances, no domains.",
    ),
    "score": (
        "Scoring",
        "Llama shapes with random weights on real texts of 600 to 1,024 bytes. The peers are the "
        "published practice, written out in `benchmarks/plain_loop.py` (one text at a time "
        "through the whole model, values gathered one by one), and `loglikelihood_rolling` of "
        "lm-eval in an environment of its own. Every way runs as a whole process.",
    ),
}


class PartFailed(Exception):
    """A part ended with an error; the message is the last line it wrote."""


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


def run_part(name: str) -> str:
    """The Markdown that a part prints; what it writes to standard error is shown meanwhile.

    Raises:
        PartFailed: it ended with an error.
    """
    last = "no output"
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(
            [sys.executable, str(HERE / f"bench_{name}.py")],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                sys.stderr.write(line)
                last = line.strip() or last
        if process.returncode:
            raise PartFailed(f"exit status {process.returncode}: {last}")
        output.seek(0)
        return output.read().strip()


def sections_of(page: str) -> dict[str, str]:
    """The text of every section of a page, by its title."""
    parts = re.split(r"^## (.*)$", page, flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {title.strip(): text.strip() for title, text in pairs}


def page_of(sections: dict[str, str]) -> str:
    """The page: the sections that exist, in the order of the parts."""
    titles = [title for title, _ in SECTIONS.values()]
    parts = [f"## {title}\n\n{sections[title]}" for title in titles if title in sections]
    return "\n\n".join([HEAD, *parts]) + "\n"


def main() -> None:
    """Parse the arguments, run, write the page after every part.

    Raises:
        SystemExit: 1 if a part failed.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="measure these parts; the other sections of the page stay as they are",
    )
    arguments = parser.parse_args()
    sections = sections_of(PAGE.read_text(encoding="utf-8")) if PAGE.is_file() else {}
    failed = []
    for name in arguments.only:
        title, text = SECTIONS[name]
        print(f"{title} ...", file=sys.stderr)
        try:
            found = run_part(name)
            print(found, file=sys.stderr)
        except PartFailed as error:
            failed.append(name)
            reason = " ".join(str(error).split()).replace("`", "'")
            found = f"**This part failed** (`benchmarks/bench_{name}.py`): `{reason}`"
            print(f"{title} failed: {reason}", file=sys.stderr)
        sections[title] = f"{text}\n\nMeasured on {machine()}.\n\n{found}"
        PAGE.write_text(page_of(sections), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
