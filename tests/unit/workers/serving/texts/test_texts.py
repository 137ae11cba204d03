"""Text of tokens while they arrive: whole characters, and the text of all tokens at the end."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.templates import tokenizer_with
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from workers.pipelines.errors import PipelineError
from workers.serving.texts.texts import BROKEN, Detokenizer, TextVocabulary

TEXTS = ["plain words, 12 of them", "naïve café", "日本語のテキスト", "😀👨‍👩‍👧‍👦 family", "a\n\n  b\tc", "€€€"]


def byte_level() -> Any:
    return tokenizer_with("<|im_start|><|im_end|>", bos="<|im_start|>", eos="<|im_end|>")


def with_blanks_as_marks() -> Any:
    """A tokenizer as Llama's: blanks are a character of the words after them, and bytes are tokens of their own."""
    words = ["▁", "a", "b", "▁a", "▁ab", "n", "é"]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {name: at for at, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "a"), ("▁a", "b")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


KINDS = {"byte level": byte_level(), "blanks as marks": with_blanks_as_marks()}
VOCABULARIES = {kind: TextVocabulary(tokenizer) for kind, tokenizer in KINDS.items()}


def joined(kind: str, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(VOCABULARIES[kind])
    pieces = [piece for token in ids for piece in detokenizer.add(token)] + detokenizer.end()
    assert [token for piece in pieces for token in piece.ids] == ids
    return [piece.visible for piece in pieces]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_join_to_the_text_of_all_tokens(kind: str, text: str) -> None:
    tokenizer = KINDS[kind]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = joined(kind, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True) == text
    assert not any(BROKEN in piece for piece in pieces)


@given(st.lists(st.integers(0, 255), max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_bytes_of_a_byte_level_tokenizer_give_the_text_that_it_gives_them(data: list[int], ends: bool) -> None:
    tokenizer = KINDS["byte level"]
    by_byte = {VOCABULARIES["byte level"].bytes_of(token): token for token in range(len(tokenizer))}
    ids = [by_byte[bytes([byte])] for byte in data] + [tokenizer.eos_token_id] * ends
    assert "".join(joined("byte level", ids)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_half_a_character_waits_for_its_other_half() -> None:
    tokenizer = KINDS["blanks as marks"]
    first, second, third = tokenizer.convert_tokens_to_ids(["<0xE2>", "<0x82>", "<0xAC>"])
    detokenizer = Detokenizer(VOCABULARIES["blanks as marks"])
    assert detokenizer.add(first) == detokenizer.add(second) == []
    (piece,) = detokenizer.add(third)
    assert (piece.text, piece.ids) == ("€", (first, second, third))


def test_half_a_character_is_shown_as_broken_before_a_control_token_and_at_the_end() -> None:
    tokenizer = KINDS["blanks as marks"]
    half, word, end = tokenizer.convert_tokens_to_ids(["<0xE2>", "▁ab", "</s>"])
    assert joined("blanks as marks", [half, end]) == [BROKEN, ""]
    assert joined("blanks as marks", [half]) == [BROKEN]
    assert joined("blanks as marks", [half, word]) == [f"{BROKEN} ab"]


def test_tokenizer_whose_tokens_depend_on_what_follows_is_refused() -> None:
    tokenizer = Tokenizer(models.WordLevel({"two": 0, "a": 1, "<unk>": 2, "</s>": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    # The end of a word is a blank, but not at the end of the text.
    tokenizer.decoder = decoders.BPEDecoder(suffix="<unk>")
    tokenizer.add_special_tokens([AddedToken("</s>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    with pytest.raises(PipelineError, match="writes a token otherwise by what follows it"):
        TextVocabulary(fast)
