"""The typed calls of `sdk.api`, held against the OpenAPI document; and no other module knows a route."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import registries

ROOT = Path(__file__).parents[4]
API = ROOT / "sdk" / "api"
#: What programs and browsers ask that are not clients of ours: they watch a server, or read a stream of events.
NOT_FOR_CLIENTS = {"/metrics", "/healthz", "/readyz", "/api/v1/jobs/{}/events/stream"}
#: What the bodies are that functions of `sdk.validation` make.
MAKERS = {"version_move": "VersionMove"}
#: Parameters that every list has.
OF_PAGES = {"cursor", "limit"}


@dataclass(frozen=True)
class Call:
    """A request that a function or a method of `sdk.api` makes, as its source says."""

    function: str
    method: str
    #: With "{}" for each part that is filled in.
    path: str
    #: The source of the type that the answer is read as, such as `list[Event]`.
    reply: str
    #: The types that the body may have, by name.
    bodies: frozenset[str]
    params: frozenset[str]


def calls() -> list[Call]:
    return [call for file in sorted(API.glob("*.py")) if file.name != "transport.py" for call in _calls_of(file)]


def _calls_of(file: Path) -> Iterator[Call]:
    tree = ast.parse(file.read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    places = [(file.stem, tree.body), *((node.name, node.body) for node in classes)]
    for place, function in ((place, node) for place, body in places for node in body):
        if not isinstance(function, ast.FunctionDef):
            continue
        values = {
            target.id: value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target, value in _assigned(node)
        }
        annotations = {arg.arg: ast.unparse(arg.annotation) for arg in _arguments(function) if arg.annotation}
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            match ast.unparse(node.func):
                case "transport.call" | "self._transport.call":
                    method, path, reply = node.args
                    yield _call(f"{place}.{function.name}", method, path, reply, node, values, annotations)
                case "pages":
                    method, (path, reply) = ast.Constant("GET"), node.args[1:]
                    yield _call(f"{place}.{function.name}", method, path, reply, node, values, annotations)


def _assigned(node: ast.Assign) -> Iterator[tuple[ast.Name, ast.expr]]:
    (target,) = node.targets
    if isinstance(target, ast.Name):
        yield target, node.value
    elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
        pairs = zip(target.elts, node.value.elts, strict=True)
        yield from ((name, value) for name, value in pairs if isinstance(name, ast.Name))


def _arguments(function: ast.FunctionDef) -> list[ast.arg]:
    return [*function.args.args, *function.args.kwonlyargs]


def _call(
    function: str,
    method: ast.expr,
    path: ast.expr,
    reply: ast.expr,
    node: ast.Call,
    values: dict[str, ast.expr],
    annotations: dict[str, str],
) -> Call:
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    body = _made(given["body"], values, annotations) if "body" in given else ""
    return Call(
        function,
        ast.literal_eval(method),
        _path(_value(path, values)),
        ast.unparse(_value(reply, values)),
        frozenset(re.findall(r"\w+", body)),
        frozenset(_keys(_value(given["params"], values), annotations) if "params" in given else ()),
    )


def _made(body: ast.expr, values: dict[str, ast.expr], annotations: dict[str, str]) -> str:
    """The types that a body may have: those of an argument, or of what is built or made here."""
    match _value(body, values):
        case ast.Name(name):
            return annotations[name]
        case ast.Call(ast.Name("build"), [ast.Name(name), *_]):
            return name
        case ast.Call(ast.Name(name)):
            return MAKERS[name]
        case other:
            raise AssertionError(ast.unparse(other))


def _value(node: ast.expr, values: dict[str, ast.expr]) -> ast.expr:
    return values.get(node.id, node) if isinstance(node, ast.Name) else node


def _path(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join("{}" if isinstance(part, ast.FormattedValue) else ast.literal_eval(part) for part in node.values)
    return ast.literal_eval(node)


def _keys(node: ast.expr, annotations: dict[str, str]) -> Iterator[str]:
    assert isinstance(node, ast.Dict), ast.unparse(node)
    for key in node.keys:
        # A mapping that is passed on is looked at by its caller.
        if key is not None:
            yield ast.literal_eval(key)


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with registries.embedded(tmp_path_factory.mktemp("api") / "home") as world:
        yield world.app.openapi()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path)): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_every_route_is_called_by_one_function_with_its_method(document: dict[str, Any]) -> None:
    ours = Counter((call.method, f"/api/v1{call.path}") for call in calls())
    theirs = {key for key in operations(document) if key[1] not in NOT_FOR_CLIENTS}
    assert {key for key, count in ours.items() if count > 1} == set()
    assert set(ours) == theirs


@pytest.mark.parametrize("call", calls(), ids=lambda call: call.function)
def test_what_is_sent_and_read_is_what_the_document_says(document: dict[str, Any], call: Call) -> None:
    operation = operations(document)[call.method, f"/api/v1{call.path}"]
    known = {given["name"] for given in operation.get("parameters", []) if given["in"] == "query"}
    wanted = {given["name"] for given in operation.get("parameters", []) if given.get("required")}
    in_path = {given["name"] for given in operation.get("parameters", []) if given["in"] == "path"}
    assert call.params <= known
    assert wanted - in_path <= call.params
    if "requestBody" in operation:
        (schema,) = (content["schema"] for content in operation["requestBody"]["content"].values())
        assert schema["$ref"].rpartition("/")[2] in call.bodies
    else:
        assert not call.bodies
    answers = operation["responses"]
    schemas = [
        content.get("schema", {})
        for status, answer in answers.items()
        if status.startswith("2")
        for content in answer.get("content", {}).values()
    ]
    named = set(re.findall(r"schemas/(\w+)", str(schemas)))
    if call.function == "work.claim":
        # What a worker acts by is read strictly, and only after it is known which job it is about.
        assert named == {"Assignment"}
    elif call.reply == "type(None)":
        assert named == set()
    else:
        (reply,) = named
        # None is the answer to a question whether something has changed.
        assert call.reply.endswith(" | None") == ("304" in answers)
        assert re.sub(r"^list\[(.*)\]$| \| None$", r"\1", call.reply) == reply.removeprefix("Page_").removesuffix("_")
        assert call.reply.startswith("list[") == ("array" in str(schemas))


def test_no_other_module_knows_a_route() -> None:
    known = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for package in ("sdk", "workers")
        for file in sorted((ROOT / package).rglob("*.py"))
        if not file.is_relative_to(API)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and _is_request(node)
    ]
    assert known == []


def _is_request(node: ast.Call) -> bool:
    """Whether a call has a route among its arguments: the light pull, which may import nothing, asks by `_get`."""
    verbs = {"GET", "POST", "PUT", "PATCH", "DELETE"}
    given = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    return len(node.args) > 1 and bool(given) and given[0] in verbs and ast.unparse(node.func).endswith(".call")


def test_the_light_pull_asks_for_routes_that_there_are(document: dict[str, Any]) -> None:
    source = (ROOT / "sdk" / "pulling" / "source.py").read_text()
    asked = {
        _path(node.args[0])
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._get"
    }
    files = {"/manifests/{}/files", "/manifests/{}/signatures"}
    assert asked == {"/resolve", "/version/about", "/base", "/aliases/statements", *files}
    assert {("GET", f"/api/v1{path}") for path in asked} <= set(operations(document))
