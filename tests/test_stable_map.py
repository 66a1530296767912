"""A map that people have got used to: models are added, jobs fail, and the old ones stay."""

import csv
import json

import pytest

from tests.project import Project

pytestmark = pytest.mark.workflow


def places(project: Project) -> dict[str, tuple[float, float]]:
    """Every model's place on the map."""
    with (project.folder / "results/tiny/layout.tsv").open() as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["model"]: (float(row["x"]), float(row["y"])) for row in rows}


def report(project: Project) -> dict[str, object]:
    """What layout.json says."""
    return json.loads((project.folder / "results/tiny/layout.json").read_text())


def test_a_layout_begins_where_the_last_one_ended_even_after_a_failure(project: Project):
    before = places(project)
    assert report(project)["stable"] is None
    project.configure(models=["./models/a", "./models/b", "./models/c"])
    script = project.folder / "scripts/layout.py"
    whole = script.read_text()
    script.write_text("raise SystemExit('the node has failed')\n")
    project.run(check=False)
    assert places(project) == before, "a failed job leaves the old layout"

    script.write_text(whole)
    project.run()
    assert set(places(project)) == {"models--a", "models--b", "models--c"}
    stable = report(project)["stable"]
    assert (stable["kept"], stable["new"], stable["gone"]) == (2, 1, 0)

    kept = places(project)
    project.run("--forcerun", "layout")
    assert places(project) == kept, "where nothing has changed, nothing moves"


@pytest.mark.parametrize("how", ["removed", "configured"])
def test_a_fresh_layout_on_request(project: Project, how: str):
    if how == "removed":
        (project.folder / "results/tiny/layout.tsv").unlink()
    else:
        project.configure(map={"stable": False})
    project.run("--forcerun", "layout")
    assert report(project)["stable"] is None
    assert report(project)["reason"]
