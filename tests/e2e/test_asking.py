"""`adapterctl generate` and `chat` over real engine programs, held against plain PEFT."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import pages, tiny, torch_forks
from support.command_line import CommandLine
from support.engines import require_torch
from support.waiting import wait_until

import sdk
from sdk.asking.programs import EngineBase
from sdk.asking.residents import Resident, residents
from sdk.client import Client
from sdk.errors import InvalidInput
from sdk.pulling.cache import Cache
from sdk.pulling.leases import all_leases, lease

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

#: Another template than the base's.
TEMPLATE = "{% for m in messages %}({{ m['role'] }}) {{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}(assistant) {% endif %}"
PROMPT = "count one and two: "
TOKENS = 8


class Place(CommandLine):
    """A registry in a folder with two versions: `code-review@v1` has learnt plain prompts, `code-review@v2` conversations."""

    @property
    def cache(self) -> Cache:
        return Cache(self.folder / "cache")

    def generate(self, *args: str, **env: str) -> Any:
        return self.json("generate", *args, "--max-new-tokens", str(TOKENS), **env)

    def expected(self, adapter: str | None, text: str) -> str:
        """What plain PEFT writes after a text, greedily."""
        base, folder = self.folder / "tiny-llama", None if adapter is None else self.folder / adapter
        return str(torch_forks.call("support.served:written_after", base, folder, text, TOKENS))


def _save(folder: Path, base: Path, *, seed: int, template: str | None) -> None:
    modules = ["q_proj", "v_proj", "down_proj"]
    torch_forks.call("support.served:save_adapter", base, folder, seed=seed, r=2, target_modules=modules)
    templates = [] if template is None else [hashlib.sha256(template.encode()).hexdigest()]
    rendering = {"templates": templates, "methods": {}, "stop_ids": [], "template_date": None}
    (folder / "rendering.json").write_text(json.dumps(rendering))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


def _leave_behind(place: Place) -> str:
    """Write what a resident leaves that was killed: its record, of a process that is gone, and its lease."""
    digest = place.json("show", "code-review@v1")["digest"]
    base = EngineBase("gone", "0" * 64, "/nowhere", 1, None, None)
    gone = Resident(base.key, 2**22 - 1, "another boot/1", str(place.folder / "socket"), base, 300.0, 0.0)
    folder = place.cache.engines / base.key
    folder.mkdir(parents=True)
    (folder / "resident.json").write_text(json.dumps({**gone.__dict__, "base": base.__dict__}))
    place.ok("pull", "code-review@v1")
    lease(place.cache, digest, gone.owner)
    return gone.owner


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("asking")
    require_torch()
    base = torch_forks.call("support.tiny:save_llama", folder / "tiny-llama")
    place = Place(folder, cwd=folder, ADAPTERCTL_KEEP_WARM="120")
    for number, template in ((1, None), (2, TEMPLATE), (3, TEMPLATE)):
        _save(folder / f"v{number}", base, seed=number, template=template)
        place.ok("push", f"v{number}", "code-review", "--base", "./tiny-llama")
    place.ok("alias", "set", "code-review", "production", "v3")
    yield place
    place.run("down")


def test_commands_that_come_together_get_one_program(place: Place) -> None:
    gone = _leave_behind(place)
    answers: dict[str, Any] = {}

    def ask(ref: str) -> None:
        answers[ref] = place.generate(ref, PROMPT)

    together = [threading.Thread(target=ask, args=(ref,)) for ref in ("code-review@v1", "code-review@v2")]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    (resident,) = residents(place.cache)
    # What its predecessor has left is gone, and the folders that it has loaded are leased.
    owners = {one.owner for views in all_leases(place.cache).values() for one in views}
    assert owners == {resident.owner}
    assert owners != {gone}
    assert {name: value for name, value in answers["code-review@v1"].items() if name != "completion"} == {
        "ref": "code-review@v1",
        "prompt": PROMPT,
        "stop": "length",
        "reasoning": None,
    }
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place.cache.engines / resident.key).iterdir()}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((place.cache.engines / resident.key).stat().st_mode) == 0o700
    # Each prompt is rendered as the version's own rows were.
    assert answers["code-review@v1"]["completion"] == place.expected("v1", PROMPT)
    rendered = f"(user) {PROMPT}<|end|>(assistant) "
    assert answers["code-review@v2"]["completion"] == place.expected("v2", rendered)


def test_how_a_prompt_is_rendered_can_be_chosen(place: Place) -> None:
    assert place.generate("code-review@v2", PROMPT, "--plain")["completion"] == place.expected("v2", PROMPT)
    asked = f"<|user|>{PROMPT}<|end|>\n<|assistant|>"
    assert place.generate("code-review@v1", PROMPT, "--chat")["completion"] == place.expected("v1", asked)
    done = place.run(
        "generate", "base:tiny-llama", "-", "--plain", "--max-new-tokens", str(TOKENS), stdin=f"{PROMPT}\n"
    )
    assert done.stdout == place.expected(None, PROMPT) + "\n"
    assert f"truncated after {TOKENS} tokens" in done.stderr
    done = place.run("generate", "code-review@v1", PROMPT, "--stop", place.expected("v1", PROMPT)[0])
    assert (done.stdout, done.returncode) == ("", 0)
    assert "the answer is empty" in " ".join(done.stderr.split())


def test_the_page_s_commands_ask_as_it_says(place: Place) -> None:
    for command in pages.commands("serving.md", "ask"):
        words = command[command.index("|") + 1 :] if "|" in command else command
        # What is asked comes from the command before, or is typed.
        done = place.run(*words[1:], "--max-new-tokens", "4", stdin=PROMPT)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_a_warm_answer_asks_no_registry(place: Place) -> None:
    before = place.generate("code-review@v1", PROMPT)
    (place.folder / "home").rename(place.folder / "away")
    try:
        assert place.generate("code-review@v1", PROMPT) == before
        # It may name another version by now.
        assert "no adapter" in place.refused(3, "generate", "code-review@latest", PROMPT)
    finally:
        shutil.rmtree(place.folder / "home", ignore_errors=True)
        (place.folder / "away").rename(place.folder / "home")


def test_rows_of_a_file_are_answered_in_their_order(place: Place) -> None:
    rows = [{"prompt": f"count {word}: ", "completion": "x"} for word in tiny.WORDS]
    messages = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "x"}]
    (place.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"messages": messages}]))
    answers = place.generate("code-review@v2", "--data", "rows.jsonl")
    assert [answer["prompt"] for answer in answers] == [*(row["prompt"] for row in rows), messages[:1]]
    alone = [place.generate("code-review@v2", rows[number]["prompt"]) for number in (0, 11)]
    assert [answers[0], answers[11]] == alone
    assert answers[12]["completion"] == place.generate("code-review@v2", PROMPT)["completion"]


def test_an_answer_ends_where_the_context_does(place: Place) -> None:
    long = "one two three " * 17
    answer = place.json("generate", "code-review@v1", long, "--max-new-tokens", "1000")
    assert answer["stop"] in ("length", "stop")
    too_long = place.refused(2, "generate", "code-review@v1", long * 9)
    assert "more than the 256" in too_long
    assert "shorten the prompt" in too_long


def test_a_chat_keeps_what_was_said_on_either_side(place: Place) -> None:
    typed = f"/system be kind\n{PROMPT}\nand three\n/save talk\n/use v1\n"
    done = place.run("chat", "code-review@v2", "--against", "base:", "--max-new-tokens", "4", stdin=typed)
    assert done.returncode == 0, done.stderr
    (saved,) = [json.loads(line)["messages"] for line in (place.folder / "talk.jsonl").read_text().splitlines()]
    assert [(one["role"], one["content"]) for one in saved if one["role"] != "assistant"] == [
        ("system", "be kind"),
        ("user", PROMPT),
        ("user", "and three"),
    ]
    first = place.json("generate", "code-review@v2", PROMPT, "--max-new-tokens", "4", "--chat")["completion"]
    assert len(saved) == 5
    # The system message changes the answer.
    assert saved[2]["content"] != first
    assert " │ " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "code-review@v1 was trained on plain prompts" in done.stderr
    assert "base:tiny-llama is asked by its own chat template" in " ".join(done.stderr.split())


def test_the_sdk_gives_the_same_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(place.folder / "cache"))
    with closing(Client(place.url, cache=place.folder / "cache")) as client:
        found = client.generate("code-review@v2", [{"role": "user", "content": PROMPT}], max_new_tokens=TOKENS)
        assert found.completion == place.generate("code-review@v2", PROMPT)["completion"]
        with pytest.raises(InvalidInput, match="is not plain text"):
            client.generate("code-review@v2", [{"role": "user", "content": PROMPT}], plain=True)
        with pytest.raises(InvalidInput, match="temperature can't be"):
            client.generate("code-review@v2", PROMPT, temperature=3)
        warm = client.generate("code-review@v2", PROMPT, max_new_tokens=TOKENS, temperature=1.5, seed=3)
        again = client.generate("code-review@v2", PROMPT, max_new_tokens=TOKENS, temperature=1.5, seed=3)
        other = client.generate("code-review@v2", PROMPT, max_new_tokens=TOKENS, temperature=1.5, seed=4)
        assert warm == again
        assert warm != other
    assert sdk.generate.__name__ == "generate"


def test_no_prompt_is_written_anywhere(place: Place) -> None:
    canary = "zqcanaryz"
    place.generate("code-review@v2", canary)
    place.run("chat", "code-review@v2", stdin=f"{canary}\n")
    written = [path for path in place.folder.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert not written


def test_a_program_that_was_killed_is_replaced_and_down_ends_it(place: Place) -> None:
    (resident,) = residents(place.cache)
    (shown,) = place.json("status")
    assert (shown["part"], shown["state"], shown["pid"]) == ("engine tiny-llama", "ready", resident.pid)
    assert "holds 3 versions" in shown["message"]
    before = place.generate("code-review@v1", PROMPT)
    os.kill(resident.pid, signal.SIGKILL)
    wait_until(lambda: not resident.is_here, lambda: "it is still there")
    # The one before was started as a user starts it.
    assert place.generate("code-review@v1", PROMPT, **{torch_forks.VARIABLE: torch_forks.address()}) == before
    (other,) = residents(place.cache)
    assert other.pid != resident.pid
    assert place.json("down") == {"home": str(place.folder / ".adapterctl/stack"), "ended": ["engine tiny-llama"]}
    assert residents(place.cache) == []
    assert all_leases(place.cache) == {}
    assert not other.is_here
    # A program begins before it is known whether it is needed, and ends if it isn't.
    assert "no adapter" in place.refused(3, "generate", "nothing@v1", PROMPT)
    assert [path for path in place.cache.engines.iterdir() if path.name != "refs"] == []
    # Nothing is left to end.
    assert "there is no stack" in place.refused(3, "down")
