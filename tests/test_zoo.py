"""The demo zoo: a table that hangs together, ordinary folders, the same bits every time."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from safetensors.numpy import load_file

from klmap import config_models, configfile, environment, zoo, zoo_runs, zoo_texts
from klmap.errors import ConfigError, InputError

ROOT = Path(__file__).parents[1]
TINY = zoo.Scale(0.04)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus and both tokenizers."""
    folder = tmp_path_factory.mktemp("zoo")
    zoo_texts.write_corpus(folder / "corpus")
    zoo_texts.write_tokenizers(folder / "corpus", folder / "tokenizers")
    return folder


def build(workshop: Path, name: str, place: str = "runs") -> Path:
    """Train one tiny run and, before it, its parents."""
    run = zoo_runs.RUNS[name]
    output = workshop / place / name
    if not output.exists():
        parents = [build(workshop, parent, place) for parent in run.parents]
        zoo.build(run, workshop / "corpus", workshop / "tokenizers", parents, output, TINY)
    return output


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_table_has_what_a_map_should_show():
    runs = zoo_runs.RUNS.values()
    models = list(zoo_runs.shipped())
    assert len(models) >= 24
    assert len({run.architecture for run in runs}) >= 4
    assert len({run.domain for run in runs if run.domain}) >= 3
    assert {run.tokenizer for run in runs} == {"bytelevel", "sentencepiece"}
    children = [run.parents[0] for run in runs if len(run.parents) == 1]
    assert max(children.count(parent) for parent in children) >= 4
    assert sum(run.is_merge for run in runs) >= 1
    assert any(run.seed == 2 for run in runs)
    for run in runs:
        assert all(parent in zoo_runs.RUNS for parent in run.parents)


def test_the_shipped_configuration_lists_the_zoo():
    read = configfile.load(ROOT / "config.yaml")
    assert [(entry.id, entry.family) for entry in read.models if entry.on_map] == list(
        zoo_runs.shipped()
    )


def test_unknown_models_are_answered_with_the_known_ones():
    assert zoo_runs.locate("demo/llama-code", "step15") == ("llama-code", "step15")
    assert zoo_runs.locate("demo/llama-code") == ("llama-code", "main")
    with pytest.raises(ConfigError, match="demo/nothing: the demo zoo has no such model; it has"):
        zoo_runs.locate("demo/nothing")
    with pytest.raises(ConfigError, match="llama-code has step15, main"):
        zoo_runs.locate("demo/llama-code", "step16")


@pytest.mark.parametrize("name", ["gpt2-base", "llama-base", "neox-base", "mamba2-base"])
def test_folders_are_ordinary_and_the_same_every_time(workshop, name):
    first, second = build(workshop, name), build(workshop, name, "again")
    assert hashes(first) == hashes(second)
    assert {path.name for path in first.iterdir()} == set(zoo_runs.RUNS[name].revisions)
    model = transformers.AutoModelForCausalLM.from_pretrained(first / "main").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(first / "main")
    ids = torch.tensor([tokenizer("def mean(values):\n    return 0")["input_ids"]])
    assert torch.isfinite(model(ids).logits).all()
    assert model.config.model_type == zoo_runs.RUNS[name].architecture
    assert not any(str(workshop) in path.read_text() for path in first.rglob("*.json"))


def test_checkpoints_and_seeds_differ(workshop):
    run = build(workshop, "gpt2-base")
    other = build(workshop, "gpt2-base-seed2")
    found = {hashes(run / revision)["model.safetensors"] for revision in ("step150", "main")}
    found.add(hashes(other / "main")["model.safetensors"])
    assert len(found) == 3


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


@pytest.mark.parametrize("name", ["llama-code", "neox-code"])
def test_fine_tunes_start_from_their_parent_and_name_it(workshop, name):
    child = build(workshop, name)
    parent = zoo_runs.RUNS[name].parents[0]
    assert front_matter(child / "main")["base_model"] == [f"demo/{parent}"]
    before = load_file(build(workshop, parent) / "main" / "model.safetensors")
    after = load_file(child / "main" / "model.safetensors")
    moved = sum(float(np.square(after[key] - before[key]).sum()) for key in before)
    size = sum(float(np.square(before[key]).sum()) for key in before)
    assert 0 < moved < 0.05 * size


def test_the_merge_is_the_mean_of_its_parents(workshop):
    merged = build(workshop, "llama-code-prose")
    run = zoo_runs.RUNS["llama-code-prose"]
    matter = front_matter(merged / "main")
    assert matter["base_model"] == [f"demo/{parent}" for parent in run.parents]
    assert "merge" in matter["tags"]
    parents = [load_file(workshop / "runs" / p / "main/model.safetensors") for p in run.parents]
    for key, value in load_file(merged / "main" / "model.safetensors").items():
        np.testing.assert_allclose(value, (parents[0][key] + parents[1][key]) / 2, atol=1e-6)


def test_wrong_or_missing_parents_are_refused(workshop, tmp_path):
    run = zoo_runs.RUNS["gpt2-code"]
    places = (workshop / "corpus", workshop / "tokenizers")
    with pytest.raises(InputError, match="gpt2-code starts from"):
        zoo.build(run, *places, [], tmp_path / "out", TINY)
    with pytest.raises(InputError, match="has to be trained first"):
        zoo.build(run, *places, [tmp_path / "gpt2-base"], tmp_path / "out", TINY)
    assert not (tmp_path / "out").exists()


def test_two_kinds_of_tokenizer(workshop):
    text = "def área(x):\n    return x  # 3 µm, naïve → 你好\n"
    for name, begins in (("bytelevel", False), ("sentencepiece", True)):
        folder = workshop / "tokenizers" / name
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json")
        )
        ids = tokenizer(text)["input_ids"]
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        first = tokenizer.convert_tokens_to_ids(settings["bos_token"])
        assert (ids[0] == first) is begins
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert max(ids) < zoo_texts.VOCABULARY


def test_nothing_that_is_scored_was_trained_on(workshop):
    trained = {
        json.loads(line)["origin"]
        for path in (workshop / "corpus").glob("*.jsonl")
        for line in path.read_text().splitlines()
    }
    scored = {document.origin for document in environment.documents("score")}
    assert len(trained) > 100
    assert len(scored) > 100
    assert not trained & scored


def test_ids_of_the_zoo_are_file_names():
    for identifier, _ in zoo_runs.shipped():
        entry = config_models.ModelEntry(id=identifier)
        assert entry.is_demo
        assert entry.slug.startswith("demo--")
