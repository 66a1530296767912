"""A dataset of the Hugging Face Hub in miniature, for the real `datasets` client.

One repository, ``someone/pile``, with its rows in one .jsonl file, on a Hub of
``tests.hub_server``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import hub_server
from tests.hub_server import Hub, Repository

NAME = "someone/pile"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS: list[dict[str, Any]] = [
    {"text": f"Document {n}: " + "wörter und zahlen " * (n % 9), "meta": {"set": "abc"[n % 3]}}
    for n in range(60)
]


@contextmanager
def serve(rows: list[dict[str, Any]] = ROWS) -> Iterator[Hub]:
    """Run a Hub that has the dataset on a free port until the block ends."""
    files = {
        "README.md": "---\nlicense: cc0-1.0\n---\n",
        "train.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    with tempfile.TemporaryDirectory() as folder, hub_server.serve() as hub:
        for name, content in files.items():
            (Path(folder) / name).write_text(content, encoding="utf-8")
        hub.repositories[f"datasets/{NAME}"] = Repository(Path(folder), COMMIT)
        yield hub
