"""How long the database keeps rows that nobody needs for ever."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lifetimes:
    """How long rows are kept, in days."""

    #: The events and the points of a job that has ended.
    events_days: float = 90.0
    #: The attempts at a job that has ended, and the job if it has no result.
    attempts_days: float = 365.0
    #: The rows that a preview has shown.
    previews_days: float = 7.0
    #: What a sweep that has ended keeps of its members: checkpoints of which no version was made, and losses by row.
    sweeps_days: float = 90.0
    #: Pushes that failed.
    failed_days: float = 30.0
    #: The rights of tokens that were revoked or have expired.
    tokens_days: float = 90.0
    #: Answers to requests with a key.
    keyed_days: float = 7.0
    #: What is known about files whose bytes were collected, and that nothing names any more.
    collected_days: float = 30.0
    #: Entries of the audit trail, once they are in a file.
    audit_days: float = 400.0
    #: The folder for these files; None: every entry stays in the database.
    audit_folder: str | None = None
