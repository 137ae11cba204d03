"""Bases: adding them from a folder, finding, correcting and removing them."""

from __future__ import annotations

from pathlib import Path

from sdk.api.bases import BaseRoutes
from sdk.objects import Registry
from sdk.pushing.given_base import given_base
from sdk.schemas.catalog import BaseRegistration, BaseView


class BasesAPI(BaseRoutes):
    """Bases. Called, it lists those that the client may use."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport)
        self._registry = registry

    def get(
        self,
        name: str,
        *,
        namespace: str | None = None,
        base_namespace: str | None = None,
        published: bool = False,
    ) -> BaseView:
        """A base by id or fingerprint, with its config: what the name means in `namespace`, which also has the published
        ones, or in all that may be seen.

        With `base_namespace` it is that namespace's own base of the name, with `published` the one that is published for
        all. Raises NotFound, InvalidInput if it means different bases.
        """
        return given_base(name, base_namespace, published).find(self._registry.transport, namespace=namespace)

    def add(
        self,
        folder: str | Path,
        *,
        id: str | None = None,  # noqa: A002
        upload: bool = False,
        namespace: str | None = None,
    ) -> BaseView:
        """Register the base in a folder; with `upload` its files are sent to the registry's storage, for workers
        elsewhere.

        It belongs to `namespace` ("-": names without one, "*": all). By default it is for all if this client is an
        admin of all namespaces, else for names without one, or for the first namespace in which it may write. Raises
        NotFound, InvalidBase for a folder without safetensors weights, InvalidInput for a link that leads out of it,
        NotAllowed.
        """
        scanned = self._registry.pusher.scan_base(folder, base_id=id)
        return self._registry.pusher.register_scanned(scanned, upload=upload, namespace=namespace)

    def register(self, registration: BaseRegistration) -> BaseView:
        """Register a base that was already scanned. Raises InvalidBase, NotAllowed, Conflict."""
        return self._registry.pusher.register_base(registration)
