"""The version of this distribution. Asking the installed metadata for it takes longer than many a command."""

from __future__ import annotations

VERSION = "0.1.0"
