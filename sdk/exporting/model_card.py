"""The README.md of what is written for others: what it was made from and how, what was read back, how to load it.

The Hub reads the front matter. Names, refs and licences come from outside: in the front matter each is a quoted scalar
in plain ASCII, in the text it is a code span, and a licence is taken over only if it looks like one.

>>> print(front_matter({"base_model": "a: b", "tags": ["lora"]}), end="")
---
"base_model": "a: b"
"tags":
- "lora"
---
>>> code("a`b"), code("x\\n# y")
('`` a`b ``', '`x␊# y`')
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sdk.formats.base_files import CARD_FILE

#: What the Hub accepts as the name of a model.
_HUB_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})/[A-Za-z0-9](?:[A-Za-z0-9._-]{0,95})")
#: How many bytes of a base's own card are read, and its lines that name a licence as the Hub does.
_MAX_CARD_BYTES = 64 * 1024
_LICENSE = re.compile(r"""^(license|license_name):[ \t]*["']?([a-z0-9][a-z0-9.+_-]{0,60})["']?[ \t]*$""", re.M)
_LICENSE_LINK = re.compile(r"""^(license_link):[ \t]*["']?(https://[A-Za-z0-9./_~%#?=&+-]{1,200})["']?[ \t]*$""", re.M)
_MOST_CHARACTERS = 300

Scalars = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True)
class Result:
    """One score, as the Hub lists it."""

    dataset: str
    metric: str
    value: float
    #: In which precision the base was held.
    precision: str


@dataclass(frozen=True)
class ModelCard:
    """A model card."""

    title: str
    #: What the base is called; it is in the front matter if it can be a name on the Hub.
    base: str | None
    #: "finetune", "quantized" or "adapter", as the Hub relates a model to its base.
    relation: str
    #: "transformers" or "peft".
    library: str
    tags: Sequence[str]
    #: What it was made from, and what was read back: a name and a value for each line.
    made: Sequence[tuple[str, str]]
    read_back: Sequence[tuple[str, str]]
    #: Lines of Python, with no name from outside in them.
    loading: Sequence[str]
    #: As `license_of` finds it.
    license: Mapping[str, str] = field(default_factory=dict)
    #: What users have to know, in sentences.
    warnings: Sequence[str] = ()
    #: What the model does, as the Hub calls it: "text-generation".
    task: str | None = None
    results: Sequence[Result] = ()


def render(card: ModelCard) -> str:
    """Return the card as Markdown under its front matter."""
    said: dict[str, str | Sequence[str]] = dict(card.license)
    if card.base is not None and _HUB_NAME.fullmatch(card.base):
        said |= {"base_model": card.base, "base_model_relation": card.relation}
    said |= {"library_name": card.library, "tags": list(card.tags)}
    if card.task is not None:
        said |= {"pipeline_tag": card.task}
    index = "" if not card.results else _model_index(card)
    lines = [front_matter(said, index), f"# {code(card.title)}", ""]
    lines += [_line(name, value) for name, value in card.made]
    if not card.license:
        lines += ["- licence: that of the base, which is not recorded"]
    if card.read_back:
        lines += ["", "## Read back", "", "What was written was read back and compared with what it should be.", ""]
        lines += [_line(name, value) for name, value in card.read_back]
    if card.results:
        lines += ["", "## Scores", "", "| rows | metric | value | base held in |", "|---|---|---|---|"]
        lines += [
            f"| {cell(one.dataset)} | {cell(one.metric)} | {one.value:.6g} | {cell(one.precision)} |"
            for one in card.results
        ]
    if card.warnings:
        lines += ["", *(f"- {code(warning)}" for warning in card.warnings)]
    lines += ["", "## Loading", "", "```python", *card.loading, "```", ""]
    return "\n".join(lines)


def front_matter(said: Scalars, more: str = "") -> str:
    """Return a block of YAML in which each text is a quoted scalar in ASCII; `more` are lines of the same kind."""
    lines = ["---"]
    for key, value in said.items():
        if isinstance(value, str):
            lines.append(f"{_quoted(key)}: {_quoted(value)}")
        else:
            lines += [f"{_quoted(key)}:", *(f"- {_quoted(each)}" for each in value)]
    return "\n".join([*lines, *([more] if more else []), "---", ""])


def _model_index(card: ModelCard) -> str:
    """Return the scores in the form that the Hub reads; a number that is none can't be written there."""
    lines = ['"model-index":', f'- "name": {_quoted(card.title)}', '  "results":']
    for one in card.results:
        if math.isfinite(one.value):
            lines += [
                f'  - "task": {{"type": {_quoted(card.task or "other")}}}',
                f'    "dataset": {{"type": {_quoted(one.dataset)}, "name": {_quoted(one.dataset)}}}',
                f'    "metrics": [{{"type": {_quoted(one.metric)}, "value": {one.value!r}}}]',
            ]
    return "\n".join(lines)


def is_hub_name(name: str) -> bool:
    """Whether a model can be called so at the Hub.

    >>> is_hub_name("org/model"), is_hub_name("model"), is_hub_name("/srv/model")
    (True, False, False)
    """
    return _HUB_NAME.fullmatch(name) is not None


def can_be_license(name: str) -> bool:
    """Whether a licence can be called so in a card.

    >>> can_be_license("apache-2.0"), can_be_license("MIT License")
    (True, False)
    """
    return _LICENSE.fullmatch(f"license: {name}") is not None


def cell(text: str) -> str:
    """Return a text for a cell of a table, in which nothing means anything."""
    return code(text).replace("|", "\\|")


def code(text: str) -> str:
    """Return a text as a code span, in which Markdown and HTML mean nothing; what can't be printed is replaced."""
    shown = "".join(_shown(letter) for letter in text[:_MOST_CHARACTERS]) or " "
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {shown} {fence}" if longest else f"{fence}{shown}{fence}"


def license_of(base: Path) -> dict[str, str]:
    """Return what a base's own card says about its licence: license, license_name and license_link, as on the Hub."""
    try:
        with (base / CARD_FILE).open("rb") as file:
            text = file.read(_MAX_CARD_BYTES).decode(errors="replace").replace("\r\n", "\n")
    except OSError:
        return {}
    matter = re.match(r"---\n(.*?)\n---(?:\n|$)", text, re.S)
    if matter is None:
        return {}
    found = dict(_LICENSE.findall(matter[1]))
    if "license" not in found:
        return {}
    return found | dict(_LICENSE_LINK.findall(matter[1]))


def _line(name: str, value: str) -> str:
    return f"- {name}: {code(value)}"


def _quoted(text: str) -> str:
    return '"' + "".join(_escaped(letter) for letter in text[:_MOST_CHARACTERS]) + '"'


def _escaped(letter: str) -> str:
    number = ord(letter)
    if letter in '"\\':
        return f"\\{letter}"
    if 0x20 <= number < 0x7F:
        return letter
    # YAML has no lone surrogates.
    if 0xD800 <= number < 0xE000:
        return "?"
    return f"\\x{number:02X}" if number < 0x100 else f"\\u{number:04X}" if number < 0x10000 else f"\\U{number:08X}"


def _shown(letter: str) -> str:
    if letter.isprintable():
        return letter
    return chr(0x2400 + ord(letter)) if ord(letter) < 0x20 else "�"
