"""What claims do to a version that is there already, and what signed ones and the record that is told must not be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from contract.registry.helpers import publication
from contract.registry.pulled import Pulled
from contract.registry.test_claims import UNTOLD
from sqlalchemy import insert, select
from support import calls, registries
from support.adapters import base_registration
from support.keys import Pair, make_key
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS
from support.usage import mismeasured

from registry.db.types import utc_now
from registry.evaluations.contamination.trained_on import trained_on
from registry.evaluations.models import Evaluation
from registry.signatures.models import Signature
from sdk.errors import InvalidInput
from sdk.schemas.catalog import Published
from sdk.schemas.claims import About, read_about
from sdk.schemas.evaluation import EvaluationReport


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_key(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, key: Pair) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("strict")
    with registries.served(
        folder, database_url=f"sqlite:///{folder / 'registry.sqlite3'}", signing_keys=str(key.public)
    ) as world:
        world.admin.bases.register(base_registration())
        yield world


@pytest.fixture
def name() -> str:
    return f"attached-{next(SEEDS)}"


def test_version_that_exists_keeps_its_own_record_and_what_it_gets_is_audited(
    strict: World, key: Pair, pulled: Pulled, name: str
) -> None:
    ours, data = key.private, pulled.made.version.info.dataset
    assert data is not None
    client, ref = strict.writer, f"{name}@v1"

    def push(**options: Any) -> Any:
        return client.versions.push(pulled.folder, name, base="tiny", sign=ours, **options).claims

    def known() -> Any:
        view = client.get(ref).info
        assert {field: getattr(view, field) for field in UNTOLD} == UNTOLD
        assert not [*client.search(f"dataset = {data.digest[:12]} and name = {name}")]
        with strict.services.db.read() as session:
            found = trained_on(session, ref, view.digest, "-")
        return found.rows, found.unknown

    def audited() -> Any:
        entries = [each for each in strict.admin.audit(subject=ref) if each.action == "version.claim"]
        return [(each.before, each.after) for each in entries][::-1]

    assert push(claims=False) is None
    before = known()
    assert before == ({}, [f"what {ref} was trained on is not known"])
    assert (push(), known()) == ("claimed", before)
    first = (None, {"claimed by": "local:elsewhere", "signed by": None})
    assert audited() == [first]
    pulled.there.writer.signatures.sign_about(pulled.folder, ours)
    assert (push(), known()) == ("signed", before)
    second = {"claimed by": "local:elsewhere", "signed by": client.get(ref).claimed.key_id}
    assert audited() == [first, ({"claims sent by": client.get(ref).info.created_by}, second)]
    # Again, nothing is new.
    assert (push(), known(), len(audited())) == ("signed", before, 2)
    assert not mismeasured(strict.services)


def test_signed_record_is_what_was_signed_to_the_letter(strict: World, key: Pair, pulled: Pulled, name: str) -> None:
    """What can't be seen is shown as `?`, and is a part of columns, labels and texts all the same."""
    of = pulled.made.version.info
    training = {**(of.training or {}), "separator": "a\nb\u200b"}
    pulled.tell(training=training)
    pulled.there.writer.signatures.sign_about(pulled.folder, key.private)
    version = strict.writer.push(pulled.folder, name, base="tiny", sign=key.private)
    assert version.info.training == training
    assert version.claimed is not None
    assert version.claimed.about.training == {**training, "separator": "a?b?"}


@pytest.mark.parametrize(
    "changed",
    [
        {"quantization": {"type": "nf9"}, "method": "qlora"},
        {"training": {"separator": "a\0b"}},
        {"training": {"separator": "\ud800"}},
    ],
)
def test_signed_record_that_can_not_be_acted_on_is_refused(
    changed: dict[str, Any], strict: World, key: Pair, pulled: Pulled, name: str
) -> None:
    pulled.tell(**changed)
    pulled.there.writer.signatures.sign_about(pulled.folder, key.private)
    with pytest.raises(InvalidInput, match=r"can't be a record here.*push with claims=False"):
        strict.writer.push(pulled.folder, name, base="tiny", sign=key.private)


def test_key_that_comes_twice_is_no_claim(pulled: Pulled) -> None:
    told = pulled.about.read_text()
    assert read_about(told).registry == "local:elsewhere"
    with pytest.raises(ValueError, match="isn't JSON that a pull writes"):
        read_about(told.replace('"registry":', '"registry":"local:honest","registry":'))


def test_longer_names_than_a_claim_has_are_left_out_of_what_is_told(pulled: Pulled, name: str) -> None:
    client = pulled.there.writer
    long = {"x" * 301: 1.0, "loss": 2.0}
    body = publication(client, pulled.made.folder, name, metrics=long, training=long, libraries={"y" * 301: "1"})
    client.call("POST", "/versions", Published, body=body)
    about = client.call("GET", "/version/about", About, params={"ref": f"{name}@v1"})
    assert (about.metrics, about.training, about.libraries) == ({"loss": 2.0}, {"loss": 2.0}, {})


def test_newest_scores_and_first_signers_are_told_however_many_there_are(pulled: Pulled, tmp_path: Any) -> None:
    there, of = pulled.there, pulled.made.version
    data = tmp_path / "held-out.jsonl"
    data.write_text(json.dumps({"text": f"{next(SEEDS)}"}) + "\n")
    there.writer.submit_evaluation([of.ref], data=data)
    held = calls.hold(there.worker)
    report = EvaluationReport(metrics={"loss": 1.5}, precision="float32", conditions=CONDITIONS)
    calls.complete(there.worker, held, evaluations=[calls.scored(target, report=report) for target in held.targets])
    columns = Evaluation.__table__.columns
    with there.services.db.write() as session:
        row = session.execute(select(*columns).where(Evaluation.digest == of.digest)).one()._asdict()
        copies = [
            row | {"id": f"{number:012x}", "precision": f"float{number}", "created_at": utc_now(), "record_bytes": 0}
            for number in range(250)
        ]
        session.execute(insert(Evaluation), copies)
        signed = {"manifest_digest": of.digest, "namespace": "-", "created_by": "some", "created_at": utc_now()}
        session.execute(insert(Signature), [{**signed, "key_id": f"{key:064x}", "bundle": "{}"} for key in range(120)])
    told = there.writer.call("GET", "/version/about", About, params={"ref": of.ref})
    assert (len(told.evaluations), told.evaluations[0].precision) == (50, "float249")
    # Several namespaces may have signatures of the same bytes.
    assert len(told.signed_by) == 100
