"""A base's name that means different bases to somebody: it is refused wherever it is taken, and each can be said exactly."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from contract.bases.helpers import Tenant
from support.calls import claim
from support.people import submit
from support.registries import World
from support.small import write_adapter

from registry.principal import Role
from sdk.client import Client
from sdk.errors import InvalidBase, InvalidInput, NotFound
from sdk.formats.refs import looks_like_digest
from sdk.schemas.catalog import BaseView
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.job_requests import BaseChoice, EvaluationRequest, EvaluationTarget, TrainingRequest
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.training import TrainingSpec

SPEC: Any = {"method": "lora", "rank": 4, "targets": "qv"}


@dataclass(frozen=True)
class Scene:
    """A published base, and that of a namespace under the same id; somebody who writes there and in another namespace."""

    both: Client
    ours: Tenant
    theirs: Tenant
    id: str
    published: BaseView
    own: BaseView
    folder: Path

    def adapter(self) -> Path:
        """The folder of a new adapter over either base."""
        return write_adapter(self.folder / uuid.uuid4().hex, value=uuid.uuid4().int % 10**6 / 1e6)


@pytest.fixture
def scene(join: Callable[..., Tenant], admin: Client, tmp_path: Path) -> Scene:
    theirs = join()
    ours = join(**{theirs.space: Role.WRITER})
    name = f"pub-{uuid.uuid4().hex[:6]}"
    published = admin.bases.add(ours.base(), id=name, namespace="*", upload=True)
    own = theirs.register(theirs.base(), id=name, upload=True)
    return Scene(ours.client, ours, theirs, name, published, own, tmp_path)


def test_a_name_of_two_bases_is_refused_and_both_are_listed(scene: Scene) -> None:
    for ask in (
        lambda: scene.both.bases.get(scene.id),
        lambda: scene.both.bases.get(scene.id, namespace=scene.theirs.space),
        lambda: scene.both.plan(scene.id),
        lambda: scene.both.lineage(f"base:{scene.id}"),
        lambda: scene.both.compare([f"base:{scene.id}", f"base:{scene.own.fingerprint}"]),
        lambda: scene.both.push(scene.adapter(), f"{scene.theirs.space}/a", base=scene.id),
    ):
        with pytest.raises(InvalidInput, match="means different bases") as caught:
            ask()
        said = caught.value.message
        assert said.index(f"{scene.published.fingerprint[:12]} published, no revision") < said.index(
            f"{scene.own.fingerprint[:12]} of the namespace '{scene.theirs.space}', no revision"
        )
        assert "--published, or --base-namespace NAMESPACE" in said
        assert caught.value.param == "base"


def test_each_of_two_bases_of_a_name_is_said_exactly(scene: Scene) -> None:
    space, both = scene.theirs.space, scene.both
    for view, how in ((scene.published, {"published": True}), (scene.own, {"base_namespace": space})):
        whose: Any = how
        assert both.bases.get(scene.id, **whose).fingerprint == view.fingerprint
        assert both.bases.get(view.fingerprint[:12]).fingerprint == view.fingerprint
        # It was found, and is too small to be planned for.
        with pytest.raises(InvalidBase, match="says no vocab_size"):
            both.plan(scene.id, **whose)
        assert both.lineage(f"base:{scene.id}", **whose).root == f"base:{view.fingerprint}"
        made = both.push(scene.adapter(), f"{space}/a", base=scene.id, **whose)
        assert made.info.base.fingerprint == view.fingerprint
        both.versions.require_base(made, scene.id, **whose)
    assert both.bases.get(scene.id, base_namespace="*").fingerprint == scene.published.fingerprint
    with pytest.raises(NotFound, match=f"no base '{scene.id}' of the namespace '{scene.ours.space}'"):
        both.bases.get(scene.id, base_namespace=scene.ours.space)
    with pytest.raises(NotFound, match="no namespace 'secret' that this token may see"):
        both.bases.get(scene.id, base_namespace="secret")
    with pytest.raises(InvalidInput, match="give base_namespace or published"):
        both.bases.get(scene.id, base_namespace=space, published=True)


def test_work_in_a_namespace_is_not_disturbed_by_what_another_calls_its_base(scene: Scene) -> None:
    assert scene.both.bases.get(scene.id, namespace=scene.ours.space).fingerprint == scene.published.fingerprint
    made = scene.both.push(scene.adapter(), f"{scene.ours.space}/a", base=scene.id)
    assert made.info.base.fingerprint == scene.published.fingerprint
    # Nor is the base of another namespace used by asking for it.
    with pytest.raises(NotFound, match="of the namespace"):
        scene.both.push(scene.adapter(), f"{scene.ours.space}/a", base=scene.id, base_namespace=scene.theirs.space)


def test_a_base_that_several_namespaces_have_is_one(scene: Scene, admin: Client) -> None:
    folder = scene.theirs.base(name="shared")
    admin.bases.add(folder, id=f"{scene.id}-same", namespace="*")
    mine = scene.theirs.register(folder, id=f"{scene.id}-same")
    assert scene.both.bases.get(mine.id).namespace == scene.theirs.space
    assert scene.both.bases.get(mine.id, published=True).namespace == "*"


def test_an_admin_removes_the_base_that_was_meant(scene: Scene, admin: Client, join: Callable[..., Tenant]) -> None:
    boss = join(scene.theirs.space, Role.ADMIN).client
    for change in (boss.bases.remove, lambda name: boss.bases.fix(name, location="file:///x"), admin.bases.remove):
        with pytest.raises(InvalidInput, match="means different bases"):
            change(scene.id)
    # By the fingerprint, too, it is there more than once.
    again = admin.bases.add(Path(scene.own.location.removeprefix("file://")), id="also", namespace="*")  # type: ignore[union-attr]
    with pytest.raises(InvalidInput, match=f"more than once \\(published, {scene.theirs.space}\\)"):
        admin.bases.remove(again.fingerprint)
    boss.bases.remove(scene.id, namespace=scene.theirs.space)
    assert scene.both.bases.get(scene.id).fingerprint == scene.published.fingerprint
    admin.bases.remove(scene.id, namespace="*")
    with pytest.raises(NotFound):
        scene.both.bases.get(scene.id)
    assert admin.bases.get(again.fingerprint).id == "also"


def test_what_was_pulled_is_pushed_over_the_base_that_it_belongs_to(scene: Scene, tmp_path: Path) -> None:
    """Its config has a name alone, which means another base where it is pushed."""
    made = scene.both.push(scene.adapter(), f"{scene.theirs.space}/a", base=scene.own.fingerprint)
    scene.both.pull(made.ref, to=tmp_path / "pulled", base_name="keep")
    config = tmp_path / "pulled" / "adapter_config.json"
    assert json.loads(config.read_text())["base_model_name_or_path"] == scene.id
    again = scene.both.versions.push(tmp_path / "pulled", f"{scene.theirs.space}/b", base=None)
    assert again.version.base.fingerprint == scene.own.fingerprint
    # There, the name means the published base, and this one is not known.
    with pytest.raises(NotFound, match=f"no base '{scene.own.fingerprint}'"):
        scene.both.versions.push(tmp_path / "pulled", f"{scene.ours.space}/b", base=None)
    # A config that was changed says no more than its name.
    config.write_text(config.read_text() + "\n")
    with pytest.raises(InvalidInput, match="means different bases"):
        scene.both.versions.push(tmp_path / "pulled", f"{scene.theirs.space}/c", base=None)
    whose = {"published": True, "base": None}
    pushed = scene.both.versions.push(tmp_path / "pulled", f"{scene.theirs.space}/c", **whose)  # type: ignore[arg-type]
    assert pushed.version.base.fingerprint == scene.published.fingerprint


class TestJobs:
    @pytest.fixture
    def data(self, scene: Scene, rows: Path) -> str:
        return scene.theirs.client.datasets.add(rows, namespace=scene.theirs.space).digest

    def test_a_job_is_pinned_to_the_base_that_was_said(
        self, scene: Scene, data: str, people: World, join: Callable[..., Tenant]
    ) -> None:
        """Whatever the name comes to mean, retries and claims have the fingerprint."""
        name = f"{scene.ours.space}/a"
        rows = scene.both.datasets.add(scene.ours.folder.parent / "rows.jsonl", namespace=scene.ours.space).digest
        first = scene.both.submit_training(name, base=scene.id, data=rows, **SPEC)
        assert first.view.request["base"]["fingerprint"] == scene.published.fingerprint
        scene.ours.register(scene.ours.base(), id=scene.id, upload=True)
        with pytest.raises(InvalidInput, match="means different bases"):
            scene.both.submit_training(name, base=scene.id, data=rows, **SPEC)
        second = scene.both.submit_training(name, base=scene.id, data=rows, published=True, **SPEC)
        first.cancel()
        again = scene.both.jobs.retry(first.id)
        worker = join(scene.ours.space, Role.WORKER).client
        for job in (second.id, again.id):
            assert scene.both.jobs.view(job).request["base"]["fingerprint"] == scene.published.fingerprint
        for _ in (second, again):
            held = claim(worker)
            assert (held.base.fingerprint, held.base.namespace) == (scene.published.fingerprint, "*")

    def test_every_kind_of_job_says_whose_base_is_meant(self, scene: Scene, data: str) -> None:
        space, both = scene.theirs.space, scene.both
        whose: Any
        for view, whose in ((scene.published, {"published": True}), (scene.own, {"base_namespace": space})):
            jobs = [
                both.submit_training(f"{space}/a", base=scene.id, data=data, **whose, **SPEC),
                scene.theirs.client.datasets.submit_preview(data, base=scene.id, **whose),
            ]
            score = scene.theirs.client.submit_evaluation(f"base:{scene.id}", data=data, **whose)
            found = [job.view.request["base"] for job in jobs] + [score.view.request["targets"][0]["base"]]
            assert [base["fingerprint"] for base in found] == [view.fingerprint] * 3
            for job in (*jobs, score):
                job.cancel()
        with pytest.raises(InvalidInput, match="means different bases"):
            scene.theirs.client.submit_evaluation(f"base:{scene.id}", data=data)
        with pytest.raises(InvalidInput, match="means different bases"):
            scene.theirs.client.datasets.submit_preview(data, base=scene.id)

    def test_a_bare_request_says_it_too(self, scene: Scene, data: str) -> None:
        """Clients that send an id and no fingerprint."""

        def body(**whose: Any) -> JobSubmission:
            base = BaseChoice(id=scene.id, **whose)
            return JobSubmission(
                request=TrainingRequest(
                    adapter=f"{scene.theirs.space}/a", base=base, data=data, spec=TrainingSpec(**SPEC)
                )
            )

        with pytest.raises(InvalidInput, match="means different bases"):
            submit(scene.both, body())
        for view, whose in (
            (scene.published, {"published": True}),
            (scene.own, {"base_namespace": scene.own.namespace}),
        ):
            pinned = submit(scene.both, body(**whose)).request["base"]
            assert pinned == {"id": scene.id, "revision": None, "fingerprint": view.fingerprint}
        with pytest.raises(InvalidInput, match="leave out base_namespace and published, or revision"):
            submit(scene.both, body(revision="0" * 40, published=True))

    def test_scores_of_two_bases_of_one_name_are_not_mixed_up(self, scene: Scene, data: str) -> None:
        views = (scene.published, scene.own)
        targets = [EvaluationTarget(base=BaseChoice(id=view.id, fingerprint=view.fingerprint)) for view in views]
        request = EvaluationRequest(targets=targets, data=data, spec=EvaluationSpec())
        with pytest.raises(InvalidInput, match="two different bases are called") as caught:
            submit(scene.theirs.client, JobSubmission(request=request))
        assert caught.value.param == "targets"


def test_digits_that_fit_several_bases_are_refused_however_many_know_the_first(
    people: World, join: Callable[..., Tenant]
) -> None:
    """A namespace and all knew the nearest one, so that the other one was never looked at."""
    tenant, admin = join(), people.admin
    digits = f"{uuid.uuid4().int:x}"[:12].rjust(12, "0")
    assert looks_like_digest(digits)
    first, second = (f"{digits}{number:052x}" for number in (1, 2))
    for client, space, fingerprint in ((tenant.client, tenant.space, first), (admin, "*", second), (admin, "*", first)):
        scanned = tenant.scan(tenant.base()).registration
        said = {"fingerprint": fingerprint, "weights_digest": "1" * 64, "manifest": None, "namespace": space}
        client.bases.register(scanned.model_copy(update={**said, "id": f"b-{fingerprint[-4:]}-{digits}"}))
    for namespace in (tenant.space, None):
        with pytest.raises(InvalidInput, match="more digits"):
            tenant.client.bases.get(digits, namespace=namespace)
    assert tenant.client.bases.get(f"{digits}{0:048x}", base_namespace=tenant.space).fingerprint == first
