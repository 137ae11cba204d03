"""`plan`: what is printed, how it ends, and what it refuses before anything is read."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import processes
from support.packed_files import PACKED, QUANTIZATION, write_packed_base
from support.registries import embedded
from support.small import TENSORS, write_base, write_safetensors

from sdk import errors
from sdk.cli.commands.plan import plan_command
from sdk.examining import planning
from sdk.examining.planning import plan_training
from sdk.lora.planning import tables as configs
from sdk.schemas.planning import Plan

#: What the config of the small base lacks.
NUMBERS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 16}


@pytest.fixture
def config(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    def write(said: dict[str, Any]) -> str:
        (tmp_path / "config.json").write_text(json.dumps(said))
        return str(tmp_path / "config.json")

    return write


def run(*args: str) -> Result:
    return CliRunner().invoke(plan_command, [*args, *([] if "--format" in args else ["--format", "table"])])


def test_a_table_within_80_columns_that_adds_up(config: Callable[..., str]) -> None:
    done = run("--base", config(configs.LLAMA_2_7B), "--gpu", "24GB")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80
    for said in (
        "6,738,415,616 parameters",
        "qlora trains 8,388,608: 0.1245 % of the base, 0.1243 % of both",
        "24.0 GB   fits   tight  no     RTX 3090, RTX 4090, L4, A10",
        "batch × accumulation 1 × 16",
    ):
        assert said in done.output


def test_pipe_gets_a_value_a_line(config: Callable[..., str]) -> None:
    done = CliRunner().invoke(plan_command, ["--base", config(configs.LLAMA_2_7B), "--gpu", "24GB"])
    header, *lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert header == ["kind", "name", "value", "size", "method", "location", "note"]
    assert {len(line) for line in lines} == {7}
    assert ["model", "llama", "6738415616", "", "", "", "parameters, by its config"] in lines
    parts = [int(line[3]) for line in lines if line[0] == "part" and line[4:6] == ["", "GPU"]]
    assert sum(parts[:-1]) == parts[-1]
    assert ["GPU", "RTX 3090", "tight", "24000000000", "lora", "", ""] in lines
    bare = CliRunner().invoke(plan_command, ["--base", config(configs.LLAMA_2_7B), "--gpu", "24GB", "--no-header"])
    assert [line.split("\t") for line in bare.stdout.splitlines()] == lines


@pytest.mark.parametrize("name", ["GEMMA_3_27B", "QWEN3_30B_A3B", "GPT_2_MEDIUM", "LLAMA_3_70B"])
@pytest.mark.parametrize("method", ["full", "qlora"])
def test_other_bases_fit_80_columns_too(name: str, method: str, config: Callable[..., str]) -> None:
    done = run("--base", config(getattr(configs, name)), "--method", method, "--task", "code")
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_json_reads_back_as_the_plan(config: Callable[..., str]) -> None:
    base = config(configs.LLAMA_3_8B)
    done = run("--base", base, "--rank", "16", "--targets", "all-linear", "--format", "json")
    said = json.loads(done.output)
    together = said.pop("forecast_card_bytes")
    found = Plan.model_validate(said)
    assert found == plan_training(None, base, rank=16, targets="all-linear")
    assert together == sum(part["size_bytes"] for part in said["forecast"]["parts"] if part["where"] == "card")
    assert run("--base", base, "--gpu", "16GB", "--format", "quiet").output == "fits\n"


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"gpu": "24"}, errors.InvalidInput, "'24' is not a GPU; give its memory with a unit, such as 24GB"),
        ({"gpu": "RTX 9999"}, errors.InvalidInput, "'RTX 9999' is not a GPU"),
        ({"alpha": 0.0}, errors.InvalidInput, "alpha can't be 0; use a number above 0"),
        ({"alpha": float("nan")}, errors.InvalidInput, "alpha can't be nan; use a number above 0"),
        ({"lr": float("nan")}, errors.InvalidInput, "lr can't be nan; use a number above 0 and at most 1"),
        ({"lr": -2e-4}, errors.InvalidInput, "lr can't be -0.0002; use a number above 0 and at most 1"),
        ({"rank": 0}, errors.InvalidInput, "rank can't be 0"),
        ({"method": "adalora"}, errors.InvalidInput, "method can't be 'adalora'; use qlora, lora or full"),
        ({"task": "poetry"}, errors.InvalidInput, "task can't be 'poetry'; use instruct"),
        ({"attention": "linear"}, errors.InvalidInput, "attention can't be 'linear'; use sdpa"),
        ({"logit_chunk_tokens": 0}, errors.InvalidInput, "logit_chunk_tokens can't be 0; use a whole number above 0"),
        ({"rnak": 8}, errors.InvalidInput, "rnak"),
    ],
)
def test_bad_options_are_refused_before_a_base_is_looked_for(
    options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as caught:
        plan_training(None, "./no/such/folder", **options)
    assert str(caught.value).startswith(said) or said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "kind", "exit_code", "sentence"),
    [
        ({"num_hidden_layers": None}, errors.InvalidBase, 2, "says no num_hidden_layers; correct it"),
        ({"model_type": "brandnew"}, errors.Unavailable, 9, "the family 'brandnew' is not one whose shapes follow"),
        ({"model_type": None}, errors.Unavailable, 9, "give the folder with its weights.*adapterctl.worker"),
    ],
)
def test_a_config_that_nothing_follows_from(
    said: dict[str, Any],
    kind: type[errors.AdapterctlError],
    exit_code: int,
    sentence: str,
    config: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "missing_libraries", lambda names: list(names))
    with pytest.raises(kind, match=sentence) as caught:
        plan_training(None, config(configs.LLAMA_2_7B | said))
    assert caught.value.exit_code == exit_code


def test_the_worker_says_the_shapes_of_an_unknown_family(config: Callable[..., str]) -> None:
    pytest.importorskip("transformers")
    said = {"model_type": "stablelm", "hidden_size": 32, "intermediate_size": 64, "vocab_size": 50}
    base = config(said | {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4})
    found = plan_training(None, base, targets="qv", rank=2)
    assert (found.shapes_from, found.trainable) == ("model", 2 * 2 * 2 * 64)
    assert "memory may be off" in found.notes[0]


def test_a_refusal_names_no_folder_of_the_program_that_built_the_model(config: Callable[..., str]) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(errors.InvalidBase, match=r"Unrecognized model in config\.json") as caught:
        plan_training(None, config({"hidden_size": 8}))
    assert "/tmp" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        ({"refused": "No causal language model is known for it."}, errors.InvalidBase, "No causal language model"),
        (None, errors.Unavailable, "built no model of it; give the folder with its weights"),
    ],
)
def test_a_family_that_the_worker_does_not_know_either(
    answer: Any,
    kind: type[Exception],
    sentence: str,
    config: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "missing_libraries", lambda names: [])
    monkeypatch.setattr(planning, "run_program", lambda module, **options: answer)
    with pytest.raises(kind, match=sentence):
        plan_training(None, config(configs.LLAMA_2_7B | {"model_type": "brandnew"}))


def test_targets_and_lengths_that_the_base_lacks(config: Callable[..., str]) -> None:
    base = config(configs.LLAMA_2_7B | {"max_position_embeddings": 512})
    with pytest.raises(errors.InvalidTargets, match="'nope' among the targets"):
        plan_training(None, base, targets="nope")
    with pytest.raises(errors.InvalidInput, match="has only 512 positions; give 512 or less"):
        plan_training(None, base, max_length=1024)
    assert plan_training(None, base).forecast.max_length == 512


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(errors.NotFound, match="there is no folder and no file"):
        plan_training(None, tmp_path / "nothing")


def test_the_files_of_an_unknown_family_say_its_shapes(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", **NUMBERS)
    known = plan_training(None, base)
    assert known.shapes_from == "files"
    said = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(said | {"model_type": "brandnew"}))
    unknown = plan_training(None, base)
    assert (unknown.parameters, unknown.trainable) == (known.parameters, known.trainable)
    assert "memory may be off" in unknown.notes[0]
    write_safetensors(base / "model.safetensors", {"x.weight": [4, 4]}, value=0.5)
    with pytest.raises(errors.InvalidTargets, match="no linear module"):
        plan_training(None, base, targets="nope")


def test_a_base_that_is_stored_in_4_bits_has_the_shapes_that_it_stands_for(tmp_path: Path) -> None:
    base = write_packed_base(tmp_path / "base")
    said = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(NUMBERS | said))
    whole = TENSORS | PACKED
    assert plan_training(None, base).parameters == sum(math.prod(shape) for shape in whole.values())


@pytest.mark.parametrize(
    ("quantised", "options", "kind", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, {}, errors.InvalidBase, "is quantised by 'gptq'"),
        ({"quant_method": "awq"}, {"method": "lora"}, errors.InvalidBase, "is quantised by 'awq'"),
        (QUANTIZATION, {"method": "lora"}, errors.InvalidInput, "so only QLoRA can train over it"),
        (QUANTIZATION, {"method": "full"}, errors.InvalidInput, "so only QLoRA can train over it"),
        (QUANTIZATION, {"double_quant": False}, errors.InvalidInput, "leave double_quant out"),
        (QUANTIZATION, {"quant_type": "fp4"}, errors.InvalidInput, "leave quant_type out"),
    ],
)
def test_what_no_training_does_over_a_quantised_base_is_not_planned(
    quantised: dict[str, Any],
    options: dict[str, Any],
    kind: type[Exception],
    said: str,
    config: Callable[..., str],
) -> None:
    with pytest.raises(kind, match=said):
        plan_training(None, config(configs.LLAMA_2_7B | {"quantization_config": quantised}), **options)


def test_a_base_that_is_stored_in_4_bits_is_planned_as_it_is_stored(config: Callable[..., str]) -> None:
    base = config(configs.LLAMA_2_7B | {"quantization_config": QUANTIZATION | {"bnb_4bit_use_double_quant": False}})
    found = plan_training(None, base, gpu="80GB")
    assert found.method == "qlora"
    assert next(part.of for part in found.forecast.parts).endswith("nf4 with 32-bit scales")
    assert any("stored in 4 bits (nf4)" in note for note in found.notes)


def test_a_registered_base_by_its_id(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", **NUMBERS)
    with embedded(tmp_path / "home") as world:
        world.admin.bases.add(base, id="tiny")
        found = world.admin.plan("tiny", targets="qv", rank=4)
        assert found.trainable == plan_training(None, base, targets="qv", rank=4).trainable
        with pytest.raises(errors.NotFound):
            world.admin.plan("nobody")


def test_neither_numpy_nor_torch_is_needed(config: Callable[..., str]) -> None:
    program = (
        "import sys; from sdk.examining.planning import plan_training; plan_training(None, sys.argv[1]); "
        "print({'torch', 'numpy', 'transformers', 'fastapi'} & set(sys.modules))"
    )
    done = processes.finished(sys.executable, "-c", program, config(configs.LLAMA_3_70B), check=True)
    assert done.stdout == "set()\n"


def test_what_a_stranger_calls_a_family_does_not_reach_the_terminal(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", **NUMBERS | {"model_type": "x\x1b]0;owned\x07\u202e" + "y" * 500})
    done = run("--base", str(base), "--targets", "q_proj")
    assert done.exit_code == 0, done.output
    assert all(character.isprintable() or character == "\n" for character in done.output)
    assert max(map(len, done.output.splitlines())) <= 80
