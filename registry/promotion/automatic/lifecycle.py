"""The states of what the registry does by itself about a version for an alias under one set of policies."""

from __future__ import annotations

from enum import StrEnum


class AutomaticState(StrEnum):
    """How far it got."""

    #: Jobs that score it wait or run.
    SCORING = "scoring"
    #: Something is lacking that may come: room for a job, a vote, scores that somebody else must ask for.
    WAITING = "waiting"
    #: Every score that the policies ask for is there, and no policy moves the alias by itself.
    SCORED = "scored"
    #: The alias was moved to it.
    MOVED = "moved"
    #: A rule failed, or more versions were tried on the rows than the cap allows.
    REFUSED = "refused"
    #: It could not be scored.
    FAILED = "failed"
    #: The alias has named a later version, or it is no longer ready, or the policies are others.
    OVERTAKEN = "overtaken"


#: States in which something may still happen.
OPEN = frozenset({AutomaticState.SCORING, AutomaticState.WAITING})
