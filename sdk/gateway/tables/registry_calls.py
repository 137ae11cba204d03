"""A gateway's questions to the registry. Each may wait for half a minute."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from sdk.api import serving
from sdk.api.transport import Transport
from sdk.errors import AdapterctlError, NotAllowed, TimedOut, Unavailable
from sdk.gateway.apart import in_thread
from sdk.gateway.tables.served_tables import LOOK_S
from sdk.schemas.serving import ServingTable, TokenStanding

#: How often a registry in a folder is looked at, which has no feed, in seconds: one statement.
_LOOK_EMBEDDED_S = 1.0
#: How long a table, and what is known of a token, may take to come, in seconds.
_TABLE_S, _EMBEDDED_S, _STANDING_S = 9.0, 120.0, 5.0
#: The most tokens that are asked about at once.
_MOST_STANDINGS = 8
_LATE = "the registry does not answer in time; check whether it is busy"


class RegistryCalls:
    """Those of one gateway."""

    def __init__(
        self,
        transport: Transport,
        adapters: Mapping[str, Sequence[str]],
        *,
        say: Callable[[str], None] = lambda _line: None,
    ) -> None:
        """`adapters`: by namespace, those that are served."""
        self._transport, self._adapters, self._say = transport, adapters, say
        self.has_feed = transport.config.home is None
        self.look_s = LOOK_S if self.has_feed else _LOOK_EMBEDDED_S
        # One in this process is opened with the first call.
        self._table_s = _TABLE_S if self.has_feed else _EMBEDDED_S
        self._standings = asyncio.Semaphore(_MOST_STANDINGS)
        self._refusal: str | None = None

    async def table(self, namespace: str, known: str | None) -> ServingTable | None:
        """Return a table; None if it is still the edition `known`. Raises AdapterctlError."""
        return await in_thread(
            lambda: serving.table(self._transport, namespace, self._adapters[namespace], known=known),
            within_s=self._table_s,
            late=_LATE,
        )

    async def changed(self, namespace: str, after: str) -> bool:
        """Wait for a change. Raises AdapterctlError."""
        return await in_thread(
            lambda: serving.changed(self._transport, namespace, self._adapters[namespace], after=after)
        )

    async def standing(self, sha256: str) -> TokenStanding:
        """Return what the holder of a token may do: nothing, where this gateway may not ask. Raises OSError while the registry
        doesn't say.
        """
        try:
            async with self._standings:
                return await in_thread(
                    lambda: serving.standing(self._transport, sha256), within_s=_STANDING_S, late=_LATE
                )
        except (Unavailable, TimedOut) as error:
            raise ConnectionError(str(error)) from error
        except AdapterctlError as error:
            if str(error) != self._refusal:
                self._refusal = str(error)
                self._say(f"the registry says nothing about callers' tokens: {error}")
            if isinstance(error, NotAllowed):
                # The registry's tokens are no keys here, and it is no use to try again.
                return TokenStanding(grants=[], valid_for_s=0.0)
            raise ConnectionError(str(error)) from error
