"""Where a registry may send its clients: one rule for requests to it, and for transfers to and from its storage.

A registry's answers name places that a client then writes to and reads from. A registry in a folder runs in this
process, and may name files. Any other may name only `https:` places, since anything else could be read in transit, and
a file would be one of this machine's. Plain `http` is allowed on this machine, or if it was accepted.

>>> Reach("https://registry.example").require("file:///etc/passwd")
Traceback (most recent call last):
sdk.errors.VerificationFailed: the registry at https://registry.example gives a location on this machine for its files, which \
only one in a folder (local:DIR) may; nothing was read or written. Check the registry's URL, then tell its admin
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from sdk.errors import InvalidInput, VerificationFailed

_ACCEPT = "accept that with --insecure or ADAPTERCTL_INSECURE=1"


@dataclass(frozen=True)
class Reach:
    """The places that one registry may name; without arguments, those for one that runs on this machine."""

    #: `https://…`, `http://…`, or `local:DIR`.
    registry: str = "http://127.0.0.1"
    #: Whether plain http to other machines was accepted.
    insecure: bool = False

    def require(self, url: str) -> None:
        """Raise an error if nothing may be requested from `url` or sent to it.

        It is InvalidInput for the registry itself over plain http, VerificationFailed for a place that it named.
        """
        if self.registry.startswith("local:"):
            return
        try:
            parts = urlsplit(url)
            scheme, host = parts.scheme, parts.hostname or ""
        except ValueError:
            scheme, host = "", ""
        own = url.startswith(f"{self.registry}/") or url == self.registry
        if scheme == "https" or (scheme == "http" and (self.insecure or (_is_here(host) and (own or self._is_here)))):
            return
        if own:
            raise InvalidInput(
                f"{self.registry} is plain http to another machine: the token and all data could be read in transit; use "
                f"https, or {_ACCEPT}",
                param="url",
            )
        if scheme == "http":
            raise VerificationFailed(
                f"the registry at {self.registry} gives plain http URLs on {host[:80]!a} for its files; have it give https URLs "
                f"(REGISTRY_S3_PUBLIC_ENDPOINT_URL), or {_ACCEPT}"
            )
        what = "on this machine" if scheme == "file" else f"with the scheme {scheme[:20]!a}"
        raise VerificationFailed(
            f"the registry at {self.registry} gives a location {what} for its files, which only one in a folder (local:DIR) may; "
            "nothing was read or written. Check the registry's URL, then tell its admin"
        )

    @property
    def _is_here(self) -> bool:
        return _is_here(urlsplit(self.registry).hostname or "")


def _is_here(host: str) -> bool:
    """Tell whether a host is this machine, by its name or address alone: it is not looked up."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
