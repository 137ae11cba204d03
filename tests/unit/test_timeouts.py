"""TimedOut is a TimeoutError, and so an OSError: no handler for a file's errors takes it on its way to the caller.

The sources are searched: a handler that would take it, around code that can raise it by name, lets an error of ours
through first, or is in the table with the reason why what it makes of it is right.
"""

from __future__ import annotations

import ast
import json
import pickle
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from sdk.errors import TimedOut, disk_explained, place_explained
from workers.kinds.causes import of_error

ROOT = Path(__file__).parents[2]
#: What takes a TimedOut without naming an error of ours, and what names it.
TAKES = {"OSError", "IOError", "EnvironmentError", "TimeoutError"}
NAMES_OURS = {"AdapterctlError", "TimedOut"}
#: Calls that can raise it: it is raised by its name, or by the code that a registry answers with.
RAISERS = {"TimedOut", "raise_for", "raise_error"}
#: Methods of the standard library that ours have the names of: what a file, a mapping or a text has is not ours.
PLAIN = set(
    re.findall(
        r"\w+",
        """get read write close open list items keys values pop append add update remove run start stop wait result send put
        join split strip encode decode exists is_dir is_file stat mkdir unlink rename replace resolve copy clear count index
        format search match group sort reverse extend insert seek tell flush fileno submit shutdown cancel done set is_set
        acquire release load loads dump dumps hexdigest digest name names next check create connect kill poll terminate""",
    )
)
#: What may answer for a registry, whatever the method is called.
REGISTRIES = {
    "registry",
    "_registry",
    "client",
    "transport",
    "_transport",
    "puller",
    "_puller",
    "_source",
    "sdk",
    "job",
    "sweep",
}
#: Where a handler may take it, and why.
RIGHT = {
    "sdk/asking/asker.py::_found": "what is remembered of a ref is a file",
    "sdk/cli/__init__.py::main": "what `_run` lets out is only what a lost terminal makes of a write",
    "sdk/gateway/door/door.py::_body": "the body of a request that comes too slowly is the door's own",
    "sdk/gateway/door/keys.py::_find": "a registry that answers too late is away, as one that doesn't answer",
    "sdk/gateway/door/renderers.py::render": "a renderer is a program beside, which is asked through a pipe",
    "sdk/gateway/door/streams.py::read_rest": "a client that sends nothing more is let go",
    "sdk/gateway/engines/child.py::start": "an engine that begins too late is ended, and that is told",
    "sdk/pulling/http.py::get": "the storage is read by http.client, which knows no errors of ours",
    "sdk/pulling/puller.py::_folder": "what is remembered of a pull is a file",
    "sdk/pushing/base_folder.py::_look_into": "the folder of a base is read",
    "sdk/rows/parquet_rows.py::parquet_rows": "a Parquet file is read",
    "sdk/stack/keeper.py::run": "whatever a part of the stack fails by, it is started again",
    "sdk/stack/local_process.py::answers": "a part that answers too late is not healthy",
    "sdk/stack/supervisor.py::run": "whatever fails, the stack goes on, and it is tried again",
    "sdk/submitting/given_data.py::objective_of_files": "a file of rows is read",
    "workers/main_memory.py::_limits": "numbers of the kernel are read, and nothing is thrown into the generator",
    "workers/pipelines/merging/plain.py::plain": "a file of tensors is read",
    "workers/pipelines/merging/writing.py::full_disk_named": "only a full disk is named, and anything else goes on",
    "workers/pipelines/merging/writing.py::_is_whole": "a file of tensors is read",
    "workers/pipelines/model/adapters.py::load_adapter": "a file of tensors is read",
    "workers/pipelines/model/classifier.py::_stored_names": "a file of tensors is read",
    "workers/pipelines/model/kept_weights.py::write": "a cache is written to, and what fails there is told",
    "workers/pipelines/model/shared_base.py::put_on": "a file of tensors is read",
    "workers/pipelines/training/inputs.py::audit": "a file of rows is read",
    "workers/serving/decoding/adapters.py::prepare": "a file of tensors is read",
    "workers/serving/door/replies.py::_send": "it is raised again",
}


@dataclass(frozen=True)
class Called:
    """A call, as its source says."""

    name: str
    #: Whether it is a method's, whose object is not looked at.
    of_object: bool
    #: Whether the object is what asks a registry.
    of_registry: bool = False


class Module:
    """A source file: what its names mean, its functions with what they call, and its handlers."""

    def __init__(self, path: Path) -> None:
        self.path = path.relative_to(ROOT).as_posix()
        self.dotted = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.imported: dict[str, tuple[str, str]] = {}
        self.calls: defaultdict[str, set[Called]] = defaultdict(set)
        self.handlers: list[tuple[str, list[ast.stmt]]] = []
        self._read(ast.parse(path.read_text()), ())

    def meant(self, name: str) -> tuple[str, str]:
        """The module and the name that a name of this one means."""
        return self.imported.get(name, (self.dotted, name))

    def _read(self, node: ast.AST, within: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            inner = within
            match child:
                case ast.FunctionDef() | ast.AsyncFunctionDef():
                    inner = (*within, child.name)
                case ast.ImportFrom(str(module), names):
                    self.imported |= {alias.asname or alias.name: (module, alias.name) for alias in names}
                case ast.Call():
                    for name in within:
                        self.calls[name] |= set(called(child))
                case ast.Try() if _takes(child.handlers):
                    self.handlers.append((within[-1] if within else "", child.body))
                case ast.With() if any(_suppresses(item.context_expr) for item in child.items):
                    self.handlers.append((within[-1] if within else "", child.body))
            self._read(child, inner)


def called(node: ast.AST) -> Iterator[Called]:
    """What a call calls; nothing of another node."""
    match node:
        case ast.Call(ast.Name(name)):
            yield Called(name, of_object=False)
        case ast.Call(ast.Attribute(of, name)):
            yield Called(name, of_object=True, of_registry=ast.unparse(of).rpartition(".")[2] in REGISTRIES)


@cache
def modules() -> list[Module]:
    packages = ("sdk", "workers", "adapterctl_entry")
    return [Module(path) for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def _raises(module: Module, call: Called, functions: set[tuple[str, str]], names: set[str]) -> bool:
    if call.name in RAISERS:
        return True
    if not call.of_object:
        return module.meant(call.name) in functions
    return call.name in names and (call.name not in PLAIN or call.of_registry)


@cache
def raising() -> tuple[set[tuple[str, str]], set[str]]:
    """The functions that can raise it, by module and name, and their names: those that raise it, then those that call them."""
    functions: set[tuple[str, str]] = set()
    names: set[str] = set()
    while more := {
        (module.dotted, name)
        for module in modules()
        for name, calls in module.calls.items()
        if (module.dotted, name) not in functions and any(_raises(module, call, functions, names) for call in calls)
    }:
        functions |= more
        names |= {name for _, name in more}
    return functions, names


def places(of: Iterable[Module]) -> Iterator[tuple[str, set[str]]]:
    """Each handler that would take it and lets no error of ours through before, as FILE::FUNCTION, with what raises it there."""
    for module in of:
        for where, body in module.handlers:
            nodes = [node for statement in body for node in ast.walk(statement)]
            found = {call.name for node in nodes for call in called(node) if _raises(module, call, *raising())}
            # A block of a caller's is around anything.
            found |= {"yield" for node in nodes if isinstance(node, ast.Yield)}
            if found:
                yield f"{module.path}::{where}", found


def _names(node: ast.expr | None) -> set[str]:
    each = node.elts if isinstance(node, ast.Tuple) else [] if node is None else [node]
    return {ast.unparse(one).rpartition(".")[2] for one in each}


def _takes(handlers: list[ast.ExceptHandler]) -> bool:
    for names in (_names(handler.type) for handler in handlers):
        if names & NAMES_OURS:
            return False
        if names & TAKES:
            return True
    return False


def _suppresses(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("suppress"):
        return False
    names = {name for arg in node.args for name in _names(arg)}
    return bool(names & TAKES) and not names & NAMES_OURS


def test_no_handler_for_files_takes_a_timeout_of_ours() -> None:
    assert {place: found for place, found in places(modules()) if place not in RIGHT} == {}
    assert set(RIGHT) == {place for place, _ in places(modules())}, "a place of the table is no longer there"


def test_an_error_that_is_looked_at_as_the_system_s_is_none_of_ours() -> None:
    # A number of the system is what a timeout of ours doesn't have.
    asked = re.compile(r"isinstance\((?!.*errno).*(?:OSError|TimeoutError)")
    files = [path for package in ("sdk", "workers") for path in (ROOT / package).rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in files if asked.search(path.read_text())}
    assert found == {"sdk/schemas/option_types.py"}
    assert of_error(TimedOut("it took too long; wait longer")).args == ("it took too long; wait longer",)


def test_such_a_handler_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
from contextlib import suppress
from sdk.submitting.job_output import follow

def takes(job):
    try:
        follow([job])
    except (ValueError, OSError):
        pass

def lets_through(job):
    try:
        follow([job])
    except AdapterctlError:
        raise
    except OSError:
        pass

def suppresses(registry):
    with suppress(TimeoutError):
        registry.get("x@v1")

def reads(path):
    try:
        path.read_text()
    except OSError:
        pass
"""
    (tmp_path / "bad.py").write_text(program)
    known = raising()
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert known[0]
    assert dict(places([Module(tmp_path / "bad.py")])) == {
        "bad.py::takes": {"follow"},
        "bad.py::suppresses": {"get"},
    }


@pytest.mark.parametrize("explained", [disk_explained("writing"), place_explained(Path("x"))])
def test_a_timeout_is_not_explained_as_a_file_s_error(explained: AbstractContextManager[None]) -> None:
    with pytest.raises(TimedOut) as caught, explained:
        raise TimedOut("job 12 has not ended in time; wait longer")
    assert (str(caught.value), caught.value.exit_code, caught.value.errno) == (
        "job 12 has not ended in time; wait longer",
        8,
        None,
    )


def test_a_timeout_is_one_of_pythons_too() -> None:
    error = TimedOut("late; wait longer", param="timeout")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, TimeoutError)
    assert not isinstance(again, ConnectionError)
    assert (again.message, again.param, again.code) == ("late; wait longer", "timeout", error.code)
    assert json.loads(again.as_json()) == {
        "error": {"code": "timeout", "message": "late; wait longer", "param": "timeout"}
    }
