"""Rooms of a registry in a folder: each is imported for the paths that are its own, so these must be all that it has."""

from __future__ import annotations

import sys

import pytest
from support import processes

from registry.app.rooms import ROOMS, Room, routes_of


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.views)
def test_each_route_of_a_room_lies_under_its_row(room: Room) -> None:
    paths = [route.path for route in routes_of(room)]
    assert paths
    assert [path for path in paths if not any(path == own or path.startswith(f"{own}/") for own in room.paths)] == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.views)
def test_no_row_has_a_path_that_its_room_lacks(room: Room) -> None:
    # Whatever asked for it would import the room for nothing.
    paths = [route.path for route in routes_of(room)]
    assert [own for own in room.paths if not any(path == own or path.startswith(f"{own}/") for path in paths)] == []


@pytest.mark.parametrize("module", ["registry.app.home_helper", "adapterctl_entry.scripts"])
def test_what_a_program_spares_of_collections_is_not_spared_for_who_imports_it(module: str) -> None:
    program = (
        f"import gc, {module}, sdk.imports\nwith sdk.imports.nothing_collected(): pass\nprint(gc.get_freeze_count())"
    )
    done = processes.finished(sys.executable, "-c", program, env=processes.environment(), check=True)
    assert done.stdout.strip() == "0"
