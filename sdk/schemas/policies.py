"""Policies that an alias must fulfil before it moves.

>>> rule = MetricRule(not_worse_than=0.01)
>>> rule.references
['incumbent', 'best']
>>> seconds_of("30d")
2592000.0
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from sdk.formats.refs import parse_alias, parse_scope
from sdk.schemas.aliases import AliasName
from sdk.schemas.evaluation import Better, EvaluationSpec, is_of_texts
from sdk.schemas.wire import BY_HAND, IF_ANY, IF_SET, Sha256, Wire

#: The most rules over rows of a policy, metrics of one of them, keys that may sign, and approvals that are needed.
MOST_REQUIRED, MOST_METRICS, MOST_KEYS, MOST_APPROVALS = 20, 20, 10, 20
#: The most scores that a policy asks for, over all rows: each takes up to three comparisons of rows.
MOST_SCORES_ASKED = 60
#: With fewer rows than this nothing is judged, whatever a policy says.
LEAST_ROWS = 20
#: Groups of a column with fewer rows are named, and not judged.
LEAST_SLICE_ROWS = 20

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_AGE = re.compile(r"([1-9][0-9]{0,6})([smhdw])")
_REFERENCE = re.compile(r"incumbent|best|v[1-9][0-9]{0,8}")


def seconds_of(age: str) -> float:
    """Return the seconds of an age such as `90s`, `12h`, `7d` or `4w`. Raises ValueError."""
    found = _AGE.fullmatch(age)
    if found is None:
        raise ValueError(f"{age[:20]!r} is not an age; write a whole number with s, m, h, d or w, such as 30d")
    return int(found[1]) * _UNITS[found[2]]


def _age(value: str) -> str:
    seconds_of(value)
    return value


def _reference(value: str) -> str:
    if _REFERENCE.fullmatch(value) is None:
        raise ValueError(f"{value[:20]!r} is nothing to compare with; write incumbent, best, or a version such as v3")
    return value


def _listed(value: object, info: ValidationInfo) -> object:
    """One text that a person wrote in place of a list."""
    return [value] if info.context is BY_HAND and isinstance(value, str) else value


Age = Annotated[str, AfterValidator(_age), WithJsonSchema({"type": "string", "pattern": f"^{_AGE.pattern}$"})]
Reference = Annotated[
    str, AfterValidator(_reference), WithJsonSchema({"type": "string", "pattern": f"^({_REFERENCE.pattern})$"})
]
Finite = Annotated[float, Field(ge=-1e15, le=1e15)]
Column = Annotated[str, Field(min_length=1, max_length=200)]


class MetricRule(Wire):
    """What one score must be."""

    #: The interval's near end, at the policy's alpha, must be at least, or at most, this.
    at_least: Annotated[Finite | None, IF_SET] = None
    at_most: Annotated[Finite | None, IF_SET] = None
    #: Take the score itself in place of the interval's near end.
    point: Annotated[bool, IF_ANY] = False
    #: Not worse by more than this, in the unit of the score, than each of `against`, with confidence 1 - alpha.
    not_worse_than: Annotated[Finite | None, IF_SET] = None
    #: "incumbent": what the alias named last, its removal included; "best": the best that it has named under the policy;
    #: or a version. None: the first two.
    against: Annotated[
        Annotated[list[Reference], Field(min_length=1, max_length=10)] | None, BeforeValidator(_listed), IF_SET
    ] = None
    #: Whether less or more of it is better, of a score that its scorer declares no direction of; a stored policy has what
    #: was declared when it was set. Of all other metrics it is known.
    better: Annotated[Better | None, IF_SET] = None

    @property
    def references(self) -> list[str]:
        """What it is compared with."""
        return ["incumbent", "best"] if self.against is None else list(dict.fromkeys(self.against))

    @model_validator(mode="after")
    def _asks(self) -> MetricRule:
        if self.at_least is self.at_most is self.not_worse_than is None:
            raise ValueError("this asks for nothing; give at_least, at_most or not_worse_than")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"no score is at least {self.at_least:g} and at most {self.at_most:g}")
        if self.point and self.at_least is self.at_most is None:
            raise ValueError("point belongs to at_least and at_most; leave it out")
        if self.not_worse_than is not None and self.not_worse_than < 0:
            raise ValueError(
                "a margin is by how much it may be worse, whether less or more is better; give not_worse_than of 0 or more"
            )
        if self.against is not None and self.not_worse_than is None:
            raise ValueError("against belongs to not_worse_than; leave it out")
        return self


class RowsRule(Wire):
    """What the scores on the rows of one dataset must be."""

    #: The dataset's name, name@vN, or digest; in a stored policy its digest.
    data: Annotated[str, Field(min_length=1, max_length=300)]
    #: What it was called when the policy was set; for readers.
    data_name: Annotated[Annotated[str, Field(max_length=300)] | None, IF_SET] = None
    #: Only scores of this grader; None: of any.
    grader: Annotated[Annotated[str, Field(min_length=1, max_length=40)] | None, IF_SET] = None
    #: A column: every rule must hold in each group of rows with the same value, too.
    by: Annotated[Column | None, IF_SET] = None
    #: A column whose rows with the same value belong together, such as one conversation's.
    cluster: Annotated[Column | None, IF_SET] = None
    #: With fewer rows nothing is decided.
    min_rows: Annotated[int, Field(ge=LEAST_ROWS, le=1_000_000)] = 100
    #: Whether rows by which the version was chosen may judge it.
    chosen_rows: Literal["refused", "allowed"] = "refused"
    #: "other_worker": a token scored it that neither trained nor pushed it.
    scored_by: Literal["any", "other_worker"] = "any"
    #: Older scores don't count.
    max_age: Annotated[Age | None, IF_SET] = None
    #: How the rows are scored. What it sets must be as in the scores that count; its metrics follow from `metrics`.
    evaluation: EvaluationSpec = EvaluationSpec()
    metrics: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=100)], MetricRule],
        Field(min_length=1, max_length=MOST_METRICS),
    ]

    @property
    def first_rows(self) -> int | None:
        """How many of the first rows judge by their answers, if any metric is a score of answers; None: all rows judge."""
        return self.evaluation.generate_rows if any(map(is_of_texts, self.metrics)) else None


class ForgettingRule(Wire):
    """How far a version may move its base on the general texts that every evaluation measures."""

    #: The loss may be so much above that of the bare base, in nats per token.
    loss_rise_at_most: Annotated[Finite | None, IF_SET] = None
    #: The divergence from the bare base, in nats per token.
    kl_at_most: Annotated[Annotated[float, Field(ge=0, le=1e15)] | None, IF_SET] = None

    @model_validator(mode="after")
    def _asks(self) -> ForgettingRule:
        if self.loss_rise_at_most is self.kl_at_most is None:
            raise ValueError("this asks for nothing; give loss_rise_at_most or kl_at_most")
        return self


class ContaminationRule(Wire):
    """How many of the rows that judge may have been trained on."""

    #: A share of the rows.
    at_most: Annotated[float, Field(ge=0, lt=1)] = 0.0


class ProbeRule(Wire):
    """The recorded effect on the base, measured again."""

    #: Whose measurement counts.
    replayed_by: Literal["any", "other_worker"] = "other_worker"


class PolicyDocument(Wire):
    """What must hold before an alias moves to a version."""

    alias: Annotated[AliasName, AfterValidator(parse_alias)]
    #: How often a version at the edge of a rule may get through.
    alpha: Annotated[float, Field(ge=1e-4, le=0.2)] = 0.05
    require: Annotated[list[RowsRule], Field(max_length=MOST_REQUIRED)] = []
    forgetting: Annotated[ForgettingRule | None, IF_SET] = None
    contamination: Annotated[ContaminationRule | None, IF_SET] = None
    probe: Annotated[ProbeRule | None, IF_SET] = None
    #: Public keys in PEM; one of them has signed the version.
    signed_by: Annotated[
        Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]],
            Field(min_length=1, max_length=MOST_KEYS),
        ]
        | None,
        IF_SET,
    ] = None
    #: How many others must have approved.
    approvals: Annotated[int, Field(ge=0, le=MOST_APPROVALS)] = 0
    #: After this an approval no longer counts.
    approval_age: Annotated[Age | None, IF_SET] = None
    #: Whether a rollback to what the alias has named by a decision that passed needs no new one.
    rollback: Literal["allowed", "checked"] = "allowed"
    #: Score each new version on these rows.
    evaluate: Annotated[Literal["on_ready"] | None, IF_SET] = None
    #: Move the alias to each new version for which all holds.
    promote: Annotated[Literal["automatic"] | None, IF_SET] = None
    #: So many versions may be tried on the same rows by `promote: automatic`.
    cap: Annotated[Annotated[int, Field(ge=1, le=1000)] | None, IF_SET] = None

    @model_validator(mode="after")
    def _goes_together(self) -> PolicyDocument:
        if self.promote is not None and self.cap is None:
            raise ValueError("promote: automatic needs a cap: how many versions may be tried on the same rows")
        if self.cap is not None and self.promote is None:
            raise ValueError("cap belongs to promote: automatic; leave it out")
        if self.promote is not None and self.approvals:
            raise ValueError("promote: automatic moves at once, and nobody can approve before; leave out one of them")
        if self.approval_age is not None and not self.approvals:
            raise ValueError("approval_age belongs to approvals; leave it out")
        if self.evaluate is not None and not self.require:
            raise ValueError("evaluate: on_ready needs rows; give them under require")
        if (asked := sum(len(rule.metrics) for rule in self.require)) > MOST_SCORES_ASKED:
            raise ValueError(f"require asks for {asked} scores, of at most {MOST_SCORES_ASKED}; leave some out")
        if self.contamination is not None and not self.require:
            raise ValueError("contamination is about the rows under require; give some")
        return self

    @property
    def asks(self) -> bool:
        """Whether it asks for anything."""
        parts = (self.require, self.forgetting, self.contamination, self.probe, self.signed_by, self.approvals)
        return any(parts)


Scope = Annotated[str, Field(max_length=129, examples=["team/*"]), AfterValidator(lambda value: parse_scope(value))]


class PolicySetting(Wire):
    """A policy for an adapter, a namespace (`team/*`) or all (`*`)."""

    scope: Scope
    policy: PolicyDocument
    #: The version that it must have now (0: none), otherwise nothing is done; None: any.
    expect: Annotated[Annotated[int, Field(ge=0, le=10**9)] | None, IF_SET] = None


class PolicyRemoval(Wire):
    """The end of a policy; its history stays."""

    scope: Scope
    alias: Annotated[AliasName, AfterValidator(parse_alias)]


class PolicyView(Wire):
    """One version of a policy."""

    scope: str
    alias: str
    version: int
    #: SHA-256 of the document's canonical JSON.
    digest: Sha256
    #: None: it was removed. Rules over rows that the reader may not read are left out, and `hidden` counts them.
    policy: PolicyDocument | None
    hidden: Annotated[int, IF_ANY] = 0
    #: How it asks for less than the version before, each in a sentence.
    loosened: Annotated[list[str], IF_ANY] = []
    #: What its readers should know, each in a sentence.
    notes: Annotated[list[str], IF_ANY] = []
    created_by: str
    created_at: datetime
