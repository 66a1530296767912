"""Score files, ``klmap-score``: one model's log-likelihoods on one text set.

``docs/formats.md`` describes every dataset and attribute for readers with code of their own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from klmap.arrays import Bools, Floats, Floats32, Ints
from klmap.errors import InputError
from klmap.store_file import created, opened, plain, reading, whole, writing

SCORE_FORMAT = "klmap-score"

LOGLIK, PMI = "loglik", "pmi"
"""What a map can be of: log-likelihoods, or what responses gain by their prompts."""

VECTORS = (LOGLIK, PMI)

_IDENTITY = ("model", "commit", "texts_sha256", "fingerprint", "status", "error")
_OTHER = ("format", "format_version", "spec")


@dataclass
class Score:
    """One model's log-likelihoods on one text set, or the reason why there are none.

    Attributes:
        model: the model's name on the map (its slug).
        commit: the commit, or content hash, of the scored weights.
        texts_sha256: hash of the text set, from its manifest.
        fingerprint: 12 hexadecimal digits that name the computation.
        spec: the settings that the fingerprint hashes.
        status: ``ok`` or ``failed``.
        error: why it failed, empty for ``ok``.
        loglik: (N,) float64, nats per text; empty when failed.
        n_tokens: (N,) int32, tokens of the text without a beginning-of-sequence token.
        n_scored: (N,) int32, tokens whose log-probability was summed.
        truncated: (N,) bool, true where tokens were left out because of the context length.
        token_logprob: (T,) float32, nats per scored token in text order, if they were kept.
        token_offset: (N+1,) int64, where each text's tokens begin in ``token_logprob``.
        layers: (Y,) int32, hidden states that were read through the model's own head (logit lens),
            each as the number of blocks behind it; empty without any.
        layer_loglik: (Y, N) float64, nats per text by each of them.
        weights_sketch: (S,) float64, a random projection of the weights, whose squared distances
            estimate those of the weights; None where there is none.
        boundary_loglik: (N,) float64, nats of the tokens that begin in a prompt and end in its
            response, which count as the response's; 0 where there is none. None for texts without
            prompts.
        unconditional: (N,) float64, nats per response without its prompt; None where nobody asked.
        chat_template: the template that made the prompts; None where they are plain text.
        attributes: dtype, quantization, prefix, overlength, noise_nats, device, software,
            seconds, tokens_per_second and whatever else the scorer records.
    """

    model: str
    commit: str
    texts_sha256: str
    fingerprint: str
    spec: dict[str, Any]
    status: str = "ok"
    error: str = ""
    loglik: Floats = field(default_factory=lambda: np.zeros(0))
    n_tokens: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    n_scored: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    truncated: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    token_logprob: Floats32 | None = None
    token_offset: npt.NDArray[np.int64] | None = None
    layers: Ints = field(default_factory=lambda: np.zeros(0, np.int32))
    layer_loglik: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    weights_sketch: Floats | None = None
    boundary_loglik: Floats | None = None
    unconditional: Floats | None = None
    chat_template: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def write_score(path: Path, score: Score) -> None:
    """Write one score file atomically.

    Raises:
        OSError: the disk is full or not writable; nothing is left behind.
    """
    with created(path, SCORE_FORMAT) as file, writing(path):
        file.create_dataset("loglik", data=np.asarray(score.loglik, np.float64))
        file.create_dataset("n_tokens", data=np.asarray(score.n_tokens, np.int32))
        file.create_dataset("n_scored", data=np.asarray(score.n_scored, np.int32))
        file.create_dataset("truncated", data=np.asarray(score.truncated, np.bool_))
        if score.token_logprob is not None and score.token_offset is not None:
            file.create_dataset("tokens/logprob", data=score.token_logprob.astype(np.float32))
            file.create_dataset("tokens/offset", data=score.token_offset.astype(np.int64))
        if len(score.layers):
            file.create_dataset("layers/number", data=np.asarray(score.layers, np.int32))
            file.create_dataset("layers/loglik", data=np.asarray(score.layer_loglik, np.float64))
        if score.weights_sketch is not None:
            sketch = np.asarray(score.weights_sketch, np.float64)
            file.create_dataset("weights_sketch", data=sketch)
        if score.boundary_loglik is not None:
            boundary = np.asarray(score.boundary_loglik, np.float64)
            file.create_dataset("boundary/loglik", data=boundary)
        if score.unconditional is not None:
            alone = np.asarray(score.unconditional, np.float64)
            file.create_dataset("unconditional", data=alone)
        if score.chat_template is not None:
            file.create_dataset("chat_template", data=score.chat_template)
        attributes = {
            "model": score.model,
            "commit": score.commit,
            "texts_sha256": score.texts_sha256,
            "fingerprint": score.fingerprint,
            "spec": json.dumps(score.spec, sort_keys=True),
            "status": score.status,
            "error": score.error,
            **score.attributes,
        }
        for key, value in attributes.items():
            file.attrs[key] = json.dumps(value, sort_keys=True) if _nested(value) else value


def read_score(
    path: Path,
    only: Sequence[str] | None = None,
    layer: int | None = None,
    vector: str = LOGLIK,
) -> Score:
    """Read and check one score file.

    Args:
        path: the file.
        only: names of the attributes that are wanted beside those of :class:`Score`. With it,
            ``spec``, log-probabilities of tokens, layers, sketch and what is known of prompts are
            left out too, which takes half the time.
        layer: give the log-likelihoods of this hidden state as ``loglik``, instead of the model's.
        vector: ``loglik``; or ``pmi``, which gives as ``loglik`` what responses gain by their
            prompts (pointwise mutual information, Takase et al. 2026): conditional minus
            unconditional log-likelihood.

    Raises:
        InputError: the file is missing, truncated, of another format, or inconsistent, or has no
            such layer, or no unconditional log-likelihoods.
    """
    with opened(path, SCORE_FORMAT) as file, reading(path):
        stored = file.attrs
        named = {key: plain(stored[key]) for key in _IDENTITY}
        if only is None:
            known = {key: plain(value) for key, value in stored.items()}
            spec = json.loads(known["spec"])
            attributes = {k: v for k, v in known.items() if k not in (*_IDENTITY, *_OTHER)}
            parts = set(file)
        else:
            spec, parts = {}, set()
            attributes = {key: plain(stored[key]) for key in only if key in stored}
        score = Score(
            **named,
            spec=spec,
            loglik=whole(file, "loglik"),
            n_tokens=whole(file, "n_tokens"),
            n_scored=whole(file, "n_scored"),
            truncated=whole(file, "truncated").astype(np.bool_),
            token_logprob=whole(file, "tokens/logprob") if "tokens" in parts else None,
            token_offset=whole(file, "tokens/offset") if "tokens" in parts else None,
            weights_sketch=whole(file, "weights_sketch") if "weights_sketch" in parts else None,
            boundary_loglik=whole(file, "boundary/loglik") if "boundary" in parts else None,
            unconditional=whole(file, "unconditional") if "unconditional" in parts else None,
            chat_template=_string(file, "chat_template") if "chat_template" in parts else None,
            attributes=attributes,
        )
        if "layers" in parts:
            score.layers, score.layer_loglik = (
                whole(file, f"layers/{name}") for name in ("number", "loglik")
            )
        if layer is not None and score.status == "ok":
            score.loglik = _of_layer(path, file, layer, len(score.loglik))
        if vector == PMI and score.status == "ok":
            score.loglik = score.loglik - _unconditional(path, file, len(score.loglik))
    _check_score(path, score)
    return score


def _string(file: Any, name: str) -> str:
    return str(file[name].asstr()[()])


def _unconditional(path: Path, file: Any, texts: int) -> Floats:
    """(texts,) log-likelihoods of responses without their prompts."""
    if "unconditional" not in file:
        raise InputError(
            f"{path}: holds no log-likelihoods of responses without their prompts, which pmi: "
            "needs; remove it and run again, or leave the model out of this text set where others "
            "have scored it"
        )
    found = whole(file, "unconditional")
    _check_length(path, "unconditional", found, texts)
    return found


def _of_layer(path: Path, file: Any, layer: int, texts: int) -> Floats:
    """(texts,) log-likelihoods by one hidden state."""
    numbers = whole(file, "layers/number") if "layers" in file else np.zeros(0, np.int32)
    (rows,) = np.nonzero(numbers == layer)
    if not len(rows):
        raise InputError(f"{path}: holds no layer {layer}; remove it and run again")
    values = file["layers/loglik"]
    _check_layers(path, values.shape, (len(numbers), texts))
    return np.asarray(values[int(rows[0])])


def read_layers(path: Path) -> list[int]:
    """The hidden states that a score file has log-likelihoods of; none for most models.

    Raises:
        InputError: the file is missing, truncated or of another format.
    """
    with opened(path, SCORE_FORMAT) as file, reading(path):
        return [int(n) for n in whole(file, "layers/number")] if "layers" in file else []


def read_sketch(path: Path) -> Floats | None:
    """(S,) the random projection of the weights behind a score; None where there is none.

    Raises:
        InputError: the file is missing, truncated or of another format.
    """
    with opened(path, SCORE_FORMAT) as file, reading(path):
        return whole(file, "weights_sketch") if "weights_sketch" in file else None


def read_status(path: Path) -> str:
    """The status of one score file, ``ok`` or ``failed``, without reading the rest.

    Raises:
        InputError: the file is missing, truncated or of another format.
    """
    with opened(path, SCORE_FORMAT) as file, reading(path):
        return str(plain(file.attrs["status"]))


def read_summary(path: Path) -> tuple[dict[str, Any], int]:
    """Attributes of one score file and its number of scored tokens, several times faster.

    Raises:
        InputError: the file is missing, truncated or of another format.
    """
    with opened(path, SCORE_FORMAT) as file, reading(path):
        known = {key: plain(value) for key, value in file.attrs.items()}
        return known | {"spec": json.loads(known["spec"])}, int(whole(file, "n_scored").sum())


def _check_score(path: Path, score: Score) -> None:
    if score.status not in ("ok", "failed"):
        raise InputError(f"{path}: status is {score.status!r}, expected 'ok' or 'failed'")
    arrays = (score.loglik, score.n_tokens, score.n_scored, score.truncated)
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1 or len(shapes[0]) != 1:
        raise InputError(f"{path}: datasets of different lengths {shapes}; remove it")
    if len(score.layers) or score.layer_loglik.size:
        expected = (len(score.layers), len(score.loglik))
        _check_layers(path, score.layer_loglik.shape, expected)
    for name, values in (
        ("unconditional", score.unconditional),
        ("boundary/loglik", score.boundary_loglik),
    ):
        if values is not None:
            _check_length(path, name, values, len(score.loglik))
    if score.status == "ok" and not np.isfinite(score.loglik).all():
        count = int((~np.isfinite(score.loglik)).sum())
        raise InputError(f"{path}: {count} log-likelihoods are not finite; remove it and rescore")


def _check_length(path: Path, name: str, values: Floats, texts: int) -> None:
    if values.shape != (texts,):
        raise InputError(
            f"{path}: {name} has the shape {values.shape} for {texts} texts; remove it and run "
            "again"
        )


def _check_layers(path: Path, shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    if shape != expected:
        raise InputError(
            f"{path}: layers/loglik has the shape {shape} for {expected[0]} layers and "
            f"{expected[1]} texts; remove it and run again"
        )


def _nested(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) or value is None
