"""Looks whether something hides the packages of adapterctl.

`sdk`, `registry` and `workers` are names that other projects use for folders of their own. Where such a folder comes
first on Python's path, an import finds it and fails far from the cause.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("sdk", "registry", "workers")


def hidden_package(names: Sequence[str] = PACKAGES) -> str | None:
    """Return a sentence on the package of adapterctl that another one hides, and what to do; None where none is hidden."""
    ours = Path(__file__).parents[1]
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
