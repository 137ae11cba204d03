"""The functions and nouns of the module `sdk`: the client's own, of whichever client is the default."""

from __future__ import annotations

import ast
import copy
import inspect
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from support import keywords, processes

import sdk
from sdk import default_client
from sdk.default_client import OfDefaultClient
from sdk.pushing.pusher import PushKeywords, PushOptions

DELEGATES = [name for name in sdk.__all__ if isinstance(getattr(sdk, name), OfDefaultClient)]
FUNCTIONS = [name for name in DELEGATES if inspect.isfunction(getattr(sdk.Client, name))]
NOUNS = [name for name in DELEGATES if name not in FUNCTIONS]
#: What a client has that is not for the default one.
OF_ONE_CLIENT = {"call", "close", "model_card"}


@pytest.fixture(autouse=True)
def _no_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_client, "_default", None)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[sdk.Client]:
    with closing(sdk.connect(f"local:{tmp_path / 'home'}")) as client:
        yield client


def test_the_module_has_every_method_and_every_noun_of_a_client(client: sdk.Client) -> None:
    methods = {name for name, _ in inspect.getmembers(sdk.Client, inspect.isfunction) if not name.startswith("_")}
    assert set(FUNCTIONS) == methods - OF_ONE_CLIENT
    made = {name: getattr(client, name) for name, of in vars(sdk.Client).items() if isinstance(of, cached_property)}
    nouns = {name for name, value in made.items() if type(value).__module__.startswith(("sdk.api", "sdk.nouns"))}
    assert set(NOUNS) == nouns
    assert all(callable(getattr(client, name)) for name in NOUNS)


def test_type_checkers_see_what_there_is() -> None:
    (block,) = (
        node
        for node in ast.parse(Path(sdk.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    declared = {ast.unparse(node) for node in block.body if isinstance(node, ast.Assign)}
    assert declared == {"_client = Client()", *(f"{name} = _client.{name}" for name in DELEGATES)}


@pytest.mark.parametrize("name", DELEGATES)
def test_what_is_shown_of_a_function_or_a_noun_is_the_clients(name: str, client: sdk.Client) -> None:
    ours, theirs = getattr(sdk, name), getattr(client, name)
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    assert set(dir(ours)) == set(dir(theirs))
    assert inspect.signature(ours) == inspect.signature(theirs)


def test_a_call_of_a_noun_reaches_the_clients(client: sdk.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(
        client,
        "tokens",
        type("Recorder", (), {"create": staticmethod(lambda *args, **given: seen.update(given, args=args))}),
    )
    sdk.tokens.create("ci", {"-": "reader"}, days=3)
    assert seen == {"args": ("ci", {"-": "reader"}), "days": 3}


def test_looking_at_a_function_makes_no_client() -> None:
    assert not hasattr(sdk.push, "_pytestfixturefunction")
    assert (repr(sdk.push), sdk.push.__name__) == ("<push of the default client>", "push")
    assert copy.copy(sdk.push).__name__ == "push"
    assert default_client._default is None


def test_threads_that_come_first_together_get_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(4)

    class Slow:
        def get(self) -> Slow:
            return self

    def made() -> Slow:
        together.wait(60)
        return Slow()

    monkeypatch.setattr("sdk.client.Client", made)
    with ThreadPoolExecutor(4) as pool:
        used = [asked.result() for asked in [pool.submit(sdk.get) for _ in range(4)]]
    assert {id(each) for each in used} == {id(default_client._default)}


def test_what_was_connected_meanwhile_stays_the_default_one(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = type("Connected", (), {"get": staticmethod(lambda: "connected")})()

    def made() -> object:
        monkeypatch.setattr(default_client, "_default", connected)
        return object()

    monkeypatch.setattr("sdk.client.Client", made)
    assert sdk.get() == "connected"
    assert default_client._default is connected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_passes_on_what_it_is_given(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def method(*args: Any, **kwargs: Any) -> str:
        bound = inspect.signature(getattr(sdk.Client, name)).bind(None, *args, **kwargs)
        seen.update(list(bound.arguments.items())[1:])
        return "answered"

    monkeypatch.setattr(default_client, "_default", type("Recorder", (), {name: staticmethod(method)})())
    function = getattr(sdk, name)
    parameters = list(inspect.signature(getattr(sdk.Client, name)).parameters.values())[1:]
    given = {each.name: f"a {each.name}" for each in parameters if each.kind is not each.VAR_KEYWORD}
    more = {each.name: {"rank": 4} for each in parameters if each.kind is each.VAR_KEYWORD}
    first = [given[each.name] for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
    others = {each.name: given[each.name] for each in parameters if each.kind is each.KEYWORD_ONLY}
    others |= dict.fromkeys(["rank"], 4) if more else {}
    assert function(*first, **others) == "answered"
    assert seen == given | more


def test_the_keywords_of_specs_are_written_from_their_fields() -> None:
    assert keywords.FILE.read_text() == keywords.text(), "run: PYTHONPATH=tests python -m support.keywords"


def test_the_keywords_of_a_push_are_its_options() -> None:
    ours, theirs = get_type_hints(PushKeywords), get_type_hints(PushOptions)
    assert ours == {name: hint for name, hint in theirs.items() if name != "base"}
    assert not PushKeywords.__required_keys__


def test_a_misspelt_keyword_is_refused_at_run_time(tmp_path: Path) -> None:
    client = sdk.Client(f"local:{tmp_path}", cache=tmp_path / "cache")
    with pytest.raises(sdk.InvalidInput, match="rnak"):
        client.submit_training("x", base="./base", data="rows.jsonl", rnak=8)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="tgas"):
        client.push("./adapter", "x", base="./base", tgas={})  # type: ignore[call-arg]


def test_a_function_that_was_imported_follows_a_later_connect(tmp_path: Path) -> None:
    from sdk import versions

    for name in ("one", "two"):
        client = sdk.connect(f"local:{tmp_path / name}")
        with pytest.raises(sdk.NotFound):
            versions("nothing")
        assert default_client._default is client
        assert (tmp_path / name / "registry.sqlite3").is_file()
        client.close()


def test_importing_the_module_loads_next_to_nothing() -> None:
    said = (
        "import sys, sdk; from sdk import pull, submit_training; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {*'pydantic httpx click rich yaml json inspect'.split()}), "
        "[name for name in sys.modules if name.startswith('sdk.')])"
    )
    done = processes.finished(sys.executable, "-S", "-c", said, cwd=Path(sdk.__file__).parents[1])
    assert done.stdout == "[] ['sdk.default_client']\n", done.stderr


def test_a_with_block_gives_the_default_client_back(tmp_path: Path) -> None:
    with sdk.connect(f"local:{tmp_path / 'outer'}") as outer:
        with sdk.connect(f"local:{tmp_path / 'inner'}") as inner:
            assert default_client.current() is inner
            assert sdk.adapters() == []
        assert default_client.current() is outer
        with sdk.connect(f"local:{tmp_path / 'left'}"):
            last = sdk.connect(f"local:{tmp_path / 'last'}")
        # What was connected within the block stays.
        assert default_client.current() is last
        last.close()
    assert repr(outer) == f"Client(url='local:{tmp_path / 'outer'}')"


def test_a_with_block_that_fails_gives_the_default_client_back(tmp_path: Path) -> None:
    with pytest.raises(sdk.NotFound), sdk.connect(f"local:{tmp_path / 'home'}") as client:
        client.get("nothing@v1")
    assert default_client._default is None


@pytest.mark.parametrize("name", [*FUNCTIONS, "connect"])
def test_the_help_of_a_function_is_whole(name: str) -> None:
    function = sdk.connect if name == "connect" else getattr(sdk.Client, name)
    text = inspect.getdoc(function) or ""
    parts = dict(re.findall(r"^(Args|Returns|Raises|Example):+\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE))
    assert list(parts) == ["Args", "Returns", "Raises", "Example"]
    signature = inspect.signature(function)
    assert re.findall(r"^    (\w+): ", parts["Args"], re.MULTILINE) == [
        one for one in signature.parameters if one != "self"
    ]
    raised = re.findall(r"^    (\w+): ", parts["Raises"], re.MULTILINE)
    assert raised
    assert all(issubclass(getattr(sdk, one), sdk.AdapterctlError) for one in raised)
    # What the example calls can be called so; its types are looked at in tests/e2e/test_types.py.
    calls = [
        node
        for node in ast.walk(ast.parse(inspect.cleandoc(parts["Example"])))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"sdk.{name}"
    ]
    assert calls
    for call in calls:
        given = {keyword.arg: None for keyword in call.keywords if keyword.arg}
        signature.bind(*([None] if name != "connect" else []), *call.args, **given)
