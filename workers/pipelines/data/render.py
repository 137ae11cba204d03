"""Chat templates rendered as by transformers, but with a given date instead of today's.

A template may write the date into each conversation (Llama 3.2 and gpt-oss do). transformers takes it from the clock,
so a training would see different tokens after midnight.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.utils
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError, first_line
from workers.pipelines.sandbox import TooCostly, bounded

#: Marks around what a template declares as generated; Unicode reserves these characters for private use.
_BEGINS, _ENDS = "\U000f0002", "\U000f0003"

#: The most characters or items that `*` in a template may make, the largest exponent allowed, and the most digits of a
#: number, in bits: Python's arithmetic can't be interrupted.
_MOST_MULTIPLIED, _MOST_EXPONENT, _MOST_BITS = 1_000_000, 100, 10_000
#: What a template may take to render one conversation: memory, and processor time. Most take a thousandth of it.
SPARE_BYTES, PROCESSOR_S = 512 * 1024 * 1024, 20.0
#: The most characters that a template may make of a conversation: so many, and so many times what is in it.
_MOST_CHARACTERS, _MOST_TIMES = 1_000_000, 16

Message = Mapping[str, Any]


class TemplateRefusal(Exception):  # noqa: N818 - it is the template's word, and not always a fault
    """The template raised an error for this conversation; the message is the template's own."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text."""

    text: str
    #: Where its `{% generation %}` blocks are, in characters.
    generated: tuple[tuple[int, int], ...]
    #: Whether the template asked for the date.
    dated: bool


@dataclass(frozen=True)
class Renderer:
    """Renders conversations with the templates of one tokenizer for one day."""

    #: bos_token, eos_token and so on, by their names in templates.
    special_tokens: Mapping[str, str]
    #: None: templates that ask for the date are refused.
    day: date | None
    spare_bytes: int = SPARE_BYTES
    processor_s: float = PROCESSOR_S

    def render(
        self,
        template: str,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        prompt: bool = False,
    ) -> Rendered:
        """Render messages; with `prompt` the beginning of an answer follows them.

        Raises TemplateRefusal, and PipelineError ("data") for a template that takes more than any conversation needs: it
        is not tried on others.
        """
        asked = []

        def strftime_now(form: str) -> str:
            if self.day is None:
                raise jinja2.TemplateError("it asks for the date, but none is given")
            asked.append(form)
            return datetime(self.day.year, self.day.month, self.day.day).strftime(form)  # noqa: DTZ001 - as read

        given = {
            **self.special_tokens,
            "messages": [_aliased(message) for message in messages],
            "tools": None if tools is None else list(tools),
            "documents": None,
            "add_generation_prompt": prompt,
            "strftime_now": strftime_now,
        }
        try:
            with bounded(spare_bytes=self.spare_bytes, processor_s=self.processor_s):
                # What is constant in it is computed when it is compiled.
                text = compiled(template).render(**given)
                marked = compiled(template, marked=True).render(**given) if has_marks(template) else text
        except TooCostly as error:
            raise _refused_whole(f"{error} for one conversation") from error
        except RecursionError as error:
            raise TemplateRefusal("it calls itself endlessly") from error
        except (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise TemplateRefusal(first_line(error)) from error
        if len(text) > _MOST_CHARACTERS and len(text) > _MOST_CHARACTERS + _MOST_TIMES * len(
            json.dumps([messages, tools])
        ):
            raise _refused_whole(f"makes {len(text):,} characters of one conversation")
        unmarked, generated = _without_marks(marked)
        # If a template trims what it marked, the marks don't tell where that is.
        return Rendered(text, generated if unmarked == text else (), bool(asked))


def _refused_whole(what: str) -> PipelineError:
    return PipelineError(
        FailureReason.DATA, f"The base's chat template {what}; use another one, with --chat-template, or shorter rows."
    )


def has_marks(template: str) -> bool:
    """Whether a template marks what is generated with `{% generation %}`."""
    return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", template) is not None


def _aliased(message: Message) -> dict[str, Any]:
    """Return a message with its reasoning under both names: gpt-oss' and the other templates'."""
    if (reasoning := message.get("reasoning_content")) is None:
        return dict(message)
    return {**message, "thinking": reasoning}


def _without_marks(marked: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    parts, generated, length, start = [], [], 0, None
    for part in re.split(f"([{_BEGINS}{_ENDS}])", marked):
        if part == _BEGINS:
            start = length
        elif part == _ENDS and start is not None:
            generated.append((start, length))
            start = None
        else:
            parts.append(part)
            length += len(part)
    return "".join(parts), tuple(generated)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: its content is what a model wrote."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """Pass the block's text through `_as_is`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_as_is"), [], [], body).set_lineno(line)

    def _as_is(self, caller: Callable[[], str]) -> str:
        return caller()


class _MarkedGeneration(_Generation):
    def _as_is(self, caller: Callable[[], str]) -> str:
        return f"{_BEGINS}{caller()}{_ENDS}"


class _Namespace(jinja2.utils.Namespace):
    """Refuses attributes through which a template could reach Python's internals."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *rest = args
        for name in dict(*rest, **values):
            _require_public(name)
        jinja2.utils.Namespace.__init__(self, *rest, **values)

    def __setitem__(self, name: str, value: Any) -> None:
        _require_public(name)
        super().__setitem__(name, value)


def _require_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.TemplateRuntimeError(f"a template can't store {name!r} in a namespace")


class _Dict:
    """`dict(...)`, and nothing else of the type."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """As of dict."""
        return dict.fromkeys(*args)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Doesn't multiply texts or lists beyond what a conversation could need, and doesn't compute with huge numbers."""

    intercepted_binops = frozenset({"*", "**", "/", "//", "%"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """As in the sandbox. Raises SecurityError for results that would take too much memory."""
        if _is_huge(left) or _is_huge(right):
            raise SecurityError("it computes with numbers that have thousands of digits")
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(left) < _MOST_MULTIPLIED and abs(right) < _MOST_EXPONENT):
            raise SecurityError("it raises a number to too high a power")
        if operator == "*" and not numbers and _size(left) * _size(right) > _MOST_MULTIPLIED:
            raise SecurityError(f"it repeats a text more than {_MOST_MULTIPLIED:,} characters long")
        return super().call_binop(context, operator, left, right)


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > _MOST_BITS


def _size(value: Any) -> int:
    return value if isinstance(value, int) else len(value)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own escapes for HTML.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(maxsize=32)
def compiled(template: str, *, marked: bool = False) -> jinja2.Template:
    """Return a template in a sandbox with everything that transformers provides to templates. Raises jinja2.TemplateError."""
    return _environment(_MarkedGeneration if marked else _Generation).from_string(template)


def _environment(generation: type[_Generation]) -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise_exception, dict=_Dict(), namespace=_Namespace)
    return environment


#: Tests and filters that ask whether a name has a value.
_ASKING = ("defined", "undefined", "default", "d")


def names_read(template: str) -> frozenset[str]:
    """Return the names whose values a template takes from whoever renders it: those that it never sets, and those that it
    asks for before.

    Raises jinja2.TemplateError, RecursionError.
    """
    parsed = _environment(_Generation).parse(template)
    names = list(parsed.find_all(jinja2.nodes.Name))
    own = {name.name for name in names if name.ctx != "load"}
    tested = [node for node in parsed.find_all((jinja2.nodes.Test, jinja2.nodes.Filter)) if node.name in _ASKING]
    asked = {node.node.name for node in tested if isinstance(node.node, jinja2.nodes.Name)}
    of_macros = {name.name for name in names if name.ctx == "param"}
    return frozenset(jinja2.meta.find_undeclared_variables(parsed)) - (own - asked) - of_macros
