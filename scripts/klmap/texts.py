"""The fixed set of texts on which every model is scored: cut, sampled, written and read.

The recipe is that of Oyama et al. 2025 (arXiv 2502.16173): documents are cut greedily into
chunks of bounded UTF-8 length, and a seeded ``random.sample`` draws from all chunks. Chunks are
spooled to the disk while they are counted, positions are drawn, and a second pass picks the
texts up, so memory does not grow with the corpus.

Texts can be responses to prompts (Takase et al. 2026, section 3); :mod:`klmap.pairs` knows how.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klmap import environment, pairs
from klmap.config_texts import DrawnTexts, EnvironmentTexts, HubTexts, RecordTexts, UrlTexts
from klmap.corpora import (
    Document,
    dataset_commit,
    file_documents,
    hub_documents,
    url_documents,
)
from klmap.errors import InputError
from klmap.files import atomic, read_json, write_json
from klmap.log import logger
from klmap.pairs import Form, Messages

POOL_FACTOR = 4
"""Chunks drawn per text kept: the published set draws 40,000 and keeps the first 10,000."""

EXCERPT = 120
"""Characters of a text that a table shows."""


@dataclass(frozen=True)
class Text:
    """One text of a set.

    Attributes:
        index: its position, 0 to N-1.
        text: the text itself; of a pair the response, which alone is scored.
        domain: what kind of text it is.
        n_bytes: its length in UTF-8 bytes.
        prompt: of a pair, the characters in front of the response; None where the model's own
            chat template makes them of the messages.
        messages: of a pair, the conversation before the response; None for a text without prompt.
        prompts: other wordings of the prompt, by name.
    """

    index: int
    text: str
    domain: str
    n_bytes: int
    prompt: str | None = None
    messages: Messages | None = None
    prompts: dict[str, str] = field(default_factory=dict)

    @property
    def is_paired(self) -> bool:
        """Whether it is a response to a prompt."""
        return self.messages is not None


def excerpt(text: str, most: int = EXCERPT) -> str:
    """The beginning of a text on one line; what cannot be seen is escaped as in Python."""
    shown = text[:most]
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return line + ("…" if len(text) > most else "")


def build(recipe: DrawnTexts, texts: Path, manifest: Path) -> None:
    """Make a text set: ``texts`` first, then the manifest that vouches for it.

    Args:
        recipe: which texts, from config.yaml.
        texts: the .jsonl file to write, one object per text.
        manifest: the .json file to write.

    Raises:
        InputError: the source is broken, or has fewer texts than asked for, or fewer than two.
        KlmapError: the network failed; another time may do better.
    """
    for rest in texts.parent.glob(f".{texts.name}.*.tmp*"):
        rest.unlink()  # of an attempt that was killed; it can be as large as the corpus
    commit = dataset_commit(recipe) if isinstance(recipe, HubTexts) else None
    source = recipe.model_copy(update={"revision": commit}) if commit else recipe
    with atomic(texts) as output:
        spool = output.with_name(f"{output.name}.spool")
        download = output.with_name(f"{output.name}.download")
        try:
            spooled = _spool(_pieces(source, download), spool, isinstance(recipe, EnvironmentTexts))
            positions = _draw(recipe, spooled)
            written = _write(spool, positions, output, _form(recipe))
        finally:
            spool.unlink(missing_ok=True)
            download.unlink(missing_ok=True)
        with output.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    content: dict[str, Any] = {
        "n": len(positions),
        "sha256": digest,
        "mean_bytes": written.bytes / len(positions),
        "recipe": recipe.recipe(),
        "domains": dict(sorted(written.domains.items())),
        "candidates": spooled.total,
        **written.prompts,
    }
    if commit:
        content["commit"] = commit
    if isinstance(recipe, EnvironmentTexts):
        content["versions"] = environment.versions()
    write_json(manifest, content)
    domains = len(written.domains)
    logger.info("%d texts of %d candidates, %d domains", len(positions), spooled.total, domains)


def chunks(text: str, max_bytes: int, min_bytes: int) -> Iterator[str]:
    """Cut a document greedily into chunks, never inside a code point (Oyama et al. 2025).

    Args:
        text: the document.
        max_bytes: upper end of a chunk, in UTF-8 bytes.
        min_bytes: a chunk must have strictly more bytes than this to be kept; only a
            document's last chunk, or one before a wide character, can be that short.

    Yields:
        Chunks in order.
    """
    data = text.encode()
    start = 0
    while start < len(data):
        end = min(start + max_bytes, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        if end - start > min_bytes:
            yield data[start:end].decode()
        start = end


def sample_positions(count: int, n: int, pool: int | None, seed: int) -> list[int]:
    """The positions of ``random.seed(seed); random.sample(chunks, pool)[:n]``, without the chunks.

    Args:
        count: how many chunks there are.
        n: how many to keep.
        pool: how many to draw; None draws four times n. Never more than there are.
        seed: seed of Python's generator.

    Returns:
        n positions in the order drawn.
    """
    drawn = min(POOL_FACTOR * n if pool is None else pool, count)
    return random.Random(seed).sample(range(count), drawn)[:n]


def balanced_positions(groups: Sequence[Sequence[int]], n: int, seed: int) -> list[int]:
    """Draw n positions spread evenly over groups; what a small group lacks, the others give.

    Args:
        groups: the positions of each domain.
        n: how many to draw; at most as many as there are.
        seed: seed of Python's generator.

    Returns:
        n positions in rising order, so texts of one domain stand together.
    """
    left = n
    generator = random.Random(seed)
    drawn: list[int] = []
    ordered = sorted(range(len(groups)), key=lambda number: (len(groups[number]), number))
    for done, number in enumerate(ordered):
        share = -(-left // (len(ordered) - done))
        taken = generator.sample(groups[number], min(share, len(groups[number])))
        drawn += taken
        left -= len(taken)
    return sorted(drawn)


def read_texts(jsonl: Path, manifest: Path | None = None) -> list[Text]:
    """Read and check a text set.

    Args:
        jsonl: the texts.
        manifest: the texts.json beside them; its hash must be that of the texts.

    Raises:
        InputError: a file is missing or broken, or the texts are not those of the manifest; the
            message names the file and the line.
    """
    try:
        data = jsonl.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{jsonl}: no such file") from None
    content = {} if manifest is None else read_json(manifest)
    if manifest is not None:
        expected = content.get("sha256")
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise InputError(
                f"{jsonl}: its sha256 is {found}, {manifest} says {expected}; the texts were "
                "changed after they were made: remove both files and run again"
            )
    lines = data.splitlines(keepends=False)
    texts = [_parse(line, f"{jsonl}:{number + 1}", number) for number, line in enumerate(lines)]
    if len(texts) < 2:
        raise InputError(f"{jsonl}: {len(texts)} texts; a map needs at least 2")
    _check_prompts(texts, Form.of(content), jsonl)
    return texts


def _parse(line: bytes, place: str, index: int) -> Text:
    try:
        record = json.loads(line)
        text = Text(
            index=record["index"],
            text=record["text"],
            domain=record["domain"],
            n_bytes=record["n_bytes"],
            **pairs.read(record, place),
        )
        size = len(text.text.encode())
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{place}: not a text of klmap ({error})") from None
    except KeyError as error:
        raise InputError(
            f"{place}: no field {error}; expected index, text, domain, n_bytes"
        ) from None
    if not isinstance(text.domain, str):
        raise InputError(f"{place}: domain is {text.domain!r}, expected a name")
    if text.index != index:
        raise InputError(f"{place}: index is {text.index!r}, expected {index}")
    if text.n_bytes != size:
        raise InputError(f"{place}: n_bytes is {text.n_bytes!r}, the text has {size} bytes")
    return text


def _check_prompts(texts: Sequence[Text], form: Form | None, jsonl: Path) -> None:
    """Texts with prompts and without are not mixed, and prompts are those of the messages."""
    for text in texts:
        place = f"{jsonl}:{text.index + 1}"
        if text.is_paired != (texts[0].is_paired or form is not None):
            found = "a prompt" if text.is_paired else "no prompt"
            raise InputError(f"{place}: has {found}, unlike the others; make the texts anew")
        if form is not None and text.messages is not None:
            expected = form.prompt(text.messages)
            if text.prompt != expected:
                raise InputError(
                    f"{place}: the prompt is {text.prompt!r}, but its messages give {expected!r}; "
                    "make the texts anew"
                )


@dataclass
class _Spooled:
    """How many pieces were spooled, and where those of each domain are if that matters."""

    total: int
    positions: dict[str, list[int]]


def _documents(recipe: DrawnTexts, download: Path) -> Iterator[Document]:
    """The one place that knows which source a recipe means."""
    if isinstance(recipe, EnvironmentTexts):
        return environment.documents("score")
    if isinstance(recipe, UrlTexts):
        return url_documents(recipe, download)
    return hub_documents(recipe) if isinstance(recipe, HubTexts) else file_documents(recipe)


def _pieces(recipe: DrawnTexts, download: Path) -> Iterator[Document]:
    """What the sample is drawn from: chunks, whole records, or responses to prompts.

    A file of the web waits at ``download`` while it is read.
    """
    short = 0
    for piece in _uncut(recipe, download):
        if recipe.prompt_bytes is None:
            yield piece
            continue
        parts = pairs.cut(piece.text, recipe.prompt_bytes)
        if parts is None:
            short += 1
            continue
        prompt, response = parts
        messages = ({"role": pairs.USER, "content": prompt},)
        yield Document(response, piece.domain, piece.origin, messages)
    if short:
        logger.info(
            "%d texts have nothing behind a prompt of %d bytes and are left out",
            *(short, recipe.prompt_bytes),
        )


def _uncut(recipe: DrawnTexts, download: Path) -> Iterator[Document]:
    whole = _takes_records(recipe)
    for document in _documents(recipe, download):
        if whole:
            yield document
            continue
        for text in chunks(document.text, recipe.max_bytes, recipe.min_bytes):
            yield Document(text, document.domain, document.origin)


def _takes_records(recipe: DrawnTexts) -> bool:
    """Whether records are taken as they are."""
    if isinstance(recipe, EnvironmentTexts):
        return False
    return recipe.fields is not None or (isinstance(recipe, RecordTexts) and not recipe.chunk)


def _form(recipe: DrawnTexts) -> Form | None:
    """How prompts look; None for texts without."""
    return Form(recipe.template or "none", recipe.joint) if recipe.is_paired else None


def _spool(pieces: Iterable[Document], spool: Path, by_domain: bool) -> _Spooled:
    """Pass one: write every candidate to the disk, one JSON line each, and count."""
    spooled = _Spooled(0, defaultdict(list))
    with spool.open("w", encoding="utf-8") as file:
        for piece in pieces:
            fields = (piece.text, piece.domain, piece.origin)
            file.write(json.dumps([*fields, piece.messages, dict(piece.prompts)]) + "\n")
            if by_domain:
                spooled.positions[piece.domain].append(spooled.total)
            spooled.total += 1
    return spooled


def _draw(recipe: DrawnTexts, spooled: _Spooled) -> list[int]:
    """The positions of the texts, in the order in which they shall stand."""
    count = spooled.total
    n = count if recipe.n is None else recipe.n
    kind = "responses" if recipe.is_paired else "texts"
    bounds = "min_bytes" if recipe.prompt_bytes is None else "min_bytes or prompt_bytes"
    if count < 2:
        raise InputError(
            f"source {recipe.source}: {count} {kind} of more than {recipe.min_bytes} bytes; a map "
            f"needs at least 2: give more text or lower {bounds}"
        )
    if n > count:
        raise InputError(
            f"source {recipe.source}: n is {n}, but there are only {count} {kind} of more than "
            f"{recipe.min_bytes} bytes; lower n, or give more text"
        )
    if recipe.n is None:
        return list(range(count))
    if isinstance(recipe, EnvironmentTexts):
        return balanced_positions(list(spooled.positions.values()), n, recipe.seed)
    pool = recipe.pool if isinstance(recipe, HubTexts) else None
    positions = sample_positions(count, n, pool, recipe.seed)
    in_order = isinstance(recipe, RecordTexts) and _takes_records(recipe)
    return sorted(positions) if in_order else positions


@dataclass
class _Written:
    """What was written: texts of each domain, bytes in all, what is said of prompts."""

    domains: Counter[str]
    bytes: int
    prompts: dict[str, Any]


def _write(spool: Path, positions: Sequence[int], output: Path, form: Form | None) -> _Written:
    """Pass two: pick the drawn texts up."""
    rank = {position: index for index, position in enumerate(positions)}
    picked: list[list[Any]] = [[] for _ in positions]
    with spool.open(encoding="utf-8") as file:
        for position, line in enumerate(file):
            if position in rank:
                picked[rank[position]] = json.loads(line)
    counts: Counter[str] = Counter()
    total = 0
    with output.open("w", encoding="utf-8", newline="\n") as file:
        for index, (text, domain, origin, messages, prompts) in enumerate(picked):
            size = len(text.encode())
            record = {
                "index": index,
                "text": text,
                "domain": domain,
                "n_bytes": size,
                "origin": origin,
            }
            if form is not None:
                record |= form.written(messages, prompts)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            counts[domain] += 1
            total += size
    about = {} if form is None else form.manifest(messages for *_, messages, _ in picked)
    return _Written(counts, total, about)
