"""The script `adapter-registry`: with only the base install, it says in one line which extra is missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of `registry.ops.cli`."""
    try:
        from registry.ops.cli import main as run
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: {error.name} is not installed; install the server with: pip install 'adapterctl[registry]'\n"
        )
        sys.exit(9)
    run()
