"""What it takes to score responses to prompts, and to compare edits of the prompts.

The same random models on the same real pairs, side by side with the loop that people write and with
lm-eval; PMI in one job and in two; the analysis ``prompts`` on made-up matrices; pseudo-likelihoods
of a masked model beside the loop of one masked copy at a time. Every row is a whole process. Prints
Markdown; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval_setup
import numpy as np
from score_shapes import SHAPES
from score_ways import (
    HERE,
    ROOT,
    Floats,
    Inputs,
    Klmap,
    Loop,
    Process,
    Run,
    Way,
    WayFailed,
    run_process,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import files

PAIRED, ALONE, BEHIND, MASKED = "pairs", "alone", "behind", "masked"
"""Folders: of pairs, of their responses, of pairs cut behind white space, and of masked texts."""

EDITS = ("brief", "german", "format", "both")
COMPOSED = "both=brief,german"
"""Of the made-up matrices."""

DIFFERENT = 0.01
"""Nats by which two sums of one response differ when they are not sums of the same tokens: float32
moves a sum of some hundred tokens by far less."""

BORDERS = """
Everyone tokenizes prompt and response together; where a token crosses the border, rules differ. \
klmap scores that token whole. The loop leaves out as many tokens as the prompt has alone, and \
with them the crossing one wherever its part of the prompt is a token of its own there. lm-eval \
counts like the loop, but first moves white space from the end of the prompt to the response. \
Pairs that `prompt_bytes` cuts have it there already, so above all differences are rounding. Here \
are the same texts, cut behind the white space; a response differs where the sums are more than \
{different} nats apart."""


@dataclass(frozen=True)
class Job:
    """Sizes, and where files are written for the while.

    Attributes:
        sizes: the parsed arguments.
        root: an empty folder.
    """

    sizes: argparse.Namespace
    root: Path

    def folder(self) -> Path:
        """A new empty folder."""
        return Path(tempfile.mkdtemp(dir=self.root))

    def make(self, *arguments: object) -> None:
        """Run prompt_inputs.py."""
        command = [sys.executable, str(HERE / "prompt_inputs.py"), "--folder", str(self.root)]
        run_process([*command, *map(str, arguments)], self.root / "log")

    def inputs(self, name: str) -> Inputs:
        """What a way gets, by the name of the set."""
        return Inputs(self.root / name, "cpu", self.sizes.threads)

    def rounds(self, ways: Sequence[Way], run: Callable[[Way], Run]) -> dict[Way, list[Run] | str]:
        """Run every way several times, in turns; the reason in place of runs where one fails."""
        found: dict[Way, list[Run] | str] = {way: [] for way in ways}
        for number in range(self.sizes.rounds):
            say(f" round {number + 1} of {self.sizes.rounds}")
            for way, runs in found.items():
                if isinstance(runs, str):
                    continue
                try:
                    runs.append(run(way))
                except WayFailed as error:
                    found[way] = f"failed: {error}"
                    say(f"  {way.name}: {error}")
                    continue
                say(f"  {way.name}: {runs[-1].loop_seconds:.1f} s of {runs[-1].seconds:.1f} s")
        return found

    def run(self, way: Way, inputs: Inputs) -> Run:
        """One run of a way, in an empty folder."""
        if isinstance(way, Klmap):
            return way.measured(*way.scored(inputs, self.folder()), counted(inputs))
        return way.run(inputs, self.folder())

    def script(self, name: str, *arguments: object) -> Process:
        """One of klmap's scripts as a process."""
        command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
        return run_process(command, self.root / "log")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def row(*cells: object) -> None:
    """A line of a table, at once."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def counted(inputs: Inputs) -> int:
    """Tokens that go through a model for all texts, prompts included, each once."""
    return int(json.loads((inputs.folder / "counts.json").read_text())["passed"])


def speed(runs: Sequence[Run], plain: Sequence[Run] | str, passed: int) -> tuple[str, ...]:
    """Tokens per second, the ratio to the loop, seconds of the process, and its memory."""
    seconds = median(runs, "loop_seconds")
    ratio = "" if isinstance(plain, str) else f"{median(plain, 'loop_seconds') / seconds:.2f}"
    peak = max(run.peak for run in runs) / 1e9
    return f"{passed / seconds:,.0f}", ratio, f"{median(runs, 'seconds'):.1f}", f"{peak:.2f}"


def off(one: Floats, other: Floats) -> tuple[str, str, int]:
    """The largest and the RMS difference, nats, and how many are more than rounding."""
    apart = np.abs(one - other)
    rms = float(np.sqrt(np.mean(apart**2)))
    return f"{apart.max():.2g}", f"{rms:.2g}", int((apart > DIFFERENT).sum())


def others(python: str | None) -> tuple[list[Way], str | None]:
    """What klmap is compared with, and why lm-eval is not among them if it is not."""
    ways: list[Way] = [Loop("plain loop", "float32", script="prompt_loop.py")]
    try:
        found = python or str(lm_eval_setup.python())
    except (lm_eval_setup.NotInstalled, OSError) as error:
        say(f"lm-eval could not be installed: {error}")
        return ways, f"lm-eval could not be installed: {error}"
    for size in (1, 8):
        options = ("--batch-size", str(size))
        name = f"lm-eval, batch size {size}"
        ways.append(Loop(name, "float32", False, found, "lm_eval_loop.py", options))
    return ways, None


def median(runs: Sequence[Run], of: str) -> float:
    """The median of an attribute of runs."""
    return statistics.median(float(getattr(run, of)) for run in runs)


def responses(job: Job) -> None:
    """Responses given prompts, by every way."""
    ways, reason = others(job.sizes.lm_eval)
    klmap = Klmap("klmap", "float32")
    print("\n### Responses to prompts\n")
    print(
        f"Cut by `prompt_bytes: 256`, in float32; medians of {job.sizes.rounds} rounds. tokens/s: "
        "tokens of prompts and responses per second of scoring alone, without loading and "
        "tokenizing. Whole processes of klmap also hold their error bar, for which up to 64 texts "
        "are scored a second time in higher precision. Differences are to klmap, in nats per "
        "response.\n"
    )
    for key in job.sizes.models:
        say(f"responses, {SHAPES[key].title}: making pairs and a model")
        fresh = Job(job.sizes, job.folder())
        fresh.make("--model", key, "--pairs", job.sizes.pairs[key])
        inputs = fresh.inputs(PAIRED)
        found = fresh.rounds((klmap, *ways), partial(fresh.run, inputs=inputs))
        passed, mine = counted(inputs), found[klmap]
        if isinstance(mine, str):
            raise SystemExit(f"klmap {mine}")
        print(
            f"{SHAPES[key].title}: {len(mine[0].loglik)} pairs, {passed:,} tokens, of which "
            f"{mine[0].scored:,} are scored.\n"
        )
        print("| way | tokens/s | of plain loop | process (s) | memory (GB) | largest difference "
              "| RMS | scored |\n|---|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
        plain = found[ways[0]]
        for way, runs in found.items():
            if isinstance(runs, str):
                row(way.name, runs, *[""] * 6)
                continue
            largest, rms, _ = ("", "", 0) if way is klmap else off(runs[0].loglik, mine[0].loglik)
            scored = f"{runs[0].scored:,}"
            row(way.name, *speed(runs, plain, passed), largest, rms, scored)
        print()
        if key == job.sizes.models[0]:
            borders(fresh, klmap, ways)
            pmi(fresh)
        shutil.rmtree(fresh.root)
    if reason:
        print(f"{reason}.")


def borders(job: Job, klmap: Klmap, ways: Sequence[Way]) -> None:
    """The same texts with the border behind white space: where everyone has another rule."""
    say(" cut behind white space")
    inputs = job.inputs(BEHIND)
    process, score = klmap.scored(inputs, job.folder())
    mine = klmap.measured(process, score)
    number, crossing = len(mine.loglik), score.attributes["n_crossing"]
    print(BORDERS.format(different=DIFFERENT).strip() + "\n")
    print(
        f"| way, cut behind white space: {crossing} of {number} borders within a token | scored "
        "| largest difference | RMS | responses that differ |\n|---|---:|---:|---:|---:|"
    )
    row("klmap", f"{mine.scored:,}", "", "", "")
    for way in ways:
        if "batch size 8" in way.name:
            continue
        try:
            run = job.run(way, inputs)
        except WayFailed as error:
            row(way.name, f"failed: {error}", "", "", "")
            continue
        row(way.name, f"{run.scored:,}", *off(run.loglik, mine.loglik))
    print()


def pmi(job: Job) -> None:
    """What responses without their prompts cost beside them, and in a job of their own."""
    say(" PMI")
    both, alone = job.inputs(PAIRED), job.inputs(ALONE)
    together = Klmap("one job, `pmi: true`", "float32", settings=(("pmi", True),))
    first = Klmap("responses behind their prompts", "float32")
    second = Klmap("responses alone", "float32")
    asked = {together: (both, alone), first: (both,), second: (alone,)}
    tokens: dict[Way, int] = {way: sum(map(counted, inputs)) for way, inputs in asked.items()}
    sums: dict[Way, Floats] = {}

    def run(way: Way) -> Run:
        assert isinstance(way, Klmap)
        process, score = way.scored(asked[way][0], job.folder())
        sums[way] = score.loglik if score.unconditional is None else score.unconditional
        return way.measured(process, score, tokens[way])

    found = job.rounds((together, first, second), run)
    runs = {way: outcome for way, outcome in found.items() if not isinstance(outcome, str)}
    if len(runs) < len(found):
        print(f"PMI: {next(each for each in found.values() if isinstance(each, str))}")
        return
    print("| PMI | tokens | process (s) | ratio | scoring alone (s) | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    seconds = {way: (median(r, "seconds"), median(r, "loop_seconds")) for way, r in runs.items()}
    whole, scoring = seconds[together]

    def line(name: str, number: int, process: float, loop: float) -> None:
        ratios = process / whole, loop / scoring
        cells = (f"{process:.1f}", f"{ratios[0]:.2f}", f"{loop:.1f}", f"{ratios[1]:.2f}")
        row(name, f"{number:,}", *cells)

    for way, taken in seconds.items():
        line(way.name, tokens[way], *taken)
    pairs = zip(seconds[first], seconds[second], strict=True)
    line("two jobs, sum", tokens[together], *(one + other for one, other in pairs))
    largest, rms, _ = off(sums[together], sums[second])
    print(
        "\nThe second job would also fetch or open the model again. Responses alone are "
        f"{largest} nats apart at most (RMS {rms}) between one job and two.\n"
    )


def analysis(job: Job) -> None:
    """The analysis of edits, on made-up matrices."""
    models, texts = job.sizes.map_models, job.sizes.map_texts
    say("analysis: making matrices")
    job.make("--models", models, "--texts", texts)
    chat = job.root / "chat"
    given = ("--matrix", chat / "matrix.h5", "--models", chat / "models.tsv")
    job.script("kl", *given, "--kl", chat / "kl.h5", "--neighbors-table", chat / "neighbors.tsv")
    job.script(
        "layout", *given, "--kl", chat / "kl.h5",
        "--layout", chat / "layout.tsv", "--report", chat / "layout.json",
    )  # fmt: skip
    say("analysis")
    edits = [f"{name}={job.root / name / 'matrix.h5'}" for name in EDITS]
    process = job.script(
        "prompts", *given, "--edits", *edits, "--composed", COMPOSED,
        "--layout", chat / "layout.tsv", "--folder", job.root / "prompts",
    )  # fmt: skip
    print(
        f"\n### Edits of prompts\n\nMade-up matrices: {models:,} models, {texts:,} responses, "
        f"{len(EDITS)} edits, one of them composed of two others; tables, ways on the map "
        "and figures.\n"
    )
    print("| analysis | seconds | peak memory (GB) | |\n|---|---:|---:|---|")
    lines = len(files.read_tsv(job.root / "prompts" / "shifts.tsv"))
    row("`prompts`", f"{process.seconds:.1f}", f"{process.peak / 1e9:.2f}", f"{lines:,} shifts")


def masked(job: Job) -> None:
    """Pseudo-likelihoods of a masked language model."""
    say("masked: making texts and a model")
    job.make("--masked", job.sizes.masked)
    inputs = job.inputs(MASKED)
    klmap = Klmap("klmap, `likelihood: masked`", "float32", settings=(("likelihood", "masked"),))
    loop = Loop(
        "one masked copy at a time", "float32", script="prompt_loop.py", options=("--masked",)
    )
    ways: tuple[Way, ...] = (klmap, loop)
    found = job.rounds(ways, partial(job.run, inputs=inputs))
    mine, passed = found[klmap], counted(inputs)
    if isinstance(mine, str):
        raise SystemExit(f"klmap {mine}")
    number = len(mine[0].loglik)
    print(
        f"\n### Masked language models\n\nA BERT of 6 blocks of width 256 on {number} texts of "
        f"{mine[0].scored:,} tokens, in float32; {passed:,} tokens of copies go through it; "
        "the process of klmap also scores all of them a second time, for its error bar.\n"
    )
    print(
        "| way | tokens of copies/s | of the loop | process (s) | memory (GB) "
        "| largest difference | RMS |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    plain = found[loop]
    for way, runs in found.items():
        if isinstance(runs, str):
            row(way.name, runs, *[""] * 5)
            continue
        largest, rms, _ = ("", "", 0) if way is klmap else off(runs[0].loglik, mine[0].loglik)
        row(way.name, *speed(runs, plain, passed), largest, rms)


PARTS: dict[str, Callable[[Job], Any]] = {
    "responses": responses,
    "analysis": analysis,
    "masked": masked,
}


def main() -> None:
    """Parse the arguments, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", nargs="+", choices=("7m", "135m"), default=["7m", "135m"])
    parser.add_argument("--pairs", type=json.loads, default={"7m": 64, "135m": 10})
    parser.add_argument("--masked", type=int, default=8, help="texts of the masked model")
    parser.add_argument("--map-models", type=int, default=1018)
    parser.add_argument("--map-texts", type=int, default=10_000)
    parser.add_argument(
        "--lm-eval", metavar="PYTHON", help="an interpreter that has lm-eval already"
    )
    parser.add_argument("--folder", type=Path, help="where files are written for the while")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    print(
        f"{args.threads} CPU threads. Load of the machine when it began: {os.getloadavg()[0]:.1f}."
    )
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for part in args.parts:
            root = Path(folder) / part
            root.mkdir()
            PARTS[part](Job(args, root))
            shutil.rmtree(root)


if __name__ == "__main__":
    main()
