"""What a pulled folder tells of its version: read for a push to another registry, and signed for it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from sdk import config
from sdk.errors import InvalidInput, NotFound, disk_explained
from sdk.formats.about_file import ABOUT, ABOUT_SIGNATURE, MOST_ABOUT_BYTES
from sdk.pulling.folder import MARKER_FOLDER, verify_folder
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.claims import AboutFile, read_about
from sdk.schemas.sent_claims import SentClaims
from sdk.schemas.wire import canonical_json, read_json
from sdk.signing import ABOUT_FILE, MAX_BUNDLE_BYTES, sign
from sdk.whole_files import write_whole


class FolderClaims(NamedTuple):
    """What a folder tells; or why that isn't sent, as the rest of a sentence."""

    claims: SentClaims | None = None
    #: The registry that told it.
    registry: str | None = None
    left_out: str | None = None


def claims_in(folder: Path, digest: str) -> FolderClaims:
    """Return what a folder tells of the version with a digest, as a pull has written it; nothing if no pull has."""
    path = folder / MARKER_FOLDER / ABOUT
    if not os.path.lexists(path):
        return FolderClaims()
    try:
        text = _text(path, MOST_ABOUT_BYTES)
        file = read_about(text)
        signature = folder / MARKER_FOLDER / ABOUT_SIGNATURE
        signed = None
        if os.path.lexists(signature):
            signed = read_json(SignedManifest, _text(signature, 2 * MAX_BUNDLE_BYTES))
    except OSError as error:
        return FolderClaims(left_out=f"it can't be read ({error.strerror})")
    except ValueError as error:
        # Errors of a schema would show what the file holds.
        return FolderClaims(
            left_out=str(error) if type(error) is ValueError else "its signature is none that sign has written"
        )
    if file.about.digest != digest:
        return FolderClaims(left_out=f"it is about other bytes ({file.about.digest[:12]}, and {digest[:12]} is pushed)")
    return FolderClaims(SentClaims(text=text, signature=signed), file.registry)


def sign_about(
    folder: Path, key: str | Path | None = None, *, password: str | None = None
) -> tuple[AboutFile, SignedManifest]:
    """Sign what a pulled folder tells of its version, whose files are hashed first; the signature is written beside it.

    Raises NotFound for a folder that tells nothing, InvalidInput, VerificationFailed, Unavailable without `[signing]`.
    """
    path = config.signing_key() if key is None else config.user_path(key)
    if path is None:
        raise InvalidInput("there is no key to sign with; give --key, or set ADAPTERCTL_SIGNING_KEY", param="key")
    manifest = verify_folder(folder)
    found = claims_in(folder, manifest.digest)
    if found.left_out is not None:
        raise InvalidInput(
            f"{folder / MARKER_FOLDER / ABOUT} can't be signed: {found.left_out}; pull again", param="ref"
        )
    if found.claims is None:
        raise NotFound(f"{folder} has no claims to sign; write them with: adapterctl pull REF -o {folder}", param="ref")
    signed = sign(found.claims, path, password or config.signing_password(), file=ABOUT_FILE)
    with disk_explained(f"writing {folder}"):
        write_whole(folder / MARKER_FOLDER / ABOUT_SIGNATURE, canonical_json(signed.model_dump()), durable=True)
    return read_about(found.claims.text), signed


def _text(path: Path, most_bytes: int) -> str:
    """Return a file's text. A link isn't followed, a pipe isn't waited for, and a long one isn't read. Raises OSError, ValueError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - it is open already
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it isn't a plain file")
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is longer than {most_bytes // 1024} KiB")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise ValueError("it isn't text") from None
