"""Jobs at the command line, against a real server: what is printed, how it exits, what a watch survives."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from sqlalchemy import update
from support import processes
from support.adapters import SPEC, base_registration
from support.command_line import CommandLine
from support.points import Sender
from support.registries import World, served
from support.working import Held, line, progress

from registry.db.types import utc_now
from registry.jobs.models import Job, Worker
from registry.principal import SYSTEM, Role
from sdk.cli import cli
from sdk.client import Client
from sdk.schemas.advice import Advice
from sdk.schemas.series import Point

pytestmark = pytest.mark.slow

COLUMNS = 80
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LONG = "team/a-name-that-is-as-long-as-names-of-adapters-may-well-become"


class Desk(CommandLine):
    """A terminal before a registry, and a worker that does what a test says."""

    def __init__(self, world: World, folder: Path, client: Client, token: str) -> None:
        super().__init__(folder, url=world.url, token=token)
        self.world, self.client = world, client

    def submit(self, name: str = "sql", **terms: Any) -> str:
        given = {**SPEC.model_dump(), **terms}
        return self.client.submit_training(name, base="tiny", data=self.folder / "rows.jsonl", **given).id

    def claim(self, **about: Any) -> Held:
        return Held.claim(self.client, self.folder, **about)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("jobs-cli")
    with served(folder) as found:
        found.admin.bases.register(base_registration())
        yield found


@pytest.fixture
def desk(world: World, tmp_path: Path) -> Iterator[Desk]:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    made = world.services.tokens.create(name="ops", grants={"*": Role.ADMIN}, replace=True, who=SYSTEM)
    client = Client(world.url, made.secret, cache=tmp_path / "other-cache")
    yield Desk(world, tmp_path, client, made.secret)
    client.close()
    with world.services.db.write() as session:
        session.execute(update(Worker).values(seen_at=utc_now() - timedelta(days=30)))
        session.execute(update(Job).where(Job.state.in_(["queued", "running"])).values(state="failed"))


def rows_of(table: str) -> list[list[str]]:
    """Cells of a table, without its header."""
    return [re.split(r" {2,}", row) for row in table.splitlines()[1:]]


class TestList:
    def test_how_each_stands_within_80_columns(self, desk: Desk) -> None:
        running = desk.submit(LONG)
        desk.claim().report(progress(step=30, total=100, loss=2.0))
        waiting = desk.submit("sql", priority=1)
        fits_nobody = desk.submit("big", memory=10**15, priority=2)
        table = desk.ok("jobs", "list", "--limit", "3", "--format", "table")
        assert all(len(row) <= COLUMNS for row in table.splitlines()), table
        # So long a name is left out and not cut.
        assert table.splitlines()[0].split()[:2] == ["ID", "STATE"]
        assert [row.split()[:2] for row in table.splitlines()[1:]] == [
            [fits_nobody, "queued"],
            [waiting, "queued"],
            [running, "running"],
        ]
        assert "\x1b" not in table
        status, _, shown = desk.at_a_terminal("jobs", "list", "--limit", "3", columns=200, TERM="xterm-256color")
        assert status == 0
        plain = [row.rstrip() for row in _ESCAPES.sub("", shown).splitlines()]
        assert re.search(r"#1: it needs \S+ GiB of memory, and the largest worker that may run it ", plain[1])
        assert re.search(r" #2: 1 job goes first +\d{4}-\d\d-\d\d \d\d:\d\d UTC$", plain[2]), plain[2]
        assert LONG in plain[3]
        assert " train 30/100 steps " in plain[3]
        # The state of a job that runs has a colour.
        assert "\x1b[36mrunning\x1b[0m" in shown

    def test_some_of_them(self, desk: Desk) -> None:
        first = desk.submit()
        desk.claim()
        second = desk.submit()
        assert desk.ok("jobs", "list", "--state", "queued", "--format", "quiet").split() == [second]
        assert desk.ok("jobs", "list", "--state", "running", "--format", "quiet").split() == [first]
        assert desk.json("jobs", "list", "--queue", "cpu") == []
        (shown,) = desk.json("jobs", "list", "--state", "queued")
        assert (shown["id"], shown["ahead"], shown["queue"], "request" in shown) == (second, 0, "gpu", False)
        assert "no job matches these filters" in desk.run("jobs", "list", "--queue", "cpu").stderr


class TestShow:
    def test_attempts_and_checkpoints(self, desk: Desk) -> None:
        job = desk.submit()
        desk.claim(name="w1").fail("oom", "the GPU has too little memory; lower --batch-size")
        held = desk.claim(name="w2")
        for step in (10, 20):
            held.checkpoint(step, 30)
        shown = desk.ok("jobs", "show", job)
        fields = dict(line.split("\t") for line in shown.splitlines())
        assert fields["attempts.1.reason"] == "oom: the GPU has too little memory; lower --batch-size"
        assert (fields["attempts.1.worker"], fields["attempts.2.state"]) == ("w1", "running")
        assert (fields["checkpoints.1.step"], fields["checkpoints.1.steps"]) == ("20", "30")
        drawn = desk.ok("jobs", "show", job, "--format", "table")
        assert re.search(r"^ +1  failed +oom: ", drawn, re.MULTILINE), drawn
        full = desk.json("jobs", "show", job)
        assert [attempt["state"] for attempt in full["attempts"]] == ["failed", "running"]
        assert [checkpoint["step"] for checkpoint in full["checkpoints"]] == [20, 10]
        assert (full["attempt"], full["failures"], full["checkpoint_step"]) == (2, 1, 20)
        assert desk.ok("jobs", "show", job, "--format", "quiet") == "running"

        assert [row["step"] for row in desk.json("jobs", "checkpoints", job)] == [20, 10]
        assert desk.ok("jobs", "checkpoints", job, "--format", "quiet").split() == ["20", "10"]
        assert len(desk.ok("jobs", "checkpoints", job).splitlines()) == 3
        other = desk.submit()
        assert desk.json("jobs", "checkpoints", other) == []


class TestSeries:
    def test_what_was_measured_is_printed_by_step(self, desk: Desk) -> None:
        job = desk.submit()
        held = desk.claim()
        assert desk.json("jobs", "series", job) == []
        points = [Point(step=step, values={"loss": 2.5 / step, "lr": 2e-4}) for step in (1, 2)]
        Sender(held.client, held.assignment).send(-1, [*points, Point(step=3, values={"eval_loss": 1.25})])
        assert desk.json("jobs", "series", job) == [
            {"step": 1, "loss": 2.5, "lr": 2e-4},
            {"step": 2, "loss": 1.25, "lr": 2e-4},
            {"step": 3, "eval_loss": 1.25},
        ]
        assert desk.json("jobs", "series", job, "--keys", "loss", "--buckets", "1") == [{"step": 2, "loss": 1.875}]
        shown = desk.ok("jobs", "series", job).splitlines()
        assert [line.split("\t") for line in shown] == [
            ["step", "loss", "lr", "eval_loss"],
            ["1", "2.5", "0.0002", ""],
            ["2", "1.25", "0.0002", ""],
            ["3", "", "", "1.25"],
        ]
        drawn = desk.ok("jobs", "series", job, "--format", "table").splitlines()
        assert [line.split() for line in drawn[-3:]] == [
            ["1", "2.5", "0.0002", "-"],
            ["2", "1.25", "0.0002", "-"],
            ["3", "-", "-", "1.25"],
        ]
        assert desk.ok("jobs", "series", job, "--format", "quiet").split() == ["1", "2", "3"]


class TestPublish:
    def test_a_checkpoint_becomes_a_version(self, desk: Desk) -> None:
        job = desk.submit("published")
        held = desk.claim()
        held.checkpoint(10, 30)
        held.checkpoint(20, 30)
        assert desk.ok("jobs", "publish", job, "--step", "10", "--tag", "stage=trial") == "published@v1"
        shown = desk.json("show", "published@v1")
        assert shown["tags"] == {"stage": "trial"}
        assert shown["job"] == {"id": job, "attempt": 1}
        assert shown["training"]["checkpoint_step"] == 10
        last = desk.json("jobs", "publish", job, "--name", "team/early", "--description", "as of step 20")
        assert (last["ref"], last["job"], last["existing"]) == ("team/early@v1", job, False)
        assert desk.json("show", "team/early@v1")["training"]["checkpoint_step"] == 20
        again = desk.run("jobs", "publish", job, "--step", "10")
        assert (again.stdout, again.returncode) == ("published@v1\n", 0)
        assert "are already a version" in again.stderr

    def test_what_is_not_there_is_not_published(self, desk: Desk) -> None:
        job = desk.submit()
        for args in (["--step", "7"], []):
            done = desk.run("jobs", "publish", job, *args)
            assert (done.returncode, done.stdout) == (3, "")
        assert desk.run("jobs", "publish", job, "--step", "0").returncode == 2
        assert desk.run("jobs", "publish", job, "--tag", "x").returncode == 2


class TestRetry:
    def test_a_failed_job_is_submitted_once_more(self, desk: Desk) -> None:
        job = desk.submit()
        held = desk.claim()
        assert desk.run("jobs", "retry", job).returncode == 4
        held.checkpoint(10, 30)
        held.fail("diverged")
        done = desk.run("jobs", "retry", job)
        new = done.stdout.strip()
        assert done.returncode == 0
        assert f"resumes from step 10; watch it: adapterctl jobs watch {new}" in done.stderr
        assert desk.json("jobs", "show", new)["retry_of"] == job
        desk.client.jobs.cancel(new)
        again = desk.json("jobs", "retry", new)
        assert (again["state"], again["retry_of"]) == ("queued", new)

    def test_one_that_ended_well_is_submitted_changed_as_it_is_advised(self, desk: Desk) -> None:
        job = desk.submit("advised", epochs=3.0)
        desk.claim().complete(
            Advice(rule="by_heart", message="held-out rows got worse; try --epochs 1", changes={"epochs": 1.0})
        )
        shown = desk.run("jobs", "show", job)
        assert re.search(r"^warning\s+held-out rows got worse; try --epochs 1$", shown.stdout, re.MULTILINE)
        assert f"run it again as it is advised: adapterctl jobs retry {job} --advice" in shown.stderr
        assert desk.run("jobs", "retry", job).returncode == 4
        done = desk.run("jobs", "retry", job, "--advice")
        new = done.stdout.strip()
        assert done.returncode == 0
        assert f"epochs 1 in place of 3; watch it: adapterctl jobs watch {new}" in done.stderr
        assert re.search(r"^changed\s+epochs 1 in place of 3$", desk.ok("jobs", "show", new), re.MULTILINE)
        refused = desk.run("jobs", "retry", new, "--advice")
        assert refused.returncode == 4
        assert "what to change is only known when it has ended" in refused.stderr

    def test_a_running_one_shows_its_advice_and_how_to_follow_it(self, desk: Desk) -> None:
        job = desk.submit("rising", lr=0.3)
        held = desk.claim()
        held.advise(
            Advice(rule="diverging", message="at step 40 of 400, it diverges; try --lr 0.1", changes={"lr": 0.1})
        )
        shown = desk.run("jobs", "show", job)
        assert re.search(r"^advice\s+at step 40 of 400, it diverges; try --lr 0\.1$", shown.stdout, re.MULTILINE)
        assert f"adapterctl jobs cancel {job}; then: adapterctl jobs retry {job} --advice" in shown.stderr
        assert desk.json("jobs", "show", job)["advice"][0]["changes"] == {"lr": 0.1}
        held.fail("diverged")
        assert (
            f"run it again as it is advised: adapterctl jobs retry {job} --advice"
            in desk.run("jobs", "show", job).stderr
        )
        new = desk.ok("jobs", "retry", job, "--advice").strip()
        assert re.search(r"^changed\s+lr 0\.1 in place of 0\.3$", desk.ok("jobs", "show", new), re.MULTILINE)
        desk.client.jobs.cancel(new)


class TestWait:
    def test_how_each_has_ended_decides(self, desk: Desk) -> None:
        good, bad = desk.submit("good"), desk.submit("bad")
        desk.claim().complete()
        header, good_row = desk.ok("jobs", "wait", good).split("\n")
        assert header.split("\t")[:2] == ["id", "state"]
        assert good_row.split("\t")[:4] == [good, "succeeded", "training", "good"]
        done = desk.run("jobs", "wait", good, bad, "--any", "--timeout", "60")
        assert (done.returncode, done.stdout) == (0, f"{header}\n{good_row}\n")
        threading.Timer(2, desk.claim().fail, ["data", "row 3 is odd; mend it"]).start()
        done = desk.run("jobs", "wait", good, bad)
        assert done.returncode == 6
        # There is one header, however they end one after the other.
        first, *ended = done.stdout.splitlines()
        assert first == header
        of = {row.split("\t")[0]: dict(zip(header.split("\t"), row.split("\t"), strict=True)) for row in ended}
        assert of.keys() == {good, bad}
        assert (of[good]["state"], of[good]["reason"]) == ("succeeded", "")
        assert [of[bad][name] for name in ("state", "reason", "message")] == ["failed", "data", "row 3 is odd; mend it"]
        assert f"1 of 2 jobs ended without a result ({bad})" in done.stderr
        alone = desk.run("jobs", "wait", bad, "--format", "json")
        assert alone.returncode == 6
        (found,) = json.loads(alone.stdout)
        assert (found["id"], found["state"], found["reason"]) == (bad, "failed", "data")
        assert json.loads(alone.stderr)["error"]["code"] == "job_failed"

    def test_patience_ends(self, desk: Desk) -> None:
        job = desk.submit()
        done = desk.run("jobs", "wait", job, "--timeout", "0.5s")
        assert (done.returncode, done.stdout) == (8, "")
        assert f"it is still running: adapterctl jobs watch {job}" in done.stderr
        assert desk.run("jobs", "wait", job, "--timeout", "soon").returncode == 2
        assert desk.run("jobs", "wait", "nothing").returncode == 3
        assert desk.client.jobs.view(job).state == "queued"


class TestLogs:
    def test_lines_for_people_and_for_programs(self, desk: Desk) -> None:
        job = desk.submit()
        held = desk.claim()
        held.report(line("first\nsecond \x1b[31m"), progress(step=1, total=9, loss=2.0))
        # A clock here, with its zone.
        status, _, shown = desk.at_a_terminal("jobs", "logs", job, TZ="Asia/Tokyo")
        assert status == 0
        assert [re.sub(r"^\d{4}[0-9: -]{15} JST", "TIME", row) for row in shown.splitlines()] == [
            "TIME  0  state     queued",
            "TIME  1  state     running: attempt 1 on w1",
            "TIME  1  log       first",
            " " * 38 + "second ?[31m",
            "TIME  1  progress  train · 1/9 steps · loss 2.000",
        ]
        lines = [row.split("\t") for row in desk.ok("jobs", "logs", job).splitlines()]
        assert lines[0] == ["time", "attempt", "kind", "message"]
        assert lines[3][1:] == ["1", "log", "first\\nsecond \\x1b[31m"]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", row[0]) for row in lines[1:])
        events = [json.loads(row) for row in desk.ok("jobs", "logs", job, "--format", "json").splitlines()]
        assert [event["kind"] for event in events] == ["state", "state", "log", "progress"]

    def test_they_are_followed_to_the_end(self, desk: Desk) -> None:
        job = desk.submit()
        held = desk.claim()

        def work() -> None:
            held.report(line("late"))
            held.fail()

        threading.Timer(2, work).start()
        text = desk.ok("jobs", "logs", job, "-f").splitlines()
        assert text[-2].endswith("\tlog\tlate")
        assert text[-1].endswith("\tstate\tfailed: the rows are odd")
        assert text[0] == "time\tattempt\tkind\tmessage"
        assert text[1].split("\t")[2] == "state"


class TestWatch:
    def test_a_bar_for_each_on_a_terminal(self, desk: Desk) -> None:
        first, second = desk.submit("first"), desk.submit("second")
        one, two = desk.claim(), desk.claim(name="w2")

        def work() -> None:
            for step in range(1, 6):
                time.sleep(0.4)
                for held in (one, two):
                    held.report(progress(step=step, total=5, loss=1.5, lr=1e-4, tokens_per_s=900, eta_s=70))
            one.complete()
            time.sleep(1)
            two.fail("diverged", "the loss is not a number; lower --lr")

        worker = threading.Thread(target=work)
        worker.start()
        status, _, shown = desk.at_a_terminal("jobs", "watch", first, second, columns=120, TERM="xterm-256color")
        worker.join()
        assert status == 6
        text = _ESCAPES.sub("", shown)
        for job in (first, second):
            assert re.search(
                rf"{job} \S train +━+\S* +\d/5 steps · 70 s left · loss 1.500 · 900 tokens/s · lr 0.0001", text
            )
        assert all(len(row) <= 120 for row in re.split(r"[\r\n]+", text))
        assert f"job {first} succeeded" in text
        assert f"job {second} failed (diverged): the loss is not a number; lower --lr" in text

    def test_a_server_that_goes_and_comes_back_ends_no_watch(self, tmp_path: Path) -> None:
        port = processes.free_port()
        env = processes.environment(
            REGISTRY_DATABASE_URL=f"sqlite:///{tmp_path / 'registry.sqlite3'}",
            REGISTRY_STORAGE_URL=(tmp_path / "artifacts").as_uri(),
            REGISTRY_AUTH="none",
            ADAPTERCTL_URL=f"http://127.0.0.1:{port}",
            ADAPTERCTL_CACHE=str(tmp_path / "cache"),
            HOME=str(tmp_path),
        )
        assert processes.run("adapter-registry", "db", "upgrade", env=env).returncode == 0
        serve = ("adapter-registry", "serve", "--port", str(port))
        (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
        client = Client(env["ADAPTERCTL_URL"], cache=tmp_path / "cache")
        with processes.running(*serve, env=env, log=tmp_path / "first.log") as server:
            processes.wait_until_healthy(env["ADAPTERCTL_URL"], log=tmp_path / "first.log")
            client.bases.register(base_registration())
            job = client.submit_training("sql", base="tiny", data=tmp_path / "rows.jsonl", **SPEC.model_dump()).id
            held = Held.claim(client, tmp_path)
            watch = subprocess.Popen(
                [str(processes.BIN / "adapterctl"), "jobs", "watch", job],
                env=env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            said = iter(watch.stderr.readline, "")
            assert any("running: attempt 1 on w1" in row for row in said)
            server.kill()
            server.wait()
        assert any("still trying" in row for row in said)
        with processes.running(*serve, env=env, log=tmp_path / "second.log"):
            processes.wait_until_healthy(env["ADAPTERCTL_URL"], log=tmp_path / "second.log")
            held.report(progress(step=1, total=2))
            held.complete()
            rest = "".join(said)
            assert watch.wait(60) == 0, rest
        watch.stderr.close()
        watch.stdout.close()
        client.close()
        assert "the registry answers again" in rest
        assert f"job {job} succeeded" in rest


class TestFleet:
    def test_workers_and_queues(self, desk: Desk) -> None:
        job = desk.submit()
        desk.claim(name="gpu-node-7", queues=["gpu"])
        desk.submit()
        table = desk.ok("workers", "list", "--format", "table")
        assert all(len(row) <= COLUMNS for row in table.splitlines()), table
        assert re.search(rf"^gpu-node-7 +busy +{job} +cpu +8\.6 GB +17\.2 GB +gpu ", table, re.MULTILINE), table
        by_name = {worker["name"]: worker for worker in desk.json("workers", "list")}
        assert (by_name["gpu-node-7"]["state"], by_name["gpu-node-7"]["job"]) == ("busy", job)
        assert "gpu-node-7" in desk.ok("workers", "list", "--format", "quiet").split()

        queues = {queue["queue"]: queue for queue in desk.json("capacity")}
        assert (queues["gpu"]["queued"], queues["gpu"]["running"], queues["gpu"]["idle"]) == (1, 1, 0)
        assert (queues["cpu"]["queued"], queues["cpu"]["workers"], queues["cpu"]["oldest_s"]) == (0, 0, None)
        assert [row[0] for row in rows_of(desk.ok("capacity", "--format", "table"))] == ["gpu", "cpu"]


class TestTrain:
    def test_on_which_terms_it_runs(self, desk: Desk) -> None:
        rows = str(desk.folder / "rows.jsonl")
        common = ["train", "sql", "--base", "tiny", "--data", rows, "--rank", "2", "--detach"]
        job = desk.json(
            *common, "--checkpoint-every", "50steps", "--priority", "7", "--timeout", "2h", "--device", "cuda", "--memory", "16GB"
        )["job"]  # fmt: skip
        shown = desk.json("jobs", "show", job)
        assert shown["request"]["checkpoint"] == {"every_steps": 50, "every_minutes": None}
        assert (shown["priority"], shown["needs"]) == (7, {"device": "cuda", "memory_bytes": 16_000_000_000})
        with desk.world.services.db.read() as session:
            assert session.get_one(Job, job).timeout_s == 7200

    def test_from_a_configuration_file(self, desk: Desk) -> None:
        first = desk.submit()
        held = desk.claim()
        held.checkpoint(10, 30)
        config = desk.folder / "sql.yaml"
        config.write_text(
            f"base: tiny\ndata: {desk.folder / 'rows.jsonl'}\ncheckpoint-every: 90s\nfrom-checkpoint: {first}@10\n"
            "timeout: 3600\nmemory: 2GiB\n"
            "method: lora\nrank: 2\nalpha: 4\ndropout: 0\ntargets: q_proj,v_proj\n"
        )
        shown = desk.json("jobs", "show", desk.json("train", "sql", "--config", str(config), "--detach")["job"])
        assert shown["request"]["checkpoint"]["every_minutes"] == 1.5
        assert shown["request"]["from_checkpoint"] == {"job": first, "step": 10}
        assert shown["needs"]["memory_bytes"] == 2**31

    def test_the_example_configuration(self, desk: Desk) -> None:
        """Each option of it gets to the job, and flags say the same as the file."""
        example = Path(__file__).parents[2] / "examples" / "training.yaml"
        rows = str(desk.folder / "rows.jsonl")
        given = ("train", "sql", "--base", "tiny", "--data", rows, "--detach")
        job = desk.json(*given, "--config", str(example), "--targets", "q_proj,v_proj")["job"]
        spec = desk.json("jobs", "show", job)["request"]["spec"]
        said = yaml.safe_load(example.read_text())
        assert spec.keys() >= said.keys() - {"base", "data", "targets"}
        flags = [word for name, value in spec.items() if value is not None for word in _flag(name, value)]
        other = desk.json(*given, *flags)["job"]
        assert desk.json("jobs", "show", other)["request"]["spec"] == spec

    @pytest.mark.parametrize(
        ("option", "value"),
        [("--checkpoint-every", "50"), ("--timeout", "soon"), ("--memory", "lots"), ("--from-checkpoint", "j1@x")],
    )
    def test_what_is_no_such_thing_is_named(self, desk: Desk, option: str, value: str) -> None:
        rows = str(desk.folder / "rows.jsonl")
        done = desk.run("train", "sql", "--base", "tiny", "--data", rows, "--detach", option, value)
        assert (done.returncode, done.stdout) == (2, "")
        assert value in done.stderr


def _flag(name: str, value: object) -> list[str]:
    option = name.replace("_", "-")
    return [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]


@pytest.mark.parametrize(
    "command",
    [
        "list",
        "show",
        "watch",
        "wait",
        "logs",
        "cancel",
        "retry",
        "checkpoints",
        "series",
        "publish",
        "workers list",
        "capacity",
    ],
)
def test_help_has_examples(command: str) -> None:
    words = command.split() if command in ("workers list", "capacity") else ["jobs", command]
    done = CliRunner().invoke(cli, [*words, "--help"])
    assert done.exit_code == 0
    assert re.search(r"Examples?:\n +adapterctl ", done.stdout), done.stdout
