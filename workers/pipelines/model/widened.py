"""A model of a GGUF file as a plain folder, its 4-bit weights widened to bfloat16; started by the SDK as a program.

    python -m workers.pipelines.model.widened FILE.gguf FOLDER NAME

writes config, tokenizer, chat template and bfloat16 safetensors, and prints `{"parameters": N}`, or `{"refused": WHY}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sdk.imports import nothing_collected


def widen(gguf: Path, folder: Path, name: str) -> int:
    """Write the model of a GGUF file into a folder; return the number of its parameters."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    # Where the file lies is no property of the model.
    model.config.name_or_path = name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def main() -> int:
    """Write the folder that the arguments name."""
    gguf, folder, name = sys.argv[1:]
    try:
        with nothing_collected(ever=True):
            answer: dict[str, object] = {"parameters": widen(Path(gguf), Path(folder), name)}
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        answer = {"refused": f"{type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
