"""A few fixed texts on which two models' predictions are compared."""

from __future__ import annotations

from workers.pipelines.data.probe_texts import PROBE_TEXTS as PROBE_TEXTS
