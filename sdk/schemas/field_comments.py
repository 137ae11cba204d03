"""The comments over the fields of a record, so that each field is described only once.

>>> from sdk.schemas.training import TrainingSpec
>>> field_comments(TrainingSpec)["grad_accum"]
'Forward passes summed into one optimiser step.'
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache

from sdk.schemas.wire import Wire


def field_comments(model: type[Wire]) -> dict[str, str]:
    """The `#:` comments of a class and those that it inherits from, by field; none if their source isn't available."""
    ancestry = reversed(model.__mro__)
    return {name: said for one in ancestry if issubclass(one, Wire) for name, said in _own_comments(one).items()}


@cache
def _own_comments(model: type[Wire]) -> dict[str, str]:
    try:
        lines = inspect.getsource(model).splitlines()
    except (OSError, TypeError):
        return {}
    (body,) = ast.parse(textwrap.dedent("\n".join(lines))).body
    found = {}
    for node in getattr(body, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above = node.lineno - 2
            comment: list[str] = []
            while above > 0 and lines[above].strip().startswith("#:"):
                comment.insert(0, lines[above].strip().removeprefix("#:").strip())
                above -= 1
            if comment:
                found[node.target.id] = " ".join(comment)
    return found
