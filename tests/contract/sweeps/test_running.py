"""A sweep from its beginning to the version of its winner."""

from __future__ import annotations

from contract.sweeps.helpers import Desk
from support.usage import differing, mismeasured


class TestGrid:
    def test_winner_becomes_a_version_with_the_sweep_in_its_record(self, desk: Desk) -> None:
        sweep = desk.begin()
        assert (sweep.state, sweep.most_members, len(sweep.members)) == ("running", 3, 3)
        desk.train_all(1.2, 0.9, 1.1)
        ended = desk.view(sweep)
        assert (ended.state, ended.winner, ended.message) == ("ended", 2, None)
        assert [(member.state, member.outcome, member.ref) for member in ended.members] == [
            ("succeeded", "finished", None),
            ("succeeded", "finished", f"{desk.crew.space}/a@v1"),
            ("succeeded", "finished", None),
        ]
        version = desk.writer.get(f"{desk.crew.space}/a@v1").info
        assert version.training is not None
        assert version.training["sweep"] == f"{sweep.id}/2"
        assert version.job is not None
        assert (version.job.id, version.metrics["eval_loss"]) == (ended.members[1].job, 0.9)

    def test_what_it_takes_is_counted_for_its_namespace(self, desk: Desk) -> None:
        services = desk.world.services
        before = desk.writer.quotas.get(desk.crew.space).checkpoints_bytes
        desk.begin(publish="none")
        desk.finish(desk.hold(), 1.0)
        assert desk.writer.quotas.get(desk.crew.space).checkpoints_bytes > before
        desk.train_all(0.9, 0.8)
        assert (differing(desk.world), mismeasured(services, desk.crew.space)) == ({}, [])
