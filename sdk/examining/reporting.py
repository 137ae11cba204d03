"""Reports: asked for, and written into files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sdk.api import reports
from sdk.api.transport import Transport
from sdk.errors import FULL_DISK, InvalidInput
from sdk.examining.comparing import on_rows_of, require_given
from sdk.pushing.given_base import require_one
from sdk.schemas.reports import ReportView
from sdk.whole_files import write_whole

Form = Literal["html", "markdown"]
#: How a file is named that has a report in it.
FORMS: dict[str, Form] = {".html": "html", ".htm": "html", ".md": "markdown"}


@dataclass(frozen=True)
class WrittenReport:
    """A report, whole, as it was at a moment."""

    _view: ReportView

    @property
    def title(self) -> str:
        """What it is about."""
        return self._view.title

    @property
    def text(self) -> str:
        """The whole file, as HTML or as Markdown."""
        return self._view.text

    @property
    def rows(self) -> int:
        """How many rows and samples are in it."""
        return self._view.rows

    @property
    def made_at(self) -> datetime:
        """From when it is."""
        return self._view.made_at

    def save(self, to: str | Path) -> Path:
        """Write it whole into a file, which is replaced. Return its path. Raises InvalidInput for a path that can't be written."""
        target = Path(to)
        try:
            write_whole(target, self.text, durable=False)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise
            raise InvalidInput(
                f"{target} can't be written ({error.strerror}); choose another path", param="output"
            ) from error
        return target


def form_of(path: Path) -> Form:
    """Return how a report is written into a file of this name. Raises InvalidInput for another ending."""
    if (form := FORMS.get(path.suffix.lower())) is None:
        raise InvalidInput(f"{path} has no ending of a report; write it to FILE.html or FILE.md", param="output")
    return form


def report_on(
    transport: Transport,
    of: str | Sequence[str],
    *,
    data: str | Path | None,
    base_namespace: str | None,
    published: bool,
    **asked: Any,
) -> WrittenReport:
    """Let the registry write a report; see `Client.report`."""
    each = [of] if isinstance(of, str) else list(of)
    if not each:
        raise InvalidInput(
            "a report is about something; name an adapter, versions, sweep:ID or decision:ID", param="of"
        )
    require_given({**asked, "data": data, **dict.fromkeys(each)})
    require_one(base_namespace, published)
    asked |= {"base_namespace": base_namespace, "published": published or None}
    return WrittenReport(on_rows_of(data, each, partial(reports.make, transport, each, **asked)))
