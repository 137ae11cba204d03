"""Scores say how many of their rows the version, and what it came from, was trained on; or why that is not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support import calls
from support.adapters import use_of
from support.compared import scored
from support.held_out_rows import held_out
from support.merging_desk import MergingDesk
from support.people import SEEDS
from support.registries import World
from support.scored_rows import evaluated, fresh
from support.small import write_adapter
from support.trainings import save_jsonl

from registry.artifacts.models import Blob
from registry.datasets.models import DatasetSignatures
from registry.evaluations.models import Evaluation
from registry.principal import Role
from registry.rows import orders
from sdk.client import Client
from sdk.formats.rows import check_rows, text_values
from sdk.pulling.transfer import hash_file
from sdk.rows.holdout import split_unit
from sdk.rows.splitting import rows_digest
from sdk.schemas.catalog import BaseView, Parent, Publication, Published
from sdk.schemas.job_requests import BaseChoice, DataSource, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.scores import Contamination, said
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import SourceUse

WORDS = [f"w{number}" for number in range(997)]


def row(number: int) -> dict[str, str]:
    words = [WORDS[(number * 31 + at * at * 7) % 997] for at in range(24)]
    return {"prompt": " ".join(words[:12]), "completion": " ".join(words[12:])}


def near(one: dict[str, str]) -> dict[str, str]:
    return one | {"completion": one["completion"] + " too"}


def spelt(one: dict[str, str]) -> dict[str, str]:
    return {key: f" {text.upper()}" for key, text in one.items()}


@dataclass
class Trainer:
    """Trains versions on rows, and scores them on others."""

    desk: MergingDesk
    people: World

    def file(self, rows: Sequence[dict[str, Any]]) -> Path:
        return save_jsonl(self.desk.tmp_path / f"rows-{next(SEEDS)}.jsonl", rows)

    def publication(self, client: Client, name: str, **about: Any) -> Publication:
        folder = write_adapter(self.desk.tmp_path / f"adapter-{next(SEEDS)}", value=next(SEEDS) / 1_000_000)
        pack = calls.packed(folder, base_revision=None, base_fingerprint=self.desk.base.fingerprint)
        upload = client.uploader.upload(pack.sources, "", self.desk.space)
        return Publication(
            adapter=self.desk.named(name), upload=upload, manifest=pack.manifest, lora=pack.lora, **about
        )

    def train(self, data: Path, *others: Path, name: str = "a", recorded: str | None = None, **options: Any) -> str:
        """Train a version, on several files together where there are others; return its ref."""
        desk = self.desk
        views = [
            desk.writer.datasets.add(each, name=each.stem, namespace=desk.space, columns=options.get("columns"))
            for each in (data, *others)
        ]
        view = views[0]
        spec = TrainingSpec(method="lora", rank=2, alpha=4.0, dropout=0.0, targets="q_proj,v_proj", **options)
        said: dict[str, Any] = {}
        if (how := spec.hold_out) is not None:
            rows = [row for each in (data, *others) for row in check_rows(text_values(each))]
            out = held_out([split_unit(one) for one in rows], how)
            left = rows_digest(one for one, is_out in zip(rows, out, strict=True) if not is_out)
            said = {**spec.recorded(), "training_digest": recorded or left}
        request = TrainingRequest(
            adapter=desk.named(name),
            base=BaseChoice(id="tiny", fingerprint=desk.base.fingerprint),
            data=view.digest,
            sources=[DataSource(data=each.digest, weight=1.0) for each in views] if others else None,
            spec=spec,
        )
        desk.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request))
        held = desk.claim()
        use = use_of(view.digest)
        if others:
            sources = [SourceUse(digest=each.digest, weight=1.0, rows=9, epoch_rows=9) for each in views]
            use = use.model_copy(update={"sources": sources})
        version = self.publication(desk.worker, name, dataset=use, training=said, metrics={"loss": 1.0})
        done = calls.complete(desk.worker, held, version=version)
        return str(done.result["ref"])

    def push(self, name: str, *parents: tuple[str, str]) -> str:
        edges = [Parent.model_validate({"ref": ref, "relation": how}) for ref, how in parents]
        body = self.publication(self.desk.writer, name, parents=edges, method="lora")
        return self.desk.writer.call("POST", "/versions", Published, body=body).version.ref

    def copy(self, ref: str, name: str) -> str:
        """Push the files of a version under another name, without a word of their training; return its ref."""
        folder = self.desk.writer.pull(ref, self.desk.tmp_path / f"copy-{next(SEEDS)}")
        return self.desk.writer.push(folder, self.desk.named(name), base=self.desk.base.id).ref

    def score(self, ref: str, rows: Sequence[dict[str, Any]] | Path) -> str:
        return evaluated(self.desk, ref, rows if isinstance(rows, Path) else self.file(rows), fresh())

    def found(self, ident: str) -> Contamination:
        return self.desk.writer.evaluations.get(ident).contamination


def counts(found: Contamination) -> tuple[int, int, int, int]:
    return found.rows, found.exact, found.normalised, found.near


@pytest.fixture
def trainer(
    people: World, acting: Callable[..., Client], space: str, tmp_path: Path, common_base: tuple[BaseView, Path]
) -> Trainer:
    desk = MergingDesk(acting(**{space: Role.WRITER}), acting(**{space: Role.WORKER}), space, tmp_path, *common_base)
    return Trainer(desk, people)


TRAINING = [row(number) for number in range(60)]
#: 3 as they are, 2 in another spelling, 4 nearly, 11 of no training.
HELD = [*TRAINING[:3], *map(spelt, TRAINING[3:5]), *map(near, TRAINING[5:9]), *(row(at) for at in range(500, 511))]


class TestTold:
    def test_rows_of_the_version_s_own_training(self, trainer: Trainer) -> None:
        data = trainer.file(TRAINING)
        ref = trainer.train(data)
        found = trainer.found(trainer.score(ref, HELD))
        assert counts(found) == (20, 3, 2, 4)
        assert (found.of, found.not_checked) == ([f"{data.stem}@v1"], [])
        assert counts(trainer.found(trainer.score(ref, [row(at) for at in range(600, 620)]))) == (20, 0, 0, 0)
        assert counts(trainer.found(trainer.score(ref, data))) == (60, 60, 0, 0)

    def test_rows_of_everything_that_it_came_from_each_counted_once(self, trainer: Trainer) -> None:
        first = trainer.train(trainer.file(TRAINING[:30]))
        other = trainer.train(trainer.file([*TRAINING[2:4], *map(near, TRAINING[:1])]), name="b")
        mix = trainer.push("mix", (first, "combined-from"), (other, "combined-from"))
        last = trainer.push("merged", (mix, "merged-from"))
        for ref in (mix, last):
            found = trainer.found(trainer.score(ref, HELD))
            assert (counts(found), len(found.of), found.not_checked) == ((20, 3, 2, 4), 2, [])
        continued = trainer.push("c", (first, "continued-from"))
        found = trainer.found(trainer.score(continued, HELD))
        assert counts(found) == (20, 3, 2, 4)
        assert found.not_checked == [f"what {continued} was trained on is not known"]

    def test_rows_of_a_version_of_the_same_bytes(self, trainer: Trainer) -> None:
        """A copy is scored on rows that its bytes have learnt, and what is recorded last is compared as the scores of both."""
        ref = trainer.train(trainer.file(TRAINING))
        copy = trainer.copy(ref, "copy")
        assert trainer.desk.writer.get(copy).digest == trainer.desk.writer.get(ref).digest
        found = trainer.found(trainer.score(copy, HELD))
        assert (counts(found), found.not_checked) == ((20, 3, 2, 4), [])
        assert counts(trainer.found(trainer.score(ref, HELD))) == (20, 3, 2, 4)

    @pytest.mark.parametrize("seed", [0, 3])
    def test_rows_that_a_training_held_out_are_none_of_its_rows(self, trainer: Trainer, seed: int) -> None:
        data = trainer.file(TRAINING)
        ref = trainer.train(data, holdout=0.3, holdout_seed=seed)
        rows = list(check_rows(text_values(data)))
        spec = TrainingSpec(holdout=0.3, holdout_seed=seed).hold_out
        out = held_out([split_unit(one) for one in rows], spec)
        left = [one for one, is_out in zip(TRAINING, out, strict=True) if is_out]
        assert 10 < len(left) < 30
        assert counts(trainer.found(trainer.score(ref, left))) == (len(left), 0, 0, 0)
        assert counts(trainer.found(trainer.score(ref, data))) == (60, 60 - len(left), 0, 0)

    def test_rows_of_each_of_several_datasets(self, trainer: Trainer) -> None:
        files = [trainer.file(TRAINING[at : at + 20]) for at in (0, 20, 40)]
        ref = trainer.train(*files)
        found = trainer.found(trainer.score(ref, HELD))
        assert (counts(found), found.not_checked) == ((20, 3, 2, 4), [])
        assert found.of == [f"{file.stem}@v1" for file in files]
        assert counts(trainer.found(trainer.score(ref, files[2]))) == (20, 20, 0, 0)
        trainer.desk.writer.datasets.remove(f"{files[0].stem}@v1")
        found = trainer.found(trainer.score(ref, [*HELD, row(720)]))
        assert (found.found, found.not_checked) == (0, [f"the rows {files[0].stem}@v1 were removed"])

    def test_rows_that_were_held_out_of_several_datasets_together(self, trainer: Trainer) -> None:
        files = [trainer.file(TRAINING[at : at + 20]) for at in (0, 20, 40)]
        ref = trainer.train(*files, holdout=0.3)
        whole = trainer.score(ref, trainer.file(TRAINING))
        found = trainer.found(whole)
        assert (counts(found), found.not_checked) == ((60, 42, 0, 0), [])
        assert found.of == [", ".join(f"{file.stem}@v1" for file in files)]

    def test_columns_are_those_of_the_training_and_of_the_evaluation(self, trainer: Trainer) -> None:
        named = [{"q": one["prompt"], "a": one["completion"], "id": at} for at, one in enumerate(TRAINING)]
        ref = trainer.train(trainer.file(named), columns="prompt=q,completion=a")
        assert counts(trainer.found(trainer.score(ref, HELD))) == (20, 3, 2, 4)


class TestNotChecked:
    def test_a_pushed_version_and_a_bare_base(self, trainer: Trainer) -> None:
        ref = trainer.desk.push()
        assert said(trainer.found(trainer.score(ref, HELD))) == f"not checked: what {ref} was trained on is not known"
        base = trainer.found(trainer.score(f"base:{trainer.desk.base.fingerprint}", HELD))
        assert said(base) == "not checked: what a base was trained on is not known"

    def test_rows_that_were_removed(self, trainer: Trainer) -> None:
        data = trainer.file(TRAINING)
        ref = trainer.train(data)
        before = trainer.score(ref, HELD)
        trainer.desk.writer.datasets.remove(f"{data.stem}@v1")
        after = trainer.found(trainer.score(ref, [*HELD, row(700)]))
        assert said(after) == f"not checked: the rows {data.stem}@v1 were removed"
        # What was found is a fact of its day.
        assert counts(trainer.found(before)) == (20, 3, 2, 4)

    def test_a_split_that_is_not_found_again(self, trainer: Trainer) -> None:
        ref = trainer.train(trainer.file(TRAINING), holdout=0.3, recorded="0" * 64)
        (why,) = trainer.found(trainer.score(ref, HELD)).not_checked
        assert "the same split doesn't give the rows that the training recorded" in why

    def test_rows_of_another_namespace_are_told_nothing_of(
        self, trainer: Trainer, people: World, acting: Callable[..., Client]
    ) -> None:
        """Else whoever may read a version could find out its rows, one by one."""
        ref = trainer.train(trainer.file(TRAINING))
        space = f"{trainer.desk.space}-x"
        roles = {space: Role.WRITER, trainer.desk.space: Role.WRITER}
        other = Trainer(
            MergingDesk.open(acting(**roles), acting(**{space: Role.WORKER}), space, trainer.desk.tmp_path), people
        )
        body = other.publication(
            other.desk.writer, "stolen", parents=[Parent(ref=ref, relation="combined-from")], method="lora"
        )
        stolen = other.desk.writer.call("POST", "/versions", Published, body=body).version.ref
        found = other.found(other.score(stolen, TRAINING[:50]))
        assert (found.of, found.found) == ([], 0)
        assert ref not in said(found)
        assert said(found) == "not checked: the rows of a version of another namespace are not in this namespace"


class TestBackground:
    def test_what_takes_long_is_looked_at_later(self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
        checks = trainer.people.services.contamination
        monkeypatch.setattr(checks, "_at_once_bytes", 10)
        ident = trainer.score(trainer.train(trainer.file(TRAINING)), HELD)
        assert trainer.desk.writer.evaluations.get(ident).contamination is None
        assert said(None) == "not checked yet"
        trainer.people.services.reconciler.sweep()
        checks.wait()
        assert counts(trainer.found(ident)) == (20, 3, 2, 4)
        assert checks.check_all() == 0

    def test_a_check_that_fails_is_told_and_not_tried_for_ever(
        self, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(orders, "rows_among", lambda held, training: 1 // 0)
        ident = trainer.score(trainer.train(trainer.file(TRAINING)), HELD)
        assert trainer.desk.writer.evaluations.get(ident).contamination is None
        assert trainer.people.services.contamination.check_all() >= 1
        assert said(trainer.found(ident)) == "not checked: the check failed (ZeroDivisionError)"


class TestKept:
    def test_signatures_are_made_once_and_again_where_they_are_gone(self, trainer: Trainer, people: World) -> None:
        data = trainer.file([*TRAINING, {"prompt": f"number {next(SEEDS)}", "completion": "only here"}])
        ref = trainer.train(data)
        trainer.score(ref, HELD)
        digest = hash_file(data)[0]

        def row_of() -> DatasetSignatures:
            with people.services.db.read() as session:
                (found,) = session.query(DatasetSignatures).filter_by(digest=digest).all()
                return found

        first = row_of()
        trainer.score(ref, [*HELD, row(800)])
        assert row_of().created_at == first.created_at
        people.services.artifacts.storage.delete(first.blob)
        assert counts(trainer.found(trainer.score(ref, [*HELD, row(801)]))) == (21, 3, 2, 4)
        people.services.artifacts.storage.delete(first.blob)
        with people.services.db.write() as session:
            session.execute(update(Blob).where(Blob.sha256 == first.blob).values(collected_at=first.created_at))
        assert counts(trainer.found(trainer.score(ref, [*HELD, row(802)]))) == (21, 3, 2, 4)
        assert people.services.artifacts.storage.stat(first.blob) is not None

    def test_scores_that_nobody_has_looked_at_are_looked_at(self, trainer: Trainer, people: World) -> None:
        ident = trainer.score(trainer.train(trainer.file(TRAINING)), HELD)
        with people.services.db.write() as session:
            session.execute(update(Evaluation).where(Evaluation.id == ident).values(contamination=None))
        assert trainer.desk.writer.evaluations.get(ident).contamination is None
        people.services.contamination.check_all()
        assert counts(trainer.found(ident)) == (20, 3, 2, 4)

    def test_namespaces_take_turns_however_many_scores_one_adds(self, trainer: Trainer, people: World) -> None:
        ref = trainer.train(trainer.file(TRAINING))
        first, second, third = (trainer.score(ref, [*HELD, row(810 + at)]) for at in range(3))
        with people.services.db.write() as session:
            mine = update(Evaluation).where(Evaluation.id.in_([first, second, third]))
            session.execute(mine.values(contamination=None))
            own = session.get_one(Evaluation, first).namespace
            session.execute(update(Evaluation).where(Evaluation.id == first).values(namespace=f"{own}-other"))
        order = [ident for ident in people.services.contamination.unchecked(100) if ident in (first, second, third)]
        with people.services.db.write() as session:
            session.execute(update(Evaluation).where(Evaluation.id == first).values(namespace=own))
        assert order == [third, first, second]
        assert people.services.contamination.check_all() >= 3


def test_on_rows_that_one_was_trained_on_alone_neither_is_better(trainer: Trainer) -> None:
    data, other = trainer.file(TRAINING), trainer.file([row(900), row(901)])
    one, two, three = trainer.train(data), trainer.train(other), trainer.train(other)
    for ref, loss in ((one, 0.5), (two, 1.0), (three, 1.0)):
        evaluated(trainer.desk, ref, data, scored(60, loss=loss))
    (pair,) = trainer.desk.writer.compare([one, two]).pairs
    assert pair.better is None
    assert pair.verdict.startswith(
        "no verdict on other rows, since v1 was trained on all 60 rows; on these, v1 beats v2 on loss by 0."
    )
    assert 0 < pair.low < pair.difference < pair.high
    assert pair.p_adjusted == 1e-4
    (untold,) = trainer.desk.writer.compare([two, three]).pairs
    assert "trained" not in untold.verdict


def test_a_comparison_and_a_diff_say_it_in_words(trainer: Trainer) -> None:
    data = trainer.file(HELD)
    one, two = trainer.train(trainer.file(TRAINING)), trainer.train(trainer.file([row(900), row(901)]))
    for ref in (one, two):
        trainer.score(ref, data)
    found = trainer.desk.writer.compare([one, two])
    (pair,) = found.pairs
    assert pair.verdict == "too few rows: 3 of at least 20; but v1 was trained on 9 of 20 rows, or on nearly the same"
    assert [each.contamination and each.contamination.found for each in found.scores] == [9, 0]
    notes = trainer.desk.writer.diff(one, two).notes
    assert [note for note in notes if "contaminated by" in note] == [
        f"the scores of {one} on {found.dataset[:12]}: 9 of 20 rows are contaminated by those of "
        f"{trainer.found(found.scores[0].evaluation).of[0]}: 3 exactly, 2 in another spelling, 4 nearly"
    ]
