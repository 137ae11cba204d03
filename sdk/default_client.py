"""What the module `sdk` has of a client: each of these is what the default client has under the same name.

The client is made from the environment on first use, or by `connect`. Nothing is imported before that.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspect import Signature

    from sdk.client import Client

_lock = threading.Lock()
_default: Client | None = None


def connect(url: str | None = None, token: str | None = None, *, insecure: bool = False) -> Client:
    """Return a client of a registry and make it the default one, which the functions of `sdk` then use.

    In a `with` statement it is that for the block alone: at its end the connections are closed, and the default client is the
    one that it was before.

    Args:
        url: `https://host`, `http://host:port`, or `local:DIR` for a registry in a folder. Without it `ADAPTERCTL_URL` is used,
            then the profile that `adapterctl login` wrote, then `local:~/.adapterctl`.
        token: without it `ADAPTERCTL_TOKEN` is used, then the profile's, if that is about this URL.
        insecure: accept plain http to another machine, as `ADAPTERCTL_INSECURE=1` does.

    Returns:
        The client. Nothing is sent before its first call.

    Raises:
        InvalidInput: for a URL or token that can't be one.

    Example::

        with sdk.connect("https://registry.example.com") as client:
            print(client.adapters())
    """
    from sdk.client import Client

    global _default
    client = Client(url, token, insecure=insecure)
    with _lock:
        before, _default = _default, client
    client.on_leaving = partial(_give_back, client, before)
    return client


def current() -> Client:
    """Return the default client of this process, made from the environment on first use."""
    return _default or _of_the_environment()


def _give_back(left: Client, before: Client | None) -> None:
    global _default
    with _lock:
        # Another may have been connected within the block, and stays.
        if _default is left:
            _default = before


class RegistryOfThisProcess:
    """The parts of whichever client is the default one when they are used: what comes out of a pickle has this for its registry."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(current(), name)


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
        return getattr(current(), self.__name__)


def _of_the_environment() -> Client:
    from sdk.client import Client

    global _default
    made = Client()
    with _lock:
        # Another thread may have been faster, or have connected one.
        _default = _default or made
        return _default
