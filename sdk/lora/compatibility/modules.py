"""The linear modules of bases by architecture, as transformers and adapters name them.

Only architectures for which the engines' sources were read; any other is "unknown", never "yes". Models with images or
linear attention are unknown too: engines join and rename their modules in ways that change from release to release.
"""

from __future__ import annotations

from collections.abc import Mapping

ATTENTION = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
LLAMA = ATTENTION | {"gate_proj", "up_proj", "down_proj"}

_LIKE_LLAMA = """
Gemma2ForCausalLM Gemma3ForCausalLM GemmaForCausalLM GraniteForCausalLM LlamaForCausalLM
MistralForCausalLM Ministral3ForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoForCausalLM
Qwen2ForCausalLM Qwen3ForCausalLM SeedOssForCausalLM SmolLM3ForCausalLM
CohereForCausalLM
"""
#: For a mixture of experts, only the modules that every token passes through: its experts are stacked parameters.
_MIXTURES = """
GptOssForCausalLM GraniteMoeForCausalLM MixtralForCausalLM OlmoeForCausalLM Qwen2MoeForCausalLM Qwen3MoeForCausalLM
"""

LINEAR_MODULES: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_LIKE_LLAMA.split(), LLAMA),
    **dict.fromkeys(_MIXTURES.split(), ATTENTION),
    "BertForSequenceClassification": frozenset({"query", "key", "value", "dense"}),
    "GPTBigCodeForCausalLM": frozenset({"c_attn", "c_proj", "c_fc"}),
    "GPTNeoXForCausalLM": frozenset({"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
    "OPTForCausalLM": frozenset({"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}),
    "Phi3ForCausalLM": frozenset({"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}),
    "PhiForCausalLM": frozenset({"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"}),
    "RobertaForSequenceClassification": frozenset({"query", "key", "value", "dense"}),
    "Starcoder2ForCausalLM": ATTENTION | {"c_fc", "c_proj"},
}
