from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from support.architectures import TITLES, save_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from sdk.lora.architectures import is_encoder
from sdk.lora.linear_modules import linear_modules
from sdk.lora.targets import TargetsError, mean_all, resolve_targets, short_names, unfit_targets
from sdk.lora.tensors import read_tensors
from sdk.schemas.failures import FailureReason
from sdk.schemas.option_types import TARGET_PRESETS, is_pattern
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.blueprint import read_blueprint


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


@pytest.mark.parametrize(
    ("targets", "missing"), [("q_proj,qproj", "'qproj' among the targets"), ("lm_head", "'lm_head'")]
)
def test_unknown_names_are_answered_with_the_names_that_there_are(llama_base: Path, targets: str, missing: str) -> None:
    with pytest.raises(TargetsError, match=missing) as caught:
        resolve_targets(targets, "llama", read_blueprint(llama_base).linear_names)
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in str(caught.value)


def test_a_preset_is_checked_too() -> None:
    with pytest.raises(
        TargetsError, match=r"the preset 'qv' matches no linear module of this unheard-of model; .*: up_proj"
    ):
        resolve_targets("qv", "unheard-of", ["layers.0.mlp.up_proj"])


@pytest.mark.parametrize(
    ("parent", "others"), [("temporal_block", ("linear_x", "linear_out")), ("mixer", ("in_proj", "up_proj"))]
)
def test_what_stands_beside_a_q_proj_is_of_attention(parent: str, others: tuple[str, ...]) -> None:
    # RecurrentGemma's and Nemotron-H's parents of attention are those of other layers too.
    llama = ["k_proj", "o_proj", "q_proj", "v_proj"]
    names = [f"model.layers.1.{parent}.{name}" for name in llama] + [f"model.layers.0.{parent}.{n}" for n in others]
    assert resolve_targets("attention", "other", names) == llama
    assert resolve_targets("qv", "other", names) == ["q_proj", "v_proj"]
    assert resolve_targets("attention", "other", [*names, "model.layers.1.linear_attn.q_proj"]) != llama


@pytest.mark.parametrize(
    ("kind", "rests", "preset", "found"),
    [
        ("gpt_neox", ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h"], "attention",
         ["attention.dense", "query_key_value"]),
        ("bloom", ["self_attention.query_key_value", "self_attention.dense", "mlp.dense_4h_to_h"], "all-linear",
         ["dense_4h_to_h", "query_key_value", "self_attention.dense"]),
        ("falcon", ["self_attention.query_key_value", "self_attention.dense"], "attention",
         ["query_key_value", "self_attention.dense"]),
        # One short name for the modules of two places.
        ("qwen2_moe", ["self_attn.q_proj", "mlp.gate_proj", "mlp.shared_expert.gate_proj", "mlp.shared_expert_gate"], "all-linear",
         ["gate_proj", "q_proj"]),
        ("other", ["self_attn.q_proj", "mixer.in_proj"], "all-linear", ["in_proj", "q_proj"]),
    ],
)  # fmt: skip
def test_presets_are_written_in_names_that_adapters_have_had(
    kind: str, rests: list[str], preset: str, found: list[str]
) -> None:
    assert resolve_targets(preset, kind, [f"model.layers.{n}.{rest}" for n in (0, 1) for rest in rests]) == found


NAMES = [
    *(f"model.language_model.layers.{n}.{end}" for n in (0, 1) for end in ("self_attn.q_proj", "mlp.up_proj")),
    "model.vision_tower.encoder.layers.0.self_attn.q_proj",
    "model.multi_modal_projector.linear_1",
]


@pytest.mark.parametrize(
    ("targets", "exclude", "found"),
    [
        # Short names would mean the other part too.
        (
            "qv",
            None,
            ["model.language_model.layers.0.self_attn.q_proj", "model.language_model.layers.1.self_attn.q_proj"],
        ),
        ("up_proj", None, ["up_proj"]),
        (r".*language_model.*\.1\..*", None, [NAMES[2], NAMES[3]]),
        ("q_proj", r".*vision_tower\..*", [NAMES[0], NAMES[2]]),
        ("q_proj,up_proj", "encoder.layers.0.self_attn.q_proj,1.mlp.up_proj", [NAMES[0], NAMES[1], NAMES[2]]),
        ("all-linear", "up_proj", [NAMES[0], NAMES[2]]),
        (r".*_proj", r".*\.(vision_tower|1)\..*", [NAMES[0], NAMES[1]]),
    ],
)
def test_patterns_and_exclusions_become_whole_names(targets: str, exclude: str | None, found: list[str]) -> None:
    resolved = resolve_targets(targets, "gemma3", NAMES, exclude=exclude)
    assert resolved == sorted(found)
    if targets not in TARGET_PRESETS and (exclude or is_pattern(targets)):
        assert mean_all(targets, exclude, resolved)
        assert not mean_all(targets, exclude, [*resolved, NAMES[4]])


@pytest.mark.parametrize(
    ("targets", "exclude", "said"),
    [
        (
            "q_proj",
            None,
            r"vision_tower\.encoder\.layers\.0\.self_attn\.q_proj too, .* don't train; .* '\.\*vision_tower",
        ),
        (r".*q_proj", None, "rows of text don't train"),
        ("linear_1", None, "don't train"),
        (r".*nope", None, "the pattern '.*nope' matches no linear module"),
        ("q_proj", "nope", "exclude, 'nope', excludes none"),
        ("up_proj", r".*", "exclude leaves none of the 2 modules"),
    ],
)
def test_what_can_not_be_trained_is_known_from_names(targets: str, exclude: str | None, said: str) -> None:
    with pytest.raises(TargetsError, match=said):
        resolve_targets(targets, "gemma3", NAMES, exclude=exclude)


_SIZES = {"vocab_size": 64, "hidden_size": 32, "state_size": 8, "intermediate_size": 48, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ("MambaConfig", {}),
        ("Mamba2Config", {"num_heads": 8, "head_dim": 8, "n_groups": 1}),
        ("FalconMambaConfig", {}),
        ("FalconH1Config", {**_HEADS, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}),
        ("NemotronHConfig", {**_HEADS, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "ssm_state_size": 8,
                             "layers_block_type": ["mamba", "attention"]}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_presets_leave_out_what_state_space_models_do_not_call(config: str, settings: dict[str, Any]) -> None:
    tokens = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    made = getattr(transformers, config)(**{**_SIZES, **tokens, **settings})
    base = transformers.AutoModelForCausalLM.from_config(made)
    modules = {name: module for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    names, kind = sorted(name for name in modules if name != "lm_head"), made.model_type
    found = resolve_targets("all-linear", kind, names)
    assert "in_proj" in found
    for targets in ("in_proj,out_proj", r".*_proj"):
        with pytest.raises(TargetsError, match=r"mixer\.out_proj|mamba\.out_proj.* that LoRA has no effect on"):
            resolve_targets(targets, kind, names)
        tensors = {f"{name}.weight": list(module.weight.shape) for name, module in modules.items()}
        assert "has no effect on" in (unfit_targets(targets, tensors, model_type=kind) or "")
    assert "out_proj" not in ",".join(resolve_targets(r".*_proj", kind, names, exclude=r".*\.(out|dt)_proj"))
    model = get_peft_model(base, LoraConfig(r=2, target_modules=found))
    ids = torch.arange(12)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    halves = {name: weight.grad for name, weight in model.named_parameters() if "lora_B" in name}
    assert [name for name, gradient in halves.items() if gradient is None or not gradient.any()] == []


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


DOCS = Path(__file__).parents[5] / "docs" / "models.md"


def of_model(base: Path) -> tuple[str, list[str]]:
    """Return the `model_type` of a base, and its model's linear modules without the head, as a training finds them."""
    config = AutoConfig.from_pretrained(base)
    if not is_encoder(config.to_dict()):
        return config.model_type, read_blueprint(base).linear_names
    # It learns to tell classes apart, under a head of its own.
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return config.model_type, sorted(name for name in linear if name != "classifier")


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[list[str], list[str]]]]:
    """Architecture and preset to the names by the files, and by the model."""
    found: dict[str, dict[str, tuple[list[str], list[str]]]] = {}
    for name in TITLES:
        base = save_model(tmp_path_factory.mktemp(name), name)
        kind, names = of_model(base)
        tensors = {key: list(tensor.shape) for key, tensor in read_tensors(base / "model.safetensors").items()}
        found[name] = {}
        for preset in TARGET_PRESETS:
            assert unfit_targets(preset, tensors, model_type=kind) is None
            by_files = resolve_targets(preset, kind, linear_modules(tensors))
            found[name][preset] = (by_files, resolve_targets(preset, kind, names))
    return found


def test_the_files_and_the_model_say_the_same(
    resolved: dict[str, dict[str, tuple[list[str], list[str]]]],
) -> None:
    for name, presets in resolved.items():
        for preset, (by_files, by_model) in presets.items():
            assert list(map(_shown, by_files)) == list(map(_shown, by_model)), (name, preset)
            assert by_model


def test_the_table_in_the_docs_is_what_they_say(
    resolved: dict[str, dict[str, tuple[list[str], list[str]]]],
) -> None:
    lines = ["| base | `qv` | `attention` | `all-linear` |", "|---|---|---|---|"]
    for name, presets in resolved.items():
        cells = [" ".join(sorted(set(map(_shown, presets[preset][1])))) for preset in TARGET_PRESETS]
        lines.append(f"| {' | '.join([TITLES[name], *cells])} |")
    table = "\n".join(lines)
    assert table in DOCS.read_text(encoding="utf-8"), f"docs/models.md should hold:\n{table}"


def _shown(name: str) -> str:
    """Return a whole name by its place in the text part, whatever a library puts before it."""
    parts = name.split(".")
    at = next((position for position, part in enumerate(parts) if part.isdigit()), None)
    return name if at is None else ".".join(["…", *parts[at + 1 :]])
