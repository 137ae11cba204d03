"""What a job made can be had afterwards: `jobs result`, `evals list` and `evals show`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import calls, registries, scored_rows
from support.merging_desk import MergingDesk
from support.registries import World

from sdk.cli import cli
from sdk.cli.support.scores import target_listing
from sdk.errors import Conflict, JobFailed, NotFound, VerificationFailed
from sdk.schemas.evaluation import Conditions, EvaluationFailure, EvaluationReport, RowScore, Sample

Run = Callable[..., Result]
#: What people see, though a test is no terminal.
TABLE = ("--format", "table")
CONDITIONS = Conditions(
    loss_on="completion", max_length=1024, generated_rows=1, max_new_tokens=48, stop_ids=[7], tokenizer="b" * 64
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("registry")
    with registries.served(folder) as found:
        yield found


@pytest.fixture
def desk(world: World, tmp_path: Path) -> MergingDesk:
    return MergingDesk.open(world.writer, world.worker, "-", tmp_path)


@pytest.fixture
def run(world: World, tmp_path: Path) -> Run:
    """Run the command line against the registry."""
    env = {
        "ADAPTERCTL_URL": world.url,
        "ADAPTERCTL_TOKEN": world.writer.config.token,
        "ADAPTERCTL_CACHE": str(tmp_path / "cache"),
    }
    return lambda *arguments: CliRunner(env=env).invoke(cli, list(arguments))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "held out.jsonl"
    path.write_text(json.dumps({"prompt": f"of {tmp_path}", "completion": "four"}) + "\n")
    return path


def evaluated(desk: MergingDesk, refs: list[str], rows: Path, **said: Any) -> str:
    """Evaluate refs and the desk's base, hand scores in, of which more may be said, and return the job."""
    job = desk.writer.submit_evaluation([*refs, f"base:{desk.base.fingerprint}"], data=rows, precision="native")
    hand_in(desk, **said)
    return job.id


def hand_in(
    desk: MergingDesk,
    *,
    fails: int | None = None,
    conditions: Conditions = CONDITIONS,
    errors: dict[str, str] | None = None,
    **metrics: float,
) -> None:
    """Claim the job that waits, and hand in scores of all its targets; the target `fails` has none."""
    held = desk.claim()
    sample = Sample(prompt="two and\ntwo?", reference="four", completion="fo\x1bur")
    results = []
    for index, target in enumerate(held.targets):
        report = EvaluationReport(
            metrics={
                "loss": 1.5 + index,
                "perplexity": 4.5,
                "rouge_l": 0.25,
                "exact_match": 0.5,
                "chrf": 12.5,
                "general_loss": 3.25,
                "general_loss_base": 3.0,
                "general_kl": 0.125,
                "rows": 1.0,
                **metrics,
            },
            precision="float32",
            samples=[sample],
            conditions=conditions,
            scorer_errors=errors or {},
        )
        failed = EvaluationFailure(reason="adapter", message="its files don't fit")
        results.append(calls.scored(target, **({"failure": failed} if index == fails else {"report": report})))
    calls.complete(desk.worker, held, evaluations=results)


def test_what_is_scored_beside_is_marked(desk: MergingDesk, run: Run, rows: Path, world: World) -> None:
    old, new, base = desk.push("marked"), desk.push("marked"), f"base:{desk.base.id}"
    world.admin.promote(old, "production")
    asked = ("--data", str(rows), "--precision", "native", "--detach", "--format", "json")
    only = json.loads(run("eval", new, "--only", *asked).stdout)["job"]
    assert [target["ref"] for target in world.writer.jobs.view(only).request["targets"]] == [new]
    assert "beside" not in run("jobs", "show", only).stdout
    world.writer.job(only).cancel()
    job = json.loads(run("eval", new, *asked).stdout)["job"]
    assert f"{base} (base), {old} (production)" in run("jobs", "show", job).stdout
    hand_in(desk, fails=1)
    shown = run("jobs", "result", job, *TABLE)
    assert shown.exit_code == 0, shown.output
    first, second = (line.split("float32")[0].strip() for line in shown.stdout.splitlines()[1:3])
    assert (first, second) == (new, f"{old} (production)")
    assert f"{base} has no scores: its files don't fit" in shown.stderr
    found = json.loads(run("jobs", "result", job, "--format", "json").stdout)
    assert [(one["ref"], one["beside"]) for one in found] == [(new, None), (old, "production")]
    assert run("jobs", "result", job, "--format", "quiet").stdout.split()[::2] == [new]


class TestResults:
    def test_of_an_evaluation_are_its_scores_as_eval_prints_them(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        ref = desk.push()
        job = evaluated(desk, [ref], rows)
        shown = run("jobs", "result", job, *TABLE)
        assert shown.exit_code == 0, shown.output
        header, first, second, *_ = shown.stdout.splitlines()
        assert header.split()[:6] == ["REF", "PRECISION", "LOSS", "PERPLEXITY", "ROUGE", "L"]
        assert first.split()[0] == ref
        assert second.split()[2] == "2.5"
        # What an adapter changed elsewhere; a base has changed nothing.
        (general,) = (line for line in shown.stdout.splitlines() if "general texts" in line)
        assert general == f"{ref} on general texts: loss 3.25 (bare base 3), KL 0.125"
        # Of what was pushed nobody knows the rows, which is said and no 0.
        assert "SEEN" in header
        assert first.split()[-1] == "?"
        assert f"! {ref}: not checked: what {ref} was trained on is not known" in " ".join(shown.stdout.split())
        found = json.loads(run("jobs", "result", job, "--format", "json").stdout)
        assert [item["ref"] for item in found] == [ref, f"base:{desk.base.id}"]
        # A program gets a record per line, and the sentences beside it.
        piped = run("jobs", "result", job)
        names, *records = (line.split("\t") for line in piped.stdout.splitlines())
        assert [record[names.index("ref")] for record in records] == [ref, f"base:{desk.base.id}"]
        assert [record[names.index("id")] for record in records] == [item["id"] for item in found]
        assert general in piped.stderr
        assert f"adapterctl jobs result {job}" in run("jobs", "show", job).output

    def test_scores_that_failed_on_rows_are_named(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        failed = {"scorer.boom": "1" * 64, "regex": "2" * 64}
        conditions = CONDITIONS.model_copy(update={"failed": failed})
        said = {"regex": 0.5, "regex_rows": 23.0, "scorer.boom_rows": 0.0, "generated_rows": 24.0}
        ref = desk.push()
        errors = {"boom": "ZeroDivisionError: division by zero"}
        job = evaluated(desk, [ref], rows, conditions=conditions, errors=errors, **said)
        shown = run("jobs", "result", job)
        assert shown.exit_code == 0, shown.output
        assert f"{ref}: regex is over 23 of 24 answers, since it failed on the others" in shown.stderr
        assert f"{ref}: scorer.boom has no score of any of 24 answers" in shown.stderr
        first = f"{ref}: the first error of scorer.boom: ZeroDivisionError: division by zero"
        assert first in shown.stderr
        assert f"adapterctl jobs logs {job}" in shown.stderr
        (found, *_) = json.loads(run("jobs", "result", job, "--format", "json").stdout)
        assert first in run("evals", "show", found["id"]).stdout

    def test_rows_that_were_too_long_are_counted(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        ref = desk.push()
        answers = {"generated_rows": 6.0, "shortened_prompt_rows": 3.0, "longer_reference_rows": 4.0}
        job = evaluated(desk, [ref], rows, failed_rows=4.0, unscored_rows=1.0, shortened_rows=2.0, **answers)
        shown = run("jobs", "result", job)
        first = f"{ref}: 1 of 6 rows has no score: none of its first 1024 tokens is supervised; "
        second = f"{ref}: 2 of 6 rows are truncated to 1024 tokens, and scored on the rest; "
        assert first + "shorten it, or raise --max-length where" in shown.stderr
        assert second in shown.stderr
        assert f"{ref}: 3 of 6 answers start from the last " in shown.stderr
        assert f"{ref}: 4 of 6 rows expect more than the " in shown.stderr
        (found, *_) = json.loads(run("jobs", "result", job, "--format", "json").stdout)
        # These have no rows that could be listed.
        assert "(which:" not in shown.stderr
        printed = run("evals", "show", found["id"], *TABLE).stdout
        assert all(len(line) <= 80 for line in printed.splitlines()), printed
        for said in (first, second):
            assert said.strip() in " ".join(printed.split())
            # A program gets each as one field.
            assert f"note\t{said.strip()}" in run("evals", "show", found["id"]).stdout
        assert "--max-length" in run("eval", "--help").output

    def test_a_target_without_scores_is_named_after_those_of_the_others(
        self, desk: MergingDesk, run: Run, rows: Path
    ) -> None:
        ref = desk.push()
        job = evaluated(desk, [ref], rows, fails=0)
        shown = run("jobs", "result", job)
        assert isinstance(shown.exception, JobFailed)
        assert f"{ref}: its files don't fit" in str(shown.exception)
        assert "base:" in shown.stdout

    def test_of_a_merge_is_the_model(self, desk: MergingDesk, run: Run, tmp_path: Path) -> None:
        ref = desk.push()
        detached = run("merge", ref, "--detach", "--format", "quiet")
        job = detached.stdout.strip()
        early = run("jobs", "result", job, "-o", str(tmp_path / "m"))
        assert isinstance(early.exception, Conflict)
        assert "queued" in str(early.exception)
        model = desk.model()
        desk.complete(desk.claim(), desk.result(model))
        assert f"adapterctl jobs result {job} -o DIR" in run("jobs", "show", job).output
        asked = run("jobs", "result", job)
        assert asked.exit_code == 0, asked.output
        reported = dict(line.split("\t", 1) for line in asked.stdout.splitlines())
        assert reported["ref"] == ref
        assert {"digest", "size", "onto", "dtype", "warning"} <= set(reported)
        assert f"adapterctl jobs result {job} -o DIR" in asked.stderr
        assert json.loads(run("jobs", "result", job, "--format", "json").stdout)["report"]["onto"]
        written = run("jobs", "result", job, "-o", str(tmp_path / "m"))
        assert written.exit_code == 0, written.output
        assert written.stdout.strip() == str(tmp_path / "m")
        found = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir() if path.is_file()}
        assert ref in found.pop("README.md").decode()
        assert found == {path.name: path.read_bytes() for path in model.iterdir()}
        assert "Rounding took it." in written.stderr
        # What is there is not written over.
        assert isinstance(run("jobs", "result", job, "-o", str(tmp_path / "m")).exception, Conflict)

    def test_of_a_registered_merge_is_its_ref(self, desk: MergingDesk, run: Run, tmp_path: Path) -> None:
        job = run("merge", desk.push("b"), "--register", "mb", "--detach", "--format", "quiet").stdout.strip()
        desk.complete(desk.claim(), desk.result(desk.model()))
        assert run("jobs", "result", job).stdout.strip() == "mb@v1"

    def test_nobody_waits_to_write(self, run: Run, tmp_path: Path) -> None:
        assert run("merge", "a", "--detach", "-o", str(tmp_path / "m")).exit_code == 2

    def test_of_a_job_that_failed_is_why(self, desk: MergingDesk, run: Run, rows: Path, tmp_path: Path) -> None:
        job = desk.writer.submit_evaluation([desk.push("c")], data=rows).id
        held = desk.claim()
        calls.fail(desk.worker, held, "data", "row 3 is empty")
        failed = run("jobs", "result", job)
        assert isinstance(failed.exception, JobFailed)
        assert "row 3 is empty" in str(failed.exception)
        assert run("jobs", "result", job, "-o", str(tmp_path / "m")).exit_code == 2
        assert isinstance(run("jobs", "result", "nothing").exception, NotFound)

    def test_a_merge_that_was_not_what_it_should_be_ends_as_merge_does(
        self, desk: MergingDesk, run: Run, tmp_path: Path
    ) -> None:
        job = run("merge", desk.push("g"), "--detach", "--format", "quiet").stdout.strip()
        held = desk.claim()
        calls.fail(desk.worker, held, "verification", "a delta is lost")
        assert isinstance(run("jobs", "result", job, "-o", str(tmp_path / "m")).exception, VerificationFailed)


class TestEvals:
    def test_scores_of_a_version_and_of_its_base(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        ref = desk.push("d")
        job = evaluated(desk, [ref], rows)
        found: list[dict[str, Any]] = json.loads(run("evals", "list", ref, "--format", "json").stdout)
        (scores,) = found
        assert (scores["ref"], scores["job"], scores["conditions"]["max_length"]) == (ref, job, 1024)
        table = run("evals", "list", ref, *TABLE)
        assert all(len(line) <= 80 for line in table.stdout.splitlines()), table.stdout
        assert "held out.jsonl" in table.stdout
        assert scores["key"][:6] in table.stdout
        assert scores["id"] in table.stdout
        header, line = (line.split() for line in table.stdout.splitlines())
        # Where not all has room, two scores stay.
        assert header[:6] == ["ID", "DATASET", "ROWS", "LOSS", "ROUGE", "L"]
        assert line[0] == scores["id"]
        assert line[-7:-3] == ["1.5", "0.25", "?", scores["key"][:6]], table.stdout
        # A program gets all of them whole.
        names, values = (line.split("\t") for line in run("evals", "list", ref).stdout.splitlines())
        piped = dict(zip(names, values, strict=True))
        assert piped | {"id": scores["id"], "job": job, "loss": "1.5", "chrf": "12.5", "perplexity": "4.5"} == piped
        assert piped["created"].replace("Z", "") == scores["created_at"].replace("Z", "")
        (bare,) = json.loads(run("evals", "list", f"base:{desk.base.fingerprint}", "--format", "json").stdout)
        # The same rows under the same conditions.
        assert bare["key"] == scores["key"]
        assert "no scores yet" in run("evals", "list", desk.push("e")).output

    def test_one_is_shown_with_all_that_it_depends_on(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        ref = desk.push("f")
        evaluated(desk, [ref], rows)
        ident = run("evals", "list", ref, "--format", "quiet").stdout.strip()
        shown = run("evals", "show", ident, *TABLE)
        assert shown.exit_code == 0, shown.output
        assert f"not checked: what {ref} was trained on is not known" in shown.stdout
        piped = dict(line.split("\t") for line in run("evals", "show", ident).stdout.splitlines())
        sample = {"prompt": "two and\\ntwo?", "reference": "four", "completion": "fo\\x1bur"}
        assert {name: piped[f"samples.1.{name}"] for name in sample} == sample
        assert (piped["of"], piped["metrics.loss"], piped["better.loss"]) == (ref, "1.5", "lower")
        assert piped["conditions.max_new_tokens"] == "48"
        for said in ("perplexity", "max_new_tokens", "stop_ids", "two and two?", "generated: fo?ur"):
            assert said in shown.stdout
        assert json.loads(run("evals", "show", ident, "--format", "json").stdout)["ref"] == ref
        assert isinstance(run("evals", "show", "nothing").exception, NotFound)

    def test_it_fits_80_columns_with_figures_that_people_read(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        ref = desk.push("wide")
        digest = "ab" * 32
        conditions = CONDITIONS.model_copy(
            update={
                "stop_ids": list(range(100, 140)),
                "templates": [digest],
                "metrics": {"words": "2", "scorer.own": "x" * 300},
                "failed": {"rouge_l": digest},
                "quantization": {"type": "nf4", "double_quant": True},
            }
        )
        evaluated(desk, [ref], rows, conditions=conditions, peak_memory_bytes=512_345_678.0, tokens=123_456.0)
        ident = run("evals", "list", ref, "--format", "quiet").stdout.strip()
        shown = run("evals", "show", ident, *TABLE).stdout
        assert all(len(line) <= 80 for line in shown.splitlines()), shown
        for name, value in (
            ("peak_memory_bytes", "512.3 MB"),
            ("tokens", "123456"),
            ("metrics.words", "2"),
            ("failed.rouge_l", digest[:12]),
            ("quantization.double_quant", "yes"),
            ("templates", digest[:12]),
        ):
            assert any(line.split(None, 1) == [name, value] for line in shown.splitlines()), name
        assert "{" not in shown
        piped = dict(line.split("\t") for line in run("evals", "show", ident).stdout.splitlines())
        assert piped["conditions.metrics.scorer.own"] == "x" * 300
        assert piped["conditions.failed.rouge_l"] == digest
        assert float(piped["metrics.peak_memory_bytes"]) == 512_345_678.0
        exact = json.loads(run("evals", "show", ident, "--format", "json").stdout)
        assert exact["metrics"]["peak_memory_bytes"] == 512_345_678.0
        assert exact["conditions"]["metrics"]["scorer.own"] == "x" * 300


class TestRows:
    @pytest.fixture
    def ident(self, desk: MergingDesk, rows: Path) -> str:
        long = "x" * 300
        made = [
            RowScore(
                row=n,
                loss_sum=2.0 * n,
                tokens=2,
                prediction=f"an\nswer {n} {long}",
                scores={"rouge_l": n / 30, "chrf": 99.0 - n, "exact_match": 0.0},
            )
            for n in range(30)
        ]
        return scored_rows.evaluated(desk, desk.push(), rows, [*made, RowScore(row=30, tokens=2)])

    def test_the_worst_come_first_in_80_columns(self, run: Run, ident: str) -> None:
        shown = run("evals", "show", ident, "--rows", *TABLE)
        assert shown.exit_code == 0, shown.output
        lines = shown.stdout.splitlines()
        assert all(len(line) <= 80 for line in lines), shown.stdout
        # Where not all has room, numbers go before the texts are cut to nothing.
        assert lines[0].split() == ["ROW", "LOSS", "TOKENS", "CHRF", "EXACT", "MATCH", "ROUGE", "L", "PREDICTION"]
        assert [line.split()[:2] for line in lines[1:4]] == [["30", "nan"], ["29", "29"], ["28", "28"]]
        assert "an swer 29 xx" in lines[2]
        assert len(lines) == 21
        assert "20 of 31 rows, the worst by loss first" in shown.stderr
        header, *piped = (line.split("\t") for line in run("evals", "show", ident, "--rows").stdout.splitlines())
        first = dict(zip(header, piped[1], strict=True))
        assert len(piped) == 31
        assert (first["row"], first["rouge_l"]) == ("29", str(29 / 30))
        assert first["prediction"] == "an\\nswer 29 " + "x" * 300

    def test_those_without_a_score_say_why(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        made = [RowScore(row=0, loss_sum=2.0, tokens=2, prediction="a"), RowScore(row=3, unscored="too_long")]
        ident = scored_rows.evaluated(desk, desk.push(), rows, made)
        assert f"(which: adapterctl evals show {ident} --rows)" in " ".join(
            run("evals", "show", ident, *TABLE).stdout.split()
        )
        shown = run("evals", "show", ident, "--rows", *TABLE).stdout.splitlines()
        assert [line.split() for line in shown[:2]] == [
            ["ROW", "LOSS", "TOKENS", "NOT", "SCORED", "PREDICTION"],
            ["3", "nan", "0", "too", "long", "-"],
        ]
        found = json.loads(run("evals", "show", ident, "--rows", "--format", "json").stdout)
        assert [row.get("unscored", "") for row in found] == ["too_long", ""]

    def test_by_a_metric_the_lowest_come_first(self, run: Run, ident: str) -> None:
        shown = run("evals", "show", ident, "--rows", "--metric", "rouge_l", "--worst", "3", *TABLE)
        lines = shown.stdout.splitlines()
        assert lines[0].split()[3:5] == ["ROUGE", "L"]
        assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2"]
        assert run("evals", "show", ident, "--rows", "--format", "quiet", "--worst", "2").stdout == "30\n29\n"

    def test_as_json_there_are_all_with_all_digits(self, run: Run, ident: str) -> None:
        found = json.loads(run("evals", "show", ident, "--rows", "--format", "json").stdout)
        assert len(found) == 31
        assert (found[0]["row"], found[0]["loss"], found[0]["loss_sum"]) == (30, None, None)
        assert found[1]["scores"]["rouge_l"] == 29 / 30
        assert (found[1]["loss"], found[1]["prediction"][:8]) == (29.0, "an\nswer ")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--worst", "3"), "add --rows"),
            (("--rows", "--by", "prompt"), "leave out --rows"),
            (("--rows", "--metric", "bleu"), "choose one of: loss, chrf, exact_match, rouge_l"),
        ],
    )
    def test_what_can_not_be_shown(self, run: Run, ident: str, arguments: tuple[str, ...], said: str) -> None:
        refused = run("evals", "show", ident, *arguments)
        assert refused.exit_code == 2
        assert said in refused.stderr

    def test_by_a_column_they_are_summed_up(self, desk: MergingDesk, run: Run, tmp_path: Path) -> None:
        data = tmp_path / "by.jsonl"
        langs = ["en", "ein sehr langer Name einer Sprache, länger als eine Zeile von achtzig Zeichen ist", "en"]
        given = [{"prompt": f"{tmp_path} {n}", "completion": "a", "lang": lang} for n, lang in enumerate(langs)]
        data.write_text("".join(json.dumps(row) + "\n" for row in given))
        scores = {"rouge_l": 0.5, "chrf": 1.0, "exact_match": 0.0, "token_f1": 0.5, "contains": 0.0}
        made = [RowScore(row=n, loss_sum=4.0 * n, tokens=4, scores=scores) for n in range(3)]
        conditions = scored_rows.CONDITIONS.model_copy(update={"columns": "prompt=prompt,completion=completion"})
        ident = scored_rows.evaluated(
            desk, desk.push(), data, made, spec={"columns": conditions.columns}, conditions=conditions
        )
        shown = run("evals", "show", ident, "--by", "lang", *TABLE)
        assert shown.exit_code == 0, shown.output
        lines = shown.stdout.splitlines()
        assert all(len(line) <= 80 for line in lines), shown.stdout
        assert lines[0].split()[:3] == ["LANG", "ROWS", "LOSS"]
        assert lines[1].split()[:3] == ["en", "2", "1"]
        # The long value is cut so that all scores have room.
        assert all(name.upper().replace("_", " ") in lines[0] for name in set(scores) - {"chrf"}), lines[0]
        assert lines[2].startswith("ein sehr lan")
        assert "…" in lines[2]
        piped = [line.split("\t") for line in run("evals", "show", ident, "--by", "lang").stdout.splitlines()]
        assert {"lang", "rows", "loss", *scores} - {"chrf"} == set(piped[0])
        assert [line[0] for line in piped[1:]] == ["en", langs[1]]
        found = json.loads(run("evals", "show", ident, "--by", "lang", "--format", "json").stdout)
        assert [one["rows"] for one in found["slices"]] == [2, 1]
        assert run("evals", "show", ident, "--by", "lang", "--format", "quiet").stdout == f"en\n{langs[1]}\n"

    def test_labels_are_counted_where_rows_have_them(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        made = [
            RowScore(
                row=n,
                loss_sum=0.1,
                tokens=1,
                expected="ab"[n % 2],
                prediction="a",
                confidence=0.9,
                scores={"accuracy": float(n % 2 == 0)},
            )
            for n in range(4)
        ]
        said = {"macro_f1": 1 / 3, "expected_calibration_error": 0.4}
        ident = scored_rows.evaluated(desk, desk.push(), rows, made, **said)
        shown = run("evals", "show", ident, *TABLE)
        assert shown.exit_code == 0, shown.output
        assert "1 a               2  0" in shown.stdout
        piped = dict(line.split("\t") for line in run("evals", "show", ident).stdout.splitlines())
        pairs = [[piped[f"confusion.{n}.{name}"] for name in ("expected", "predicted", "rows")] for n in (1, 2)]
        assert pairs == [["a", "a", "2"], ["b", "a", "2"]]
        assert piped["calibration.1.rows"] == "4"
        assert piped["metrics.expected_calibration_error"] == "0.4"
        assert "expected calibration error 0.4" in shown.stdout
        found = json.loads(run("evals", "show", ident, "--format", "json").stdout)["labels"]
        assert (found["labels"], found["counts"]) == (["a", "b"], [[2, 0], [2, 0]])
        assert "EXPECTED" in run("evals", "show", ident, "--rows", *TABLE).stdout

    def test_rows_are_written_as_parquet_on_request(
        self, desk: MergingDesk, run: Run, rows: Path, tmp_path: Path
    ) -> None:
        parquet = pytest.importorskip("pyarrow.parquet")
        ident, file = scored_rows.evaluated(desk, desk.push(), rows, scored_rows.fresh()), tmp_path / "rows.parquet"
        asked = ("evals", "show", ident, "--rows", "--format", "parquet")
        shown = run(*asked, "-o", str(file))
        assert (shown.exit_code, shown.stdout) == (0, f"{file}\n"), shown.output
        assert parquet.read_table(file).num_rows == len(scored_rows.ROWS)
        for wrong in (
            asked,
            ("evals", "show", ident, "--format", "parquet", "-o", "x.parquet"),
            ("evals", "show", ident, "--rows", "-o", "x.parquet"),
            (*asked, "-o", "x.parquet", "--worst", "2"),
        ):
            refused = run(*wrong)
            assert refused.exit_code == 2, refused.output
            assert ("--format parquet -o FILE" in refused.stderr) != ("leave out --worst" in refused.stderr)

    def test_scores_without_rows_say_so(self, desk: MergingDesk, run: Run, rows: Path) -> None:
        ref = desk.push()
        evaluated(desk, [ref], rows)
        (plain,) = desk.writer.evaluations(digest=desk.writer.get(ref).digest)
        missing = run("evals", "show", plain.id, "--rows")
        assert isinstance(missing.exception, NotFound)
        assert "have no rows" in str(missing.exception)


def test_as_many_scores_as_a_line_has_room_for() -> None:
    names = ("loss", "perplexity", "rouge_l", "exact_match", "token_f1", "contains", "json_valid", "bleu", "chrf")
    metrics = dict.fromkeys(names, 0.123456)
    scores: Any = [
        SimpleNamespace(ref=f"team/code-review@v{n}", precision="bfloat16", metrics=metrics, contamination=None, id="a")
        for n in (1, 2)
    ]
    listing = target_listing(scores, str)
    found = listing.drawn(scores, width=80)
    lines = found.text.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:]] == ["team/code-review@v1", "team/code-review@v2"]
    shown = [name for name in names if name.replace("_", " ").upper() in lines[0]]
    assert shown[:2] == ["loss", "perplexity"]
    assert {*shown} | {*found.left_out} == set(names)
    assert listing.tabbed(scores).splitlines()[1].split("\t").count("0.123456") == len(names)
