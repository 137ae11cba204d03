"""What is refused before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from contract.jobs.test_forecasts import GB, hello
from contract.sweeps.helpers import Desk
from support import registries
from support.adapters import base_registration
from support.registries import World

from sdk.api import sweeps
from sdk.errors import Conflict, DoesNotFit, InvalidInput, NotAllowed, NotFound, Unavailable
from sdk.lora.planning.tables import LLAMA_2_7B
from sdk.schemas.job_requests import BaseChoice, CheckpointRef, SweepPlace
from sdk.schemas.jobs import Needs
from sdk.schemas.sweep_axes import Values
from sdk.schemas.sweeps import SweepSubmission
from sdk.schemas.training import TrainingSpec


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One registry: what is refused is refused before a database has a say."""
    with registries.served(tmp_path_factory.mktemp("refusing")) as found:
        found.admin.bases.register(base_registration())
        yield found


class TestRefusals:
    @pytest.mark.parametrize(
        ("asked", "said"),
        [
            ({"training": {"eval_data": None}}, "there are none; give eval_data"),
            ({"training": {"sweep": SweepPlace(sweep="a", number=1)}}, "only the registry places members"),
            ({"training": {"from_checkpoint": CheckpointRef(job="a")}}, "leave from_checkpoint out"),
            ({"choose": "accuracy"}, "only classifications have an accuracy"),
        ],
    )
    def test_sweep_that_would_say_nothing_is_refused(self, desk: Desk, asked: dict[str, Any], said: str) -> None:
        with pytest.raises(InvalidInput, match=said):
            desk.begin(**asked)
        assert list(sweeps.listed(desk.writer.transport)) == []
        assert desk.crew.claim() is None

    def test_rows_that_can_not_be_scored_so_are_refused_before_anything_is_trained(
        self, desk: Desk, tmp_path: Path
    ) -> None:
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(f'{{"text": "only a text {number}"}}\n' for number in range(40)))
        texts = desk.writer.datasets.add(path, namespace=desk.crew.space).digest
        with pytest.raises(InvalidInput, match="completion"):
            desk.begin(choose="rouge_l", training={"eval_data": texts})
        assert desk.crew.claim() is None

    def test_setting_that_fits_no_worker_is_refused_with_all_others(self, desk: Desk) -> None:
        name = f"llama-{desk.crew.space}"
        desk.world.admin.bases.register(base_registration(name, config=LLAMA_2_7B, size_bytes=13_476_831_232))
        # At least 12 GB are needed, and some 4 in 4 bits.
        hello(desk.crew, "small", 10 * GB)
        asked = {"base": BaseChoice(id=name), "spec": TrainingSpec(targets="qv", max_length=512)}
        with pytest.raises(DoesNotFit):
            desk.begin(settings={"method": Values(values=["qlora", "lora"])}, training=asked)

    def test_sweep_that_no_worker_can_run_says_why_and_is_refused_if_a_worker_is_required(self, desk: Desk) -> None:
        hello(desk.crew, "small", 10 * GB, device="cpu")
        assert desk.begin().waits is None
        asked = SweepSubmission(request=desk.request(), needs=Needs(device="cuda"))
        before = len(list(sweeps.listed(desk.writer.transport)))
        required = asked.model_copy(update={"require_worker": True})
        with pytest.raises(Unavailable, match="this sweep now: it needs a CUDA GPU") as refused:
            sweeps.submit(desk.writer.transport, required)
        assert refused.value.param == "require_worker"
        assert len(list(sweeps.listed(desk.writer.transport))) == before
        assert "it needs a CUDA GPU" in (sweeps.submit(desk.writer.transport, asked).waits or "")

    def test_sampler_that_needs_a_library_is_refused_without_it(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(Unavailable, match=r"adapterctl\[sweeps\]"):
            desk.begin(sample="tpe", trials=2)

    def test_base_and_rows_that_nobody_has_are_refused(self, desk: Desk) -> None:
        with pytest.raises(NotFound):
            desk.begin(training={"base": BaseChoice(id="nobodys")})
        with pytest.raises(NotFound):
            desk.begin(training={"data": "0" * 64})

    def test_targets_that_the_base_lacks_are_refused_wherever_they_are_among_the_values(self, desk: Desk) -> None:
        with pytest.raises(InvalidInput, match="nowhere_proj"):
            desk.begin(settings={"targets": Values(values=["q_proj", "nowhere_proj"])})

    def test_training_of_a_caller_is_no_member(self, desk: Desk) -> None:
        body = desk.crew.body()
        placed = body.request.model_copy(update={"sweep": SweepPlace(sweep="0" * 12, number=1)})
        with pytest.raises(InvalidInput, match="only a sweep makes a training its member"):
            desk.writer.call("POST", "/jobs", dict, body=body.model_copy(update={"request": placed}))

    def test_readers_begin_no_sweep_and_see_only_their_own(self, desk: Desk, theirs: Any) -> None:
        with pytest.raises((NotAllowed, NotFound)):
            sweeps.submit(theirs.client.transport, SweepSubmission(request=desk.request()))
        sweep = desk.begin()
        with pytest.raises(NotFound):
            sweeps.get(theirs.client.transport, sweep.id)
        with pytest.raises(NotFound):
            sweeps.cancel(theirs.client.transport, sweep.id)

    def test_same_key_gives_the_same_sweep_and_another_request_with_it_is_refused(self, desk: Desk) -> None:
        first = desk.begin(key="one")
        assert desk.begin(key="one").id == first.id
        with pytest.raises(Conflict):
            desk.begin(key="one", seeds=2)
        assert [one.id for one in sweeps.listed(desk.writer.transport)] == [first.id]

    def test_member_is_not_tried_again_by_itself(self, desk: Desk) -> None:
        sweep = desk.begin()
        desk.crew.fail(desk.hold(), "data")
        with pytest.raises(Conflict, match="members are not tried again"):
            desk.writer.jobs.retry(sweep.members[0].job)
