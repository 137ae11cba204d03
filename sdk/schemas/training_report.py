"""What a training did, and how it used its datasets."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from sdk.formats.labels import MAX_LABEL_CHARACTERS, MAX_LABELS
from sdk.schemas.advice import AdviceList
from sdk.schemas.looks import LookRecord
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.recorded import Rendering
from sdk.schemas.serving import ServedProbe
from sdk.schemas.training_warnings import training_warnings
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import IF_ANY, IF_SET, JsonScalar, Wire


def _distinct(value: list[str]) -> list[str]:
    if len(set(value)) != len(value):
        raise ValueError("a label appears twice")
    return value


#: Labels in the order that numbers them from 0.
Labels = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_LABEL_CHARACTERS)]],
    Field(min_length=2, max_length=MAX_LABELS),
    AfterValidator(_distinct),
]


#: How many datasets the record of a training names, more than one may be asked for with.
MOST_USED = 64


class SourceUse(Wire):
    """How a training used one of several datasets."""

    digest: str
    #: Its share of the rows of an epoch, against those of the others; None: all of its rows come once.
    weight: Annotated[float, Field(gt=0)] | None = None
    #: Rows of it that are not held out.
    rows: Annotated[int, Field(ge=0)]
    #: Rows of it in one epoch, before those with nothing to learn from are dropped.
    epoch_rows: Annotated[int, Field(ge=0)]


class DatasetUse(Wire):
    """How a training used its dataset or datasets; `digest` is the first one's."""

    digest: str
    #: Rows left after dropping those with nothing to learn from.
    rows: Annotated[int, Field(ge=0)]
    #: Number of tokens that the loss is computed on in one epoch; for a classification the labels, one per row.
    supervised_tokens: Annotated[int, Field(ge=0)]
    #: None: it is unknown.
    rendering: Annotated[Rendering | None, IF_SET] = None
    #: The labels of a classification.
    labels: Annotated[Labels | None, IF_SET] = None
    #: Each dataset if there were several; None: only the one.
    sources: Annotated[Annotated[list[SourceUse], Field(max_length=MOST_USED)] | None, IF_SET] = None

    @property
    def digests(self) -> list[str]:
        """The digests of all datasets."""
        return [self.digest] if self.sources is None else [source.digest for source in self.sources]


class LossPoint(Wire):
    """One point of the loss curve that workers of release 0.1 put into a report."""

    step: int
    loss: float
    lr: float | None = None


class TrainingReport(Wire):
    """What a training did, as recorded in the lineage of its version."""

    lora: LoraConfig
    quantization: QuantizationRecipe | None
    rows: int
    supervised_tokens: int
    #: The record of the training, flat.
    training: dict[str, JsonScalar]
    #: loss, first_loss, last_loss, eval_loss, eval_loss_base, largest_update, train_s, tokens_per_s, peak_memory_bytes, trainable_parameters …
    metrics: dict[str, float]
    #: Distribution to version.
    libraries: dict[str, str]
    #: The looks at held-out rows of a training that has ended; none for a checkpoint.
    looks: Annotated[list[LookRecord], IF_ANY] = []
    #: Read from workers of release 0.1 alone: the points of a training are its series.
    curve: list[LossPoint] = []
    rendering: Annotated[Rendering | None, IF_SET] = None
    #: The labels of a classification.
    labels: Annotated[Labels | None, IF_SET] = None
    #: Each dataset if there were several.
    sources: Annotated[list[SourceUse] | None, IF_SET] = None
    #: What its steps and looks say should be done otherwise, at its end.
    advice: Annotated[AdviceList, IF_ANY] = []
    #: What the version answers, for engines to be held against; of a training that has ended.
    served_probe: Annotated[ServedProbe | None, IF_SET] = None

    @property
    def record(self) -> TrainingRecord:
        """The record of the training."""
        return TrainingRecord.read(self.training)

    @property
    def warnings(self) -> list[str]:
        """What its own numbers say against it."""
        return training_warnings(self.record, self.metrics, self.advice)

    def dataset_use(self, digest: str) -> DatasetUse:
        """Return how the training used the dataset with a digest."""
        return DatasetUse(
            digest=digest,
            rows=self.rows,
            supervised_tokens=self.supervised_tokens,
            rendering=self.rendering,
            labels=self.labels,
            sources=self.sources,
        )

    @model_validator(mode="after")
    def _loss_is_there(self) -> TrainingReport:
        if "loss" not in self.metrics:
            raise ValueError("the training report is incomplete: metrics.loss is missing")
        return self
