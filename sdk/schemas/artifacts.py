"""Uploads, downloads and datasets, as sent over the API. The bytes themselves are not sent in these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, field_validator

from sdk.formats.dataset_names import no_dataset_name
from sdk.schemas.option_types import Columns
from sdk.schemas.wire import IF_ANY, IF_SET, Sha256, Wire


class BlobSpec(Wire):
    """Bytes, identified by content."""

    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, le=5 * 1024**4)]


class UploadRequest(Wire):
    """A request to send blobs."""

    blobs: Annotated[list[BlobSpec], Field(min_length=1, max_length=10_000)]


class Transfer(Wire):
    """Where one blob is sent to or fetched from. The URL may be a credential, so it is not logged."""

    sha256: str
    size_bytes: int
    #: `file:`, `http:` or `https:`.
    url: str
    headers: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Transfer(sha256={self.sha256!r}, size_bytes={self.size_bytes})"

    __str__ = __repr__


class InParts(Wire):
    """A blob that is sent in parts: the parts that have not arrived yet. Each has `part_bytes` bytes, the last one the
    rest.
    """

    sha256: str
    size_bytes: int
    part_bytes: int
    #: Numbers of parts, from 1 on.
    missing: list[int]


class UploadView(Wire):
    """An upload session: only blobs in `put`, and the missing parts of those in `parts`, need to be sent."""

    id: str
    put: list[Transfer]
    parts: list[InParts] = []


class PartSpec(Wire):
    """One part of a blob, identified by its own content."""

    number: Annotated[int, Field(ge=1, le=10_000)]
    sha256: Sha256


class PartsRequest(Wire):
    """A request to send some parts of a blob that the session announced."""

    sha256: Sha256
    parts: Annotated[list[PartSpec], Field(min_length=1, max_length=1000)]


class SignedManifest(Wire):
    """A signature over a manifest's canonical bytes, made with OpenSSF model-signing and an EC key."""

    #: SHA-256 of the public key's DER form (SubjectPublicKeyInfo).
    key_id: Sha256
    #: A Sigstore bundle, as JSON.
    bundle: Annotated[str, Field(min_length=2, max_length=65_536)]


class SignatureView(Wire):
    """A signature as the registry stores it. Only the public key can tell whether it is genuine."""

    key_id: str
    bundle: str
    #: Who added it.
    created_by: str
    created_at: datetime


class DatasetRegistration(Wire):
    """A dataset, identified by content; its file was uploaded in `upload`."""

    digest: Sha256
    size_bytes: Annotated[int, Field(ge=1)]
    format: Literal["jsonl", "json", "csv", "parquet"]
    rows: Annotated[int, Field(ge=1)] | None = None
    #: As detected by `sdk.formats.rows`.
    shape: (
        Literal[
            "prompt-completion",
            "messages",
            "text",
            "text-label",
            "preference",
            "unpaired-preference",
            "choices",
            "references",
        ]
        | None
    ) = None
    #: Which columns are which keys of a row, where `shape` holds for them so.
    columns: Annotated[Columns | None, IF_SET] = None
    #: Whether its rows are read as they are from now on, whatever columns were given before; earlier registries don't
    #: know this field.
    native: Annotated[bool, IF_ANY] = False
    #: Its name in its namespace; a name that looks like a digest, a path, a number of a name or another name is refused.
    name: Annotated[str, Field(max_length=200)] = ""
    #: Whose readers may use it: a namespace, or "-"; None: the first in which the caller may write.
    namespace: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    upload: str

    @field_validator("name")
    @classmethod
    def _is_no_digest(cls, value: str) -> str:
        if (unfit := no_dataset_name(value)) is not None:
            raise ValueError(f"{unfit}; give another name, or none")
        return value


class DatasetView(Wire):
    """A dataset as a namespace registered it: the first of the namespaces that the reader may read."""

    digest: str
    #: The namespace that the name and facts below come from; None if an older registry does not say.
    namespace: str | None = None
    size_bytes: int
    format: str
    #: As stated by whoever registered it.
    rows: int | None
    shape: str | None
    #: Which columns are which keys of a row, unless a job says otherwise; None: the keys are named like the columns.
    columns: str | None = None
    #: The name by which it was requested, or else the last one that it was given there; empty if it has none.
    name: str
    #: Its number under that name.
    number: int | None = None
    #: All its names there, the last one first, as "NAME@v2".
    names: list[str] = []
    created_at: datetime

    @property
    def exact_name(self) -> str | None:
        """Its name with the number, which always means this dataset; None if it has none."""
        return f"{self.name}@v{self.number}" if self.name and self.number is not None else None
