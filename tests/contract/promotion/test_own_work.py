"""Nobody approves what they have trained or pushed, under whatever name it was made."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from contract.promotion.databases import ON_BOTH
from contract.promotion.scene import Scene
from contract.promotion.votes import give, listed, makers, message, version_of
from sqlalchemy import delete
from support.adapters import SPEC, digest
from support.people import SEEDS
from support.registries import World
from support.working import Held

from registry.catalog.models import Origin
from registry.catalog.versions.lifecycle import VersionState
from registry.errors import Forbidden, NotFound
from registry.jobs.models import Attempt, Job
from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.schemas.catalog import VersionMove
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission


@pytest.fixture
def scene(people: World, tmp_path: Path) -> Scene:
    return Scene(people, tmp_path / "scene")


class TestOwnWork:
    def test_who_pushed_a_version_is_refused(self, scene: Scene) -> None:
        number = scene.publish(by="ann")
        scene.policy(approvals=1)
        with pytest.raises(Forbidden, match=r"ann trained or pushed .* nobody approves their own work; ask somebody"):
            give(scene, number, "ann")
        give(scene, number, "ben")
        scene.move(number, by="ann")

    def test_who_pushes_it_later_no_longer_counts(self, scene: Scene) -> None:
        seed = next(SEEDS)
        number = scene.publish(seed=seed)
        scene.policy(approvals=1)
        give(scene, number, "ann")
        assert scene.publish(seed=seed, by="ann") == number
        assert "ann (who trained or pushed a version doesn't approve it)" in message(scene, number)
        assert listed(scene) == {"ann approve": "who trained or pushed a version doesn't approve it"}

    def test_bytes_that_exist_as_two_versions_are_one_person_s_work(self, scene: Scene) -> None:
        seed = next(SEEDS)
        first = scene.publish(by="ann", seed=seed)
        move = VersionMove(ref=f"{scene.adapter()}@v{first}", reason="again")
        scene.services.version_states.move(move, VersionState.DELETED, who=scene.who("boss"))
        second = scene.publish(seed=seed)
        assert second != first
        scene.policy(approvals=1)
        with pytest.raises(NotFound, match="was deleted"):
            give(scene, first, "ben")
        with pytest.raises(Forbidden, match="ann trained or pushed"):
            give(scene, second, "ann")
        give(scene, second, "ben")
        scene.move(second, by="cat")

    @ON_BOTH
    def test_a_copy_is_the_work_of_who_pushed_the_original(self, scene: Scene, people: World, tmp_path: Path) -> None:
        """In another namespace only the token tells who it is: the name may be somebody else's there."""
        other = Scene(people, tmp_path / "other")
        grants = {scene.space: Role.PROMOTER, other.space: Role.WRITER}
        both = people.services.tokens.create(name=f"{scene.space} both", grants=grants, who=LOCAL)
        scene.secrets["both"] = other.secrets["both"] = both.secret
        namesake = people.services.tokens.create(
            name=f"{scene.space} ann", grants={other.space: Role.WRITER}, who=LOCAL
        )
        other.secrets["namesake"] = namesake.secret
        seed = next(SEEDS)
        other.publish(by="both", seed=seed)
        other.publish("b", by="namesake", seed=seed)
        copied = scene.publish(seed=seed)
        scene.policy(approvals=1)
        with pytest.raises(Forbidden, match="both trained or pushed"):
            give(scene, copied, "both")
        assert give(scene, copied, "ann").void is None

    @ON_BOTH
    def test_who_asked_for_a_training_and_whose_worker_did_it_are_its_makers(
        self, scene: Scene, people: World, tmp_path: Path
    ) -> None:
        data = scene.rows()
        base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
        request = TrainingRequest(adapter=scene.adapter(), base=base, data=data, spec=SPEC)
        # An admin may work, too.
        scene.hire("worker", Role.ADMIN)
        first = scene.services.jobs.submit(submission=JobSubmission(request=request), who=scene.who("cat"))
        with closing(Client(people.url, scene.secrets["worker"], cache=tmp_path / "cache")) as client:
            Held.claim(client, tmp_path, name=scene.space).fail()
            job = scene.services.jobs.retry(first.id, who=scene.who("ann"))
            held = Held.claim(client, tmp_path, name=scene.space)
            assert held.job == job.id
            done = held.complete()
        ref = str((done.result or {})["ref"])
        number = int(ref.rpartition("@v")[2])
        scene.policy(approvals=1)
        for name in ("worker", "ann", "cat"):
            with pytest.raises(Forbidden, match=f"{name} trained or pushed"):
                give(scene, number, name)
        assert give(scene, number, "ben").void is None
        # The names stay when attempts and jobs of long ago are forgotten.
        with scene.services.db.write() as session:
            session.execute(delete(Attempt).where(Attempt.job_id == job.id))
        made = makers(scene, number)
        assert made.include(None, f"{scene.space} worker")
        assert made.include(scene.who("ann").owner, "")

    @ON_BOTH
    def test_jobs_of_long_chains_and_circles_are_followed(self, scene: Scene) -> None:
        """However a chain of retries and checkpoints was stored, whoever stands in it is found, and it ends."""
        number = scene.publish()
        owners = [f"token:{number:016x}" for number in range(30)]
        with scene.services.db.write() as session:
            pk = version_of(session, scene, number).pk
            for at, owner in enumerate(owners):
                back = f"{scene.space}{(at + 1) % 30}"
                session.add(
                    Job(
                        id=f"{scene.space}{at}",
                        namespace=scene.space,
                        kind="training",
                        state="succeeded",
                        subject="x",
                        request={"from_checkpoint": None if at % 2 else {"job": back, "step": 1}},
                        request_digest="0" * 64,
                        owner=owner,
                        retry_of=back if at % 2 else None,
                        created_by=f"person {at}",
                    )
                )
            session.add(
                Origin(version_pk=pk, job=f"{scene.space}0", attempt=1, metrics={}, libraries={}, created_by="someone")
            )
        made = makers(scene, number)
        assert set(owners) <= made.owners
        assert {f"person {at}" for at in range(30)} <= made.names
