"""Arguments that a chat template is given besides the conversation, as in `--template-kwargs`, and how they are baked into it.

An engine that serves a model renders its template without them: so they are set at the head of the template's text.

>>> parse_kwargs('reasoning_effort="high", enable_thinking=false')
{'enable_thinking': False, 'reasoning_effort': 'high'}
>>> canonical_kwargs('reasoning_effort="high", enable_thinking=false')
'enable_thinking=false,reasoning_effort="high"'
>>> bake("{{ messages }}", {"enable_thinking": False})
'{%- set enable_thinking = false %}{#- template_kwargs #}{{ messages }}'
>>> unbake('{%- set enable_thinking = false %}{#- template_kwargs #}{{ messages }}')
('{%- set enable_thinking = false %}{#- template_kwargs #}', '{{ messages }}')
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

#: What whoever renders a template gives it: a value under one of these names would be replaced, or would break it.
GIVEN_BY_RENDERERS = frozenset({
    "messages", "tools", "documents", "add_generation_prompt", "continue_final_message",
    "strftime_now", "date_string", "current_date",
    "bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token",
    "additional_special_tokens", "raise_exception", "namespace", "dict", "range", "loop",
})  # fmt: skip
_EXAMPLE = "enable_thinking=false"
_NAME = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]{0,63})\s*=\s*")
#: How deep lists and objects may lie in each other.
_MOST_DEPTH = 8
#: Where the arguments end and the template itself begins.
_END = "{#- template_kwargs #}"
_SET = re.compile(r"\{%- set (\w+) = ((?:(?!%\}).)*) %\}")
_HEAD = re.compile(rf"(?:(?:{_SET.pattern})+{re.escape(_END)})+")


def parse_kwargs(text: str) -> dict[str, Any]:
    """Return the value of each name, sorted by name. Raises ValueError with what is wrong with the text."""
    found: dict[str, Any] = {}
    rest = text
    while True:
        begin = _NAME.match(rest)
        if begin is None:
            raise ValueError(f"{rest.strip()[:80]!a} is not NAME=JSON; write template_kwargs as {_EXAMPLE}")
        name, rest = begin[1], rest[begin.end() :]
        if name in GIVEN_BY_RENDERERS:
            raise ValueError(f"{name} is given to a chat template by whoever renders it; leave it out")
        if name in found:
            raise ValueError(f"{name} has two values in template_kwargs; give it one")
        value, rest = _value(name, rest)
        found[name] = value
        if not rest:
            return dict(sorted(found.items()))
        rest = rest[1:]


def canonical_kwargs(text: str) -> str:
    """Return arguments as they are recorded: by name and without spaces. Raises ValueError as `parse_kwargs` does."""
    return write_kwargs(parse_kwargs(text))


def write_kwargs(values: Mapping[str, Any]) -> str:
    """Return the text that says these values. Raises ValueError for one that JSON can't say."""
    try:
        return ",".join(f"{name}={_JSON.encode(value)}" for name, value in values.items())
    except (TypeError, RecursionError) as error:
        raise ValueError(f"template_kwargs has a value that JSON can't say ({error}); give texts in quotes") from None


def bake(template: str, values: Mapping[str, Any]) -> str:
    """Return a template that renders without arguments what `template` renders with these."""
    said = "".join(f"{{%- set {name} = {_literal(value)} %}}" for name, value in values.items())
    return with_head(said + _END, template) if values else template


def with_head(head: str, template: str) -> str:
    """Return a template with the head of another one, as `unbake` returns it."""
    # Blanks at the beginning of a line are not rendered before a block, nor is the line break after one.
    line = "\n" if head and template[:1].isspace() else ""
    return f"{head}{line}{template}"


def without(template: str, values: Mapping[str, Any]) -> str:
    """Return the template into which `bake` has put these values."""
    head = bake("", values)
    return template[len(head) :].removeprefix("\n") if head and template.startswith(head) else template


def unbake(template: str) -> tuple[str, str]:
    """Return the head of a template, with baked arguments, and the template itself; the head is "" if it has none."""
    before, end, original = template.rpartition(_END)
    if not end or _HEAD.fullmatch(before + end) is None:
        return "", template
    return before + end, original.removeprefix("\n")


def names_in(head: str) -> frozenset[str]:
    """Return the names that a head, as `unbake` returns it, sets."""
    return frozenset(name for name, _ in _SET.findall(head))


def said_in(template: str) -> str:
    """Say which arguments are baked into a template: "enable_thinking = false"; "" if none are."""
    return ", ".join(f"{name} = {value}" for name, value in _SET.findall(unbake(template)[0]))


def _value(name: str, text: str) -> tuple[Any, str]:
    """Return the value at the beginning of a text, and the rest: nothing, or a comma and the next argument."""
    try:
        value, end = _DECODER.raw_decode(text)
        # No file can hold half a surrogate pair.
        _JSON.encode(value).encode()
    except (ValueError, RecursionError):
        value, end = None, -1
    rest = text[end:].lstrip() if end >= 0 else ""
    if end < 0 or not (not rest or rest.startswith(",")):
        raise ValueError(
            f"the value of {name} is not JSON: {text.partition(',')[0][:80]!a}; write false, 3 or, for a text, "
            f'{name}="high"'
        )
    if _depth(value) > _MOST_DEPTH:
        raise ValueError(f"the value of {name} is nested more than {_MOST_DEPTH} deep; give a flatter one")
    return value, rest


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_number)


def _literal(value: Any) -> str:
    """Return a value as Jinja writes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        # A block would end at two braces for some engines.
        inner = ", ".join(f"{_literal(key)}: {_literal(each)}" for key, each in value.items())
        return f"{{{inner} }}" if inner.endswith("}") else f"{{{inner}}}"
    # A block ends at the first such sign.
    return json.dumps(value, ensure_ascii=False).replace("%}", "%\\u007d")
