"""The files of an adapter, and how PEFT names the tensors in its weights.

>>> lora_key("base_model.model.layers.0.q_proj.lora_A.weight")
LoraKey(module='layers.0.q_proj', part='A')
>>> lora_key("base_model.model.embed.lora_embedding_B"), lora_key("base_model.model.score.weight")
(LoraKey(module='embed', part='embedding_B'), None)
>>> base_parameter("base_model.model.score.base_layer.weight"), base_parameter("score.weight")
('score.base_layer.weight', None)
>>> unwrapped("score.base_layer.weight"), unwrapped("embed.token_adapter.base_layer.weight")
('score.weight', 'embed.weight')
>>> base_module("layers.0.experts.base_layer")
'layers.0.experts'
"""

from __future__ import annotations

import re
from typing import NamedTuple

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
#: The chat template that rendered its conversations, in the file that transformers and vLLM read.
TEMPLATE_FILE = "chat_template.jinja"
#: How answers are generated, and where they stop, as transformers reads it.
GENERATION_FILE = "generation_config.json"
#: How its rows became tokens: `sdk.schemas.recorded.Rendering`, in canonical JSON.
RENDERING_FILE = "rendering.json"
#: The files of a tokenizer, without its chat template. They come with an adapter whose tokenizer has tokens that its base's lacks.
VOCABULARY_FILES = (
    "added_tokens.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
#: Files that may come with the two that make an adapter, for serving it.
SERVING_FILES = (TEMPLATE_FILE, GENERATION_FILE, RENDERING_FILE, *VOCABULARY_FILES)
#: The longest templates of published models have about 20 KiB.
MAX_SERVING_BYTES = 1024 * 1024
#: The vocabularies of published models have up to 35 MB.
MAX_VOCABULARY_BYTES = 64 * 1024 * 1024

#: How the warning begins for a version whose embeddings have another number of tokens than the base's.
HOLDS_EMBEDDINGS = "the adapter holds embeddings of "
#: How the warning begins for a version that consists mostly of whole embeddings and saved modules.
MOSTLY_WHOLE = "embeddings and saved modules are "

#: PEFT's prefix for the name of each tensor of the model that it wraps.
PREFIX = "base_model.model."
_PREFIX = re.escape(PREFIX)
_LORA_KEY = re.compile(
    _PREFIX + r"(?P<module>.+)\."
    r"lora_(?P<part>A\.weight|B\.weight|B\.bias|embedding_A|embedding_B|magnitude_vector(?:\.weight)?)"
)
#: What variants of LoRA have besides A and B; each group has the name of the setting that turns on the variant.
_VARIANT_KEY = re.compile(
    _PREFIX + r".+\.lora_(?:(?P<velora_config>velora_embed)|(?P<monteclora_config>monteclora_sampler\..+))"
)
_KEY = re.compile(_PREFIX + r"(?P<parameter>.+)")
#: What PEFT inserts between a module's name and its weight if it wraps the module.
_WRAPPERS = re.compile(r"(?:\.token_adapter)?\.base_layer(?=\.)|\.(?:modules_to_save|original_module)(?=\.)")


def most_bytes(name: str) -> int:
    """Return how long one of `SERVING_FILES` may be."""
    return MAX_VOCABULARY_BYTES if name in VOCABULARY_FILES else MAX_SERVING_BYTES


class LoraKey(NamedTuple):
    """The parts of the name of one of LoRA's own tensors."""

    #: The adapted module, without PEFT's prefix.
    module: str
    #: A, B, embedding_A, embedding_B, B.bias or magnitude_vector.
    part: str


def lora_key(name: str) -> LoraKey | None:
    """Return the module and the part that a tensor belongs to; None if it isn't one of LoRA's own."""
    match = _LORA_KEY.fullmatch(name)
    return LoraKey(match["module"], match["part"].removesuffix(".weight")) if match else None


def variant_setting(name: str) -> str | None:
    """Return the setting of a config that gives LoRA this tensor besides A and B; None for any other tensor."""
    match = _VARIANT_KEY.fullmatch(name)
    return match.lastgroup if match else None


def base_parameter(name: str) -> str | None:
    """Return the base's parameter that a tensor replaces or adds to, without PEFT's prefix; None without the prefix."""
    match = _KEY.fullmatch(name)
    return match["parameter"] if match else None


def unwrapped(parameter: str) -> str:
    """Return the base's name of a parameter, without the parts added by PEFT's wrappers."""
    return _WRAPPERS.sub("", parameter)


def base_module(module: str) -> str:
    """Return an adapted module's name in the base: if several of its parameters are adapted, each wraps the one before."""
    return module.replace(".base_layer", "")
