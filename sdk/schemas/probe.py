"""What a version does to its base: the norms of ΔW by module, and how far it moves predictions on fixed texts.

>>> report = ProbeReport(texts_digest="0" * 64, texts=[ProbeText(tokens=3, logit_gap=0.5, kl=0.25)], largest_logit=2.0)
>>> report.metrics()["probe_kl"], report.metrics()["probe_logit_gap_1"]
(0.25, 0.5)
>>> recorded_probe(report.metrics(), TrainingRecord(probe_texts="0" * 64)) == report
True
>>> recorded_probe({"loss": 1.0}, TrainingRecord()) is None
True
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.serving import ServedProbe
from sdk.schemas.training_report import Labels
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import IF_SET, Sha256, Wire

#: A training that moves no logit by this much has learnt nothing.
LEAST_LOGIT_GAP = 1e-6
#: The most tokens of a fixed text.
MOST_TOKENS = 128
_TOKENS = "probe_tokens_"

DtypeName = Literal["bfloat16", "float16", "float32"]

#: The norm of ΔW = s·B·A by module, named as in the adapter without PEFT's prefix; None if it can't be computed.
Norms = dict[str, float | None]


class VersionNorms(Wire):
    """What a version adds to its base, as the registry derived it from the bytes."""

    #: The ref that always names this version.
    ref: str
    digest: str
    #: The Frobenius norm of ΔW = s·B·A of each module, for stacked experts over all of them; null if it can't be
    #: computed. It is taken before DoRA's magnitudes. Null as a whole: they could not be derived.
    norms: Norms | None
    #: Parameters of the base that whole tensors of the version replace, entirely or in some rows or biases.
    replaced: list[str]


class ProbeText(Wire):
    """How far an adapter moves a base's predictions on one text."""

    tokens: Annotated[int, Field(ge=1)]
    #: The largest |logit with the adapter − logit without it|, in float32.
    logit_gap: Annotated[float, Field(ge=0)]
    #: KL(base ‖ base + adapter) in nats, the mean over the text's tokens; for a classification, the KL over its labels.
    kl: Annotated[float, Field(ge=0)]


class ProbeReport(Wire):
    """How far an adapter moves a base's predictions on the fixed texts."""

    #: The digest of the texts.
    texts_digest: Sha256
    texts: Annotated[list[ProbeText], Field(min_length=1, max_length=64)]
    #: The largest |logit| of the base alone, from which the size of rounding errors follows.
    largest_logit: Annotated[float, Field(ge=0)]

    @property
    def logit_gap(self) -> float:
        """The largest gap on any text."""
        return max(text.logit_gap for text in self.texts)

    @property
    def tokens(self) -> int:
        """The tokens of all texts."""
        return sum(text.tokens for text in self.texts)

    @property
    def kl(self) -> float:
        """The mean over all tokens, in nats per token."""
        return sum(text.kl * text.tokens for text in self.texts) / self.tokens

    def metrics(self) -> dict[str, float]:
        """Return it as metrics of a training's record, which also has the digest of the texts."""
        found = {
            "probe_logit_gap": self.logit_gap,
            "probe_kl": self.kl,
            "probe_tokens": float(self.tokens),
            "probe_largest_logit": self.largest_logit,
        }
        for number, text in enumerate(self.texts, start=1):
            found[f"probe_logit_gap_{number}"] = text.logit_gap
            found[f"probe_kl_{number}"] = text.kl
            found[f"probe_tokens_{number}"] = float(text.tokens)
        return found


class ProbeRequest(Wire):
    """The request to the program that measures an adapter over its base."""

    #: A folder with only a base's files.
    base: str
    adapter: str
    #: How the base was quantised in training.
    quantization: QuantizationRecipe | None
    #: The type of the computation, and how quantised weights were held; None: as this device would choose.
    dtype: DtypeName | None = None
    held: Literal["packed", "wide"] | None = None
    #: For a classification: its labels, the token that pads rows, and the seed of its initial head.
    labels: Labels | None = None
    pad_token_id: int | None = None
    seed: int = 0
    #: Whether to say what it answers too, for engines to be held against.
    answers: bool = False


class ProbeAnswer(Wire):
    """What the program found, and how it computed."""

    report: ProbeReport
    dtype: DtypeName
    device: Literal["cpu", "cuda"]
    #: None: it was not asked for, or predicts no tokens.
    answers: Annotated[ServedProbe | None, IF_SET] = None


class NormDiffering(Wire):
    """A module whose norm is not the one stored in the registry; null if one side has no such module."""

    module: str
    stored: float | None
    found: float | None


class TextDiffering(Wire):
    """A number for one text that differs from the recorded one by more than rounding explains."""

    #: Counted from 1.
    text: int
    #: "tokens", "logit_gap" or "kl".
    what: Literal["tokens", "logit_gap", "kl"]
    recorded: float
    found: float
    #: The allowed difference.
    allowed: float


class LogitsReplay(Wire):
    """A training's probe, measured again."""

    #: None: the record has none, as for a pushed version; then nothing is compared.
    recorded: ProbeReport | None
    found: ProbeReport
    dtype: DtypeName
    device: Literal["cpu", "cuda"]
    differing: list[TextDiffering]
    #: The logit gap's difference from the record on the text where it comes nearest to what rounding allows, and this; None:
    #: nothing was compared.
    difference: Annotated[float | None, IF_SET] = None
    allowed: Annotated[float | None, IF_SET] = None


class ProbeReplay(Wire):
    """What a pulled version does to its base, compared with its record."""

    ref: str
    digest: str
    #: The norms of the pulled bytes.
    norms: Norms
    replaced: list[str]
    #: Whether the registry has norms to compare them with.
    norms_stored: bool
    norms_differing: list[NormDiffering]
    #: None if predictions were not compared; the notes say why.
    logits: LogitsReplay | None
    #: What was left out, in sentences.
    notes: list[str]
    #: The fingerprint of the version's base.
    base: Annotated[Sha256 | None, IF_SET] = None
    #: What it answers, if that was asked for, and it predicts tokens.
    answers: Annotated[ServedProbe | None, IF_SET] = None

    @property
    def ok(self) -> bool:
        """Whether everything that was compared agrees."""
        return not self.norms_differing and not (self.logits is not None and self.logits.differing)


def says_probe(metrics: Mapping[str, float], record: TrainingRecord) -> bool:
    """Whether a version's record mentions a probe, readable or not: its metrics are whatever its publisher wrote."""
    return record.probe_texts is not None or any(name.startswith(_TOKENS) for name in metrics)


def recorded_probe(metrics: Mapping[str, float], record: TrainingRecord) -> ProbeReport | None:
    """Return the probe of a version's record; None if it has no readable one, as for a pushed version."""
    numbers = list(takewhile(lambda number: f"{_TOKENS}{number}" in metrics, count(1)))
    if len(numbers) != sum(name.startswith(_TOKENS) for name in metrics):
        return None
    try:
        texts = [
            {"tokens": _whole(metrics[f"{_TOKENS}{number}"])}
            | {name: metrics[f"probe_{name}_{number}"] for name in ("logit_gap", "kl")}
            for number in numbers
        ]
        found = {"texts_digest": record.probe_texts, "texts": texts}
        return ProbeReport.model_validate(found | {"largest_logit": metrics["probe_largest_logit"]})
    except (KeyError, ValidationError):
        return None


def _whole(number: float) -> float | int:
    """Return a number as an int if it is a whole number."""
    return int(number) if float(number).is_integer() else number
