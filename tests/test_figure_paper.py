from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from klmap import figure_paper, figures, style
from klmap.models_table import Model
from tests import mapfiles
from tests.scenes import synthetic


@pytest.mark.parametrize(
    ("family", "id_", "base", "expected"),
    [
        ("llama-2", "any/thing", "", "llama-2"),
        ("Llama-3", "any/thing", "", "llama-3"),
        ("llama", "meta-llama/Llama-2-7b-hf", "", "llama-2"),
        ("llama", "meta-llama/Meta-Llama-3-8B-Instruct", "", "llama-3"),
        ("llama", "meta-llama/Llama-3.1-8B", "", "llama-3"),
        ("llama", "meta-llama/Llama-3.2-3B", "", "llama-3"),
        ("llama", "huggyllama/llama-7b", "", "llama-1"),
        ("llama", "someone/LLaMA_13B_chat", "", "llama-1"),
        ("llama", "someone/llama2-tuned", "", "llama-2"),
        ("llama", "openlm-research/open_llama_3b_v2", "", ""),
        ("llama", "openlm-research/open_llama_7b", "", ""),
        ("llama", "TinyLlama/TinyLlama-1.1B-Chat", "", ""),
        ("llama", "princeton/Sheared-LLaMA-1.3B", "", ""),
        ("llama", "princeton/Sheared-LLaMA-2.7B", "", ""),
        ("llama", "01-ai/Yi-6B", "", ""),
        ("llama", "someone/Hermes", "meta-llama/Llama-2-13b", "llama-2"),
        ("llama", "someone/merge", "someone/Unknown meta-llama/Llama-3-8B", "llama-3"),
        ("llama", "deepseek-ai/deepseek-llm-7b-base", "", "deepseek"),
        ("deepseek_v2", "someone/tuned", "", "deepseek"),
        ("qwen2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "", "deepseek"),
        ("qwen2", "Qwen/Qwen2-7B", "meta-llama/Llama-2-7b", ""),
        ("mistral", "mistralai/Mistral-7B-v0.1", "", "mistral"),
        ("mixtral", "mistralai/Mixtral-8x7B", "", ""),
        ("gpt_neox", "EleutherAI/pythia-1b", "", "gpt_neox"),
        ("gpt_neo", "EleutherAI/gpt-neo-125m", "", ""),
        ("gptj", "EleutherAI/gpt-j-6b", "", "gptj"),
        ("gemma2", "google/gemma-2-9b", "", "gemma"),
        ("opt", "facebook/opt-125m", "", "opt"),
        ("bloom", "bigscience/bloomz-560m", "", "bloom"),
        ("falcon", "tiiuae/falcon-7b", "", "falcon"),
        ("RefinedWebModel", "tiiuae/falcon-7b", "", "falcon"),
        ("falcon_mamba", "tiiuae/falcon-mamba-7b", "", ""),
        ("", "EleutherAI/pythia-1b", "", "gpt_neox"),
        ("", "EleutherAI/gpt-j-6b", "", "gptj"),
        ("", "facebook/opt-1.3b", "", "opt"),
        ("", "tiiuae/falcon-7b", "", "falcon"),
        ("", "tiiuae/falcon-mamba-7b", "", ""),
        ("", "optimus/prime", "", ""),
        ("", "meta-llama/Llama-2-7b", "", "llama-2"),
    ],
)
def test_published_families(family: str, id_: str, base: str, expected: str) -> None:
    model = Model("x", id=id_, family=family, base_model=tuple(base.split()))
    assert figure_paper.published_family(model) == expected


def of_families(*families: str) -> list[Model]:
    rows = mapfiles.models(3 * len(families))
    return [
        replace(row, family=families[i % len(families)], mean_loglik=-600.0 - i)
        for i, row in enumerate(rows)
    ]


def test_published_families_have_their_colours_and_all_others_are_grey() -> None:
    colors, legend = figure_paper.paper_colors(of_families("qwen2", "opt", "mistral"))
    assert colors[:3] == ["#d3d3d3", "#7f7f7f", "#d62728"]
    assert [(own.name, own.color, own.count) for own in legend] == [
        ("mistral", "#d62728", 3),
        ("opt", "#7f7f7f", 3),
        ("others", "#d3d3d3", 3),
    ]


def test_families_of_klmap_keep_their_colours_where_none_is_published() -> None:
    models = of_families("qwen2", "phi")
    colors, legend = figure_paper.paper_colors(models)
    each, expected = style.categories([model.family for model in models])
    assert colors == [own.color for own in each]
    assert [own.name for own in legend] == [own.name for own in expected]


def test_the_figure_for_a_paper_is_as_wide_as_a_page_and_has_no_title() -> None:
    scene = synthetic(of_families("opt", "bloom", "qwen2"))
    figure = figures.FIGURES["paper"](scene)
    assert figure.get_size_inches()[0] == 7
    assert not any(text.get_text() for text in figure.texts if text.get_size() > 8)
    first, second, _ = figure.axes
    assert [axes.texts[0].get_text() for axes in (first, second)] == ["(a)", "(b)"]
    drawn = {to_hex(color) for color in first.collections[0].get_facecolor()}  # type: ignore[arg-type]
    assert drawn == {"#7f7f7f", "#bcbd22", "#d3d3d3"}
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "opt (3)", "bloom (3)", "others (3)",
    }  # fmt: skip


def test_models_of_unknown_likelihood_are_grey_in_the_second_panel() -> None:
    models = of_families("opt", "bloom")
    models[4] = replace(models[4], mean_loglik=float("nan"))
    figure = figures.FIGURES["paper"](synthetic(models))
    colors = [to_hex(color) for color in figure.axes[1].collections[0].get_facecolor()]  # type: ignore[arg-type,union-attr]
    assert np.flatnonzero(np.array(colors) == figure_paper.OTHERS).tolist() == [4]
