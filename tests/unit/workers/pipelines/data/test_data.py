from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.rows import read_rows
from workers.pipelines.data.tokenise import split_text, tokenise
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError


@pytest.fixture(scope="module")
def tokenizer(llama_base: Path) -> Any:
    return load_tokenizer(llama_base)


def supervised(example: Example, tokenizer: Any) -> str:
    return str(tokenizer.decode([label for label in example.labels if label != IGNORED]))


def test_the_loss_of_a_pair_is_on_the_completion_and_its_end(pairs: Path, tokenizer: Any) -> None:
    found = tokenise(read_rows(pairs), tokenizer, loss_on=None, max_length=200)
    assert found.loss_on == "completion"
    assert [supervised(example, tokenizer) for example in found.examples[:2]] == ["one<|end|>", "two<|end|>"]
    for example in found.examples:
        # Training continues exactly the tokens that generation starts from.
        assert example.input_ids[: len(example.prompt_ids)] == example.prompt_ids


def test_tokens_that_would_grow_together_across_the_border_stay_apart(
    write_jsonl: Callable[..., Path], tokenizer: Any
) -> None:
    path = write_jsonl([{"prompt": "the cat sat on th", "completion": "e mat"}])
    assert "the" in tokenizer.get_vocab()
    (example,) = tokenise(read_rows(path), tokenizer, loss_on=None, max_length=200).examples
    assert example.input_ids[: len(example.prompt_ids)] == example.prompt_ids
    assert supervised(example, tokenizer) == "e mat<|end|>"


@pytest.fixture(scope="module", params=["SentencePieceBPETokenizer", "SentencePieceUnigramTokenizer"])
def sentencepiece(request: pytest.FixtureRequest) -> Any:
    """A tokenizer that puts a blank before every text, as those of Llama 2 and Mistral do."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    made = getattr(tokenizers, request.param)()
    corpus = ["Q: two and two? A: four", "answer four\nthe quick brown fox", "Q: what? A: me"] * 50
    made.train_from_iterator(corpus, vocab_size=100, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )


@pytest.mark.parametrize("prompt", ["Q: two? A: ", "Q: two? A:  ", "Q: two? A:", "A:\n", "A:\n "])
@pytest.mark.parametrize("completion", ["four", " four", "four and ", "\nfour"])
def test_no_blank_comes_between_a_prompt_and_its_completion(
    write_jsonl: Callable[..., Path], sentencepiece: Any, prompt: str, completion: str
) -> None:
    """A prompt that ends in a blank got another one after it, which no user's prompt has."""
    rows = read_rows(write_jsonl([{"prompt": prompt, "completion": completion}]))
    if sentencepiece("\n")["input_ids"] == sentencepiece(" ")["input_ids"] and prompt[-1] in " \n":
        # It takes every blank for the beginning of a word, so that no word can begin after one.
        with pytest.raises(PipelineError, match="move the space at the end of the prompt to the beginning"):
            tokenise(rows, sentencepiece, loss_on=None, max_length=200)
        moved = prompt[len(prompt.rstrip()) :] + completion.lstrip()
        prompt = prompt.rstrip()
        rows = read_rows(write_jsonl([{"prompt": prompt, "completion": moved}]))
        completion = moved
    (example,) = tokenise(rows, sentencepiece, loss_on=None, max_length=200).examples
    assert example.prompt_ids == sentencepiece(prompt)["input_ids"]
    assert example.input_ids[: len(example.prompt_ids)] == example.prompt_ids
    whole = sentencepiece(prompt + completion)["input_ids"]
    assert sentencepiece.decode(example.input_ids) == sentencepiece.decode(whole) + "</s>"


def test_the_loss_of_a_conversation_is_on_every_answer_and_its_end(
    write_jsonl: Callable[..., Path], tokenizer: Any
) -> None:
    turns = [
        {"role": "user", "content": "a?"},
        {"role": "assistant", "content": "first"},
        {"role": "user", "content": "b?"},
        {"role": "assistant", "content": "second"},
    ]
    rows = read_rows(write_jsonl([{"messages": turns}]))
    (example,) = tokenise(rows, tokenizer, loss_on=None, max_length=200, contents=True).examples
    assert supervised(example, tokenizer) == "first<|end|>second<|end|>"
    assert [tokenizer.decode(example.input_ids[slice(*run)]) for run in example.contents] == ["first", "second"]
    assert tokenizer.decode(example.prompt_ids).endswith("<|user|>b?<|end|>\n<|assistant|>")
    assert (example.prompt, example.reference) == ("b?", "second")
    (whole,) = tokenise(rows, tokenizer, loss_on="all", max_length=200).examples
    assert whole.supervised_tokens == len(whole.input_ids) - 1


def test_a_prompt_of_messages_is_rendered_by_the_template(write_jsonl: Callable[..., Path], tokenizer: Any) -> None:
    row = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "yes"}]}
    (example,) = tokenise(read_rows(write_jsonl([row])), tokenizer, loss_on=None, max_length=200).examples
    assert tokenizer.decode(example.input_ids) == "<|user|>q<|end|>\n<|assistant|>yes<|end|>\n"
    assert supervised(example, tokenizer) == "yes<|end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused(write_jsonl: Callable[..., Path], llama_base: Path) -> None:
    tokenizer = load_tokenizer(llama_base)
    tokenizer.chat_template = "{{ messages|length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = read_rows(write_jsonl([{"messages": turns}]))
    with pytest.raises(PipelineError, match=r"line 1 has an answer, message 2, .* set loss_on to all"):
        tokenise(rows, tokenizer, loss_on=None, max_length=200)


def test_rows_without_a_supervised_token_are_dropped_and_all_of_them_refused(
    write_jsonl: Callable[..., Path], tokenizer: Any
) -> None:
    path = write_jsonl([{"prompt": "a" * 60, "completion": "b"}, {"prompt": "a", "completion": "b"}])
    found = tokenise(read_rows(path), tokenizer, loss_on=None, max_length=20)
    assert (found.rows, found.dropped, found.cut, found.supervised_tokens) == (1, 1, 1, 2)
    path = write_jsonl([{"prompt": "a" * 60, "completion": "b"}])
    with pytest.raises(PipelineError, match="No row has a token to compute the loss on") as caught:
        tokenise(read_rows(path), tokenizer, loss_on=None, max_length=20)
    assert caught.value.reason == "data"


@pytest.mark.parametrize(
    ("tokens", "pieces"),
    [
        (3, [[1, 2, 3, 0]]),
        (4, [[1, 2, 3, 4], [4, 0]]),
        (6, [[1, 2, 3, 4], [4, 5, 6, 0]]),
        (7, [[1, 2, 3, 4], [4, 5, 6, 7], [7, 0]]),
        (10, [[1, 2, 3, 4], [4, 5, 6, 7], [7, 8, 9, 10], [10, 0]]),
    ],
)
def test_a_long_text_is_split_and_each_token_is_learnt_once(tokens: int, pieces: list[list[int]]) -> None:
    ids = [*range(1, tokens + 1), 0]
    found = split_text(Example(ids, list(ids), [], "", "text", 0), 4)
    assert [piece.input_ids for piece in found] == pieces
    # The first token of each has nothing before it that could predict it; of all but the first it was learnt before.
    assert [piece.labels for piece in found] == [[IGNORED, *piece[1:]] for piece in pieces]
    assert [piece.stop for piece in found] == [None] * (len(pieces) - 1) + [0]
    assert sum(piece.supervised_tokens for piece in found) == tokens


def test_only_texts_are_split_and_only_where_that_is_asked(write_jsonl: Callable[..., Path], tokenizer: Any) -> None:
    rows = read_rows(write_jsonl([{"text": "long " * 30}, {"text": "short"}]))
    whole, short = tokenise(rows, tokenizer, loss_on=None, max_length=1000).examples
    found = tokenise(rows, tokenizer, loss_on=None, max_length=20, split_texts=True)
    assert (found.rows, found.split, found.cut, found.dropped) == (2, 1, 0, 0)
    *pieces, last = found.examples
    assert [piece.input_ids[0] for piece in pieces[1:]] == [piece.input_ids[-1] for piece in pieces[:-1]]
    assert [pieces[0].input_ids[0], *(token for piece in pieces for token in piece.input_ids[1:])] == whole.input_ids
    assert last.input_ids == short.input_ids
    assert found.supervised_tokens == len(whole.input_ids) - 1 + len(short.input_ids) - 1
    cut = tokenise(rows, tokenizer, loss_on=None, max_length=20)
    assert (len(cut.examples), cut.split, cut.cut) == (2, 0, 1)
    pairs = read_rows(write_jsonl([{"prompt": "q", "completion": "long " * 30}]))
    found = tokenise(pairs, tokenizer, loss_on="all", max_length=20, split_texts=True)
    assert (len(found.examples), found.split, found.cut) == (1, 0, 1)


@pytest.mark.parametrize(
    ("row", "loss_on"), [({"text": "a"}, "completion"), ({"prompt": "a", "completion": "b"}, "assistant")]
)
def test_a_loss_that_the_rows_have_no_place_for_is_refused(
    write_jsonl: Callable[..., Path], tokenizer: Any, row: dict[str, str], loss_on: Any
) -> None:
    with pytest.raises(PipelineError, match="set loss_on to"):
        tokenise(read_rows(write_jsonl([row])), tokenizer, loss_on=loss_on, max_length=20)


def test_a_base_without_a_tokenizer_is_a_base_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.reason == "base"


#: Each makes transformers open a file elsewhere, whose lines become tokens.
DOORS = [
    ("tokenizer_config.json", lambda secret: {"vocab": secret}),
    ("tokenizer_config.json", lambda secret: {"init_inputs": [secret]}),
    ("special_tokens_map.json", lambda secret: {"vocab": secret}),
]


@pytest.mark.parametrize(("name", "said"), DOORS)
def test_a_tokenizer_reads_no_file_elsewhere(name: str, said: Callable[[str], Any], tmp_path: Path) -> None:
    base, secret = tmp_path / "base", tmp_path / "profile.json"
    base.mkdir()
    secret.write_text("[UNK]\nadp_secret\n")
    (base / "config.json").write_text(json.dumps({"model_type": "bert"}))
    written = {"tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "eos_token": "[SEP]"}}
    written[name] = {**written.get(name, {}), **said(str(secret))}
    for file, content in written.items():
        (base / file).write_text(json.dumps(content))
    with pytest.raises(PipelineError, match=name) as caught:
        load_tokenizer(base).get_vocab()
    assert caught.value.reason == "base"


def test_a_tokenizer_that_was_loaded_and_saved_is_loaded_again(llama_base: Path, tmp_path: Path) -> None:
    load_tokenizer(llama_base).save_pretrained(tmp_path)
    shutil.copy(llama_base / "config.json", tmp_path)
    assert load_tokenizer(tmp_path).get_vocab() == load_tokenizer(llama_base).get_vocab()
