"""The version of this scoring: what the releases of libraries don't tell about a score."""

from __future__ import annotations

#: Increased with every change in adapterctl's own part of a score: how a loss is summed, on which tokens it is
#: computed, how rows are cut to their length, how prompts and labels are read. It is recorded with the scores, so that
#: earlier ones are neither compared with new ones nor reused.
SCORING_VERSION = 1
