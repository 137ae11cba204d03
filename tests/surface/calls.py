"""What the command line answers over a registry in a folder and over a server, with times, names and places replaced."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from support.small import write_adapter, write_base

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = Path(__file__).parent / "commands"
#: What every command imports is imported once, here: each command is a fork.
PRELOADED = ("sdk.cli", "sdk.client", "registry.app.embedded", "registry.ops.cli", "adapterctl_entry.scripts")
#: The names of numbers that depend on the machine, and on what else it does.
MEASURED = r"\w*(?:_s|_ms|memory_bytes|measured_bytes|forecast_bytes)"
#: What differs from run to run, and what stands for it.
REPLACED = (
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00| UTC)?", "<time>"),
    (r"\d{4}-\d\d-\d\d", "<day>"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:<port>"),
    (r"actl_[\w-]+", "<secret>"),
    (r"\d+ GB free|schema \d{4}", "<size>"),
    (rf'("{MEASURED}"): ?-?\d[\d.e+-]*', r"\1: <measured>"),
    # How far a job is when somebody looks, and how often that is noted.
    (r"(?m)^(queued|waits: .*|running: .*|\w+ · .*)\n", ""),
    (r'(?m)^\{"kind":"progress".*"step":.*\n', ""),
    (r'"seq":\d+', '"seq":<number>'),
)
#: Names of jobs, tokens and records: 12, 16 or 32 hexadecimal digits that begin no digest.
IDENTS = re.compile(r"(?<!sha256:)(?<![0-9a-f.])(?:[0-9a-f]{32}|[0-9a-f]{16}|[0-9a-f]{12})(?![0-9a-f])")


class Session:
    """Commands of one user, in one folder; each answer goes into a file."""

    def __init__(self, out: Path, folder: Path, **environment: str) -> None:
        self.out, self.folder = out, folder
        self.environment = environment
        #: What braces in a command stand for.
        self.known: defaultdict[str, str] = defaultdict(lambda: "none")
        self._idents: dict[str, str] = {}
        self._numbers = itertools.count(1)
        out.mkdir()

    def run_all(self) -> None:
        """Run the commands of the file that is called as the folder of the answers, one a line."""
        for line in (COMMANDS / f"{self.out.name}.txt").read_text().splitlines():
            self.run(line)

    def run(self, line: str) -> str:
        """Run a command, with `--format json` where it has that; return its stdout."""
        words = [word.format_map(self.known) for word in shlex.split(line)]
        if _takes_format(words):
            words += ["--format", "json"]
        code, stdout, stderr = forked(words, self.folder, self.environment)
        if "read-only" in words:
            # A server learns of it within a second.
            time.sleep(2)
        if words[:2] == ["adapterctl", "train"] and code == 0:
            self.known["job"] = json.loads(stdout)["job"]
        if words[:3] == ["adapterctl", "evals", "list"] and code == 0 and json.loads(stdout):
            self.known["eval"] = json.loads(stdout)[0]["id"]
        name = "-".join(re.findall(r"[a-z]+", line)[:3])
        text = f"$ {line}\nexit {code}\n--- stdout\n{_pretty(stdout)}\n--- stderr\n{_pretty(stderr)}\n"
        (self.out / f"{next(self._numbers):03}-{name}.txt").write_text(self._plain(text))
        return stdout

    def _plain(self, text: str) -> str:
        text = text.replace(str(self.folder), "<folder>")
        for pattern, replaced in REPLACED:
            text = re.sub(pattern, replaced, text)
        return IDENTS.sub(lambda match: self._idents.setdefault(match[0], f"<id {len(self._idents) + 1}>"), text)


def record_calls(out: Path, folder: Path) -> Any:
    """Record every call into files below `out`, working in `folder`; return the server's OpenAPI document."""
    for module in PRELOADED:
        importlib.import_module(module)
    out.mkdir()
    _write_inputs(folder)
    common = {"HOME": str(folder), "ADAPTERCTL_CACHE": str(folder / "cache")}
    Session(out / "embedded", folder, ADAPTERCTL_URL=f"local:{folder}/registry", **common).run_all()
    Session(out / "worked", folder, ADAPTERCTL_URL=f"local:{folder}/worked", **common).run_all()
    server = {
        "REGISTRY_DATABASE_URL": f"sqlite:///{folder}/server.sqlite3",
        "REGISTRY_STORAGE_URL": (folder / "stored").as_uri(),
    }
    operator = Session(out / "operator", folder, **server)
    operator.run_all()
    token = operator.run("adapter-registry token create --role admin").strip()
    with _serving(folder, server) as url:
        user = Session(out / "served", folder, ADAPTERCTL_URL=url, ADAPTERCTL_TOKEN=token, **common, **server)
        user.known["url"] = url
        user.run_all()
        Session(out / "refused", folder, ADAPTERCTL_URL=url, HOME=str(folder / "nobody")).run_all()
        with urllib.request.urlopen(f"{url}/openapi.json") as answer:
            document = json.load(answer)
    Session(out / "silent", folder, ADAPTERCTL_URL=url, ADAPTERCTL_TOKEN=token, **common).run_all()
    return document


def forked(words: list[str], folder: Path, environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Run one of the scripts in a fork; return its exit code, stdout and stderr."""
    files = [folder / ".stdout", folder / ".stderr"]
    pid = os.fork()
    if pid == 0:
        _become(words, folder, environment, files)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    stdout, stderr = (file.read_text() for file in files)
    return code, stdout, stderr


def _become(words: list[str], folder: Path, environment: Mapping[str, str], files: list[Path]) -> NoReturn:
    code: Any = 99
    try:
        os.chdir(folder)
        for number, path in enumerate([Path(os.devnull), *files]):
            os.dup2(os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ |= (clean := _environment(environment))
        for name in os.environ.keys() - clean:
            del os.environ[name]
        sys.argv = words
        getattr(importlib.import_module("adapterctl_entry.scripts"), words[0].replace("-", "_"))()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException as error:  # noqa: BLE001 - a fork must not go on as its parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """A clean user's environment, in which results are the same each time."""
    bin_folder = str(Path(sys.executable).parent)
    fixed = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "80", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    return {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **fixed, **given}


def _takes_format(words: list[str]) -> bool:
    """Whether the command has `--format json`, by its own parameters."""
    module = {"adapterctl": "sdk.cli", "adapter-registry": "registry.ops.cli"}[words[0]]
    command, rest = importlib.import_module(module).cli, words[1:]
    while rest and hasattr(command, "get_command"):
        command, rest = command.get_command(None, rest[0]), rest[1:]
    options = {name for param in getattr(command, "params", ()) for name in param.opts}
    return "--format" in options and "--format" not in words


def _pretty(text: str) -> str:
    """JSON is written with sorted keys, one value a line, so that a difference shows where it is."""
    try:
        return json.dumps(json.loads(text, object_hook=_unmeasured), indent=1, sort_keys=True, ensure_ascii=False)
    except ValueError:
        return text


def _unmeasured(found: dict[str, Any]) -> dict[str, Any]:
    """A number that is named beside its values, as by `diff`, is replaced if it is a measured one."""
    if not re.fullmatch(MEASURED, str(found.get("name"))):
        return found
    return {key: "<measured>" if isinstance(value, float) else value for key, value in found.items()}


@contextmanager
def _serving(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = [sys.executable, "-c", "from adapterctl_entry.scripts import adapter_registry; adapter_registry()"]
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*script, "serve", "--port", str(port)], env=_environment(environment), stdout=log, stderr=log, cwd=folder
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(url):
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):
            return True
    except OSError:
        return False


def _write_inputs(folder: Path) -> None:
    sizes = {"vocab_size": 16, "num_hidden_layers": 1, "intermediate_size": 16}
    write_base(folder / "base", **sizes, num_attention_heads=2, num_key_value_heads=2)
    write_adapter(folder / "sql")
    write_adapter(folder / "sql2", value=0.125)
    write_adapter(folder / "wide", rank=4, use_rslora=True)
    write_adapter(folder / "bad", peft_type="IA3")
    write_adapter(folder / "tree" / "one", value=0.5)
    write_adapter(folder / "tree" / "two", value=0.75, bias="sometimes")
    write_adapter(folder / "other", value=2.0)
    (folder / "other" / "adapter_model.safetensors").write_bytes(b"no tensors")
    (folder / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": 1, "completion": "b"}\nno json\n')
    tiny = [sys.executable, str(ROOT / "examples" / "tiny" / "make.py"), str(folder)]
    subprocess.run(tiny, env=_environment({}), check=True, stdout=subprocess.DEVNULL)
