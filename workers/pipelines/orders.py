"""A worker's orders to pipelines, and their results where no schema of the API has them. Nothing heavy is imported here,
so that a worker can write them.

An order names the module whose function `carry_out` executes it, with the libraries that this needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from sdk.rows.data_files import DataFile
from sdk.schemas.advice import Advice
from sdk.schemas.combination import CombineSpec
from sdk.schemas.evaluation import Conditions, EvaluationFailure, EvaluationReport, EvaluationSpec, MergeSpec
from sdk.schemas.events import Progress
from sdk.schemas.job_requests import CheckpointPolicy, SweepPlace
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.preview import PreviewRequest
from sdk.schemas.probe import Norms
from sdk.schemas.recorded import Day, RecordedTraining
from sdk.schemas.series import PointChunk
from sdk.schemas.sweeps import MemberResult
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import Labels, TrainingReport
from sdk.schemas.training_rows import TrainingRows
from sdk.schemas.wire import Sha256, Wire

#: Pipelines that do without torch.
LIGHT = frozenset({"data"})


class Order(Wire):
    """One run of a pipeline: local paths and a spec, nothing from the network."""

    #: The module below `workers.pipelines` whose `carry_out` does it, and its room.
    module: ClassVar[str]
    pipeline: str


class Host(Protocol):
    """The process in which a pipeline runs."""

    @property
    def out(self) -> Path:
        """The folder for the result's files."""

    @property
    def told_to_stop(self) -> bool:
        """Whether the pipeline should save its progress and end."""

    def report(self, progress: Progress) -> None:
        """Report progress."""

    def stop_in_order(self) -> None:
        """From now on, a request to stop doesn't end the process: the pipeline checks `told_to_stop`."""

    def wrote_checkpoint(self, step: int, total: int, folder: Path) -> None:
        """Report that a checkpoint is complete and on the disk."""

    def measured(self, chunk: PointChunk) -> None:
        """Report numbers of a training by step."""

    def advised(self, advice: Sequence[Advice]) -> None:
        """Report all that a training is advised so far."""

    def reached_rung(self, number: int, step: int, loss: float) -> None:
        """Ask whether a training of a sweep goes on after a rung; the rungs count from 0."""

    def goes_on(self, number: int) -> bool | None:
        """Whether it goes on after a rung; None: there is no answer yet."""


class PreviewOrder(Order):
    """Show rows as a training would learn them."""

    module = "data.preview"
    pipeline: Literal["data"] = "data"
    asked: PreviewRequest


class Fit(Wire):
    """How much of an optimiser step is computed at once. It affects memory and speed, but the result only by rounding."""

    #: Rows in one forward pass; for preferences, pairs.
    micro_rows: Annotated[int, Field(ge=1)]
    #: Whether activations are computed twice instead of kept.
    checkpointing: bool
    #: Tokens whose logits are in memory at a time; None: all supervised ones of a pass.
    chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    #: Whether what checkpointing keeps is offloaded to main memory.
    offloading: bool = False
    #: Whether rows are packed: a pass has as many tokens as `micro_rows` of the longest rows.
    packed: bool = False
    #: Whether attention computes each packed row separately, instead of all with a mask.
    row_attention: bool = False


class Rung(Wire):
    """The rung of a training on the way to less memory."""

    fit: Fit
    #: With which settings memory has run out so far, and what followed, in words.
    steps: Annotated[list[str], Field(default_factory=list)]
    #: The next rung; None: nothing takes less.
    below: Fit | None = None
    #: Rows of a pass of the look at held-out rows that is being taken; None: none is.
    look_rows: Annotated[int | None, Field(ge=1)] = None


class OrderedSource(Wire):
    """A file of rows."""

    path: Path
    #: Its name in messages.
    name: str
    #: Above 0; given for all files or for none.
    weight: float | None = None


class TrainingOrder(Order):
    """Train; the adapter's files go to the host's `out`."""

    module = "training.train"
    pipeline: Literal["training"] = "training"
    base: Path
    #: The adapter's description of its base; no local path is written.
    base_name: str
    base_revision: str | None
    data: Annotated[list[OrderedSource], Field(min_length=1)]
    eval_data: Path | None
    #: Rows that are scored before and after, and never looked at in between.
    test_data: Path | None = None
    spec: TrainingSpec
    #: The date given to chat templates.
    template_date: Day
    checkpoint: CheckpointPolicy
    #: The folder for checkpoints.
    checkpoints: Path
    #: The folder of the version that is continued.
    parent: Path | None = None
    #: How the base was quantised for that version; None: it wasn't, or no version is continued.
    quantization: QuantizationRecipe | None = None
    #: The version whose training this one repeats.
    like: RecordedTraining | None = None
    #: The folder of a checkpoint to resume from; the worker has checked its files' digests.
    resume: Path | None
    #: The folder in which weights of the base in 4 bits are kept between attempts; None: nowhere.
    kept: Path | None = None
    #: The file with the current rung, written while training.
    rung_file: Path | None = None
    #: The rung on which the system killed the previous process for lack of memory.
    killed_on: Rung | None = None
    #: The sweep that it is a member of.
    sweep: SweepPlace | None = None
    #: How long it waits at a rung of its sweep for the answer, in seconds, before it goes on without.
    wait_s: Annotated[float, Field(ge=0)] = 0.0

    @property
    def files(self) -> tuple[DataFile, ...]:
        """The files of rows."""
        return tuple(DataFile(source.path, source.name) for source in self.data)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """The weight of each file; None: all rows come once."""
        return tuple(source.weight for source in self.data if source.weight is not None) or None


class TrainingResult(Wire):
    """What a training has to say besides the adapter's files."""

    report: TrainingReport
    #: Of a member of a sweep.
    member: MemberResult | None = None
    #: The first rows, as its steps saw them.
    rows: TrainingRows | None = None


class RecordedScores(Wire):
    """The registry's scores of the same target on the same rows."""

    id: str
    conditions: Conditions
    #: Distribution → version.
    libraries: dict[str, str]
    #: Names of all scores.
    metrics: list[str]
    #: How many samples were kept.
    samples: int
    #: Whether the rows have the answers' texts.
    texts: bool = True


class EvaluationItem(Wire):
    """One thing to score."""

    base: Path
    adapter: Path | None
    quantization: QuantizationRecipe | None
    #: The folder of an adapter with whose chat template a bare base is scored; None: its own.
    rendered_as: Path | None = None
    #: The date given to chat templates.
    template_date: Day
    #: Ids of the tokens at which the adapter was taught to stop, besides its base's.
    stop_ids: list[int]
    #: The adapter's labels, if it is a classification.
    labels: Labels | None
    #: The folder in which weights of the base in 4 bits are kept between attempts; None: nowhere.
    kept: Path | None = None
    #: The newest first; empty: compute anyway.
    recorded: list[RecordedScores] = Field(default_factory=list)


class WordNet(Wire):
    """The files in which synonyms are looked up."""

    folder: Path
    #: SHA-256 over their digests.
    digest: Sha256


class EvaluationOrder(Order):
    """Score every item on the same rows."""

    module = "scoring.evaluate"
    pipeline: Literal["scoring"] = "scoring"
    items: list[EvaluationItem]
    data: Path
    spec: EvaluationSpec
    #: None: no metric needs it.
    wordnet: WordNet | None = None


class AsRecorded(Wire):
    """The scores of an item are already recorded."""

    id: str


class EvaluationScores(Wire):
    """The result of each item, in their order."""

    outcomes: list[EvaluationReport | AsRecorded | EvaluationFailure]


class MergeOrder(Order):
    """Merge; the model's files go to the host's `out`."""

    module = "merging.merge"
    pipeline: Literal["merging"] = "merging"
    base: Path
    adapter: Path
    quantization: QuantizationRecipe | None
    #: The adapter's labels, if it is a classification.
    labels: Labels | None
    spec: MergeSpec
    #: The folder in which weights of the base in 4 bits are kept between attempts; None: nowhere.
    kept: Path | None = None
    #: The norms of ΔW by module, as stored at publication; None if they could not be derived.
    norms: Norms | None = None

    @property
    def may_be_plain(self) -> bool:
        """Whether this could be a merge that needs no PEFT, and transformers to measure alone, which depends on the base and
        the adapter.
        """
        spec = self.spec
        return (
            spec.quantize is None
            and spec.dtype == "auto"
            and spec.onto != "dequantized"
            and self.quantization is None
            and self.labels is None
        )


class ParentFolder(Wire):
    """One adapter to be combined."""

    #: Its name in messages.
    label: str
    folder: Path
    weight: float


class CombineOrder(Order):
    """Combine; the adapter's files go to the host's `out`."""

    module = "combining.combine"
    pipeline: Literal["combining"] = "combining"
    parents: Annotated[list[ParentFolder], Field(min_length=1)]
    spec: CombineSpec


#: Any of them, to be read.
AnyOrder: Any = Annotated[
    PreviewOrder | TrainingOrder | EvaluationOrder | MergeOrder | CombineOrder, Field(discriminator="pipeline")
]
