"""Make what the scoring benchmark scores: one folder per model, with its texts.

The texts are those that klmap finds in its own Python environment. A model has random weights,
stored in bfloat16 as most published ones are, and a byte-level BPE tokenizer that is trained on
the other half of those texts. Rows of the embedding beyond the tokenizer's entries stay unused.
A process of its own, because the memory of the process that starts the others would count as
theirs. Prints nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path

import torch
import transformers
from score_shapes import SHAPES, Shape
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from klmap import cards, environment, fetch, resolve, texts
from klmap.config_texts import EnvironmentTexts

SMALLEST, LARGEST = 600, 1024
"""Bytes of a text."""

END = "<|endoftext|>"
CONTEXT = 2048
TRAINED_ENTRIES = 49_152
"""Most entries that a tokenizer gets; the texts hold no more words worth one."""

WEIGHT_STD, LOGIT_STD = 0.02, 2.5
"""Spread of the weights, and of the logits: in trained models those differ by a few nats too."""


@functools.cache
def trained_tokenizer(entries: int) -> Tokenizer:
    """Byte-level BPE from the half of the environment's texts that is never scored."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        (document.text for document in environment.documents("train")), trainer
    )
    return tokenizer


def write_tokenizer(folder: Path, entries: int) -> None:
    """Save the tokenizer as ``tokenizer.json``; it adds nothing by itself."""
    trained_tokenizer(entries).save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def write_weights(folder: Path, shape: Shape) -> None:
    """Save a Llama with random weights whose logits are spread like those of a trained one."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=CONTEXT,
        initializer_range=WEIGHT_STD,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.LlamaForCausalLM(config)
    model.model.norm.weight.data.fill_(LOGIT_STD / (WEIGHT_STD * shape.width**0.5))
    model.to(torch.bfloat16).save_pretrained(folder)


def write_model(folder: Path, shape: Shape) -> None:
    """Texts, a Hugging Face folder ``model``, and what klmap makes of it: card.json, weights."""
    recipe = EnvironmentTexts(
        source="environment", n=shape.texts, min_bytes=SMALLEST, max_bytes=LARGEST
    )
    texts.build(recipe, folder / "texts.jsonl", folder / "texts.json")
    model = folder / "model"
    model.mkdir()
    write_weights(model, shape)
    write_tokenizer(model, min(shape.vocabulary, TRAINED_ENTRIES))
    card = resolve.resolve_or_explain("bench/model", None, model)
    cards.write_card(folder / "card.json", card)
    fetch.fetch(card, folder / "weights", model)


def main() -> None:
    """Parse the arguments and write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where to")
    parser.add_argument("--models", nargs="+", choices=SHAPES, required=True)
    arguments = parser.parse_args()
    for key in arguments.models:
        (arguments.folder / key).mkdir(parents=True)
        write_model(arguments.folder / key, SHAPES[key])


if __name__ == "__main__":
    main()
