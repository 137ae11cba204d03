"""A request to the helper of a folder that is there already, for a shell: none is started, and no runner either."""

from __future__ import annotations

import os
import socket

from sdk.config import Config, wants_helper
from sdk.home_helpers import RUNNER_HEADER, peer_uid, place_of


def get(config: Config, target: str, *, within_s: float, most_bytes: int) -> tuple[int, bytes] | None:
    """Return the status and the body that the helper of a folder answers; None if there is none, or it doesn't answer soon.

    It is of this build: others have sockets of other names. Raises InvalidInput for settings that can't be ones.
    """
    if config.home is None or not wants_helper(by_default=True):
        return None
    place = place_of(config.home)
    if place is None or not place.socket.exists():
        return None
    # It is dear, and most folders have no helper at the moment.
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("helper")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
            asked.settimeout(within_s)
            asked.connect(str(place.socket))
            if peer_uid(asked) != os.getuid():
                return None
            connection.sock = asked
            connection.request("GET", target, headers={RUNNER_HEADER: "0", "Connection": "close"})
            answer = connection.getresponse()
            return answer.status, answer.read(most_bytes)
    except (OSError, HTTPException):
        return None
