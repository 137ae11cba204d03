"""Rows of any shape over both databases: what is said of their columns and their loss is known where a job is submitted."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import calls
from support.adapters import digest
from support.calls import claim
from support.people import new_adapter, submit, training
from support.registries import World
from support.tenants import Tenant

from registry.jobs.models import Job as JobRow
from registry.jobs.needs import fields_in
from registry.principal import Role
from sdk.cli import cli
from sdk.errors import InvalidData, InvalidInput, NotFound
from sdk.formats.adapter_files import TEMPLATE_FILE
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget, TrainingRequest, used_fields
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.training import TrainingSpec
from sdk.version import VERSION

SPEC: dict[str, Any] = {"method": "lora", "rank": 4, "targets": "qv"}
COLUMNS = "prompt=question,completion=answer"


def write(ours: Tenant, name: str, *rows: Any) -> Path:
    """Rows that nobody else has, as JSONL or, by the name, as one list."""
    path = ours.folder / f"{uuid.uuid4().hex}-{name}"
    lines = [json.dumps(row) for row in rows]
    path.write_text(f"[{','.join(lines)}]" if name.endswith(".json") else "\n".join(lines))
    return path


def faq(ours: Tenant, name: str = "faq.jsonl") -> Path:
    return write(ours, name, {"question": uuid.uuid4().hex, "answer": "a", "id": 7})


def train(ours: Tenant, data: Any, **given: Any) -> dict[str, Any]:
    return ours.client.submit_training(f"{ours.space}/a", base="tiny", data=data, **{**SPEC, **given}).view.request


class TestColumns:
    def test_they_are_in_the_spec(self, people: World, ours: Tenant) -> None:
        request = train(ours, faq(ours), columns=" completion=answer, prompt=question")
        assert request["spec"]["columns"] == COLUMNS
        with people.services.db.read() as session:
            (job,) = session.query(JobRow).filter_by(namespace=ours.space)
            assert "training.spec.columns" in fields_in(job.needs)
        worker = people.client(Role.WORKER, namespace=ours.space)
        held = calls.hold(worker, version=VERSION)
        worker.close()
        assert held.request.spec.columns == COLUMNS

    def test_a_dataset_has_those_that_it_was_added_with(self, ours: Tenant) -> None:
        view = ours.client.datasets.add(faq(ours), name="faq", namespace=ours.space, columns=COLUMNS)
        assert (view.columns, view.shape) == (COLUMNS, "prompt-completion")
        for data in ("faq", "faq@v1", view.digest):
            assert train(ours, data)["spec"]["columns"] == COLUMNS
        assert ours.client.submit_evaluation("base:tiny", data="faq").view.request["spec"]["columns"] == COLUMNS
        assert ours.client.datasets.submit_preview("faq", base="tiny").view.request["columns"] == COLUMNS
        # What is said counts more, and another shape follows from it.
        request = train(ours, "faq", columns="text=question,label=id", objective="classify")
        assert request["spec"]["columns"] == "text=question,label=id"
        with pytest.raises(InvalidInput, match="loss on 'assistant'"):
            train(ours, "faq", loss_on="assistant")

    def test_the_last_that_were_said_hold(self, ours: Tenant) -> None:
        path = faq(ours)
        first = ours.client.datasets.add(path, namespace=ours.space, columns=COLUMNS)
        again = ours.client.datasets.add(path, namespace=ours.space, columns="text=question")
        assert (again.digest, again.number) == (first.digest, first.number)
        assert (again.columns, again.shape) == ("text=question", "text")
        assert ours.client.datasets.get(first.digest).columns == "text=question"

    def test_a_job_over_the_same_file_changes_nothing_of_a_dataset(self, ours: Tenant) -> None:
        path = faq(ours)
        view = ours.client.datasets.add(path, name="faq", namespace=ours.space, columns=COLUMNS)
        ours.client.submit_evaluation("base:tiny", data=path, columns="text=question")
        train(ours, path, columns="text=question")
        kept = ours.client.datasets.get("faq")
        assert (kept.columns, kept.shape, kept.digest) == (COLUMNS, "prompt-completion", view.digest)

    def test_whoever_adds_rows_without_columns_has_them_as_they_are(self, ours: Tenant) -> None:
        path = ours.file("native")
        first = ours.client.datasets.add(path, name="native", namespace=ours.space, columns="text=prompt")
        assert (first.columns, first.shape) == ("text=prompt", "text")
        again = ours.client.datasets.add(path, name="native", namespace=ours.space)
        assert (again.columns, again.shape, again.number) == (None, "prompt-completion", 1)

    def test_held_out_rows_are_read_by_the_same(self, ours: Tenant) -> None:
        assert train(ours, faq(ours), eval_data=faq(ours), columns=COLUMNS)["eval_data"] is not None
        with pytest.raises(InvalidData, match="has no column `question` for `prompt`") as caught:
            train(ours, faq(ours), eval_data=ours.file("b"), columns=COLUMNS)
        assert caught.value.param == "eval_data"
        ours.client.datasets.add(faq(ours), name="faq", namespace=ours.space, columns=COLUMNS)
        with pytest.raises(InvalidInput, match=r"the columns of the dataset faq@v1 are prompt=question") as refused:
            train(ours, ours.file("b"), eval_data="faq")
        assert refused.value.param == "columns"


class TestShapes:
    @pytest.mark.parametrize(
        ("row", "shape"),
        [
            ({"instruction": "i", "input": "", "output": "o"}, "prompt-completion"),
            ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "messages"),
            ({"text": "t"}, "text"),
        ],
    )
    @pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
    def test_they_are_taken_by_what_they_are(
        self, people: World, ours: Tenant, row: dict[str, Any], shape: str, name: str
    ) -> None:
        path = write(ours, name, row, row)
        view = ours.client.datasets.add(path, namespace=ours.space)
        assert (view.shape, view.rows, view.format) == (shape, 2, name.split(".")[1])
        train(ours, view.digest)
        worker = people.client(Role.WORKER, namespace=ours.space)
        held = claim(worker)
        worker.close()
        assert held.datasets == {view.digest: view.format}

    @pytest.mark.parametrize(
        ("row", "loss_on", "possible"),
        [
            ({"prompt": "a", "completion": "b"}, "assistant", "completion or all"),
            ({"instruction": "a", "output": "b"}, "assistant", "completion or all"),
            ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "completion", "assistant, answer, reasoning or all"),
            ({"text": "a"}, "completion", "all"),
        ],
    )  # fmt: skip
    def test_a_loss_that_rows_have_no_place_for_is_refused_at_submit(
        self, ours: Tenant, row: dict[str, Any], loss_on: Any, possible: str
    ) -> None:
        path = write(ours, "rows.jsonl", row)
        said = rf"rows have nothing for a loss on '{loss_on}'; set loss_on to {possible}"
        for data in (path, None):
            # Of a registered dataset, the client knows it by what was said of it.
            given = data or ours.client.datasets.add(path, namespace=ours.space).digest
            with pytest.raises(InvalidInput, match=said) as caught:
                train(ours, given, loss_on=loss_on)
            assert caught.value.param == "loss_on"
            with pytest.raises(InvalidInput, match=said):
                ours.client.submit_evaluation("base:tiny", data=given, loss_on=loss_on)
        # And the registry from whoever asks it without looking.
        body = training(f"{ours.space}/a", ours.client.datasets()[0].digest)
        spec = TrainingSpec(**SPEC, loss_on=loss_on)
        request = body.request.model_copy(update={"spec": spec})
        with pytest.raises(InvalidInput, match=said):
            submit(ours.client, JobSubmission(request=request))
        assert ours.client.jobs() == []


class TestChoices:
    """Rows of multiple choice are for evaluations alone."""

    def test_they_score_and_teach_nothing(self, ours: Tenant) -> None:
        row = {"prompt": uuid.uuid4().hex, "choices": [" a", " b"], "answer": " b"}
        view = ours.client.datasets.add(write(ours, "mc.jsonl", row), name="mc", namespace=ours.space)
        assert view.shape == "choices"
        assert ours.client.submit_evaluation("base:tiny", data="mc").view.request["data"] == view.digest
        with pytest.raises(InvalidInput, match="are for evaluations, and nothing is learnt of them"):
            train(ours, "mc")
        # Whoever asks the registry itself is told the same.
        with pytest.raises(InvalidInput, match="are for evaluations"):
            submit(ours.client, training(f"{ours.space}/a", view.digest))
        with pytest.raises(InvalidInput, match="nothing for a loss on 'all'"):
            ours.client.submit_evaluation("base:tiny", data="mc", loss_on="all")

    def test_several_references_score_and_teach_nothing(self, ours: Tenant) -> None:
        row = {"prompt": uuid.uuid4().hex, "references": ["a", "b"]}
        view = ours.client.datasets.add(write(ours, "several.jsonl", row), name="several", namespace=ours.space)
        assert view.shape == "references"
        assert ours.client.submit_evaluation("base:tiny", data="several").view.request["data"] == view.digest
        with pytest.raises(InvalidInput, match=r"\{prompt, references\} are for evaluations, and nothing is learnt"):
            train(ours, "several")

    def test_scores_of_completions_are_refused_where_none_is_generated(self, ours: Tenant) -> None:
        row = {"prompt": uuid.uuid4().hex, "choices": [" a", " b"], "answer": " b"}
        view = ours.client.datasets.add(write(ours, "mc.jsonl", row), name="mc", namespace=ours.space)
        every: list[dict[str, Any]] = [
            {"metrics": ["bleu"]},
            {"regex": "a"},
            {"scorers": ["mine"]},
            {"max_thought_tokens": 9},
        ]
        for options in every:
            with pytest.raises(InvalidInput, match=r" completions, and of these rows none is generated"):
                ours.client.submit_evaluation("base:tiny", data="mc", **options)
            # Whoever asks the registry itself is told the same.
            request = EvaluationRequest(
                targets=[EvaluationTarget(base=BaseChoice(id="tiny"))],
                data=view.digest,
                spec=EvaluationSpec.model_validate(options),
            )
            with pytest.raises(InvalidInput, match=r"(scores? of|limits) completions"):
                submit(ours.client, JobSubmission(request=request))

    def test_a_wrong_form_is_refused_at_submit(self, ours: Tenant) -> None:
        rows = write(ours, "mc.jsonl", {"prompt": uuid.uuid4().hex, "choices": [" a", " b"], "answer": 2})
        with pytest.raises(InvalidData, match="line 1 has the `answer` 2, and its 2 choices are numbered from 0 to 1"):
            ours.client.submit_evaluation("base:tiny", data=rows)


OPTIONS: dict[str, Any] = {"method": "lora", "rank": 4, "targets": "qv"}


def rows(tmp_path: Path, *groups: str) -> Path:
    path = tmp_path / f"{uuid.uuid4().hex}.csv"
    path.write_text("id,q,a\n" + "".join(f"{group},question {n},answer {n}\n" for n, group in enumerate(groups)))
    return path


def test_flags_yaml_and_python_ask_for_the_same(ours: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows(tmp_path, "x", "x", "y", "z")
    held: dict[str, Any] = {"holdout": 0.25, "holdout_by": "id", "holdout_seed": 7, "columns": "prompt=q,completion=a"}
    config = tmp_path / "options.yaml"
    config.write_text(
        "base: tiny\nholdout: 0.25\nholdout-by: id\nholdout_seed: 7\ncolumns: {prompt: q, completion: a}\n"
        "method: lora\nrank: 4\ntargets: qv\n"
    )
    name = f"{ours.space}/held"
    job = ours.client.submit_training(name, base="tiny", data=data, **OPTIONS, **held)
    monkeypatch.setenv("ADAPTERCTL_URL", ours.client.config.url)
    monkeypatch.setenv("ADAPTERCTL_TOKEN", ours.client.config.token or "")
    flags = ["--base", "tiny", "--method", "lora", "--rank", "4", "--targets", "qv"]
    flags += ["--holdout", "0.25", "--holdout-by", "id", "--holdout-seed", "7", "--columns", held["columns"]]
    for more in (flags, ["--config", str(config)]):
        asked = ["train", name, "--data", str(data), "--detach", "--format", "quiet", *more]
        done = CliRunner().invoke(cli, asked, catch_exceptions=False)
        other = ours.client.job(done.stdout.strip())
        assert other.view.request["spec"] == job.view.request["spec"]
    request = TrainingRequest.model_validate(job.view.request)
    assert (request.spec.holdout, request.spec.holdout_by, request.spec.holdout_seed) == (0.25, "id", 7)
    # A worker that knows none of it would train on all rows.
    assert used_fields(request) >= {f"training.spec.{name}" for name in ("holdout", "holdout_by", "holdout_seed")}


def test_what_can_not_be_held_out_is_refused_at_submit(ours: Tenant, tmp_path: Path) -> None:
    name = f"{ours.space}/held"
    columns = "prompt=q,completion=a"

    def submitted(data: Any, **options: Any) -> None:
        ours.client.submit_training(name, base="tiny", data=data, columns=columns, **{**OPTIONS, **options})

    with pytest.raises(InvalidInput, match="leave out holdout, or eval_data") as caught:
        submitted(rows(tmp_path, "x", "y"), eval_data=rows(tmp_path, "x"), holdout=0.5)
    assert caught.value.param == "holdout"
    with pytest.raises(InvalidData, match="in one group of 'id'"):
        submitted(rows(tmp_path, "x", "x"), holdout=0.5, holdout_by="id")
    with pytest.raises(InvalidData, match="line 2 has nothing in the column `group`"):
        submitted(rows(tmp_path, "x", "x"), holdout=0.5, holdout_by="group")
    one = ours.client.datasets.add(rows(tmp_path, "x"), namespace=ours.space, columns=columns)
    with pytest.raises(InvalidInput, match="has one row, so none can be held out"):
        submitted(one.digest, holdout=0.5)
    # Whoever asks the registry without a client is told the same.
    body = TrainingRequest(
        adapter=name,
        base=BaseChoice(id="tiny", fingerprint=digest("tiny: base")),
        data=one.digest,
        eval_data=one.digest,
        spec=TrainingSpec(**OPTIONS, columns=columns, holdout=0.5),
    )
    with pytest.raises(InvalidInput, match="leave out holdout, or eval_data") as caught:
        submit(ours.client, JobSubmission(request=body))
    assert caught.value.param == "spec.holdout"


class TestLooks:
    """What no training could look at is refused where the job is submitted."""

    def rows(self, ours: Tenant, count: int) -> list[Any]:
        return [{"prompt": uuid.uuid4().hex, "completion": "a"} for _ in range(count)]

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (
                {"patience": 3},
                "patience looks at held-out rows, and there are none; give eval_data, or a share as holdout",
            ),
            ({"samples": 2, "eval_every": 1}, "eval_every and samples look at held-out rows"),
            ({"holdout": 0.5, "eval_every": 16}, "eval_every is 16 and the training has 15 steps; give fewer than 15"),
            ({"holdout": 0.5, "eval_every": 5, "patience": 3}, "patience 3 never ends a training of 15 steps"),
            ({"holdout": 0.5, "min_delta": 0.1}, "min_delta says when a look is the best"),
            ({"holdout": 0.5, "eval_every": "5s"}, "'5s' is not an interval; give steps, such as 50, or minutes"),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_what_can_not_be_watched_is_refused(self, ours: Tenant, given: dict[str, Any], message: str) -> None:
        data = write(ours, "pairs.jsonl", *self.rows(ours, 20))
        with pytest.raises(InvalidInput, match=message):
            train(ours, data, batch_size=4, grad_accum=1, **given)
        train(ours, data, batch_size=4, grad_accum=1, holdout=0.5, eval_every=5, patience=2, samples=2)

    def test_samples_of_rows_without_prompts_are_refused(self, ours: Tenant) -> None:
        data = write(ours, "texts.jsonl", *[{"text": uuid.uuid4().hex} for _ in range(4)])
        with pytest.raises(InvalidInput, match="text rows have none; leave samples out"):
            train(ours, data, holdout=0.5, samples=1)
        # A registered dataset too.
        asked = train(ours, data)
        request = TrainingRequest.model_validate({**asked, "spec": {**SPEC, "holdout": 0.5, "samples": 1}})
        with pytest.raises(InvalidInput, match="text rows have none; leave samples out"):
            submit(ours.client, JobSubmission(request=request))

    def test_rows_of_the_last_test_are_named_in_the_request(self, people: World, ours: Tenant) -> None:
        files = [write(ours, f"{name}.jsonl", *self.rows(ours, 4)) for name in ("data", "eval", "test")]
        request = train(ours, files[0], eval_data=files[1], test_data=files[2])
        assert request["test_data"] == digest(files[2].read_text())
        with people.services.db.read() as session:
            (job,) = session.query(JobRow).filter_by(namespace=ours.space)
            assert "training.test_data" in fields_in(job.needs)

    def test_what_a_neighbour_has_is_named_as_if_it_were_not_there(self, ours: Tenant, theirs: Tenant) -> None:
        held, folder = theirs.add(uuid.uuid4().hex, "their-rows.jsonl"), new_adapter(theirs.folder)
        (folder / TEMPLATE_FILE).write_text("{{ messages }}")
        version = theirs.client.push(folder, f"{theirs.space}/a", base="tiny", method="lora")
        data, nobody = write(ours, "data.jsonl", *self.rows(ours, 4)), digest(uuid.uuid4().hex)
        pairs = [
            ("test_data", held.digest, nobody),
            ("test_data", held.digest[:12], nobody[:12]),
            ("test_data", "their-rows.jsonl", "nobodys-rows.jsonl"),
            ("chat_template", version.ref, f"{theirs.space}/b@v1"),
            ("chat_template", f"{theirs.space}/a@{version.digest}", f"{theirs.space}/a@sha256:{nobody}"),
        ]
        for option, hidden, absent in pairs:
            assert self.refusal(ours, data, option, hidden) == self.refusal(ours, data, option, absent)
        # Nor by a request that no SDK has looked at.
        asked = train(ours, data, eval_data=write(ours, "eval.jsonl", *self.rows(ours, 4)))
        for given in (held.digest, nobody):
            request = TrainingRequest.model_validate({**asked, "test_data": given})
            with pytest.raises(NotFound):
                submit(ours.client, JobSubmission(request=request))

    def refusal(self, ours: Tenant, data: Path, option: str, given: str) -> str:
        with pytest.raises(NotFound) as caught:
            train(ours, data, holdout=0.5, **{option: given})
        return caught.value.message.replace(given, "it").replace(given.partition("@")[0], "it")
