"""What one namespace keeps the registry busy with does not hold another one up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import calls
from support.merging_desk import MergingDesk
from support.registries import World
from support.scored_rows import fresh, report_of, write_file

from registry.artifacts.admission.inspection import WeightFacts
from registry.jobs.kinds.evaluation_rows import RowFacts
from registry.principal import Role
from sdk.client import Client
from sdk.errors import Unavailable
from sdk.schemas.catalog import BaseView
from sdk.schemas.jobs import JobView
from sdk.schemas.work import Completion


@contextmanager
def stuck(
    people: World, monkeypatch: pytest.MonkeyPatch, space: str, kind: type[Any], count: int
) -> Iterator[Callable[[], None]]:
    """Let the files of one namespace take until the end of the block; the function waits until so many are read."""
    artifacts, go, inside = people.services.artifacts, threading.Event(), threading.Semaphore(0)
    once = artifacts.verify

    def verify(**given: Any) -> Any:
        of = {inspection.kind for inspection in (given.get("inspections") or {}).values()}
        if kind in of and space in given["who"].grants:
            inside.release()
            assert go.wait(120)
        return once(**given)

    def wait() -> None:
        for _ in range(count):
            assert inside.acquire(timeout=60)

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "verify", verify)
        try:
            yield wait
        finally:
            go.set()


def scores(desk: MergingDesk, data: Path) -> tuple[str, Completion]:
    """A job that is held, and what to hand in for it."""
    desk.writer.submit_evaluation([desk.push()], data=data, precision="native", only=True)
    held, path = desk.claim(), desk.tmp_path / "scored"
    rows = [row.model_copy(update={"scores": {}}) for row in fresh()]
    file, (target,) = write_file(path, rows), held.targets
    upload = desk.worker.uploader.upload({file.digest: path}, "sending", desk.space)
    result = calls.scored(target, report=report_of(rows, file), upload=upload)
    return held.job, Completion(attempt=held.attempt, evaluations=[result])


@pytest.fixture
def desks(
    acting: Callable[..., Client], space: str, tmp_path: Path, common_base: tuple[BaseView, Path]
) -> tuple[MergingDesk, MergingDesk]:
    def desk(named: str) -> MergingDesk:
        (folder := tmp_path / named).mkdir()
        return MergingDesk(acting(**{named: Role.WRITER}), acting(**{named: Role.WORKER}), named, folder, *common_base)

    return desk(f"{space}-a"), desk(f"{space}-b")


def test_a_push_comes_in_beside_another_namespace_s_pushes(
    people: World, desks: tuple[MergingDesk, MergingDesk], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, other = desks
    with ThreadPoolExecutor(7) as pool:
        with stuck(people, monkeypatch, busy.space, WeightFacts, 4) as until_all_places_are_taken:
            work = [pool.submit(busy.push, f"a{number}") for number in range(6)]
            until_all_places_are_taken()
            assert pool.submit(other.push).result(timeout=60)
            assert not any(one.done() for one in work)
        assert all(one.result(timeout=60) for one in work)


def test_a_push_comes_in_beside_its_own_namespace_s_completions(
    people: World, desks: tuple[MergingDesk, MergingDesk], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, _ = desks
    handed_in = [scores(busy, rows) for _ in range(5)]
    with ThreadPoolExecutor(7) as pool:
        with stuck(people, monkeypatch, busy.space, RowFacts, 2) as until_all_places_are_taken:
            work = [
                pool.submit(busy.worker.call, "POST", f"/jobs/{job}/complete", JobView, body=body)
                for job, body in handed_in
            ]
            until_all_places_are_taken()
            assert pool.submit(busy.push).result(timeout=60)
            assert not any(one.done() for one in work)
        assert {one.result(timeout=60).state for one in work} == {"succeeded"}


def test_a_client_that_gives_up_while_it_waits_leaves_nothing_to_be_done(
    people: World, desks: tuple[MergingDesk, MergingDesk], rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, other = desks
    first, second, given_up, last = (scores(busy, rows) for _ in range(4))
    artifacts, verified = people.services.artifacts, list[str | None]()
    once = artifacts.verify

    def noted(**given: Any) -> Any:
        verified.append(given["upload"])
        return once(**given)

    monkeypatch.setattr(artifacts, "verify", noted)

    def hand_in(job: str, body: Completion, timeout_s: float = 60) -> JobView:
        return busy.worker.transport.call("POST", f"/jobs/{job}/complete", JobView, body=body, timeout_s=timeout_s)

    with ThreadPoolExecutor(2) as pool:
        with stuck(people, monkeypatch, busy.space, RowFacts, 2) as until_all_places_are_taken:
            work = [pool.submit(hand_in, *one) for one in (first, second)]
            until_all_places_are_taken()
            with pytest.raises(Unavailable, match="does not answer"):
                hand_in(*given_up, timeout_s=0.5)
            # The server has heard of that before it answers what came later.
            assert other.push()
        assert {one.result(timeout=60).state for one in work} == {"succeeded"}
    # It would have come before this one.
    assert hand_in(*last).state == "succeeded"
    sent = [None if (named := body.evaluations) is None else named[0].upload for _, body in (last, given_up)]
    assert [upload in verified for upload in sent] == [True, False]
    assert hand_in(*given_up).state == "succeeded"
