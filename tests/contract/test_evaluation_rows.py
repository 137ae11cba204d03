"""What each row of an evaluation scored: kept with the record, read by whoever may read the scores, and what the sums follow from."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from support import calls
from support.merging_desk import MergingDesk
from support.registries import World
from support.scored_rows import CONDITIONS, ROWS, evaluated, fresh, report_of, write_file
from support.usage import by_kind, differing

from registry.datasets.models import DatasetAccess
from registry.principal import LOCAL, Role
from registry.quotas.service import recount
from registry.rows.comparing.orders import scores_of
from sdk.client import Client
from sdk.errors import AdapterctlError, Conflict, InvalidInput, NotFound, Unavailable, VerificationFailed
from sdk.pulling.transfer import hash_file
from sdk.schemas.evaluation import RowFile, RowScore, Sample
from sdk.schemas.wire import digest_of


class TestKept:
    def test_they_are_read_as_they_were_handed_in(
        self, people: World, desk: MergingDesk, rows: Path, tmp_path: Path
    ) -> None:
        handed_in = fresh()
        errors = {"polite": "ValueError: no words"}
        ident = evaluated(desk, desk.push(), rows, handed_in, errors=errors)
        found = desk.writer.evaluations.get(ident)
        assert found.scorer_errors == errors
        assert desk.writer.evaluations.rows(ident) == handed_in
        people.services.evaluation_rows.copy(ident, tmp_path / "copy", who=LOCAL)
        assert list(scores_of(ident, tmp_path / "copy")) == handed_in
        assert found.spec_digest == digest_of(CONDITIONS.model_dump(mode="json"))
        assert found.metrics["failed_rows"] == 1.0
        frame = desk.writer.evaluations.frame(ident)
        assert list(frame.index) == [0, 1, 3, 4]
        assert frame.loc[0, "loss_sum"] == 0.1 + 0.2
        assert frame["rouge_l"].isna().tolist() == [False, False, True, True]

    def test_the_bytes_are_plain_gzip_of_json_lines_that_hold_nothing_of_the_moment(
        self, desk: MergingDesk, rows: Path, tmp_path: Path
    ) -> None:
        handed_in = fresh()
        first, again = (evaluated(desk, desk.push(), rows, handed_in) for _ in range(2))
        found = [desk.writer.evaluations.get(ident) for ident in (first, again)]
        assert found[0].rows_digest == found[1].rows_digest
        path = desk.writer.cache.blob(found[0].rows_digest or "")
        desk.writer.evaluations.rows(first)
        assert hash_file(path) == (found[0].rows_digest, found[0].rows_size_bytes)
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        assert [RowScore.model_validate_json(line) for line in lines] == handed_in

    def test_as_parquet_for_other_programs(
        self, desk: MergingDesk, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        last = RowScore(row=5, loss_sum=0.5, tokens=1, prediction="b", expected="a", confidence=0.1)
        handed_in = [*fresh(), last]
        ident = evaluated(desk, desk.push(), rows, handed_in)
        written = desk.writer.evaluations.export_rows(ident, tmp_path / "new" / "rows.parquet")
        table = parquet.read_table(written)
        fields = {name: str(table.schema.field(name).type) for name in table.column_names}
        text, number = ("prediction", "expected"), ("loss_sum", "confidence", "chrf", "rouge_l")
        assert fields == {
            "row": "int64",
            "tokens": "int64",
            **dict.fromkeys(text, "string"),
            **dict.fromkeys(number, "double"),
        }
        found = [
            RowScore(
                scores={name: each.pop(name) for name in ("chrf", "rouge_l") if each[name] is not None},
                **{name: value for name, value in each.items() if name not in ("chrf", "rouge_l")},
            )
            for each in table.to_pylist()
        ]
        assert found == handed_in
        with pytest.raises(Conflict, match="already exists"):
            desk.writer.evaluations.export_rows(ident, written)
        with pytest.raises(InvalidInput, match=r"call it rows\.csv\.parquet"):
            desk.writer.evaluations.export_rows(ident, tmp_path / "rows.csv")
        monkeypatch.setattr("sdk.worker_program.missing_libraries", lambda names: list(names))
        with pytest.raises(Unavailable, match=r"writing Parquet needs pyarrow, .* pip install 'adapterctl\[worker\]'"):
            desk.writer.evaluations.export_rows(ident, tmp_path / "other.parquet")

    def test_of_a_bare_base_too(self, own_desk: MergingDesk, rows: Path) -> None:
        handed_in = fresh()
        ident = evaluated(own_desk, f"base:{own_desk.base.fingerprint}", rows, handed_in)
        assert own_desk.writer.evaluations.rows(ident) == handed_in

    def test_whoever_may_not_read_the_scores_may_not_read_them(
        self, people: World, desk: MergingDesk, rows: Path, acting: Callable[..., Client], space: str
    ) -> None:
        ident = evaluated(desk, desk.push(), rows, fresh())
        assert len(acting(**{space: Role.READER}).evaluations.rows(ident)) == 4
        # It has the file in its cache, from another token.
        stranger = acting(**{f"{space}-x": Role.ADMIN})
        with pytest.raises(NotFound, match="there are no scores"):
            stranger.evaluations.rows(ident)


class TestRefused:
    """What the scores say must follow from the rows, and the job goes on."""

    @pytest.mark.parametrize(
        ("said", "match"),
        [
            ({"loss": 0.8112}, "loss of .* is given as 0.8112, and its rows give 0.81"),
            ({"rouge_l": 0.5}, "rouge_l of .* is given as 0.5"),
            ({"rows": 4.0}, "rows of .* is given as 4.0, and its rows give 3"),
            ({"failed_rows": 0.0}, "failed_rows of"),
            ({"supervised_tokens": 11.0}, "supervised_tokens of"),
            ({"rouge_l_rows": 1.0}, "rouge_l_rows of"),
        ],
    )
    def test_a_mean_that_is_not_that_of_the_rows(
        self, desk: MergingDesk, rows: Path, said: dict[str, float], match: str
    ) -> None:
        with pytest.raises(VerificationFailed, match=match):
            evaluated(desk, desk.push(), rows, ROWS, **said)
        assert desk.writer.jobs()[0].view.state == "running"
        assert desk.writer.evaluations(job=desk.writer.jobs()[0].id) == []

    def test_a_mean_within_a_millionth_is_taken(self, desk: MergingDesk, rows: Path) -> None:
        loss = (0.1 + 0.2 + 7.0 + 1e-9) / 9
        assert evaluated(desk, desk.push(), rows, ROWS, loss=loss + 9e-7)
        with pytest.raises(VerificationFailed, match="loss of"):
            evaluated(desk, desk.push(), rows, ROWS, loss=loss + 3e-6)

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"no gzip", "after line 0 it is not gzip"),
            (gzip.compress(b'{"row": 0, "tokens": 1}\n{"row": 0, "tokens": 1}\n'), "row 0 comes after row 0"),
            (gzip.compress(b'{"row": -1, "tokens": 1}\n'), "line 1: row can't be -1; use a number of at least 0"),
            (gzip.compress(b'{"row": 0, "tokens": 1, "loss_sum": NaN}\n'), "line 1:"),
            (gzip.compress(b'{"row": 0, "tokens": 1, "scores": {"a": "b"}}\n'), "line 1: scores.a"),
            (
                gzip.compress(b'{"row": 9007199254740992, "tokens": 1}\n'),
                "line 1: row can't be 9007199254740992; use a number below",
            ),
            (gzip.compress(b'{"row": 0, "tokens": 1e300}\n'), "line 1: tokens can't be 1e\\+300"),
            (
                gzip.compress(b'{"row": 0, "tokens": 1, "loss_sum": 1e300}\n'),
                "line 1: loss_sum can't be 1e\\+300; use a number at most",
            ),
            (
                gzip.compress(b'{"row": 0, "tokens": 1, "scores": {"a": -1e300}}\n'),
                "line 1: scores.a can't be -1e\\+300; use a number of at least",
            ),
            (gzip.compress(b" " * 100_000), "line 1 is longer than 65536 bytes"),
            (gzip.compress(b'{"row": 0, "tokens": 1}\n')[:-9], "it is not gzip"),
        ],
        # The bytes hold the second that they were made in, which is another in each process.
        ids=lambda said: said if isinstance(said, str) else "file",
    )
    def test_a_file_that_is_none(self, desk: MergingDesk, rows: Path, content: bytes, match: str) -> None:
        def change(file: RowFile, path: Path) -> RowFile:
            path.write_bytes(content)
            sha256, size_bytes = hash_file(path)
            return file.model_copy(update={"digest": sha256, "size_bytes": size_bytes})

        with pytest.raises(VerificationFailed, match=match):
            evaluated(desk, desk.push(), rows, ROWS, change=change)

    def test_another_number_of_rows(self, desk: MergingDesk, rows: Path) -> None:
        with pytest.raises(VerificationFailed, match="file_rows of"):
            evaluated(desk, desk.push(), rows, ROWS, change=lambda file, _: file.model_copy(update={"rows": 5}))

    def test_text_where_none_is_to_be_kept(self, desk: MergingDesk, rows: Path) -> None:
        with pytest.raises(InvalidInput, match="no text is to be kept"):
            evaluated(desk, desk.push(), rows, ROWS, spec={"keep_samples": 0})
        silent = [row.model_copy(update={"prediction": None}) for row in fresh()]
        ident = evaluated(desk, desk.push("b"), rows, silent, spec={"keep_samples": 0})
        assert desk.writer.evaluations.rows(ident) == silent

    def test_a_calibration_that_is_not_that_of_the_rows(self, desk: MergingDesk, rows: Path) -> None:
        sure = [
            row.model_copy(update={"confidence": 0.8, "scores": {"accuracy": float(row.row == 0)}})
            for row in fresh()
            if row.loss_sum is not None
        ]
        with pytest.raises(VerificationFailed, match="expected_calibration_error of"):
            evaluated(desk, desk.push(), rows, sure, expected_calibration_error=0.2)
        error = 0.8 - 1 / 3
        assert evaluated(desk, desk.push("b"), rows, sure, expected_calibration_error=error)

    def test_labels_where_no_text_is_to_be_kept(self, desk: MergingDesk, rows: Path) -> None:
        told = [row.model_copy(update={"prediction": None, "expected": "fruit"}) for row in fresh()]
        with pytest.raises(InvalidInput, match="no text is to be kept"):
            evaluated(desk, desk.push(), rows, told, spec={"keep_samples": 0})

    def test_bytes_of_nobody_s(self, desk: MergingDesk, rows: Path) -> None:
        with pytest.raises(AdapterctlError, match="neither announced"):
            evaluated(desk, desk.push(), rows, ROWS, change=lambda file, _: file.model_copy(update={"size_bytes": 7}))

    def test_a_score_that_the_job_did_not_ask_for(self, desk: MergingDesk, rows: Path) -> None:
        named, spec = {"scorer.style.tone": 0.5, "scorer.style": 1.0}, {"scorers": ["style"]}
        asked = [row.model_copy(update={"scores": named}) for row in fresh()]
        assert evaluated(desk, desk.push(), rows, asked, spec=spec)
        for name in ("scorer.other", "exact_match", "scorer.styles", "scorer.style.else", "a\0東"):
            other = [row.model_copy(update={"scores": named | {name: 0.5}}) for row in fresh()]
            match = re.escape(f"have a score {name!a}, which is none of the job's metrics")
            with pytest.raises(VerificationFailed, match=match):
                evaluated(
                    desk, desk.push("b"), rows, asked, spec=spec, change=lambda _, path, of=other: write_file(path, of)
                )

    @pytest.mark.parametrize("kind", ["totals", "refused", "unknown"])
    def test_a_file_that_is_handed_in_again_is_not_read_again(
        self, people: World, desk: MergingDesk, rows: Path, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handed_in = fresh()
        said = {"totals": {"loss": 99.0}, "refused": {}, "unknown": {}}[kind]
        if kind == "unknown":
            handed_in = [row.model_copy(update={"scores": {"scorer.never": 1.0}}) for row in handed_in]
        path = desk.tmp_path / f"handed in {kind}"
        file = write_file(path, handed_in)
        if kind == "refused":
            lines = gzip.decompress(path.read_bytes()).splitlines()
            path.write_bytes(gzip.compress(b"\n".join([*lines, lines[-1]]) + b"\n", mtime=0))
            sha256, size_bytes = hash_file(path)
            file = file.model_copy(update={"digest": sha256, "size_bytes": size_bytes})
        desk.writer.submit_evaluation(
            [desk.push()], data=rows, precision="native", only=True, metrics=["rouge_l", "chrf"]
        )
        held = desk.claim()
        upload = desk.worker.uploader.upload({file.digest: path}, "sending", desk.space)
        storage, opened = people.services.artifacts.storage, list[str]()
        once = storage.open

        def counted(name: str) -> Any:
            opened.append(name)
            return once(name)

        monkeypatch.setattr(storage, "open", counted)
        (target,) = held.targets
        result = calls.scored(target, report=report_of(handed_in, file, **said), upload=upload)
        told = set()
        for _ in range(3):
            with pytest.raises(VerificationFailed) as refused:
                calls.complete(desk.worker, held, evaluations=[result])
            told.add(refused.value.message)
        assert len(told) == 1
        assert len(opened) == 1

    def test_more_rows_than_one_job_scores(self, people: World, desk: MergingDesk, rows: Path) -> None:
        refs = [desk.push(name) for name in "abcde"]
        digest = desk.writer.submit_evaluation(refs, data=rows, precision="native", only=True).view.request["data"]

        def count(number: int | None) -> None:
            with people.services.db.write() as session:
                of = DatasetAccess.digest == digest
                session.execute(update(DatasetAccess).where(of).values(rows=number))

        count(1_000_001)
        with pytest.raises(InvalidInput, match="1,000,001 rows, and an evaluation scores 1,000,000 at most"):
            desk.writer.submit_evaluation(refs[0], data=digest, precision="native", only=True)
        count(900_000)
        with pytest.raises(InvalidInput, match=r"5 targets on 900,000 rows are 4,500,000 .* name 4 targets at most"):
            desk.writer.submit_evaluation(refs, data=digest, precision="native", only=True)
        # What would be scored beside is left out before that.
        job = desk.writer.submit_evaluation(refs[:4], data=digest, precision="native")
        assert len(job.view.request["targets"]) == 4
        count(None)
        assert desk.writer.submit_evaluation(refs, data=digest, precision="native", only=True)


class TestPaidFor:
    def test_a_namespace_pays_until_the_version_is_deleted(
        self, people: World, admin: Client, desk: MergingDesk, rows: Path, space: str
    ) -> None:
        before = by_kind(admin.quotas.get(space))
        ref = desk.push()
        samples = [Sample(prompt="p" * 5000, completion="c", reference="r")]
        ident = evaluated(desk, ref, rows, fresh(), samples=samples)
        size_bytes = desk.writer.evaluations.get(ident).rows_size_bytes
        assert by_kind(admin.quotas.get(space))["evaluations_bytes"] == size_bytes
        base = evaluated(desk, f"base:{desk.base.fingerprint}", rows, fresh())
        assert differing(people) == {}
        taken = admin.quotas.get(space).records_bytes or 0
        admin.versions.delete(ref)
        # Its samples are what is long about scores in the database.
        assert (admin.quotas.get(space).records_bytes or 0) < taken - 5000
        assert desk.writer.evaluations.get(ident).samples == []
        assert differing(people) == {}
        assert by_kind(admin.quotas.get(space)).keys() - before.keys() == {"datasets_bytes", "evaluations_bytes"}
        assert admin.quotas.get(space).evaluations_bytes == desk.writer.evaluations.get(base).rows_size_bytes
        with pytest.raises(NotFound, match="were removed, as they are with the version"):
            desk.writer.evaluations.rows(ident)
        kept = desk.writer.evaluations.get(ident)
        assert (kept.rows_digest, kept.rows_size_bytes) == (None, None)
        assert kept.metrics["loss"] > 0

    def test_another_version_with_the_same_bytes_keeps_them(
        self, people: World, admin: Client, desk: MergingDesk, rows: Path, space: str
    ) -> None:
        ref = desk.push()
        ident = evaluated(desk, ref, rows, fresh())
        same = desk.writer.push(
            desk.writer.pull(ref, desk.tmp_path / "pulled"), f"{space}/b", base=desk.base.fingerprint
        )
        assert same.digest == desk.writer.get(ref).digest
        admin.versions.delete(ref)
        assert len(desk.writer.evaluations.rows(ident)) == 4
        admin.versions.delete(same.ref)
        with pytest.raises(NotFound):
            desk.writer.evaluations.rows(ident)
        assert differing(people) == {}

    @pytest.mark.parametrize("bare", [False, True], ids=["version", "base"])
    def test_what_was_scored_again_is_paid_for_once(
        self, people: World, admin: Client, desk: MergingDesk, rows: Path, space: str, bare: bool
    ) -> None:
        ref = f"base:{desk.base.fingerprint}" if bare else desk.push()
        other = evaluated(desk, ref, rows, fresh(), conditions=CONDITIONS.model_copy(update={"max_length": 64}))
        more = evaluated(desk, ref, rows, fresh(), exact_match=1.0)
        earlier = evaluated(desk, ref, rows, fresh())
        newest = evaluated(desk, ref, rows, fresh())
        with pytest.raises(NotFound, match="and once newer scores have them"):
            desk.writer.evaluations.rows(earlier)
        assert desk.writer.evaluations.get(earlier).metrics["loss"] > 0
        # Those under other conditions, or with a metric that the newest lack, say something else.
        kept = [desk.writer.evaluations.get(ident).rows_size_bytes for ident in (other, more, newest)]
        assert admin.quotas.get(space).evaluations_bytes == sum(size or 0 for size in kept)
        assert len(desk.writer.evaluations.rows(more)) == 4
        assert differing(people) == {}

    def test_targets_of_one_job_keep_theirs_though_their_bytes_are_the_same(
        self, desk: MergingDesk, rows: Path, space: str, acting: Callable[..., Client]
    ) -> None:
        one = desk.push()
        pulled = desk.writer.pull(one, desk.tmp_path / "pulled")
        two = desk.writer.push(pulled, f"{space}/b", base=desk.base.fingerprint).ref
        acting(**{space: Role.PROMOTER}).set_alias(one.partition("@")[0], "candidate", 1)
        named = [one, one, f"{one.partition('@')[0]}@candidate", two]
        job = desk.writer.submit_evaluation(
            named, data=rows, precision="native", only=True, metrics=["rouge_l", "chrf"]
        )
        held = desk.claim()
        assert [target.label for target in held.targets] == [one, two]
        assert held.targets[0].digest == held.targets[1].digest
        handed_in = fresh()
        path = desk.tmp_path / "the rows of both"
        file = write_file(path, handed_in)
        upload = desk.worker.uploader.upload({file.digest: path}, "sending", desk.space)
        report = report_of(handed_in, file)
        results = [calls.scored(target, report=report, upload=upload) for target in held.targets]
        calls.complete(desk.worker, held, evaluations=results)
        for scores in job.result():
            assert desk.writer.evaluations.rows(scores.id) == handed_in

    def test_those_of_a_bare_base_go_with_it(
        self, people: World, admin: Client, own_desk: MergingDesk, rows: Path, space: str
    ) -> None:
        fingerprint = own_desk.base.fingerprint
        version = evaluated(own_desk, own_desk.push(), rows, fresh())
        base = evaluated(own_desk, f"base:{fingerprint}", rows, fresh())
        admin.bases.add(own_desk.folder, namespace="*", upload=True)
        admin.bases.remove(fingerprint, namespace=space)
        # It is still there, published for all.
        assert len(own_desk.writer.evaluations.rows(base)) == 4
        admin.bases.remove(fingerprint, namespace="*")
        with pytest.raises(NotFound, match="as they are with the version or base"):
            own_desk.writer.evaluations.rows(base)
        assert own_desk.writer.evaluations.get(base).metrics["loss"] > 0
        assert admin.quotas.get(space).evaluations_bytes == own_desk.writer.evaluations.get(version).rows_size_bytes
        assert differing(people) == {}

    def test_scores_whose_rows_had_no_room_have_none(self, people: World, desk: MergingDesk, rows: Path) -> None:
        ident = evaluated(desk, desk.push(), rows, fresh())
        from registry.evaluations.models import Evaluation

        with people.services.db.write() as session:
            session.execute(update(Evaluation).where(Evaluation.id == ident).values(rows_digest=None))
        # Others hold all that is counted against what is there.
        recount(people.services.db, within_s=60.0)
        with pytest.raises(NotFound, match="have no rows: there was no room to store them"):
            desk.writer.evaluations.rows(ident)
