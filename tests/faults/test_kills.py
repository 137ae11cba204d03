"""Pulling and pushing processes that are killed at any moment: nothing half is left that looks whole, and again works.

Moments on disk are counted by an audit hook in the process itself, moments on the wire by the proxy, so that a seed
names one and the same moment each time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from faults.places import BASE, Place, is_exact, leavings, make_adapter
from support import processes
from support.soak import scale

from sdk.client import Client
from sdk.errors import AdapterctlError, NotFound
from sdk.pulling.folder import verify_folder

pytestmark = pytest.mark.soak

MORTAL = Path(__file__).parent / "hooks" / "mortal"
RUNS = scale(60)


@dataclass(frozen=True)
class Extent:
    """How long a command is: in steps on disk, and in bytes of bodies on the wire."""

    steps: int
    wire_bytes: int


@dataclass(frozen=True)
class Shelf:
    """Two versions of an adapter, and where each came from."""

    place: Place
    sources: dict[str, Path]
    digests: dict[str, str]


@pytest.fixture(scope="module")
def shelf(folder: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    home = tmp_path_factory.mktemp("shelf")
    client = folder.client(home / "cache")
    sources, digests = {}, {}
    # The proxy takes its time, or everything would be in the kernel's buffers before anybody is killed.
    folder.proxy.pace_s = 0.002
    try:
        for number in (1, 2):
            source = make_adapter(home / f"source-{number}", f"kills {number}")
            version = client.push(source, "shelved", base=BASE)
            sources[version.ref], digests[version.ref] = source, version.digest
        yield Shelf(folder, sources, digests)
    finally:
        folder.proxy.pace_s = 0.0
        client.close()


class Home:
    """A user of the registry, whose processes can be killed."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place = place
        self.folder = folder
        self.user = folder / "user"
        self.cache = folder / "cache"
        self.temporary = folder / "temporary"
        for made in (self.user, self.temporary):
            made.mkdir(parents=True, exist_ok=True)
        self.target = self.user / "adapter"
        self._env = processes.environment(
            ADAPTERCTL_URL=place.world.url,
            ADAPTERCTL_TOKEN=place.token,
            ADAPTERCTL_CACHE=str(self.cache),
            HOME=str(folder),
            TMPDIR=str(self.temporary),
        )

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return processes.run("adapterctl", *args, env=self._env, timeout_s=120)

    def kill(self, *args: str, step: int = 0, wire_bytes: int = 0) -> int:
        """Run a command and kill it at a step on disk or once so many bytes have passed; return its exit status."""
        status, _ = self._mortal(args, {"MORTAL_STEP": str(step)} if step else {}, wire_bytes)
        return status

    def measure(self, *args: str) -> Extent:
        """Run a command to its good end; return how long it is."""
        status, extent = self._mortal(args, {}, 0)
        assert status == 0
        return extent

    def _mortal(self, args: tuple[str, ...], more: Mapping[str, str], wire_bytes: int) -> tuple[int, Extent]:
        proxy = self.place.proxy
        steps = self.folder / f"steps-{os.urandom(4).hex()}"
        env = {
            **self._env,
            **more,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(MORTAL), self._env.get("PYTHONPATH")))),
            "MORTAL_STEPS": str(steps),
            "MORTAL_UNDER": os.pathsep.join(str(path) for path in (self.user, self.cache, self.temporary)),
        }
        proxy.forget()
        passed = 0
        process = subprocess.Popen(
            [str(processes.BIN / "adapterctl"), *args],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def count(total: int) -> None:
            nonlocal passed
            passed = total
            if wire_bytes and total >= wire_bytes:
                process.kill()

        proxy.on_bytes = count
        try:
            status = process.wait(120)
        finally:
            process.kill()
            process.wait()
            proxy.on_bytes = None
        return status, Extent(steps.stat().st_size, passed)


def moment(seed: str, extent: Extent) -> dict[str, int]:
    """Choose when to kill: at a step on disk, or, one time in three, in the midst of the wire."""
    random = Random(f"kills {seed}")
    if random.random() < 1 / 3:
        return {"wire_bytes": random.randint(1, extent.wire_bytes)}
    return {"step": random.randint(1, extent.steps)}


# Pulling into a new folder.


@pytest.fixture(scope="module")
def pulling(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Extent:
    home = Home(shelf.place, tmp_path_factory.mktemp("pulling"))
    return home.measure("pull", "shelved@v1", "-o", str(home.target))


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_killed_pull_leaves_no_folder_or_a_whole_one_and_again_works(
    seed: int, shelf: Shelf, pulling: Extent, tmp_path: Path
) -> None:
    home = Home(shelf.place, tmp_path)
    when = moment(f"pull {seed}", pulling)
    command = ("pull", "shelved@v1", "-o", str(home.target))
    status = home.kill(*command, **when)
    said = f"seed {seed}, killed at {when}, ended with {status}"
    assert status in {-signal.SIGKILL, 0}, said
    if home.target.exists():
        assert verify_folder(home.target).digest == shelf.digests["shelved@v1"], said
    again = home.run(*command)
    assert again.returncode == 0, f"{said}: {again.stderr}"
    assert is_exact(home.target, shelf.sources["shelved@v1"], shelf.digests["shelved@v1"]), said
    assert leavings(home.user) == [], said


# Pulling over an older version.


@pytest.fixture(scope="module")
def replacing(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Extent]:
    """A user's folder and cache with the first version in them, and how long it takes to replace it."""
    home = Home(shelf.place, tmp_path_factory.mktemp("replacing"))
    assert home.run("pull", "shelved@v1", "-o", str(home.target)).returncode == 0
    before = home.folder.parent / f"{home.folder.name}-before"
    shutil.copytree(home.folder, before)
    return before, home.measure("pull", "shelved@v2", "-o", str(home.target))


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_killed_replacement_is_the_old_version_the_new_one_or_fails_verify_until_the_next_pull(
    seed: int, shelf: Shelf, replacing: tuple[Path, Extent], tmp_path: Path
) -> None:
    before, extent = replacing
    shutil.copytree(before, tmp_path / "home")
    home = Home(shelf.place, tmp_path / "home")
    when = moment(f"replace {seed}", extent)
    command = ("pull", "shelved@v2", "-o", str(home.target))
    status = home.kill(*command, **when)
    said = f"seed {seed}, killed at {when}, ended with {status}"
    assert status in {-signal.SIGKILL, 0}, said
    verified = home.run("verify", str(home.target), "--format", "quiet")
    if verified.returncode == 0:
        ref = next(ref for ref, digest in shelf.digests.items() if digest == verified.stdout.strip())
        assert is_exact(home.target, shelf.sources[ref], shelf.digests[ref]), said
    else:
        assert verified.returncode == 7, f"{said}: {verified.stderr}"
    again = home.run(*command)
    assert again.returncode == 0, f"{said}: {again.stderr}"
    assert is_exact(home.target, shelf.sources["shelved@v2"], shelf.digests["shelved@v2"]), said
    assert leavings(home.user) == [], said


# Pushing.


@pytest.fixture(scope="module")
def pushing(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Extent:
    home = Home(shelf.place, tmp_path_factory.mktemp("pushing"))
    source = make_adapter(home.folder / "source", "measured")
    return home.measure("push", str(source), "measured", "--base", BASE)


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_killed_push_shows_no_version_or_a_whole_one_and_again_works(
    seed: int, shelf: Shelf, pushing: Extent, tmp_path: Path
) -> None:
    home = Home(shelf.place, tmp_path)
    source = make_adapter(tmp_path / "source", f"pushed {seed}")
    name = f"pushed-{seed}"
    when = moment(f"push {seed}", pushing)
    command = ("push", str(source), name, "--base", BASE)
    status = home.kill(*command, **when)
    said = f"seed {seed}, killed at {when}, ended with {status}"
    assert status in {-signal.SIGKILL, 0}, said
    client = shelf.place.client(tmp_path / "other")
    try:
        assert len(_whole(client, name, tmp_path / "looks")) <= 1, said
        again = home.run(*command)
        assert again.returncode == 0, f"{said}: {again.stderr}"
        assert again.stdout.strip() == f"{name}@v1", said
        (digest,) = _whole(client, name, tmp_path / "last")
        assert is_exact(client.pull(f"{name}@v1", tmp_path / "pulled"), source, digest), said
    finally:
        client.close()


def _whole(client: Client, name: str, to: Path) -> list[str]:
    """Pull every version that can be seen; return their digests."""
    try:
        versions = client.versions(name)
    except NotFound:
        return []
    for version in versions:
        try:
            assert verify_folder(client.pull(version.ref, to / str(version.number))).digest == version.digest
        except AdapterctlError as error:
            raise AssertionError(f"{version.ref} can be seen and not be pulled") from error
    return [version.digest for version in versions]
