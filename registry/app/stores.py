"""The storage that the settings name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from registry.errors import Invalid
from registry.settings import Settings
from registry.storage import DEFAULT_EXPIRY_S, S3Options, Storage, StorageError, open_storage
from registry.storage.errors import storage_explained
from registry.storage.signing import kept_key


def storage_of(settings: Settings, *, expires_in_s: int = DEFAULT_EXPIRY_S) -> Storage:
    """Open the storage that the settings name, with locations that are valid for this many seconds. Raises Invalid,
    Unavailable.
    """
    embedded = settings.embedded_home is not None
    signing_key = None
    if not embedded and settings.public_url is not None and settings.storage_url.startswith("file:"):
        # Server processes that share the folder sign and check the same URLs, with no further secret to hand out.
        root = Path(unquote(urlsplit(settings.storage_url).path))
        with storage_explained():
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            signing_key = kept_key(root / "signing.key")
    try:
        return open_storage(
            settings.storage_url,
            s3=_s3_options(settings),
            public_url=None if embedded else settings.public_url,
            signing_key=signing_key,
            expires_in_s=expires_in_s,
            part_bytes=settings.part_bytes,
        )
    except StorageError as error:
        raise Invalid(str(error), param="REGISTRY_STORAGE_URL") from error


def _s3_options(settings: Settings) -> S3Options:
    return S3Options(
        endpoint_url=settings.s3_endpoint_url,
        public_endpoint_url=settings.s3_public_endpoint_url,
        region=settings.s3_region,
        addressing_style=settings.s3_addressing_style,
        checksum_mode=settings.s3_checksum_mode,
        encryption=settings.s3_encryption,
        kms_key_id=settings.s3_kms_key_id,
        bucket_owner=settings.s3_bucket_owner,
        deadline_s=settings.storage_deadline_s,
        stall_s=settings.storage_stall_s,
        at_once=settings.storage_calls,
    )
