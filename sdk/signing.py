"""Signatures of documents: OpenSSF model-signing over their canonical bytes, with EC keys, offline.

What is signed is a folder with one file. For a version it is `manifest.json`, whose SHA-256 is the version's digest; it
names every other file, and the base, by digest. For what an alias names it is `alias.json`, the canonical JSON of an
`AliasStatement`; for what a pulled folder tells of its version, `about.json` as it lies there. The file's name is part of what is signed, so that no document can be taken for one of another kind. A
bundle is valid if it states exactly what `sign` states about this document, and the key verifies its signature.
Exceptions tell whether it is valid, never a text that a library prints.

>>> from sdk.schemas.manifest import Manifest, ManifestFile
>>> files = [ManifestFile(path="adapter_config.json", size_bytes=1, sha256="a" * 64)]
>>> check_bundle(Manifest(base_fingerprint="b" * 64, files=files), "{}")
Traceback (most recent call last):
sdk.errors.VerificationFailed: the signature is not valid for 49946f40a3cb: it is not a bundle as model-signing writes it (mediaType); fetch both again, or ask the signer

The registry verifies with this module too, so of the SDK it imports only errors and schemas.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from pydantic import Field, ValidationError

from sdk.errors import InvalidInput, NotFound, Unavailable, VerificationFailed, disk_explained
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.wire import Sha256, Wire, canonical_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

#: Longer than any bundle; about 1,300 bytes are used.
MAX_BUNDLE_BYTES = 65_536
#: The file that is signed: of a version, of what an alias names, and of what a pulled folder tells.
MANIFEST_FILE = "manifest.json"
STATEMENT_FILE = "alias.json"
ABOUT_FILE = "about.json"
_MAX_KEY_BYTES = 65_536
#: The most public keys that a signature is checked against.
_MAX_KEYS = 100
#: The curves that model-signing accepts, by OpenSSL's names.
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----.*?-----END \1-----", re.DOTALL)
_HOW_TO_MAKE = "make one with: openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem"
_HOW_TO_TAKE = "write the public half of a key with: openssl ec -in KEY.pem -pubout -out KEY.pub.pem"


class _KeyHint(Wire):
    #: SHA-256 of the public key's PEM form.
    hint: Sha256


class _Material(Wire):
    public_key: _KeyHint = Field(alias="publicKey")
    log_entries: list[None] = Field(alias="tlogEntries", max_length=0)


class _Mark(Wire):
    sig: str = Field(max_length=300)
    key_id: Literal[""] = Field(alias="keyid")


class _Envelope(Wire):
    payload: str
    payload_type: Literal["application/vnd.in-toto+json"] = Field(alias="payloadType")
    signatures: list[_Mark] = Field(min_length=1, max_length=1)


class _Bundle(Wire):
    """The only form of a bundle that is accepted, with an EC key; others that model-signing reads are refused."""

    media_type: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"] = Field(alias="mediaType")
    material: _Material = Field(alias="verificationMaterial")
    envelope: _Envelope = Field(alias="dsseEnvelope")


class Signable(Protocol):
    """A document with one canonical form: a version's manifest, or a statement."""

    def canonical(self) -> bytes:
        """Return the bytes that are signed."""


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are verified by."""

    pem: bytes
    #: SHA-256 of its DER form (SubjectPublicKeyInfo).
    key_id: str

    @property
    def hint(self) -> str:
        """The name that bundles have for it."""
        return hashlib.sha256(self.pem).hexdigest()


def sign(document: Signable, key: Path, password: str | None = None, *, file: str = MANIFEST_FILE) -> SignedManifest:
    """Sign a document's canonical bytes, as a file of that name, with the EC private key in the PEM file `key`.

    Raises NotFound, InvalidInput for a key of another kind or a wrong password, Unavailable without `[signing]`.
    """
    library = _library()
    public = _described(_private_key(key, password).public_key())
    secret = password.encode() if password and is_protected(key) else None
    with _laid_out(document, file) as folder:
        target = folder.with_name("bundle.json")
        try:
            signer = library.signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
            signer.set_hashing_config(_hashing(library)).sign(folder, target)
        except ValueError as error:
            raise InvalidInput(f"{key} can't sign ({error}); {_HOW_TO_MAKE}", param="key") from error
        bundle = canonical_json(json.loads(target.read_bytes())).decode()
    # A signature that can't be verified is not returned.
    find_signer(document, bundle, [public], file=file)
    return SignedManifest(key_id=public.key_id, bundle=bundle)


def verify(document: Signable, bundle: str, key: Path, *, file: str = MANIFEST_FILE) -> None:
    """Return if `bundle` is a signature over exactly this document by the public key in the PEM file `key`.

    A file with several keys, or a folder of `*.pem`, stands for any of them. Raises VerificationFailed; NotFound and
    InvalidInput for the key; Unavailable without `[signing]`.
    """
    find_signer(document, bundle, read_public_keys(key), file=file)


def find_signer(document: Signable, bundle: str, keys: Sequence[PublicKey], *, file: str = MANIFEST_FILE) -> PublicKey:
    """Return the key that verifies `bundle` as a signature over exactly this document. Raises VerificationFailed."""
    library = _library()
    hint = check_bundle(document, bundle, file=file)
    signer = next((key for key in keys if key.hint == hint), None)
    if signer is None:
        raise VerificationFailed(
            f"the signature of {_digest(document)[:12]} was not made with {_listed(keys)}; verify "
            "with the signer's public key",
            param="signature",
        )
    with _laid_out(document, file) as folder:
        paths = folder.with_name("bundle.json"), folder.with_name("key.pem")
        paths[0].write_text(bundle, encoding="utf-8")
        paths[1].write_bytes(signer.pem)
        try:
            verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=paths[1])
            verifier.set_hashing_config(_hashing(library)).verify(folder, paths[0])
        except Exception as error:
            # Whatever the verifier raises, the signature is not verified.
            raise _wrong(document, f"it was not made with this key ({type(error).__name__})") from error
    return signer


def check_bundle(document: Signable, bundle: str, *, file: str = MANIFEST_FILE) -> str:
    """Return the hint of the key that a bundle over exactly this document names; its signature is not checked.

    Needs no `[signing]`. Raises VerificationFailed for another document, and for anything that is not a bundle of ours.
    """
    if len(bundle.encode("utf-8", "replace")) > MAX_BUNDLE_BYTES:
        raise _wrong(document, f"it is longer than {MAX_BUNDLE_BYTES} bytes")
    try:
        # Each meaning has only one text: no field appears twice, and no byte can be changed unnoticed.
        if canonical_json(json.loads(bundle)) != bundle.encode():
            raise _wrong(document, "its JSON is not canonical")
        parsed = _Bundle.model_validate_json(bundle)
        payload = _decoded(parsed.envelope.payload)
        _decoded(parsed.envelope.signatures[0].sig)
        said = canonical_json(json.loads(payload))
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise _wrong(document, f"it is not a bundle as model-signing writes it ({where or 'no object'})") from error
    except (ValueError, RecursionError) as error:
        raise _wrong(document, "it is not JSON") from error
    if said != canonical_json(_statement(document, file)):
        # This refuses lists of ignored paths, with which a signature would cover less than it seems to.
        raise _wrong(document, "it covers something other than just this document")
    return parsed.material.public_key.hint


def read_public_keys(path: Path) -> list[PublicKey]:
    """Return the EC public keys in a PEM file, or in a folder's `*.pem`.

    Raises NotFound, InvalidInput if there is no public key, or if there is anything else.
    """
    _library()
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    found = [key for file in files for key in _public_keys(file)]
    if not found:
        raise InvalidInput(f"{path} has no *.pem with a public key; {_HOW_TO_TAKE}", param="key")
    if len(found) > _MAX_KEYS:
        raise InvalidInput(f"{path} has {len(found)} keys; give at most {_MAX_KEYS}", param="key")
    return found


def read_public_half(key: Path, password: str | None = None) -> PublicKey:
    """Return the public half of the private key in the PEM file `key`. Raises what `sign` does."""
    _library()
    return _described(_private_key(key, password).public_key())


def key_id_of(public_key: str) -> tuple[str, str]:
    """Return the id of a public key in PEM, and the name that bundles have for it; nothing else is checked of the key.

    Needs no `[signing]`. Raises InvalidInput for a text that is not one public key in the form that this module writes.
    """
    lines = public_key.splitlines()
    try:
        if lines[:1] != ["-----BEGIN PUBLIC KEY-----"] or lines[-1:] != ["-----END PUBLIC KEY-----"]:
            raise ValueError("no public key")
        der = _decoded("".join(lines[1:-1]))
        if _pem(der) != public_key:
            raise ValueError("another form")
    except ValueError as error:
        raise InvalidInput(
            f"this is not one public key in PEM as openssl writes it; {_HOW_TO_TAKE}", param="public_key"
        ) from error
    return hashlib.sha256(der).hexdigest(), hashlib.sha256(public_key.encode()).hexdigest()


def _pem(der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])


def check_key(key: Path, password: str | None = None) -> None:
    """Raise what `sign` would for this key."""
    _library()
    _private_key(key, password)


def is_protected(key: Path) -> bool:
    """Tell whether a private key needs a password. Raises NotFound, InvalidInput."""
    return b"ENCRYPTED" in _read_key(key)


class _Library(NamedTuple):
    hashing: Any
    signing: Any
    verifying: Any


def _library() -> _Library:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        raise Unavailable(
            "signatures need a package that is not installed; install it with: pip install 'adapterctl[signing]'"
        ) from error
    return _Library(hashing, signing, verifying)


def _hashing(library: _Library) -> Any:
    """Return options with which every file counts: by default model-signing skips `.git`, `.github/` and others."""
    config = library.hashing.Config().use_file_serialization(hashing_algorithm="sha256", allow_symlinks=False)
    return config.set_ignored_paths(paths=[], ignore_git_paths=False)


@contextmanager
def _laid_out(document: Signable, file: str) -> Iterator[Path]:
    """The folder that is signed, in a temporary one of its own."""
    with disk_explained("writing what is signed"), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / _subject(file)
        folder.mkdir()
        (folder / file).write_bytes(document.canonical())
        yield folder


def _digest(document: Signable) -> str:
    return hashlib.sha256(document.canonical()).hexdigest()


def _subject(file: str) -> str:
    """What the signed folder is called in a statement."""
    return Path(file).stem


def _statement(document: Signable, file: str) -> dict[str, Any]:
    """All that a signature over this document states: see in-toto's Statement and model-signing's predicate v1.0."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": _subject(file), "digest": {"sha256": hashlib.sha256(bytes.fromhex(_digest(document))).hexdigest()}}
        ],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": file, "algorithm": "sha256", "digest": _digest(document)}],
        },
    }


def _decoded(text: str) -> bytes:
    """Decode base64 in its canonical form. Raises ValueError."""
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    if base64.b64encode(content).decode() != text:
        raise ValueError("no canonical base64")
    return content


def _wrong(document: Signable, why: str) -> VerificationFailed:
    return VerificationFailed(
        f"the signature is not valid for {_digest(document)[:12]}: {why}; fetch both again, or ask the signer",
        param="signature",
    )


def _listed(keys: Sequence[PublicKey]) -> str:
    shown = ", ".join(key.key_id[:12] for key in keys[:5])
    return shown + (", …" if len(keys) > 5 else "")


def _read_key(path: Path) -> bytes:
    with disk_explained(f"reading the key {path}"):
        if not path.exists():
            raise NotFound(f"there is no key {path}; check the path", param="key")
        # A pipe can't be read twice, as model-signing does.
        if not path.is_file():
            raise InvalidInput(f"{path} is not a regular file; give the PEM file of a key", param="key")
        with path.open("rb") as file:
            content = file.read(_MAX_KEY_BYTES + 1)
    if len(content) > _MAX_KEY_BYTES:
        raise InvalidInput(f"{path} is too long for a key; give the PEM file of one", param="key")
    return content


def _private_key(path: Path, password: str | None) -> EllipticCurvePrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = _read_key(path)
    protected = b"ENCRYPTED" in pem
    if protected and not password:
        raise InvalidInput(
            f"{path} is protected by a password; put it into ADAPTERCTL_SIGNING_PASSWORD", param="password"
        )
    if b"-----BEGIN PUBLIC KEY-----" in pem:
        raise InvalidInput(f"{path} is a public key; sign with the private one", param="key")
    try:
        loaded = serialization.load_pem_private_key(pem, password.encode() if password and protected else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        why = "can't be opened with this password" if protected else "is not a private key in PEM"
        then = "set ADAPTERCTL_SIGNING_PASSWORD to the right one" if protected else _HOW_TO_MAKE
        raise InvalidInput(f"{path} {why}; {then}", param="password" if protected else "key") from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.curve.name not in _CURVES:
        raise _other_kind(path, loaded)
    return loaded


def _public_keys(path: Path) -> list[PublicKey]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    blocks = list(_PEM.finditer(_read_key(path)))
    if any(b"PRIVATE" in block[1] for block in blocks):
        raise InvalidInput(f"{path} is a private key; {_HOW_TO_TAKE}", param="key")
    found = []
    for block in blocks:
        try:
            loaded = serialization.load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidInput(
                f"{path} holds something other than public keys; give a file with only public keys", param="key"
            ) from error
        if not isinstance(loaded, ec.EllipticCurvePublicKey) or loaded.curve.name not in _CURVES:
            raise _other_kind(path, loaded)
        found.append(_described(loaded))
    if not found:
        raise InvalidInput(f"{path} is not a public key in PEM; {_HOW_TO_TAKE}", param="key")
    return found


def _other_kind(path: Path, key: object) -> InvalidInput:
    curve = getattr(getattr(key, "curve", None), "name", None)
    kind = curve or re.sub("(Public|Private)Key.*", "", type(key).__name__).lstrip("_")
    return InvalidInput(
        f"{path} holds a key of the type {kind}; signatures need EC keys on {', '.join(_CURVES.values())}: {_HOW_TO_MAKE}",
        param="key",
    )


def _described(key: EllipticCurvePublicKey) -> PublicKey:
    from cryptography.hazmat.primitives import serialization

    info = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, info)
    return PublicKey(pem=key.public_bytes(serialization.Encoding.PEM, info), key_id=hashlib.sha256(der).hexdigest())
