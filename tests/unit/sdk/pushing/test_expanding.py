"""Expressions become names that mean the same to PEFT: what is written is loaded by it, over real modules."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from support.packages import pack
from support.small import write_adapter

from registry.artifacts.admission.inspection import inspect_config
from sdk.errors import InvalidInput
from sdk.pushing.expand_patterns import adapted_modules, expand

#: As Unsloth and ms-swift write them; `re` may take them, but in how long nobody can say.
UNSLOTH = (
    r"(?:.*?(?:vision|image|visual|patch_embed|img|audio).*?(?:layers|blocks).*?(?:attn|mlp).*?(?:q_proj|up_proj).*?)"
    r"|(?:\bmodel\.layers\.[\d]{1,}\.(?:attn|mlp)\.(?:(?:q_proj|up_proj)))"
)
SWIFT = r"^(model)(?!.*(lm_head|visual|v_proj)).*(q_proj|up_proj)"


def model() -> Any:
    """Return a small model with a vision tower, whose modules are named as in real ones."""
    import torch

    def layers(count: int) -> Any:
        return torch.nn.ModuleList(
            torch.nn.ModuleDict(
                {
                    "attn": torch.nn.ModuleDict({n: torch.nn.Linear(4, 4, bias=False) for n in ("q_proj", "v_proj")}),
                    "mlp": torch.nn.ModuleDict({"up_proj": torch.nn.Linear(4, 4, bias=False)}),
                }
            )
            for _ in range(count)
        )

    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {
            "model": torch.nn.ModuleDict({"layers": layers(3)}),
            "visual": torch.nn.ModuleDict({"blocks": layers(2)}),
        }
    )


def trained(folder: Path, **said: Any) -> Path:
    """Write an adapter that PEFT made of a config; return its folder."""
    import torch
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(model(), LoraConfig(r=2, lora_alpha=4, **said))
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def effect(folder: Path) -> dict[str, tuple[list[list[float]], int, float]]:
    """Return ΔW, rank and scale of each module that PEFT adapts with what lies in a folder."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    loaded = PeftModel.from_pretrained(model(), str(folder))
    return {
        name: (layer.get_delta_weight("default").tolist(), layer.r["default"], layer.scaling["default"])
        for name, layer in loaded.named_modules()
        if isinstance(layer, LoraLayer)
    }


@pytest.mark.parametrize(
    "said",
    [
        {"target_modules": UNSLOTH},
        {"target_modules": SWIFT},
        {"target_modules": r".*\.(q|v)_proj", "exclude_modules": "(visual|(x+x+)+y).*"},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r"(visual|([a-z]+)+0).*"},
        {"target_modules": "all-linear", "exclude_modules": ["up_proj"]},
        {
            "target_modules": ["q_proj", "v_proj", "up_proj"],
            "exclude_modules": r"(visual\.?)+.*",
            "rank_pattern": {r"(layers\.)+[01]\..*": 3, "up_proj": 1},
            "alpha_pattern": {r"(?!.*mlp).*layers\.2.*": 9, "v_proj": 4},
        },
    ],
    ids=["unsloth", "swift", "excluded", "list-and-excluded", "all-linear", "values"],
)
def test_what_names_say_is_what_the_expressions_said(said: dict[str, Any], tmp_path: Path) -> None:
    folder = trained(tmp_path / "adapter", **said)
    config = json.loads((folder / "adapter_config.json").read_text())
    if isinstance(said["target_modules"], str) and isinstance(config["target_modules"], list):
        config["target_modules"] = said["target_modules"]
        (folder / "adapter_config.json").write_text(json.dumps(config))
    before = effect(folder)
    assert 0 < len(before) < 15
    package = pack(folder, tmp_path / "staging", expand_patterns=True)
    written = tmp_path / "staging/adapter_config.json"
    with written.open("rb") as file:
        inspect_config(file)
    (folder / "adapter_config.json").write_bytes(written.read_bytes())
    assert effect(folder) == before
    assert package.expanded
    names = json.loads(written.read_text())
    assert all(isinstance(names[key], list | None) for key in ("target_modules", "exclude_modules"))
    assert all(
        name.replace(".", "").replace("_", "").isalnum()
        for key in ("rank_pattern", "alpha_pattern")
        for name in names[key]
    )


def test_a_pattern_that_can_not_stay_is_refused_with_what_it_means(tmp_path: Path) -> None:
    cases = [
        (
            {"target_modules": r"model\.(.+\.)+[qv]_proj"},
            "target_modules",
            r"of the adapter's modules it matches model.layers.0.self_attn.q_proj, model.layers.0.self_attn.v_proj\. "
            r"Push with expand_patterns=",
        ),
        (
            {"exclude_modules": "(a+)+b"},
            "exclude_modules",
            r"PEFT might try for ever, since it repeats a group; it matches none of the adapter's modules",
        ),
        (
            {"alpha_pattern": {"([a-z_]+)+q_proj": 8, "(q_pro)+j": 8}},
            "alpha_pattern",
            r"'\(\[a-z_\]\+\)\+q_proj', which PEFT might.*it matches none",
        ),
        (
            {"rank_pattern": {"(q_pro)+j": 8}},
            "rank_pattern",
            r"of the adapter's modules it matches model.layers.0.self_attn.q_proj\. ",
        ),
        (
            {"exclude_modules": r"(a)\1"},
            "exclude_modules",
            "which of the adapter's modules it matches can't be determined: it looks back",
        ),
        (
            {"exclude_modules": "((a{1,90}){1,90}){1,90}b"},
            "exclude_modules",
            "it matches can't be determined: its repeat counts are too high",
        ),
    ]
    for number, (config, param, said) in enumerate(cases):
        folder = write_adapter(tmp_path / str(number), **config)
        started = time.thread_time()
        with pytest.raises(InvalidInput, match=said) as error:
            pack(folder, tmp_path / "staging")
        assert error.value.param == param
        assert time.thread_time() - started < 5


def test_plain_expressions_stay_unless_names_are_asked_for(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", exclude_modules=".*visual.*", alpha_pattern={r".*\.q_proj": 8})
    kept = pack(folder, tmp_path / "kept")
    assert (kept.expanded, kept.lora.alpha_pattern) == ([], {r".*\.q_proj": 8.0})
    named = pack(folder, tmp_path / "named", expand_patterns=True)
    assert (named.expanded, named.lora.alpha_pattern) == (["exclude_modules", "alpha_pattern"], {"q_proj": 8.0})
    assert named.lora.target_modules == [f"model.layers.0.self_attn.{name}" for name in ("q_proj", "v_proj")]
    assert adapted_modules(folder / "adapter_model.safetensors") == named.lora.target_modules


@pytest.mark.parametrize(
    ("config", "modules", "said"),
    [
        (
            {"target_modules": "(q)+"},
            ["q", "v"],
            "do not match all modules for which the adapter has weights, such as v",
        ),
        ({"target_modules": "(q)+"}, [], "do not match all modules"),
        ({"target_modules": r"(q)\1"}, ["qq"], "can't be turned into names: it looks back"),
        (
            {"target_modules": ["q"], "r": 1, "rank_pattern": {"^(a.)?q": 2, "x.*": 3}},
            ["a.q", "q", "x.a.q", "x.q"],
            "some module names of the adapter are the ends of others",
        ),
        (
            {"target_modules": ".*", "r": 1, "rank_pattern": {"(l.)+.*": 2}},
            [f"l.q{number}" for number in range(1025)],
            "rank_pattern can't be written as names, since there are more than 1024",
        ),
    ],
)
def test_what_names_can_not_say_is_refused(config: dict[str, Any], modules: list[str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        expand(config, modules)
