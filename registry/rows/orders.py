"""What can be found out about rows, as functions of paths and plain values: they are called by name in a process apart.

Numbers of rows are given and returned in files of `<i8`, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from registry.rows.comparing.orders import pairs, values
from registry.rows.groups import BY, equal_rows, groups_of, numbered, slices
from registry.rows.judging import judge
from registry.rows.picking import page, picks
from sdk.formats.rows import Row, RowsError, judge_rows
from sdk.rows.contamination import rows_among
from sdk.rows.data_files import DataFile
from sdk.rows.holdout import HoldoutError
from sdk.rows.signature_file import SignatureFile, SplitDiffers, make_signatures
from sdk.schemas.held_out import HoldOut

NUMBERS = "<i8"


#: How many characters of a text are shown.
_SHOWN = 2000


def groups(*, path: str, column: str, rows: str, target: str, by: str) -> None:
    """Write the number of the group of each of these rows. Raises what `groups_of` raises."""
    import numpy as np

    numbers = np.fromfile(rows, NUMBERS)
    found = groups_of(Path(path), column, numbers, value_of=BY[by])
    found.numbers.astype(NUMBERS, copy=False).tofile(target)


def texts(*, path: str, columns: Mapping[str, str] | None, rows: list[int]) -> list[tuple[int, str, str]]:
    """Return the number of each of these rows that can be used, and what it asks and expects. Raises InvalidData."""
    return [(row, *asked) for row, asked in texts_of(Path(path), columns, rows).items()]


def sign(
    *,
    files: list[tuple[str, str]],
    target: str,
    columns: Mapping[str, str] | None,
    held_out: tuple[float, int, str | None] | None,
    training_digest: str | None,
) -> str | None:
    """Write the signatures of the rows of files, given as (path, name); return why there are none."""
    try:
        make_signatures(
            [DataFile(Path(path), name) for path, name in files],
            Path(target),
            columns=columns,
            how=None if held_out is None else HoldOut(*held_out),
            training_digest=training_digest,
            limits_unfolded=True,
        )
    except ImportError:
        return "its rows are Parquet, which this registry can't read"
    except (RowsError, HoldoutError, SplitDiffers) as error:
        return str(error)
    except RecursionError:
        return "some of its rows are nested too deeply"
    return None


def equal(*, signatures: str, rows: str, target: str) -> list[int] | None:
    """Write for each of these rows a number that equal rows share, and return how many rows differ, and how many of
    them equal others; None if the signatures don't have these rows.
    """
    import numpy as np

    found = equal_rows(Path(signatures), np.fromfile(rows, NUMBERS))
    if found is None:
        return None
    owners, counts = found
    owners.astype(NUMBERS, copy=False).tofile(target)
    return [len(counts), int(counts[counts > 1].sum())]


def among(*, held: str, training: list[str]) -> dict[str, int]:
    """Return how many rows are in a file of signatures, and how many of them are among those of others, by kind."""
    signatures = SignatureFile(Path(held))
    found = rows_among(signatures, map(SignatureFile, map(Path, training)))
    return {"rows": signatures.rows, **{name: int(rows.sum()) for name, rows in found._asdict().items()}}


WORK: dict[str, Callable[..., Any]] = {
    "groups": groups,
    "texts": texts,
    "sign": sign,
    "equal": equal,
    "among": among,
    "slices": slices,
    "values": values,
    "pairs": pairs,
    "judge": judge,
    "picks": picks,
    "page": page,
}


def texts_of(path: Path, columns: Mapping[str, str] | None, rows: Collection[int]) -> dict[int, tuple[str, str]]:
    """Return what was asked and expected in those of these rows that can be used, by number. Raises InvalidData."""
    wanted = sorted(rows)
    values = ((str(wanted[place]), value) for place, _, value in numbered(path, wanted, columns))
    return {int(row.where): _asked(row) for row in judge_rows(values, columns=columns) if isinstance(row, Row)}


def _asked(row: Row) -> tuple[str, str]:
    """What a row asks, and what it expects: in a conversation, the last answer that counts and the message before
    it.
    """
    fields = row.fields
    match row.shape:
        case "messages":
            return _last_answer(fields["messages"])
        case "text" | "text-label":
            return _shown(fields["text"]), _shown(str(fields.get("label", "")))
        case "choices":
            return _shown(fields["prompt"]), _shown(fields["choices"][fields["answer"]])
        case "references":
            asked, first = fields["prompt"], fields["references"][0]
            return _shown(asked) if isinstance(asked, str) else _content(asked[-1]), _shown(first)
    prompt, answer = fields["prompt"], fields["chosen" if row.shape == "preference" else "completion"]
    if isinstance(prompt, list):
        return _last_answer([*prompt, *answer])
    return _shown(prompt), _shown(answer)


def _last_answer(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The last message of an assistant that has a weight, after the message before it."""
    for place in reversed(range(len(messages))):
        if messages[place]["role"] == "assistant" and messages[place].get("weight", 1) != 0:
            return _content(messages[place - 1]) if place else "", _content(messages[place])
    return "", ""


def _content(message: Mapping[str, Any]) -> str:
    # A message that calls tools has no content.
    return _shown(message.get("content", ""))


def _shown(text: str) -> str:
    # Half of a surrogate pair can't be sent as a character.
    text = text.encode(errors="replace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
