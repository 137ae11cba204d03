"""The forecast of a training: its parts, the GPUs that it fits, and what to choose."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.option_types import Option
from sdk.schemas.wire import Wire

#: "fits" takes at most 70 % of the GPU, "tight" more, and "no" more than it has.
Verdict = Literal["fits", "tight", "no"]
PlanMethod = Literal["qlora", "lora", "full"]
#: The parts that grow with the number of rows in a pass.
ROW_PARTS = ("activations", "logits")
Task = Literal["instruct", "summarise", "code", "format"]
Attention = Literal["sdpa", "flash", "eager"]


class PlanChoices(Wire):
    """What a plan is given besides the options of a training; it chooses what is left out."""

    method: Annotated[
        PlanMethod | None,
        Option(
            "QLoRA over the base in 4 bits, LoRA over it in 16, or full fine-tuning.",
            default="the larger that leaves room on the GPU",
        ),
    ] = None
    #: A size, or a card.
    gpu: Annotated[
        str | None,
        Option("24GB, or 'RTX 4090', or '4090'.", default="the smallest GPU that it fits", metavar="SIZE|GPU"),
    ] = None
    task: Annotated[Task | None, Option("What is learnt; it sets rank and targets.")] = None
    gradient_checkpointing: Annotated[
        bool | None,
        Option("Gradient checkpointing: recompute activations instead of keeping them.", default="where needed"),
    ] = None
    attention: Annotated[Attention, Option("eager keeps all scores, (length, length) per head.")] = "sdpa"
    #: Tokens whose logits are in memory at a time.
    logit_chunk_tokens: Annotated[
        Annotated[int, Field(gt=0)] | None,
        Option("Logits of this many tokens at a time.", default="as a training does", metavar="N"),
    ] = None


class PlanPart(Wire):
    """What one part of a training takes."""

    name: str
    #: Whether it is in the GPU's memory or in the machine's.
    where: Literal["card", "machine"]
    size_bytes: int
    #: What it is made of.
    of: str


class Forecast(Wire):
    """The memory of a training in one configuration."""

    method: PlanMethod
    #: Rows in a forward pass, and the tokens of each.
    batch_size: int
    max_length: int
    gradient_checkpointing: bool
    parts: list[PlanPart]

    @property
    def card_bytes(self) -> int:
        """The memory that the GPU must have."""
        return sum(part.size_bytes for part in self.parts if part.where == "card")

    @property
    def place(self) -> Literal["card", "machine"]:
        """The memory that limits it: the GPU's, or the machine's if there is no GPU."""
        return "card" if any(part.where == "card" for part in self.parts) else "machine"

    @property
    def needed_bytes(self) -> int:
        """How much of that memory it needs."""
        return sum(part.size_bytes for part in self.parts if part.where == self.place)

    @property
    def fixed_bytes(self) -> int:
        """The part of that which doesn't depend on the rows."""
        return self.needed_bytes - sum(part.size_bytes for part in self.parts if part.name in ROW_PARTS)

    @property
    def largest(self) -> PlanPart:
        """The part that takes most of the memory that limits it."""
        return max((part for part in self.parts if part.where == self.place), key=lambda part: part.size_bytes)


class JobForecast(Wire):
    """What a job was forecast to take when it was submitted, with rows as long as its `max_length` allows."""

    #: On a worker with a GPU, and on one without; None if that is unknown, or if no such worker may have the job.
    card: Forecast | None = None
    machine: Forecast | None = None
    #: Why only the base's weights are forecast, in one sentence; None if everything is.
    unknown: str | None = None


#: How many past jobs a device must have for anything to be learnt from them.
LEAST_JOBS = 5


class DeviceForecasts(Wire):
    """How much of their forecasts past trainings on a device took, and how fast they were."""

    #: The device's own name; "cpu" without a card.
    device: str
    jobs: int
    #: The median of measured over forecast, and the standard deviation.
    ratio: float
    spread: float
    #: Median of the base's parameters · tokens per second; None if too few jobs recorded it.
    parameter_tokens_per_s: float | None = None


class JobPeak(Wire):
    """What a training took, next to its worker's forecast, which knew the actual rows."""

    device: str
    forecast_bytes: int
    measured_bytes: int
    #: What the caller's past jobs on that device show, if there are enough.
    learnt: DeviceForecasts | None = None


class CardFit(Wire):
    """Whether a training fits a GPU, by method, with the requested batch and length."""

    card: str
    memory_bytes: int
    source: str
    qlora: Verdict
    lora: Verdict
    full: Verdict


class Choice(Wire):
    """One option of a training, and why it has this value."""

    option: str
    value: str
    reason: str


class Plan(Wire):
    """What a training takes, before it is started."""

    model_type: str
    #: Parameters of the base; a tied head counts once.
    parameters: int
    #: "config" for a table of the family, "files" for the headers of the weights, "model" for what transformers builds.
    shapes_from: Literal["config", "files", "model"]
    method: PlanMethod
    trainable: int
    #: Trainable parameters divided by the base's, and by both together, as PEFT prints it.
    percent_of_base: float
    percent_of_both: float
    #: Trainable parameters by the last part of a module's name; empty for full fine-tuning.
    trainable_by_module: dict[str, int]
    #: Bytes of `adapter_model.safetensors`.
    adapter_size_bytes: int
    #: The configuration that `recommendation` has.
    forecast: Forecast
    #: The bytes of GPU memory that each method needs with the requested batch and length, and with checkpointing
    #: unless that is off.
    card_bytes: dict[PlanMethod, int]
    #: The requested GPU, or the smallest that this fits.
    card: str | None
    #: The verdict on the forecast for that card.
    verdict: Verdict
    cards: list[CardFit]
    recommendation: list[Choice]
    notes: list[str]
    #: What the registry's past trainings show, by device; empty without a registry, or if there are too few.
    learnt: list[DeviceForecasts] = []
