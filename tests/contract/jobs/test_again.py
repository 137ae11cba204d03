"""Trainings that are made again from the record of a version: what is asked for is the same, and what is gone is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contract.jobs.helpers import Crew, use_of
from support import calls
from support.adapters import SPEC, base_registration
from support.people import SEEDS, new_adapter

from sdk.errors import InvalidInput, NotFound
from sdk.schemas.job_requests import ParentChoice
from sdk.schemas.jobs import JobView
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.work import Assignment
from sdk.version import VERSION

RAN = {"device": "cpu", "threads": 2, "dtype": "float32", "loop": 1}
#: What a job is asked for, but for its adapter and what it is again.
_OWN = ("adapter", "like", "checkpoint")


def complete(crew: Crew, held: Assignment, folder: Path, base: str = "tiny", **training: Any) -> JobView:
    request: Any = held.request
    said = {"training": {**RAN, **training}, "metrics": {"loss": 1.0}, "libraries": {"torch": "2.13"}}
    use, over = use_of(request.data), f"{base}: base"
    version = calls.publication(crew.worker, folder, request.adapter, base=over, dataset=use, **said)
    return calls.complete(crew.worker, held, version=version)


@pytest.fixture
def made(crew: Crew) -> tuple[str, Path]:
    """A version, and the files of its adapter."""
    folder = new_adapter(crew.tmp_path)
    crew.submit(template_date="2026-01-31", spec=SPEC.model_copy(update={"seed": next(SEEDS), "lr": 3e-4}))
    done = complete(crew, crew.hold(version=VERSION), folder)
    return done.result["ref"], folder


def again(crew: Crew, ref: str, name: str = "b", **given: Any) -> JobView:
    return crew.writer.submit_training(f"{crew.space}/{name}", like=ref, **given).view


class TestAgain:
    def test_all_but_its_name_is_the_same(self, crew: Crew, made: tuple[str, Path]) -> None:
        ref, folder = made
        job = again(crew, ref)
        earlier = crew.writer.jobs.view(crew.writer.get(ref).info.job.id)  # type: ignore[union-attr]
        assert {key: value for key, value in job.request.items() if key not in _OWN} == {
            key: value for key, value in earlier.request.items() if key not in _OWN
        }
        assert job.request["template_date"] == "2026-01-31"
        assert job.request["like"] == {
            "ref": ref,
            "digest": crew.writer.get(ref).digest,
            "ran_with": {"base": "tiny", "base_revision": "0" * 40, "torch": "2.13", **RAN},
        }
        done = complete(crew, crew.hold(version=VERSION), folder)
        assert (done.result["same"], done.result.get("warnings")) == (True, None)
        assert done.result["digest"] == crew.writer.get(ref).digest
        # Its own record says how it was asked for, so it may be made again, too.
        assert again(crew, done.result["ref"], "c").request["like"]["ref"] == done.result["ref"]

    def test_other_bytes_are_warned_of(self, crew: Crew, made: tuple[str, Path]) -> None:
        ref, _ = made
        again(crew, ref)
        done = complete(crew, crew.hold(version=VERSION), new_adapter(crew.tmp_path))
        assert done.result["same"] is False
        assert done.result["warnings"] == [f"its files are not those of {ref}; the job's log names what differs"]

    @pytest.mark.parametrize(
        "given", [{"lr": 1e-3}, {"base": "tiny"}, {"data": "rows"}, {"parent": "a@v1"}, {"rank": 2, "alpha": 4.0}]
    )
    def test_nothing_else_is_chosen_beside_it(self, crew: Crew, made: tuple[str, Path], given: dict[str, Any]) -> None:
        with pytest.raises(
            InvalidInput, match=f"{' and '.join(given)} of the training of {made[0]} (is|are) in its record"
        ):
            again(crew, made[0], **given)

    def test_nor_by_whoever_asks_the_registry_itself(self, crew: Crew, made: tuple[str, Path]) -> None:
        ref, _ = made
        asked = crew.body(template_date="2026-01-31")
        for like, said in (
            (RecordedTraining(ref=ref), "was trained with another lr, seed, so this is not its training"),
            (RecordedTraining(ref=ref, digest="0" * 64), "name the version that is meant"),
        ):
            request = asked.request.model_copy(update={"like": like})
            with pytest.raises(InvalidInput, match=said):
                crew.writer.call("POST", "/jobs", JobView, body=asked.model_copy(update={"request": request}))

    def test_what_it_ran_with_is_in_the_record_whatever_is_said(self, crew: Crew, made: tuple[str, Path]) -> None:
        ref, _ = made
        earlier = crew.writer.jobs.view(crew.writer.get(ref).info.job.id)  # type: ignore[union-attr]
        like = {"ref": ref, "ran_with": {"threads": 99}}
        body = crew.body()
        request = type(body.request).model_validate({**earlier.request, "like": like})
        job = crew.writer.call("POST", "/jobs", JobView, body=body.model_copy(update={"request": request}))
        assert job.request["like"]["ran_with"]["threads"] == 2

    def test_a_base_of_another_name_is_the_same_base(self, crew: Crew, made: tuple[str, Path]) -> None:
        ref, _ = made
        earlier = crew.writer.jobs.view(crew.writer.get(ref).info.job.id)  # type: ignore[union-attr]
        base = base_registration("tiny").model_copy(update={"id": f"renamed-{crew.space}"})
        crew.world.admin.bases.register(base)
        asked = {**earlier.request, "base": {**earlier.request["base"], "id": base.id}, "like": {"ref": ref}}
        body = crew.body()
        request = type(body.request).model_validate(asked)
        job = crew.writer.call("POST", "/jobs", JobView, body=body.model_copy(update={"request": request}))
        assert job.request["like"]["ran_with"]["base"] == "tiny"

    def test_a_version_of_a_checkpoint_is_no_whole_training(self, crew: Crew) -> None:
        crew.submit()
        held = crew.hold(version=VERSION)
        folder = new_adapter(crew.tmp_path)
        done = complete(crew, held, folder, checkpoint_step=2)
        with pytest.raises(InvalidInput, match="was published from a checkpoint, at step 2, and a training goes on"):
            again(crew, done.result["ref"])


class TestWhatIsGone:
    def test_a_version_that_nobody_trained_here(self, crew: Crew) -> None:
        ref = crew.writer.push(new_adapter(crew.tmp_path), f"{crew.space}/pushed", base="tiny").ref
        with pytest.raises(
            InvalidInput, match=f"{ref} was pushed, so its record doesn't say how it was trained"
        ) as caught:
            again(crew, ref)
        assert caught.value.param == "like"
        request = crew.body().request.model_copy(update={"like": RecordedTraining(ref=ref)})
        with pytest.raises(InvalidInput, match=f"no training of this registry made {ref}"):
            crew.writer.call("POST", "/jobs", JobView, body=crew.body().model_copy(update={"request": request}))

    def test_its_rows(self, crew: Crew, made: tuple[str, Path]) -> None:
        crew.writer.datasets.remove(crew.data)
        with pytest.raises(
            NotFound, match=f"the dataset {crew.data[:12]} of {made[0]} was removed; add its file again"
        ) as caught:
            again(crew, made[0])
        assert caught.value.param == "like"

    def test_its_base(self, crew: Crew) -> None:
        name = f"gone-{crew.space}"
        crew.world.admin.bases.register(base_registration(name))
        crew.submit(base=name)
        done = complete(crew, crew.hold(version=VERSION), new_adapter(crew.tmp_path), name)
        crew.world.admin.bases.remove(name)
        with pytest.raises(
            NotFound, match=rf"the base {name} \([0-9a-f]{{12}}\) of .* is no longer registered; add it again"
        ):
            again(crew, done.result["ref"])

    def test_the_version_that_it_continued(self, crew: Crew) -> None:
        parent = crew.writer.push(new_adapter(crew.tmp_path), f"{crew.space}/first", base="tiny", method="lora").ref
        body = crew.body()
        request = body.request.model_copy(update={"parent": ParentChoice(ref=parent)})
        crew.writer.call("POST", "/jobs", JobView, body=body.model_copy(update={"request": request}))
        done = complete(crew, crew.hold(version=VERSION), new_adapter(crew.tmp_path))
        assert again(crew, done.result["ref"]).request["parent"]["ref"] == parent
        crew.writer.versions.archive(parent)
        with pytest.raises(InvalidInput, match=f"{parent} is archived, and only ready versions are continued"):
            again(crew, done.result["ref"])

    def test_a_version_that_there_is_not(self, crew: Crew) -> None:
        with pytest.raises(NotFound):
            again(crew, f"{crew.space}/none@v1")
