"""What a base's small files may refer to: its own folder, in words that libraries know, and nothing else."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from support.small import write_base

from sdk.errors import InvalidBase
from sdk.formats.base_files import BadBaseError
from sdk.formats.base_references import check_references
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base

CONFIG, TOKENIZER, TOKENS = "config.json", "tokenizer_config.json", "special_tokens_map.json"
TOKEN = {"__type": "AddedToken", "content": "</s>", "lstrip": False}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (TOKENIZER, {"tokenizer_class": "PreTrainedTokenizerFast", "errors": "replace", "padding_side": "left"}),
        (
            TOKENIZER,
            {"tokenizer_class": "LlamaTokenizer", "sp_model_kwargs": {}, "vocab_file": None, "init_inputs": []},
        ),
        (TOKENIZER, {"bos_token": TOKEN, "eos_token": "</s>", "image_token": "<a/>", "add_bos_token": True}),
        (TOKENIZER, {"added_tokens_decoder": {"2": TOKEN}, "additional_special_tokens": ["</think>"]}),
        (TOKENIZER, {"extra_special_tokens": {"image_token": "<i/>"}, "model_input_names": ["input_ids"]}),
        # As older releases of transformers have saved it, and as popular bases have it still.
        (TOKENIZER, {"name_or_path": "/home/me/x", "special_tokens_map_file": "/root/.cache/special_tokens_map.json"}),
        (TOKENIZER, {"tokenizer_file": None, "auto_map": {"AutoTokenizer": ["org/x--tok.T", None]}}),
        (TOKENIZER, {"chat_template": "{{ '/' }}", "response_schema": {"x-regex": "a/b\\s"}, "tokenizer_class": None}),
        (TOKENIZER, {"vocab": {"a/b": 0, "/etc": 1}, "merges": ["a /", "b c"]}),
        (TOKENIZER, {"vocab": [["/", -1.5]], "merges": [["a", "/"]]}),
        (TOKENS, {"eos_token": "</s>", "bos_token": TOKEN, "additional_special_tokens": ["</a>"]}),
        (CONFIG, {"_name_or_path": "org/model", "auto_map": {"AutoConfig": "org/x--c.C"}, "tokenizer_class": None}),
        (CONFIG, {"attn_implementation": "flash_attention_2", "text_config": {"_attn_implementation": "eager"}}),
        (CONFIG, {"tokenizer_class": "GPT2Tokenizer", "quantization_config": {"quant_method": "bitsandbytes"}}),
    ],
)
def test_what_bases_say_is_taken(name: str, content: Any) -> None:
    check_references(name, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        *((TOKENIZER, {key: "/etc/passwd"}, f"a file under '{key}'") for key in ("vocab", "merges")),
        *(
            (TOKENIZER, {key: "x.txt"}, f"a file under '{key}'")
            for key in ("vocab", "merges", "vocab_file", "spm_file")
        ),
        *((TOKENIZER, {f"{key}_file": "x"}, f"'{key}_file'") for key in ("merges", "tokenizer", "emoji", "gguf")),
        *((TOKENIZER, {key: ["x"]}, key) for key in ("vocab_file", "fast_tokenizer_files", "init_inputs")),
        (TOKENIZER, {"vocab": 7}, "a file under 'vocab'"),
        (TOKENIZER, {"vocab": {"__type": "AddedToken", "content": "/etc/passwd"}}, "a file under 'vocab'"),
        (TOKENIZER, {"sp_model_kwargs": {"model_file": "x"}}, "a file under 'model_file'"),
        (TOKENIZER, {"rewriting_rules": "/etc/passwd"}, "a file under 'rewriting_rules'"),
        (TOKENIZER, {"mecab_kwargs": {"mecab_option": ["-r ../x"]}}, "a file under 'mecab_kwargs'"),
        (TOKENIZER, {"anything": "..\\x"}, "a file under 'anything'"),
        *(
            (TOKENIZER, {"tokenizer_class": cls}, "not a tokenizer class")
            for cls in ("RagRetriever", "pipeline", ["x"], "a.T")
        ),
        (TOKENIZER, ["x"], "is not an object"),
        (TOKENS, {"vocab": "/etc/passwd"}, "says what 'vocab' is"),
        (TOKENS, {"vocab_file": "/etc/passwd"}, "says what 'vocab_file' is"),
        (TOKENS, {"local_files_only": False}, "says what 'local_files_only' is"),
        (CONFIG, {"attn_implementation": "org/kernel"}, "code on a model hub under 'attn_implementation'"),
        (CONFIG, {"_attn_implementation": {"": "org/kernel@main:f"}}, "code on a model hub"),
        (CONFIG, {"text_config": {"experts_implementation": "org/kernel"}}, "code on a model hub"),
        (CONFIG, {"transformers_weights": "../x/model.safetensors"}, "a file under 'transformers_weights'"),
        (CONFIG, {"parts": [{"configuration_files": ["config.4.0.0.json"]}]}, "a file under 'configuration_files'"),
        (CONFIG, {"tokenizer_class": "RagRetriever"}, "not a tokenizer class"),
    ],
)
def test_what_leads_elsewhere_is_refused(name: str, content: Any, said: str) -> None:
    with pytest.raises(BadBaseError, match=said):
        check_references(name, json.dumps(content).encode())


def test_of_a_key_that_is_there_twice_the_last_counts() -> None:
    check_references(TOKENIZER, b'{"vocab": "/etc/passwd", "vocab": null}')
    with pytest.raises(BadBaseError, match="'vocab'"):
        check_references(TOKENIZER, b'{"vocab": null, "vocab": "/etc/passwd"}')


@pytest.mark.parametrize("raw", [b"{", b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * 2**24 + b'"}'])
def test_what_can_t_be_read_is_refused(raw: bytes) -> None:
    with pytest.raises(BadBaseError, match=r"is not JSON|is longer than 16384 KiB"):
        check_references(TOKENIZER, raw)


def test_depth_is_no_way_around() -> None:
    deep: Any = {"attn_implementation": "org/kernel"}
    for _ in range(400):
        deep = {"x": [deep]}
    with pytest.raises(BadBaseError, match="code on a model hub"):
        check_references(CONFIG, json.dumps(deep).encode())


@pytest.mark.parametrize("name", [TOKENIZER, TOKENS])
def test_a_folder_that_refers_elsewhere_is_no_base(name: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base")
    (base / name).write_text(json.dumps({"vocab": "/etc/passwd"}))
    with pytest.raises(InvalidBase, match=f"is not a base: {name}"):
        scan_base(base, cache=Cache(tmp_path / "cache"))


def test_a_config_that_names_code_is_no_base_s(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", attn_implementation="org/kernel")
    with pytest.raises(InvalidBase, match="code on a model hub"):
        scan_base(base, cache=Cache(tmp_path / "cache"))


def test_a_file_is_hashed_once_by_whatever_link(tmp_path: Path) -> None:
    base, cache, hashed = write_base(tmp_path / "base"), Cache(tmp_path / "cache"), list[int]()
    view = tmp_path / "view"
    view.mkdir()
    for path in base.iterdir():
        (view / path.name).symlink_to(path)
    first = scan_base(base, cache=cache)
    again = scan_base(view, cache=cache, on_bytes=hashed.append)
    assert (again.manifest, hashed) == (first.manifest, [])
    shutil.rmtree(view)


def test_config_that_names_code_within_code_is_looked_at_once() -> None:
    depth, key = 600, '{"attn_implementation": '
    raw = (key * depth + "[" + '"a",' * 100_000 + '"a"]' + "}" * depth).encode()
    begin = time.process_time()
    check_references(CONFIG, raw)
    # Looking at each level's texts anew took 4 s.
    assert time.process_time() - begin < 1.5


def test_file_of_very_many_values_is_refused_before_it_is_parsed() -> None:
    raw = b'{"errors": [' + b"[]," * (1 << 20) + b"[]]}"
    tracemalloc.start()
    try:
        with pytest.raises(BadBaseError, match=f"{TOKENIZER} has more than 524,288 values"):
            check_references(TOKENIZER, raw)
        # It would take 80 MB as objects, and a file of the longest allowed five times that.
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
