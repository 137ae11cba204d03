"""Targets that a training splits into modules and stacked parameters: all that was named is adapted, and nothing else."""

from __future__ import annotations

import pytest

from registry.errors import Verification
from registry.jobs.kinds.training_outcome import require_asked
from sdk.schemas.jobs import BaseChoice, TrainingRequest
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.training import LoraConfig, TrainingReport, TrainingSpec

MANIFEST = Manifest(
    kind="checkpoint", base_fingerprint="b" * 64, files=[ManifestFile(path="a", size_bytes=1, sha256="a" * 64)]
)


def hand_in(targets: str, modules: list[str], parameters: list[str]) -> None:
    spec = TrainingSpec(method="lora", rank=4, dropout=0.0, targets=targets)
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
