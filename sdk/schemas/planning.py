"""The forecast of a training: its parts, the cards that it fits, and what to choose."""

from __future__ import annotations

from typing import Literal

from sdk.schemas.wire import Wire

#: "fits" takes at most 70 % of the card, "tight" more of it, and "no" more than there is.
Verdict = Literal["fits", "tight", "no"]
PlanMethod = Literal["qlora", "lora", "full"]
#: The parts that grow with the rows of a pass.
ROW_PARTS = ("activations", "logits")
Task = Literal["instruct", "summarise", "code", "format"]


class PlanPart(Wire):
    """What one part of a training takes."""

    name: str
    #: In the memory of the card, or of the machine.
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
        """What the card must have."""
        return sum(part.size_bytes for part in self.parts if part.where == "card")

    @property
    def place(self) -> Literal["card", "machine"]:
        """The memory that limits it: that of the card, or of a machine without one."""
        return "card" if any(part.where == "card" for part in self.parts) else "machine"

    @property
    def needed_bytes(self) -> int:
        """What the memory must have that limits it."""
        return sum(part.size_bytes for part in self.parts if part.where == self.place)

    @property
    def fixed_bytes(self) -> int:
        """What of that is needed whatever the rows are."""
        return self.needed_bytes - sum(part.size_bytes for part in self.parts if part.name in ROW_PARTS)

    @property
    def largest(self) -> PlanPart:
        """The part that takes most of the memory that limits it."""
        return max((part for part in self.parts if part.where == self.place), key=lambda part: part.size_bytes)


class JobForecast(Wire):
    """What a job was forecast to take when it was submitted, with rows as long as its `max_length` allows."""

    #: On a worker with a card, and on one without; None where that is not known, or no such worker may have the job.
    card: Forecast | None = None
    machine: Forecast | None = None
    #: Why nothing is forecast but the base's weights, in one sentence; None where it is.
    unknown: str | None = None


#: Past jobs of a device below which nothing is learnt of them.
LEAST_JOBS = 5


class DeviceForecasts(Wire):
    """What past trainings on a device have taken of their forecasts, and how fast they were."""

    #: What the device calls itself; "cpu" without a card.
    device: str
    jobs: int
    #: The median of measured over forecast, and their standard deviation.
    ratio: float
    spread: float
    #: Median of parameters of the base · tokens a second; None where too few jobs say it.
    parameter_tokens_per_s: float | None = None


class JobPeak(Wire):
    """What a training took, beside what its worker forecast with the rows that it had read."""

    device: str
    forecast_bytes: int
    measured_bytes: int
    #: What the caller's past jobs on that device say, where there are enough.
    learnt: DeviceForecasts | None = None


class CardFit(Wire):
    """Whether a training fits a card, by the method, with the batch and length asked for."""

    card: str
    memory_bytes: int
    source: str
    qlora: Verdict
    lora: Verdict
    full: Verdict


class Choice(Wire):
    """One option of a training, and why it is chosen so."""

    option: str
    value: str
    reason: str


class Plan(Wire):
    """What a training takes, before it is started."""

    model_type: str
    #: Parameters of the base, a tied head counted once.
    parameters: int
    #: "config" for a table of the family, "files" for the headers of the weights, "model" for what transformers builds.
    shapes_from: Literal["config", "files", "model"]
    method: PlanMethod
    trainable: int
    #: Trainable parameters over those of the base, and over both together, as PEFT prints it.
    percent_of_base: float
    percent_of_both: float
    #: Trainable parameters by the last part of a module's name; empty for full fine-tuning.
    trainable_by_module: dict[str, int]
    #: Bytes of `adapter_model.safetensors`.
    adapter_size_bytes: int
    #: The configuration that `recommendation` has.
    forecast: Forecast
    #: Bytes of a card that each method needs, with the batch and length asked for, and with checkpointing unless that is off.
    card_bytes: dict[PlanMethod, int]
    #: The card that was asked for, or the smallest that this fits.
    card: str | None
    #: Of the forecast on that card.
    verdict: Verdict
    cards: list[CardFit]
    recommendation: list[Choice]
    notes: list[str]
    #: What the registry's past trainings say, by device; empty without a registry, or where there are too few.
    learnt: list[DeviceForecasts] = []
