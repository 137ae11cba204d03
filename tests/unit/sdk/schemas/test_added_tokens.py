"""How the tokens that a training adds are written, and what is refused before anything is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from registry.jobs.kinds.training_outcome import lora_differences
from sdk.errors import InvalidInput
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.training import TrainingSpec
from sdk.validation import build


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("<red>,<blue>", ["<red>", "<blue>"]),
        ("<red>, <blue>", ["<red>", "<blue>"]),
        (["<red>", "1,2-dichloroethane"], ["<red>", "1,2-dichloroethane"]),
        ("1,2-dichloroethane\n", ["1,2-dichloroethane"]),
        ("/think", ["/think"]),
        ("früh", ["früh"]),
    ],
)
def test_tokens_are_written_in_one_way(given: Any, tokens: list[str]) -> None:
    spec = build(TrainingSpec, add_tokens=given)
    assert spec.added == tokens
    assert spec.add_tokens == "".join(f"{token}\n" for token in tokens)
    # A record has the text, and is read again.
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == build(TrainingSpec, add_tokens=spec.add_tokens)


@pytest.mark.parametrize("name", ["tokens", "tokens.txt"])
@pytest.mark.parametrize("kind", [str, Path])
def test_file_has_a_token_on_each_line(name: str, kind: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf<red>\r\n1,2-dichloroethane")
    assert build(TrainingSpec, add_tokens=kind(tmp_path / name)).added == ["<red>", "1,2-dichloroethane"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("<red>,,<blue>", "the token of number 2 is empty; leave it out"),
        ("<red>\n\n<blue>\n", "the token of line 2 is empty"),
        ("\n", "the token of line 1 is empty"),
        ("<red>,<blue>,<red>", "'<red>' is given twice; name each token once"),
        (["<red> "], "the token of line 1, '<red> ', has a blank at an edge"),
        (["<r\x00d>"], "what can't be printed"),
        (["x" * 201], "has 201 characters"),
        (",".join(f"<{number}>" for number in range(4097)), "it has 4,097 tokens; add at most 4,096"),
        ("./absent", "the file './absent' can't be read"),
        ("absent.txt", "the file 'absent.txt' can't be read"),
    ],
)
def test_bad_tokens_are_refused_in_one_sentence(given: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        build(TrainingSpec, add_tokens=given)
    assert said in refused.value.message
    assert refused.value.param == "add_tokens"


@pytest.mark.parametrize("other", [{"modules_to_save": "lm_head"}, {"targets": "q_proj,embed_tokens"}])
def test_embedding_is_not_trained_twice(other: dict[str, str]) -> None:
    with pytest.raises(
        InvalidInput, match=r"add_tokens trains the rows of its tokens in (lm_head|embed_tokens), which"
    ):
        build(TrainingSpec, add_tokens="<red>", **other)


@pytest.mark.parametrize(
    ("tokens", "fits"),
    [
        ([5, 300, 301], True),
        ({"embed_tokens": [5, 300, 301], "lm_head": [300, 301]}, True),
        ([5, 300], False),
        ([300, 301, 302], False),
        ([], False),
        ({"embed_tokens": [5, 300, 301], "lm_head": [5, 300]}, False),
    ],
)
def test_worker_hands_in_a_row_for_each_token_that_was_asked_for(tokens: Any, fits: bool) -> None:
    spec = build(TrainingSpec, targets="q_proj", add_tokens="<red>,<blue>", trainable_token_indices="5")
    lora = LoraConfig(**{**spec.of_lora, "trainable_token_indices": tokens}, target_modules=["q_proj"])
    assert [found.field for found in lora_differences(spec, lora)] == ([] if fits else ["lora.trainable_token_indices"])
