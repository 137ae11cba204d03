"""How long an attempt at a job may run: every job has a limit."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import Invalid

#: A worker ends its attempt by itself. If it is still held this long after its time, in seconds, it is ended here: by
#: then its result has been sent, or never will be.
OVERTIME_S = 3600.0


@dataclass(frozen=True)
class TimeLimits:
    """The limits of a registry, in seconds."""

    default_s: float = 86_400.0
    most_s: float = 604_800.0

    def of_submission(self, asked_s: float | None) -> float:
        """Return how long an attempt may run. Raises Invalid for more than is allowed."""
        if asked_s is None:
            return min(self.default_s, self.most_s)
        if asked_s > self.most_s:
            raise Invalid(
                f"a timeout of {asked_s:g} s is longer than the {self.most_s:g} s that this registry allows an attempt; submit it "
                f"with --timeout {self.most_s:g}s or less; a training can continue from its last checkpoint with: adapterctl jobs retry",
                param="timeout_s",
            )
        return asked_s

    def of_job(self, timeout_s: float | None) -> float:
        """Return how long an attempt at a stored job may run; the job may be older than the limits."""
        return min(self.default_s if timeout_s is None else timeout_s, self.most_s)
