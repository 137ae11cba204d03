"""What jobs are forecast to take: refused where no worker is large enough, given to those that are, and held against what they took."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import update
from support.adapters import base_registration
from support.calls import worker_info
from support.people import new_adapter

from registry.db.types import utc_now
from registry.jobs.models import Worker
from registry.principal import Role
from sdk.client import Client
from sdk.errors import DoesNotFit
from sdk.lora.planning.forecast import PROCESS_BYTES
from sdk.lora.planning.tables import LLAMA_2_7B, QWEN3_8B
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget, MergeRequest
from sdk.schemas.jobs import JobSubmission, JobView, Needs
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from sdk.schemas.work import Farewell

GB = 10**9
#: Some 29 GB on a card, also where a worker computes one row at a time; 14.3 GB of it are activations.
LARGE = TrainingSpec(method="lora", batch_size=16, grad_accum=1, targets="qv", max_length=32768)

#: Its weights fit 8 GB, its rows do not.
LONG = LARGE.model_copy(update={"method": "qlora"})


@pytest.fixture
def base(crew: Crew) -> str:
    name = f"llama-{crew.space}"
    crew.world.admin.bases.register(base_registration(name, config=LLAMA_2_7B, size_bytes=13_476_831_232))
    return name


def hello(crew: Crew, name: str, memory_bytes: int, **about: Any) -> None:
    about = {"device": "cuda", "free_memory_bytes": memory_bytes, **about}
    crew.worker.call("POST", "/workers/hello", None, body=worker_info(name, memory_bytes=memory_bytes, **about))


def gone(crew: Crew, name: str, **since: float) -> None:
    with crew.world.services.db.write() as session:
        session.execute(update(Worker).where(Worker.name == name).values(seen_at=utc_now() - timedelta(**since)))


class TestRefusal:
    def test_a_training_that_fits_no_worker_is_refused_and_what_it_is_told_to_do_fits(
        self, crew: Crew, base: str
    ) -> None:
        hello(crew, "small", 17 * GB)
        hello(crew, "smaller", 8 * GB)
        before = len(list(crew.writer.jobs()))
        with pytest.raises(DoesNotFit) as caught:
            crew.submit(base=base, spec=LARGE)
        said = caught.value.message
        assert (caught.value.code, caught.value.exit_code, caught.value.param) == ("does_not_fit", 2, "spec")
        assert re.search(r"this training needs \d\d\.\d GB \(\d{11} bytes\) with 1 × 32768 tokens at once", said)
        assert (
            "14.3 GB of it activations, and the largest worker that may run it has 17.0 GB (17000000000 bytes) on its GPU"
            in said
        )
        assert len(list(crew.writer.jobs())) == before
        # In words that are right on a terminal, in Python and on a page.
        assert "--" not in said
        options = re.findall(r"(?:or )?([a-z][a-z ]* \S+) \(\d+\.\d GB\)", said.partition("what fits: ")[2])
        assert [each.rpartition(" ")[0] for each in options] == ["max length"]
        for each in options:
            name, _, value = each.rpartition(" ")
            given = {name.replace(" ", "_"): value}
            spec = TrainingSpec.model_validate(
                {**LARGE.model_dump(), **{n: int(v) if v.isdigit() else v for n, v in given.items()}}
            )
            assert spec.effective_batch == LARGE.effective_batch
            forecast = crew.submit(base=base, spec=spec).forecast
            assert forecast.card is not None

    def test_weights_that_are_too_large_are_named(self, crew: Crew, base: str) -> None:
        hello(crew, "small", 6 * GB)
        with pytest.raises(DoesNotFit, match=r"13\.5 GB of it weights.*what fits: method qlora \("):
            crew.submit(base=base, spec=TrainingSpec(method="lora", max_length=256, targets="qv"))

    def test_a_client_is_told_so(self, crew: Crew, base: str) -> None:
        hello(crew, "small", 6 * GB)
        options: dict[str, Any] = {"method": "lora", "targets": "qv"}
        with pytest.raises(DoesNotFit, match="your own figure of the memory that it needs"):
            crew.writer.submit_training(f"{crew.space}/a", base=base, data=crew.data, **options)
        # Whoever knows better says so, and waits.
        job = crew.writer.submit_training(f"{crew.space}/a", base=base, data=crew.data, memory=5 * GB, **options)
        assert job.view.state == "queued"
        assert crew.hold(name="small", memory_bytes=6 * GB, free_memory_bytes=6 * GB, device="cuda").job == job.id

    def test_without_a_worker_there_is_a_forecast_and_no_refusal(self, crew: Crew, base: str) -> None:
        job = crew.submit(base=base, spec=LARGE)
        assert (crew.view(job.id).waits or "").startswith("no worker listens")
        forecast = crew.view(job.id).forecast
        assert {part.name for part in forecast.card.parts} >= {
            "weights",
            "adapter",
            "optimizer",
            "activations",
            "logits",
        }
        assert forecast.machine.card_bytes == 0
        # In lists it is left out.
        assert [view.view.forecast for view in crew.writer.jobs() if view.id == job.id] == [None]

    @pytest.mark.parametrize("left", [True, False], ids=["left", "silent"])
    def test_a_worker_that_has_just_gone_may_come_back(self, crew: Crew, base: str, left: bool) -> None:
        hello(crew, "large", 80 * GB)
        if left:
            crew.worker.call("POST", "/workers/leave", None, body=Farewell(worker="large"))
        else:
            gone(crew, "large", minutes=5)
        hello(crew, "small", 8 * GB)
        job = crew.submit(base=base, spec=LONG)
        assert re.match(
            r"it needs .* of memory, and the largest worker that may run it has 7\.5 GiB; start a larger",
            crew.view(job.id).waits or "",
        )
        assert crew.claim(name="small", device="cuda", memory_bytes=8 * GB, free_memory_bytes=8 * GB) is None
        gone(crew, "large", days=8)
        with pytest.raises(DoesNotFit):
            crew.submit(base=base, spec=LONG)

    def test_of_several_kinds_of_workers_the_one_that_is_large_enough_gets_it(self, crew: Crew, base: str) -> None:
        hello(crew, "card", 8 * GB)
        hello(crew, "machine", 64 * GB, device="cpu")
        job = crew.submit(base=base, spec=LONG)
        assert crew.claim(name="card", device="cuda", memory_bytes=8 * GB, free_memory_bytes=8 * GB) is None
        with pytest.raises(DoesNotFit, match=r"8\.0 GB .* on its GPU"):
            crew.submit(base=base, spec=LONG, needs=Needs(device="cuda"))
        held = crew.hold(name="machine", memory_bytes=64 * GB, free_memory_bytes=40 * GB)
        assert held.job == job.id

    def test_workers_of_others_are_none_of_its(self, crew: Crew, base: str, acting: Callable[..., Client]) -> None:
        stranger = acting(elsewhere=Role.WORKER)
        stranger.call("POST", "/workers/hello", None, body=worker_info("theirs", device="cuda", memory_bytes=8 * GB))
        crew.submit(base=base, spec=LARGE)
        hello(crew, "cpu only", 8 * GB, queues=["cpu"])
        crew.submit(base=base, spec=LARGE)

    def test_a_worker_that_does_not_know_its_memory_may_try(self, crew: Crew, base: str) -> None:
        hello(crew, "unknown", 0)
        job = crew.submit(base=base, spec=LARGE)
        assert crew.hold(name="unknown", device="cuda", memory_bytes=0, free_memory_bytes=0).job == job.id

    @pytest.mark.parametrize(
        ("config", "why"),
        [
            ({"model_type": "llama", "hidden_size": 6}, "the base's config says no vocab_size"),
            (QWEN3_8B | {"model_type": "mystery"}, "was registered without the shapes of its files"),
        ],
    )
    def test_a_base_of_which_too_little_is_known_is_not_refused(
        self, crew: Crew, config: dict[str, Any], why: str
    ) -> None:
        name = f"odd-{crew.space}"
        crew.world.admin.bases.register(base_registration(name, config=config, size_bytes=40 * GB, tensors={}))
        hello(crew, "small", 8 * GB)
        job = crew.submit(base=name, spec=TrainingSpec(method="lora"))
        forecast = crew.view(job.id).forecast
        assert (forecast.card, forecast.machine) == (None, None)
        assert why in (forecast.unknown or "")
        # What its files say is still waited for.
        assert f"it needs {(40 * GB + PROCESS_BYTES) / 2**30:.1f} GiB of memory" in (crew.view(job.id).waits or "")

    def test_the_figure_that_a_person_gives_is_gone_by(self, crew: Crew, base: str) -> None:
        hello(crew, "small", 8 * GB)
        job = crew.submit(base=base, spec=LARGE, needs=Needs(memory_bytes=7 * GB))
        assert crew.hold(name="small", device="cuda", memory_bytes=8 * GB, free_memory_bytes=8 * GB).job == job.id

    def test_a_retry_waits_where_its_job_did(self, crew: Crew, base: str) -> None:
        job = crew.submit(base=base, spec=LARGE)
        crew.writer.jobs.cancel(job.id)
        hello(crew, "small", 8 * GB)
        again = crew.writer.call("POST", f"/jobs/{job.id}/retry", JobView, body=None)
        assert "the largest worker that may run it has 7.5 GiB" in (crew.view(again.id).waits or "")
        assert crew.view(again.id).forecast == crew.view(job.id).forecast

    def test_too_little_free_memory_is_said(self, crew: Crew, base: str) -> None:
        hello(crew, "full", 40 * GB, free_memory_bytes=2 * GB)
        job = crew.submit(base=base, spec=LARGE)
        assert re.fullmatch(
            r"it needs 1\d\.\d GiB of free memory, and of the idle workers that may run it none has more than 1\.9 GiB free; end .*",
            crew.view(job.id).waits or "",
        )


class TestOtherKinds:
    def test_an_evaluation_is_refused_alike_and_a_merge_has_its_own_estimate(self, crew: Crew, base: str) -> None:
        ref = crew.writer.push(new_adapter(crew.tmp_path), f"{crew.space}/m", base="tiny").ref
        hello(crew, "small", 8 * GB)

        def evaluate(target: EvaluationTarget | None = None, **spec: Any) -> JobView:
            target = target or EvaluationTarget(base=BaseChoice(id=base))
            request = EvaluationRequest(targets=[target], data=crew.data, spec=EvaluationSpec(**spec))
            return crew.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request))

        with pytest.raises(
            DoesNotFit,
            match=r"needs 14\.\d GB \(\d+ bytes\) whatever its rows, 13\.5 GB of it weights.* what fits: precision nf4 \(4\.\d GB\)$",
        ):
            evaluate(precision="native")
        # How long its rows are, nobody has said.
        evaluate(precision="nf4", batch_size=256)
        forecast = evaluate(precision="nf4").forecast
        assert 4 * GB < forecast.card.needed_bytes < 8 * GB
        # An adapter that was trained over 4 bits is scored over them.
        for method, recipe in (("qlora", QuantizationRecipe(compute_dtype="bfloat16")), ("lora", None)):
            name = f"{crew.space}/{method}"
            told: dict[str, Any] = {"method": method, "quantization": recipe}
            trained = crew.writer.push(new_adapter(crew.tmp_path), name, base=base, **told)
            target = EvaluationTarget(ref=trained.ref)
            if recipe is None:
                with pytest.raises(DoesNotFit):
                    evaluate(target)
            else:
                assert evaluate(target).forecast == forecast
        merge = crew.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=MergeRequest(ref=ref)))
        assert merge.forecast is None

    def test_of_several_bases_the_one_that_takes_most_counts(self, crew: Crew, base: str) -> None:
        hello(crew, "small", 8 * GB)

        def evaluate(*targets: EvaluationTarget) -> JobView:
            request = EvaluationRequest(targets=list(targets), data=crew.data)
            return crew.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request))

        small, large = (EvaluationTarget(base=BaseChoice(id=name)) for name in ("tiny", base))
        for asked in ((small, large), (large, small)):
            with pytest.raises(DoesNotFit, match=r"13\.5 GB of it weights"):
                evaluate(*asked)
        # Nobody asked for production over the large one.
        name = f"{crew.space}/two"
        for over in (base, "tiny"):
            ref = crew.writer.push(new_adapter(crew.tmp_path), name, base=over).ref
            if over == base:
                crew.world.admin.set_alias(name, "production", 1)
        job = evaluate(EvaluationTarget(ref=ref))
        assert [one.get("ref") for one in job.request["targets"]] == [ref, None]


class TestPeaks:
    def _train(self, crew: Crew, measured: float, device: str = "H100") -> JobView:
        job = crew.submit()
        metrics = {
            "loss": 1.0,
            "forecast_bytes": 10.0 * GB,
            "peak_memory_bytes": measured * GB,
            "base_parameters": 1e9,
            "tokens": 1e6,
            "train_s": 100.0,
        }
        crew.complete(crew.hold(), metrics=metrics, training={"device_name": device})
        return crew.view(job.id)

    def test_what_jobs_took_is_kept_and_learnt_by_device(self, crew: Crew, acting: Callable[..., Client]) -> None:
        first = self._train(crew, 9.0).peak
        assert (first.device, first.forecast_bytes, first.measured_bytes, first.learnt) == (
            "H100",
            10 * GB,
            9 * GB,
            None,
        )
        for measured in (9.2, 9.4, 9.6):
            self._train(crew, measured)
        self._train(crew, 5.0, device="cpu")
        assert crew.writer.workers.devices() == []
        last = self._train(crew, 9.8).peak
        assert (last.learnt.jobs, last.learnt.ratio) == (5, 0.94)
        assert last.learnt.spread == pytest.approx(0.0283, abs=1e-4)
        assert last.learnt.parameter_tokens_per_s == 1e13
        assert crew.writer.workers.devices() == [last.learnt]
        config = {**LLAMA_2_7B, "num_hidden_layers": 2}
        crew.world.admin.bases.register(base_registration(f"planned-{crew.space}", config=config))
        assert crew.writer.plan(f"planned-{crew.space}").learnt == [last.learnt]
        # What other teams' jobs took is nobody else's.
        assert acting(elsewhere=Role.WRITER).workers.devices() == []

    def test_a_training_that_says_neither_is_none_to_learn_from(self, crew: Crew) -> None:
        job = crew.submit()
        crew.complete(crew.hold(), metrics={"loss": 1.0, "peak_memory_bytes": 1e9}, training={"device_name": "H100"})
        assert crew.view(job.id).peak is None
