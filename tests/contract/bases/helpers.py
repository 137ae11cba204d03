"""What these tests share. Bases between tenants: what is derived is one truth, names and files belong to a namespace,
nobody replaces another's.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.small import write_base

from sdk.client import Client
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import ScannedBase, scan_base
from sdk.schemas.catalog import BaseRegistration, BaseView
from sdk.schemas.manifest import Manifest

#: Each base of the run has weights of its own.
VALUES = itertools.count(1)


@dataclass(frozen=True)
class Tenant:
    """Somebody with a namespace, in which nobody else may read."""

    client: Client
    space: str
    folder: Path

    def base(self, name: str = "base", *, like: Path | None = None, **config: Any) -> Path:
        """A base of a folder of this tenant's: new, or the bytes of another."""
        folder = self.folder / f"{next(VALUES)}" / name
        if like is None:
            return write_base(folder, value=next(VALUES) / 1000, **config)
        folder.mkdir(parents=True)
        for path in like.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        return folder

    def scan(self, folder: Path) -> ScannedBase:
        """What a folder holds."""
        return scan_base(folder, cache=Cache(self.folder / "cache"))

    def register(self, folder: Path, *, upload: bool = False, client: Client | None = None, **said: Any) -> BaseView:
        """Register a base, with what is said of it changed."""
        scanned = self.scan(folder)
        said = {"namespace": self.space, **said}
        if upload:
            manifest: Manifest = said.get("manifest", scanned.manifest)
            at = {path.name: path for path in folder.iterdir()}
            said |= {
                "upload": self.client.uploader.upload(
                    {file.sha256: at[file.path] for file in manifest.files}, "sending"
                )
            }
        body = BaseRegistration.model_validate(scanned.registration.model_dump() | said)
        return (client or self.client).bases.register(body)
