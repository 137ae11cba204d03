"""Writes the tables of options in docs/training-options.md and docs/sweeps.md, from what a spec says of its fields.

PYTHONPATH=tests python -m support.option_tables
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import sdk
from sdk.cli.support.spec_options import shown_value
from sdk.schemas.codes import plain_type, range_of
from sdk.schemas.field_comments import field_comments
from sdk.schemas.held_out import HoldoutFields
from sdk.schemas.option_types import options_of
from sdk.schemas.sweeps import SweepFields
from sdk.schemas.template_fields import TemplateFields
from sdk.schemas.training import TrainingSpec
from sdk.schemas.vocabulary_fields import VocabularyFields
from sdk.schemas.wire import Wire

PAGE = Path(sdk.__file__).parents[1] / "docs" / "training-options.md"
SWEEPS = PAGE.with_name("sweeps.md")
#: The first option of how it is trained; those before it say what is trained.
_FIRST_OF_HOW = "loss_on"
_BEGIN, _END = "<!-- {}: written by tests/support/option_tables.py -->\n", "<!-- end of {} -->"


def written(page: str) -> str:
    """Return the page with its tables as they must be."""
    of_rows = [*TemplateFields.model_fields, *HoldoutFields.model_fields]
    added = [*VocabularyFields.model_fields]
    names = [name for name in options_of(TrainingSpec) if name not in (*of_rows, *added)]
    how = names.index(_FIRST_OF_HOW)
    page = _replaced(page, "what is trained", [*names[:how], *added])
    return _replaced(page, "how it is trained", [*names[how:], *of_rows])


def written_of_sweeps(page: str) -> str:
    """Return the page on sweeps with its table as it must be."""
    about = {name: option.help for name, option in options_of(SweepFields).items()}
    return _between(page, "options of a sweep", _table(SweepFields, about, about))


def _replaced(page: str, title: str, names: Iterable[str]) -> str:
    return _between(page, title, _table(TrainingSpec, names, field_comments(TrainingSpec)))


def _between(page: str, title: str, table: str) -> str:
    begin, end = _BEGIN.format(title), _END.format(title)
    before, _, rest = page.partition(begin)
    return before + begin + table + end + rest.partition(end)[2]


def _table(spec: type[Wire], names: Iterable[str], about: Mapping[str, str]) -> str:
    rows = (
        f"| `{name}` | {_default(spec, name)} | {_values(spec, name)} | {_marked(about[name])} |\n" for name in names
    )
    return "| option | default | values | what it is |\n|---|---|---|---|\n" + "".join(rows)


def _default(spec: type[Wire], name: str) -> str:
    option, default = options_of(spec)[name], spec.model_fields[name].default
    if option.default is not None:
        return option.default
    return f"`{default}`" if isinstance(default, str) else shown_value(default)


def _values(spec: type[Wire], name: str) -> str:
    """The range of a number, and the members of a choice."""
    field = spec.model_fields[name]
    kind = plain_type(field.annotation)
    return (
        ""
        if kind in (str, bool)
        else (range_of(field) or "").removeprefix("a ").removeprefix("number ").removeprefix("of ")
    )


def _marked(text: str) -> str:
    return re.sub(r'"([^"]+)"', r"`\1`", text).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
    SWEEPS.write_text(written_of_sweeps(SWEEPS.read_text()))
