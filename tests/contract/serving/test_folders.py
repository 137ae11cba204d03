"""What a gateway gets for an engine: bytes by digest, leased before they are used, held against their record."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.registry.helpers import publication
from support import registries
from support.adapters import base_registration, save_adapter
from support.registries import World

from sdk.errors import AdapterctlError, NotFound, Unavailable
from sdk.gateway.engines.engine import EngineRefused, InferenceEngine
from sdk.gateway.moves.folders import LeasedFolders
from sdk.gateway.moves.proving import ProbeRecords, Proving, objection_of
from sdk.gateway.moves.versions import Fetched, Proof
from sdk.pulling.cache_maintenance import entries, plan_prune, prune
from sdk.pulling.leases import leased
from sdk.schemas.catalog import Published, VersionView
from sdk.schemas.serving import Continuation, ServedProbe, ServedProbeRecord, ServedProbeView, ServedPrompt

SEEDS = itertools.count(1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("served") / "home") as found:
        found.admin.bases.register(base_registration())
        yield found


@pytest.fixture
def version(world: World, tmp_path: Path) -> VersionView:
    seed = next(SEEDS)
    save_adapter(tmp_path / "adapter", seed=seed)
    body = publication(world.admin, tmp_path / "adapter", f"sql-{seed}")
    return world.admin.call("POST", "/versions", Published, body=body).version


@pytest.fixture
def folders(world: World) -> LeasedFolders:
    return LeasedFolders(world.admin.puller, world.admin.cache, "serve-8011")


def pruned(world: World, version: VersionView) -> bool:
    """Prune everything that may be, and say whether the version went."""
    cache = world.admin.cache
    prune(cache, plan_prune(entries(cache), keep=0))
    return not cache.version(version.digest).exists()


def test_a_fetched_folder_stays_until_its_last_version_is_released(
    world: World, version: VersionView, folders: LeasedFolders
) -> None:
    async def body() -> None:
        one = await folders.fetch(version.ref, version.digest)
        other = await folders.fetch("copy-of-it@v1", version.digest)
        assert (one.folder / "adapter_model.safetensors").is_file()
        await folders.release(one)
        assert not pruned(world, version)
        await folders.release(other)
        assert pruned(world, version)

    asyncio.run(body())


def test_a_damaged_copy_is_refused_and_leased_to_nobody(
    world: World, version: VersionView, folders: LeasedFolders
) -> None:
    async def body() -> None:
        fetched = await folders.fetch(version.ref, version.digest)
        await folders.release(fetched)
        weights = fetched.folder / "adapter_model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.unlink()
        weights.write_bytes(content)
        with pytest.raises(AdapterctlError, match="SHA-256"):
            await folders.fetch(version.ref, version.digest)
        assert leased(world.admin.cache, version.digest) == []

    asyncio.run(body())


def test_what_is_cached_needs_no_registry_and_what_is_not_is_refused(
    world: World, version: VersionView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def lease(self, ref: str, owner: str) -> None:
            raise Unavailable("the registry can't be reached; start it")

    cache = world.admin.cache
    away = LeasedFolders(Away(), cache, "serve-8012")

    async def body() -> None:
        with pytest.raises(Unavailable):
            await away.fetch(version.ref, version.digest)
        world.admin.pull(version.ref)
        fetched = await away.fetch(version.ref, version.digest)
        assert [each.owner for each in leased(cache, version.digest)] == ["serve-8012"]
        await away.release(fetched)

    asyncio.run(body())


def test_the_leases_of_a_killed_gateway_end_when_the_next_one_begins_and_not_before(
    world: World, version: VersionView, folders: LeasedFolders
) -> None:
    async def body() -> None:
        await folders.fetch(version.ref, version.digest)
        # The process is gone; what it wrote isn't.
        again = LeasedFolders(world.admin.puller, world.admin.cache, "serve-8011")
        other = LeasedFolders(world.admin.puller, world.admin.cache, "serve-9000")
        await other.begin()
        assert not pruned(world, version)
        await again.begin()
        assert pruned(world, version)

    asyncio.run(body())


def test_a_lease_that_could_not_be_ended_takes_no_other_s_with_it(
    world: World, version: VersionView, folders: LeasedFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> bool:
        raise Unavailable("the disk is full; make room")

    async def body() -> None:
        one = await folders.fetch(version.ref, version.digest)
        with monkeypatch.context() as patched:
            patched.setattr("sdk.gateway.moves.folders.release", full)
            with pytest.raises(Unavailable):
                await folders.release(one)
        other = await folders.fetch("copy-of-it@v1", version.digest)
        await folders.release(one)
        assert not pruned(world, version)
        await folders.release(other)
        assert pruned(world, version)

    asyncio.run(body())


def test_a_version_that_is_gone_is_refused(folders: LeasedFolders) -> None:
    with pytest.raises(NotFound):
        asyncio.run(folders.fetch("nobody@v1", "a" * 64))


class _Scorer:
    """Answers as a record says, of the base or the adapter."""

    def __init__(self, adapter: str) -> None:
        self._adapter = adapter

    async def score(self, name: str | None, prompt: list[int], continuation: list[int]) -> list[float]:
        return list(getattr(_ONE, "base" if name is None else self._adapter))


_ONE = Continuation(tokens=[5, 6], base=[-1.0, -2.0], adapter=[-0.5, -0.25])
_PROBE = ServedProbe(prompts_digest="a" * 64, prompts=[ServedPrompt(tokens=[7], by_base=_ONE, by_adapter=_ONE)])


def proved(records: ProbeRecords, version: VersionView, answers_as: str = "adapter", **options: bool) -> Proof:
    proving = Proving(records.get, **{"unprobed": False, **options})
    engine: InferenceEngine = _Scorer(answers_as)  # type: ignore[assignment]
    return asyncio.run(proving(engine, version.ref, version.digest))


def test_a_version_without_a_record_is_served_only_if_that_was_asked_for(
    world: World, version: VersionView, tmp_path: Path
) -> None:
    records = ProbeRecords(world.admin.transport, tmp_path / "records")
    with pytest.raises(EngineRefused, match=r"verify .* --probe --record"):
        proved(records, version)
    assert proved(records, version, unprobed=True) is Proof.UNPROBED


def test_a_record_decides_and_is_there_without_the_registry(world: World, version: VersionView, tmp_path: Path) -> None:
    measured = ServedProbeRecord(
        adapter=version.adapter,
        number=version.number or 0,
        digest=version.digest,
        base=version.base.fingerprint,
        probe=_PROBE,
    )
    world.admin.call("PUT", "/version/served-probe", ServedProbeView, body=measured)
    records = ProbeRecords(world.admin.transport, tmp_path / "records")
    assert proved(records, version) is Proof.PASSED
    with pytest.raises(EngineRefused, match="no effect"):
        proved(records, version, answers_as="base", unprobed=True)

    class Away:
        def call(self, *_: object, **__: object) -> None:
            raise Unavailable("the registry can't be reached; start it")

    away = ProbeRecords(Away(), tmp_path / "records")  # type: ignore[arg-type]
    assert proved(away, version) is Proof.PASSED
    with pytest.raises(Unavailable):
        away.get("other@v1", "c" * 64)


def test_an_engine_s_limits_are_known_before_it_is_asked(version: VersionView, folders: LeasedFolders) -> None:
    fetched: Fetched = asyncio.run(folders.fetch(version.ref, version.digest))
    assert objection_of("local", None, None) is None
    may = objection_of("vllm", "0.32.0", None)
    assert may is not None
    assert may(fetched.folder) is None
    asyncio.run(folders.release(fetched))
