"""The engines that have a table."""

from __future__ import annotations

from collections.abc import Mapping

from sdk.lora.compatibility.llama_cpp import LLAMA_CPP
from sdk.lora.compatibility.ollama import OLLAMA
from sdk.lora.compatibility.peft import PEFT
from sdk.lora.compatibility.rules import Engine
from sdk.lora.compatibility.sglang import SGLANG
from sdk.lora.compatibility.vllm import VLLM

ENGINES: Mapping[str, Engine] = {engine.name: engine for engine in (VLLM, SGLANG, LLAMA_CPP, OLLAMA, PEFT)}
