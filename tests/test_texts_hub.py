"""Text sets from the Hub: the real `datasets` client against a Hub on this machine."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from klmap import texts
from klmap.config import TextSet
from tests.dataset_server import COMMIT, NAME, ROWS, serve
from tests.hub_server import Hub

SCRIPT = Path(__file__).parents[1] / "scripts" / "texts.py"
RECIPE = {
    "source": "hub",
    "dataset": NAME,
    "documents": 30,
    "domain_field": "meta.set",
    "n": 20,
    "pool": 25,
    "max_bytes": 64,
    "min_bytes": 16,
}


def run_script(hub: Hub, home: Path, output: Path, **keys: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--recipe", json.dumps({**RECIPE, **keys})]
    command += ["--texts", str(output / "texts.jsonl"), "--manifest", str(output / "texts.json")]
    return subprocess.run(
        command, env=hub.environment(home), capture_output=True, text=True, check=False
    )


def test_a_dataset_is_streamed_cut_and_sampled_as_published(tmp_path: Path) -> None:
    with serve() as hub:
        result = run_script(hub, tmp_path / "home", tmp_path)
        requests = list(hub.requests)
    assert result.returncode == 0, result.stderr
    chunks = [
        (piece, row["meta"]["set"])
        for row in ROWS[:30]
        for piece in texts.chunks(row["text"], 64, 16)
    ]
    random.seed(42)
    expected = random.sample(chunks, 25)[:20]
    records = [json.loads(line) for line in (tmp_path / "texts.jsonl").open(encoding="utf-8")]
    assert [(record["text"], record["domain"]) for record in records] == expected
    assert any(COMMIT in request for request in requests), "the rows of one commit are read"
    assert json.loads((tmp_path / "texts.json").read_text())["commit"] == COMMIT


def test_a_connection_that_breaks_in_the_middle_changes_no_text(tmp_path: Path) -> None:
    with serve() as hub:
        assert run_script(hub, tmp_path / "home", tmp_path / "whole").returncode == 0
        hub.repositories[f"datasets/{NAME}"].faults = {"train.jsonl": ["cut"]}
        result = run_script(hub, tmp_path / "home", tmp_path / "cut")
    assert result.returncode == 0, result.stderr
    names = ("texts.jsonl", "texts.json")
    assert all(
        (tmp_path / "whole" / n).read_bytes() == (tmp_path / "cut" / n).read_bytes() for n in names
    )


def test_rests_of_a_killed_attempt_are_removed(tmp_path: Path) -> None:
    rest = tmp_path / ".texts.jsonl.local.host.1.tmp.spool"
    rest.write_text("large")
    with serve() as hub:
        assert run_script(hub, tmp_path / "home", tmp_path).returncode == 0
    assert not rest.exists()


def test_a_dataset_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    wrong = {
        "dataset": ({"dataset": "someone/absent"}, "dataset someone/absent"),
        "field": ({"field": "body"}, f"{NAME}[train]:0: no field 'body' (fields here: text, meta)"),
    }
    with serve() as hub:
        for name, (keys, message) in wrong.items():
            result = run_script(hub, tmp_path / "home", tmp_path / name, **keys)
            assert result.returncode == 1
            assert message in result.stderr
            assert "Traceback" not in result.stderr
            assert not list((tmp_path / name).glob("*"))


def test_null_documents_reads_the_whole_split_after_the_way_to_the_script() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(TextSet)
    whole = adapter.validate_python({"source": "hub", "dataset": NAME, "documents": None})
    again = adapter.validate_python(json.loads(json.dumps(whole.recipe())))
    assert again.documents is None
    assert again == whole
