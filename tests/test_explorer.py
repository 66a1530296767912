from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from klmap import explorer, figures, layout, neighbors, store, tree
from klmap.collect import Collection
from klmap.errors import InputError
from tests.mapfiles import Folder, zoo

ROOT = Path(__file__).resolve().parents[1]
SVG = '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0"/></svg>\n'
MANIFEST = {"n": 240, "mean_bytes": 640.5, "domains": {"code": 80, "prose": 160}}
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return zoo(tmp_path_factory.mktemp("explorer") / "demo").collect()


def page(collection: Collection, svg: str = SVG, texts: str = "demo") -> str:
    distances, nearest = neighbors.measure(collection.matrix, 10, 5000)
    rows = neighbors.table(nearest, collection.models, distances.neighbor_below_noise)
    places = [layout.Place(m.model, 0.0, 0.0, "pca") for m in collection.models]
    return explorer.page(collection.models, places, rows, svg, MANIFEST, texts)


class Tags(HTMLParser):
    """All tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_shows_every_model_and_its_neighbours(collection: Collection) -> None:
    html = page(collection)
    rows = [attrs for tag, attrs in Tags(html).found if tag == "tr" and "data-search" in attrs]
    assert len(rows) == len(collection.models)
    for model in collection.models:
        assert f'<td class="name" data-value="{model.model}">' in html
        assert f"{model.bits_per_byte:.3f}" in html
    assert html.count('class="near"') == 3 * len(collection.models)
    assert "240 texts" in re.sub(r"\s+", " ", html)


def test_page_needs_no_network(collection: Collection) -> None:
    for tag, attrs in Tags(page(collection)).found:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        for name in ("src", "href", "action"):
            assert not (attrs.get(name) or "").startswith(("http", "//")), (tag, attrs)


def test_the_policy_allows_exactly_the_page_s_own_script(collection: Collection) -> None:
    html = page(collection)
    policy = next(
        attrs["content"] or ""
        for tag, attrs in Tags(html).found
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_hostile_names_are_text(collection: Collection) -> None:
    models = [
        replace(m, model=f"{HOSTILE}{i}", family=HOSTILE, license=HOSTILE, base_model=(HOSTILE,))
        for i, m in enumerate(collection.models)
    ]
    hostile = Collection(collection.matrix, models, [])
    html = page(hostile, texts=HOSTILE)
    tags = Tags(html).found
    assert not any(tag == "img" for tag, _ in tags)
    assert sum(tag == "script" for tag, _ in tags) == 1
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)


def test_what_is_no_kl_is_marked(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "demo")
    folder.add("org--a", folder.values(10))
    folder.add("org--b", folder.values(300))
    html = page(folder.collect(threshold=-1e9))
    assert html.count("beyond range") == 2


@pytest.mark.parametrize("count", [1, 2])
def test_few_models(tmp_path: Path, count: int) -> None:
    folder = Folder(tmp_path / "demo")
    for i in range(count):
        folder.add(f"org--m{i}")
    assert f"Map of {count} language model" in page(folder.collect())


def test_a_file_that_is_no_figure_is_refused(collection: Collection) -> None:
    with pytest.raises(InputError, match="no <svg> figure"):
        page(collection, svg="")


def test_all_scripts_in_a_row(tmp_path: Path) -> None:
    """The commands as the workflow calls them, from score files to the page."""
    folder = zoo(tmp_path / "demo")
    folder.write_index()
    out = folder.root
    commands = [
        f"matrix.py --index {folder.index} --scores {folder.scores} --cards {folder.cards} "
        f"--texts {folder.texts} --manifest {folder.manifest} --on-failure stop "
        f"--matrix {out}/matrix.h5 --models {out}/models.tsv --failures {out}/failures.tsv",
        f"kl.py --matrix {out}/matrix.h5 --models {out}/models.tsv --neighbors 10 "
        f"--dense-limit 5000 --kl {out}/kl.h5 --neighbors-table {out}/neighbors.tsv",
        f"layout.py --matrix {out}/matrix.h5 --models {out}/models.tsv --method tsne "
        f"--metric euclidean --perplexity 30 --iterations 250 --seed 42 --layout {out}/layout.tsv",
        f"tree.py --kl {out}/kl.h5 --matrix {out}/matrix.h5 --bootstrap 5 --tree {out}/tree.nwk",
        f"figures.py --models {out}/models.tsv --layout {out}/layout.tsv --kl {out}/kl.h5 "
        f"--tree {out}/tree.nwk --color-by family --figures {out}/figures map checkpoints",
        f"explorer.py --models {out}/models.tsv --layout {out}/layout.tsv "
        f"--neighbors-table {out}/neighbors.tsv --figure {out}/figures/map.svg "
        f"--manifest {folder.manifest} --page {out}/map.html",
    ]
    for command in commands:
        script, *arguments = command.split()
        done = subprocess.run(
            [sys.executable, ROOT / "scripts" / script, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    assert "of “demo”" in (out / "map.html").read_text().replace("\n", " ")
    leaves = tree.read_tree(out / "tree.nwk").leaves()
    assert sorted(leaves) == store.read_matrix(out / "matrix.h5").model
    assert {path.stem for path in (out / "figures").iterdir()} == {"map", "checkpoints"}
    assert set(figures.FIGURES) >= {"map", "checkpoints"}
