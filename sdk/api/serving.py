"""What a gateway asks the registry: which version each name means, whether that has changed, and who may ask it for something."""

from __future__ import annotations

from collections.abc import Sequence

from sdk.api.transport import Transport
from sdk.given_values import build
from sdk.schemas.serving import ServingChange, ServingTable, StandingRequest, TokenStanding

#: The longest wait for a change, in seconds, and for how much longer an answer is waited for.
LONGEST_WAIT_S, _ANSWER_S = 25.0, 15.0


#: How many adapters may be asked for by name.
MOST_ASKED = 50


def table(
    transport: Transport, namespace: str, adapters: Sequence[str] = (), *, known: str | None = None
) -> ServingTable | None:
    """Return the table of a namespace ("-": names without one), or of up to `MOST_ASKED` of its adapters by name; None if it still
    has the edition `known`.

    Raises InvalidName, NotFound, Conflict for too many names, NotAllowed, Unavailable.
    """
    headers = None if known is None else {"If-None-Match": f'"{known}"'}
    # "Not modified" has no body, which is read as None.
    found: ServingTable | None = transport.call(
        "GET",
        "/serving/table",
        ServingTable | None,  # type: ignore[arg-type]
        params={"namespace": namespace, "adapter": list(adapters)},
        headers=headers,
    )
    return found


def changed(
    transport: Transport,
    namespace: str,
    adapters: Sequence[str] = (),
    *,
    after: str,
    wait_s: float = LONGEST_WAIT_S,
) -> bool:
    """Return whether the table that `table` returns is worth a look since the edition `after`; wait up to `wait_s` for that.

    It may miss a change, so a gateway also looks from time to time. Raises what `table` does, and RateLimited if this token has too
    many waits open.
    """
    params = {"namespace": namespace, "adapter": list(adapters), "after": after, "wait_s": min(wait_s, LONGEST_WAIT_S)}
    change = transport.call(
        "GET", "/serving/changes", ServingChange, params=params, timeout_s=LONGEST_WAIT_S + _ANSWER_S
    )
    return change.look


def standing(transport: Transport, sha256: str) -> TokenStanding:
    """Return what the holder of a token may do in the namespaces that this client is a gateway of, by the SHA-256 of the token.

    No grants: nothing, or there is no such token. Raises InvalidInput, NotAllowed for a token that is no gateway's.
    """
    request = build(StandingRequest, sha256=sha256)
    return transport.call("POST", "/serving/tokens", TokenStanding, body=request)
