"""How long an attempt at a job may run: every job has a limit."""

from __future__ import annotations

from dataclasses import dataclass

from registry.errors import Invalid

#: A worker ends its attempt by itself. One that is still held so long after its time is ended here, in seconds: by then
#: what it made has been sent, or will not be.
OVERTIME_S = 3600.0


@dataclass(frozen=True)
class TimeLimits:
    """What a registry allows, in seconds."""

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
        """Return how long an attempt at a stored job may run, which may be older than the limits."""
        return min(self.default_s if timeout_s is None else timeout_s, self.most_s)
