"""What versions answer: recorded by their trainings and by who may send, bound to bytes and base, counted, and gone with the version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from contract.registry.helpers import publication, submission, submit
from sqlalchemy import select, update
from support import calls
from support.adapters import base_registration, digest, save_adapter, use_of
from support.people import SEEDS
from support.registries import World
from support.usage import differing, mismeasured

from registry.catalog.models import ServedProbeRow
from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidInput, NotAllowed, NotFound
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.catalog import Published
from sdk.schemas.serving import Continuation, ServedProbe, ServedProbeRecord, ServedProbeView, ServedPrompt


def probe(number: float = -0.5, *, prompt_tokens: int = 3) -> ServedProbe:
    one = Continuation(tokens=[5, 6], base=[-1.0, -2.0], adapter=[number, -0.25])
    prompts = [ServedPrompt(tokens=[7] * prompt_tokens, by_base=one, by_adapter=one)] * 4
    return ServedProbe(prompts_digest="a" * 64, prompts=prompts)


class Pushed:
    """A version that was pushed."""

    def __init__(self, world: World, folder: Path, name: str = "") -> None:
        self.world, self.name = world, name or f"served-{next(SEEDS)}"
        save_adapter(folder / self.name.replace("/", "-"), seed=next(SEEDS))
        body = publication(world.writer, folder / self.name.replace("/", "-"), self.name)
        self.version = world.writer.call("POST", "/versions", Published, body=body).version
        self.ref = self.version.ref

    def body(self, measured: ServedProbe, **changed: Any) -> ServedProbeRecord:
        version = self.version
        of = {"adapter": self.name, "number": 1, "digest": version.digest, "base": version.base.fingerprint}
        return ServedProbeRecord.model_validate({**of, "probe": measured, **changed})

    def record(self, who: Client, measured: ServedProbe, **changed: Any) -> ServedProbeView:
        return who.call("PUT", "/version/served-probe", ServedProbeView, body=self.body(measured, **changed))

    def get(self, who: Client | None = None) -> ServedProbeView:
        return (who or self.world.writer).versions.served_probe(self.ref)


@pytest.fixture
def pushed(world: World, tmp_path: Path) -> Pushed:
    return Pushed(world, tmp_path)


def test_pushed_version_has_none_until_somebody_records_one(pushed: Pushed) -> None:
    with pytest.raises(NotFound, match=rf"make one with: adapterctl verify {pushed.ref} --probe --record"):
        pushed.get()
    recorded = pushed.record(pushed.world.writer, probe())
    found = pushed.get()
    assert (found, found.probe) == (recorded, probe())
    assert (found.adapter, found.number, found.digest) == (pushed.name, 1, pushed.version.digest)
    assert found.base == digest("tiny: base")
    # It isn't in what lists and `resolve` answer.
    assert "served_probe" not in pushed.world.writer.get(pushed.ref).as_dict()
    with pytest.raises(NotFound):
        pushed.world.writer.versions.served_probe(f"{pushed.name}@v9")


def test_record_is_bound_to_the_bytes_and_the_base(pushed: Pushed) -> None:
    writer = pushed.world.writer
    with pytest.raises(InvalidInput, match="has the digest") as caught:
        pushed.record(writer, probe(), digest="0" * 64)
    assert caught.value.param == "digest"
    with pytest.raises(InvalidInput, match="measure it over its own base") as caught:
        pushed.record(writer, probe(), base="0" * 64)
    assert caught.value.param == "base"
    with pytest.raises(NotFound):
        pushed.record(writer, probe(), number=2)
    with pytest.raises(NotFound):
        pushed.get()


@pytest.fixture
def acting(guarded: World) -> Iterator[Callable[..., Client]]:
    """Clients with new tokens, which are closed in the end."""
    guarded.admin.bases.register(base_registration())
    with ExitStack() as stack:
        yield lambda role, **of: stack.enter_context(closing(guarded.client(role, **of)))


def test_sender_replaces_only_its_own_and_a_worker_counts_before_it(
    guarded: World, acting: Callable[..., Client], tmp_path: Path
) -> None:
    first, second, worker = acting(Role.WRITER), acting(Role.PROMOTER), acting(Role.WORKER)
    pushed = Pushed(guarded, tmp_path)
    assert pushed.record(first, probe(-0.1)).source == "sender"
    pushed.record(second, probe(-0.2))
    assert pushed.get().probe == probe(-0.1)
    pushed.record(first, probe(-0.3))
    assert (pushed.get().probe, pushed.get().created_by) == (probe(-0.3), first.tokens.whoami().name)
    assert pushed.record(worker, probe(-0.4)).source == "worker"
    pushed.record(first, probe(-0.5))
    assert (pushed.get().probe, pushed.get().source) == (probe(-0.4), "worker")


def test_readers_read_and_do_not_record(guarded: World, acting: Callable[..., Client], tmp_path: Path) -> None:
    reader, stranger = acting(Role.READER), acting(Role.ADMIN, namespace="elsewhere")
    pushed = Pushed(guarded, tmp_path)
    pushed.record(guarded.writer, probe())
    assert pushed.get(reader).probe == probe()
    with pytest.raises(NotAllowed):
        pushed.record(reader, probe(-0.9))
    for ask in (lambda: pushed.get(stranger), lambda: pushed.record(stranger, probe())):
        with pytest.raises(NotFound):
            ask()


def test_trained_version_has_what_its_worker_handed_in_and_nobody_replaces_it(
    world: World, rows: DatasetView, tmp_path: Path, quiet: World
) -> None:
    name = f"trained-{next(SEEDS)}"
    submit(world.writer, submission(name, rows))
    held = calls.hold(world.worker)
    save_adapter(tmp_path / "out", seed=next(SEEDS))
    made = publication(world.worker, tmp_path / "out", name, dataset=use_of(rows.digest))
    done = calls.complete(world.worker, held, version=made, served_probe=probe(-0.7))
    version = world.writer.get(str(done.result and done.result["ref"])).info
    found = world.writer.versions.served_probe(version.ref)
    assert (found.source, found.probe, found.digest) == ("training", probe(-0.7), version.digest)
    body = ServedProbeRecord(
        adapter=name, number=1, digest=version.digest, base=version.base.fingerprint, probe=probe(-0.1)
    )
    world.worker.call("PUT", "/version/served-probe", ServedProbeView, body=body)
    assert world.writer.versions.served_probe(version.ref) == found


def test_record_is_bounded_counted_and_given_back_with_the_version(world: World, pushed: Pushed) -> None:
    long = Continuation(tokens=[10**8] * 16, base=[-1 / 3] * 16, adapter=[-1 / 3] * 16)
    prompts = [ServedPrompt(tokens=[10**8] * 256, by_base=long, by_adapter=long)] * 4
    with pytest.raises(InvalidInput, match="bytes, and may have 16384"):
        pushed.record(world.writer, ServedProbe(prompts_digest="a" * 64, prompts=prompts))
    for measured in (probe(), probe(prompt_tokens=200)):
        pushed.record(world.writer, measured)
        assert mismeasured(world.services, "-") == []
        with world.services.db.write() as session:
            assert session.scalar(select(ServedProbeRow.record_bytes).order_by(ServedProbeRow.pk.desc())) > 0
        assert differing(world) == {}
    world.admin.versions.delete(pushed.ref)
    assert differing(world) == {}
    with pytest.raises(NotFound, match="was deleted"):
        pushed.get()


def test_record_of_another_release_stays_readable(world: World, pushed: Pushed) -> None:
    pushed.record(world.writer, probe())
    with world.services.db.write() as session:
        row = session.scalars(select(ServedProbeRow).order_by(ServedProbeRow.pk.desc())).first()
        assert row is not None
        later = {**row.probe, "of_tomorrow": {"a": [1]}, "quantized": "of_tomorrow"}
        session.execute(update(ServedProbeRow).where(ServedProbeRow.pk == row.pk).values(probe=later))
    assert pushed.get().probe == probe().model_copy(update={"quantized": "of_tomorrow"})
