"""How the options of a training are written: modules by name or by a pattern, numbers, and values of modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from sdk.formats.added_tokens import canonical_tokens, write_tokens
from sdk.formats.columns import canonical_columns
from sdk.formats.option_texts import canonical_numbers, parse_values, write_values
from sdk.formats.peft_patterns import unfit
from sdk.schemas.wire import BY_HAND, Wire

#: Named sets of target modules; they are resolved per architecture, and the real names are stored.
TARGET_PRESETS = ("qv", "attention", "all-linear")

#: The largest rank of a module.
MOST_RANK = 1024


@dataclass(frozen=True)
class Option:
    """What is known of a field of a spec besides its type: its other descriptions are made of it."""

    #: One line, as `--help` has it, without the default.
    help: str
    _: KW_ONLY
    #: What the default is called there; None: by its value, which is not said if it is None or false.
    default: str | None = None
    #: What stands for the value there; None: its type.
    metavar: str | None = None
    #: Whether None means that rows, base or device decide.
    resolved: bool = False
    #: Whether nothing that a worker hands in shows what it did, but its record, in which it must then be.
    alone: bool = False
    #: Whether a training that continues a version has that version's.
    kept: bool = False
    #: Whether a plan depends on it, or checks it; if it chooses another default, what that is called there.
    planned: bool | str = False
    #: What it is in a sweep if it is left out; None: as elsewhere.
    swept: str | None = None
    #: Whether losses of trainings with different values of it can't be compared.
    of_loss: bool = False
    #: Whether it says which rows there are, or as what they are read.
    of_rows: bool = False


@dataclass(frozen=True)
class ByHand:
    """What people may write for a value, as type checkers know it; its own type is what is stored."""

    types: str


def options_of(spec: type[Wire]) -> dict[str, Option]:
    """Return the options of a spec by name, in their order."""
    return {
        name: option
        for name, field in spec.model_fields.items()
        for option in field.metadata
        if isinstance(option, Option)
    }


_MODULE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,199}")
#: Characters that no list of names has, but every pattern that matches more than one name.
_PATTERN_SIGNS = frozenset("\\*+?()[]|^$")


def is_pattern(targets: str) -> bool:
    """Whether targets are one expression for whole module names, rather than a preset or a list of names."""
    return not _PATTERN_SIGNS.isdisjoint(targets)


def require_modules(value: str) -> str:
    """Return names with commas sorted, and a pattern as it is. Raises ValueError for anything else."""
    if is_pattern(value) and not set(value) & {" ", ";", "/"}:
        if found := next(unfit({"target_modules": value}), None):
            raise ValueError(
                f"the pattern {value[:80]!r} can't be used, since {found.reason}; write a simpler one, or module names"
            )
        return value
    names = value.split(",")
    for name in names:
        if not _MODULE_NAME.fullmatch(name):
            raise ValueError(
                f"{name[:80]!r} is not a module name; give one of {', '.join(TARGET_PRESETS)}, names separated by commas or one pattern"
            )
    return ",".join(sorted(set(names)))


def joined(value: Any, info: ValidationInfo) -> Any:
    """Convert a list of names or numbers, or a table of values, that a person wrote to the text with the same meaning."""
    if info.context is not BY_HAND:
        return value
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    if isinstance(value, Mapping):
        return ",".join(f"{name}={number}" for name, number in value.items())
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


#: How a file of tokens is told from tokens: it is there, or its name says that it should be.
_FILE_ENDS, _FILE_STARTS = (".txt", ".csv", ".json", ".jsonl", ".yaml"), ("./", "../", "~/")
#: As `AddedTokens`.
_MOST_FILE_BYTES = 1024 * 1024


def _lines_of_file(value: Any, info: ValidationInfo) -> Any:
    """Convert a file of tokens, or a list of them, that a person wrote to a text with a token on each line."""
    if info.context is not BY_HAND:
        return value
    if isinstance(value, (list, tuple)):
        return write_tokens(map(str, value))
    if not isinstance(value, str | Path) or "\n" in str(value):
        return value
    named = isinstance(value, Path) or value.startswith(_FILE_STARTS) or value.endswith(_FILE_ENDS)
    path = Path(value).expanduser()
    try:
        if not named and not _is_file(path):
            return value
        with path.open("rb") as file:
            text = file.read(_MOST_FILE_BYTES).decode("utf-8-sig")
    except (OSError, RuntimeError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ValueError(
            f"the file {str(value)[:200]!r} can't be read ({why}); give one with a token on each line"
        ) from None
    return write_tokens(text.splitlines())


def _is_file(path: Path) -> bool:
    """Whether a path is a file's; a text that is too long for one is not."""
    try:
        return path.is_file()
    except OSError:
        return False


def _require_names(value: str) -> str:
    if is_pattern(value):
        raise ValueError(f"{value[:80]!r} is a pattern; give names of modules, separated by commas")
    return require_modules(value)


def _within(values: dict[str, float], most: int, *, whole: bool) -> dict[str, float]:
    for name, value in values.items():
        if not 0 < value <= most or (whole and value % 1):
            kind = f"a whole number from 1 to {most}" if whole else f"a number above 0, at most {most}"
            raise ValueError(f"{name} can't be {value:g}; use {kind}")
    return values


#: A text; people may also write lists and tables with the same meaning.
OptionText = Annotated[str, Field(min_length=1, max_length=16_000), BeforeValidator(joined)]
#: If ranks were moved, a value for each module by its full name.
_ValueText = Annotated[str, Field(min_length=1, max_length=65_536), BeforeValidator(joined)]
#: "lm_head,model.norm".
ModuleNames = Annotated[OptionText, AfterValidator(_require_names)]
#: "0-3,8".
Numbers = Annotated[OptionText, AfterValidator(canonical_numbers)]
#: "q_proj=16,v_proj=4".
Ranks = Annotated[
    _ValueText, AfterValidator(lambda value: write_values(_within(parse_values(value), MOST_RANK, whole=True)))
]
#: "q_proj=16,v_proj=4.5".
Alphas = Annotated[
    _ValueText, AfterValidator(lambda value: write_values(_within(parse_values(value), 65536, whole=False)))
]
#: A column for each key of a row, in one order: "prompt=question,completion=answer".
Columns = Annotated[
    str, Field(min_length=1, max_length=2000), BeforeValidator(joined), AfterValidator(canonical_columns)
]
#: Tokens, a line end after each: "<red>\n<blue>\n".
AddedTokens = Annotated[
    str, Field(min_length=1, max_length=65_536), BeforeValidator(_lines_of_file), AfterValidator(canonical_tokens)
]
