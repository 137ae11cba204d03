"""New keys of every kind: those with which versions are signed, and those that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "secp256k1": ec.SECP256K1(),
}


class Pair(NamedTuple):
    """The PEM files of a private key and its public half."""

    private: Path
    public: Path


def make_key(folder: Path, name: str = "key", *, kind: str = "P-256", password: str | None = None) -> Pair:
    """Write a pair of a kind: a curve of `CURVES`, "ed25519", "rsa" or "dsa"."""
    folder.mkdir(parents=True, exist_ok=True)
    key = _new(kind)
    lock = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.pub.pem")
    pair.private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    pair.public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, info))
    return pair


def _new(kind: str) -> PrivateKeyTypes:
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind])
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "dsa":
        return dsa.generate_private_key(2048)
    return rsa.generate_private_key(65537, 2048)
