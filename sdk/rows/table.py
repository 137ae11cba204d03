"""What the audit keeps of the rows of a file: numbers of each row and its normalised text, in a scratch folder."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.formats.labels import MAX_LABELS
from sdk.formats.rows import BadRow, Row
from sdk.rows.grams import BANDS, Texts
from sdk.rows.spool import Column, TextSpool
from sdk.rows.texts import asked_and_answered, has_odd, joined, normalised, odd_characters, row_key, said
from sdk.schemas.data_audit import AuditExample

if TYPE_CHECKING:
    import numpy.typing as npt

#: How many rows, and characters, are hashed at once.
_BATCH_ROWS, _BATCH_CHARACTERS = 8192, 1 << 19
_SALTS = (1, 2)


class Noted:
    """How often something was found, and the first few examples."""

    def __init__(self, most_examples: int) -> None:
        self._most = most_examples
        self.rows = 0
        self.examples: list[AuditExample] = []

    def note(self, where: str, detail: str | None = None) -> None:
        """Note a row."""
        self.rows += 1
        if len(self.examples) < self._most:
            self.examples.append(AuditExample(rows=[where], detail=detail))


class RowTable:
    """The rows of one file, added one by one; call `flush` after the last."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        most_examples: int,
        on_texts: Callable[[int, Texts], None] | None = None,
    ) -> None:
        def column(of: str, dtype: str = "u8") -> Column:
            return Column(folder, f"{name}.{of}", dtype)

        self.exact, self.normalised, self.asked, self.answered = map(column, ("exact", "normal", "asked", "answered"))
        self.bands = [column(f"band{number}", "u4") for number in range(BANDS)]
        self.texts = TextSpool(folder, name)
        self._numbers = column("where", "u4")
        #: Runs of rows whose names differ only in their number: the first row, and what is before and after the number.
        self._runs: list[tuple[int, str, str]] = []
        self._on_texts = on_texts
        self.unusable, self.empty, self.odd = Noted(most_examples), Noted(most_examples), Noted(most_examples)
        self.shape: str | None = None
        #: Usable rows.
        self.rows = 0
        self.characters = 0
        #: Rows by label; of the labels beyond the number that a training may have, only the first is counted.
        self.labels: Counter[str] = Counter()
        #: How many rows have at most 2^n characters, and more than 2^(n - 1), by n.
        self.lengths: Counter[int] = Counter()
        self._points: npt.NDArray[Any] | None = None
        self._batch: list[tuple[int, bytes, bytes, bytes, bytes]] = []
        self._batch_texts: list[str] = []
        self._batch_characters = 0

    def add(self, row: Row | BadRow) -> int:
        """Add a row, and return about how many bytes it has."""
        if isinstance(row, BadRow):
            (self.empty if row.empty else self.unusable).note(row.where, row.fault)
            return 64
        self.shape = row.shape
        self.rows += 1
        if row.label is not None and (row.label in self.labels or len(self.labels) <= MAX_LABELS):
            self.labels[row.label] += 1
        parts = asked_and_answered(row)
        # The text of messages includes their roles, which contain no odd characters.
        if odd := [character for part in parts if has_odd(part) for character in odd_characters(part)]:
            self.odd.note(row.where, f"has {', '.join(dict.fromkeys(odd))}")
        length = len(parts[0]) + len(parts[1])
        self.characters += length
        self.lengths[(length - 1).bit_length()] += 1
        asked, answered = normalised(parts[0]), normalised(parts[1])
        text = joined(asked, answered)
        whole = said(row)
        word, number, *of = row.where.split(" ", 2)
        if not self._runs or self._runs[-1][1:] != (word, "".join(of)):
            self._runs.append((self.rows - 1, word, "".join(of)))
        self._batch.append((int(number), whole, text.encode(), asked.encode(), answered.encode()))
        self._batch_texts.append(text)
        self._batch_characters += len(text)
        if len(self._batch) >= _BATCH_ROWS or self._batch_characters >= _BATCH_CHARACTERS:
            self.flush()
        return len(whole) + 1

    def flush(self) -> None:
        """Write what is known about the rows that were added since the last flush."""
        import numpy as np

        if not self._batch:
            return
        first = self.rows - len(self._batch)
        self._numbers.append([each[0] for each in self._batch])
        self.exact.append([row_key(each[1]) for each in self._batch])
        self.normalised.append([row_key(each[2]) for each in self._batch])
        self.asked.append([row_key(each[3]) if each[3] else 0 for each in self._batch])
        self.answered.append([row_key(each[4]) for each in self._batch])
        self.texts.append(self._batch_texts)
        texts = Texts(self._batch_texts)
        points = np.bincount(texts.codes, minlength=0x110000)
        self._points = points if self._points is None else self._points + points
        keys = np.concatenate(
            [segments.bands(salt) for segments, salt in zip((texts.grams, texts.words), _SALTS, strict=True)], axis=1
        )
        for number, band in enumerate(self.bands):
            band.append(np.ascontiguousarray(keys[:, number]))
        if self._on_texts is not None:
            self._on_texts(first, texts)
        self._batch, self._batch_texts, self._batch_characters = [], [], 0

    def where(self, row: int) -> str:
        """Return how messages name a row."""
        _, word, of = self._runs[bisect_right(self._runs, row, key=lambda run: run[0]) - 1]
        return f"{word} {self._numbers.at(row)} {of}".rstrip()

    def points(self) -> dict[int, int]:
        """Return how often each character occurs in the texts, by its code point."""
        if self._points is None:
            return {}
        return {int(point): int(self._points[point]) for point in self._points.nonzero()[0]}

    def close(self) -> None:
        """Close all files."""
        for column in (self.exact, self.normalised, self.asked, self.answered, self._numbers, *self.bands):
            column.close()
        self.texts.close()
