"""The demo is evidence: a part of it, trained and mapped by the real workflow."""

import numpy as np
import pytest

from klmap import store
from klmap.files import read_tsv
from tests.project import Project, copy_clone
from tests.zoo_project import give_zoo

pytestmark = pytest.mark.workflow

RUNS = [
    "demo/gpt2-base@step150",
    "demo/gpt2-base@step180",
    "demo/gpt2-base@step210",
    "demo/gpt2-base",
    "demo/gpt2-base-seed2",
    "demo/gpt2-code",
    "demo/gpt2-prose",
    "demo/neox-base",
    "demo/neox-code",
    "demo/neox-prose",
    "demo/llama-base",
    "demo/llama-code",
    "demo/llama-prose",
    "demo/llama-code-prose",
]


class Found:
    """Distances by the models' short names."""

    def __init__(self, project: Project) -> None:
        self.folder = project.folder / "results/demo"
        distances = store.read_distances(self.folder / "kl.h5")
        assert distances.kl is not None
        self.kl = distances.kl
        self.row = {name.removeprefix("demo--"): i for i, name in enumerate(distances.model)}

    def __call__(self, first: str, second: str) -> float:
        return float(self.kl[self.row[first], self.row[second]])


@pytest.fixture(scope="module")
def kl(tmp_path_factory: pytest.TempPathFactory) -> Found:
    project = copy_clone(tmp_path_factory.mktemp("demo") / "klmap")
    give_zoo(tmp_path_factory, project, *(model[5:] for model in RUNS if "@" not in model))
    layers = {"id": "demo/gpt2-base", "layers": "all", "name": "gpt2-layers", "on_map": False}
    project.configure(
        texts={"demo": {"source": "environment", "n": 210}},
        models=[*RUNS, layers],
        analyses={"scale": None, "trajectories": {"from_step": 150}},
    )
    project.run()
    assert project.planned() == {}
    return Found(project)


def test_distances_are_in_the_range_of_the_theory(kl):
    pairs = kl.kl[np.triu_indices(len(RUNS), 1)]
    assert np.median(pairs) < 3
    assert pairs.max() < 8


def test_kl_to_the_last_checkpoint_falls_along_training(kl):
    run = [kl(f"gpt2-base@step{step}", "gpt2-base") for step in (150, 180, 210)]
    assert run == sorted(run, reverse=True)


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
@pytest.mark.parametrize("domain", ["code", "prose"])
def test_a_fine_tune_is_nearer_to_its_parent_than_to_a_stranger(kl, family, domain):
    strangers = {"gpt2", "neox", "llama"} - {family}
    own = kl(f"{family}-{domain}", f"{family}-base")
    assert all(own < kl(f"{family}-{domain}", f"{other}-base") for other in strangers)


def test_the_same_domain_is_nearer_than_another(kl):
    for first, second in (("gpt2", "neox"), ("gpt2", "llama"), ("neox", "llama")):
        same = [kl(f"{first}-{d}", f"{second}-{d}") for d in ("code", "prose")]
        across = [kl(f"{first}-code", f"{second}-prose"), kl(f"{first}-prose", f"{second}-code")]
        assert np.mean(same) < np.mean(across)


def test_a_repeated_seed_is_nearer_than_another_architecture(kl):
    seed = kl("gpt2-base", "gpt2-base-seed2")
    assert seed < min(kl("gpt2-base", "neox-base"), kl("gpt2-base", "llama-base"))


def test_a_merge_lies_between_its_parents(kl):
    sides = kl("llama-code-prose", "llama-code"), kl("llama-code-prose", "llama-prose")
    assert max(sides) < kl("llama-code", "llama-prose")


def test_seeds_are_nearer_than_fine_tunes_and_these_nearer_than_other_families(kl):
    rows = read_tsv(kl.folder / "scale/scale.tsv")
    median = {row["relation"]: float(row["median"]) for row in rows}
    assert median["seeds"] < median["parent-child"] < median["across-families"]


def test_the_last_hidden_state_is_the_model_itself(kl):
    on_map = store.read_matrix(kl.folder / "matrix.h5")
    beside = store.read_matrix(kl.folder / "offmap.h5")
    model = on_map.loglik[list(on_map.model).index("demo--gpt2-base")]
    last = beside.loglik[list(beside.model).index("gpt2-layers")]
    np.testing.assert_allclose(last, model, rtol=1e-5)
    first = beside.loglik[list(beside.model).index("gpt2-layers+layer0")]
    assert first.mean() < model.mean()


def test_a_training_run_slows_down(kl):
    steps = read_tsv(kl.folder / "trajectories/steps.tsv")
    moves = [float(row["kl"]) for row in steps if row["run"] == "demo/gpt2-base"]
    assert len(moves) == 3
    assert moves == sorted(moves, reverse=True)
