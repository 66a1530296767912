"""config.yaml: what is accepted, what is refused with which words, names and fingerprints."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from klmap import config, config_models, configfile
from klmap.errors import ConfigError

ROOT = Path(__file__).parents[1]

FULL = """\
results: results
texts:
  demo: {source: environment, n: 600, max_bytes: 1024, min_bytes: 256, seed: 42}
  pile: {source: hub, dataset: monology/pile-uncopyrighted, documents: 1000000, n: 10000}
  mine: {source: file, path: my-texts.jsonl, field: body}
models:
  - demo/llama-code
  - {id: EleutherAI/pythia-14m, revision: step1000, family: pythia}
  - {id: mistralai/Mistral-7B-v0.1, quantization: int8}
  - {id: ../checkpoints/run7, name: run7}
model_files: []
scoring: {dtype: auto, prefix: default, overlength: window, keep_tokens: false}
on_model_failure: stop
map: {method: tsne, perplexity: 30, seed: 42, color_by: family}
hardware: {gpu_memory_gb: 80, max_gpus: 4, disk_budget_gb: 500}
analyses: {}
"""


def load(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return configfile.load(path)


def problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    return str(error.value)


def test_every_documented_key_is_accepted(tmp_path):
    read = load(tmp_path, FULL)
    assert list(read.by_slug) == [
        "demo--llama-code",
        "EleutherAI--pythia-14m@step1000",
        "mistralai--Mistral-7B-v0.1+int8",
        "run7",
    ]
    assert read.by_slug["run7"].source == "checkpoints--run7"
    assert read.texts["mine"].text_field == "body"


def test_shipped_configuration_is_valid_and_conforms_to_its_schema():
    read = configfile.load(ROOT / "config.yaml")
    assert len(read.models) >= 24
    schema = json.loads((ROOT / "docs/config.schema.json").read_text())
    for path in [ROOT / "config.yaml", *sorted((ROOT / "examples").glob("*.yaml"))]:
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
        configfile.load(path)


def test_schema_on_disk_is_in_step_with_the_code():
    assert (ROOT / "docs/config.schema.json").read_text() == config.json_schema(), "run make schema"


def test_every_key_is_documented_in_the_schema():
    schema = json.loads(config.json_schema())
    models = {"Config": schema, **schema["$defs"]}
    for name, model in models.items():
        for key, field in model.get("properties", {}).items():
            documented = field.get("description") or key == "source"
            assert documented, f"{name}.{key} has no docstring"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "name: run7}",
            "name: run7, dtype: fp17}",
            "config.yaml: models[3].dtype: 'fp17' is not one of float32, float16, bfloat16, auto "
            "(line 10)",
        ),
        ("family: pythia}", "famly: pythia}", "models[1].famly: unknown key; known keys: id, rev"),
        ("n: 600", "n: 1", "texts.demo.n: 1: input should be greater than or equal to 2 (line 3)"),
        ("seed: 42}\n  pile", "sed: 42}\n  pile", "texts.demo.sed: unknown key; known keys: n, "),
        ("source: hub", "source: hubb", "texts.pile.source: 'hubb' is not one of environment, "),
        (
            "source: hub, ",
            "",
            "texts.pile.source: missing; say source: environment, file, url, hub or",
        ),
        ("path: my-texts.jsonl, ", "", "texts.mine.path: missing; this key is required (line 5)"),
        ("  demo:", "  models:", "texts.models: this name is reserved"),
        ("  demo:", "  de mo:", "texts.de mo: not a name for a text set"),
        ("name: run7", "name: demo--llama-code", "models[3]: 'demo--llama-code' is the name of"),
        ("name: run7", "name: a/b", "models[3].name: 'a/b' holds a character"),
        ("../checkpoints/run7", "../my run", "models[3]: '../my run' gives the file name 'my run'"),
        ("analyses: {}", "analyses: {predit: {}}", "analyses.predit: unknown key; known keys: be"),
        ("analyses: {}", "analyses: {axes: {end: 3}}", "axes.end: unknown key; known keys: comp"),
        (
            "analyses: {}",
            "analyses: {contrast: {comparisons: {one: {first: a, texts: pil}}}}",
            "contrast.comparisons.one.texts: no text set 'pil'; configured: demo, pile, mine",
        ),
        ("analyses: {}", "analyses: {predict: }", "analyses.predict: no benchmark scores to learn"),
        (
            "analyses: {}",
            "analyses: {contrast: {comparisons: {one: {fist: a}}}}",
            "analyses.contrast.comparisons.one.fist: unknown key; known keys: first, second",
        ),
        ("analyses: {}", "analysis: {}", "config.yaml: analysis: unknown key; known keys: results"),
        ("analyses: {}", "results: elsewhere", "config.yaml: results: this key stands here twice"),
        ("perplexity: 30", "perplexity: many", "map.perplexity: 'many': input should be a valid"),
        ("results: results", "results: my results", "results: 'my results' holds a character"),
        ("max_gpus: 4", "max_gpus: -1", "hardware.max_gpus: -1: input should be greater than or"),
        ("{id: EleutherAI/pythia-14m", "{id: a/b@x", "'a/b@x' names a revision and there is a key"),
    ],
)
def test_bad_value_names_place_finding_and_fix(tmp_path, old, new, message):
    assert old in FULL
    assert message in problems(tmp_path, FULL.replace(old, new, 1))


def test_all_problems_are_reported_at_once(tmp_path):
    text = problems(tmp_path, FULL.replace("n: 600", "n: 0").replace("name: run7", "nam: run7"))
    assert len(text.splitlines()) == 2


def test_broken_yaml_and_missing_file(tmp_path):
    assert "config.yaml: not valid YAML" in problems(tmp_path, "texts: {demo: [")
    assert "expected keys such as texts" in problems(tmp_path, "- a\n- b\n")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        configfile.load(tmp_path / "nowhere.yaml")


def test_two_ids_may_not_share_a_folder(tmp_path):
    text = FULL.replace("models:\n", "models:\n  - {id: ./checkpoints/run7, name: other}\n")
    assert "would share the folder 'checkpoints--run7'" in problems(tmp_path, text)


def test_model_files_bring_models_and_name_their_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("more.yaml").write_text("- org/a\n- {id: org/b, dtype: float32}\n")
    Path("more.tsv").write_text("id\trevision\tfamily\norg/c\t\tc-family\norg/c\tstep10\t\n")
    text = FULL.replace("model_files: []", "model_files: [more.yaml, more.tsv]")
    read = load(tmp_path, text)
    assert [entry.slug for entry in read.models[-4:]] == [
        "org--a",
        "org--b+float32",
        "org--c",
        "org--c@step10",
    ]
    assert read.by_slug["org--c"].family == "c-family"

    Path("more.tsv").write_text("id\tdtype\norg/c\tfp17\norg/d\n")
    assert "more.tsv:3: 1 columns where the header has 2" in problems(tmp_path, text)
    Path("more.tsv").write_text("id\tdtype\norg/c\tfp17\n")
    assert "more.tsv: line 2: dtype: 'fp17' is not one of" in problems(tmp_path, text)
    Path("more.yaml").write_text("org/a: 1\n")
    assert "more.yaml: expected a list of models" in problems(tmp_path, text)
    Path("more.yaml").unlink()
    assert "more.yaml: no such file" in problems(tmp_path, text)


@pytest.mark.parametrize(
    ("entry", "source", "slug"),
    [
        ({"id": "gpt2"}, "gpt2", "gpt2"),
        ({"id": "a/b"}, "a--b", "a--b"),
        ({"id": "a/b", "revision": "refs/pr/1"}, "a--b@refs--pr--1", "a--b@refs--pr--1"),
        ({"id": "a/b", "revision": 7}, "a--b@7", "a--b@7"),
        ({"id": "demo/x@step20"}, "demo--x@step20", "demo--x@step20"),
        ({"id": "a/b", "dtype": "bfloat16", "prefix": "bos"}, "a--b", "a--b+bfloat16+bos"),
        ({"id": "a/b", "quantization": "nf4"}, "a--b", "a--b+nf4"),
        ({"id": "~/m/run"}, "m--run", "m--run"),
        ({"id": "/data/run/"}, "data--run", "data--run"),
        ({"id": "../../x/run", "name": "n"}, "x--run", "n"),
    ],
)
def test_names_of_files(entry, source, slug):
    model = config_models.ModelEntry.model_validate(entry)
    assert (model.source, model.slug) == (source, slug)
    assert re.fullmatch(config_models.SOURCE_PATTERN, model.source)
    assert re.fullmatch(config_models.MODEL_PATTERN, model.slug)


def spec(text: str, slug: str, tmp_path: Path, texts: str = "demo") -> str:
    read = load(tmp_path, text)
    return config.fingerprint(read.spec(texts, read.by_slug[slug]))


def test_fingerprint_is_pinned(tmp_path):
    """A change here means that every user's scores are computed again: raise SCORER_VERSION."""
    assert spec(FULL, "demo--llama-code", tmp_path) == "f439de6f6905"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dtype: auto", "dtype: float32"),
        ("prefix: default", "prefix: bos"),
        ("overlength: window", "overlength: truncate"),
        ("n: 600", "n: 601"),
        ("min_bytes: 256", "min_bytes: 255"),
        ("seed: 42}\n  pile", "seed: 43}\n  pile"),
    ],
)
def test_science_changes_the_fingerprint(tmp_path, old, new):
    assert old in FULL
    before = spec(FULL, "demo--llama-code", tmp_path)
    assert spec(FULL.replace(old, new), "demo--llama-code", tmp_path) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gpu_memory_gb: 80", "gpu_memory_gb: 40, batch_tokens: 512, cpus: 2"),
        ("keep_tokens: false", "keep_tokens: true"),
        ("perplexity: 30", "perplexity: 5"),
        ("on_model_failure: stop", "on_model_failure: skip"),
        ("n: 600, max_bytes: 1024", "max_bytes: 1024, n: 600"),
        ("  - demo/llama-code\n", "  - {id: demo/llama-code, family: other}\n"),
        ("  - {id: mistralai", "  - other/model\n  - {id: mistralai"),
    ],
)
def test_everything_else_leaves_it(tmp_path, old, new):
    assert old in FULL
    before = spec(FULL, "demo--llama-code", tmp_path)
    assert spec(FULL.replace(old, new), "demo--llama-code", tmp_path) == before


def test_models_and_settings_never_share_a_fingerprint(tmp_path):
    read = load(tmp_path, FULL)
    prints = {
        config.fingerprint(read.spec(texts, entry)) for texts in read.texts for entry in read.models
    }
    assert len(prints) == len(read.texts) * len(read.models)


def test_a_new_optional_key_changes_no_old_fingerprint(tmp_path):
    read = load(tmp_path, FULL)
    old = read.spec("demo", read.models[0])
    assert config.fingerprint({**old, "layer": None}) == config.fingerprint(old)
    assert config.fingerprint({**old, "layer": 3}) != config.fingerprint(old)
    assert config.fingerprint(dict(reversed(old.items()))) == config.fingerprint(old)


def test_config_imports_nothing_heavy():
    code = (
        "import klmap.config, sys; "
        "print([name for name in ('torch', 'numpy', 'h5py') if name in sys.modules])"
    )
    path = str(ROOT / "scripts")
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
