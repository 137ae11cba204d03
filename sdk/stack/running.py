"""Whether a stack runs on this machine: for commands that would talk to another registry."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from sdk.config import user_path

#: Where `up` puts a stack unless told otherwise, and the variable that tells it.
STACK_HOME, STACK_HOME_VARIABLE = Path("~/.adapterctl/stack"), "ADAPTERCTL_STACK_HOME"


def running_stack() -> str | None:
    """Return the URL of the stack of this user, if its registry is running; None if there is none."""
    home = user_path(os.environ.get(STACK_HOME_VARIABLE) or STACK_HOME)
    # Most machines have none, so nothing is imported before that is known.
    if not (home / "stack.json").exists():
        return None
    with suppress(ImportError, OSError, ValueError):
        from sdk.stack.home import Stack

        if Stack(home).registry.pid is not None:
            url = json.loads((home / "stack.json").read_text(encoding="utf-8")).get("url")
            return url if isinstance(url, str) else None
    return None
