"""What a base's small files may refer to: nothing outside its folder.

A library that loads a base uses these files as arguments. transformers opens a string under `vocab` in a
`tokenizer_config.json` as a file, wherever that is; passes each key of a `special_tokens_map.json` as an argument as
well; calls `from_pretrained` of any class that is named; fetches code for an attention called `org/kernel`; and loads
other weights or another config if a file is named. So an author could make a worker read files outside the base.

Which keys are opened differs by class and by release. For tokenizers the rule therefore lists where a string is
allowed, not where it is forbidden: any string under the keys of tokens and templates, which are never opened; none
under those of files and vocabularies; elsewhere only one without a separator, which leads nowhere from an empty folder.
A `config.json` becomes attributes that are read one by one, so there the rule lists the keys that lead somewhere. Paths
are refused rather than dropped: the fingerprint covers the files, and other programs load them as they are.

>>> check_references("tokenizer_config.json", b'{"eos_token": "</s>", "name_or_path": "/home/me/model", "vocab": null}')
>>> check_references("tokenizer_config.json", b'{"vocab": "/etc/passwd"}')
Traceback (most recent call last):
sdk.formats.base_files.BadBaseError: tokenizer_config.json names a file under 'vocab'; a base can use only its own files, so remove it
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from sdk.formats.base_files import CONFIG_FILE, MAX_CONFIG_BYTES, BadBaseError

TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
#: The files from which a library takes arguments, and their maximum size: each added token has a few lines.
REFERRING_FILES = {
    CONFIG_FILE: MAX_CONFIG_BYTES,
    SPECIAL_TOKENS_FILE: 16 * 1024 * 1024,
    TOKENIZER_CONFIG_FILE: 16 * 1024 * 1024,
}

#: The most values in a file, which may take 250 bytes of memory each.
_MOST_VALUES = 1 << 19
_TOKEN_KEY = re.compile(r".*_tokens?(_decoder)?", re.DOTALL)
#: Other keys that may have any text. Many files saved by older releases give the tokenizer's path and its map of
#: tokens; the first is replaced by the folder that is loaded, and the second is kept and never opened.
_TEXT_KEYS = (
    "auto_map",
    "chat_template",
    "name_or_path",
    "response_schema",
    "response_template",
    "special_tokens_map_file",
)
#: A string under these is a file's name; an object or a list is the vocabulary itself.
_VOCABULARY_KEYS = ("merges", "vocab")
_FILE_KEY = re.compile(r".*_files?|init_inputs", re.DOTALL)
#: Other names are looked up among everything that the library has.
_TOKENIZER_CLASS = re.compile(r"\w{0,100}(Tokenizer|TokenizerFast|Backend)", re.ASCII)
_CODE_KEYS = tuple(
    f"{prefix}{kind}_implementation{suffix}"
    for kind in ("attn", "experts")
    for prefix in ("", "_")
    for suffix in ("", "_internal")
)
_OTHER_FILE_KEYS = ("configuration_files", "gguf_file", "transformers_weights")


def check_references(name: str, raw: bytes) -> None:
    """Raise BadBaseError if one of a base's small files, as a library reads it, leads out of the base's folder."""
    if len(raw) > REFERRING_FILES[name]:
        raise BadBaseError(f"{name} is longer than {REFERRING_FILES[name] // 1024} KiB")
    # Commas and brackets in texts are counted too: no tokenizer's file has as many.
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > _MOST_VALUES:
        raise BadBaseError(f"{name} has more than {_MOST_VALUES:,} values")
    try:
        # If a key occurs twice, the last one counts, as in the library.
        found = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadBaseError(f"{name} is not JSON") from error
    if not isinstance(found, dict):
        raise BadBaseError(f"{name} is not an object")
    _CHECKS[name](found)


def _check_config(config: dict[str, Any]) -> None:
    #: Values, each with the key that names code and holds it, however deep: each is looked at once.
    left: list[tuple[str | None, Any]] = [(None, config)]
    while left:
        code, value = left.pop()
        if isinstance(value, dict):
            for key, held in value.items():
                if key in _OTHER_FILE_KEYS and held:
                    raise _file_named(CONFIG_FILE, key)
                if key == "tokenizer_class":
                    _check_class(CONFIG_FILE, held)
                left.append((key if key in _CODE_KEYS else code, held))
        elif isinstance(value, list):
            left += [(code, held) for held in value]
        elif code is not None and isinstance(value, str) and "/" in value:
            raise BadBaseError(f"{CONFIG_FILE} names code on a model hub under {code!a}; take it out")


def _check_tokenizer(config: dict[str, Any]) -> None:
    for key, value in config.items():
        if key == "tokenizer_class":
            _check_class(TOKENIZER_CONFIG_FILE, value)
        elif key in _VOCABULARY_KEYS:
            # An object with this key becomes a token, which can be used as a string.
            if not isinstance(value, dict | list | None) or (isinstance(value, dict) and "__type" in value):
                raise _file_named(TOKENIZER_CONFIG_FILE, key)
        elif key not in _TEXT_KEYS and not _TOKEN_KEY.fullmatch(key):
            _check_other(key, value)


def _check_other(key: str, value: Any) -> None:
    for inner, held in ((key, value), *_entries(value)):
        if held and _FILE_KEY.fullmatch(inner):
            raise _file_named(TOKENIZER_CONFIG_FILE, inner)
    if any("/" in text or "\\" in text for text in _texts(value)):
        raise _file_named(TOKENIZER_CONFIG_FILE, key)


def _check_special_tokens(config: dict[str, Any]) -> None:
    for key in config:
        if not _TOKEN_KEY.fullmatch(key):
            raise BadBaseError(f"{SPECIAL_TOKENS_FILE} says what {key[:80]!a} is, and that is not a token; remove it")


def _check_class(name: str, value: Any) -> None:
    if value is not None and not (isinstance(value, str) and _TOKENIZER_CLASS.fullmatch(value)):
        raise BadBaseError(f"{name} names something under 'tokenizer_class' that is not a tokenizer class; correct it")


def _file_named(name: str, key: str) -> BadBaseError:
    return BadBaseError(f"{name} names a file under {key[:80]!a}; a base can use only its own files, so remove it")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value, of all objects within a value, however deep."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


def _texts(value: Any) -> Iterator[str]:
    """Yield the strings within a value, but not keys."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)


_CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    CONFIG_FILE: _check_config,
    SPECIAL_TOKENS_FILE: _check_special_tokens,
    TOKENIZER_CONFIG_FILE: _check_tokenizer,
}
