"""What takes the place of scripts/score.py where a thousand jobs count and their scores do not."""

import os
import sys
from pathlib import Path

arguments = dict(zip(sys.argv[1:-1], sys.argv[2:], strict=True))
score = Path(arguments["--score"])
with (Path("journal") / "instant.txt").open("a") as journal:
    journal.write(f"{arguments['--model']} {os.environ['SLURM_JOB_ID']}\n")
temporary = score.with_suffix(".tmp")
temporary.write_text("a score")
temporary.rename(score)
