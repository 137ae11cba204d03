from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sdk.lora.targets import TargetsError, resolve_targets, short_names
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.loading import read_blueprint


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        ("qv", ["q_proj", "v_proj"]),
        ("attention", ["k_proj", "o_proj", "q_proj", "v_proj"]),
        ("all-linear", ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
    ],
)
def test_presets_of_llama(llama_base: Path, preset: str, names: list[str]) -> None:
    assert resolve_targets(preset, "llama", read_blueprint(llama_base).linear_names) == names


def test_the_attention_of_gpt2_leaves_the_mlp_out(gpt2_base: Path) -> None:
    blueprint = read_blueprint(gpt2_base)
    assert resolve_targets("attention", "gpt2", blueprint.linear_names) == ["attn.c_proj", "c_attn"]
    assert "transformer.h.0.attn.c_attn" in blueprint.conv1d_names
    assert "attn.c_proj" in short_names(blueprint.linear_names)


@pytest.mark.parametrize(("targets", "missing"), [("q_proj,qproj", "'qproj' of the targets"), ("lm_head", "'lm_head'")])
def test_unknown_names_are_answered_with_the_names_that_there_are(llama_base: Path, targets: str, missing: str) -> None:
    with pytest.raises(TargetsError, match=missing) as caught:
        resolve_targets(targets, "llama", read_blueprint(llama_base).linear_names)
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in str(caught.value)


def test_a_preset_is_checked_too(gpt2_base: Path) -> None:
    with pytest.raises(TargetsError, match="of the preset 'qv'"):
        resolve_targets("qv", "unheard-of", read_blueprint(gpt2_base).linear_names)


def test_a_folder_without_a_model_is_a_base_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        read_blueprint(tmp_path)
    assert caught.value.reason == "base"
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(PipelineError, match="No causal language model") as caught:
        read_blueprint(tmp_path)


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(PipelineError(FailureReason.OOM, "Memory ran out; buy some.")))
    assert (error.reason, error.message) == ("oom", "Memory ran out; buy some.")
