"""Connections over TLS trust whom the environment says, and no other."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.answering import Answering, Handler, serving

from sdk.pulling.http import BrokenConnection, HttpClient


class Echo(Handler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200, self.path.encode())


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    certificate, key = _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Answering(("127.0.0.1", 0), Echo)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield f"https://127.0.0.1:{server.server_port}/a%20b?x=1&y=%2F"


def test_a_server_is_trusted_by_the_environment(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    http = HttpClient()
    with pytest.raises(BrokenConnection, match="SSLCertVerificationError"):
        http.get(url, {})
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    http = HttpClient()
    for _ in range(2):
        response = http.get(url, {})
        # The path and query arrive as they were signed.
        assert (response.status, response.read(1000)) == (200, b"/a%20b?x=1&y=%2F")
        response.close()
    http.close()
    with pytest.raises(BrokenConnection):
        http.get(url.replace("127.0.0.1", "localhost"), {})
