"""A tokenizer with more tokens than its base's: how they are added, and the files with which it travels."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdk.formats.adapter_files import TEMPLATE_FILE, VOCABULARY_FILES
from sdk.formats.base_files import tokenizer_digest
from sdk.schemas.failures import FailureReason
from sdk.schemas.wire import canonical_json
from workers.pipelines.data.tokenizer import read_tokenizer
from workers.pipelines.errors import PipelineError

#: What transformers writes of where a tokenizer was, and of how it was loaded.
_OF_THE_PLACE = ("is_local", "local_files_only", "name_or_path", "_commit_hash")
_TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Vocabulary:
    """What a training adds to a base's vocabulary."""

    #: The ids of the added tokens, in their order.
    ids: tuple[int, ...]
    #: The tokenizer's files by name.
    files: Mapping[str, bytes]

    def digest(self, template: str | None) -> str:
        """Return the SHA-256 over the digests of the tokenizer's files, with the template that rendered rows, if one did."""
        files = {**self.files, **({} if template is None else {TEMPLATE_FILE: template.encode()})}
        return tokenizer_digest({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})


def extend(tokenizer: Any, tokens: Sequence[str], base: Path, *, rows: int) -> Vocabulary:
    """Add tokens to the tokenizer of the base in a folder, which has an embedding of `rows`; each is found in texts as it is
    written, and is read as one token.

    Ids follow those of the tokenizer, so the rows that it leaves unused are filled first. Raises PipelineError ("spec") for
    tokens that it has already, or can't read as one.
    """
    highest = max(tokenizer.get_vocab().values())
    ids = extend_tokenizer(tokenizer, tokens)
    if highest >= rows:
        raise _refused(
            f"the base's tokenizer has the token {highest}, and its embedding {rows} rows, so that added tokens would have rows"
            " after some that are missing; use a base with a row for each token"
        )
    plain = read_tokenizer(base, FailureReason.BASE, "The base has no tokenizer that can be loaded ({first}).")
    _add(plain, tokens)
    return Vocabulary(tuple(ids), _saved(plain))


def extend_tokenizer(tokenizer: Any, tokens: Sequence[str]) -> list[int]:
    """Add tokens, if there are any, to a tokenizer; return their ids in their order. Raises PipelineError ("spec") like
    `extend`.
    """
    if not tokens:
        return []
    before = tokenizer.get_vocab()
    for token in tokens:
        if token in before:
            special = "special token" if token in tokenizer.all_special_tokens else "token"
            raise _refused(
                f"{token!r} is a {special} of the base already ({before[token]}); leave it out, or train its row with"
                f" trainable_token_indices {before[token]}"
            )
    _add(tokenizer, tokens)
    ids = [int(number) for number in tokenizer.convert_tokens_to_ids(list(tokens))]
    # Some tokenizers leave ids out, or count them otherwise.
    if not set(ids).isdisjoint(before.values()) or sorted(ids) != list(range(min(ids), min(ids) + len(tokens))):
        raise _refused(f"the base's tokenizer gives {tokens[0]!r} an id that is another token's; use another base")
    for token, number in zip(tokens, ids, strict=True):
        if number not in tokenizer(f"a {token} b", add_special_tokens=False)["input_ids"]:
            raise _refused(f"the base's tokenizer doesn't read {token!r} as one token; write it in another way")
    return ids


def _refused(said: str) -> PipelineError:
    return PipelineError(FailureReason.SPEC, f"add_tokens can't be used: {said}.")


def _add(tokenizer: Any, tokens: Sequence[str]) -> None:
    from transformers import AddedToken

    # Normalised, a text may no longer have them.
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])


def _saved(tokenizer: Any) -> dict[str, bytes]:
    """Return the files that transformers reads a tokenizer from, the same for the same tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        found = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    kept = {name: content for name, content in found.items() if name in (*VOCABULARY_FILES, TEMPLATE_FILE)}
    said = json.loads(kept[_TOKENIZER_CONFIG])
    kept[_TOKENIZER_CONFIG] = canonical_json({key: said[key] for key in said if key not in _OF_THE_PLACE})
    return kept
