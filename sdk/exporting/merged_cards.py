"""The model card of a merged model in the registry, with what can still be found out about its version."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sdk.errors import NotAllowed, NotFound, VerificationFailed
from sdk.exporting.cards import merged_card
from sdk.formats.base_files import CARD_FILE
from sdk.objects import MergedModel, Version
from sdk.pushing.bases_here import Places, places_of, registered_base
from sdk.schemas.catalog import VersionView


class Registry(Places, Protocol):
    """The requests to a registry; a client implements them."""

    def get(self, ref: str) -> Version:
        """Return the version that a ref names now."""


def card_of(registry: Registry, merged: MergedModel) -> str:
    """Return the model card of a merged model, as `MergedModel.save` writes it."""
    try:
        version = registry.get(merged.ref).info
        return merged_card(merged.ref, merged.report, version, folder_with_card(registry, version))
    except (NotFound, NotAllowed, VerificationFailed):
        # The version was removed, or may no longer be seen: the model is there all the same.
        return merged_card(merged.ref, merged.report, None, None)


def folder_with_card(at: Places, version: VersionView) -> Path | None:
    """Return a folder of a version's base that has a model card, or None; the weights in it are not looked at."""
    places = places_of(at.cache, version.base.fingerprint, registered_base(at.transport, version))
    return next((place for place in places if (place / CARD_FILE).is_file()), None)
