"""What a tenant does with what it sends: rows, bases, upload sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.tenancy.answers import fetched, plain
from contract.tenancy.universe import SHARDED, save_weights

from sdk.client import Client
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import BlobSpec, DatasetRegistration, DatasetView, UploadRequest, UploadView
from sdk.schemas.catalog import BaseRegistration
from sdk.schemas.manifest import Manifest, ManifestFile

if TYPE_CHECKING:
    from contract.tenancy.party import Party


class Sent:
    """Rows, bases and upload sessions of a tenant."""

    def __init__(self, party: Party) -> None:
        self._party = party

    def data_add(self, data: int, name: str) -> Any:
        """Register rows under a name, which may be a digest."""
        path, sha256 = self._party.universe.data[data], self._party.universe.data_digests[data]
        upload = self._party.ci.uploader.upload({sha256: path}, "sending rows")
        return self._register_data(data, self._party.data(name), upload)

    def _register_data(self, data: int, name: str, upload: str) -> Any:
        path = self._party.universe.data[data]
        # Unchecked, as somebody sends it who doesn't use the SDK.
        body = DatasetRegistration.model_construct(
            digest=self._party.universe.data_digests[data],
            size_bytes=path.stat().st_size,
            format="jsonl",
            rows=3,
            shape="prompt-completion",
            name=name,
            namespace=self._party.space,
            upload=upload,
        )
        return plain(self._party.ci.call("POST", "/datasets", DatasetView, body=body))

    def data_get(self, data: str) -> Any:
        """Find rows, and fetch them."""
        found = self._party.ci.datasets.locate(self._party.data(data))
        return {"sha256": found.sha256, "bytes": fetched([found])}

    def data_list(self) -> Any:
        """All that may be used."""
        return plain(self._party.ci.datasets())

    def data_remove(self, data: str) -> Any:
        """Give rows up."""
        self._party.ci.datasets.remove(self._party.data(data))

    def base_add(self, base: int, id: str, how: str, by: str = "ci") -> Any:  # noqa: A002
        """Register a base: as the SDK does, or with something in it that its fingerprint doesn't say."""
        client, universe = getattr(self._party, by), self._party.universe
        named = id.partition(":")[2]
        if how == "folder":
            return plain(client.bases.add(universe.bases[base], id=named))
        if how == "uploaded":
            with universe.on_a_laptop(base) as folder:
                return plain(client.bases.add(folder, id=named, upload=True))
        scan = universe.scans[base]
        described = scan.registration.model_copy(update={"id": named})
        if how == "elsewhere":
            described = described.model_copy(update={"location": universe.twins[base].as_uri()})
        elif how == "other shapes":
            shapes = {name: [2 * size for size in shape] for name, shape in described.tensors.items()}
            described = described.model_copy(update={"tensors": shapes, "architecture": "Other", "location": None})
        elif how == "on a hub":
            described = described.model_copy(update={"location": f"hf://{self._party.space}/{named}@{'0' * 40}"})
        else:
            described = self._tampered(client, base, described, how)
        return plain(client.bases.register(described))

    def _tampered(self, client: Client, base: int, described: BaseRegistration, how: str) -> BaseRegistration:
        """A registration with files of which some are not those of its fingerprint."""
        twin = self._party.universe.twins[base]
        sources = {path.name: path for path in twin.iterdir()}
        if how == "other weights":
            weights = self._party.folder / f"other-{base}.safetensors"
            self._party.folder.mkdir(parents=True, exist_ok=True)
            save_weights(weights, 70 + base)
            name = "model-00001-of-00001.safetensors" if base == SHARDED else "model.safetensors"
            sources = {path.name: path for path in self._party.universe.bases[base].iterdir()} | {name: weights}
        files, by_digest = [], {}
        for name, path in sorted(sources.items()):
            sha256, size = hash_file(path)
            files.append(ManifestFile(path=name, size_bytes=size, sha256=sha256))
            by_digest[sha256] = path
        manifest = Manifest(kind="base", base_fingerprint=described.fingerprint, files=files)
        upload = client.uploader.upload(by_digest, "sending base")
        location = (self._party.universe.laptop / f"base-{base}").as_uri()
        return described.model_copy(update={"manifest": manifest, "upload": upload, "location": location})

    def base_show(self, base: str) -> Any:
        """One base, with its config."""
        return plain(self._party.ci.bases.get(self._party.base(base)))

    def base_list(self) -> Any:
        """All bases that may be seen."""
        return plain(self._party.ci.bases())

    def base_remove(self, base: str, whose: str) -> Any:
        """Take a base away from a namespace."""
        self._party.boss.bases.remove(self._party.base(base), namespace=self._party.space_of(whose))

    def base_files(self, base: int) -> Any:
        """The files under the digest of a base's manifest."""
        return fetched(self._party.ci.versions.locate(self._party.universe.scans[base].manifest.digest))

    def upload_begin(self, files: str) -> Any:
        """Announce files, and be told which must be sent; nothing is sent."""
        kind, _, number = files.partition(":")
        paths: Sequence[Path]
        if kind == "data":
            paths = [self._party.universe.data[int(number)]]
        elif kind == "base":
            paths = list(self._party.universe.bases[int(number)].iterdir())
        else:
            paths = list(self._party.package(int(number), 0)[2].values())
        blobs = [BlobSpec(sha256=sha256, size_bytes=size) for sha256, size in map(hash_file, sorted(paths))]
        session = self._party.ci.call("POST", "/uploads", UploadView, body=UploadRequest(blobs=blobs))
        self._party.uploads.append(session.id)
        return {"id": session.id, "put": sorted(put.sha256 for put in session.put)}

    def upload_use(self, upload: str, data: int) -> Any:
        """Register rows of an open session, one's own or not."""
        return self._register_data(data, "rows.jsonl", self._party.of(upload, "uploads"))
