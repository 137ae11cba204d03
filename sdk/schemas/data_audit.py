"""What is found in the rows of a file before a training (`DataAudit`)."""

from __future__ import annotations

from typing import Annotated, Literal

from sdk.formats.objectives import LossOn
from sdk.schemas.template_fields import TemplateFields
from sdk.schemas.vocabulary_fields import VocabularyFields
from sdk.schemas.wire import IF_ANY, IF_SET, Open, Sha256, Wire

#: What can be found, in the order in which it is reported.
Kind = Literal[
    "unusable",
    "empty",
    "labels",
    "exact_duplicate",
    "normalised_duplicate",
    "near_duplicate",
    "conflict",
    "held_out_unusable",
    "held_out_labels",
    "held_out_exact",
    "held_out_normalised",
    "held_out_near",
    "control_characters",
    "refused_by_base",
    "too_long",
]


class AuditExample(Wire):
    """Rows that a finding is about."""

    #: Their names in messages, "line 7" or "row 7", counted from 1; the first in the file comes first.
    rows: list[str]
    #: The row of the held-out file, if it is one of those.
    held_out: Annotated[str | None, IF_SET] = None
    #: What is wrong, as the rest of a sentence, or how much is equal.
    detail: Annotated[str | None, IF_SET] = None


class AuditFinding(Wire):
    """One kind of thing that is wrong with rows."""

    kind: Annotated[Kind, Open]
    #: How many rows have it; for duplicates all but the first of each group, for held-out rows those rows.
    rows: int
    examples: list[AuditExample]


class LengthBucket(Wire):
    """How many texts are at most this long, and longer than in the bucket before."""

    up_to: int
    rows: int


class TokenCounts(Wire):
    """Rows as tokens of a base, as a training would make them; for all rows, or for a sample spread over the file."""

    #: How many rows were counted, and how many can be used.
    rows: int
    of_rows: int
    max_length: int
    tokens: int
    #: Tokens that the loss would be computed on.
    supervised_tokens: int
    longest: int
    #: Rows longer than max_length, and what cutting them removes: their tokens beyond it, and rows with nothing left to learn.
    rows_cut: int
    tokens_lost: int
    rows_dropped: int
    #: Texts longer than max_length, which are split and lose nothing.
    rows_split: int = 0
    lengths: list[LengthBucket]
    #: Rows that this base can't be trained on, and rows that would be cut.
    refusals: list[AuditExample] = []
    rows_refused: int = 0
    too_long: list[AuditExample] = []
    #: Special tokens that the tokenizer puts around every text, and how many rows have them already: they get no second.
    had_special: Annotated[dict[str, int], IF_ANY] = {}


class TokenCountRequest(VocabularyFields, TemplateFields):
    """Rows whose tokens are to be counted, for the worker's program."""

    base: str
    data: str
    columns: str | None = None
    #: The column by which groups are held out.
    group_by: str | None = None
    loss_on: LossOn | None = None
    max_length: int
    day: str
    #: Usable rows of the file, and how many of them to count.
    of_rows: int
    sample: int
    examples: int


class DataAudit(Wire):
    """What was found in the rows of a file."""

    data: str
    digest: Sha256
    #: All rows, including those that can't be used.
    rows: int
    #: Rows that a training would use.
    usable_rows: int
    shape: str | None
    findings: list[AuditFinding]
    #: Whether all candidates for near duplicates were compared; if not, there may be more of these.
    complete: bool
    characters: int
    #: Texts by their length in characters.
    lengths: list[LengthBucket]
    #: Share of each script among the letters, the largest first.
    scripts: dict[str, float]
    held_out: Annotated[str | None, IF_SET] = None
    held_out_rows: Annotated[int | None, IF_SET] = None
    tokens: Annotated[TokenCounts | None, IF_SET] = None

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings
