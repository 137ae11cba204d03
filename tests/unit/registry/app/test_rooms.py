"""Rooms of a registry in a folder: each is imported for the paths that are its own, so these must be all that it has."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from support import processes

from registry.app.pages import PAGE_ROOMS, OpenedPages, PageRoom, routes_of_pages
from registry.app.rooms import ROOMS, OpenedRooms, Room, is_below, routes_of
from sdk.version import API


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.views)
def test_each_route_of_a_room_lies_under_its_row(room: Room) -> None:
    paths = [route.path for route in routes_of(room)]
    assert paths
    assert [path for path in paths if not any(is_below(path, own) for own in room.paths)] == []


@pytest.mark.parametrize("room", [room for room in ROOMS if room.methods], ids=lambda room: room.views)
def test_each_route_of_a_room_has_a_method_of_its_row(room: Room) -> None:
    methods = [route.methods or set() for route in routes_of(room)]
    assert frozenset[str]().union(*methods) <= (room.methods or frozenset())


def test_rooms_are_opened_by_method_and_all_where_no_route_answers() -> None:
    rooms = OpenedRooms(FastAPI())
    rooms.open_for("GET", f"{API}/versions")
    assert {route.name for route in rooms.routes} >= {"list_versions"}
    assert "publish_version" not in {route.name for route in rooms.routes}
    rooms.open_for("DELETE", f"{API}/versions")
    assert {route.name for route in rooms.routes} >= {"publish_version", "submit_job"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.views)
def test_no_row_has_a_path_that_its_room_lacks(room: Room) -> None:
    # Whatever asked for it would import the room for nothing.
    paths = [route.path for route in routes_of(room)]
    assert [own for own in room.paths if not any(is_below(path, own) for path in paths)] == []


@pytest.mark.parametrize("room", PAGE_ROOMS, ids=lambda room: room.views)
def test_each_page_of_a_room_lies_under_its_row(room: PageRoom) -> None:
    paths = [route.path for route in routes_of_pages(room)]
    assert paths
    assert [path for path in paths if not any(is_below(path, own) for own in room.paths)] == []


def test_pages_are_tried_in_their_order_whichever_was_asked_for_first() -> None:
    app = FastAPI()
    pages = OpenedPages(app)
    for path in ("/ui/adapters", "/ui/adapters/summaries/v1", "/ui/jobs", "/ui/nowhere"):
        pages.open_for(path)
    opened = [route.path for route in app.router.routes if isinstance(route, APIRoute)]
    assert opened.index("/ui/adapters/{name:path}/v{number:version}") < opened.index("/ui/adapters/{name:path}")
    assert "/ui/sweeps" not in opened
    pages.open_all()
    everything = [route.path for room in PAGE_ROOMS for route in routes_of_pages(room)]
    assert [route.path for route in app.router.routes if isinstance(route, APIRoute)] == everything


FIRST_PAGE = """
import json, sys
from pathlib import Path
from registry.app.own_pages import open_embedded
from registry.app.pages import OpenedPages
from registry.web.adapters.service import AdapterPages
app = open_embedded(Path(sys.argv[1]), shows_pages=True, revives=False)
OpenedPages(app).open_for("/ui/adapters")
app.state.by_class[AdapterPages]
print(json.dumps(sorted(sys.modules)))
"""
#: What the first page of a folder's registry needs none of.
NOT_FOR_THE_FIRST_PAGE = (
    "registry.sweeps",
    "registry.jobs.service",
    "registry.lineage",
    "registry.web.reports",
    "registry.web.comparing",
    "registry.series",
    "registry.jobs.views",
    "registry.web.jobs",
    "registry.web.versions",
    "registry.promotion.gate",
    "numpy",
)


def test_the_first_page_of_a_folder_imports_what_it_needs(tmp_path: Path) -> None:
    done = processes.finished(sys.executable, "-c", FIRST_PAGE, str(tmp_path), env=processes.environment(), check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert [
        name
        for name in modules
        if any(is_below(name.replace(".", "/"), own.replace(".", "/")) for own in NOT_FOR_THE_FIRST_PAGE)
    ] == []


@pytest.mark.parametrize("module", ["registry.app.home_helper", "adapterctl_entry.scripts"])
def test_what_a_program_spares_of_collections_is_not_spared_for_who_imports_it(module: str) -> None:
    program = (  # A Python of 3.12 begins with some that are spared.
        f"import gc\nbefore = gc.get_freeze_count()\nimport {module}, sdk.imports\n"
        "with sdk.imports.nothing_collected(): pass\nprint(gc.get_freeze_count() - before)"
    )
    done = processes.finished(sys.executable, "-c", program, env=processes.environment(), check=True)
    assert done.stdout.strip() == "0"
