"""scripts/score.py with batches that wait to be told: what tests of jobs at work start.

Variables of the environment: KLMAP_TEST_BATCHES names a file that gets a line per batch,
KLMAP_TEST_HALT says before which batch, counted from 1, to wait (0: before the model is loaded)
until the file KLMAP_TEST_GO is there, KLMAP_TEST_PACE how many seconds each batch after it takes.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "scripts" / "score.py"
sys.path.insert(0, str(SCRIPT.parent))

HALT = int(os.environ.get("KLMAP_TEST_HALT", "-1"))
PACE = float(os.environ.get("KLMAP_TEST_PACE", "0"))


def note(what: str) -> None:
    """Add a line to the list of batches."""
    with Path(os.environ["KLMAP_TEST_BATCHES"]).open("a") as file:
        file.write(f"{what}\n")


def wait_for_go() -> None:
    """Wait until the test says go."""
    while not Path(os.environ["KLMAP_TEST_GO"]).exists():
        time.sleep(0.01)


def main() -> None:
    """Patch what loads and what makes batches, then run the script."""
    from klmap import scorer_precision, scorer_run

    load, next_batch = scorer_precision.load, scorer_run.next_batch
    count = 0

    def gated_load(*arguments: Any) -> Any:
        if HALT == 0:
            note("loading")
            wait_for_go()
        return load(*arguments)

    def gated_batch(pieces: Any, start: int, budget: int) -> Any:
        nonlocal count
        if budget > 1:  # not those of the error bar, which takes texts singly
            count += 1
            note(str(start))
            if count == HALT:
                wait_for_go()
            elif 0 <= HALT < count:
                time.sleep(PACE)
        return next_batch(pieces, start, budget)

    scorer_precision.load = gated_load
    scorer_run.next_batch = gated_batch
    runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    main()
