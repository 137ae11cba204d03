"""Makes reports: of what their maker may see, and with a note of what they hold, for whom, and from when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from registry.access.audit.service import record
from registry.access.read_only.service import ReadOnlySwitch
from registry.db.database import Database
from registry.db.types import utc_now
from registry.principal import EVERYWHERE, Principal
from registry.web.document import Cell, Document, FactList
from registry.web.naming import DatasetNames, names_of_datasets
from registry.web.reports.about import Documents
from registry.web.reports.html import html_of
from registry.web.reports.markdown import markdown_of
from registry.web.reports.query import ReportQuery
from sdk.schemas.reports import ReportView
from sdk.version import VERSION

#: How many of what was asked for the trail names.
_MOST_NAMED = 20


@dataclass(frozen=True, eq=False)
class ReportWriter:
    """The service."""

    _db: Database
    _documents: Documents
    _read_only: ReadOnlySwitch

    def make(self, asked: ReportQuery, *, who: Principal) -> ReportView:
        """Return a report. One with rows is written into the audit trail before anybody gets it.

        Raises InvalidName, InvalidRef, NotFound, Invalid; ReadOnly for one with rows while nothing may be written.
        """
        if asked.rows:
            self._read_only.require_off()
        # The moment before anything is read: nothing in it is older than what it says.
        made_at = utc_now()
        document = self._documents.about(asked, who=who)
        with self._db.read() as session:
            names = names_of_datasets(session, document.datasets, who)
        about = about_report(document, names, who=who, made_at=made_at)
        text = html_of(document, about) if asked.format == "html" else markdown_of(document, about)
        if document.rows:
            self._note(asked, document, who)
        return ReportView(title=document.title, format=asked.format, text=text, rows=document.rows, made_at=made_at)

    def _note(self, asked: ReportQuery, document: Document, who: Principal) -> None:
        after = {
            "of": asked.of[:_MOST_NAMED],
            "rows": document.rows,
            "datasets": sorted(document.datasets)[:_MOST_NAMED],
        }
        with self._db.write() as session:
            for namespace in sorted(document.namespaces):
                record(session, who, "report.make", namespace, document.title, after=after)


def about_report(document: Document, names: DatasetNames, *, who: Principal, made_at: datetime) -> FactList:
    """Return what stands above a report: what it holds, for whose eyes it is, and from when."""
    rows = "no rows of any dataset"
    if document.rows:
        of = ", ".join(names[digest] for digest in sorted(document.datasets))
        rows = f"{document.rows} {'row or sample' if document.rows == 1 else 'rows or samples'} of {of}, with prompts and answers"
    spaces = [_space(one) for one in sorted(document.namespaces)]
    whose = f"who may read {' and '.join(spaces)}" + (", and these datasets" if document.rows else "")
    facts = [
        ("Holds", Cell(f"{document.holds}; {rows}")),
        ("For", Cell(f"{whose}; think before you send it to anybody else")),
        (
            "As of",
            Cell(
                f"{made_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; what was scored, moved or archived later is not in it"
            ),
        ),
        ("Made for", Cell(f"{who.name}, by adapterctl {VERSION}")),
    ]
    if document.named:
        facts.insert(3, ("Meant then", Cell(", ".join(f"{name} was {ref}" for name, ref in document.named.items()))))
    return FactList(facts)


def _space(namespace: str) -> str:
    if namespace == EVERYWHERE:
        return "the whole registry"
    return "names without a namespace" if namespace == "-" else f"the namespace {namespace}"
