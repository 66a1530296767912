"""The models that the scoring benchmark makes: Llama shapes with random weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama by its sizes.

    Attributes:
        key: its name on the command line and as a folder.
        title: its name in the tables.
        width: hidden size.
        layers: number of layers.
        heads: attention heads; those of keys and values are ``kv_heads``.
        kv_heads: heads of keys and values.
        inner: width of the feed-forward part.
        vocabulary: rows of the embedding and of the head.
        tied: whether the head is the embedding.
        texts: how many texts it scores, so that a run of the loop takes seconds at least.
    """

    key: str
    title: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    tied: bool
    texts: int


CPU_SHAPES = (
    Shape("7m", "7M, vocabulary 8k", 256, 6, 4, 2, 768, 8192, True, 224),
    Shape("135m", "135M, vocabulary 49k", 576, 30, 9, 3, 1536, 49_152, True, 28),
    Shape("128k", "143M, vocabulary 128k, untied", 512, 4, 8, 4, 1408, 128_256, False, 28),
)
"""From small, through the shape of a common small model, to one that is nearly all vocabulary."""

CUDA_SHAPES = (
    Shape("1b", "1.2B, vocabulary 128k", 2048, 16, 32, 8, 8192, 128_256, True, 512),
    Shape("7b", "6.7B, vocabulary 32k, untied", 4096, 32, 32, 32, 11_008, 32_000, False, 512),
)
"""Measured only where torch sees a GPU."""

SHAPES = {shape.key: shape for shape in (*CPU_SHAPES, *CUDA_SHAPES)}
