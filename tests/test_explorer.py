"""The page as a file: what its policy allows, what it carries, that it is the same every time."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from klmap import explorer, explorer_plot, models_table, store, style, tree
from klmap.files import read_json, write_json
from tests.mapfiles import zoo
from tests.pagefiles import HOSTILE, MapFiles, add_column, write_map, write_selection

ROOT = Path(__file__).resolve().parents[1]


class Tags(HTMLParser):
    """All tags with their attributes, and the text inside each script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self._inside:
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> MapFiles:
    return write_map(tmp_path_factory.mktemp("page"), 12)


@pytest.fixture(scope="module")
def html(files: MapFiles) -> str:
    return explorer.page(files.payload())


def data_of(html: str) -> Any:
    return next(json.loads(text) for attrs, text in Tags(html).scripts if attrs.get("id") == "data")


def policy_of(html: str) -> str:
    return next(
        attrs["content"] or ""
        for tag, attrs in Tags(html).found
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )


def test_the_policy_allows_exactly_the_page_s_own_scripts(html: str) -> None:
    executed = [text for attrs, text in Tags(html).scripts if "type" not in attrs]
    digests = {base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in executed}
    assert len(executed) == 2
    policy = dict(part.strip().split(" ", 1) for part in policy_of(html).split(";"))
    assert set(policy.pop("script-src").split()) == {f"'sha256-{digest}'" for digest in digests}
    assert policy == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_the_page_needs_no_network(html: str) -> None:
    for tag, attrs in Tags(html).found:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base")
        assert not {"src", "href", "action"} & set(attrs), (tag, attrs)


def test_own_scripts_never_take_text_for_markup() -> None:
    script = explorer.own_script()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in script


def test_every_file_of_the_script_is_joined_and_short() -> None:
    folder = Path(explorer.__file__).parent / "page"
    found = {path.stem: len(path.read_text().splitlines()) for path in folder.glob("*.js")}
    assert sorted(found) == sorted(explorer.SCRIPTS)
    assert max(found.values()) <= 300


def test_names_and_numbers_are_carried_as_data(files: MapFiles, html: str) -> None:
    data = data_of(html)
    assert data["models"] == [model.model for model in files.models]
    assert "Map of 12 language models" in html
    assert "200 texts" in html


def test_a_selection_names_its_reference_and_counts_who_was_added(
    files: MapFiles, html: str, tmp_path: Path
) -> None:
    made = write_selection(files, tmp_path / "demo-ls", [2, 7], 80)
    found = explorer.page(made.payload(reference="pile <i>"))
    of = f"{len(made.domain)} of the 200 texts of “pile &lt;i&gt;”"
    assert f"{of} (“demo-ls”, LS selection)" in found
    assert "2 models, with a ring, were scored on these alone. The other 10" in found
    assert '"added"' in found
    assert "with a ring" not in html
    assert "added-source" not in html
    assert "added-source" in found
    nobody = write_selection(files, tmp_path / "nobody", [], 80)
    assert "with a ring" not in explorer.page(nobody.payload())


def test_hostile_names_stay_in_the_data(tmp_path: Path) -> None:
    plain = Tags(explorer.page(write_map(tmp_path / "plain", 12, n_domains=3).payload()))
    files = write_map(tmp_path / "hostile", 12, n_domains=3, hostile=True)
    html = explorer.page(files.payload())
    tags = Tags(html)
    assert [tag for tag, _ in tags.found] == [tag for tag, _ in plain.found]
    assert data_of(html)["models"] == [model.model for model in files.models]
    assert data_of(html)["texts"]["name"] == HOSTILE[0]
    for name in HOSTILE[:4]:
        assert name not in html


def test_the_same_input_gives_the_same_bytes(files: MapFiles, html: str) -> None:
    assert explorer.page(files.payload()) == html


def test_the_figure_carries_no_code_and_no_data() -> None:
    document = explorer_plot.document(10)
    assert document == explorer_plot.document(10)
    text = json.dumps(document)
    assert "CustomJS" not in text
    assert '"output_backend": "webgl"' not in text
    layers = re.findall(r'"name": "(\w+)-source"', text)
    assert layers == [
        "ellipses", "runs", "lineage", "heads", "links", "points", "lit", "rings", "regions",
        "names",
    ]  # fmt: skip


def test_colours_are_those_of_the_figures() -> None:
    look = explorer.look(10)
    assert look["published"] == style.PUBLISHED
    assert tuple(look["extended"]) == style.EXTENDED
    assert look["most"] == style.MOST_COLORS


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_models(tmp_path: Path, count: int) -> None:
    html = explorer.page(write_map(tmp_path, count).payload())
    assert f"Map of {count} language model{'s' if count > 1 else ''} on demo" in html
    assert len(data_of(html)["models"]) == count


def test_the_page_says_how_far_to_trust_it() -> None:
    quality = {"neighbors": 10, "preserved": 0.61, "trustworthiness": 0.97, "sampled": 60}
    stable = {"kept": 57, "new": 3, "gone": 1, "median": 0.004, "p95": 0.02, "largest": 0.1}
    tiles = explorer.tiles({"quality": quality, "stable": stable})
    assert [tile["value"] for tile in tiles] == ["61 %", "0.970", "0.4 %", "3"]
    assert (
        explorer.tiles({"quality": quality, "stable": {**stable, "new": 0, "gone": 0}}) == tiles[:3]
    )
    assert explorer.tiles({"quality": None, "stable": None}) == []
    few = {"label": "PCA", "quality": {**quality, "neighbors": 0}, "reason": "there is none before"}
    assert explorer.tiles(few) == []
    assert explorer.sentences(few) == [
        "Placed by PCA.",
        "There are too few models to say how faithful the map is.",
        "A fresh layout: there is none before.",
    ]


def test_what_is_optional_may_be_missing(tmp_path: Path) -> None:
    """As the workflow calls the command where no ellipses were asked for, and where they were."""
    files = write_map(tmp_path / "demo", 6)
    for given, more, name in ([], [], "demo"), (["ellipses.tsv"], ["--texts", "others"], "others"):
        page = tmp_path / f"{name}.html"
        run(files, page, "--ellipses", *[files.path(name) for name in given], *more)
        assert (data_of(page.read_text())["ellipses"] is None) == (not given)
        assert f"of “{name}”" in page.read_text()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    files = write_map(tmp_path / "demo", 6)
    files.path("layout.json").unlink()
    done = run(files, tmp_path / "map.html", check=False)
    assert done.returncode == 1
    assert "layout.json" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "map.html").exists()


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
        f"layout.py --matrix {out}/matrix.h5 --kl {out}/kl.h5 --models {out}/models.tsv "
        f"--iterations 250 --layout {out}/layout.tsv --report {out}/layout.json",
        f"tree.py --kl {out}/kl.h5 --matrix {out}/matrix.h5 --bootstrap 5 --tree {out}/tree.nwk",
        f"figures.py --models {out}/models.tsv --layout {out}/layout.tsv --kl {out}/kl.h5 "
        f"--layout-report {out}/layout.json --tree {out}/tree.nwk --color-by family "
        f"--figures {out}/figures map checkpoints",
        f"explorer.py --models {out}/models.tsv --layout {out}/layout.tsv "
        f"--layout-report {out}/layout.json --neighbors-table {out}/neighbors.tsv "
        f"--kl {out}/kl.h5 --matrix {out}/matrix.h5 --manifest {folder.manifest} "
        f"--ellipses --page {out}/map.html",
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
    models = store.read_matrix(out / "matrix.h5").model
    assert data_of((out / "map.html").read_text())["models"] == models
    assert sorted(tree.read_tree(out / "tree.nwk").leaves()) == models
    assert {path.stem for path in (out / "figures").iterdir()} == {"map", "checkpoints"}


def run(files: MapFiles, page: Path, *more: Any, check: bool = True) -> Any:
    names = {
        "--models": "models.tsv", "--layout": "layout.tsv", "--layout-report": "layout.json",
        "--neighbors-table": "neighbors.tsv", "--kl": "kl.h5", "--matrix": "matrix.h5",
        "--manifest": "texts.json",
    }  # fmt: skip
    arguments = [part for name, file in names.items() for part in (name, files.path(file))]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/explorer.py", *arguments, *more, "--page", page],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    return done


def of_pmi(folder: Path) -> MapFiles:
    """A map of what prompts add."""
    made = write_map(folder, 6)
    matrix = store.read_matrix(made.path("matrix.h5"))
    store.write_matrix(made.path("matrix.h5"), replace(matrix, vector="pmi"))
    manifest = read_json(made.path("texts.json"))
    forms = {"template": "none", "separator": "", "vector": "pmi"}
    write_json(made.path("texts.json"), {**manifest, **forms})
    models = models_table.read_models(made.path("models.tsv"))
    models_table.write_models(made.path("models.tsv"), [replace(m, pmi=True) for m in models])
    return made


def test_the_page_of_what_prompts_add_says_so(tmp_path: Path, html: str) -> None:
    page = explorer.page(of_pmi(tmp_path).payload())
    data = data_of(page)
    assert data["texts"]["pmi"] is True
    labels = {column["name"]: column["label"] for column in data["columns"]}
    assert labels["pmi_bits_per_byte"] == "bits per byte that prompts add"
    assert not {"bits_per_byte", "mean_loglik"} & set(labels)
    assert "This map is of what prompts add" in page
    assert "lower is better" not in page.partition("<script")[0]
    assert "near means alike in what prompts add" in page
    assert "when prompts make the same responses more likely to them, and the same less." in page
    assert "when they find the same texts likely and the same unlikely." in html
    assert "This map is of what prompts add" not in html
    assert "lower is better.</li>" in html
    assert "pmi" not in data_of(html)["texts"]


@pytest.mark.parametrize(
    ("kinds", "pseudo"),
    [("masked", True), ("diffusion", True), ("seq2seq", False), ("prefix", False)],
)
def test_a_page_of_pseudo_likelihoods_alone_calls_no_distance_a_kl(
    tmp_path: Path, kinds: str, pseudo: bool
) -> None:
    files = write_map(tmp_path, 4)
    table = add_column(files, tmp_path / "kinds.tsv", "likelihood", [kinds] * 4)
    payload = files.payload(models_path=table)
    page = explorer.page(payload)
    found = explorer.of_likelihoods(payload)
    assert bool(found) == pseudo
    assert ("formula of the KL divergence for pseudo-likelihoods" in page) == pseudo
    assert ("<b>Distance</b> is KL divergence" in page) != pseudo
    for sentence in found:
        assert sentence in page
