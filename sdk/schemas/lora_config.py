"""The LoRA configuration of a version, and how its base was quantised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from sdk.schemas.wire import IF_SET, JsonScalar, Open, Wire

#: What a LoRA record keeps of settings without their own field; the rest is in `adapter_config.json`.
MAX_OTHER_SETTINGS = 64
MAX_OTHER_CHARACTERS = 200
_ShortText = Annotated[str, StringConstraints(max_length=MAX_OTHER_CHARACTERS)]


class LoraConfig(Wire):
    """The LoRA configuration of a version, resolved: real numbers and real module names."""

    rank: Annotated[int, Field(ge=1)]
    #: α; the scale is α/r, or α/√r with use_rslora.
    alpha: float
    dropout: Annotated[float, Field(ge=0, lt=1)]
    #: Sorted names as in `adapter_config.json`; may be empty beside target_parameters.
    target_modules: list[str]
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    modules_to_save: list[str] = []
    bias: Annotated[Literal["none", "all", "lora_only"], Open] = "none"
    init: JsonScalar = True
    use_rslora: bool = False
    use_dora: bool = False
    task_type: str | None = None
    #: Whether the base keeps the adapted weights transposed, (in, out), as GPT-2 does.
    fan_in_fan_out: bool = False
    #: Whether B has its own bias.
    lora_bias: bool = False
    #: Sorted names of modules that are left out although target_modules includes them.
    exclude_modules: list[str] = []
    #: Sorted numbers of the layers that are adapted; empty means all.
    layers_to_transform: list[int] = []
    #: Names of the lists that layers_to_transform counts in; empty means those that PEFT knows.
    layers_pattern: list[str] = []
    #: Sorted names of parameters that are adapted without their own module, such as stacked experts.
    target_parameters: list[str] = []
    #: Ranges [start, end) of the base's layers that make up the adapted model; empty means the layers as they are.
    layer_replication: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = []
    #: Tokens whose embedding is trained: in the input embedding, or by the name of an embedding module.
    trainable_token_indices: list[int] | dict[str, list[int]] = []
    #: Tokens after which the adapter acts (activated LoRA); empty means on every token.
    alora_invocation_tokens: list[int] = []
    #: Other settings that differ from PEFT's defaults; nested ones by dotted names.
    other: Annotated[
        dict[_ShortText, _ShortText | int | float | bool | None], Field(max_length=MAX_OTHER_SETTINGS)
    ] = {}

    @model_validator(mode="after")
    def _something_is_adapted(self) -> LoraConfig:
        if not self.target_modules and not self.target_parameters:
            raise ValueError("neither target_modules nor target_parameters names anything")
        return self


class QuantizationRecipe(Wire):
    """How the base was quantised during training, or is stored; needed to merge correctly."""

    method: Annotated[Literal["bitsandbytes"], Open] = "bitsandbytes"
    type: Annotated[Literal["nf4", "fp4", "int8"], Open] = "nf4"
    double_quant: bool = True
    compute_dtype: Annotated[Literal["bfloat16", "float16", "float32"], Open] = "bfloat16"
    #: How many weights share one scale; None: the weights of a row.
    block_size: Annotated[int, Field(ge=1)] | None = 64
    skipped_modules: list[str] = []
    library_version: str | None = None
    #: The type of the tensors with the packed weights, if the base is stored packed; None: the training packed it.
    storage_dtype: Annotated[Annotated[Literal["uint8", "bfloat16", "float16", "float32"], Open] | None, IF_SET] = None

    @model_validator(mode="before")
    @classmethod
    def _int8_is_by_rows(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("type") == "int8":
            return {"double_quant": False, "block_size": None, **given}
        return given

    @property
    def four_bit_block(self) -> int:
        """How many weights share one scale, for a recipe in 4 bits."""
        assert self.block_size is not None
        return self.block_size
