"""The model card of a merged model that lies in the registry, with what can still be found out about its version."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sdk.api.transport import Transport
from sdk.errors import NotAllowed, NotFound, VerificationFailed
from sdk.exporting.cards import merged_card
from sdk.formats.base_files import CARD_FILE
from sdk.objects import MergedModel, Version
from sdk.pulling.cache import Cache
from sdk.pushing.bases_here import places_of, registered_base
from sdk.schemas.catalog import VersionView


class Registry(Protocol):
    """What is asked of a registry; a client answers it."""

    @property
    def transport(self) -> Transport:
        """How requests reach it."""

    @property
    def cache(self) -> Cache:
        """Where the files of bases may lie."""

    def get(self, ref: str) -> Version:
        """Return the version that a ref names now."""


def card_of(registry: Registry, merged: MergedModel) -> str:
    """Return the model card of a merged model, as `MergedModel.save` writes it."""
    try:
        version = registry.get(merged.ref).info
        card_folder = folder_with_card(registry.transport, registry.cache, version)
        return merged_card(merged.ref, merged.report, version, card_folder)
    except (NotFound, NotAllowed, VerificationFailed):
        # It was removed, or may no longer be seen: the model is there all the same.
        return merged_card(merged.ref, merged.report, None, None)


def folder_with_card(transport: Transport, cache: Cache, version: VersionView) -> Path | None:
    """Return a folder of a version's base that has a card of its own; its weights are not looked at."""
    places = places_of(cache, version.base.fingerprint, registered_base(transport, version))
    return next((place for place in places if (place / CARD_FILE).is_file()), None)
