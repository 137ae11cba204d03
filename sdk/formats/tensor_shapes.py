"""Which names and shapes of tensors the header of a weight file can have: nobody may claim others of a base.

Everything that is computed from a base's names takes as long as these are long, deep and many.

>>> shapes_fault({"model.norm.weight": [4096]}) is None
True
>>> shapes_fault({"a" * 501: [1]})
'names a tensor of 501 letters; a name has at most 500'
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sdk.formats.safetensors import MAX_DIMENSIONS, MAX_TENSORS
from sdk.formats.safetensors_grammar import ANY_NAME, MAX_NAME_LETTERS

_NAME = re.compile(ANY_NAME.pattern.decode())
#: A header's numbers have at most 19 digits.
_MOST = 10**19


def shapes_fault(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Return what no base can have among names and shapes, as a clause that begins with "names" or "has"; None if
    nothing is.
    """
    if len(shapes) > MAX_TENSORS:
        return f"has {len(shapes)} tensors; a base may have at most {MAX_TENSORS}"
    for name, shape in shapes.items():
        if not _NAME.fullmatch(name) or ".." in name:
            if len(name) > MAX_NAME_LETTERS:
                return f"names a tensor of {len(name)} letters; a name has at most {MAX_NAME_LETTERS}"
            return f"names a tensor {name[:80]!a}, which no weight file can have; give the names in its files"
        if len(shape) > MAX_DIMENSIONS or not all(0 <= size < _MOST for size in shape):
            return f"has a tensor {name[:80]!a} of a shape that no weight file can have; give the shapes in its files"
    return None
