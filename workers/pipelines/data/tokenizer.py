"""A base's tokenizer, and the tokens at which generation stops."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sdk.formats.adapter_files import GENERATION_FILE, MAX_SERVING_BYTES, TEMPLATE_FILE, VOCABULARY_FILES
from sdk.formats.base_files import CONFIG_FILE, positions_of
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.model.references import require_self_contained


def tokenizer_folder(base: Path, adapter: Path | None) -> Path:
    """Return the folder with the tokenizer that an adapter is used with: its own if one comes with it, or the base's."""
    own = adapter is not None and any((adapter / name).is_file() for name in VOCABULARY_FILES)
    return adapter if adapter is not None and own else base


def load_tokenizer(base: Path, adapter: Path | None = None, *, ends: bool = True) -> Any:
    """Return the tokenizer in a base's folder, or an adapter's own one, with a token for padding and without using the
    network.

    `ends`: whether it must have a token that ends texts; an encoder's has none. Raises PipelineError ("base", "adapter")
    if there is no tokenizer, or it refers to files elsewhere.
    """
    folder = tokenizer_folder(base, adapter)
    require_self_contained(base)
    if folder is base:
        said = "The base has no tokenizer that can be loaded ({first}); add its tokenizer files."
        return _padded(read_tokenizer(base, FailureReason.BASE, said), ends=ends)
    require_self_contained(folder, adapter=True)
    said = "The adapter's tokenizer can't be loaded ({first}); push the adapter again with all files of its tokenizer."
    return _padded(read_tokenizer(folder, FailureReason.ADAPTER, said), ends=ends)


def read_tokenizer(folder: Path, reason: FailureReason, said: str) -> Any:
    """Return the tokenizer in a folder as it is. Raises PipelineError with the reason and what is said."""
    from transformers import AutoTokenizer

    with named(reason, said, OSError, ValueError, KeyError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _padded(tokenizer: Any, *, ends: bool) -> Any:
    if not set(tokenizer.get_vocab().values()) - {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}:
        # If the file with the vocabulary is missing, the library makes a tokenizer from nothing.
        raise PipelineError(
            FailureReason.BASE,
            "The base's tokenizer has no vocabulary, because the file with it is missing; add its tokenizer files, such as"
            " tokenizer.json, vocab.txt or spm.model.",
        )
    if tokenizer.eos_token is None and (ends or tokenizer.pad_token is None):
        raise PipelineError(
            FailureReason.BASE, "The tokenizer has no end-of-text token; set `eos_token` in its config."
        )
    if tokenizer.pad_token is None:
        # Padding is masked everywhere, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def configured_stops(base: Path) -> list[int]:
    """Return the ids at which generation stops for a base or an adapter's folder, sorted; none if it names none.

    As in transformers, they are in its `generation_config.json`, or, without one, in its `config.json`.
    """
    named = next(
        (found for name in (GENERATION_FILE, CONFIG_FILE) if (found := read_object(base / name)) is not None), {}
    )
    listed = named.get("eos_token_id")
    ids = listed if isinstance(listed, list) else [listed]
    return sorted({token for token in ids if type(token) is int and token >= 0})


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a small untrusted JSON file; {} if it isn't an object, None if there is no file."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_SERVING_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def default_template(tokenizer: Any) -> str | None:
    """Return the chat template of a tokenizer, of several that for conversations without tools."""
    found: str | dict[str, str] | None = tokenizer.chat_template
    return found.get("default") if isinstance(found, dict) else found


def serve_by(tokenizer: Any, adapter: Path) -> None:
    """Make a tokenizer use the chat template that comes with an adapter, if there is one. Raises PipelineError."""
    tokenizer.chat_template = template_beside(adapter) or tokenizer.chat_template


def template_beside(adapter: Path) -> str | None:
    """Return the chat template that comes with an adapter, if there is one. Raises PipelineError."""
    try:
        with (adapter / TEMPLATE_FILE).open("rb") as file:
            return file.read(MAX_SERVING_BYTES).decode()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PipelineError(
            FailureReason.ADAPTER, f"The adapter's {TEMPLATE_FILE} is not text in UTF-8; push the adapter without it."
        ) from error


def all_stops(base: Path, tokenizer: Any, taught: Sequence[int]) -> list[int]:
    """Return the ids that end a completion, sorted: those taught, the tokenizer's, and those in the base's generation
    config.
    """
    named = [*taught, *configured_stops(base)]
    return sorted({tokenizer.eos_token_id, *known_ids(tokenizer, named)})


def known_ids(tokenizer: Any, ids: Iterable[int]) -> list[int]:
    """Return the token ids that the tokenizer really has: a base's files may name any number."""
    return [token for token in ids if token < len(tokenizer)]


def longest_row(base: Path, max_length: int) -> int:
    """Return `max_length`, or the number of positions in the base's config if that is smaller.

    Beyond its last position, a base with learnt positions fails, and one with rotary positions was never trained.
    """
    try:
        config = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return max_length
    return min(max_length, positions_of(config) or max_length)
