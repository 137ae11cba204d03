"""What lies beside the weights of a merged model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.merges import make, merge
from transformers import AutoModelForCausalLM

from sdk.formats.base_files import TOKENIZER_FILES

pytestmark = pytest.mark.filterwarnings("ignore")

INDEX = "model.safetensors.index.json"


@pytest.fixture(autouse=True)
def short_of_memory(free_memory: Callable[[int], None]) -> None:
    free_memory(0)


def merged(folder: Path, change: Callable[[Path, Path], Any], *, shards: int = 1) -> Path:
    made = make("llama", "plain", folder, shards=shards)
    change(made.base, made.adapter)
    merge(made.base, made.adapter, folder / "out")
    return folder / "out"


def test_every_file_of_a_tokenizer_is_taken_over(tmp_path: Path) -> None:
    def add(base: Path, adapter: Path) -> None:
        for name in TOKENIZER_FILES:
            if not (base / name).exists():
                (base / name).write_text("{}" if name.endswith(".json") else "")

    out = merged(tmp_path, add)
    assert {path.name for path in out.iterdir()} >= set(TOKENIZER_FILES)


@pytest.mark.parametrize("said", ["{nope", '{"temperature": -3, "top_p": "x"}', "[1]"])
def test_where_generation_stops_is_said_whatever_a_base_says_of_it(said: str, tmp_path: Path) -> None:
    def write(base: Path, adapter: Path) -> None:
        (base / "generation_config.json").write_text(said)
        (adapter / "generation_config.json").write_text('{"eos_token_id": [0, 5]}')

    out = merged(tmp_path, write)
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == [0, 5]
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id == [0, 5]


@pytest.mark.parametrize(
    "change",
    [
        lambda index: index.update(metadata=[1]),
        lambda index: index["metadata"].update(total_size="x"),
        lambda index: index["weight_map"].update({"ghost.weight": "model-00001-of-00004.safetensors"}),
        lambda index: index["weight_map"].update({"model.norm.weight": "model-00001-of-00004.safetensors"}),
    ],
    ids=["no metadata", "no size", "a tensor that is not there", "another file"],
)
def test_the_index_says_what_is_there(change: Callable[[Any], None], tmp_path: Path) -> None:
    right: dict[str, Any] = {}

    def write(base: Path, adapter: Path) -> None:
        index = json.loads((base / INDEX).read_text())
        right.update(json.loads((base / INDEX).read_text()))
        change(index)
        (base / INDEX).write_text(json.dumps(index))

    found = json.loads((merged(tmp_path, write, shards=4) / INDEX).read_text())
    assert found["weight_map"] == right["weight_map"]
    assert found["metadata"]["total_size"] == right["metadata"]["total_size"]
