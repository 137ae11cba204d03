"""Several files of rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdk.rows.data_files import DataFile
from workers.pipelines.orders import OrderedSource


def files(tmp_path: Path, *texts: Sequence[Any]) -> tuple[DataFile, ...]:
    """A file called "a", "b" … of each of some lists of texts, or rows."""
    made = []
    for name, some in zip("abcdef", texts, strict=False):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"prompt": "say ", "completion": each} if isinstance(each, str) else each for each in some]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made.append(DataFile(path, name))
    return tuple(made)


def mixture(files: Sequence[DataFile], weights: Sequence[float | None] | None = None) -> list[OrderedSource]:
    """Files as an order names them."""
    several = zip(files, weights or [None] * len(files), strict=True)
    return [OrderedSource(path=file.path, name=file.name, weight=weight) for file, weight in several]
