"""Tokenizers as keys of GGUF files: llama.cpp makes the same tokens of any text, or the tokenizer is refused by name."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
from support.architectures import save_model
from support.gguf_models import export_folder
from support.llama_cpp import LlamaCpp

from sdk.errors import InvalidBase, InvalidInput
from workers.pipelines.exporting.gguf_file import UnreadableError, Value, WrittenGguf, flag, number, text, write

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: As the published tokenizers of GPT-2, SmolLM2, Llama 3 and Qwen3 describe them: normaliser, pre-tokenizers, ignore_merges.
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
_DIGITS = {"type": "Digits", "individual_digits": True}


def _split(numbers: str) -> dict[str, Any]:
    pattern = {"Regex": f"{_WORDS}{numbers}{_REST}"}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


PUBLISHED: dict[str, tuple[Any, list[dict[str, Any]], bool]] = {
    "gpt-2": (None, [{**_BYTES, "use_regex": True}], False),
    "smollm": (None, [_DIGITS, {**_BYTES, "use_regex": True}], False),
    "llama-bpe": (None, [_split(r"\p{N}{1,3}"), {**_BYTES, "use_regex": False}], True),
    "qwen2": ({"type": "NFC"}, [_split(r"\p{N}"), {**_BYTES, "use_regex": False}], False),
}
TEXTS = [
    "the cat sat on the mat, and two and two are 4; 12 345 6789 0.5 1,000,000",
    "I'll we've HE'S they'RE don't 'tis o'clock ''' 's",
    "  leading, and  inner   and trailing   ",
    "\n\n\tdef f(x):\n        return x  # 3\r\n\r\n\n \n",
    "grüße naïve ÆØÅ привет мир 你好，世界 こんにちは कि สวัสดี مرحبا עברית 한국어",
    "١٢٣ ²³ ½ Ⅷ 百 x²y",
    "😀👨‍👩‍👧‍👦🏳️‍🌈 €£¥ …—“”«» ¿¡ \u00a0\u2003\u200b\u3000x",
    "a" * 40 + "!!!???..." + "--==++" * 5,
    "mixed123abc 45'6 $9.99 #7 @home <b>bold</b> [INST] {x} ~/dir\\file",
    "",
    " ",
    "\x00\x01\x7f ends",
]


def described(folder: Path, name: str) -> Path:
    """Let the tokenizer of a folder split as a published one does."""
    normalizer, steps, whole = PUBLISHED[name]
    path = folder / "tokenizer.json"
    said = json.loads(path.read_text())
    said["normalizer"] = normalizer
    said["pre_tokenizer"] = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
    said["model"]["ignore_merges"] = whole
    path.write_text(json.dumps(said))
    return folder


def changed(folder: Path, **values: Any) -> Path:
    """Change values of a folder's tokenizer_config.json."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose tokenizer knows words of several scripts, digits in a row and spaces in a row."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = save_model(tmp_path_factory.mktemp("plain") / "base", "llama")
    tokenizer = Tokenizer(models.BPE())
    # Words that no splitting divides, so that each of them is divided by the pre-tokenizer alone.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|end|>", "<|pad|>", "<|begin|>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text in TEXTS for _ in range(3)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>"
    )
    fast.chat_template = "{{ messages[0]['content'] }}"
    fast.save_pretrained(folder)
    return _widened(folder, 2048)


def _widened(folder: Path, vocabulary: int) -> Path:
    """Give a model more rows of embeddings than its tokenizer has tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(vocabulary, mean_resizing=False)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def base(plain: Path, tmp_path: Path) -> Path:
    """A copy of the tiny Llama."""
    return Path(shutil.copytree(plain, tmp_path / "base"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_llama_cpp_makes_the_same_tokens(name: str, base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    described(base, name)
    assert export_folder(base, tmp_path / "model.gguf").pre_tokenizer == name
    served, tokenizer = LlamaCpp(tmp_path / "model.gguf"), AutoTokenizer.from_pretrained(base)
    whole = tokenizer(TEXTS)["input_ids"]
    assert [served.tokens(text, special=True) for text in TEXTS] == whole
    assert len({tuple(ids) for ids in whole}) == len(TEXTS)


def test_the_table_tells_the_published_ones_apart(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    found = {
        name: json.dumps(AutoTokenizer.from_pretrained(described(base, name))(TEXTS)["input_ids"]) for name in PUBLISHED
    }
    assert len(set(found.values())) == len(PUBLISHED)


def test_what_begins_and_ends_texts_and_answers(base: Path, tmp_path: Path) -> None:
    described(base, "llama-bpe")
    said = json.loads((base / "tokenizer.json").read_text())
    begin = said["model"]["vocab"]["<|begin|>"]
    single = [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    said["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [begin], "tokens": ["<|begin|>"]}},
    }
    (base / "tokenizer.json").write_text(json.dumps(said))
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7, 9]}))
    export_folder(base, tmp_path / "model.gguf")
    served, written = LlamaCpp(tmp_path / "model.gguf"), WrittenGguf(tmp_path / "model.gguf")
    assert served.tokens("the cat", special=True)[0] == begin
    assert served.tokens("the cat<|end|>", special=True)[-1] == 0
    assert served.properties()["chat_template"] == "{{ messages[0]['content'] }}"
    ids = {key: written.value(f"tokenizer.ggml.{key}_token_id") for key in ("bos", "eos", "eot", "eom", "padding")}
    assert ids == {"bos": begin, "eos": 0, "eot": 7, "eom": 9, "padding": 1}
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 7, 9, 11]}))
    with pytest.raises(InvalidBase, match="generation stops at 4 tokens, but a GGUF file can name only three"):
        export_folder(base, tmp_path / "more.gguf")


def test_what_is_not_in_the_table_is_refused(base: Path, tmp_path: Path) -> None:
    path = base / "tokenizer.json"
    original = json.loads(path.read_text())
    for said in (
        {**original, "normalizer": {"type": "Lowercase"}},
        {**original, "normalizer": {"type": "NFKC"}},
        {**original, "pre_tokenizer": {**_BYTES, "add_prefix_space": True, "use_regex": True}},
        {**original, "pre_tokenizer": {**_split(r"\p{N}"), "behavior": "Removed"}},
        {**original, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_split("[0-9]"), _BYTES]}},
        {**original, "model": {**original["model"], "byte_fallback": True}},
        {**original, "model": {**original["model"], "ignore_merges": True}},
    ):
        path.write_text(json.dumps(said))
        with pytest.raises(InvalidBase, match=r"llama\.cpp's name .* is not known; .*tokenizer_from=FILE\.gguf"):
            export_folder(base, tmp_path / "model.gguf")
    greedy = {**original["added_tokens"][2], "lstrip": True}
    path.write_text(json.dumps(original | {"added_tokens": [*original["added_tokens"][:2], greedy]}))
    described(base, "gpt-2")
    with pytest.raises(InvalidBase, match=r"'<\|begin\|>' also takes the spaces around it"):
        export_folder(base, tmp_path / "model.gguf")


def test_a_tokenizer_from_a_file_of_the_base(base: Path, plain: Path, tmp_path: Path) -> None:
    described(base, "smollm")
    export_folder(base, tmp_path / "base.gguf")
    # Split as no table knows, by its description, the tokens being the same.
    said = json.loads((base / "tokenizer.json").read_text())
    said["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Whitespace"})
    (base / "tokenizer.json").write_text(json.dumps(said))
    (base / "chat_template.jinja").write_text("trained: {{ messages[0]['content'] }}")
    report = export_folder(base, tmp_path / "merged.gguf", tokenizer_from=str(tmp_path / "base.gguf"))
    assert report.pre_tokenizer == "smollm"
    first, second = WrittenGguf(tmp_path / "base.gguf"), WrittenGguf(tmp_path / "merged.gguf")
    for key in ("tokens", "merges", "token_type", "pre", "model"):
        assert first.value(f"tokenizer.ggml.{key}") == second.value(f"tokenizer.ggml.{key}")
    assert second.value("tokenizer.chat_template") == "trained: {{ messages[0]['content'] }}"
    LlamaCpp(tmp_path / "merged.gguf")

    shutil.copyfile(plain / "tokenizer.json", base / "tokenizer.json")
    described(base, "gpt-2")
    for said_of, path in (("splits texts as 'smollm', but the model's as 'gpt-2'", tmp_path / "base.gguf"),):
        with pytest.raises(InvalidInput, match=said_of):
            export_folder(base, tmp_path / "x.gguf", tokenizer_from=str(path))
    other = export_other(tmp_path)
    with pytest.raises(InvalidInput, match="has other tokens than the model's"):
        export_folder(base, tmp_path / "x.gguf", tokenizer_from=str(other))
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(InvalidInput, match="can't be read as a GGUF file"):
        export_folder(base, tmp_path / "x.gguf", tokenizer_from=str(tmp_path / "no.gguf"))


@pytest.fixture
def donor(base: Path, tmp_path: Path) -> Callable[..., Path]:
    """Give a folder a way of splitting that is not known; return what writes its GGUF file with other keys, None for none."""
    described(base, "smollm")
    export_folder(base, tmp_path / "base.gguf")
    said = json.loads((base / "tokenizer.json").read_text())
    said["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Whitespace"})
    (base / "tokenizer.json").write_text(json.dumps(said))
    keys = WrittenGguf(tmp_path / "base.gguf").keys("tokenizer.")

    def with_keys(**changed: Any) -> Path:
        found = {f"tokenizer.ggml.{name}": value for name, value in changed.items()}
        kept = {key: value for key, value in {**keys, **found}.items() if value is not None}
        write(tmp_path / "donor.gguf", "llama", kept, [])
        return tmp_path / "donor.gguf"

    return with_keys


def _list(values: Sequence[Any], of: str) -> Value:
    return Value(values, gguf.GGUFValueType.ARRAY, getattr(gguf.GGUFValueType, of))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"merges": _list(["t h"], "STRING")}, "has other merges than the model's tokenizer"),
        ({"merges": None}, r"has no tokenizer\.ggml\.merges"),
        ({"model": None}, r"has no tokenizer\.ggml\.model"),
        ({"model": text("llama")}, "is of the kind 'llama', but the model's is byte-level BPE"),
        ({"token_type": None}, r"has no tokenizer\.ggml\.token_type"),
        ({"token_type": _list([1, 1], "INT32")}, "has other tokens"),
        ({"tokens": _list([1] * 2048, "INT32")}, r"has no tokenizer\.ggml\.tokens, or another kind of it"),
        ({"pre": number(3)}, r"has no tokenizer\.ggml\.pre, or another kind"),
    ],
)
def test_a_file_that_llama_cpp_would_load_otherwise_or_not_at_all_is_refused(
    changed: dict[str, Any], said: str, base: Path, donor: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=said):
        export_folder(base, tmp_path / "x.gguf", tokenizer_from=str(donor(**changed)))


def test_only_the_folder_says_where_texts_begin_and_end(base: Path, donor: Callable[..., Path], tmp_path: Path) -> None:
    given = {f"{name}_token_id": number(7) for name in ("eot", "eom", "bos", "eos", "padding", "fim_rep")}
    path = donor(**given, add_bos_token=flag(True), add_space_prefix=flag(False), unknown_token_id=number(2))
    export_folder(base, tmp_path / "x.gguf", tokenizer_from=str(path))
    found = WrittenGguf(tmp_path / "x.gguf").keys("tokenizer.")
    ids = {key.removeprefix("tokenizer.ggml."): value.value for key, value in found.items() if key.endswith("_id")}
    assert ids == {"bos_token_id": 2, "eos_token_id": 0, "padding_token_id": 1, "unknown_token_id": 2}
    assert found["tokenizer.ggml.add_bos_token"].value is False
    assert found["tokenizer.ggml.add_space_prefix"].value is False


def _claims(kind: int, payload: bytes) -> bytes:
    """A GGUF file with no tensor and one key, "a"."""
    return struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"a", kind) + payload


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_claims(9, struct.pack("<IQ", 0, 2**40) + bytes(200)), "it ends too early"),
        (_claims(9, struct.pack("<IQ", 9, 1) * 5000), "it has lists in lists"),
        (_claims(9, struct.pack("<IQ", 9, 1) * 2 + struct.pack("<IQB", 0, 1, 1)), "has lists in lists"),
        (_claims(8, struct.pack("<Q", 2**64 - 1)), "it ends too early"),
        (b"GGUF", "it ends too early"),
    ],
)
def test_a_file_that_claims_more_than_it_holds(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(UnreadableError, match=said):
        WrittenGguf(tmp_path / "x.gguf").keys("tokenizer.")


def export_other(folder: Path) -> Path:
    """Export a model with another tokenizer."""
    export_folder(save_model(folder / "other", "llama"), folder / "other.gguf")
    return folder / "other.gguf"
