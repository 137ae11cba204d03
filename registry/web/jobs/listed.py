"""What one page of the list of jobs shows, and so, which changes are changes of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from registry.db.paging import read_cursor, write_cursor
from registry.jobs.lines import JobFilter, JobLine
from registry.web.jobs.feed import JobRow


def place_of(line: JobLine) -> str:
    """Return where a job is in the list, as text."""
    return write_cursor(line.place)


@dataclass
class Listed:
    """One page of the list, in a browser."""

    wanted: JobFilter
    #: The jobs that it shows, with the places of those that were added.
    shown: dict[str, tuple[datetime, str] | None]
    #: Where the last one is that may be added; None: anywhere.
    down_to: tuple[datetime, str] | None
    #: Whether new jobs are added to it: to the first page alone.
    adds: bool
    most: int

    @classmethod
    def of(cls, wanted: JobFilter, shown: Collection[str], down_to: str | None, *, adds: bool, most: int) -> Listed:
        """Return what a browser says that it shows, of which `most` jobs count. Raises Invalid."""
        place = None if down_to is None else read_cursor(down_to, (datetime, str))
        # `read_cursor` has checked that there are two.
        last = None if place is None else (place[0], place[1])
        return cls(wanted, dict.fromkeys(list(shown)[:most]), last, adds, most)

    def shows(self, line: JobLine) -> bool:
        """Whether a change of a job is one of what is shown: then it is shown from now on."""
        if line.id in self.shown:
            return True
        if not self.adds or not self.wanted.takes(line) or (self.down_to is not None and line.place < self.down_to):
            return False
        self.shown[line.id] = line.place
        if len(self.shown) > 2 * self.most:
            # The browser has dropped the first ones by now.
            kept = list(self.shown.items())[-self.most :]
            self.shown, self.down_to = dict(kept), min(place for _, place in kept if place is not None)
        return True

    def written(self, rows: list[JobRow]) -> str:
        """Return the rows as the browser gets them, the oldest first; those that aren't listed any more say so."""
        ordered = sorted(rows, key=lambda row: row.line.place)
        return "\n".join(row.html if self.wanted.takes(row.line) else row.gone for row in ordered)
