"""What an engine program is told when it starts: one JSON object on the first line of its input."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.wire import Sha256, Wire

#: How much main memory must stay available, unless something else is said; a program that nobody waits for ends below it.
SPARE_BYTES = 512 * 1024 * 1024


class EngineConfiguration(Wire):
    """One base, and where it is served."""

    #: The base's folder, and its fingerprint, which is only shown.
    base: Annotated[str, Field(min_length=1, max_length=4096)]
    fingerprint: Sha256 | None = None
    #: None: as it is stored, and float32 on a CPU.
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    #: How the base's weights are held; None: in native precision.
    quantization: QuantizationRecipe | None = None
    #: The path of the socket, in a folder that only its owner can enter.
    socket: Annotated[str, Field(min_length=1, max_length=4096)]
    #: After how many seconds without a request it ends; None: never.
    idle_s: Annotated[float | None, Field(ge=0)] = None
    #: The most tokens of a prompt with its answer; None: as many as the base has positions.
    context_tokens: Annotated[int | None, Field(ge=1)] = None
    #: Below how much available memory it ends as soon as nothing runs; None: `SPARE_BYTES` if it ends by itself, else never.
    spare_bytes: Annotated[int | None, Field(ge=0)] = None

    @property
    def least_memory_bytes(self) -> int:
        """Below how much available main memory the program ends."""
        if self.spare_bytes is not None:
            return self.spare_bytes
        return 0 if self.idle_s is None else SPARE_BYTES
