"""The request for a combination, ΔW = Σ wᵢ·ΔWᵢ over versions of one base, and its report.

>>> spec = CombineSpec(method="svd", rank=16)
>>> CombineRequest(adapter="team/mix", parents=[{"ref": "team/a@v1", "weight": 0.5}], spec=spec).parents[0].weight
0.5
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sdk.formats.refs import Ref, parse_name
from sdk.schemas.option_types import Option
from sdk.schemas.wire import IF_SET, Sha256, Wire

#: As many as a version's lineage can have.
MOST_PARENTS = 64
#: A larger weight is a mistake.
MOST_WEIGHT = 1000.0

#: "linear": the sum, reduced without loss to its numerical rank; "cat": the sum as it is written, of rank Σ rᵢ; "svd": the sum
#: cut to a rank.
CombineMethod = Literal["linear", "cat", "svd"]
#: How A and B are stored: in 32 bits, or as the parents' are, in the wider type if these differ.
CombineDtype = Literal["float32", "parents"]


class CombineParent(Wire):
    """One version, and the factor for its ΔW."""

    ref: str
    #: Any number except 0, also a negative one.
    weight: Annotated[float, Field(ge=-MOST_WEIGHT, le=MOST_WEIGHT)]
    #: The version's digest, once the job is accepted.
    digest: Annotated[Sha256 | None, IF_SET] = None

    @field_validator("ref")
    @classmethod
    def _ref(cls, value: str) -> str:
        return str(Ref.parse(value))

    @model_validator(mode="after")
    def _counts(self) -> CombineParent:
        if self.weight == 0:
            raise ValueError(f"{self.ref} has the weight 0 and adds nothing; leave it out")
        return self


class CombineSpec(Wire):
    """How versions are combined."""

    method: Annotated[
        CombineMethod,
        Option("The exact sum at its own rank, the exact sum as it is written, or the sum truncated to --rank."),
    ] = "linear"
    #: The largest rank of the result, only for "svd"; for stacked experts, the rank of each expert.
    rank: Annotated[
        Annotated[int, Field(ge=1, le=65536)] | None, Option("The largest rank of a module, with --method svd.")
    ] = None
    dtype: Annotated[CombineDtype, Option("Type of A and B; parents: the type of theirs.")] = "float32"

    @model_validator(mode="after")
    def _rank_is_for_svd(self) -> CombineSpec:
        if self.method == "svd" and self.rank is None:
            raise ValueError("the method svd truncates to a rank; give it with rank")
        if self.method != "svd" and self.rank is not None:
            raise ValueError(f"the method {self.method} keeps every rank; leave rank out, or say the method svd")
        return self


class CombineRequest(Wire):
    """Combine versions over one base into a version of `adapter`: ΔW = Σ wᵢ·ΔWᵢ."""

    kind: Literal["combine"] = "combine"
    adapter: str
    #: Weights of one version add up.
    parents: list[CombineParent]
    spec: CombineSpec = CombineSpec()

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_name(value)

    @field_validator("parents")
    @classmethod
    def _some(cls, value: list[CombineParent]) -> list[CombineParent]:
        if not 1 <= len(value) <= MOST_PARENTS:
            raise ValueError(
                f"a combination has 1 to {MOST_PARENTS} parents, not {len(value)}; combine some of them first"
            )
        return value


class CombineReport(Wire):
    """What a combination did."""

    #: The type of every tensor of A and B: "float32", "bfloat16" …
    dtype: str
    #: modules, rank_max, combine_s, read_back_error (the largest of any module, relative), and for "svd" kept_energy and
    #: kept_energy_min …
    metrics: dict[str, float]
    #: The kept share of Σσ², by module; only for "svd".
    kept_energy: dict[str, float] = {}
    libraries: dict[str, str] = {}
