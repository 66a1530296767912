"""klmap's scorer beside the plain loop and lm-eval: the same random models, the same real texts.

Every way of scoring runs as a whole process, in turn with the others, several times over; the
medians count. The machine's speed in the model's own matrix products is measured before and
after. Prints Markdown; progress goes to standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import lm_eval_setup
import score_report
from score_shapes import CPU_SHAPES, CUDA_SHAPES, Shape
from score_ways import (
    HERE,
    Inputs,
    Klmap,
    Loop,
    Run,
    Way,
    WayFailed,
    bare_import,
    machine_speed,
    reference,
    run_process,
)

REFERENCE_TEXTS = 6
"""Texts scored in high precision too."""

READING = """\
- tokens/s: scored tokens per second of the scoring loop alone, without loading and tokenizing; \
the median (and range) of the rounds, {rounds} in all, in which the ways take turns.
- of plain loop: the median of the ratios of each round.
- first batch: seconds from the start of the process. The whole process of klmap also holds its \
error bar, for which up to 64 of the texts are scored a second time in higher precision.
- of machine's speed: 2 FLOP per parameter and token beside the fastest library in the model's \
own matrix products, the better of before and after; attention and the embedding do not count \
as work. A way that did nothing else, at full speed, would be 100 % over the plain loop's share \
times as fast as the plain loop in the same dtype: no goal above that can be met on this machine.
- memory: the largest resident set of the process.
- error: nats per text against {count} texts in {exact}.
"""

LM_EVAL = """\
- lm-eval puts BOS in front and scores every token, as klmap does with `prefix: bos`; its errors \
are against the same sum. The other ways score all but the first token of a text."""


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


def new_folder(parent: Path) -> Path:
    """An empty folder."""
    return Path(tempfile.mkdtemp(dir=parent))


def attempt(way: Way, inputs: Inputs, scratch: Path) -> Run | str:
    """One run, or the reason why there is none."""
    try:
        run = way.run(inputs, new_folder(scratch))
    except Exception as error:  # one way that fails must not lose the others
        return f"failed: {error}" if isinstance(error, WayFailed) else f"failed: {error!r}"
    say(
        f"  {way.name}: {run.rate:,.0f} tokens/s in {run.loop_seconds:.1f} s of "
        f"{run.seconds:.1f} s, {run.peak / 1e9:.2f} GB"
    )
    return run


def compare(
    shape: Shape,
    ways: dict[Way, str | None],
    plain: Way,
    inputs: Inputs,
    scratch: Path,
    *,
    rounds: int,
    exact_dtype: str,
) -> score_report.Comparison:
    """Run all ways in turn on one model.

    Args:
        shape: the model.
        ways: what to run; a reason instead of None says why a way cannot be.
        plain: the way to take ratios to.
        inputs: the files.
        scratch: a folder for what the processes write.
        rounds: how often each way runs.
        exact_dtype: dtype of the sums that errors are taken against.
    """
    item = score_report.Comparison(shape, plain)
    dtypes = list(dict.fromkeys(way.dtype for way in ways))

    def measure_machine() -> None:
        try:
            item.speeds.append(machine_speed(inputs, new_folder(scratch), dtypes))
        except (WayFailed, ValueError) as error:
            say(f"  the machine's speed was not measured: {error}")

    measure_machine()
    item.outcomes = {way: reason or [] for way, reason in ways.items()}
    for number in range(rounds):
        say(f" round {number + 1} of {rounds}")
        for way, outcome in item.outcomes.items():
            if isinstance(outcome, str):
                continue
            run = attempt(way, inputs, scratch)
            if isinstance(run, str):
                say(f"  {way.name}: {run}")
                item.outcomes[way] = run
            else:
                outcome.append(run)
    measure_machine()
    say(" sums in high precision")
    try:
        item.exact = reference(inputs, new_folder(scratch), exact_dtype, REFERENCE_TEXTS)
    except (WayFailed, ValueError) as error:
        item.exact = f"failed: {error}"
    if any(way.after_bos for way in ways):
        run = attempt(Klmap("klmap, prefix: bos", "float32", True), inputs, scratch)
        item.behind_bos = run if isinstance(run, str) else run.loglik
    return item


def make_inputs(folder: Path, shapes: Sequence[Shape]) -> None:
    """Texts and models, in a process of their own."""
    say("making texts and models ...")
    keys = [shape.key for shape in shapes]
    script = str(HERE / "score_inputs.py")
    command = [sys.executable, script, "--folder", str(folder), "--models", *keys]
    run_process(command, folder.with_suffix(".log"))


def cpu_ways(plain: Way, lm_eval: str | None) -> dict[Way, str | None]:
    """What is compared on a CPU."""
    reason = None
    python = lm_eval or ""
    if lm_eval is None:
        try:
            python = str(lm_eval_setup.python())
        except (lm_eval_setup.NotInstalled, OSError) as error:
            reason = f"could not be installed: {error}"
            say(f"lm-eval {reason}")
    ways: dict[Way, str | None] = {
        Klmap("klmap, float32", "float32"): None,
        Klmap("klmap, bfloat16", "bfloat16"): None,
        plain: None,
    }
    for size in (1, 8):
        name = f"lm-eval, float32, batch size {size}"
        options = ("--batch-size", str(size))
        ways[Loop(name, "float32", True, python, "lm_eval_loop.py", options)] = reason
    return ways


def on_cpu(arguments: argparse.Namespace, scratch: Path) -> None:
    """Measure on the CPU and print."""
    shapes = [shape for shape in CPU_SHAPES if shape.key in arguments.models]
    plain = Loop("plain loop, float32", "float32")
    ways = cpu_ways(plain, arguments.lm_eval)
    folder = scratch / "cpu"
    make_inputs(folder, shapes)
    found = []
    for shape in shapes:
        say(f"{shape.title} ...")
        start = time.monotonic()
        inputs = Inputs(folder / shape.key, "cpu", arguments.threads)
        found.append(
            compare(
                shape,
                ways,
                plain,
                inputs,
                scratch,
                rounds=arguments.rounds,
                exact_dtype="float64",
            )
        )
        say(f" {time.monotonic() - start:.0f} s")
    bare, _ = bare_import(new_folder(scratch))
    print(f"{arguments.threads} threads.\n")
    print(score_report.goals(found))
    print(f"\n{score_report.bare_remark(bare)}\n")
    print(_reading(arguments, "float64") + LM_EVAL)
    _print_tables(found)


def on_cuda(arguments: argparse.Namespace, scratch: Path) -> None:
    """Measure on the GPU and print."""
    folder = scratch / "cuda"
    make_inputs(folder, CUDA_SHAPES)
    plain = Loop("plain loop, bfloat16", "bfloat16")
    ways: dict[Way, str | None] = {
        Klmap("klmap, bfloat16", "bfloat16"): None,
        Klmap("klmap, float16", "float16"): None,
        plain: None,
        Loop("plain loop, float16", "float16"): None,
    }
    found = []
    for shape in CUDA_SHAPES:
        say(f"{shape.title} ...")
        inputs = Inputs(folder / shape.key, "cuda", arguments.threads)
        found.append(
            compare(
                shape,
                ways,
                plain,
                inputs,
                scratch,
                rounds=arguments.rounds,
                exact_dtype="float32",
            )
        )
    print("\n### On a GPU\n\nMemory is the process's, not the GPU's.\n")
    print("The machine's speed is that of one large square product.", score_report.gpu_goals(found))
    print("\n" + _reading(arguments, "float32"))
    _print_tables(found)


def _reading(arguments: argparse.Namespace, exact: str) -> str:
    return READING.format(rounds=arguments.rounds, count=REFERENCE_TEXTS, exact=exact)


def _print_tables(found: Sequence[score_report.Comparison]) -> None:
    for item in found:
        print(f"\n### {item.shape.title}\n\n{score_report.table(item)}\n")
        print(score_report.remarks(item), flush=True)


def main() -> None:
    """Parse the arguments, measure, print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    keys = [shape.key for shape in CPU_SHAPES]
    parser.add_argument("--models", nargs="+", choices=keys, default=keys)
    parser.add_argument(
        "--lm-eval", metavar="PYTHON", help="an interpreter that has lm-eval already"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        _, cuda = bare_import(new_folder(scratch))
        on_cpu(arguments, scratch)
        if cuda:
            try:
                on_cuda(arguments, scratch)
            except (WayFailed, OSError) as error:  # the figures of the CPU stay
                print(f"\n### On a GPU\n\nThis part failed: {error}")


if __name__ == "__main__":
    main()
