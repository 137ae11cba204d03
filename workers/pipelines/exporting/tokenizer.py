"""A tokenizer as the keys of a GGUF file.

llama.cpp knows the ways of splitting a text before BPE by name, `tokenizer.ggml.pre`. The name is looked up in a table, by the
normalizer and pre-tokenizer in the tokenizer's own description. It is never guessed: a model whose texts are split in another way still
answers, only worse. The tokens added before and after a text are found by encoding one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf

from sdk.errors import InvalidBase, InvalidInput
from workers.pipelines.data.encoding import around
from workers.pipelines.data.tokenizer import all_stops, load_tokenizer
from workers.pipelines.exporting.gguf_file import UnreadableError, Value, WrittenGguf, flag, number, text

_KEYS = gguf.Keys.Tokenizer
_TYPES = gguf.TokenType


class Splitting(NamedTuple):
    """How a text is split into pieces, and a piece into tokens, as far as BPE tokenizers differ."""

    normalizer: str
    steps: tuple[str, ...]
    #: Whether a piece that is a token is taken whole, whatever the merges are.
    whole_pieces: bool


_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: Each was compared with llama.cpp on texts in many scripts. llama.cpp does not normalise: under qwen2, letters with separate
#: combining marks become other tokens there.
PRE_TOKENIZERS = {
    Splitting("", ("bytes of words",), whole_pieces=False): "gpt-2",
    Splitting("", ("digits", "bytes of words"), whole_pieces=False): "smollm",
    Splitting("", (f"split {_WORDS}\\p{{N}}{{1,3}}{_REST}", "bytes"), whole_pieces=True): "llama-bpe",
    Splitting("NFC", (f"split {_WORDS}\\p{{N}}{_REST}", "bytes"), whole_pieces=False): "qwen2",
}


def tokenizer_keys(folder: Path, vocabulary: int, given: Path | None) -> tuple[dict[str, Value], str]:
    """Return the keys of a model's tokenizer and the name of its pre-tokenizer; `given` is a GGUF file with the same tokenizer.

    Raises InvalidBase, InvalidInput, PipelineError.
    """
    tokenizer = load_tokenizer(folder)
    said = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    splitting = _splitting(said)
    known = None if splitting is None else PRE_TOKENIZERS.get(splitting)
    if given is not None:
        keys, pre = _copied(given, tokenizer, said, known, vocabulary)
    elif known is None:
        raise InvalidBase(
            "llama.cpp's name for the way that the tokenizer splits texts is not known; give a GGUF file of the base with "
            "--tokenizer-from FILE.gguf",
            param="tokenizer_from",
        )
    else:
        keys, pre = _described(tokenizer, said, known, vocabulary), known
    return keys | _ends(folder, tokenizer) | _template(tokenizer), pre


def _splitting(said: Mapping[str, Any]) -> Splitting | None:
    """Return how a tokenizer splits, by its description; None if it is not BPE, or has settings that the table does not know."""
    model = said.get("model") or {}
    plain = not any(model.get(key) for key in ("byte_fallback", "dropout", "fuse_unk", "continuing_subword_prefix"))
    if model.get("type") != "BPE" or not plain or model.get("end_of_word_suffix"):
        return None
    normalizer = said.get("normalizer") or {"type": ""}
    if normalizer.get("type") == "Sequence" and not normalizer.get("normalizers"):
        normalizer = {"type": ""}
    if set(normalizer) != {"type"}:
        return None
    pre = said.get("pre_tokenizer") or {}
    steps = [_step(part) for part in (pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre])]
    return Splitting(normalizer["type"], tuple(steps), model.get("ignore_merges") is True)


def _step(said: Mapping[str, Any]) -> str:
    """Return one step of splitting in words, or its whole description if the table doesn't have it."""
    kind = said.get("type")
    if kind == "ByteLevel" and said.get("add_prefix_space") is False:
        return "bytes of words" if said.get("use_regex", True) else "bytes"
    if kind == "Digits" and said.get("individual_digits") is True:
        return "digits"
    if kind == "Split" and said.get("behavior") == "Isolated" and said.get("invert") is False:
        return f"split {(said.get('pattern') or {}).get('Regex')}"
    return json.dumps(said, sort_keys=True)


def _described(tokenizer: Any, said: Mapping[str, Any], pre: str, vocabulary: int) -> dict[str, Value]:
    """Return the keys of a byte-level BPE."""
    added = {token["id"]: token for token in said.get("added_tokens", [])}
    for token in added.values():
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise InvalidBase(
                f"the token {token['content'][:80]!a} also takes the spaces around it, which llama.cpp does not support; save the "
                "tokenizer with lstrip, rstrip and single_word false",
                param="target",
            )
    tokens = _tokens(tokenizer, vocabulary)
    types = [
        int(_TYPES.UNUSED if token is None else _TYPES.NORMAL if number not in added else _added(added[number]))
        for number, token in enumerate(tokens)
    ]
    filled = [f"[PAD{number}]" if token is None else token for number, token in enumerate(tokens)]
    kinds = gguf.GGUFValueType
    return {
        _KEYS.MODEL: text("gpt2"),
        _KEYS.PRE: text(pre),
        _KEYS.LIST: Value(filled, kinds.ARRAY, kinds.STRING),
        _KEYS.TOKEN_TYPE: Value(types, kinds.ARRAY, kinds.INT32),
        _KEYS.MERGES: Value(_merges(said), kinds.ARRAY, kinds.STRING),
    }


def _added(token: Mapping[str, Any]) -> Any:
    return _TYPES.CONTROL if token.get("special") else _TYPES.USER_DEFINED


def _tokens(tokenizer: Any, vocabulary: int) -> list[str | None]:
    """Return the text of each token; None for a row of the model that no token uses."""
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    if max(by_id) >= vocabulary:
        raise InvalidBase(
            f"the tokenizer has a token {max(by_id)}, but the model has only {vocabulary}; give the model's own tokenizer",
            param="target",
        )
    return [by_id.get(number) for number in range(vocabulary)]


def _merges(said: Mapping[str, Any]) -> list[str]:
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in said["model"]["merges"]]
    if any(merge.count(" ") != 1 for merge in merges):
        raise InvalidBase("the tokenizer merges parts with spaces in them; export another model", param="target")
    return merges


def _copied(
    given: Path, tokenizer: Any, said: Mapping[str, Any], known: str | None, vocabulary: int
) -> tuple[dict[str, Value], str]:
    """Return the keys of a GGUF file with the same tokens as the tokenizer, without keys about where texts begin and end."""
    try:
        keys = WrittenGguf(given).keys("tokenizer.")
    except UnreadableError as error:
        raise InvalidInput(
            f"{given} can't be read as a GGUF file ({error}); give another file", param="tokenizer_from"
        ) from error
    kinds = gguf.GGUFValueType
    theirs = _listed(given, keys, _KEYS.LIST, kinds.STRING)
    types = _listed(given, keys, _KEYS.TOKEN_TYPE, kinds.INT32)
    ours = _tokens(tokenizer, vocabulary)
    # Added tokens are stored with plain spaces.
    if not len(theirs) == len(types) == vocabulary or any(
        mine is not None and (kind == _TYPES.UNUSED or mine not in (their, their.replace(" ", "▁")))
        for mine, their, kind in zip(ours, theirs, types, strict=True)
    ):
        raise _another(given, "has other tokens than the model's tokenizer")
    _require_kind(given, keys, said, vocabulary)
    pre = _text(given, keys, _KEYS.PRE) if _KEYS.PRE in keys else "default"
    if known is not None and pre != known:
        raise _another(given, f"splits texts as {pre!a}, but the model's as {known!a}")
    return {key: value for key, value in keys.items() if not _of_folder(key)}, pre


def _require_kind(given: Path, keys: Mapping[str, Value], said: Mapping[str, Any], vocabulary: int) -> None:
    """Raise InvalidInput unless a file merges parts of words like the tokenizer, and has everything that llama.cpp
    needs for this.
    """
    model, kind = said.get("model") or {}, _text(given, keys, _KEYS.MODEL)
    bytes_bpe = model.get("type") == "BPE" and not model.get("byte_fallback")
    if bytes_bpe != (kind == "gpt2") and (bytes_bpe or model.get("type") != "BPE"):
        ours = "byte-level BPE" if bytes_bpe else model.get("type")
        raise _another(given, f"is of the kind {kind[:40]!a}, but the model's is {ours}")
    kinds = gguf.GGUFValueType
    if kind == "gpt2" and list(_listed(given, keys, _KEYS.MERGES, kinds.STRING)) != _merges(said):
        raise _another(given, "has other merges than the model's tokenizer")
    if kind == "llama" and len(_listed(given, keys, _KEYS.SCORES, kinds.FLOAT32)) != vocabulary:
        raise _another(given, "does not have a score for each token")


def _of_folder(key: str) -> bool:
    """Whether a key is decided by the model's folder: the template, and the tokens around texts and after answers."""
    if key.startswith(_KEYS.CHAT_TEMPLATE) or key in (_KEYS.ADD_BOS, _KEYS.ADD_EOS, _KEYS.ADD_SEP):
        return True
    return key.endswith("_token_id") and key != _KEYS.UNK_ID


def _listed(given: Path, keys: Mapping[str, Value], key: str, of: Any) -> Sequence[Any]:
    found = keys.get(key)
    if found is None or found.of != of:
        raise _another(given, f"has no {key}, or another kind of it, so llama.cpp can't load it")
    values: Sequence[Any] = found.value
    return values


def _text(given: Path, keys: Mapping[str, Value], key: str) -> str:
    found = keys.get(key)
    if found is None or found.type != gguf.GGUFValueType.STRING:
        raise _another(given, f"has no {key}, or another kind of it, so llama.cpp can't load it")
    return str(found.value)


def _another(given: Path, what: str) -> InvalidInput:
    return InvalidInput(
        f"the tokenizer in {given} {what}; give a file of the same base, or leave --tokenizer-from out",
        param="tokenizer_from",
    )


def _ends(folder: Path, tokenizer: Any) -> dict[str, Value]:
    """Return the tokens that begin and end a text, and those that end an answer: where the folder's generation stops."""
    eos = int(tokenizer.eos_token_id)
    bos = eos if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
    before, after = around(tokenizer)
    if before not in ([], [tokenizer.bos_token_id]) or after not in ([], [eos]):
        raise InvalidBase(
            "the tokenizer adds other tokens around a text than its bos and eos; save it without them", param="target"
        )
    more = [token for token in all_stops(folder, tokenizer, []) if token != eos]
    if len(more) > 2:
        raise InvalidBase(
            f"generation stops at {len(more) + 1} tokens, but a GGUF file can name only three; keep three in generation_config.json",
            param="target",
        )
    named = {
        # This adds no token to a text; without the key llama.cpp would take some other token as bos.
        _KEYS.BOS_ID: number(bos),
        _KEYS.EOS_ID: number(eos),
        _KEYS.PAD_ID: number(tokenizer.pad_token_id),
        _KEYS.ADD_BOS: flag(before != []),
        _KEYS.ADD_EOS: flag(after != []),
    }
    return named | {key: number(token) for key, token in zip((_KEYS.EOT_ID, _KEYS.EOM_ID), more, strict=False)}


def _template(tokenizer: Any) -> dict[str, Value]:
    found = tokenizer.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    return {_KEYS.CHAT_TEMPLATE: text(found)} if found else {}
