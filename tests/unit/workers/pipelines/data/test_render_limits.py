"""What a chat template may take, however it multiplies: memory, processor time and text are bounded, and it is named."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import date
from typing import Any

import pytest
from support import processes, templates

from sdk.formats.rows import Row
from workers.kinds.causes import of_status
from workers.pipelines.data.render import Renderer, TemplateRefusal
from workers.pipelines.data.tokenise import tokenise
from workers.pipelines.errors import PipelineError
from workers.pipelines.sandbox import TooCostly, bounded

DAY = date(2026, 3, 4)
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
#: Little enough that a test is quick, and much more than any of these conversations needs.
LIMITED = Renderer({}, DAY, spare_bytes=48 * 2**20, processor_s=0.3)

#: Ways to make a gigabyte and more of a few letters, none of which is `*`.
LARGE = {
    "ljust": "{{ 'a'.ljust(10**9) }}",
    "rjust": "{{ 'a'.rjust(messages | length * 10**9) }}",
    "center": "{{ 'a'.center(10**9) }}",
    "the filter center": "{{ messages[0].content | center(10**9) }}",
    "zfill": "{{ '1'.zfill(10**9) }}",
    "%": "{{ '%1000000000d' % 1 }}",
    "% of rows": "{{ ('%' ~ messages | length ~ '000000000d') % 1 }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "the filter format": "{{ '%1000000000s' | format('a') }}",
    "~": "{% set n = namespace(t='a') %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}",
    "+": "{% set n = namespace(t='a') %}{% for i in range(40) %}{% set n.t = n.t + n.t %}{% endfor %}{{ n.t }}",
    "+ of lists": "{% set n = namespace(t=[1]) %}{% for i in range(40) %}{% set n.t = n.t + n.t %}{% endfor %}{{ n.t | length }}",
    "replace": "{% set n = namespace(t='aa') %}{% for i in range(9) %}{% set n.t = n.t.replace('a', n.t) %}{% endfor %}",
    "join": "{% set t = 'a'.ljust(100000) %}{{ range(100000) | join(t) }}",
    "indent": "{{ ('a\\n' * 500000) | indent(10000) }}",
    "expandtabs": "{{ ('\\t' * 1000000).expandtabs(1000) }}",
    "tojson": "{{ [[1]] | tojson(indent=10**9) }}",
    "batch": "{{ [1] | batch(10**9, 0) | list }}",
    "what is written": "{% for i in range(100000) %}{{ messages[0].content.ljust(100000) }}{% endfor %}",
    "recursion": "{% macro m(t) %}{{ m(t ~ t) }}{% endmacro %}{{ m('a' * 1000) }}",
}
LONG = {
    "loops": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "loops that catch": "{% for a in range(100000) %}{% for b in range(100000) %}{{ x is defined }}{% endfor %}{% endfor %}",
    "comments": "{% set t = '<!---->' * 140000 %}{% for a in range(100) %}{% set u = t | striptags %}{% endfor %}",
}
NUMBERS = {
    "*": "{% set n = namespace(x=99**99) %}{% for i in range(40) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "% of numbers": "{% set x = ('f' * 100000) | int(base=16) %}{{ x % (x // 3) }}",
    "/": "{% set x = ('f' * 100000) | int(base=16) %}{{ x / 7 }}",
}


#: Renders the templates that it is given, in a process in which no other thread runs out of memory meanwhile.
RENDERING = """
import json, sys
from datetime import date
from workers.pipelines.data.render import Renderer, TemplateRefusal
from workers.pipelines.errors import PipelineError
templates, messages = json.load(sys.stdin)
limited = Renderer({}, date(2026, 3, 4), spare_bytes=48 * 2**20, processor_s=0.3)
found = {}
for name, template in templates.items():
    try:
        found[name] = [None, repr(limited.render(template, messages))]
    except PipelineError as error:
        found[name] = [error.reason, str(error)]
    except TemplateRefusal as error:
        found[name] = ["refused", str(error)]
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def rendered() -> dict[str, tuple[str | None, str]]:
    given = json.dumps([LARGE | LONG | NUMBERS, MESSAGES])
    done = processes.finished(sys.executable, "-c", RENDERING, stdin=given, timeout_s=300, check=True)
    return {name: (reason, message) for name, (reason, message) in json.loads(done.stdout).items()}


@pytest.mark.parametrize("hostile", LARGE)
def test_memory_that_a_template_takes_is_bounded(hostile: str, rendered: dict[str, tuple[str | None, str]]) -> None:
    reason, message = rendered[hostile]
    assert reason == "data"
    assert "chat template takes more than 48 MiB of memory" in message


@pytest.mark.parametrize("hostile", LONG)
def test_processor_time_that_a_template_takes_is_bounded(
    hostile: str, rendered: dict[str, tuple[str | None, str]]
) -> None:
    reason, message = rendered[hostile]
    assert reason == "data"
    assert "chat template takes more than 0.3 s of processor time" in message


@pytest.mark.parametrize("hostile", NUMBERS)
def test_numbers_that_a_template_computes_with_are_bounded(
    hostile: str, rendered: dict[str, tuple[str | None, str]]
) -> None:
    reason, message = rendered[hostile]
    assert reason == "refused"
    assert "numbers that have thousands of digits" in message


def test_text_that_a_template_makes_is_bounded_by_what_it_is_made_of() -> None:
    usual = Renderer({}, DAY)
    many = "{% for i in range(20) %}{{ 'a'.ljust(100000) }}{% endfor %}"
    with pytest.raises(PipelineError, match="makes 2,000,000 characters of one conversation"):
        usual.render(many, MESSAGES)
    long = [{"role": "user", "content": "a" * 200_000}]
    assert len(usual.render("{{ messages[0].content * 5 }}{{ messages[0].content * 5 }}", long).text) == 2_000_000


def test_limits_are_those_of_before_once_a_template_is_rendered() -> None:
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)
    before = [resource.getrlimit(kind) for kind in kinds], signal.getsignal(signal.SIGPROF)
    for template in ("{{ messages[0].content }}", LARGE["ljust"], LONG["loops"], "{{ 1 // 0 }}"):
        with suppress(PipelineError, TemplateRefusal):
            LIMITED.render(template, MESSAGES)
        assert ([resource.getrlimit(kind) for kind in kinds], signal.getsignal(signal.SIGPROF)) == before
        assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    # What a process takes outside of a block isn't bounded by it.
    assert len(bytearray(64 * 2**20)) == 64 * 2**20


def test_a_costly_template_ends_the_job_at_its_first_row() -> None:
    tokenizer = templates.new_tokenizer_of("qwen3")
    tokenizer.chat_template = LARGE["ljust"]
    rows = [Row(f"line {n}", "messages", {"messages": MESSAGES}) for n in range(3)]
    with pytest.raises(PipelineError, match="The base's chat template takes more than 512 MiB of memory") as caught:
        tokenise(rows, tokenizer, max_length=64, day=DAY, loss_on="assistant")
    assert caught.value.reason == "data"


def test_a_template_that_waits_for_trl_s_own_conversations_is_bounded_there() -> None:
    tokenizer = templates.new_tokenizer_of("qwen3")
    # Not the beginning of what follows, so that TRL is asked for marks; it renders calls of tools, which are not here.
    tokenizer.chat_template = (
        "{{ messages | length }}{% for message in messages %}{{ message.content }}{% if message.tool_calls or message.role == 'tool' %}"
        "{{ 'a'.ljust(2 * 10**9) | length }}{% endif %}{% endfor %}"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PipelineError, match="doesn't show what to learn"):
        tokenise(
            [Row("line 1", "messages", {"messages": MESSAGES})], tokenizer, max_length=64, day=DAY, loss_on="assistant"
        )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20


def test_a_call_that_does_not_return_ends_the_process_and_is_named() -> None:
    program = (
        "import hashlib\nfrom workers.pipelines.sandbox import bounded\n"
        "with bounded(spare_bytes=2**30, processor_s=0.1):\n    hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGXCPU
    assert of_status(done.returncode, None).reason == "data"


def test_a_block_that_catches_everything_is_interrupted() -> None:
    def stubborn() -> Any:
        while True:
            try:
                sum(range(1000))
            except Exception:  # noqa: BLE001 - the point of it
                continue

    with (
        pytest.raises(TooCostly, match=r"takes more than 0\.1 s of processor time"),
        bounded(spare_bytes=2**26, processor_s=0.1),
    ):
        stubborn()


def test_a_block_that_is_interrupted_as_it_ends_leaves_no_limit_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    true, limits = signal.setitimer, resource.getrlimit(resource.RLIMIT_AS)

    def late(which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        if not seconds:
            signal.raise_signal(signal.SIGPROF)
        return true(which, seconds, interval)

    monkeypatch.setattr(signal, "setitimer", late)
    with bounded(spare_bytes=2**30, processor_s=60.0):
        pass
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert signal.getsignal(signal.SIGPROF) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
