"""Signatures hold for exactly one manifest and one key; whatever else is handed in is refused, and never crashes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying
from support import processes
from support.keys import Pair, make_key
from support.soak import SOAKING

from sdk.errors import InvalidInput, NotFound, VerificationFailed
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.wire import canonical_json
from sdk.signing import MAX_BUNDLE_BYTES, find_signer, is_protected, read_public_keys, sign, verify


def manifest(text: str = "weights", *, base: str = "b", more: str | None = None) -> Manifest:
    """A manifest of two files, one of them with a digest of `text`; with `more`, of three."""
    paths = {"adapter_config.json": "config", "adapter_model.safetensors": text}
    if more is not None:
        paths[more] = more
    files = [
        ManifestFile(path=path, size_bytes=1, sha256=hashlib.sha256(said.encode()).hexdigest())
        for path, said in paths.items()
    ]
    return Manifest(base_fingerprint=base * 64, files=files)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def signed(pair: Pair) -> SignedManifest:
    return sign(manifest(), pair.private)


def changed(signed: SignedManifest, change: Callable[[dict[str, Any]], None]) -> str:
    """The bundle with something in it changed, written in the one right way."""
    bundle = json.loads(signed.bundle)
    change(bundle)
    return canonical_json(bundle).decode()


def forged(pair: Pair, statement: Any) -> str:
    """A bundle in which the key's owner says something else: signed as DSSE asks."""
    key = serialization.load_pem_private_key(pair.private.read_bytes(), None)
    payload, kind = json.dumps(statement).encode(), "application/vnd.in-toto+json"
    signature = key.sign(f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload, ec.ECDSA(hashes.SHA256()))
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(pair.public.read_bytes()).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return canonical_json(bundle).decode()


def statement_of(bundle: str) -> dict[str, Any]:
    """What a bundle says."""
    return json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))


class TestWhatHolds:
    @pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
    def test_a_signature_holds_for_its_manifest_and_key(self, kind: str, tmp_path: Path) -> None:
        pair = make_key(tmp_path, kind=kind)
        signed = sign(manifest(), pair.private)
        verify(manifest(), signed.bundle, pair.public)
        key = serialization.load_pem_public_key(pair.public.read_bytes())
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        assert signed.key_id == hashlib.sha256(der).hexdigest()
        assert len(signed.bundle) < 2000

    def test_model_signing_alone_verifies_it(self, signed: SignedManifest, pair: Pair, tmp_path: Path) -> None:
        (tmp_path / "manifest").mkdir()
        (tmp_path / "manifest/manifest.json").write_bytes(manifest().canonical())
        (tmp_path / "bundle.json").write_text(signed.bundle)
        config = verifying.Config().use_elliptic_key_verifier(public_key=pair.public)
        config.verify(tmp_path / "manifest", tmp_path / "bundle.json")
        (tmp_path / "manifest/manifest.json").write_bytes(manifest("other").canonical())
        with pytest.raises(ValueError, match="mismatch"):
            config.verify(tmp_path / "manifest", tmp_path / "bundle.json")

    def test_a_protected_key_opens_with_its_password(self, tmp_path: Path) -> None:
        pair = make_key(tmp_path, password="correct horse ü")
        assert is_protected(pair.private)
        verify(manifest(), sign(manifest(), pair.private, "correct horse ü").bundle, pair.public)
        with pytest.raises(InvalidInput, match="put it into ADAPTERCTL_SIGNING_PASSWORD"):
            sign(manifest(), pair.private)
        with pytest.raises(InvalidInput, match="can't be opened with this password"):
            sign(manifest(), pair.private, "wrong")

    def test_a_password_that_is_not_needed_does_no_harm(self, pair: Pair) -> None:
        assert not is_protected(pair.private)
        verify(manifest(), sign(manifest(), pair.private, "some").bundle, pair.public)

    def test_one_of_several_keys(self, signed: SignedManifest, pair: Pair, tmp_path: Path) -> None:
        others = [make_key(tmp_path / name).public for name in ("a", "b")]
        bundled = tmp_path / "all.pem"
        bundled.write_bytes(b"our keys\n" + b"".join(path.read_bytes() for path in (*others, pair.public)))
        verify(manifest(), signed.bundle, bundled)
        assert find_signer(manifest(), signed.bundle, read_public_keys(bundled)).key_id == signed.key_id
        folder = tmp_path / "keys"
        folder.mkdir()
        for number, path in enumerate((*others, pair.public)):
            (folder / f"{number}.pem").write_bytes(path.read_bytes())
        verify(manifest(), signed.bundle, folder)
        (folder / "2.pem").unlink()
        with pytest.raises(VerificationFailed, match="was not made with"):
            verify(manifest(), signed.bundle, folder)


class TestWhatDoesNot:
    @pytest.mark.parametrize(
        "other",
        [
            manifest("other weights"),
            manifest(base="c"),
            manifest(more="README.md"),
            Manifest(base_fingerprint="b" * 64, files=manifest().files[:1]),
            manifest().model_copy(update={"kind": "merged"}),
        ],
        ids=["altered", "base", "added", "removed", "kind"],
    )
    def test_another_versions_signature(self, other: Manifest, pair: Pair, signed: SignedManifest) -> None:
        with pytest.raises(VerificationFailed, match="something other"):
            verify(other, signed.bundle, pair.public)
        theirs = sign(other, pair.private)
        verify(other, theirs.bundle, pair.public)
        with pytest.raises(VerificationFailed, match="something other"):
            verify(manifest(), theirs.bundle, pair.public)

    def test_another_key(self, signed: SignedManifest, tmp_path: Path) -> None:
        other = make_key(tmp_path)
        with pytest.raises(VerificationFailed, match="was not made with") as caught:
            verify(manifest(), signed.bundle, other.public)
        assert caught.value.exit_code == 7
        # Under a false name too.
        hint = hashlib.sha256(other.public.read_bytes()).hexdigest()
        bundle = changed(signed, lambda b: b["verificationMaterial"]["publicKey"].update(hint=hint))
        with pytest.raises(VerificationFailed, match="it was not made with this key"):
            verify(manifest(), bundle, other.public)

    @pytest.mark.parametrize("extra", [".github/x", ".gitattributes", ".git/hooks/run", "x", "sub/manifest.json"])
    @pytest.mark.parametrize("ignoring", ["by default", "by name", "nothing"])
    def test_a_signed_folder_with_more_in_it(self, extra: str, ignoring: str, pair: Pair, tmp_path: Path) -> None:
        """model-signing itself takes these where a file is ignored; the version has one file that is signed."""
        folder = tmp_path / "manifest"
        (folder / extra).parent.mkdir(parents=True, exist_ok=True)
        (folder / extra).write_text("more")
        (folder / "manifest.json").write_bytes(manifest().canonical())
        config = hashing.Config()
        if ignoring != "by default":
            config.set_ignored_paths(paths=[extra] if ignoring == "by name" else [], ignore_git_paths=False)
        target = tmp_path / "bundle.json"
        signer = signing.Config().use_elliptic_key_signer(private_key=pair.private)
        signer.set_hashing_config(config).sign(folder, target)
        with pytest.raises(VerificationFailed):
            verify(manifest(), canonical_json(json.loads(target.read_text())).decode(), pair.public)

    def test_a_signature_that_ignores_what_it_is_about(self, pair: Pair, tmp_path: Path) -> None:
        folder, target = tmp_path / "manifest", tmp_path / "bundle.json"
        folder.mkdir()
        config = hashing.Config().set_ignored_paths(paths=["manifest.json"], ignore_git_paths=False)
        signer = signing.Config().use_elliptic_key_signer(private_key=pair.private)
        (folder / "manifest.json").write_text("anything")
        signer.set_hashing_config(config).sign(folder, target)
        # The library alone takes it for every manifest: that is what the check of the statement is for.
        (folder / "manifest.json").write_bytes(manifest().canonical())
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=pair.public)
        verifier.set_hashing_config(hashing.Config()).verify(folder, target)
        with pytest.raises(VerificationFailed, match="something other"):
            verify(manifest(), canonical_json(json.loads(target.read_text())).decode(), pair.public)

    @pytest.mark.parametrize(
        "change",
        [
            lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
            lambda s: s.update(predicateType="https://model_signing/Digests/v0.1"),
            lambda s: s["subject"].append(s["subject"][0]),
            lambda s: s["subject"][0].update(name="other"),
            lambda s: s["subject"][0]["digest"].update(sha256="0" * 64),
            lambda s: s["predicate"].update(note="x"),
            lambda s: s["predicate"]["serialization"].update(ignore_paths=[".github"]),
            lambda s: s["predicate"]["serialization"].update(allow_symlinks=True),
            lambda s: s["predicate"]["serialization"].update(allow_symlinks=0),
            lambda s: s["predicate"]["serialization"].update(method="shards", shard_size=1),
            lambda s: s["predicate"]["resources"][0].update(name="./manifest.json"),
            lambda s: s["predicate"]["resources"][0].update(algorithm="blake2"),
            lambda s: s["predicate"]["resources"].append(s["predicate"]["resources"][0]),
            lambda s: s["predicate"].update(resources=[]),
        ],
    )
    def test_a_genuine_signature_over_another_statement(
        self, change: Callable[[dict[str, Any]], None], signed: SignedManifest, pair: Pair
    ) -> None:
        statement = statement_of(signed.bundle)
        verify(manifest(), forged(pair, statement), pair.public)
        change(statement)
        with pytest.raises(VerificationFailed, match="something other"):
            verify(manifest(), forged(pair, statement), pair.public)

    @pytest.mark.soak
    def test_every_changed_byte(self, signed: SignedManifest, pair: Pair) -> None:
        """What the form check lets through, the key's signature must catch; so each byte is tried."""
        keys = read_public_keys(pair.public)
        content = signed.bundle.encode()
        chance = random.Random(4)
        places = range(len(content)) if SOAKING else chance.sample(range(len(content)), 200)
        for place in places:
            for mask in (1 << chance.randrange(7), chance.randrange(1, 128)):
                flipped = bytearray(content)
                flipped[place] ^= mask
                with pytest.raises(VerificationFailed):
                    find_signer(manifest(), flipped.decode(), keys)
        for length in [*chance.sample(range(len(content)), 50), 0]:
            with pytest.raises(VerificationFailed):
                find_signer(manifest(), content[:length].decode(), keys)

    @pytest.mark.parametrize(
        "bundle",
        [
            "",
            "null",
            "[]",
            "{}",
            "1e999",
            "NaN",
            "9" * 5000,
            "[" * MAX_BUNDLE_BYTES,
            '{"a":' * 5000,
            '"\ud800"',
            '"\\ud800"',
            "\0",
            "x" * (MAX_BUNDLE_BYTES + 1),
        ],
        ids=range(13),
    )
    def test_hostile_text(self, bundle: str, pair: Pair) -> None:
        with pytest.raises(VerificationFailed):
            verify(manifest(), bundle, pair.public)

    @pytest.mark.parametrize(
        "change",
        [
            lambda b: b.update(extra=1),
            lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"),
            lambda b: b["verificationMaterial"].update(tlogEntries=[None]),
            lambda b: b["verificationMaterial"].update(x509CertificateChain={"certificates": []}),
            # Without it model-signing prints a warning to stdout and goes on.
            lambda b: b["verificationMaterial"].update(publicKey={}),
            lambda b: b["verificationMaterial"]["publicKey"].update(rawBytes="AA=="),
            lambda b: b["dsseEnvelope"].update(payloadType="text/plain"),
            lambda b: b["dsseEnvelope"].update(payload=""),
            lambda b: b["dsseEnvelope"].update(payload=b["dsseEnvelope"]["payload"].rstrip("=") + " =="),
            lambda b: b["dsseEnvelope"].update(signatures=[]),
            lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]),
            lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=""),
            lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="AAAA"),
            lambda b: b["dsseEnvelope"]["signatures"][0].update(sig="A" * 400),
            lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="k"),
        ],
    )
    def test_a_bundle_of_another_form(
        self,
        change: Callable[[dict[str, Any]], None],
        signed: SignedManifest,
        pair: Pair,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        with pytest.raises(VerificationFailed) as caught:
            verify(manifest(), changed(signed, change), pair.public)
        assert "\n" not in caught.value.message
        assert capfd.readouterr() == ("", "")

    def test_another_spelling_of_the_same_json(self, signed: SignedManifest, pair: Pair) -> None:
        again = signed.bundle[:-1] + ',"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}'
        for text in (" " + signed.bundle, json.dumps(json.loads(signed.bundle), indent=1), again):
            with pytest.raises(VerificationFailed, match="not canonical"):
                verify(manifest(), text, pair.public)


class TestKeys:
    @pytest.mark.parametrize("kind", ["ed25519", "rsa", "dsa", "secp256k1"])
    def test_other_kinds_are_refused_by_name(self, kind: str, signed: SignedManifest, tmp_path: Path) -> None:
        pair = make_key(tmp_path, kind=kind)
        for attempt in (
            lambda: sign(manifest(), pair.private),
            lambda: verify(manifest(), signed.bundle, pair.public),
        ):
            with pytest.raises(InvalidInput, match=f"(?i)of the type {kind};.*P-256") as caught:
                attempt()
            assert "openssl ecparam" in caught.value.message

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0" * 70_000,
            b"garbage",
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ],
    )
    def test_garbage_is_refused_in_one_sentence(self, content: bytes, signed: SignedManifest, tmp_path: Path) -> None:
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        for attempt in (lambda: sign(manifest(), path, "p"), lambda: verify(manifest(), signed.bundle, path)):
            with pytest.raises(InvalidInput) as caught:
                attempt()
            assert "\n" not in caught.value.message
            assert str(path) in caught.value.message

    def test_the_wrong_half(self, signed: SignedManifest, pair: Pair) -> None:
        with pytest.raises(InvalidInput, match="is a public key; sign with the private one"):
            sign(manifest(), pair.public)
        with pytest.raises(InvalidInput, match="is a private key; write the public half"):
            verify(manifest(), signed.bundle, pair.private)

    def test_what_is_no_file(self, signed: SignedManifest, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            sign(manifest(), tmp_path / "none.pem")
        with pytest.raises(NotFound):
            verify(manifest(), signed.bundle, tmp_path / "none.pem")
        with pytest.raises(InvalidInput, match="not a regular file"):
            sign(manifest(), tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InvalidInput, match="not a regular file"):
            sign(manifest(), tmp_path / "pipe")
        (tmp_path / "keys").mkdir()
        with pytest.raises(InvalidInput, match=r"no \*\.pem with a public key"):
            verify(manifest(), signed.bundle, tmp_path / "keys")

    def test_a_private_key_among_the_public_ones(self, pair: Pair, signed: SignedManifest) -> None:
        with pytest.raises(InvalidInput, match="is a private key"):
            verify(manifest(), signed.bundle, pair.private.parent)


def test_without_the_extra_it_says_what_to_install(signed: SignedManifest, pair: Pair) -> None:
    script = f"""
import sys
sys.modules["model_signing"] = None
from pathlib import Path
from sdk.errors import Unavailable
from sdk.signing import check_bundle, sign, verify
from sdk.schemas.manifest import Manifest
manifest = Manifest.model_validate_json({manifest().canonical()!r})
assert check_bundle(manifest, {signed.bundle!r}) == {hashlib.sha256(pair.public.read_bytes()).hexdigest()!r}
for attempt in (
    lambda: sign(manifest, Path({str(pair.private)!r})),
    lambda: verify(manifest, {signed.bundle!r}, Path({str(pair.public)!r})),
):
    try:
        attempt()
    except Unavailable as error:
        assert "pip install 'adapterctl[signing]'" in error.message
        assert error.exit_code == 9
    else:
        raise SystemExit("not refused")
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_module_alone_loads_no_library() -> None:
    script = "import sys, sdk.signing; print(sorted({'cryptography', 'model_signing', 'httpx'} & set(sys.modules)))"
    done = processes.finished(sys.executable, "-c", script, check=True)
    assert done.stdout == "[]\n"
