"""What members scored on each row of an evaluation, from the files that evaluations keep."""

from __future__ import annotations

import tempfile
from pathlib import Path

from sqlalchemy import select

from registry.db.database import Database
from registry.db.stored_json import table
from registry.errors import RegistryError, Unavailable
from registry.evaluations.rows import EvaluationRows
from registry.jobs.models import Job
from registry.principal import SYSTEM
from registry.rows.service import RowReading
from registry.sweeps.choosing import NONE_COMPARED, Contest
from registry.sweeps.member_rows import MemberRows
from registry.sweeps.models import Member
from sdk.schemas.evaluation import CORPUS_METRICS


class EvaluatedMembers:
    """Reads the scores of members by row."""

    def __init__(self, db: Database, rows: EvaluationRows, reading: RowReading) -> None:
        self._db = db
        self._rows = rows
        self._reading = reading

    def of(self, contest: Contest) -> MemberRows | str:
        """Return the scores of members by row, or why they can't be compared by row, as a sentence. Raises Unavailable."""
        metric, compared = contest.request.choose, {one.number for one in contest.compared}
        if not compared:
            return NONE_COMPARED
        if metric in CORPUS_METRICS:
            return (
                f"{metric} is a score of all rows together, so settings are ordered by it, and not compared row by row"
            )
        with self._db.read() as session:
            query = select(Member.number, Job.result).join(Job, Job.id == Member.scoring)
            results = session.execute(query.where(Member.sweep == contest.sweep.id).order_by(Member.number)).all()
        found = {row.number: table(row.result).get("evaluations", [""])[0] for row in results if row.number in compared}
        if len(found) < 2:
            return "a single member has a score, so nothing is compared"
        with tempfile.TemporaryDirectory(prefix="swept-") as folder:
            try:
                targets = []
                for number, ident in found.items():
                    path = Path(folder, f"scores-{number}")
                    self._rows.copy(ident, path, who=SYSTEM)
                    targets.append((f"member {number}", ident, str(path)))
                values = self._reading.row_values(targets, metric, Path(folder))
            except Unavailable:
                raise
            except RegistryError as error:
                return f"settings are ordered by their scores, and not compared row by row: {error.message}"
        left_out = [f"{values.left_out} rows are left out, since not every member has a score of them"]
        return MemberRows(list(found), values.sums, values.masses, left_out if values.left_out else [])
