"""What a combination is asked for, ΔW = Σ wᵢ·ΔWᵢ over versions of one base, and what it says it found.

>>> spec = CombineSpec(method="svd", rank=16)
>>> CombineRequest(adapter="team/mix", parents=[{"ref": "team/a@v1", "weight": 0.5}], spec=spec).parents[0].weight
0.5
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from pydantic import Field, field_validator, model_validator

from sdk.formats.refs import Ref, parse_name
from sdk.schemas.wire import Sha256, Wire

#: As many as the lineage of a version holds.
MOST_PARENTS = 64
#: No weight beyond this is meant.
MOST_WEIGHT = 1000.0

#: "linear": the sum, reduced without loss to its numerical rank; "cat": the sum as it is written, of rank Σ rᵢ; "svd": the sum
#: cut to a rank.
CombineMethod = Literal["linear", "cat", "svd"]
#: How A and B are stored: in 32 bits, or as the parents' are, in the wider type where these differ.
CombineDtype = Literal["float32", "parents"]


class CombineParent(Wire):
    """One version, and what its ΔW is multiplied by."""

    ref: str
    #: Any number but 0, also below it.
    weight: Annotated[float, Field(ge=-MOST_WEIGHT, le=MOST_WEIGHT)]
    #: Of the version, once the job is accepted.
    digest: Annotated[Sha256 | None, Field(exclude_if=lambda value: value is None)] = None

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

    method: CombineMethod = "linear"
    #: The largest rank of the result, of "svd" alone; of stacked experts that of each.
    rank: Annotated[int, Field(ge=1, le=65536)] | None = None
    dtype: CombineDtype = "float32"

    @model_validator(mode="after")
    def _rank_is_for_svd(self) -> CombineSpec:
        if self.method == "svd" and self.rank is None:
            raise ValueError("the method svd cuts to a rank; say which with rank")
        if self.method != "svd" and self.rank is not None:
            raise ValueError(f"the method {self.method} keeps every rank; leave rank out, or say the method svd")
        return self


class CombineOptions(TypedDict, total=False):
    """The fields of `CombineSpec` as keywords of a function, for type checkers and editors."""

    method: CombineMethod
    rank: int | None
    dtype: CombineDtype


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

    #: Of every tensor of A and B: "float32", "bfloat16" …
    dtype: str
    #: modules, rank_max, combine_s, read_back_error (the largest of a module, relative), and of "svd" kept_energy and
    #: kept_energy_min …
    metrics: dict[str, float]
    #: Σσ² kept of Σσ², by module; of "svd" alone.
    kept_energy: dict[str, float] = {}
    libraries: dict[str, str] = {}
