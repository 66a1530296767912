"""Models where they live: on the Hugging Face Hub, or in a folder of this machine.

``resolve`` makes a model's card, ``fetch`` puts the files it names into one folder. Neither
imports torch or transformers, and neither runs code that comes with a model: it is fetched where a
model opted in, and only the scorer may run it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.hf_api import RepoSibling
from safetensors import SafetensorError, safe_open

from klmap import cards
from klmap.cards import Card
from klmap.errors import InputError, KlmapError, PermanentFailure
from klmap.files import atomic, read_json, remove, sha256_of
from klmap.log import logger
from klmap.quantization import Packing, count_weights

FAILED = "FAILED"
"""File that stands in a weights folder instead of weights; holds the reason."""

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

_Result = TypeVar("_Result")


def resolve(
    id: str,
    revision: str | None = None,
    folder: Path | None = None,
    *,
    remote_code: bool = False,
) -> Card:
    """Find out what a model is.

    Args:
        id: the configured id.
        revision: the configured revision; the default branch without it.
        folder: a local Hugging Face folder that is this model; the Hub is asked without one.
        remote_code: whether the scorer may run the code of the repository, so that it is needed
            like the weights.

    Raises:
        PermanentFailure: there is no such model, or it cannot be scored; the message says why.
        KlmapError: the Hub could not be reached or is out of order; try again later.
    """
    card = Card(id=id, revision=revision)
    _fill(card, folder, remote_code)
    return card


def resolve_or_explain(
    id: str,
    revision: str | None = None,
    folder: Path | None = None,
    *,
    remote_code: bool = False,
) -> Card:
    """As ``resolve``, but a model that cannot be used gets a card whose ``error`` says why.

    Raises:
        KlmapError: the Hub could not be reached or is out of order; try again later.
    """
    card = Card(id=id, revision=revision)
    try:
        _fill(card, folder, remote_code)
    except PermanentFailure as failure:
        logger.warning("%s", failure)
        card.error = str(failure)
    return card


def _fill(card: Card, folder: Path | None, remote_code: bool) -> None:
    if folder is None:
        _resolve_hub(card, remote_code)
    else:
        _resolve_folder(card, folder, remote_code)


def _resolve_folder(card: Card, folder: Path, remote_code: bool) -> None:
    """Fill a card from a local folder."""
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise PermanentFailure(
            f"{card.id}: the folder {folder} {found}; give the folder that holds config.json, or "
            "an id of the Hub (org/name)"
        )
    present = [path.name for path in folder.iterdir() if path.is_file()]
    names = cards.needed_files(str(folder), present, remote_code=remote_code)
    config = _read_config(folder / "config.json", str(folder))
    cards.describe(card, config)
    packing = cards.recognise(str(folder), config, card, remote_code=remote_code)
    hashes = {name: sha256_of(folder / name) for name in names}
    card.commit = cards.digest(hashes.items())[:40]
    card.tokenizer_sha256 = cards.digest(
        (name, hashes[name]) for name in cards.tokenizer_files(names)
    )
    card.files = [{"name": name, "size": (folder / name).stat().st_size} for name in names]
    _count(card, [folder / name for name in cards.weight_files(names)], config, packing)
    matter = _front_matter(folder / "README.md")
    card.base_model = cards.front_matter_list(matter.get("base_model"))
    card.license = _text_or_none(matter.get("license"))


def _count(
    card: Card, weights: list[Path], config: dict[str, Any], packing: Packing | None
) -> None:
    """Parameters, bytes and dtype from the headers of safetensors, else from the file sizes."""
    tensors: dict[str, tuple[str, list[int]]] = {}
    for path in weights:
        card.bytes += path.stat().st_size
        if path.suffix == ".safetensors":
            tensors |= _header(path)
    by_dtype: dict[str, int] = {}
    if packing is not None:
        card.quantization = packing.label
        by_dtype = count_weights(tensors, packing)
    else:
        for dtype, shape in tensors.values():
            by_dtype[dtype] = by_dtype.get(dtype, 0) + math.prod(shape)
    _set_counts(card, by_dtype, config)


def _set_counts(card: Card, by_dtype: dict[str, int], config: dict[str, Any]) -> None:
    if by_dtype:
        card.parameters = sum(by_dtype.values())
        most = max(sorted(by_dtype), key=lambda dtype: by_dtype[dtype])
        card.dtype = _DTYPES.get(most, most.lower())
    else:
        card.dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
        card.parameters = card.bytes // _ITEM_BYTES.get(card.dtype, 4)


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


def _resolve_hub(card: Card, remote_code: bool) -> None:
    """Fill a card from the Hub's answers; of the files only config.json is downloaded."""
    api = HfApi()
    info = _ask(
        card.id,
        card.revision,
        lambda: api.model_info(card.id, revision=card.revision, files_metadata=True),
    )
    if info.id != card.id:
        logger.warning("%s: the Hub calls this model %s now", card.id, info.id)
    if info.sha is None or info.siblings is None:
        raise KlmapError(f"{card.id}: the Hub's answer has no commit or file list; try again")
    if remote_code and info.sha != card.revision:
        raise PermanentFailure(
            f"{card.id}: the revision {card.revision!r} is no commit, and its code could change; "
            f"with remote_code: true write revision: {info.sha}"
        )
    card.commit = info.sha
    card.created_at = info.created_at.isoformat() if info.created_at else None
    if info.card_data is not None:
        card.base_model = cards.front_matter_list(info.card_data.base_model)
        card.license = _text_or_none(info.card_data.license)
    present = {file.rfilename: file for file in info.siblings}
    names = cards.needed_files(card.id, present, remote_code=remote_code)
    card.files = [{"name": name, "size": int(present[name].size or 0)} for name in names]
    card.bytes = sum(int(present[name].size or 0) for name in cards.weight_files(names))
    card.tokenizer_sha256 = cards.digest(
        (name, _stored_hash(present[name])) for name in cards.tokenizer_files(names)
    )
    path = _ask(
        card.id,
        card.revision,
        lambda: hf_hub_download(card.id, "config.json", revision=card.commit),
    )
    config = _read_config(Path(path), card.id)
    cards.describe(card, config)
    _set_counts(card, dict(info.safetensors.parameters) if info.safetensors else {}, config)
    packing = cards.recognise(card.id, config, card, remote_code=remote_code)
    if packing is not None:
        card.quantization = packing.label
        if info.safetensors:
            _set_counts(card, _count_packed(api, card, packing), config)


def _count_packed(api: HfApi, card: Card, packing: Packing) -> dict[str, int]:
    """Weights by dtype from the headers alone; the Hub itself counts the packed words.

    Empty where the headers cannot be read.
    """
    try:
        found = _ask(
            card.id,
            card.revision,
            lambda: api.get_safetensors_metadata(card.id, revision=card.commit),
        )
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        logger.warning("%s: parameters are estimated from the size (%s)", card.id, _first(error))
        return {}
    tensors = {
        name: (str(tensor.dtype), tensor.shape)
        for file in found.files_metadata.values()
        for name, tensor in file.tensors.items()
    }
    return count_weights(tensors, packing)


def _stored_hash(file: RepoSibling) -> str:
    """What the Hub knows a file's content by: its SHA-256 where it is large, else its git hash."""
    return file.lfs.sha256 if file.lfs is not None else str(file.blob_id)


def _ask(id: str, revision: str | None, question: Callable[[], _Result]) -> _Result:
    """Put one question to the Hub and say in plain words what went wrong.

    Raises:
        PermanentFailure: no such model, revision or file, or no access to it.
        KlmapError: anything that may be different the next time.
    """
    name = id if revision is None else f"{id}@{revision}"
    try:
        return question()
    except GatedRepoError:
        raise PermanentFailure(
            f"{name}: gated; ask for access at {constants.ENDPOINT}/{id}, then log in with "
            "`hf auth login` (or set HF_TOKEN) on the machine that fetches"
        ) from None
    except DisabledRepoError:
        raise PermanentFailure(f"{name}: disabled by the Hub; remove it from config.yaml") from None
    except RevisionNotFoundError:
        raise PermanentFailure(
            f"{name}: the model exists but has no revision {revision!r}; its branches and tags "
            f"are listed at {constants.ENDPOINT}/{id}/tree/main"
        ) from None
    except RepositoryNotFoundError:
        raise PermanentFailure(f"{name}: {_not_found(id)}") from None
    except HFValidationError:
        raise PermanentFailure(f"{name}: not an id of the Hub (org/name); {_hint(id)}") from None
    except (OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        raise KlmapError(f"{name}: the Hub cannot be reached from here ({_first(error)})") from None
    except EntryNotFoundError as error:
        raise PermanentFailure(f"{name}: a file is missing on the Hub ({_first(error)})") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise PermanentFailure(
                f"{name}: the Hub refuses access (HTTP {status}); log in with `hf auth login` or "
                "set HF_TOKEN to a token that may read it"
            ) from None
        raise KlmapError(f"{name}: the Hub answered with an error ({_first(error)})") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise KlmapError(f"{name}: the Hub cannot be reached ({_first(error)})") from None
    except Exception as error:
        if not type(error).__module__.startswith(("httpx", "httpcore")):
            raise
        raise KlmapError(f"{name}: the Hub cannot be reached ({_first(error)})") from None


def _not_found(id: str) -> str:
    return "not on the Hub, or private and your token may not read it (`hf auth login`); " + _hint(
        id
    )


def _hint(id: str) -> str:
    """What the user may have meant: a folder of that name, or a typing error."""
    if Path(id).is_dir():
        return f"a folder of that name exists here: write ./{id} in config.yaml to use it"
    return "check the spelling; a local folder is written with ./ in front"


def _first(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def fetch(card: Card, target: Path, folder: Path | None = None) -> None:
    """Put the files that a card names into one folder.

    Args:
        card: the model; one with an ``error`` gives a folder with a file ``FAILED`` that says
            why, so that the workflow goes on to record the failure.
        target: the folder to make; it appears complete or not at all.
        folder: the local folder the card was made from; its files are linked, not copied.

    Raises:
        InputError: the local folder is not the one the card describes any more.
        PermanentFailure: the model is gone from the Hub, or access was withdrawn.
        KlmapError: the Hub could not be reached, or a file came incomplete; try again.
    """
    if card.error:
        with atomic(target) as temporary:
            temporary.mkdir()
            (temporary / FAILED).write_text(card.error + "\n", encoding="utf-8")
    elif folder is not None:
        _check_folder(card, folder)
        with atomic(target) as temporary:
            temporary.mkdir()
            for name in card.names:
                (temporary / name).symlink_to((folder / name).resolve())
    else:
        with atomic(target) as temporary:
            _ask(
                card.id,
                card.revision,
                lambda: snapshot_download(
                    card.id,
                    revision=card.commit,
                    allow_patterns=card.names,
                    local_dir=temporary,
                ),
            )
            remove(temporary / ".cache")
            _check_sizes(card, temporary)


def _check_folder(card: Card, folder: Path) -> None:
    """The content hash of a folder must still be the card's commit."""
    missing = [name for name in card.names if not (folder / name).is_file()]
    commit = ""
    if not missing:
        commit = cards.digest((name, sha256_of(folder / name)) for name in card.names)[:40]
    if commit != card.commit:
        found = f"{', '.join(missing)} missing" if missing else f"content {commit[:12]}"
        raise InputError(
            f"{folder}: changed since its card was made ({found}, the card says "
            f"{card.commit[:12]}); run `snakemake refresh`, then start again"
        )


def _check_sizes(card: Card, folder: Path) -> None:
    for entry in card.files:
        path = folder / entry["name"]
        found = path.stat().st_size if path.is_file() else None
        if found != entry["size"]:
            shown = "is missing" if found is None else f"has {found} bytes"
            raise KlmapError(
                f"{card.id}: {entry['name']} {shown} after the download, the Hub says "
                f"{entry['size']}; it is downloaded again on the next attempt"
            )


def failure_in(weights: Path) -> str | None:
    """The reason why a weights folder holds no weights; None where it does."""
    path = weights / FAILED
    return path.read_text(encoding="utf-8").strip() if path.is_file() else None
