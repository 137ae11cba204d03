"""What is stored as JSON of a job of each kind, every field with it."""

from __future__ import annotations

from sdk.schemas.combination import CombineParent, CombineRequest, CombineSpec
from sdk.schemas.evaluation import EvaluationSpec, MergeSpec
from sdk.schemas.events import Progress
from sdk.schemas.job_requests import (
    BaseChoice,
    CheckpointRef,
    EvaluationRequest,
    EvaluationTarget,
    MergeRequest,
    PreviewJobRequest,
    TrainingRequest,
)
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.wire import Wire

_DIGEST = "ab" * 32
_BASE = BaseChoice(id="tiny", revision="0" * 40, fingerprint="cd" * 32)


def rows() -> dict[str, Wire]:
    """A record of everything that is stored of jobs."""
    return {
        "training": TrainingRequest(
            adapter="team/code-review",
            base=_BASE,
            data=_DIGEST,
            eval_data=_DIGEST,
            spec=TrainingSpec(alpha=16.0, loss_on="completion", max_steps=2),
            from_checkpoint=CheckpointRef(job="3f1c2a9b7d20", step=10),
        ),
        "evaluation": EvaluationRequest(
            targets=[EvaluationTarget(ref="team/code-review@v1"), EvaluationTarget(base=_BASE)],
            data=_DIGEST,
            spec=EvaluationSpec(loss_on="all"),
        ),
        "merge": MergeRequest(ref="team/code-review@v1", spec=MergeSpec(onto="original", dtype="bfloat16")),
        "preview": PreviewJobRequest(of="team/code-review@v1", base=_BASE, data=_DIGEST, loss_on="all", row=7),
        "combine": CombineRequest(
            adapter="team/mix",
            parents=[
                CombineParent(ref="team/code-review@v1", weight=0.7, digest=_DIGEST),
                CombineParent(ref="team/code-review@v2", weight=-0.3, digest=_DIGEST),
            ],
            spec=CombineSpec(method="svd", rank=8),
        ),
        "progress": Progress(
            phase="train", step=1, total=2, loss=1.5, lr=0.1, tokens_per_s=9.5, memory_bytes=1, eta_s=2.0
        ),
        "report": TrainingReport(
            lora=LoraConfig(rank=8, alpha=16.0, dropout=0.05, target_modules=["q_proj", "v_proj"]),
            quantization=QuantizationRecipe(library_version="0.50"),
            rows=1,
            supervised_tokens=7,
            training={"lr": 0.1, "max_steps": 2},
            metrics={"loss": 1.5},
            libraries={"torch": "2"},
        ),
    }
