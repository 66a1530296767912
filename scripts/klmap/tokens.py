"""From texts to token sequences: what the tokenizer adds, what is scored, what is cut.

A repository's ``tokenizer.json`` is read by the Rust library itself, because releases of
transformers disagree about what they put on top of it: 4.x classes obeyed ``add_bos_token``, 5.x
follows the template of ``tokenizer.json`` for several of them and gives some a pre-tokenizer of
its own. What the published vectors were computed with is the 4.x meaning; here it is written
down once (``docs/scoring.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from klmap.errors import InputError, PermanentFailure, UnsupportedHere
from klmap.files import read_json
from klmap.log import logger
from klmap.tokens_engine import Engine, Parted, RustEngine, TransformersEngine

ADD_BOS_BY_DEFAULT = {
    "LlamaTokenizer": True,
    "CodeLlamaTokenizer": True,
    "GemmaTokenizer": True,
    "CohereTokenizer": True,
    "GPTNeoXTokenizer": False,
}
"""Classes that in transformers 4.x replace the template by ``add_bos_token``, ``add_eos_token``;
the value of ``add_bos_token`` where the file does not say."""

_TYPES_OF_CLASS = {
    "LlamaTokenizer": (
        "chameleon jamba jetmoe llama llava mistral mixtral mllama persimmon phi3 phimoe zamba"
    ),
    "CodeLlamaTokenizer": "code_llama",
    "GemmaTokenizer": "gemma gemma2 gemma3 gemma3_text paligemma recurrent_gemma",
    "CohereTokenizer": "cohere cohere2",
    "GPTNeoXTokenizer": ("falcon_mamba gpt_neox mamba mamba2 mpt olmo olmo2 olmoe rwkv stablelm"),
    "GPT2Tokenizer": "dbrx gpt2 gpt_bigcode gpt_neo gptj opt starcoder2",
    "CodeGenTokenizer": "codegen phi",
}

_CLASS_OF_TYPE = {kind: name for name, kinds in _TYPES_OF_CLASS.items() for kind in kinds.split()}
"""The class that transformers 4.x took for a model type whose files name none."""

OBEY_PREFIX_SPACE = ("GPT2Tokenizer", "GPTNeoXTokenizer", "CodeGenTokenizer")
"""Classes that in 4.x put their ``add_prefix_space``, false unless stated, into a byte-level
pre-tokenizer; for all others tokenizer.json counts."""

KEPT_SPACES = 0.1
"""Share of its spaces that a text set must keep through encoding and decoding (own)."""


@dataclass
class TextTokenizer:
    """A model's tokenizer with everything that decides about special tokens.

    Attributes:
        engine: the library behind it.
        before: ids that it puts in front of a text by itself (4.x meaning).
        after: ids that it appends by itself.
        bos_id: id of the beginning-of-sequence token; None without one.
        eos_id: id of the end-of-sequence token; None without one.
        mask_id: id of the mask token; None without one.
    """

    engine: Engine
    before: list[int]
    after: list[int]
    bos_id: int | None
    eos_id: int | None
    mask_id: int | None = None


def load_tokenizer(folder: Path, remote_code: bool = False) -> TextTokenizer:
    """Load the tokenizer of a Hugging Face folder.

    Args:
        folder: where its files are.
        remote_code: whether code in the folder may be run; it is where there is no
            ``tokenizer.json``.

    Raises:
        PermanentFailure: its files are broken, or need code of their own that may not be run.
        UnsupportedHere: a package that it needs is missing.
    """
    try:
        return _load(folder, remote_code)
    except (PermanentFailure, MemoryError):
        raise
    except OSError as error:
        # Code of a repository may look for a file that is not there; anything else is trouble
        # of the machine.
        lacking = remote_code and isinstance(error, FileNotFoundError)
        if error.errno is not None and not lacking:
            raise
        raise _broken(folder, error, remote_code) from error
    except InputError as error:
        raise PermanentFailure(str(error)) from None
    except ImportError as error:
        raise UnsupportedHere(str(_broken(folder, error, remote_code))) from error
    except Exception as error:
        raise _broken(folder, error, remote_code) from error


def _broken(folder: Path, error: Exception, remote_code: bool) -> PermanentFailure:
    text = " ".join(str(error).split())[:300]
    if not remote_code and "auto_map" in _optional_json(folder / "tokenizer_config.json"):
        return PermanentFailure(
            f"{folder}: the tokenizer is code of the repository, which is run only with "
            "remote_code: true and for a model_type that transformers does not know; put a "
            "tokenizer.json and the model's other files into a folder of your own (without the "
            f"code: {text})"
        )
    return PermanentFailure(f"{folder}: the tokenizer cannot be loaded: {text}")


def _load(folder: Path, remote_code: bool) -> TextTokenizer:
    settings = _optional_json(folder / "tokenizer_config.json")
    named = {**_optional_json(folder / "special_tokens_map.json"), **settings}
    config = _optional_json(folder / "config.json")
    name = _class_name(settings, config)
    engine: Engine
    if (folder / "tokenizer.json").is_file():
        space = bool(settings.get("add_prefix_space")) if name in OBEY_PREFIX_SPACE else None
        engine = RustEngine(folder, settings.get("added_tokens_decoder", {}), space)
    else:
        engine = TransformersEngine(folder, remote_code)
    bos = _special(engine, named, config, "bos")
    eos = _special(engine, named, config, "eos")
    before, after = _affixes(engine, name, settings, bos, eos)
    mask = _special(engine, named, config, "mask")
    return TextTokenizer(engine, before, after, bos, eos, mask)


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _class_name(settings: dict[str, Any], config: dict[str, Any]) -> str:
    """The tokenizer class that transformers 4.x would take, without ``Fast``; may be empty."""
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    name = name or _CLASS_OF_TYPE.get(str(config.get("model_type")), "")
    return str(name).removesuffix("Fast")


def _special(
    engine: Engine, named: dict[str, Any], config: dict[str, Any], which: str
) -> int | None:
    """Id of a special token: as the tokenizer's files name it, else as config.json numbers."""
    key = f"{which}_token"
    if key in named:
        token = named[key]
        token = token.get("content") if isinstance(token, dict) else token
        return engine.id_of(token) if isinstance(token, str) else None
    number = config.get(f"{which}_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return number if isinstance(number, int) else None


def _affixes(
    engine: Engine,
    name: str,
    settings: dict[str, Any],
    bos: int | None,
    eos: int | None,
) -> tuple[list[int], list[int]]:
    """What stands before and after a text by itself, in the meaning of transformers 4.x."""
    template = _template(engine)
    if name not in ADD_BOS_BY_DEFAULT:
        return template
    add_bos = settings.get("add_bos_token")
    add_bos = ADD_BOS_BY_DEFAULT[name] if add_bos is None else add_bos
    before = [bos] if add_bos and bos is not None else []
    after = [eos] if settings.get("add_eos_token") and eos is not None else []
    if (before, after) != template:
        logger.info(
            "tokenizer.json adds %s before and %s after a text, %s with add_bos_token=%s adds %s "
            "and %s; the latter counts, as in transformers 4.x",
            *template,
            name,
            add_bos,
            before,
            after,
        )
    return before, after


def _template(engine: Engine) -> tuple[list[int], list[int]]:
    """What the tokenizer itself puts around a short text."""
    probe = "a"
    inner = engine.encode([probe])[0]
    whole = engine.encode_with_specials(probe)
    for start in range(len(whole) - len(inner) + 1):
        if whole[start : start + len(inner)] == inner:
            return whole[:start], whole[start + len(inner) :]
    raise PermanentFailure(
        f"the tokenizer changes a text's own tokens when it adds special ones ({inner} -> {whole})"
    )


@dataclass
class Encoded:
    """A text set as token sequences, with what the prefix policy decided.

    Attributes:
        sequences: N lists of token ids as the model reads them. Empty where the text has no tokens,
            or none of a response is left.
        first: N positions, at least 1, of the first scored token of each sequence: every token but
            a sequence's first, or a response behind its prompt.
        n_tokens: N counts of the texts' own tokens, without those of a prompt.
        truncated: N flags, true where tokens were left out.
        crossing: N flags, true where the first scored token begins in the prompt.
        bos_id: id in front of every text, -1 where nothing is.
        prefix_source: ``tokenizer`` (what it adds by itself), ``bos``, ``eos`` (no BOS exists),
            ``none`` (neither exists: the first token of a text is not scored) or ``template`` (what
            the chat template has).
        boundary_rule: how the ends of prompts were found; empty for texts without.
        n_headless: texts whose own first token has nothing in front, and so is not scored.
        share_changed: share of the texts that decode(encode(text)) does not give back.
    """

    sequences: list[list[int]] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    n_tokens: list[int] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    crossing: list[bool] = field(default_factory=list)
    bos_id: int = -1
    prefix_source: str = "tokenizer"
    boundary_rule: str = ""
    n_headless: int = 0
    share_changed: float = 0.0


def encode(
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    *,
    prefix: str,
    overlength: str,
    limit: int | None,
    prompts: Sequence[str] | None = None,
    affixes: bool = True,
) -> Encoded:
    """Tokenise a text set under one prefix policy and one policy for texts that are too long.

    Strings of special tokens inside a text ("</s>") become what the tokenizer makes of them. A
    prompt and its response are tokenised together (klmap's own boundary, see
    :mod:`klmap.tokens_engine`); with an empty prompt all is as without.

    Args:
        tokenizer: the model's tokenizer.
        texts: N texts, or responses.
        prefix: ``default``, what the tokenizer adds by itself; ``bos``, exactly one token in
            front and nothing behind, never two where a text begins with it already.
        overlength: ``window`` (nothing is cut here), ``truncate`` (cut to the limit and flag) or
            ``fail``.
        limit: longest input in tokens; None without one.
        prompts: N prompts, with what stands between them and the responses.
        affixes: whether the tokenizer adds by itself what it does; false where prompts are the work
            of a chat template, which has it all.

    Raises:
        PermanentFailure: the tokenizer loses the spaces between words, or a text is too long
            and ``overlength`` is ``fail``.
    """
    heads = [""] * len(texts) if prompts is None else prompts
    if prompts is None:
        none = [0] * len(texts), [False] * len(texts)
        parted = Parted(tokenizer.engine.encode(texts), *none, rule="")
    else:
        parted = tokenizer.engine.encode_pairs(prompts, texts)
    before, after, source = _around(tokenizer, prefix, affixes)
    result = Encoded(bos_id=before[0] if before else -1, prefix_source=source)
    result.boundary_rule = parted.rule
    for number, (head, content) in enumerate(zip(heads, parted.sequences, strict=True)):
        has_bos = prefix == "bos" and bool(before) and content[:1] == before
        front = [] if has_bos else before
        size = len(front) + len(content) + len(after)
        over = limit is not None and size > limit
        if over and overlength == "fail":
            raise PermanentFailure(_too_long(number, size, limit, bool(head)))
        cut = limit is not None and over and overlength == "truncate"
        kept = content[: max(limit - len(front) - len(after), 0)] if cut and limit else content
        begin = parted.first[number]
        place, is_left = len(front) + begin, len(kept) > begin
        result.sequences.append([*front, *kept, *after] if is_left else [])
        result.first.append(max(place, 1) if head else 1)
        result.n_tokens.append(len(content) - begin - (has_bos and not begin))
        result.truncated.append(cut)
        result.crossing.append(is_left and place > 0 and parted.crossing[number])
        result.n_headless += is_left and not place and not has_bos
    whole = [head + text for head, text in zip(heads, texts, strict=True)]
    result.share_changed = _round_trip(tokenizer.engine, whole, parted.sequences)
    return result


def _too_long(number: int, size: int, limit: int | None, prompted: bool) -> str:
    what, cut = f"text {number} has {size} tokens", "cut the texts shorter with max_bytes:"
    if prompted:
        what, cut = f"{what} with its prompt", "give shorter prompts or responses"
    return f"{what}, the model takes {limit}; set overlength: to window or truncate, or {cut}"


def _around(
    tokenizer: TextTokenizer, prefix: str, affixes: bool
) -> tuple[list[int], list[int], str]:
    """Ids before and after every text, and where the first ones come from."""
    if prefix == "default" and not affixes:
        return [], [], "template"
    if prefix == "default":
        return tokenizer.before, tokenizer.after, "tokenizer"
    for source, token in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id)):
        if token is not None:
            return [token], [], source
    logger.warning(
        "the tokenizer has neither BOS nor EOS: the first token of every text is not scored"
    )
    return [], [], "none"


def _round_trip(engine: Engine, texts: Sequence[str], contents: Sequence[list[int]]) -> float:
    """Share of texts that decoding changes; lost spaces are a failure, other losses a warning."""
    decoded = engine.decode(contents)
    changed = [number for number, text in enumerate(texts) if decoded[number] != text]
    if not changed:
        return 0.0
    spaces = sum(text.strip().count(" ") for text in texts)
    kept = sum(text.strip().count(" ") for text in decoded)
    if kept < KEPT_SPACES * spaces:
        raise PermanentFailure(
            f"the tokenizer loses the spaces between words ({spaces:,} before, {kept:,} after "
            "encoding and decoding): its files do not fit together, so no number would mean much"
        )
    share = len(changed) / len(texts)
    logger.warning(
        "decoding gives %d of %d texts (%.1f %%) back changed, the first is text %d; a tokenizer "
        "that normalises does that",
        len(changed),
        len(texts),
        100 * share,
        changed[0],
    )
    return share


def check_ids(sequences: Sequence[Sequence[int]], rows: int) -> None:
    """Every id must have a row in the embedding, before anything is looked up there.

    Raises:
        PermanentFailure: an id is too large; the message names the first text with one.
    """
    for number, sequence in enumerate(sequences):
        if sequence and max(sequence) >= rows:
            raise PermanentFailure(
                f"text {number} has token id {max(sequence)}, the embedding has {rows} rows: the "
                "tokenizer belongs to another model, or tokens were added without resizing"
            )


@dataclass(frozen=True)
class Window:
    """A part of a token sequence that goes through the model at once.

    Attributes:
        start: position of its first token in the sequence.
        stop: position behind its last token.
        first: position of the first token scored here, at least ``start + 1``.
    """

    start: int
    stop: int
    first: int


def windows(length: int, limit: int | None) -> list[Window]:
    """Cut a sequence so that every token but the first is scored in exactly one window.

    The scored parts are disjoint. Each window but the last begins with the last token of the one
    before; the last one is as long as the limit allows, so that the end of a text is predicted
    with full context.

    Args:
        length: tokens of the sequence.
        limit: longest window in tokens; None without one.
    """
    if length < 2:
        return []
    if limit is None or length <= limit:
        return [Window(0, length, 1)]
    if limit < 2:
        raise PermanentFailure(f"a context of {limit} tokens leaves nothing to predict from")
    result = []
    first = 1
    while first < length:
        stop = min(first - 1 + limit, length)
        result.append(Window(stop - limit if stop == length else first - 1, stop, first))
        first = stop
    return result
