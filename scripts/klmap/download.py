"""The part of a fetch that talks to the Hub, in a process of its own that may be ended.

The library that downloads can hang where nobody can reach into it, and reads its settings when it
is imported. So ``fetch`` starts this module as a process for each attempt, watches the files grow,
and ends it where they do not.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get, xet_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from klmap import hub
from klmap.errors import KlmapError, PermanentFailure
from klmap.log import setup

THREADS = 4
"""Files that are downloaded at the same time."""

PATIENCE = 120.0
"""Seconds for which one file is asked for again; ``fetch`` has further attempts."""

BLOCK = 1 << 18
"""Bytes between two writes: small, so that a slow download can be told from one that hangs."""

PART = ".part"
"""Ending of a file of which only a part is here."""


def download(id: str, revision: str | None, commit: str, folder: Path, names: list[str]) -> None:
    """Download files of one commit into a folder.

    A file bears ``PART`` behind its name until it is whole. What plain HTTP has brought of it is
    kept and gone on from, by this attempt and by later ones.

    Args:
        id: id of the Hub.
        revision: the configured revision, for messages.
        commit: the commit.
        folder: where to.
        names: what.

    Raises:
        PermanentFailure: the model is gone, or access was withdrawn.
        KlmapError: the Hub could not be reached, or was out of order.
    """
    constants.DOWNLOAD_CHUNK_SIZE = BLOCK

    def one(name: str) -> None:
        hub.ask(
            id,
            revision,
            lambda: _download_file(hf_hub_url(id, name, revision=commit), folder / name),
            patience=min(PATIENCE, hub.PATIENCE),
        )

    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        for _ in pool.map(one, names):
            pass


def _download_file(url: str, path: Path) -> None:
    """Download one file; addresses of the content expire, so each attempt asks for a new one."""
    headers = build_hf_headers(library_name="klmap")
    file = get_hf_file_metadata(url, timeout=hub.TIMEOUT, headers=headers)
    part = path.with_name(path.name + PART)
    chunks = not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None
    if file.xet_file_data is not None and chunks:
        part.unlink(missing_ok=True)
        xet_get(
            incomplete_path=part,
            xet_file_data=file.xet_file_data,
            headers=headers,
            expected_size=file.size,
        )
    else:
        if urlsplit(file.location).netloc != urlsplit(url).netloc:
            # The content lies with somebody else, whom the token does not concern.
            headers.pop("authorization", None)
        with part.open("ab") as output:
            if file.size is not None and output.tell() > file.size:
                output.truncate(0)
            http_get(
                file.location,
                output,
                resume_size=output.tell(),
                headers=headers,
                expected_size=file.size,
            )
    part.replace(path)


def _end_with_parent() -> None:
    """End this process at once when the one that started it is gone: that closes the pipe.

    Two downloads that write to the same file would spoil it.
    """
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(1)


def main() -> None:
    """Download what the first line of standard input asks for, as long as that stays open.

    What went wrong is said on standard output.
    """
    setup()
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(1)
    asked = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer: dict[str, Any] = {}
    try:
        download(
            asked["id"], asked["revision"], asked["commit"], Path(asked["folder"]), asked["names"]
        )
    except PermanentFailure as failure:
        answer = {"error": str(failure), "state": failure.state}
    except KlmapError as error:
        answer = {"error": str(error)}
    except OSError as error:
        answer = {"error": str(error), "errno": error.errno}
    print(json.dumps(answer))
    # Threads of other files may still be waiting for the network; nobody needs them any more.
    sys.stdout.flush()
    os._exit(1 if answer else 0)


if __name__ == "__main__":
    main()
