"""Asking again: only cards of models that have moved are rewritten."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from klmap import cards, refresh, resolve
from klmap.cards import Card
from klmap.errors import InputError
from klmap.files import write_tsv
from tests import hub_models
from tests.hub_models import COMMIT, Klmap
from tests.hub_server import serve

# Local folders


@pytest.fixture
def mapped(tmp_path: Path) -> tuple[list[refresh.Source], Path]:
    """Three local sources, two of them with a card."""
    sources = []
    for name in ("one", "two", "new"):
        folder = hub_models.model(tmp_path / "models" / name)
        sources.append(refresh.Source(name, f"./{name}", None, folder))
        if name != "new":
            card = resolve.resolve(f"./{name}", None, folder)
            cards.write_card(tmp_path / "cards" / name / "card.json", card)
    return sources, tmp_path / "cards"


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    paths = sorted(folder.glob("*/card.json"))
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def test_refresh_without_news_touches_nothing(
    mapped: tuple[list[refresh.Source], Path],
) -> None:
    sources, folder = mapped
    before = stamps(folder)
    assert refresh.refresh(sources, folder) == []
    assert stamps(folder) == before, "and makes no card for a model without one"


def test_refresh_rewrites_only_what_moved(mapped: tuple[list[refresh.Source], Path]) -> None:
    sources, folder = mapped
    before = stamps(folder)
    hub_models.model(sources[1].folder or Path(), {"other": ("BF16", [10])})
    news = refresh.refresh(sources, folder)
    assert [(item.source, item.change) for item in news] == [("two", "moved")]
    after = stamps(folder)
    changed = [path.parent.name for path in before if before[path] != after[path]]
    assert changed == ["two"]
    new = cards.read_card(folder / "two" / "card.json")
    assert new.commit[:12] in news[0].detail
    assert refresh.refresh(sources, folder) == []


def test_refresh_rewrites_the_card_where_the_chat_template_is_another(
    mapped: tuple[list[refresh.Source], Path],
) -> None:
    sources, folder = mapped
    template = (sources[0].folder or Path()) / "chat_template.jinja"
    commit = cards.read_card(folder / "one" / "card.json").commit
    for text in ("{{ messages }}", "{{ messages[0] }}"):
        template.write_text(text)
        news = refresh.refresh(sources, folder)
        found = [(item.source, item.change, item.detail) for item in news]
        assert found == [("one", "moved", "another chat template")]
        assert cards.read_card(folder / "one" / "card.json").commit == commit
    assert refresh.refresh(sources, folder) == []


def test_refresh_keeps_the_card_of_a_model_that_is_gone(
    mapped: tuple[list[refresh.Source], Path],
) -> None:
    sources, folder = mapped
    before = stamps(folder)
    shutil.rmtree(sources[0].folder or Path())
    news = refresh.refresh(sources, folder)
    assert [(item.source, item.change) for item in news] == [("one", "gone")]
    assert "does not exist" in news[0].detail
    assert stamps(folder) == before


def test_refresh_mends_a_card_with_an_error(mapped: tuple[list[refresh.Source], Path]) -> None:
    sources, folder = mapped
    path = folder / "one" / "card.json"
    cards.write_card(path, Card(id="./one", error="no weights"))
    news = refresh.refresh(sources, folder)
    assert [(item.source, item.change) for item in news] == [("one", "usable again")]
    assert cards.read_card(path).error == ""


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    write_tsv(tmp_path / "index.tsv", ["source", "id"], [["one", "./one"]])
    with pytest.raises(InputError, match=r"no column 'revision'.*expected source, id, revision"):
        refresh.read_index(tmp_path / "index.tsv")


# The Hub


@pytest.fixture
def klmap(tmp_path: Path) -> Iterator[Klmap]:
    """A Hub with org/m0 to org/m4, each with a card."""
    hub_models.model(tmp_path / "files")
    with serve() as running:
        klmap = Klmap(running, tmp_path, {"KLMAP_HUB_PATIENCE": "2"})
        rows = []
        for number in range(5):
            id = f"org/m{number}"
            klmap.upload(id, tmp_path / "files")
            rows.append([f"org--m{number}", id, None, None, None])
        index = ["source", "id", "revision", "folder", "remote_code"]
        write_tsv(tmp_path / "index.tsv", index, rows)
        done = klmap("resolve.py", "--id", "org/m0", "--card", card_path(klmap, 0))
        assert done.returncode == 0, done.stdout
        for number in range(1, 5):
            card = cards.read_card(card_path(klmap, 0))
            card.id = f"org/m{number}"
            cards.write_card(card_path(klmap, number), card)
        yield klmap


OPTIONS = ("--index", "index.tsv", "--cards", "cards")


def card_path(klmap: Klmap, number: int) -> Path:
    return klmap.folder / "cards" / f"org--m{number}" / "card.json"


def told(klmap: Klmap) -> dict[str, str]:
    """What refresh says of each source."""
    done = klmap("refresh.py", *OPTIONS)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    lines = [" ".join(line.split()[2:]) for line in done.stdout.splitlines()]
    return {line.split()[0]: line for line in lines if line.startswith("org--")}


def test_every_kind_of_news(klmap: Klmap) -> None:
    """Moved, deleted, gated, out of order, and one of which there is nothing to say."""
    before = stamps(klmap.folder / "cards")
    hub = klmap.hub.repositories
    hub["org/m1"].commit = "c" * 40
    del hub["org/m2"]
    hub["org/m3"].state = "broken"
    hub["org/m4"].commit = "d" * 40
    hub["org/m4"].state = "gated"
    news = told(klmap)
    assert sorted(news) == [f"org--m{number}" for number in range(1, 5)]
    assert f"moved {COMMIT[:12]} -> {'c' * 12}" in news["org--m1"]
    assert "gone its card and its scores are kept: org/m2: not on the Hub" in news["org--m2"]
    assert "unreachable org/m3: the Hub answered with an error" in news["org--m3"]
    kept = "its card and its scores are kept"
    assert f"needs a token {kept}: org/m4: gated; ask for access" in news["org--m4"]
    after = stamps(klmap.folder / "cards")
    assert [path.parent.name for path in after if after[path] != before[path]] == ["org--m1"]
    assert cards.read_card(card_path(klmap, 1)).commit == "c" * 40
    # What has been scored stays on the map, even of a model that is gone.
    assert cards.read_card(card_path(klmap, 2)).error == ""
    del hub["org/m3"], hub["org/m4"]
    assert "org--m1" not in told(klmap), "the same is not told twice"


def test_models_that_stayed_cost_one_question_each(klmap: Klmap) -> None:
    before = stamps(klmap.folder / "cards")
    told(klmap)  # config.json of each comes into the cache
    klmap.hub.requests.clear()
    assert told(klmap) == {}
    assert sorted(klmap.hub.requests) == [f"GET /api/models/org/m{n}" for n in range(5)]
    assert stamps(klmap.folder / "cards") == before


def test_a_model_without_a_card_is_not_asked_about(klmap: Klmap) -> None:
    shutil.rmtree(card_path(klmap, 3).parent)
    klmap.hub.requests.clear()
    told(klmap)
    assert not [request for request in klmap.hub.requests if "org/m3" in request]
    assert not card_path(klmap, 3).exists()


def test_what_changes_by_itself_is_no_news(klmap: Klmap) -> None:
    for made in klmap.hub.repositories.values():
        made.info |= {"downloads": 10**6, "likes": 10, "lastModified": "2031-01-01T00:00:00.000Z"}
    assert told(klmap) == {}


def test_a_busy_hub_is_asked_again(klmap: Klmap) -> None:
    before = stamps(klmap.folder / "cards")
    for number, made in enumerate(klmap.hub.repositories.values()):
        made.information_faults = ["429"] if number == 1 else []
    assert told(klmap) == {}
    assert stamps(klmap.folder / "cards") == before


def test_without_a_network_every_card_stays(klmap: Klmap) -> None:
    before = stamps(klmap.folder / "cards")
    done = klmap("refresh.py", *OPTIONS, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("unreachable") == 5
    assert "5 models asked about, 0 cards rewritten, 5 without usable answer" in done.stdout
    assert stamps(klmap.folder / "cards") == before
