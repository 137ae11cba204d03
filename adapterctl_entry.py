"""The three console scripts. Each looks first whether something hides the packages that it is about to import.

`sdk`, `registry` and `workers` are names that other projects use for folders of their own. Where such a folder comes
first on Python's path, an import finds it and fails far from the cause. The name of this module is nobody else's, and
it needs the standard library alone.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

PACKAGES = ("sdk", "registry", "workers")


def hidden_package(names: Sequence[str] = PACKAGES) -> str | None:
    """Return a sentence on the package of adapterctl that another one hides, and what to do; None where none is hidden."""
    ours = Path(__file__).parent
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None:
            return (
                f"adapterctl's package '{name}' is missing; install it again: pip install --force-reinstall adapterctl"
            )
        found = Path(spec.origin) if spec.origin else Path(*list(spec.submodule_search_locations or [])[:1])
        place = found.parent if found.name == "__init__.py" else found
        # Files are compared, not folders: an installer may link each of them to where it keeps them.
        if not (place / "__init__.py").exists() or not (place / "__init__.py").samefile(ours / name / "__init__.py"):
            return (
                f"{place} hides adapterctl's own package '{name}'; rename it, or take {place.parent} out of PYTHONPATH "
                "or move the script that runs out of it"
            )
    return None


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
