"""Whether what was pulled is what was published, and who signed it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.errors import VerificationFailed
from sdk.formats.manifest import HasFiles
from sdk.pulling.folder import MARKER_FOLDER, SIGNATURES, refuse_hazard, verify_folder
from sdk.pulling.source import ManifestSignature, read_signature

if TYPE_CHECKING:
    from sdk.schemas.manifest import Manifest


def check_signed(contents: HasFiles, signatures: list[ManifestSignature], key: Path) -> None:
    """Raise VerificationFailed unless the public key in `key` verifies a signature over exactly this manifest."""
    from sdk.signing import verify

    refused: VerificationFailed | None = None
    for signature in signatures:
        try:
            verify(contents, signature.bundle, key)
        except VerificationFailed as error:
            refused = error
        else:
            return
    if refused is None or len(signatures) > 1:
        found = f"{len(signatures)} signatures, but none" if signatures else "no signature"
        raise VerificationFailed(
            f"the version {contents.digest[:12]} has {found} that {key} verifies; "
            "ask its publisher to sign it, or give the signer's public key",
            param="verify_with",
        )
    raise refused


def verify_pulled(folder: Path, key: Path | None = None) -> Manifest:
    """Hash a pulled folder again; with `key`, that must verify a signature in it. Raises VerificationFailed."""
    manifest = verify_folder(folder)
    refuse_hazard(folder, manifest)
    if key is not None:
        check_signed(manifest, read_signatures(folder), key)
    return manifest


def read_signatures(folder: Path) -> list[ManifestSignature]:
    """Return the signatures in a pulled folder; none if it has no file of them. Raises VerificationFailed."""
    path = folder / MARKER_FOLDER / SIGNATURES
    try:
        return [read_signature(entry) for entry in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise VerificationFailed(f"{path} is not a list of signatures; pull the version again") from None


def signature_bytes(signatures: list[ManifestSignature]) -> bytes:
    """Return signatures as a pulled folder stores them."""
    shown = [{"key_id": signature.key_id, "bundle": signature.bundle} for signature in signatures]
    return (json.dumps(shown, indent=1) + "\n").encode()
