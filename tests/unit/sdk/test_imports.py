"""What is imported is not looked through for garbage meanwhile, and whoever asks for that has their collector back."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest
from support import processes

from sdk.imports import nothing_collected


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    collects = gc.isenabled()
    yield
    (gc.enable if collects else gc.disable)()


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_as_it_was(collects: bool) -> None:
    (gc.enable if collects else gc.disable)()
    frozen = gc.get_freeze_count()
    with pytest.raises(KeyError), nothing_collected():
        raise KeyError(gc.isenabled())
    assert gc.isenabled() == collects
    # The garbage of whoever imports us is found as before.
    assert gc.get_freeze_count() == frozen


#: Says how often garbage was looked for while a registry in a folder was imported.
PROGRAM = """
import gc, importlib, sys
import sdk.api.transport, sdk.config
found, importing = [], importlib.import_module
def import_and_leave(name):
    if name == "registry.errors":
        return importing(name)
    importlib.import_module = importing
    gc.callbacks.append(lambda phase, about: found.append(phase))
    importing(name)
    print(name, len(found))
    sys.exit()
importlib.import_module = import_and_leave
sdk.api.transport._embedded(sdk.config.load("local:unused"))
"""


@pytest.mark.slow
def test_a_registry_in_a_folder_is_imported_without_a_collection() -> None:
    done = processes.finished(sys.executable, "-c", PROGRAM, check=True)
    assert done.stdout == "registry.app.embedded 0\n"


def test_a_program_keeps_what_it_has_imported_out_of_collections() -> None:
    program = """
import gc, sys
from adapterctl_entry import scripts
collected = []
gc.callbacks.append(lambda phase, about: collected.append(phase) if about["generation"] == 2 else None)
with scripts._imports_of_a_program():
    import sdk.client
print(gc.isenabled(), gc.get_freeze_count() > 10_000, collected)
"""
    done = processes.finished(sys.executable, "-c", program, check=True)
    assert done.stdout == "True True []\n"
