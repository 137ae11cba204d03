"""A job is accepted in a transaction that only looks its names up: what takes long was done before, and is done anew if a
name means something else by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contract.jobs.helpers import Crew
from support.adapters import BASE_TENSORS, base_registration, save_adapter
from support.people import SEEDS
from support.work import Transaction, watched

from registry.jobs import service
from registry.principal import Role
from sdk.client import Client
from sdk.errors import AdapterctlError, Conflict, NotFound
from sdk.schemas.combination import CombineParent, CombineRequest
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget, MergeRequest, PreviewJobRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import Wire

#: A config of a family that is not known: everything is planned by the tensors.
STRANGE = {
    "model_type": "strange",
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "vocab_size": 300,
}


@pytest.fixture
def transactions(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Transaction]]:
    with watched(crew.world.services.db, monkeypatch) as seen:
        yield seen


def odd_base(crew: Crew, tensors: int) -> str:
    """Register a base with tensors of any names beside those that an adapter has; return its id."""
    name = f"odd-{tensors}-{next(SEEDS)}"
    odd = {f"m.layers.{n % 7}.p{n}.q{n * 7 % tensors}.w.weight": [8, 8] for n in range(tensors)}
    crew.writer.bases.register(
        base_registration(name, config=STRANGE, tensors=BASE_TENSORS | odd, namespace=crew.space)
    )
    return name


def push(crew: Crew, base: str, name: str = "v") -> str:
    folder = save_adapter(crew.tmp_path / f"pushed-{next(SEEDS)}", next(SEEDS))
    return crew.writer.push(folder, f"{crew.space}/{name}", base=base).ref


def submit(crew: Crew, request: Wire) -> JobView:
    return crew.writer.call(
        "POST", "/jobs", JobView, body=JobSubmission.model_validate({"request": request.model_dump()})
    )


def train(crew: Crew, base: str, **options: Any) -> JobView:
    spec = TrainingSpec.model_validate({"targets": "all-linear", "quant_type": "int8", **options})
    return crew.submit(base=base, spec=spec)


def evaluate(crew: Crew, base: str) -> JobView:
    targets = [EvaluationTarget(base=BaseChoice(id=base)), EvaluationTarget(ref=push(crew, base))]
    return submit(crew, EvaluationRequest(targets=targets, data=crew.data))


def merge(crew: Crew, base: str) -> JobView:
    return submit(crew, MergeRequest(ref=push(crew, base)))


def combine(crew: Crew, base: str) -> JobView:
    parents = [CombineParent(ref=push(crew, base), weight=0.5) for _ in range(2)]
    return submit(crew, CombineRequest(adapter=f"{crew.space}/mix", parents=parents))


def preview(crew: Crew, base: str) -> JobView:
    found = crew.writer.bases.get(base, namespace=crew.space)
    choice = BaseChoice(id=found.id, revision=found.revision, fingerprint=found.fingerprint)
    return submit(crew, PreviewJobRequest(data=crew.data, base=choice))


KINDS: dict[str, Callable[[Crew, str], JobView]] = {
    "training": train,
    "pattern": lambda crew, base: train(crew, base, targets=r".*\.w", exclude=r".*\.3\..*"),
    "evaluation": evaluate,
    "merge": merge,
    "combine": combine,
    "preview": preview,
}


@pytest.mark.parametrize("kind", KINDS)
def test_transaction_that_accepts_a_job_does_the_same_over_a_small_base_as_over_a_large_one(
    crew: Crew, transactions: list[Transaction], kind: str
) -> None:
    # Statements are compiled when they are first used.
    sizes = [40, 40, 1200]
    for size in sizes:
        KINDS[kind](crew, odd_base(crew, size))
    _, small, large = accepting = [one for one in transactions if one.wrote("jobs")]
    assert large.calls < 1.1 * small.calls
    assert not any(one.read("tensors") or one.read("config") for one in accepting)


def test_claimed_base_of_thousands_of_odd_names_is_planned_at_once(crew: Crew) -> None:
    base = odd_base(crew, 4000)
    began = time.process_time()
    forecast = train(crew, base).forecast
    # Comparing all places, ends and names took minutes.
    assert time.process_time() - began < 15
    assert forecast is not None


class Between:
    """Does something once a job was examined, and before it is accepted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._examine = service.acceptable
        self.steps: list[Callable[[], object]] = []
        self.count = 0
        monkeypatch.setattr(service, "acceptable", self)

    def __call__(self, *given: Any) -> Any:
        found = self._examine(*given)
        self.count += 1
        if self.steps:
            self.steps.pop(0)()
        return found


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Between:
    return Between(monkeypatch)


class TestMeanwhile:
    """Names that mean something else once a job was examined."""

    def remove(self, crew: Crew, base: str) -> None:
        crew.world.admin.bases.remove(base, namespace=crew.space)

    def test_base_that_was_removed_is_not_found(self, crew: Crew, between: Between) -> None:
        base = odd_base(crew, 40)
        before = len(list(crew.writer.jobs()))
        between.steps = [lambda: self.remove(crew, base)]
        with pytest.raises(NotFound, match="there is no base"):
            train(crew, base)
        assert (between.count, len(list(crew.writer.jobs()))) == (1, before)

    def test_base_that_was_registered_anew_is_examined_anew(self, crew: Crew, between: Between) -> None:
        base = odd_base(crew, 40)

        def anew() -> None:
            self.remove(crew, base)
            again = base_registration(base, config=STRANGE, tensors=BASE_TENSORS, namespace=crew.space)
            crew.writer.bases.register(again)

        between.steps = [anew]
        forecast = train(crew, base).forecast
        assert between.count == 2
        assert forecast is not None
        between.steps = []
        assert forecast == train(crew, base).forecast

    def test_alias_that_was_moved_is_followed(self, crew: Crew, between: Between) -> None:
        first, second = push(crew, "tiny"), push(crew, "tiny")
        name, _, number = first.partition("@v")
        crew.world.admin.set_alias(name, "canary", int(number))
        between.steps = [lambda: crew.world.admin.set_alias(name, "canary", int(number) + 1)]
        job = submit(crew, MergeRequest(ref=f"{name}@canary"))
        assert (between.count, job.request["ref"]) == (2, second)

    def test_version_that_was_deleted_is_not_found(self, crew: Crew, between: Between) -> None:
        ref = push(crew, "tiny")
        between.steps = [lambda: crew.world.admin.versions.delete(ref)]
        with pytest.raises(NotFound):
            submit(crew, EvaluationRequest(targets=[EvaluationTarget(ref=ref)], data=crew.data))

    def test_dataset_that_was_given_up_is_not_found(
        self, crew: Crew, between: Between, acting: Callable[..., Client]
    ) -> None:
        admin = acting(**{crew.space: Role.ADMIN})
        between.steps = [lambda: admin.datasets.remove(crew.data)]
        with pytest.raises(NotFound):
            crew.submit()

    def test_names_that_keep_changing_are_a_conflict(self, crew: Crew, between: Between) -> None:
        first = push(crew, "tiny")
        push(crew, "tiny")
        name, _, number = first.partition("@v")
        crew.world.admin.set_alias(name, "canary", int(number))
        numbers = [int(number) + 1, int(number)] * 3
        between.steps = [lambda to=to: crew.world.admin.set_alias(name, "canary", to) for to in numbers]  # type: ignore[misc]
        before = len(list(crew.writer.jobs()))
        with pytest.raises(AdapterctlError, match="being changed at the moment; submit it again") as caught:
            submit(crew, MergeRequest(ref=f"{name}@canary"))
        assert isinstance(caught.value, Conflict)
        assert (between.count, len(list(crew.writer.jobs()))) == (3, before)
