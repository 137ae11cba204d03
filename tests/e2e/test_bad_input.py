"""What people get wrong, through the real `adapterctl`: the right exit code, one line that helps, nothing left behind."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import processes
from support.answering import Handler, answering
from support.command_line import CommandLine
from support.registries import served
from support.small import write_adapter, write_base

from registry.access.tokens import Role
from sdk.client import Client

pytestmark = pytest.mark.slow

GOOD_ROW = '{"prompt": "a", "completion": "b"}\n'
MISSING = "no-such-thing"
#: Above what the database of a small registry takes, below the size of the big files here.
DISK_BYTES = 6_000_000
BIG_BYTES = 9_000_000


class Place(CommandLine):
    """A registry in a folder with `code-review@v1` in it, and files that are wrong in all ways."""

    #: A client of the registry, in this process.
    client: Client

    def state(self) -> object:
        """All that a refused command must not change."""
        return (
            [view.adapter for view in self.client.adapters()],
            [version.ref for version in self.client.versions("code-review")],
            [job.id for job in self.client.jobs()],
            [view.alias for view in self.client.aliases("code-review")],
            sorted(path.relative_to(self.folder).as_posix() for path in (self.folder / "work").rglob("*")),
        )


def lay_out(work: Path) -> None:
    """Write the files: every way to be wrong has a name of its own."""
    write_base(work / "base")
    (write_base(work / "no-weights") / "model.safetensors").unlink()
    (write_base(work / "only-bin") / "model.safetensors").rename(work / "only-bin/pytorch_model.bin")
    (write_base(work / "no-config") / "config.json").unlink()
    cut = write_base(work / "cut-weights") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-10])
    write_adapter(work / "adapter")
    (write_adapter(work / "pickled") / "adapter_model.safetensors").rename(work / "pickled/adapter_model.bin")
    write_adapter(work / "zero", value=0.0)
    write_adapter(work / "ia3", peft_type="IA3")
    write_adapter(work / "endless", exclude_modules="(a+)+b")
    (work / "foreign").mkdir()
    (work / "foreign/precious.txt").write_text("precious")
    rows = {
        "good.jsonl": GOOD_ROW * 3,
        "empty.jsonl": "",
        "bad-lines.jsonl": GOOD_ROW + '{"prompt": "a"}\n' + GOOD_ROW + "{broken\n",
        "mixed.jsonl": GOOD_ROW + '{"text": "a"}\n',
        "unknown.yaml": "rank: 8\nrnak: 16\n",
        "false.yaml": "rank: false\n",
        "not.yaml": "rank: [8\n",
        "nan.yaml": "lr: .nan\n",
    }
    for name, text in rows.items():
        (work / name).write_text(text)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One registry for all cases, since none of them may change it."""
    folder = tmp_path_factory.mktemp("bad-input")
    lay_out(folder / "work")
    place = Place(folder, cwd=folder / "work", XDG_CONFIG_HOME=str(folder / "config"))
    place.client = Client(place.url, cache=folder / "other-cache")
    place.client.push(folder / "work/adapter", "code-review", base=folder / "work/base")
    yield place
    place.client.close()


TRAIN = ["train", "new-adapter", "--base", "./base", "--data", "good.jsonl"]


def train(*changed: str) -> list[str]:
    """A training with the options in `changed` on top."""
    return [*TRAIN, *changed]


# Command, exit code, code, param, and what the line says.
CASES: list[tuple[list[str], int, str, str | None, str]] = [
    # Names and refs.
    (["show", MISSING], 3, "not_found", None, "adapterctl list"),
    (["show", "code-review@v9"], 3, "not_found", None, "v9"),
    (["show", "code-review@production"], 3, "not_found", None, "production"),
    (["show", "code-review@sha256:0123456789ab"], 3, "not_found", None, "0123456789ab"),
    (["show", "../x"], 2, "invalid_name", "ref", "use lower-case letters"),
    (["show", ""], 2, "invalid_name", "ref", "use lower-case letters"),
    (["show", "x" * 300], 2, "invalid_name", "ref", "at most 64 characters"),
    (["show", "caf\u00e9"], 2, "invalid_name", "ref", "'caf\\xe9' is not an adapter name"),
    (["show", "Code-Review"], 2, "invalid_name", "ref", "write 'code-review'"),
    (["show", "code-review@v0"], 2, "invalid_ref", "ref", "vN, latest, an alias"),
    (["train", "Code-Review", *TRAIN[2:]], 2, "invalid_name", "name", "write 'code-review'"),
    (["versions", "a/b/c"], 2, "invalid_name", "name", "at most one namespace"),
    (["alias", "set", "code-review", "latest", "v1"], 2, "invalid_name", "alias", "can't be an alias"),
    (["alias", "set", "code-review", "production", "3"], 2, "invalid_ref", "version", "write v1"),
    (["alias", "set", "code-review", "production", "v7"], 3, "not_found", None, "v7"),
    (["alias", "set", "code-review", "production", "v1", "--expect", "v1"], 4, "conflict", None, "production"),
    (["jobs", "show", "../jobs"], 3, "not_found", None, "adapterctl jobs list"),
    (["jobs", "cancel", MISSING], 3, "not_found", None, "adapterctl jobs list"),
    # Bases.
    (train("--base", f"./{MISSING}"), 3, "not_found", "base", "check the path of the base"),
    (train("--base", MISSING), 3, "not_found", "base", "adapterctl base add FOLDER"),
    (train("--base", "no-weights"), 3, "not_found", "base", "if it is a folder, write ./no-weights"),
    (train("--base", "org/model?x=1"), 3, "not_found", "base", "adapterctl base list"),
    (train("--base", "org/model"), 9, "unavailable", "base", "adapterctl base add FOLDER"),
    (train("--base", "./no-config"), 3, "not_found", "base", "has no config.json"),
    (train("--base", "./no-weights"), 2, "invalid_base", "base", "has no weights"),
    (train("--base", "./only-bin"), 2, "invalid_base", "base", "safe_serialization=True"),
    (train("--base", "./cut-weights"), 2, "invalid_base", "base", "not a complete safetensors file"),
    (["base", "add", "./base", "--id", "my base"], 2, "invalid", "id", "can't be a base's id"),
    # Datasets.
    (train("--data", f"{MISSING}.jsonl"), 3, "not_found", "data", "check the path of the dataset"),
    (train("--data", "~nobody-of-that-name/x.jsonl"), 3, "not_found", "data", "check the path of the dataset"),
    (train("--data", "base"), 2, "invalid_data", "data", "is a folder"),
    (train("--data", "empty.jsonl"), 2, "invalid_data", "data", "is empty; give rows of"),
    (train("--data", "bad-lines.jsonl"), 2, "invalid_data", "data", "line 2 has no `completion`; line 4 is not a JSON"),
    (train("--eval-data", "empty.jsonl"), 2, "invalid_data", "eval_data", "is empty"),
    (["data", "add", "mixed.jsonl"], 2, "invalid_data", "data", "line 2"),
    # Values.
    (train("--rank", "0"), 2, "invalid", "rank", "--rank can't be 0; use a whole number from 1 to 1024"),
    (train("--rank", "x"), 2, "invalid", "rank", "--rank can't be 'x'; use a whole number"),
    (train("--targets", "nope"), 2, "invalid_targets", "targets", "name some of these as targets: q_proj, v_proj"),
    (train("--targets", "q_proj; v"), 2, "invalid", "targets", "names separated by commas"),
    (train("--config", "unknown.yaml"), 2, "invalid", "rnak", "there is no option 'rnak'; did you mean rank?"),
    (train("--config", "false.yaml"), 2, "invalid", "rank", "false.yaml: rank can't be False"),
    (train("--config", "nan.yaml"), 2, "invalid", "lr", "nan.yaml: lr can't be nan"),
    (train("--config", "not.yaml"), 2, "invalid", "config", "can't be read as YAML in line 2"),
    (train("--config", f"{MISSING}.yaml"), 3, "not_found", "config", "check --config"),
    (["train", "new-adapter"], 2, "invalid", "base", "needs --base"),
    # Combinations.
    (["combine", "mix", "code-review@v1"], 2, "invalid", "parents", "write it as code-review@v1=0.5"),
    (["combine", "mix", "code-review@v1=half"], 2, "invalid", "parents", "'half' is not a number"),
    (["combine", "mix", "=0.5"], 2, "invalid", "parents", "'=0.5' names no version before its weight"),
    (["combine", "mix", "code-review@v1=nan"], 2, "invalid", "parents", "'nan', which is not a number"),
    (["combine", "mix", f"{MISSING}@v1=1"], 3, "not_found", "adapter", "adapterctl list"),
    # The command line itself.
    (["lst"], 2, "invalid", None, "did you mean 'list'?"),
    (["pull"], 2, "invalid", "ref", "adapterctl pull --help"),
    (["list", "--limt", "3"], 2, "invalid", None, "adapterctl list --help"),
    (["compat", "code-review"], 2, "invalid", "engine", "--engine is missing; use vllm, sglang, "),
    # Adapters from elsewhere.
    (["push", f"./{MISSING}", "new-adapter", "--base", "./base"], 3, "not_found", "path", "save_pretrained"),
    (["push", "./pickled", "new-adapter", "--base", "./base"], 2, "invalid", "path", "adapterctl convert pickled"),
    (["push", "./ia3", "new-adapter", "--base", "./base"], 2, "invalid", "path", "does not describe a LoRA adapter"),
    (["push", "./endless", "new-adapter", "--base", "./base"], 2, "invalid", "exclude_modules", "--expand-patterns"),
    (["push", "./zero", "new-adapter", "--base", "./base"], 7, "verification", None, "this adapter changes nothing"),
    # Folders.
    (["pull", "code-review", "-o", "foreign"], 4, "conflict", "to", "no pull wrote (precious.txt)"),
    (["pull", "code-review", "-o", "good.jsonl"], 4, "conflict", "to", "is not a folder"),
    (["merge", "code-review", "-o", "foreign"], 4, "conflict", "to", "choose a new folder"),
    (["verify", "./foreign"], 3, "not_found", "folder", "it was not written by a pull"),
    (["pull", "code-review", "--base", "./cut-weights"], 2, "invalid_base", "base", "not a complete safetensors file"),
]  # fmt: skip


@pytest.fixture(scope="module")
def before(place: Place) -> object:
    """What is there before the first case; it is so after each."""
    return place.state()


@pytest.mark.parametrize(("args", "status", "code", "param", "said"), CASES, ids=[" ".join(c[0])[:60] for c in CASES])
def test_what_is_wrong_is_said_in_one_document(
    args: list[str], status: int, code: str, param: str | None, said: str, place: Place, before: object
) -> None:
    done = place.run(*args, "--format", "json")
    assert done.stdout == ""
    # What is under way is said before it ends; the error is the last line.
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert (done.returncode, error["code"]) == (status, code), error
    if param is not None:
        assert error["param"] == param
    assert said in error["message"]
    assert error["message"].isprintable()
    assert len(error["message"]) < 500
    assert place.state() == before
    assert (place.folder / "work/foreign/precious.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["show", MISSING], 3, "adapterctl list"),
        (train("--data", "bad-lines.jsonl"), 2, "line 2"),
        (["show", "a\x1b[31mb"], 2, "is not an adapter name"),
        (train("--data", "\x1b]0;x\x07\u202e.jsonl"), 3, "there is no file"),
        (train("--data", os.fsdecode(b"\xff.jsonl")), 3, "there is no file"),
    ],
)
def test_a_person_reads_one_line(args: list[str], status: int, said: str, place: Place, before: object) -> None:
    done = place.run(*args)
    assert done.returncode == status
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert line.isprintable()
    assert place.state() == before


def test_without_a_command_the_help_is_the_answer(place: Place) -> None:
    done = place.run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: adapterctl")
    assert "error:" not in done.stderr


def test_empty_lists_are_empty_lists(place: Place, tmp_path: Path) -> None:
    for args in (["list"], ["base", "list"], ["data", "list"], ["jobs", "list"], ["cache", "list"]):
        done = place.run(
            *args, "--format", "json", ADAPTERCTL_URL=f"local:{tmp_path}/home", ADAPTERCTL_CACHE=f"{tmp_path}/cache"
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


# Where the registry is not.


@pytest.mark.parametrize(
    ("env", "status", "code", "said"),
    [
        ({"ADAPTERCTL_URL": "http://127.0.0.1:1"}, 9, "unavailable", "check ADAPTERCTL_URL and that the server runs"),
        ({"ADAPTERCTL_URL": "https://no-such-host.invalid"}, 9, "unavailable", "can't be reached"),
        ({"ADAPTERCTL_URL": "http://no-such-host.invalid"}, 2, "invalid", "accept that with --insecure"),
        ({"ADAPTERCTL_URL": "registry.example"}, 2, "invalid", "write https://host"),
        ({"ADAPTERCTL_URL": "http://[::1"}, 2, "invalid", "write https://host"),
        ({"ADAPTERCTL_URL": "https://me:s3cret@host"}, 2, "invalid", "ADAPTERCTL_TOKEN"),
        ({"ADAPTERCTL_URL": "local:/dev/null/x"}, 9, "unavailable", "ADAPTERCTL_URL=local:DIR"),
        (
            {"ADAPTERCTL_URL": "http://127.0.0.1:1", "ADAPTERCTL_TOKEN": "s3cret\u00e9"},
            2,
            "invalid",
            "copy all of it again",
        ),
    ],
)
def test_no_registry(env: dict[str, str], status: int, code: str, said: str, place: Place) -> None:
    done = place.run("list", "--format", "json", **env)
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert (done.returncode, done.stdout, error["code"]) == (status, "", code)
    assert said in error["message"]
    assert "s3cret" not in done.stderr


class NoRegistry(Handler):
    """Some other server."""

    def do_GET(self) -> None:
        found = self.path.startswith("/api/v1/adapters")
        self.answer(200 if found else 404, b"<h1>Welcome</h1>", Content_Type="text/html")


def test_a_server_that_is_no_registry(place: Place) -> None:
    with answering(NoRegistry) as server:
        for args in (["list"], ["show", "code-review"]):
            done = place.run(*args, ADAPTERCTL_URL=server.url)
            assert done.returncode == 9
            assert "like a registry; check ADAPTERCTL_URL" in done.stderr


def test_a_token_that_is_missing_wrong_or_too_weak(place: Place, tmp_path: Path) -> None:
    with served(tmp_path / "served") as world:
        reader = world.token(Role.READER)
        for token, code in (("", "unauthenticated"), ("wrong-token", "unauthenticated"), (reader, "forbidden")):
            done = place.run(
                "base", "add", "./base", "--format", "json", ADAPTERCTL_URL=world.url, ADAPTERCTL_TOKEN=token
            )
            (line,) = done.stderr.splitlines()
            assert (done.returncode, done.stdout) == (5, "")
            assert json.loads(line)["error"]["code"] == code
            assert not token or token not in done.stderr


# Full disks.

SMALL_DISK = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({n}, {n})); os.execv(sys.argv[1], sys.argv[1:])"


def _push(place: Place) -> None:
    # Every rank of the four matrices is 32 bytes.
    write_adapter(place.folder / "big/adapter", rank=BIG_BYTES // 32 // 4)


def _pull(place: Place) -> None:
    _push(place)
    place.client.push(place.folder / "big/adapter", "big", base=place.folder / "work/base")


def _data(place: Place) -> None:
    (place.folder / "big").mkdir(exist_ok=True)
    (place.folder / "big/rows.jsonl").write_text(
        (json.dumps({"text": "x" * 1_000_000}) + "\n") * (BIG_BYTES // 1_000_000)
    )


@pytest.mark.parametrize(
    ("prepare", "args"),
    [
        (_data, ["data", "add", "../big/rows.jsonl"]),
        (_push, ["push", "../big/adapter", "huge", "--base", "./base"]),
        (_pull, ["pull", "big", "-o", "../big/pulled"]),
    ],
)
def test_a_full_disk(prepare: Callable[[Place], None], args: list[str], place: Place) -> None:
    prepare(place)
    before = place.state()
    script = SMALL_DISK.format(n=DISK_BYTES)
    command = [sys.executable, "-c", script, str(processes.BIN / "adapterctl"), *args]
    done = processes.finished(*command, env=place.env, cwd=place.folder / "work", timeout_s=60)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.returncode == 9, done.stderr
    assert "the disk is full" in done.stderr.splitlines()[-1]
    assert place.state() == before
    # Nothing half: neither in the registry's storage, nor in the cache, nor where it was pulled to.
    assert not [path for path in place.folder.rglob("*") if ".partial-" in path.name]
    assert not (place.folder / "big/pulled").exists()
    assert all(path.stat().st_size != DISK_BYTES for path in place.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(("args", "status"), [(["show", "code-review"], 0), (["show", "missing"], 3)])
def test_streams_that_are_closed(args: list[str], status: int, place: Place) -> None:
    command = [str(processes.BIN / "adapterctl"), *args, "--format", "json"]
    for closed in ("exec >&-", "exec <&- >&-", "exec <&- >&- 2>&-"):
        script = f"{closed}; exec {shlex.join(command)}"
        done = processes.finished("sh", "-c", script, env=place.env, timeout_s=60)
        assert (done.returncode, done.stdout) == (status, ""), (closed, done.stderr)
        assert "internal" not in done.stderr
