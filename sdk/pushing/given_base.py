"""A base as a caller gives it: a folder, or the name of a registered one, and whose it is if the name means several.

Also where the files of a registered base lie on this machine.

>>> given_base("tiny", None, None), str(given_base("tiny", "team", None))
(GivenBase(given='tiny', namespace=None, published=False), 'tiny')
>>> given_base("./tiny", None, True)
Traceback (most recent call last):
sdk.errors.InvalidInput: './tiny' is a folder, and base_namespace and published say whose registered base is meant; leave them out
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from sdk.api import bases
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import InvalidBase, InvalidInput, NotFound
from sdk.formats.refs import is_folder, namespace_of
from sdk.pulling.base_place import folder_in
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.schemas.catalog import BaseView, VersionView


@dataclass(frozen=True)
class GivenBase:
    """A base as it was given. Raises InvalidInput for a namespace of what is published, or of a folder."""

    given: str | Path
    #: Whose base the name means: a namespace's, or the published one. Neither: that of any namespace that counts, where it
    #: has to mean one base.
    namespace: str | None = None
    published: bool = False

    def __post_init__(self) -> None:
        if self.folder is not None and self.is_somebodys:
            raise InvalidInput(
                f"{str(self.given)[:200]!a} is a folder, and base_namespace and published say whose registered base is meant; "
                "leave them out",
                param="published" if self.published else "base_namespace",
            )

    @property
    def is_somebodys(self) -> bool:
        """Whether it was said whose base the name means."""
        return self.published or self.namespace is not None

    @property
    def folder(self) -> Path | None:
        """The folder; None for the name of a registered base."""
        return user_path(self.given) if isinstance(self.given, Path) or is_folder(self.given) else None

    @property
    def name(self) -> str:
        """The name of a registered base."""
        return str(self.given)

    def called(self, name: str) -> GivenBase:
        """Return the base of another name, of the same namespace."""
        return replace(self, given=name)

    def find(self, transport: Transport, *, namespace: str | None = None) -> BaseView:
        """Return the registered base that is meant in a namespace, or in any. Raises NotFound, InvalidInput."""
        return bases.get(
            transport, self.name, namespace=namespace, base_namespace=self.namespace, published=self.published
        )

    def __str__(self) -> str:
        return str(self.given)


def given_base(base: str | Path, base_namespace: str | None, published: bool | None) -> GivenBase:
    """Return a base as it was given. Raises InvalidInput."""
    require_one(base_namespace, published)
    return GivenBase(base, base_namespace, bool(published))


def given_base_if_any(base: str | Path | None, base_namespace: str | None, published: bool | None) -> GivenBase | None:
    """Return a base as it was given; None if it was not. Raises InvalidInput, also if only its namespace was given."""
    if base is not None:
        return given_base(base, base_namespace, published)
    if base_namespace is not None or published:
        raise InvalidInput(
            "base_namespace and published say which base is meant by its name; give the base too, or leave them out",
            param="base",
        )
    return None


def require_one(base_namespace: str | None, published: bool | None) -> None:
    """Raise InvalidInput for a namespace together with what is published for all."""
    if base_namespace is not None and published:
        raise InvalidInput(
            "a base of a namespace is not the published one; give base_namespace or published", param="published"
        )


def registered_base(transport: Transport, version: VersionView) -> BaseView | None:
    """Return the base of a version, as it is registered; None if it was removed."""
    with suppress(NotFound):
        return bases.get(transport, version.base.fingerprint, namespace=namespace_of(version.adapter) or "-")
    return None


def files_here(cache: Cache, fingerprint: str, view: BaseView | None) -> Path | None:
    """Return the folder with the files of a base, as they were registered; None if there is none on this machine."""
    for folder in places_of(cache, fingerprint, view):
        # If the files have been changed since, they are those of another base.
        with suppress(NotFound, InvalidBase):
            if scan_base(folder, cache=cache).registration.fingerprint == fingerprint:
                return folder
    return None


def places_of(cache: Cache, fingerprint: str, view: BaseView | None) -> list[Path]:
    """Return the folders where the files of a base may lie; this is not checked."""
    registered = folder_in(None if view is None else view.location)
    return [cache.base(fingerprint), *([] if registered is None else [registered])]
