"""From a configuration to an engine that answers: the base in memory, and how it reads and writes text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from workers.pipelines.model.device import choose_device
from workers.serving.configuration import EngineConfiguration
from workers.serving.decoding.loop import DecodeLoop
from workers.serving.door.engine import ServedEngine
from workers.serving.texts.prompts import PromptRenderers
from workers.serving.texts.versions import TextsOfBase


def start_engine(configuration: EngineConfiguration, renderer: PromptRenderers) -> tuple[ServedEngine, dict[str, Any]]:
    """Load the base. Also returns what the program says of itself. Raises PipelineError, ServingError."""
    base, device = Path(configuration.base), choose_device()
    dtype = configuration.dtype
    if dtype is None and configuration.quantization is None and device.kind == "cpu":
        dtype = "float32"
    with ThreadPoolExecutor(1) as beside:
        # It waits for the renderer, and for files.
        reading = beside.submit(TextsOfBase, base, renderer)
        loop = DecodeLoop(base, dtype=dtype, device=device, quantization=configuration.quantization)
        try:
            texts = reading.result()
        except BaseException:
            loop.close()
            raise
    context = min(loop.context_tokens, configuration.context_tokens or loop.context_tokens)
    facts = {
        "base": configuration.base,
        "fingerprint": configuration.fingerprint,
        "dtype": loop.loaded.dtype,
        "device": device.name,
    }
    return ServedEngine(base, loop, texts, renderer, context), facts
