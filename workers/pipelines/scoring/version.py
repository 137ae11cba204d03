"""Which scoring this is: what the releases of libraries don't say of a score."""

from __future__ import annotations

#: Raised with every change of what a score is made of that is adapterctl's own: how a loss is summed, which tokens it is
#: taken on, how rows are cut to their length, how prompts and labels are read. It stands with the scores, so that those of
#: before are neither compared with those of now nor taken for them.
SCORING_VERSION = 1
