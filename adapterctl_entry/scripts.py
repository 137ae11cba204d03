"""The three console scripts. Each looks first whether something hides the packages that it is about to import."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from adapterctl_entry.hidden_packages import hidden_package


def adapterctl() -> None:
    """Run `adapterctl`."""
    _stop_where_hidden()
    with _imports_of_a_program():
        from sdk.cli import main

    main()


def adapter_registry() -> None:
    """Run `adapter-registry`."""
    _stop_where_hidden()
    with _imports_of_a_program():
        from registry.ops.entry import main

    main()


def adapter_worker() -> None:
    """Run `adapter-worker`."""
    _stop_where_hidden()
    with _imports_of_a_program():
        from workers.entry.cli import main

    main()


def _imports_of_a_program() -> AbstractContextManager[None]:
    from sdk.imports import begin_program, nothing_collected

    begin_program()
    return nothing_collected()


def _stop_where_hidden() -> None:
    told = hidden_package()
    if told is not None:
        sys.stderr.write(f"error: {told}\n")
        sys.exit(9)
