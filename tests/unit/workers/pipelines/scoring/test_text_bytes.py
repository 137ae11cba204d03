"""The bytes that a loss is taken on, by tokenizers that write blanks in their tokens and by those of bytes."""

from __future__ import annotations

from typing import Any

import pytest
from support import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.scoring.row_scores import supervised_bytes


@pytest.fixture(scope="module")
def llama_2() -> Any:
    """A tokenizer that decodes as those of Llama 2 and Mistral do: without the first blank."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(["the answer is yes and no says she"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>")


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.save_tokenizer(folder)
    return load_tokenizer(folder)


def example(tokenizer: Any, *parts: str, first: bool = False) -> Example:
    """Every second part is supervised, from the first one where it is `first`, but for the first token."""
    ids, labels = list[int](), list[int]()
    for place, _ in enumerate(parts):
        whole = tokenizer("".join(parts[: place + 1]), add_special_tokens=False)["input_ids"]
        own = whole[len(ids) :]
        labels += own if (place % 2 == 0) is first else [IGNORED] * len(own)
        ids = whole
    end = [tokenizer.eos_token_id]
    return Example([*ids, *end], [IGNORED, *labels[1:], *end], [], "", "")


def test_a_blank_between_prompt_and_answer_counts(llama_2: Any, of_bytes: Any) -> None:
    for tokenizer in (llama_2, of_bytes):
        one = example(tokenizer, "the answer is", " yes")
        assert supervised_bytes(one, tokenizer) == 4
        two = example(tokenizer, "the answer is", " yes", " and", " no", " says", " she")
        assert supervised_bytes(two, tokenizer) == 4 + 3 + 4


def test_characters_of_several_tokens_count_once(of_bytes: Any) -> None:
    one = example(of_bytes, "é東", "京", "ü")
    assert supervised_bytes(one, of_bytes) == 3
    text = example(of_bytes, "東京", first=True)
    # Its first token is not predicted, and is a part of a character.
    assert supervised_bytes(text, of_bytes) == 6
