"""Writes `sdk/schemas/training_keywords.py`, the fields of a training as keywords, which type checkers only read as text.

PYTHONPATH=tests python -m support.keywords
"""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import sdk
from sdk.schemas.option_types import options_of
from sdk.schemas.training import TrainingSpec

FILE = Path(sdk.__file__).parent / "schemas" / "training_keywords.py"
_HEAD = '''"""The fields of `TrainingSpec` as keywords of a function, for type checkers and editors. Written by
`tests/support/keywords.py`.
"""

from __future__ import annotations

from typing import Literal, TypedDict
'''
_CLASS = '''

class {name}(TypedDict, total=False):
    """{about}"""

'''


def text() -> str:
    """Return what the file must have."""
    hints, options = get_type_hints(TrainingSpec), options_of(TrainingSpec)
    planned = {name: hints[name] for name, option in options.items() if option.planned}
    others = {name: hints[name] for name in options.keys() - planned.keys()}
    plan = "The fields that a plan depends on or checks."
    return (
        _HEAD
        + _CLASS.format(name="PlanOptions", about=plan)
        + "".join(f"    {name}: {_written(planned[name])}\n" for name in planned)
        + _CLASS.replace("TypedDict", "PlanOptions").format(name="TrainingOptions", about="All fields.")
        + "".join(f"    {name}: {_written(others[name])}\n" for name in options if name in others)
    )


def _written(hint: Any) -> str:
    if hint is NoneType:
        return "None"
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(map(_written, get_args(hint)))
    if get_origin(hint) is Literal:
        members = (f'"{one}"' if isinstance(one, str) else repr(one) for one in get_args(hint))
        return f"Literal[{', '.join(members)}]"
    return str(hint.__name__)


if __name__ == "__main__":
    FILE.write_text(text())
