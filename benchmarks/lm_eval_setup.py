"""A virtual environment of lm-eval's own, under ``.bench/``, with pinned versions."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REQUIREMENTS = HERE / "lm_eval_requirements.txt"
ENVIRONMENT = ROOT / ".bench" / "lm_eval"


class NotInstalled(Exception):
    """lm-eval could not be installed; the message says why in one line."""


def torch_pin() -> str:
    """The line of envs/requirements.txt that pins torch."""
    text = (ROOT / "envs" / "requirements.txt").read_text()
    found = re.search(r"^torch==.*$", text, re.MULTILINE)
    if found is None:
        raise NotInstalled("envs/requirements.txt pins no torch")
    return found[0]


def python() -> Path:
    """The interpreter of an environment with lm-eval, made now unless it is there already.

    Raises:
        NotInstalled: it cannot be made, for instance without a network.
    """
    interpreter = ENVIRONMENT / "bin" / "python"
    ready = ENVIRONMENT / ".ready"
    pin = torch_pin()
    pins = f"{sys.version_info[:2]}\n{pin}\n{REQUIREMENTS.read_text()}"
    wanted = hashlib.sha256(pins.encode()).hexdigest()
    if ready.is_file() and ready.read_text() == wanted:
        return interpreter
    print(f"installing lm-eval into {ENVIRONMENT} ...", file=sys.stderr)
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    pip = [str(interpreter), "-m", "pip", "install", "--quiet"]
    # torch comes first, so that no other package pulls another build of it.
    for command in (
        [sys.executable, "-m", "venv", str(ENVIRONMENT)],
        [*pip, pin],
        [*pip, "--requirement", str(REQUIREMENTS)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith("ERROR")] or lines
            raise NotInstalled(errors[-1] if errors else f"exit status {done.returncode}")
    ready.write_text(wanted)
    return interpreter
