"""A tokenizer travels with an adapter if it has what the base's lacks, and only then."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.packages import pack
from support.small import write_adapter

from sdk.errors import InvalidInput
from sdk.formats.adapter_files import WEIGHTS_FILE

ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


def save_tokenizer(folder: Path, vocabulary: Any, *added: str, **config: Any) -> Path:
    """Write what transformers saves of a tokenizer, as far as it is read here."""
    folder.mkdir(exist_ok=True)
    tokens = [{"id": len(vocabulary) + number, "content": token} for number, token in enumerate(added)]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": tokens}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend", **config}))
    return folder


def taken(adapter: Path, base: Path | None) -> set[str]:
    staging = adapter.parent / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    files = pack(adapter, staging, base_folder=base).manifest.files
    return {file.path for file in files} - {"adapter_config.json", "adapter_model.safetensors"}


def with_rows(folder: Path) -> Path:
    tensors = load_file(folder / WEIGHTS_FILE)
    save_file({**tensors, ROWS: np.ones((1, 6), "f4")}, folder / WEIGHTS_FILE)
    return folder


TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}
WORDS = {"a": 0, "b": 1}


@pytest.mark.parametrize(
    ("ours", "theirs", "files"),
    [
        ((WORDS, "<x>"), (WORDS, "<x>"), set()),
        ((WORDS, "<x>"), (WORDS,), TOKENIZER),
        ((WORDS,), (WORDS, "<x>"), set()),
        (({"a": 0, "c": 1},), (WORDS,), TOKENIZER),
        (({"a": 1, "b": 0},), (WORDS,), TOKENIZER),
        (([["a", -1.5], ["b", -2.0]], "<x>"), ([["a", -1.5], ["b", -2.0]],), TOKENIZER),
        (([["a", -1.5], ["b", -2.0]],), ([["a", -1.5], ["b", -2.0]],), set()),
    ],
    ids=["the same", "one more", "one less", "another", "other ids", "scores, one more", "scores, the same"],
)
def test_tokenizer_is_taken_where_the_base_lacks_a_token(
    ours: tuple[Any, ...], theirs: tuple[Any, ...], files: set[str], tmp_path: Path
) -> None:
    adapter = save_tokenizer(write_adapter(tmp_path / "adapter"), *ours)
    assert taken(adapter, save_tokenizer(tmp_path / "base", *theirs)) == files


@pytest.mark.parametrize("spoil", ["no base", "no tokenizer.json", "broken"])
def test_tokenizer_that_can_not_be_compared_is_taken_beside_rows_of_embeddings(spoil: str, tmp_path: Path) -> None:
    adapter = save_tokenizer(write_adapter(tmp_path / "adapter"), WORDS)
    base: Path | None = save_tokenizer(tmp_path / "base", WORDS)
    if spoil == "no base":
        base = None
    elif base is not None:
        (base / "tokenizer.json").write_text("[1]") if spoil == "broken" else (base / "tokenizer.json").unlink()
    assert taken(adapter, base) == set()
    assert taken(with_rows(adapter), base) == TOKENIZER


def test_folder_without_a_tokenizer_has_none_to_take(tmp_path: Path) -> None:
    adapter = with_rows(write_adapter(tmp_path / "adapter"))
    assert taken(adapter, None) == taken(adapter, save_tokenizer(tmp_path / "base", WORDS)) == set()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: save_tokenizer(folder, WORDS, "<x>", vocab="/etc/passwd"), "names a file under 'vocab'"),
        (lambda folder: (folder / "added_tokens.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "spiece.model").symlink_to("/etc/hostname"), "leads out of"),
    ],
)
def test_tokenizer_that_refers_elsewhere_is_refused(change: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    adapter = save_tokenizer(write_adapter(tmp_path / "adapter"), WORDS, "<x>")
    change(adapter)
    with pytest.raises(InvalidInput, match=said):
        taken(adapter, save_tokenizer(tmp_path / "base", WORDS))
