"""What travels with an adapter for whoever serves it, read by transformers, and what becomes of it on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.evaluated import score
from support.merges import merge
from support.trainings import run_training, save_jsonl
from transformers import AutoTokenizer, GenerationConfig

from sdk.formats.adapter_files import SERVING_FILES, VOCABULARY_FILES
from sdk.formats.base_files import TOKENIZER_FILES, tokenizer_digest
from sdk.pulling.transfer import hash_file
from sdk.pushing.pack import pack_adapter
from sdk.schemas.failures import FailureReason
from sdk.schemas.recorded import Rendering
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.errors import PipelineError

TURNS = [{"role": "user", "content": "two and two?"}, {"role": "assistant", "content": "four"}]


def trained(base: Path, data: Path, out: Path) -> TrainingReport:
    return run_training(base, data, out, method="lora", rank=2, max_steps=2, lr=0.02, batch_size=2, grad_accum=1)


def save_base(llama_base: Path, folder: Path) -> Path:
    """Write a base whose end of turn is neither its tokenizer's end of text nor in its generation config."""
    base = shutil.copytree(llama_base, folder / "base")
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|pad|>"}))
    settings = {"eos_token_id": 1, "temperature": 0.5, "do_sample": True, "transformers_version": "9"}
    (base / "generation_config.json").write_text(json.dumps(settings))
    return base


@pytest.fixture
def base(llama_base: Path, tmp_path: Path) -> Path:
    return save_base(llama_base, tmp_path)


@pytest.fixture(scope="module")
def taught(llama_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, TrainingReport]:
    """A base, an adapter that was taught conversations over it, and its report; not to be changed."""
    folder = tmp_path_factory.mktemp("taught")
    base, rows = save_base(llama_base, folder), save_jsonl(folder / "rows.jsonl", [{"messages": TURNS}] * 4)
    return base, folder / "adapter", trained(base, rows, folder / "adapter")


def test_template_stops_and_rendering_lie_beside_the_adapter(taught: tuple[Path, Path, TrainingReport]) -> None:
    base, adapter, report = taught
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert (adapter / "chat_template.jinja").read_text() == tokenizer.chat_template
    generation = GenerationConfig.from_pretrained(adapter)
    end_of_turn = tokenizer.convert_tokens_to_ids("<|end|>")
    assert generation.eos_token_id == sorted({1, tokenizer.eos_token_id, end_of_turn})
    assert (generation.temperature, generation.pad_token_id) == (0.5, tokenizer.pad_token_id)
    assert "transformers_version" not in json.loads((adapter / "generation_config.json").read_text())
    said = Rendering.model_validate_json((adapter / "rendering.json").read_bytes())
    assert said == report.rendering
    assert said.templates == [hash_file(adapter / "chat_template.jinja")[0]]
    assert said.generation == hash_file(base / "generation_config.json")[0]
    digests = {name: hash_file(base / name)[0] for name in TOKENIZER_FILES if (base / name).is_file()}
    assert said.tokenizer == tokenizer_digest(digests)


def test_rows_without_a_conversation_have_no_template(base: Path, pairs: Path, tmp_path: Path) -> None:
    trained(base, pairs, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "generation_config.json",
        "rendering.json",
    ]


@pytest.mark.parametrize("settings", ["{", '{"a": NaN}'])
def test_settings_of_a_base_that_are_none_are_not_taken_over(
    base: Path, pairs: Path, tmp_path: Path, settings: str
) -> None:
    (base / "generation_config.json").write_text(settings)
    trained(base, pairs, tmp_path / "adapter")
    assert set(json.loads((tmp_path / "adapter" / "generation_config.json").read_bytes())) == {
        "eos_token_id",
        "pad_token_id",
    }


@pytest.mark.parametrize("settings", ["[]", "null", "[" * 100_000])
def test_settings_that_no_library_can_read_are_a_fault_of_the_base(
    base: Path, pairs: Path, tmp_path: Path, settings: str
) -> None:
    (base / "generation_config.json").write_text(settings)
    with pytest.raises(PipelineError, match="The base's weights can't be loaded") as caught:
        trained(base, pairs, tmp_path / "adapter")
    assert caught.value.reason is FailureReason.BASE


def test_a_push_takes_them_along_but_none_that_is_too_large(
    taught: tuple[Path, Path, TrainingReport], tmp_path: Path
) -> None:
    shutil.copytree(taught[1], tmp_path / "adapter")

    def packed() -> Any:
        package = pack_adapter(
            tmp_path / "adapter", base_id="tiny", base_revision="1", base_fingerprint="0" * 64, staging=tmp_path
        )
        return {file.path for file in package.manifest.files} & set(SERVING_FILES), package.left_out

    taken_along = set(SERVING_FILES) - set(VOCABULARY_FILES)
    assert packed() == (taken_along, [])
    (tmp_path / "adapter" / "chat_template.jinja").write_text("x" * (1024 * 1024 + 1))
    assert packed() == ({"generation_config.json", "rendering.json"}, ["chat_template.jinja"])
    (tmp_path / "adapter" / "chat_template.jinja").unlink()
    # As older releases of transformers save it.
    (tmp_path / "adapter" / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert packed() == (taken_along, ["tokenizer_config.json"])
    assert (tmp_path / "chat_template.jinja").read_text() == "{{ messages }}"


def test_an_adapter_is_scored_and_merged_with_its_own_template_and_stops(
    taught: tuple[Path, Path, TrainingReport], tmp_path: Path
) -> None:
    base, adapter = taught[0], Path(shutil.copytree(taught[1], tmp_path / "adapter"))
    rows, template = taught[0].with_name("rows.jsonl"), adapter / "chat_template.jinja"

    def tokens() -> float:
        return score(base, rows, adapter).metrics["tokens"]

    before = tokens()
    template.write_text("Hello! " + template.read_text())
    assert tokens() > before
    merge(base=base, adapter=adapter, out=tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == template.read_text()
    stops = GenerationConfig.from_pretrained(adapter).eos_token_id
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == stops
    template.write_bytes(b"\xff")
    with pytest.raises(PipelineError, match="is not text in UTF-8"):
        tokens()
    (adapter / "generation_config.json").write_text("[" * 100_000)
    template.unlink()
    assert tokens() == before
