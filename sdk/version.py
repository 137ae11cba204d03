"""The version of this distribution. Reading it from the installed metadata takes longer than many commands do."""

from __future__ import annotations

VERSION = "0.1.0"
