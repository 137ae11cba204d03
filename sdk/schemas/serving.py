"""What gateways and registries say to each other, and the record by which an engine is proved to serve a version.

A version's name in an engine is its exact ref, `NAME@vN`, and never moves; aliases are resolved by the gateway.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdk.schemas.access import GrantView
from sdk.schemas.wire import IF_SET, Open, Sha256, Wire

#: Prompts of a served probe, and tokens of each continuation.
PROMPTS, CONTINUATION_TOKENS = 4, 16


class ServedVersion(Wire):
    """A version in the table: what it is, and whether it may be served."""

    number: Annotated[int, Field(ge=1)]
    digest: Sha256
    #: Only "ready" ones are moved to; "archived" ones are served by their exact ref.
    state: Literal["ready", "archived"]
    #: The fingerprint of its base.
    base: Sha256


class ServedAdapter(Wire):
    """An adapter in the table: which version each of its names means now."""

    name: str
    #: The number that `latest`, and the bare name, mean; None: none is ready.
    latest: int | None
    #: Alias → number.
    aliases: dict[str, int]
    versions: list[ServedVersion]


class ServingTable(Wire):
    """Every adapter of a namespace that the caller may read, sorted by name. Versions that are deleted or quarantined are left out,
    and so are merged models.
    """

    namespace: str
    #: What this table is called until anything in it changes; also its ETag.
    edition: str
    #: Whether there are too many versions: then the oldest of those without an alias are missing.
    left_out: bool
    adapters: list[ServedAdapter]


class ServingChange(Wire):
    """What a wait for a change of the table came to."""

    #: Whether the table may have changed, so that it is worth a look; a gateway looks from time to time in any case.
    look: bool


class StandingRequest(Wire):
    """The question what the holder of a token may do."""

    #: The SHA-256 of the token's text.
    sha256: Sha256


class TokenStanding(Wire):
    """What the holder of a token may do, within the namespaces of the gateway that asks; no grants: nothing, or no such token."""

    grants: list[GrantView]
    #: For how long the answer may be relied on.
    valid_for_s: float


#: What log-probabilities were computed in, and how a base was quantised in training.
DtypeName = Literal["bfloat16", "float16", "float32"]
#: The most bytes of a record as canonical JSON.
MOST_SERVED_PROBE_BYTES = 16 * 1024

LogProbability = Annotated[float, Field(ge=-1e6, le=0)]
_OfTokens = Field(min_length=1, max_length=CONTINUATION_TOKENS)
TokenId = Annotated[int, Field(ge=0, le=10**8)]


class Continuation(Wire):
    """A greedy continuation, and the log-probabilities of each of its tokens, in nats, under the base and under the adapter."""

    tokens: Annotated[list[TokenId], _OfTokens]
    base: Annotated[list[LogProbability], _OfTokens]
    adapter: Annotated[list[LogProbability], _OfTokens]

    @model_validator(mode="after")
    def _of_the_same_tokens(self) -> Continuation:
        if not len(self.tokens) == len(self.base) == len(self.adapter):
            raise ValueError("each token has one log-probability under the base and one under the adapter")
        return self


class ServedPrompt(Wire):
    """One fixed prompt as tokens, with what the base and the adapter write after it."""

    tokens: Annotated[list[TokenId], Field(min_length=1, max_length=256)]
    by_base: Continuation
    by_adapter: Continuation

    @property
    def continuations(self) -> tuple[Continuation, Continuation]:
        """Both of them: the base's, then the adapter's."""
        return self.by_base, self.by_adapter


class ServedProbe(Wire):
    """What a version answers, by which an engine is proved to serve it: computed in float32 over the base as it was trained on."""

    #: The digest of the fixed prompts' texts.
    prompts_digest: Sha256
    prompts: Annotated[list[ServedPrompt], Field(min_length=1, max_length=PROMPTS)]
    #: Another one if the base can't compute in float32.
    dtype: DtypeName = "float32"
    #: How the base was quantised in training, such as "nf4"; None: it was not. An engine's own base differs by that much.
    quantized: Annotated[Annotated[str, Field(max_length=20)] | None, IF_SET] = None


class ProbeVerdict(Wire):
    """Whether an engine answers under a version's name as the version's record does; distances are root mean squares, in nats per token."""

    outcome: Literal["passed", "failed", "undecidable"]
    #: One sentence that ends with what to do; for "passed" what was compared.
    message: str
    #: How far the record's base and adapter are apart: the adapter's effect.
    effect: float
    #: How far the engine's base, and its version, are from the record's.
    base: float | None
    adapter: float | None
    #: Up to which distance of the version rounding explains it.
    allowed: float | None
    #: How many log-probabilities were compared under the version's name.
    tokens: int


#: Who made a served probe: the job that trained the version, a worker or an admin who measured it, or somebody else who may send
#: versions to its namespace. This is the order in which they are preferred.
ProbeSource = Literal["training", "worker", "sender"]


class ServedProbeRecord(Wire):
    """What somebody who measured a version records; it holds for these bytes over this base alone."""

    adapter: Annotated[str, Field(max_length=129, examples=["team/code-review"])]
    number: Annotated[int, Field(ge=1, le=10**9)]
    digest: Sha256
    #: The fingerprint of the base.
    base: Sha256
    probe: ServedProbe


class ServedProbeView(ServedProbeRecord):
    """The record by which engines are proved to serve a version, and who made it."""

    source: Annotated[ProbeSource, Open]
    created_by: str
    created_at: datetime
