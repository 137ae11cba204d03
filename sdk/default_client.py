"""What the module `sdk` has of a client: each of these is what the default client has under the same name.

The client is made from the environment on first use, or by `connect`. Nothing is imported before that.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

    from sdk.client import Client

_lock = threading.Lock()
_default: Client | None = None


def connect(url: str | None = None, token: str | None = None, *, insecure: bool = False) -> Client:
    """Return a client of the registry at `url` and make it the default one.

    Without arguments: `ADAPTERCTL_URL` and `ADAPTERCTL_TOKEN`, then the profile, then `local:~/.adapterctl`. Plain http
    to another machine is refused, unless `insecure`, `ADAPTERCTL_INSECURE=1` or the profile accepts it.
    """
    from sdk.client import Client

    global _default
    client = Client(url, token, insecure=insecure)
    with _lock:
        _default = client
    return client


class OfDefaultClient:
    """A method or a noun of the default client, which is looked up each time that this is used."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __repr__(self) -> str:
        return f"<{self.__name__} of the default client>"

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self._found()(*args, **keywords)

    def __getattr__(self, name: str) -> Any:
        # Tools look for such names in whatever they come across, which is no reason to make a client.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._found(), name)

    def __dir__(self) -> list[str]:
        return dir(self._found())

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        from inspect import getdoc

        return getdoc(self._found())

    @property
    def __signature__(self) -> Signature:
        from inspect import signature

        return signature(self._found())

    def _found(self) -> Any:
        return getattr(_default or _of_the_environment(), self.__name__)


def _of_the_environment() -> Client:
    from sdk.client import Client

    global _default
    made = Client()
    with _lock:
        # Another thread may have been faster, or have connected one.
        _default = _default or made
        return _default
