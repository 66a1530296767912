"""Models from the Hub: looking up, fetching, waiting for room on the disk, and planning.

A Hub in miniature (``tests/hub_server.py``) runs in a process of its own on the same machine, and
everything asks it through the real huggingface_hub. Every way runs as a whole process with an
empty cache, and the ways take turns. Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median

# hub_place says where the tests and klmap are found.
from bench_dryrun import klmap_arguments, measure
from hub_place import BIG, ROOT, SMALL_MODELS, Cost, Place, id_of, running_hub, source_of
from tests import hub_models

from klmap import cards, disk
from klmap.cards import Card

LOOKED_UP = 300
IN_PLAIN_LOOP = 40
KNOWN = SMALL_MODELS
DELAY = 0.05
"""Seconds before each answer, as over a long line."""

SHARDS = 4
SHARD_PARAMETERS = 125_000_000
RATE = 5e7
"""Bytes per second of one connection where the network is the slowest part."""

DISK_GB = 100
HOLDING = 100
FILES_EACH = 10
WAITING = 4

PLAIN_LOOP = """\
import sys, time
from huggingface_hub import HfApi, hf_hub_download
api = HfApi()
begun = time.perf_counter()
for number in range(int(sys.argv[1])):
    id = f"org{number % 50}/model-{number}"
    info = api.model_info(id, files_metadata=True)
    hf_hub_download(id, "config.json", revision=info.sha)
print(time.perf_counter() - begun)
"""

FETCH = "fetch"
UNCHECKED = "fetch, no hashes in the card"
BARE = "`snapshot_download`"

SNAPSHOT = """\
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], local_dir=sys.argv[2])
"""

CHECKED_SNAPSHOT = (
    SNAPSHOT
    + """\
import hashlib, json, os, pathlib
for name, digest in json.loads(sys.argv[3]).items():
    with pathlib.Path(sys.argv[2], name).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest
        os.fsync(file.fileno())
"""
)


# Looking up


def preflight(place: Place, models: int, results: Path) -> Cost:
    """One pre-flight; all of its models must come out ready.

    Raises:
        RuntimeError: some did not.
    """
    (results / "models").mkdir(parents=True, exist_ok=True)
    sources, plan = (
        ["source\tid\trevision\tfolder"],
        ["model\tsource\ttexts\tscore\tdtype\tquantization"],
    )
    for number in range(models):
        source = source_of(id_of(number))
        sources.append(f"{source}\t{id_of(number)}\t\t")
        score = results / "demo" / "scores" / f"{source}.0123456789ab.h5"
        plan.append(f"{source}\t{source}\tdemo\t{score}\tauto\t")
    for name, lines in (("_sources", sources), ("_plan", plan)):
        (results / "models" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    cost = place.run(
        [
            ROOT / "scripts" / "preflight.py",
            *("--sources", results / "models" / "_sources.tsv"),
            *("--plan", results / "models" / "_plan.tsv"),
            *("--cards", results / "models", "--texts", "demo=100,1024"),
            *("--disk-budget-gb", DISK_GB, "--gpu-memory-gb", 80, "--max-gpus", 1),
            *("--table", results / "preflight.tsv"),
        ]
    )
    ready = (results / "preflight.tsv").read_text().count("\tready\t")
    if ready != models:
        raise RuntimeError(f"pre-flight found {ready} of {models} models ready:\n{cost.said}")
    return cost


def looking_up(place: Place, rounds: int) -> None:
    """Print how long it takes to know what models are."""
    card = resolved(place, id_of(0))
    known = place.folder / "known"
    for number in range(KNOWN):
        path = known / "models" / source_of(id_of(number)) / "card.json"
        cards.write_card(path, replace(card, id=id_of(number)))
    asked, plain, cached = [], [], []
    place.hub(delay=DELAY)
    for _ in range(rounds):
        results = place.folder / "asked"
        asked.append(preflight(place, LOOKED_UP, results).seconds)
        asked_requests = place.hub()["requests"]
        shutil.rmtree(results)
        cost = place.run(["-c", PLAIN_LOOP, IN_PLAIN_LOOP])
        plain_requests = place.hub()["requests"]
        loop = float(cost.said)
        plain.append(cost.seconds - loop + loop * LOOKED_UP / IN_PLAIN_LOOP)
        cached.append(preflight(place, KNOWN, known).seconds)
        cached_requests = place.hub()["requests"]
    place.hub(delay=0.0)
    scaled = plain_requests * LOOKED_UP // IN_PLAIN_LOOP
    print(f"### Looking up, {1000 * DELAY:.0f} ms before each answer\n")
    print("| way | models | requests | fastest | median | plain loop / this |")
    print("|---|---:|---:|---:|---:|---:|")
    print(
        f"| pre-flight, nothing known yet | {LOOKED_UP:,} | {asked_requests:,} "
        f"| {spread(asked)} | {ratio(plain, asked):.1f} |"
    )
    print(
        f"| plain loop, scaled from {IN_PLAIN_LOOP} models | {LOOKED_UP:,} | {scaled:,} "
        f"| {spread(plain)} | 1.0 |"
    )
    print(
        f"| pre-flight, every card there | {KNOWN:,} | {cached_requests:,} | {spread(cached)} | |"
    )
    print(
        "\nThe plain loop is `HfApi.model_info` and `hf_hub_download` of config.json, one model "
        "after the other; its start is not scaled. Pre-flight also recognises what it finds, "
        "writes the cards and says what a run would take; it asks about 8 models at a time.\n"
    )


# Fetching


def resolved(place: Place, id: str) -> Card:
    """The card of a model, made by the script that makes it in a run."""
    path = place.folder / "card.json"
    place.run([ROOT / "scripts" / "resolve.py", "--id", id, "--card", path])
    return cards.read_card(path)


@dataclass(frozen=True)
class Way:
    """One way to get the files of a model into a folder."""

    name: str
    command: Sequence[object]


def fetch_ways(card: Card, folder: Path) -> list[Way]:
    """klmap's fetch, with and without hashes, and the library's own way, bare and made as safe."""
    checked, unchecked = folder / "checked.json", folder / "unchecked.json"
    cards.write_card(checked, card)
    bare = [{key: entry[key] for key in ("name", "size")} for entry in card.files]
    cards.write_card(unchecked, replace(card, files=bare))
    weights = folder / "models" / source_of(BIG) / "weights"

    def fetch(path: Path) -> list[object]:
        script = ROOT / "scripts" / "fetch.py"
        return [script, "--card", path, "--weights", weights, "--budget-gb", DISK_GB]

    hashes = {str(e["name"]): e["sha256"] for e in card.files if "sha256" in e}
    return [
        Way(FETCH, fetch(checked)),
        Way(UNCHECKED, fetch(unchecked)),
        Way(BARE, ["-c", SNAPSHOT, BIG, weights]),
        Way(
            "`snapshot_download`, then SHA-256 and fsync",
            ["-c", CHECKED_SNAPSHOT, BIG, weights, json.dumps(hashes)],
        ),
    ]


def fetched(place: Place, card: Card, way: Way) -> Cost:
    """One fetch; every byte must have come once.

    Raises:
        RuntimeError: files lack, or something came twice.
    """
    models = place.folder / "models"
    models.mkdir()
    place.hub()
    cost = place.run(way.command, watched=models)
    sent = place.hub()["sent"]
    weights = models / source_of(BIG) / "weights"
    short = [e["name"] for e in card.files if (weights / e["name"]).stat().st_size != e["size"]]
    if short or not card.size <= sent < card.size + 1e6:
        raise RuntimeError(f"{way.name}: {sent:,} of {card.size:,} bytes were sent; short: {short}")
    shutil.rmtree(models)
    return cost


def fetching(place: Place, rounds: int, slow_rounds: int) -> None:
    """Print how long it takes to have a model's files."""
    card = resolved(place, BIG)
    ways = fetch_ways(card, place.folder)
    print(f"### Fetching {card.size / 1e9:.2f} GB in {SHARDS} shards\n")
    print("| network | way | fastest | median | MB/s | peak disk | time / bare |")
    print("|---|---|---:|---:|---:|---:|---:|")
    hashing, with_hashes = [], []
    for rate, count, chosen in ((None, rounds, ways), (RATE, slow_rounds, [ways[0], ways[2]])):
        place.hub(rate=rate)
        costs: dict[str, list[Cost]] = {}
        for _ in range(count):
            for way in chosen:
                costs.setdefault(way.name, []).append(fetched(place, card, way))
            hashing.append(_hash(place.folder / "big"))
        bare = [cost.seconds for cost in costs[BARE]]
        if UNCHECKED in costs:
            pairs = zip(costs[FETCH], costs[UNCHECKED], strict=True)
            with_hashes = [checked.seconds - unchecked.seconds for checked, unchecked in pairs]
        network = "same machine" if rate is None else f"{SHARDS} x {rate / 1e6:.0f} MB/s"
        for name, found in costs.items():
            seconds = [cost.seconds for cost in found]
            print(
                f"| {network} | {name} | {spread(seconds)} "
                f"| {card.size / 1e6 / median(seconds):.0f} "
                f"| {max(cost.peak for cost in found) / 1e9:.2f} GB | {ratio(seconds, bare):.2f} |"
            )
    place.hub(rate=None)
    print(
        "\nFetch compares every file with its SHA-256, writes all of it through to the disk before "
        "it gives the folder its name, and claims its room first; `snapshot_download` does none "
        "of it. Hub and client share the processors. The hashes cost a fetch "
        f"{median(with_hashes):.1f} s (median of the differences within a round); SHA-256 of the "
        f"same files alone takes {median(hashing):.2f} s (fastest {min(hashing):.2f} s).\n"
    )


def _hash(folder: Path) -> float:
    """Seconds that the SHA-256 of all files takes."""
    begun = time.perf_counter()
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
    return time.perf_counter() - begun


# Getting ahead


def _hold(budget: disk.Budget, source: str, size: int) -> None:
    """Fetch files that take no room really, but look as if they did."""
    with budget.room(source, size * FILES_EACH, FILES_EACH, 0):
        weights = budget.models / source / disk.WEIGHTS
        weights.mkdir(parents=True)
        for number in range(FILES_EACH):
            with (weights / f"{number}.safetensors").open("wb") as file:
                file.truncate(size)


def _wait(models: Path, limit: int, number: int) -> None:
    """Wait for room that never comes."""
    os.chdir(models.parent)
    with disk.Budget(models, limit).room(f"waiting-{number}", limit // 2, FILES_EACH, 1 + number):
        raise AssertionError("there was room")


def _claims(budget: disk.Budget, rounds: int) -> list[float]:
    """Seconds from asking for room until it was had, and given back."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        with budget.room("asking", 10**9, FILES_EACH, 0):
            pass
        seconds.append(time.perf_counter() - begun)
    return seconds


def getting_ahead(place: Place, rounds: int) -> None:
    """Print how long it takes to get room, where there is some."""
    models = place.folder / "ledger" / "models"
    size = 10**9
    budget = disk.Budget(models, (HOLDING * FILES_EACH + 100) * size)
    alone = _claims(budget, rounds)
    for number in range(HOLDING):
        _hold(budget, f"held-{number}", size)
    held = _claims(budget, rounds)
    context = multiprocessing.get_context("spawn")
    waiters = [
        context.Process(target=_wait, args=(models, budget.limit, number), daemon=True)
        for number in range(WAITING)
    ]
    for process in waiters:
        process.start()
    try:
        deadline = time.monotonic() + 60
        while len(list(budget.ledger.glob("waiting-*.json"))) < WAITING:
            if time.monotonic() > deadline:
                raise RuntimeError("the fetches that wait never got in line")
            time.sleep(0.1)
        time.sleep(2 * disk.SETTLE)
        waiting = _claims(budget, rounds)
        if not all(process.is_alive() for process in waiters):
            raise RuntimeError("a fetch that was to wait has ended")
    finally:
        for process in waiters:
            process.terminate()
            process.join()
    print("### Waiting for room on the disk\n")
    print("| beside the one that asks | fastest | median | slowest |")
    print("|---|---:|---:|---:|")
    for name, seconds in (
        ("nobody", alone),
        (f"{HOLDING} models with {FILES_EACH} files each", held),
        (f"the same, and {WAITING} fetches that wait", waiting),
    ):
        milliseconds = [1000 * value for value in (min(seconds), median(seconds), max(seconds))]
        print(f"| {name} | " + " | ".join(f"{value:.0f} ms" for value in milliseconds) + " |")
    print(
        f"\n{rounds} claims each, from the question to the end of an empty fetch, with room for "
        "all. Where room is short, a fetch by design lets others get in line before it for "
        f"{disk.SETTLE:g} s and looks again every {disk.POLL:g} s.\n"
    )


# Planning


def planning(place: Place, rounds: int) -> None:
    """Print what cards change of a dry run."""
    arguments: dict[str, list[str]] = {}
    found: dict[str, list[float]] = {}
    for name in ("without", "with"):
        folder = place.folder / f"plan-{name}"
        folder.mkdir()
        arguments[name] = klmap_arguments(folder, KNOWN)
        found[name] = []
    (folder / "results").mkdir()
    shutil.copytree(
        place.folder / "known" / "models",
        folder / "results" / "models",
        ignore=shutil.ignore_patterns("_*"),
    )
    for _ in range(rounds):
        for name, given in arguments.items():
            found[name].append(measure(given, 1)[0])
    print(f"### Planning {KNOWN:,} models of the Hub\n")
    print("| `snakemake -n` | fastest | median | time / without cards |")
    print("|---|---:|---:|---:|")
    beside = ratio(found["with"], found["without"])
    print(f"| every card there | {spread(found['with'])} | {beside:.2f} |")


# Output


def tell(part: str) -> None:
    """Say what is being measured; the figures themselves come in the end."""
    print(f"hub: {part} ...", file=sys.stderr, flush=True)


def spread(seconds: Sequence[float]) -> str:
    """Two cells: the fastest and the median."""
    return f"{min(seconds):.1f} s | {median(seconds):.1f} s"


def ratio(seconds: Sequence[float], peer: Sequence[float]) -> float:
    """Median of the ratios of each round."""
    return median(a / b for a, b in zip(seconds, peer, strict=True))


def main() -> None:
    """Parse the arguments, measure, print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="in which the ways take turns")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with tempfile.TemporaryDirectory(prefix="klmap-bench-") as name:
        folder = Path(name)
        needed = 5 * SHARDS * SHARD_PARAMETERS * 2
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"{folder}: less than {needed / 1e9:.0f} GB free; set TMPDIR")
        hub_models.model(folder / "small")
        hub_models.model(folder / "big", None)
        hub_models.shards(folder / "big", [SHARD_PARAMETERS] * SHARDS)
        print(f"huggingface_hub {version('huggingface_hub')}; {rounds} rounds.\n")
        with running_hub(folder) as place:
            tell("looking up")
            looking_up(place, rounds)
            tell("fetching")
            fetching(place, rounds, max(1, rounds - 1))
            tell("waiting for room")
            getting_ahead(place, 10 * rounds)
            tell("planning")
            planning(place, max(1, rounds - 1))


if __name__ == "__main__":
    main()
