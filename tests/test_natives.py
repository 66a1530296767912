"""The table of model types is what the installed transformers says."""

import json
import subprocess
import sys
from pathlib import Path

from klmap import natives

ROOT = Path(__file__).parents[1]


def test_the_table_is_what_transformers_says(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "natives.py"), "--table"]
    subprocess.run([*command, str(tmp_path / "natives.json")], check=True, capture_output=True)
    written = (tmp_path / "natives.json").read_text()
    kept = (ROOT / "scripts" / "klmap" / "natives.json").read_text()
    assert kept == written, "transformers has changed: run `make schema`"


def test_the_version_is_the_pinned_one():
    pins = (ROOT / "envs" / "requirements.txt").read_text().splitlines()
    assert f"transformers=={natives.VERSION}" in pins


def test_causal_class():
    assert natives.causal_class("llama") == "LlamaForCausalLM"
    assert natives.causal_class("gpt2") == "GPT2LMHeadModel"
    assert natives.causal_class("t5") is None
    assert natives.causal_class("") is None
    table = json.loads((ROOT / "scripts" / "klmap" / "natives.json").read_text())
    assert list(table["causal"]) == sorted(table["causal"])


def test_classes_of_other_kinds():
    assert natives.class_of("AutoModelForMaskedLM", "bert") == "BertForMaskedLM"
    assert natives.class_of("AutoModelForMaskedLM", "gpt2") is None
    assert natives.class_of("AutoModelForSeq2SeqLM", "t5") == "T5ForConditionalGeneration"
    assert natives.covers("AutoModelForSeq2SeqLM")
    assert not natives.covers("AutoModel")
