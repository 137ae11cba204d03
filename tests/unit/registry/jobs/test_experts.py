"""Mixtures of experts: targets that a training splits into modules and stacked parameters, and what a 4-bit one takes."""

from __future__ import annotations

import pytest

from registry.catalog.models import NamedBase
from registry.errors import Verification
from registry.jobs.forecasts import of_training
from registry.jobs.kinds.training_outcome import require_asked
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport

MANIFEST = Manifest(
    kind="checkpoint", base_fingerprint="b" * 64, files=[ManifestFile(path="a", size_bytes=1, sha256="a" * 64)]
)


def hand_in(targets: str, modules: list[str], parameters: list[str], exclude: str | None = None) -> None:
    spec = TrainingSpec(method="lora", rank=4, dropout=0.0, targets=targets, exclude=exclude)
    request = TrainingRequest(adapter="a", base=BaseChoice(id="b", fingerprint="b" * 64), data="d" * 64, spec=spec)
    lora = LoraConfig(rank=4, alpha=8.0, dropout=0.0, target_modules=modules, target_parameters=parameters)
    report = TrainingReport(
        lora=lora,
        quantization=None,
        rows=1,
        supervised_tokens=1,
        training={},
        metrics={"loss": 1.0},
        libraries={},
    )
    require_asked(request, MANIFEST, report)


def test_names_are_modules_or_stacked_parameters_as_the_base_has_it() -> None:
    hand_in("experts.down_proj,q_proj", ["q_proj"], ["experts.down_proj"])
    hand_in("experts.down_proj,q_proj", ["experts.down_proj", "q_proj"], [])
    hand_in("experts.down_proj", [], ["experts.down_proj"])
    hand_in("attention", ["q_proj"], [])


@pytest.mark.parametrize(
    ("targets", "modules", "parameters"),
    [
        ("experts.down_proj,q_proj", ["q_proj"], []),
        ("experts.down_proj,q_proj", ["q_proj"], ["experts.gate_up_proj"]),
        ("experts.down_proj,q_proj", ["q_proj"], ["experts.down_proj", "experts.gate_up_proj"]),
        ("q_proj", ["q_proj"], ["experts.down_proj"]),
        ("attention", ["q_proj"], ["experts.down_proj"]),
    ],
)
def test_others_than_were_named_are_refused(targets: str, modules: list[str], parameters: list[str]) -> None:
    with pytest.raises(Verification, match=r"lora\.target_"):
        hand_in(targets, modules, parameters)


def test_experts_that_were_trained_although_something_is_excluded_are_refused() -> None:
    for exclude in ("layers.0.q_proj", r".*layers\.0\..*"):
        with pytest.raises(Verification, match=r"lora\.target_parameters"):
            hand_in("experts.down_proj,q_proj", ["layers.1.q_proj"], ["experts.down_proj"], exclude=exclude)


@pytest.mark.parametrize(
    ("config", "share"),
    [
        ({"num_experts": 4, "dtype": "bfloat16"}, 0.75 + 0.25 * 0.3),
        ({"text_config": {"num_local_experts": 4}, "torch_dtype": "bfloat16"}, 0.75 + 0.25 * 0.3),
        ({"dtype": "bfloat16"}, 0.3),
        ({"num_experts": 4, "dtype": "float32"}, 0.3),
    ],
)
def test_experts_stay_in_16_bit_where_the_rest_is_packed(config: dict[str, object], share: float) -> None:
    tensors = {f"model.layers.0.mlp.experts.{expert}.w.weight": [3, 8] for expert in range(4)}
    tensors |= {"model.layers.0.mlp.shared_experts.w.weight": [2, 8], "model.layers.0.self_attn.q_proj.weight": [2, 8]}
    base = NamedBase(config=config, tensors=tensors, facts="hashed", size_bytes=10**9)
    specs = (TrainingSpec(method=method) for method in ("qlora", "lora"))
    packed, wide = (of_training(base, spec, packed=False).needs.memory_bytes or 0 for spec in specs)
    assert wide - packed == pytest.approx(10**9 * (1 - share), abs=2)
