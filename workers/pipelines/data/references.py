"""Rows with several references, as rows with one answer on which their loss is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.pipelines.data.rows import Row


def by_first_reference(rows: Sequence[Row]) -> tuple[list[Row], dict[int, list[str]]]:
    """Return rows of {prompt, completion}, each with its first reference, and the other references by the row's number."""
    return [_answered(row) for row in rows], {
        number: row.fields["references"][1:] for number, row in enumerate(rows) if row.shape == "references"
    }


def _answered(row: Row) -> Row:
    if row.shape != "references":
        return row
    first = row.fields["references"][0]
    fields: dict[str, Any] = {key: value for key, value in row.fields.items() if key != "references"}
    of_messages = isinstance(fields["prompt"], list)
    fields["completion"] = [{"role": "assistant", "content": first}] if of_messages else first
    return Row(row.where, "prompt", fields, row.group)
