"""The audit of a file of rows before a training: which rows can't be used, are there twice or contradict others.

Its memory grows by one byte a row, by 8 for each row that repeats another, by some 4,000 for each held-out row, whose
signature is kept, and by up to 250 MB if very many rows are nearly the same. If rows are held out of the others, the
memory of a `Splitter` is added. What is kept of each row is in a scratch folder, which takes about as much as the rows
themselves and 150 bytes per row.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.formats.labels import MAX_LABELS, classes_of
from sdk.formats.rows import NAMED_ROWS, SHAPES, BadRow, Row, RowsError, judge_rows
from sdk.rows.data_files import DataFile, as_files, values_of
from sdk.rows.grams import Texts, in_most, jaccard
from sdk.rows.held_out import HeldOutRows, held_out_findings
from sdk.rows.holdout import split_unit
from sdk.rows.near import NearPair, near_rows
from sdk.rows.splitting import Splitter
from sdk.rows.spool import equal_rows
from sdk.rows.table import Noted, RowTable
from sdk.rows.texts import scripts_of
from sdk.schemas.data_audit import AuditExample, AuditFinding, DataAudit, Kind, LengthBucket
from sdk.schemas.held_out import HoldOut

if TYPE_CHECKING:
    import numpy.typing as npt

#: Told what is being done, how much more of it is done since the last call, and how much there is in all.
OnProgress = Callable[[str, int, int], object]
_TOLD_EVERY_BYTES = 1 << 20
#: How many rows, and characters of each, are sampled to find out what most rows have in common.
_SAMPLED_ROWS, _SAMPLED_CHARACTERS = 100, 2_000


def audit_rows(
    data: Path | Sequence[DataFile],
    *,
    label: str,
    columns: Mapping[str, str] | None = None,
    held_out: Path | None = None,
    held_out_label: str | None = None,
    hold_out: HoldOut | None = None,
    group_by: str | None = None,
    most_examples: int = NAMED_ROWS,
    on_progress: OnProgress | None = None,
) -> DataAudit:
    """Return the audit of the rows of a file, or of several files together.

    It also says which held-out rows are among the training rows: the held-out rows are those of the file `held_out`, or
    those that `hold_out` takes from the others. `group_by` is a column beside those of a row, if no `hold_out` names
    it. Needs numpy.

    Raises RowsError for a file in which no rows can be told apart, such as one that is not a JSON list, and
    HoldoutError.
    """
    files = as_files(data)
    group_by = group_by if hold_out is None else hold_out.by
    tell = on_progress or (lambda _doing, _count, _total: None)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="adapterctl-audit-")))

        def table_of(name: str, on_texts: Callable[[int, Texts], None] | None) -> RowTable:
            return stack.enter_context(closing(RowTable(scratch, name, most_examples=most_examples, on_texts=on_texts)))

        held, found = None, HeldOutRows()
        apart: Iterable[Row | BadRow] | None = None
        if held_out is not None:
            apart = judge_rows(values_of(as_files(held_out), columns), columns=columns)
        elif hold_out is not None:
            splitter = Splitter(hold_out)
            for row in _usable(files, columns, group_by):
                splitter.add(split_unit(row))
            out = splitter.out()
            found, apart = HeldOutRows(out), compress(_usable(files, columns, group_by), out)
        if apart is not None:
            held = table_of("held", found.learn)
            _read(apart, held, lambda _count: None)
            found.ready()
        table = table_of("rows", None if held is None else found.look)
        size_bytes = sum(file.path.stat().st_size for file in files)
        rows = _judged(files, columns, group_by)
        _read(rows, table, lambda count: tell("reading rows", count, size_bytes))
        if not table.rows + table.unusable.rows + table.empty.rows:
            raise RowsError(f"the dataset has no rows; give rows of {SHAPES}")
        repeats, complete = _repeats(
            table, most_examples, lambda steps: tell("comparing rows", size_bytes // steps, size_bytes)
        )
        findings = [*_noted(("unusable", table.unusable), ("empty", table.empty)), *_labels(table), *repeats]
        if held is not None:
            findings += _noted(("held_out_unusable", _both(held.unusable, held.empty)))
            # Rows held out of the file itself have no unknown labels: each label keeps a row in the training.
            findings += [] if held_out is None else _unknown_labels(table, held)
            findings += held_out_findings(table, held, found, most_examples=most_examples)
        findings += _noted(("control_characters", table.odd))
        return DataAudit(
            data=label,
            digest=_digest(files),
            rows=table.rows + table.unusable.rows + table.empty.rows,
            usable_rows=table.rows,
            # The name that this shape has in registered datasets.
            shape={"prompt": "prompt-completion"}.get(table.shape or "", table.shape),
            findings=findings,
            complete=complete,
            characters=table.characters,
            lengths=[LengthBucket(up_to=1 << power, rows=rows) for power, rows in sorted(table.lengths.items())],
            scripts=scripts_of(table.points()),
            held_out=held_out_label if held is not None else None,
            held_out_rows=None if held is None else held.rows,
        )


def _judged(
    files: Sequence[DataFile], columns: Mapping[str, str] | None, group_by: str | None
) -> Iterator[Row | BadRow]:
    return judge_rows(values_of(files, columns), columns=columns, group_by=group_by)


def _usable(files: Sequence[DataFile], columns: Mapping[str, str] | None, group_by: str | None) -> Iterator[Row]:
    return (row for row in _judged(files, columns, group_by) if isinstance(row, Row))


def _read(rows: Iterable[Row | BadRow], table: RowTable, tell: Callable[[int], object]) -> None:
    done = 0
    for row in rows:
        done += table.add(row)
        if done >= _TOLD_EVERY_BYTES:
            tell(done)
            done = 0
    table.flush()
    tell(done)


def _digest(files: Sequence[DataFile]) -> str:
    """Return the SHA-256 of a file; for several files, that of their digests, one on each line."""
    digests = []
    for each in files:
        with each.path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(f"{one}\n" for one in digests).encode()).hexdigest()
    )


def _noted(*noted: tuple[Kind, Noted]) -> list[AuditFinding]:
    return [AuditFinding(kind=kind, rows=one.rows, examples=one.examples) for kind, one in noted if one.rows]


def _labels(table: RowTable) -> Iterator[AuditFinding]:
    """Yield a finding if a training would refuse all rows for their labels: only one, or too many."""
    if table.labels:
        try:
            classes_of(table.labels)
        except ValueError as error:
            yield AuditFinding(kind="labels", rows=table.rows, examples=[AuditExample(rows=[], detail=str(error))])


def _unknown_labels(table: RowTable, held: RowTable) -> Iterator[AuditFinding]:
    """Yield the labels of held-out rows that no training row has."""
    unknown = [label for label in held.labels if label not in table.labels]
    if unknown and len(table.labels) <= MAX_LABELS:
        named = ", ".join(f"{label!r}" for label in unknown[:NAMED_ROWS])
        rows = sum(held.labels[label] for label in unknown)
        detail = f"have labels that no row here has: {named}"
        yield AuditFinding(kind="held_out_labels", rows=rows, examples=[AuditExample(rows=[], detail=detail)])


def _both(one: Noted, other: Noted) -> Noted:
    one.rows += other.rows
    one.examples += other.examples
    return one


def _repeats(table: RowTable, most_examples: int, tell: Callable[[int], object]) -> tuple[list[AuditFinding], bool]:
    """Return findings about rows that repeat or contradict earlier ones, and whether all near candidates were compared.

    A row that repeats another is reported once, under the closest match.
    """
    import numpy as np

    alive = np.ones(table.rows, bool)
    findings: list[AuditFinding] = []
    kinds: tuple[tuple[Kind, Any], ...] = (
        ("exact_duplicate", table.exact),
        ("normalised_duplicate", table.normalised),
    )
    for kind, column in kinds:
        groups = _Groups(table, most_examples)
        for equal in equal_rows(column, alive):
            groups.add(equal.first, equal.row)
        findings += groups.finding(kind)
        for rows in groups.rows:
            alive[rows] = False
    near = near_rows(
        table.bands,
        table.texts,
        alive,
        characters=table.characters,
        # The same prompt with another answer is a conflict.
        apart=lambda one, other: 0 != table.asked.at(one) == table.asked.at(other),
        on_step=tell,
    )
    if near.pairs:
        sampled = range(0, table.rows, max(1, table.rows // _SAMPLED_ROWS))
        usual = in_most([table.texts.at(row)[:_SAMPLED_CHARACTERS] for row in sampled])
        examples = [_near_example(table, pair, usual) for pair in near.pairs[:most_examples]]
        findings.append(AuditFinding(kind="near_duplicate", rows=len(near.pairs), examples=examples))
    groups = _Groups(table, most_examples)
    for first, row in _conflicts(table):
        groups.add(first, row)
    return [*findings, *groups.finding("conflict")], near.complete


def _near_example(table: RowTable, pair: NearPair, usual: frozenset[str]) -> AuditExample:
    detail = f"Jaccard index {pair.jaccard:.2f}"
    if usual:
        # An instruction that all rows begin with makes all of them alike.
        beside = jaccard(table.texts.at(pair.first), table.texts.at(pair.row), without=usual)
        detail += f", {beside:.2f} without what most rows have in common"
    return AuditExample(rows=[table.where(pair.first), table.where(pair.row)], detail=detail)


def _conflicts(table: RowTable) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield the first rows with a prompt, and rows that answer the same prompt differently, (n,) each."""
    for equal in equal_rows(table.asked):
        differs = _at(table.answered, equal.first) != _at(table.answered, equal.row)
        yield equal.first[differs], equal.row[differs]


def _at(column: Any, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a column's numbers at some rows."""
    import numpy as np

    found = np.zeros(len(rows), np.uint64)
    for first, chunk in column.chunks():
        inside = (rows >= first) & (rows < first + len(chunk))
        found[inside] = chunk[rows[inside] - first]
    return found


class _Groups:
    """Rows grouped by the first row that they go with; a few of the groups become examples."""

    def __init__(self, table: RowTable, most_examples: int) -> None:
        self._table, self._most = table, most_examples
        self.rows: list[npt.NDArray[Any]] = []
        self._groups: dict[int, list[int]] = {}

    def add(self, first: npt.NDArray[Any], row: npt.NDArray[Any]) -> None:
        """Add rows, (n,) each; all rows that go with one first row must come in the same call."""
        import numpy as np

        self.rows.append(row)
        for leader in np.unique(first)[: self._most].tolist():
            self._groups[leader] = row[first == leader][: self._most].tolist()
        self._groups = dict(sorted(self._groups.items())[: self._most])

    def finding(self, kind: Kind) -> list[AuditFinding]:
        """Return the finding in a list, which is empty if there are no rows."""
        count = sum(len(rows) for rows in self.rows)
        examples = [
            AuditExample(rows=[self._table.where(row) for row in (first, *rows)])
            for first, rows in self._groups.items()
        ]
        return [AuditFinding(kind=kind, rows=count, examples=examples)] if count else []
