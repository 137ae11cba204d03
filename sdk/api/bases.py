"""Bases: the models over which adapters are trained."""

from __future__ import annotations

import builtins

from sdk.api.transport import Routes, Transport, pages
from sdk.given_values import build
from sdk.notebook.table_list import TableList
from sdk.schemas.catalog import BaseFix, BaseRegistration, BaseSelector, BaseView

#: The registry reads the headers of uploaded files, which may be many.
_REGISTERING_S = 3600.0


def register(transport: Transport, registration: BaseRegistration) -> BaseView:
    """Register a base. Raises InvalidBase, NotAllowed, Conflict."""
    return transport.call("POST", "/bases", BaseView, body=registration, timeout_s=_REGISTERING_S)


def get(
    transport: Transport,
    name: str,
    *,
    namespace: str | None = None,
    base_namespace: str | None = None,
    published: bool = False,
) -> BaseView:
    """Return the base that an id or a fingerprint names in a namespace, or in any.

    `base_namespace` and `published` say whose base is meant. Raises NotFound, InvalidInput for a name that means several.
    """
    params = {
        "name": name,
        "namespace": namespace,
        "base_namespace": base_namespace,
        "published": published or None,
    }
    return transport.call("GET", "/base", BaseView, params=params)


class BaseRoutes(Routes):
    """What can be asked about bases without files of this machine."""

    def __call__(self) -> builtins.list[BaseView]:
        """The bases that this client may use, newest first."""
        return TableList(pages(self._transport, "/bases", BaseView))

    list = __call__

    def remove(self, name: str, *, namespace: str | None = None) -> None:
        """Remove a base from a namespace, by id or fingerprint; its versions stay. Raises NotFound, NotAllowed."""
        selector = build(BaseSelector, name=name, namespace=namespace)
        self._transport.call("POST", "/base/remove", type(None), body=selector)

    def fix(
        self,
        name: str,
        *,
        namespace: str | None = None,
        id: str | None = None,  # noqa: A002
        location: str | None = None,
        forget_files: bool = False,
    ) -> BaseView:
        """Correct a base's id or location ("": none) in a namespace, or let its files be sent again.

        Raises NotFound, NotAllowed, InvalidInput.
        """
        change = build(BaseFix, name=name, namespace=namespace, id=id, location=location, forget_files=forget_files)
        return self._transport.call("POST", "/base/fix", BaseView, body=change)
