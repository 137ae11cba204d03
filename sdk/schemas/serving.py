"""What gateways and registries say to each other, and the record by which an engine is proved to serve a version.

A version's name in an engine is its exact ref, `NAME@vN`, and never moves; aliases are resolved by the gateway.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.access import GrantView
from sdk.schemas.wire import Sha256, Wire

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


class Continuation(Wire):
    """A greedy continuation, and the log-probabilities of each of its tokens, in nats, under the base and under the adapter."""

    tokens: Annotated[list[int], Field(min_length=1, max_length=CONTINUATION_TOKENS)]
    base: Annotated[list[float], Field(min_length=1, max_length=CONTINUATION_TOKENS)]
    adapter: Annotated[list[float], Field(min_length=1, max_length=CONTINUATION_TOKENS)]


class ServedPrompt(Wire):
    """One fixed prompt as tokens, with what the base and the adapter write after it."""

    tokens: Annotated[list[int], Field(min_length=1, max_length=256)]
    by_base: Continuation
    by_adapter: Continuation


class ServedProbe(Wire):
    """What a version answers, by which an engine is proved to serve it: computed in float32 over the base as it was trained on."""

    #: The digest of the fixed prompts' texts.
    prompts_digest: Sha256
    prompts: Annotated[list[ServedPrompt], Field(min_length=1, max_length=PROMPTS)]
