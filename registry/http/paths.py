"""The one table of what the server answers at which path, and which middleware applies there.

>>> area_of("/api/v1/jobs").wants_token, area_of("/api/v1/blobs/0a1b").wants_token, area_of("/docs").wants_token
(True, False, False)
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.storage.folder import BLOBS_PATH
from sdk.version import API

#: For probes of the process: answered at all times, also beyond the limits of connections.
HEALTHZ, READYZ = "/healthz", "/readyz"
METRICS = "/metrics"
#: Below which all pages are, where a reader signs in, and where styles and scripts are, which anybody may load.
PAGES = "/ui/"
SIGN_IN, SIGN_OUT, STATIC = f"{PAGES}sign-in", f"{PAGES}sign-out", f"{PAGES}static/"
#: Where a reader signs in with a code.
CODE = f"{PAGES}code"
#: What saves a report: a form, since one with rows is written into the audit trail.
REPORTS = f"{PAGES}reports"
#: The page of the API.
DOCS = "/docs"


@dataclass(frozen=True)
class Area:
    """A path, or with a "/" at its end all paths below it, and what applies there."""

    path: str
    #: `Gatekeeper` asks for a token, and counts requests.
    wants_token: bool = False
    #: `SessionGate` asks for the session of a reader of pages.
    wants_session: bool = False
    #: `StrictBodies` reads a body whole, as JSON.
    takes_json: bool = False
    #: `KeepReadOnly` refuses everything but reads while the registry is read-only.
    keeps_state: bool = False
    #: `AnswerOwnHosts` lets requests pass whatever host they name: probes know a process only by its address.
    any_host: bool = False


#: The first match counts.
AREAS = (
    # Signed URLs need no other token, and bytes are streamed.
    Area(f"{BLOBS_PATH}/", keeps_state=True),
    Area(f"{API}/", wants_token=True, takes_json=True, keeps_state=True),
    Area(METRICS, wants_token=True),
    Area(PAGES, wants_session=True, keeps_state=True),
    Area(HEALTHZ, any_host=True),
    Area(READYZ, any_host=True),
    # The documentation, and anything else that browsers read.
    Area("/"),
)


def area_of(path: str) -> Area:
    """The area that a path is in."""
    for area in AREAS:
        if path == area.path or (area.path.endswith("/") and path.startswith(area.path)):
            return area
    # Such as `*`, which means the server as a whole.
    return AREAS[-1]
