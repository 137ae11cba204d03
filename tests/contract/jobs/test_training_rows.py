"""The first rows of trainings: kept with the job, shown to readers of the datasets, removed with these, and counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import func, select, update
from support import calls
from support.adapters import ASKED, base_registration, use_of
from support.people import SEEDS, new_adapter, submit, training
from support.statements import sent
from support.trainings import save_jsonl
from support.usage import differing, mismeasured

from registry.catalog.models import Origin
from registry.catalog.models import Version as VersionRow
from registry.jobs.models import SeenDataset, SeenRows
from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput, NotFound
from sdk.objects import Version
from sdk.schemas.access import QuotaLimits
from sdk.schemas.training_rows import SeenPiece, SeenText, TrainingRows

TRAINED = {**ASKED, "loss_on": "completion", "max_length": 256}


def text(step: int = 1, said: str = "2 + 2 = 4🙂", **changed: Any) -> SeenText:
    learnt = said.rindex(" ")
    piece = SeenPiece(first_token=0, tokens=6, text=said, supervised=[[learnt, len(said)]])
    about = {"where": f"line {step}", "step": step, "tokens": 6, "supervised_tokens": 2, "pieces": [piece]}
    return SeenText(**{**about, "stop": "</s>", **changed})


ROWS = TrainingRows(loss_on="completion", rows=9, texts=[text(1), text(2), text(3)])


def trained(crew: Crew, rows: TrainingRows | None = ROWS, data: str | None = None, **said: Any) -> Version:
    """A version that a worker says it has trained on rows."""
    name, data = f"{crew.space}/a{next(SEEDS)}", data or crew.data
    submit(crew.writer, training(name, data))
    held = calls.hold(crew.worker, name=f"w-{crew.space}")
    about = {"dataset": use_of(data), "training": {**TRAINED, **said}, "metrics": {"loss": 1.0}}
    made = calls.publication(crew.worker, new_adapter(crew.tmp_path), name, space=crew.space, **about)
    done = calls.complete(crew.worker, held, version=made, training_rows=rows)
    return crew.writer.get(str((done.result or {})["ref"]))


@pytest.fixture
def own(crew: Crew) -> str:
    """A dataset that no other test has, so that it can be removed."""
    path = save_jsonl(crew.tmp_path / "own.jsonl", [{"prompt": crew.space, "completion": "b"}])
    return crew.writer.datasets.add(path, namespace=crew.space).digest


def stored(crew: Crew) -> int:
    with crew.world.services.db.read() as session:
        rows = session.scalar(select(func.count()).select_from(SeenRows)) or 0
        assert rows == (session.scalar(select(func.count(func.distinct(SeenDataset.job_id)))) or 0)
        return rows


def test_rows_of_a_version_are_those_that_its_training_handed_in(crew: Crew, acting: Callable[..., Client]) -> None:
    version = trained(crew)
    found = acting(**{crew.space: Role.READER}).versions.training_rows(version.ref)
    assert (found.ref, found.digest, found.datasets, found.recorded) == (version.ref, version.digest, [crew.data], ROWS)
    assert found.job == version.info.job.id
    assert mismeasured(crew.world.services, crew.space) == []
    with sent(crew.world.services.db) as statements:
        crew.writer.versions.training_rows(version.ref)
    assert len(statements) <= 7
    with pytest.raises(NotFound, match="there is no"):
        acting(**{f"{crew.space}-x": Role.ADMIN}).versions.training_rows(version.ref)


def test_weights_of_an_earlier_step_have_not_seen_what_later_ones_took(crew: Crew) -> None:
    found = crew.writer.versions.training_rows(trained(crew, best_step=2, looks=2).ref)
    assert [text.step for text in found.recorded.texts] == [1, 2]


def test_rows_are_gone_with_their_dataset_and_come_back_with_it(crew: Crew, own: str) -> None:
    kept, gone = trained(crew), trained(crew, data=own)
    before = stored(crew)
    path = crew.tmp_path / "own.jsonl"
    crew.writer.datasets.remove(own)
    with pytest.raises(NotFound, match="their dataset was removed, or this token may not read it"):
        crew.writer.versions.training_rows(gone.ref)
    crew.writer.datasets.add(path, namespace=crew.space)
    assert crew.writer.versions.training_rows(gone.ref).recorded == ROWS
    crew.writer.datasets.remove(own)
    assert crew.world.services.expiry.run()["training_rows"] >= 1
    assert stored(crew) < before
    crew.writer.datasets.add(path, namespace=crew.space)
    with pytest.raises(NotFound, match="recorded no rows"):
        crew.writer.versions.training_rows(gone.ref)
    assert crew.writer.versions.training_rows(kept.ref).recorded == ROWS
    assert crew.space not in differing(crew.world)


def test_rows_of_another_namespaces_dataset_are_not_kept(crew: Crew, acting: Callable[..., Client]) -> None:
    other = f"{crew.space}-other"
    both = acting(**{crew.space: Role.WRITER, other: Role.WRITER})
    path = save_jsonl(crew.tmp_path / "theirs.jsonl", [{"prompt": other, "completion": "secret"}])
    theirs = both.datasets.add(path, namespace=other).digest
    crew.writer, writer = both, crew.writer
    version = trained(crew, data=theirs)
    for who in (both, writer):
        with pytest.raises(NotFound, match="its dataset is another namespace's"):
            who.versions.training_rows(version.ref)
    # Nor are they shown when its namespace gets the dataset later: nothing is there.
    both.datasets.add(path, namespace=crew.space)
    with pytest.raises(NotFound):
        both.versions.training_rows(version.ref)


def test_version_in_another_namespace_shows_no_rows_to_its_readers(crew: Crew, acting: Callable[..., Client]) -> None:
    version, other = trained(crew), f"{crew.space}-other"
    both = acting(**{crew.space: Role.WRITER, other: Role.WRITER})
    published = both.push(new_adapter(crew.tmp_path), f"{other}/a", base="tiny")
    with crew.world.services.db.write() as session:
        # As if it was published there from a checkpoint of the job.
        of = select(VersionRow.pk).where(VersionRow.digest == published.digest).scalar_subquery()
        session.execute(update(Origin).where(Origin.version_pk == of).values(job=version.info.job.id))
    assert both.versions.training_rows(published.ref).recorded == ROWS
    with pytest.raises(NotFound, match="or this token may not read it"):
        acting(**{other: Role.READER}).versions.training_rows(published.ref)


def test_rows_are_given_back_with_the_version(crew: Crew, acting: Callable[..., Client]) -> None:
    version, other = trained(crew), trained(crew)
    before = stored(crew)
    acting(**{crew.space: Role.ADMIN}).versions.delete(version.ref)
    assert stored(crew) == before - 1
    assert crew.writer.versions.training_rows(other.ref).recorded == ROWS
    assert crew.space not in differing(crew.world)


def test_pushed_version_says_that_it_has_none(crew: Crew) -> None:
    crew.world.admin.bases.register(base_registration())
    pushed = crew.writer.push(new_adapter(crew.tmp_path), f"{crew.space}/pushed", base="tiny")
    with pytest.raises(
        NotFound, match=r"was pushed, and not trained here, so no rows were recorded; see .* adapterctl lineage"
    ):
        crew.writer.versions.training_rows(pushed.ref)


def test_rows_without_room_are_left_out_and_the_version_is_made(crew: Crew) -> None:
    used = crew.world.admin.quotas.get(crew.space).records_bytes
    limits = QuotaLimits(max_record_bytes=used + 60_000)
    crew.world.admin.quotas.set(crew.space, **limits.model_dump())
    many = ROWS.model_copy(update={"texts": [text(1, "日本 " * 1000)] * 6})
    with pytest.raises(NotFound, match="or there was no room"):
        crew.writer.versions.training_rows(trained(crew, many).ref)


def test_record_that_is_too_long_or_contradicts_itself_is_refused(crew: Crew) -> None:
    long = ROWS.model_copy(update={"texts": [text(1, "a b" * 6000)] * 6})
    with pytest.raises(InvalidInput, match="bytes, and may have 64000"):
        trained(crew, long)
    piece = SeenPiece(first_token=0, tokens=1, text="ab").model_copy(update={"supervised": [[1, 3]]})
    with pytest.raises(InvalidInput, match="not within the text"):
        trained(crew, ROWS.model_copy(update={"texts": [text().model_copy(update={"pieces": [piece]})]}))
