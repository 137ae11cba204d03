"""The SDK of adapterctl under the name of its distribution: `adapterctl.NAME` is `sdk.NAME`, for every name and module.

::

    import adapterctl

    path = adapterctl.pull("code-review@production")

`sdk` is a name that other projects use too. Where a folder of that name comes first on Python's path, `import sdk` finds it,
and `import adapterctl` says which it is. Classes are those of `sdk`, also in pickles.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from adapterctl_entry.hidden_packages import hidden_package

if (_hidden := hidden_package(["sdk"])) is not None:
    raise ImportError(_hidden, name="sdk")

import sdk
from sdk import __all__ as __all__

if TYPE_CHECKING:
    # At run time each is looked up when it is used, so that this import, too, costs next to nothing.
    from sdk import *  # noqa: F403

#: No file below this name is a module: each is the one of `sdk`.
__path__ = []


class _SameModules:
    """Finds `adapterctl.NAME` as the module `sdk.NAME`, which is loaded once."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, dot, rest = name.partition(".")
        if not dot or package != __name__:
            return None
        try:
            found = importlib.import_module(f"sdk.{rest}")
        except ModuleNotFoundError as error:
            if error.name is not None and f"sdk.{rest}.".startswith(f"{error.name}."):
                return None
            raise
        return ModuleSpec(name, _Same(found), is_package=hasattr(found, "__path__"))


class _Same(Loader):
    """Gives out a module that is loaded, and leaves it as it is."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        # The import has just written its own there.
        module.__spec__ = self._spec


sys.meta_path.insert(0, _SameModules())


def __dir__() -> list[str]:
    return dir(sdk)


# Hidden from type checkers, which would otherwise accept any name of this module.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        try:
            return getattr(sdk, name)
        except AttributeError:
            raise AttributeError(f"module 'adapterctl' has no attribute {name!r}") from None
