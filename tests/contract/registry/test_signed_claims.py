"""What a pulled folder tells counts where a key that the target lists has signed it, as what that key states."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.registry.pulled import Pulled
from support import registries
from support.adapters import base_registration
from support.databases import new_database
from support.keys import Pair, make_key
from support.people import SEEDS
from support.registries import World
from support.usage import mismeasured

from registry.evaluations.contamination.trained_on import trained_on
from sdk.errors import NotFound, VerificationFailed
from sdk.formats.about_file import ABOUT_SIGNATURE
from sdk.pulling.folder import verify_folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    folder = tmp_path_factory.mktemp("keys")
    return make_key(folder, "ours"), make_key(folder, "theirs")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def strict(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, keys: tuple[Pair, Pair]
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(f"strict-{request.param}")
    with (
        new_database(request.param, folder, request) as url,
        registries.served(folder, database_url=url, signing_keys=str(keys[0].public)) as world,
    ):
        world.admin.bases.register(base_registration())
        yield world


@pytest.fixture
def name() -> str:
    return f"signed-{next(SEEDS)}"


def test_signed_by_a_listed_key_it_is_the_record_as_that_key_states(
    strict: World, keys: tuple[Pair, Pair], pulled: Pulled, name: str
) -> None:
    of, ours = pulled.made.version.info, keys[0].private
    pulled.there.writer.signatures.sign_about(pulled.folder, ours)
    report = strict.writer.versions.push(pulled.folder, name, base="tiny", sign=ours)
    assert report.claims == "signed"
    version, found = strict.writer.get(f"{name}@v1"), report.version
    claimed = version.claimed
    assert claimed is not None
    assert (claimed.state, claimed.key_id) == ("signed", strict.writer.signatures(version.digest)[0].key_id)
    for field in ("method", "dataset", "training", "metrics", "libraries"):
        assert getattr(found, field) == getattr(of, field), field
    # Nobody here has derived it: it is stated, as what a pusher states.
    assert set(found.reported or ()) >= {"dataset", "metrics", "training"}
    assert (found.job, found.parents) == (None, [])
    assert set(found.unknown) & {"dataset", "training", "quantization"} == set()
    assert of.dataset is not None
    assert [each.ref for each in strict.writer.search(f"dataset = {of.dataset.digest[:12]} and name = {name}")] == [
        version.ref
    ]
    with strict.services.db.read() as session:
        known = trained_on(session, version.ref, version.digest, "-")
    assert [digest for digest, _ in known.rows] == [of.dataset.digest] or of.dataset.digest[:12] in str(known.unknown)
    assert not mismeasured(strict.services)


def test_signed_by_another_key_it_stays_a_claim_until_a_listed_one_signs(
    strict: World, keys: tuple[Pair, Pair], pulled: Pulled, name: str
) -> None:
    ours, theirs = (pair.private for pair in keys)
    pulled.there.writer.signatures.sign_about(pulled.folder, theirs)
    report = strict.writer.versions.push(pulled.folder, name, base="tiny", sign=ours)
    assert (report.claims, report.version.training) == ("claimed", None)
    pulled.there.writer.signatures.sign_about(pulled.folder, ours)
    again = strict.writer.versions.push(pulled.folder, name, base="tiny", sign=ours)
    assert (again.existing, again.claims) == (True, "signed")
    # What is pulled again is told anew, so the signature is not of that.
    assert verify_folder(pulled.folder).digest == report.version.digest
    pulled.there.writer.pull(pulled.made.version.ref, pulled.folder)
    assert not (pulled.about.parent / ABOUT_SIGNATURE).exists()
    # The version's own signature covers its files alone.
    assert strict.writer.versions.push(pulled.folder, f"{name}-b", base="tiny", sign=ours).claims == "claimed"
    assert not mismeasured(strict.services)


def test_changed_after_it_was_signed_it_is_refused(
    strict: World, keys: tuple[Pair, Pair], pulled: Pulled, name: str
) -> None:
    pulled.there.writer.signatures.sign_about(pulled.folder, keys[0].private)
    pulled.tell(training={"optimizer": "made-up"})
    with pytest.raises(VerificationFailed):
        strict.writer.push(pulled.folder, name, base="tiny", sign=keys[0].private)
    with pytest.raises(NotFound):
        strict.writer.versions(name)
    assert strict.writer.push(pulled.folder, name, base="tiny", sign=keys[0].private, claims=False).claimed is None
