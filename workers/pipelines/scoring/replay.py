"""A training's probe, measured again in a process of its own: `python -m workers.pipelines.scoring.replay`.

Standard input is a `ProbeRequest`; the last line of standard output is a `ProbeAnswer`, or `{"refused", "reason"}` with a
sentence. The base is loaded as it was in training, and the adapter by PEFT. Base and tokenizer may be untrusted, so the
process has no network if the system allows that.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from sdk.schemas.failures import FailureReason
from sdk.schemas.probe import ProbeAnswer, ProbeRequest
from workers.pipelines.data.answering import answer
from workers.pipelines.errors import PipelineError


def replay(request: ProbeRequest) -> ProbeAnswer:
    """Measure the adapter in a folder on the base in another. Raises PipelineError."""
    from workers.pipelines.data.continuations import served_probe
    from workers.pipelines.data.probe import probe
    from workers.pipelines.data.tokenizer import load_tokenizer
    from workers.pipelines.model.adapters import load_adapter
    from workers.pipelines.model.classifier import Classes
    from workers.pipelines.model.device import choose_device, memory_errors_named
    from workers.pipelines.model.loading import deprecations_silenced, load_base

    base, device, classes = Path(request.base), choose_device(), None
    tokenizer = load_tokenizer(base, Path(request.adapter), ends=request.labels is None)
    if request.labels is not None:
        if request.pad_token_id is None:
            raise PipelineError(
                FailureReason.SPEC, "The record of this classification says no pad_token_id; train it again."
            )
        classes = Classes(tuple(request.labels), request.pad_token_id, request.seed)
    with memory_errors_named("replay the probe on a machine with more memory."), deprecations_silenced():
        loaded = load_base(
            base, device, quantization=request.quantization, dtype=request.dtype, held=request.held, classes=classes
        )
        model = load_adapter(loaded.model, Path(request.adapter))
        over = (model, tokenizer, base, device.torch_device)
        report = probe(*over, labelled=classes is not None)
        answers = None
        if request.answers and classes is None:
            answers = served_probe(*over, quantization=loaded.quantization)
    return ProbeAnswer(report=report, dtype=loaded.dtype, device=device.kind, answers=answers)


def load(_request: ProbeRequest) -> None:
    """Import the libraries, except those that only some bases need."""
    # As for a worker's child: bitsandbytes would load a whole compiler that is never used.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    for name in ("workers.pipelines.data.probe", "workers.pipelines.model.loading", "peft"):
        importlib.import_module(name)


if __name__ == "__main__":
    sys.exit(answer(ProbeRequest, replay, load=load))
