"""What a model is and which files it needs, without its weights: the card.

A model lives on the Hugging Face Hub, in a cache of the Hub that somebody filled, or in a folder.
Imports neither torch nor transformers, and runs no code that comes with a model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
from huggingface_hub.hf_api import ModelInfo, RepoSibling
from safetensors import SafetensorError, safe_open

from klmap import caches, cards, hub, likelihoods, recognition, repository
from klmap.cards import Card
from klmap.errors import InputError, KlmapError, PermanentFailure
from klmap.files import read_json, sha256_of
from klmap.likelihoods import CAUSAL
from klmap.log import logger
from klmap.quantization import Packing, count_weights

_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
}
_ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


def resolve(
    id: str,
    revision: str | None = None,
    folder: Path | None = None,
    *,
    remote_code: bool = False,
    mirrors: Sequence[Path] = (),
    likelihood: str = CAUSAL,
) -> Card:
    """Find out what a model is.

    Args:
        id: the configured id.
        revision: the configured revision; the default branch without it.
        folder: a local Hugging Face folder that is this model; the Hub is asked without one.
        remote_code: whether the scorer may run the code of the repository, so that it is needed
            like the weights.
        mirrors: caches of the Hub that somebody else filled; asked besides one's own where
            HF_HUB_OFFLINE is set, and then instead of the Hub.
        likelihood: the kind of likelihood that is to be computed.

    Raises:
        PermanentFailure: there is no such model, or it cannot be scored; the message says why.
        KlmapError: the Hub could not be reached or is out of order; try again later.
    """
    card = Card(id=id, revision=revision)
    _fill(card, folder, remote_code, mirrors, likelihood)
    return card


def resolve_or_explain(
    id: str,
    revision: str | None = None,
    folder: Path | None = None,
    *,
    remote_code: bool = False,
    mirrors: Sequence[Path] = (),
    likelihood: str = CAUSAL,
) -> Card:
    """As ``resolve``, but a model that cannot be used gets a card whose ``error`` says why.

    Raises:
        KlmapError: the Hub could not be reached or is out of order; try again later.
    """
    card = Card(id=id, revision=revision)
    try:
        _fill(card, folder, remote_code, mirrors, likelihood)
    except PermanentFailure as failure:
        card.error, card.state = str(failure), failure.state
    return card


def _fill(
    card: Card,
    folder: Path | None,
    remote_code: bool,
    mirrors: Sequence[Path],
    likelihood: str,
) -> None:
    if folder is not None:
        _resolve_folder(card, folder, remote_code, likelihood)
    elif constants.HF_HUB_OFFLINE:
        _resolve_cached(card, remote_code, mirrors, likelihood)
    else:
        _resolve_hub(card, remote_code, likelihood)


def _needed(where: str, present: Iterable[str], remote_code: bool, likelihood: str) -> list[str]:
    """The files that scoring by a kind of likelihood needs."""
    return repository.needed_files(
        where,
        present,
        remote_code=remote_code,
        encoder_decoder=likelihoods.kind(likelihood).encoder_decoder,
    )


def _resolve_folder(card: Card, folder: Path, remote_code: bool, likelihood: str) -> None:
    """Fill a card from a local folder."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise PermanentFailure(
            f"{card.id}: the folder {folder} {found}; give the folder that holds config.json, or "
            "an id of the Hub (org/name)",
            hub.GONE,
        )
    present = [path.name for path in folder.iterdir() if path.is_file()]
    names = _needed(str(folder), present, remote_code, likelihood)
    config = _read_config(folder / "config.json", str(folder))
    repository.describe(card, config)
    packing = recognition.recognise(
        str(folder), config, card, remote_code=remote_code, likelihood=likelihood
    )
    hashes = {name: sha256_of(folder / name) for name in names}
    card.commit = repository.folder_commit(hashes)
    card.chat_template_sha256 = hashes.get(repository.CHAT_TEMPLATE)
    card.files = [
        {"name": name, "size": (folder / name).stat().st_size, "sha256": hashes[name]}
        for name in names
    ]
    _describe_files(card, folder, config, packing)


def _describe_files(
    card: Card, folder: Path, config: dict[str, Any], packing: Packing | None
) -> None:
    """Fill in what the named files of a folder and its README show."""
    card.tokenizer_sha256 = _tokenizer_hash(card)
    _count(card, [folder / name for name in repository.weight_files(card.names)], config, packing)
    matter = _front_matter(folder / "README.md")
    card.base_model = cards.front_matter_list(matter.get("base_model"))
    card.license = _text_or_none(matter.get("license"))
    card.relation = cards.relation_of(
        card.base_model,
        matter.get("base_model_relation"),
        cards.front_matter_list(matter.get("tags")),
        card.quantization,
    )


def _tokenizer_hash(card: Card) -> str:
    stored = {str(entry["name"]): cards.stored_hash(entry) for entry in card.files}
    return cards.digest((name, stored[name]) for name in repository.tokenizer_files(stored))


def _resolve_cached(
    card: Card, remote_code: bool, mirrors: Sequence[Path], likelihood: str
) -> None:
    """Fill a card from a snapshot in a cache; its commit is the one that was current then."""
    name = card.id if card.revision is None else f"{card.id}@{card.revision}"
    found = hub.ask(
        card.id, card.revision, lambda: caches.snapshot(card.id, card.revision, mirrors)
    )
    if found is None:
        raise KlmapError(
            f"{name}: HF_HUB_OFFLINE is set and no cache holds this model; download it with "
            f"`hf download {card.id}` where there is a network, or unset HF_HUB_OFFLINE"
        )
    card.commit = found.name
    present = [path.name for path in found.iterdir() if path.is_file()]
    try:
        names = _needed(str(found), present, remote_code, likelihood)
    except PermanentFailure as failure:
        # What is not in the cache may well be on the Hub, so this is no verdict on the model.
        raise KlmapError(
            f"{failure}; HF_HUB_OFFLINE is set and the cache holds only a part of {name}"
        ) from None
    config = _read_config(found / "config.json", str(found))
    repository.describe(card, config)
    packing = recognition.recognise(
        card.id, config, card, remote_code=remote_code, likelihood=likelihood
    )
    card.files = [caches.entry(found / name) for name in names]
    _describe_files(card, found, config, packing)


def _count(
    card: Card, weights: list[Path], config: dict[str, Any], packing: Packing | None
) -> None:
    """Parameters, bytes and dtype from the headers of safetensors, else from the file sizes."""
    tensors: dict[str, tuple[str, list[int]]] = {}
    for path in weights:
        card.bytes += path.stat().st_size
        if path.suffix == ".safetensors":
            tensors |= _header(path)
    if packing is not None:
        card.quantization = packing.label
    _set_counts(card, _by_dtype(tensors, packing), config)


def _by_dtype(
    tensors: Mapping[str, tuple[str, Sequence[int]]], packing: Packing | None
) -> dict[str, int]:
    """Number of weights by the dtypes of safetensors."""
    if packing is not None:
        return count_weights(tensors, packing)
    found: dict[str, int] = {}
    for dtype, shape in tensors.values():
        found[dtype] = found.get(dtype, 0) + math.prod(shape)
    return found


def _set_counts(card: Card, by_dtype: dict[str, int], config: dict[str, Any]) -> None:
    if by_dtype:
        card.parameters = sum(by_dtype.values())
        most = max(sorted(by_dtype), key=lambda dtype: by_dtype[dtype])
        card.dtype = _DTYPES.get(most, most.lower())
    else:
        card.dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        card.parameters = card.bytes // _ITEM_BYTES.get(card.dtype, 4)
    card.active_parameters = repository.active_parameters(config, card.parameters)


def _header(path: Path) -> dict[str, tuple[str, list[int]]]:
    """Dtype and shape of every tensor of a safetensors file."""
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
            return {key: (str(t.get_dtype()), t.get_shape()) for key, t in slices.items()}
    except SafetensorError as error:
        raise PermanentFailure(
            f"{path}: not a complete safetensors file ({error}); copy or download it again"
        ) from None


def _read_config(path: Path, where: str) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError as error:
        raise PermanentFailure(f"{where}: config.json cannot be read: {error}") from None


def _front_matter(path: Path) -> dict[str, Any]:
    """The YAML between the first two ``---`` lines of a model's README; empty if unusable."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return {}
    match = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    if match is None:
        return {}
    try:
        value = yaml.safe_load(match[1])
    except yaml.YAMLError:
        logger.warning("%s: front matter is not valid YAML; base_model and license unknown", path)
        return {}
    return value if isinstance(value, dict) else {}


def _text_or_none(value: Any) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value) if value else None


def _resolve_hub(card: Card, remote_code: bool, likelihood: str) -> None:
    """Fill a card from the Hub's answers; of the files only config.json is downloaded."""
    api = HfApi()
    info = hub.ask(
        card.id,
        card.revision,
        lambda: api.model_info(
            card.id, revision=card.revision, files_metadata=True, timeout=hub.TIMEOUT
        ),
    )
    if info.id != card.id:
        logger.warning("%s: the Hub calls this model %s now", card.id, info.id)
    if info.sha is None or info.siblings is None:
        raise KlmapError(f"{card.id}: the Hub's answer has no commit or file list; try again")
    if remote_code and info.sha != card.revision:
        raise PermanentFailure(
            f"{card.id}: the revision {card.revision!r} is no commit, and its code could change; "
            f"with remote_code: true write revision: {info.sha}",
            repository.NEEDS_CODE,
        )
    _describe_repository(card, info)
    present = {file.rfilename: file for file in info.siblings}
    names = _needed(card.id, present, remote_code, likelihood)
    card.files = [_entry(present[name]) for name in names]
    card.bytes = sum(int(present[name].size or 0) for name in repository.weight_files(names))
    card.tokenizer_sha256 = _tokenizer_hash(card)
    path = hub.ask(
        card.id,
        card.revision,
        lambda: hf_hub_download(card.id, "config.json", revision=card.commit),
    )
    config = _read_config(Path(path), card.id)
    repository.describe(card, config)
    packing = recognition.recognise(
        card.id, config, card, remote_code=remote_code, likelihood=likelihood
    )
    card.quantization = None if packing is None else packing.label
    counted = dict(info.safetensors.parameters) if info.safetensors else {}
    in_safetensors = any(name.endswith(".safetensors") for name in names)
    if in_safetensors and (packing is not None or not counted):
        # Of packed weights the Hub itself counts the words, not the weights.
        counted = _count_headers(api, card, packing)
    _set_counts(card, counted, config)
    stated = info.card_data.get("base_model_relation") if info.card_data is not None else None
    card.relation = cards.relation_of(card.base_model, stated, info.tags or (), card.quantization)


def _describe_repository(card: Card, info: ModelInfo) -> None:
    """Fill in what the Hub says of the repository, but nothing that changes by itself."""
    card.commit = str(info.sha)
    card.created_at = info.created_at.isoformat() if info.created_at else None
    card.gated, card.private = bool(info.gated), bool(info.private)
    if info.card_data is not None:
        card.base_model = cards.front_matter_list(info.card_data.base_model)
        card.license = _text_or_none(info.card_data.license)


def _entry(file: RepoSibling) -> dict[str, Any]:
    """Name, size and hash of a file: its SHA-256 where it is large, else what git calls it."""
    kind = {"sha256": file.lfs.sha256} if file.lfs is not None else {"git": str(file.blob_id)}
    return {"name": file.rfilename, "size": int(file.size or 0), **kind}


def _count_headers(api: HfApi, card: Card, packing: Packing | None) -> dict[str, int]:
    """Weights by dtype from the headers of the safetensors alone; empty where they are unusable."""
    try:
        found = hub.ask(
            card.id,
            card.revision,
            lambda: api.get_safetensors_metadata(
                card.id, revision=card.commit, timeout=hub.TIMEOUT
            ),
        )
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        logger.warning(
            "%s: parameters are estimated from the size (%s)", card.id, hub.first_line(error)
        )
        return {}
    tensors = {
        name: (str(tensor.dtype), tensor.shape)
        for file in found.files_metadata.values()
        for name, tensor in file.tensors.items()
    }
    return _by_dtype(tensors, packing)
