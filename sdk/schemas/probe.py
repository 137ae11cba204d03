"""What a version does to its base: the norms of ΔW by module, and how far it moves predictions on fixed texts.

>>> report = ProbeReport(texts_digest="0" * 64, texts=[ProbeText(tokens=3, logit_gap=0.5, kl=0.25)], largest_logit=2.0)
>>> report.metrics()["probe_kl"], report.metrics()["probe_logit_gap_1"]
(0.25, 0.5)
>>> recorded_probe(report.metrics(), {"probe_texts": "0" * 64}) == report
True
>>> recorded_probe({"loss": 1.0}, None) is None
True
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training_report import Labels
from sdk.schemas.wire import JsonScalar, Sha256, Wire

#: A training that moves no logit by as much has learnt nothing.
LEAST_LOGIT_GAP = 1e-6
#: Tokens of a fixed text at most.
MOST_TOKENS = 128
#: Key of a training's record for the digest of the texts.
TEXTS_KEY = "probe_texts"
_TOKENS = "probe_tokens_"

DtypeName = Literal["bfloat16", "float16", "float32"]

#: The norm of ΔW = s·B·A by module, as the adapter names it without PEFT's prefix; None where it can't be told.
Norms = dict[str, float | None]


class VersionNorms(Wire):
    """What a version adds to its base, as the registry derived it from the bytes."""

    #: The ref that always means this version.
    ref: str
    digest: str
    #: The Frobenius norm of ΔW = s·B·A of each module, of stacked experts over all of them; null where it can't be told. Before
    #: the magnitudes of DoRA. Null as a whole: the version was made by an earlier release.
    norms: Norms | None
    #: Parameters of the base that whole tensors of the version take the place of, or rows or biases of them.
    replaced: list[str]


class ProbeText(Wire):
    """How far an adapter moves what a base predicts on one text."""

    tokens: Annotated[int, Field(ge=1)]
    #: The largest |logit with the adapter − logit without it|, in float32.
    logit_gap: Annotated[float, Field(ge=0)]
    #: KL(base ‖ base + adapter) in nats, the mean over the text's tokens; of a classification that of its labels.
    kl: Annotated[float, Field(ge=0)]


class ProbeReport(Wire):
    """How far an adapter moves what a base predicts on the fixed texts."""

    #: Of the texts.
    texts_digest: Sha256
    texts: Annotated[list[ProbeText], Field(min_length=1, max_length=64)]
    #: The largest |logit| of the base alone, by which rounding is judged.
    largest_logit: Annotated[float, Field(ge=0)]

    @property
    def logit_gap(self) -> float:
        """The largest one of any text."""
        return max(text.logit_gap for text in self.texts)

    @property
    def tokens(self) -> int:
        """Of all texts."""
        return sum(text.tokens for text in self.texts)

    @property
    def kl(self) -> float:
        """In nats a token."""
        return sum(text.kl * text.tokens for text in self.texts) / self.tokens

    def metrics(self) -> dict[str, float]:
        """Return it as a training's record keeps it, beside the digest of the texts."""
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
    """What is asked of the program that measures an adapter over its base."""

    #: A folder with a base's files, and nothing else.
    base: str
    adapter: str
    #: How the base was quantised in training.
    quantization: QuantizationRecipe | None
    #: What was computed in, and how quantised weights were held; None: as this device would.
    dtype: DtypeName | None = None
    held: Literal["packed", "wide"] | None = None
    #: Of a classification: what it tells apart, by which token rows are padded, and the seed of its first head.
    labels: Labels | None = None
    pad_token_id: int | None = None
    seed: int = 0


class ProbeAnswer(Wire):
    """What it found, and in what it computed."""

    report: ProbeReport
    dtype: DtypeName
    device: Literal["cpu", "cuda"]


class NormDiffering(Wire):
    """A module whose norm is not the one that the registry keeps; null where one side has no such module."""

    module: str
    stored: float | None
    found: float | None


class TextDiffering(Wire):
    """A number of one text that is further from the recorded one than rounding explains."""

    #: Counted from 1.
    text: int
    #: "tokens", "logit_gap" or "kl".
    what: Literal["tokens", "logit_gap", "kl"]
    recorded: float
    found: float
    #: How far apart the two may be.
    allowed: float


class LogitsReplay(Wire):
    """The probe of a training once more."""

    #: None: the record has none, as of a version that was pushed; then nothing is compared.
    recorded: ProbeReport | None
    found: ProbeReport
    dtype: DtypeName
    device: Literal["cpu", "cuda"]
    differing: list[TextDiffering]


class ProbeReplay(Wire):
    """What a pulled version does to its base, against what is recorded of it."""

    ref: str
    digest: str
    #: Of the pulled bytes.
    norms: Norms
    replaced: list[str]
    #: Whether the registry keeps norms to hold them against: not of a version that an earlier release published.
    norms_stored: bool
    norms_differing: list[NormDiffering]
    #: None where predictions were not compared; the notes say why.
    logits: LogitsReplay | None
    #: What was left out, in sentences.
    notes: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing differs of what was compared."""
        return not self.norms_differing and not (self.logits is not None and self.logits.differing)


def says_probe(metrics: Mapping[str, float], training: Mapping[str, JsonScalar] | None) -> bool:
    """Whether a version's record says anything of a probe, readable or not: its metrics are whatever its publisher wrote."""
    return TEXTS_KEY in (training or {}) or any(name.startswith(_TOKENS) for name in metrics)


def recorded_probe(metrics: Mapping[str, float], training: Mapping[str, JsonScalar] | None) -> ProbeReport | None:
    """Return the probe of a version's record; None where there is none that can be read, as of a version that was pushed."""
    numbers = list(takewhile(lambda number: f"{_TOKENS}{number}" in metrics, count(1)))
    if len(numbers) != sum(name.startswith(_TOKENS) for name in metrics):
        return None
    try:
        texts = [
            {"tokens": _whole(metrics[f"{_TOKENS}{number}"])}
            | {name: metrics[f"probe_{name}_{number}"] for name in ("logit_gap", "kl")}
            for number in numbers
        ]
        found = {"texts_digest": (training or {})[TEXTS_KEY], "texts": texts}
        return ProbeReport.model_validate(found | {"largest_logit": metrics["probe_largest_logit"]})
    except (KeyError, ValidationError):
        return None


def _whole(number: float) -> float | int:
    """Return a number as an integer, where it is one."""
    return int(number) if float(number).is_integer() else number
