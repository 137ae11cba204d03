"""Writes `sdk/schemas/keywords.py`, the fields of specs as keywords of functions, which type checkers only read as text.

PYTHONPATH=tests python -m support.keywords
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import sdk
from sdk.formats.objectives import LossOn
from sdk.schemas.combination import CombineSpec
from sdk.schemas.evaluation import EvaluationSpec, MergeSpec, TextMetric
from sdk.schemas.optimizers import OptimizerName
from sdk.schemas.option_types import options_of
from sdk.schemas.planning import PlanChoices
from sdk.schemas.preview import PreviewRequest
from sdk.schemas.sweeps import SweepFields
from sdk.schemas.training import PLANNED, TrainingSpec
from sdk.schemas.varied_options import why_fixed
from sdk.schemas.wire import Wire

FILE = Path(sdk.__file__).parent / "schemas" / "keywords.py"
_HEAD = '''"""The fields of specs as keywords of functions, for type checkers and editors. Written by `tests/support/keywords.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict, TypeVar

from sdk.formats.objectives import LossOn
from sdk.schemas.evaluation import TextMetric
from sdk.schemas.optimizers import OptimizerName

T = TypeVar("T")
#: A value, several of them, or a text of these, such as "1,2,4" or "1e-4..1e-3:log[5]".
Several: TypeAlias = T | Sequence[T] | str
'''
#: Types that are called by their names.
_NAMED = {LossOn: "LossOn", TextMetric: "TextMetric", OptimizerName: "OptimizerName"}


def text() -> str:
    """Return what the file must have."""
    training = _hints(TrainingSpec)
    planned = {name: hint for name, hint in training.items() if name in PLANNED}
    others = {name: hint for name, hint in training.items() if name not in PLANNED}
    sweep = {name: hint for name, hint in _hints(SweepFields).items() if name in options_of(SweepFields)}
    swept = {
        **sweep,
        **{name: hint if why_fixed(name, by_loss=False) else _Several(hint) for name, hint in training.items()},
    }
    of_rows = {name: hint for name, hint in training.items() if name in PreviewRequest.model_fields}
    return _HEAD + "".join(
        (
            _class("PlanOptions", "The fields of a training that a plan depends on or checks.", planned),
            _class("TrainingOptions", "The fields of `TrainingSpec`.", others, base="PlanOptions"),
            _class(
                "SweepKeywords",
                "The fields of `SweepFields`, and those of `TrainingSpec` with one value or several.",
                swept,
            ),
            _class("PlanKeywords", "The fields of `PlanChoices`.", _hints(PlanChoices), base="PlanOptions"),
            _class("RowOptions", "The fields of a training that say how its rows are read.", of_rows),
            _class("EvaluationOptions", "The fields of `EvaluationSpec`.", _hints(EvaluationSpec)),
            _class("MergeOptions", "The fields of `MergeSpec`.", _hints(MergeSpec)),
            _class("CombineOptions", "The fields of `CombineSpec`.", _hints(CombineSpec)),
        )
    )


def _hints(spec: type[Wire]) -> dict[str, Any]:
    hints = get_type_hints(spec)
    return {name: hints[name] for name in spec.model_fields}


def _class(name: str, about: str, hints: Mapping[str, Any], *, base: str = "TypedDict") -> str:
    fields = "".join(f"    {field}: {_written(hint)}\n" for field, hint in hints.items())
    return f'\n\nclass {name}({base}, total=False):\n    """{about}"""\n\n{fields}'


@dataclass(frozen=True)
class _Several:
    """A type, of which several values may be given."""

    one: Any


def _written(hint: Any) -> str:
    if isinstance(hint, _Several):
        return f"Several[{_written(hint.one)}]"
    if hint is NoneType:
        return "None"
    if hint in _NAMED:
        return _NAMED[hint]
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(map(_written, get_args(hint)))
    if get_origin(hint) is list:
        return f"list[{_written(get_args(hint)[0])}]"
    if get_origin(hint) is Literal:
        members = (f'"{one}"' if isinstance(one, str) else repr(one) for one in get_args(hint))
        return f"Literal[{', '.join(members)}]"
    return str(hint.__name__)


if __name__ == "__main__":
    FILE.write_text(text())
