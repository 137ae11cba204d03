"""What one tenant is told and what its jobs work on is the same whether another tenant is there or not, whatever that
one does.
"""

from __future__ import annotations

import itertools
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from contract.tenancy.child import files_of
from contract.tenancy.history import ADMIN, ATTACKER, VICTIM, Step, draw, step
from contract.tenancy.house import empty_database, house
from contract.tenancy.shrinking import shrink
from contract.tenancy.transcript import Difference, Transcript, differences
from contract.tenancy.universe import Universe
from support.soak import SOAKING, scale

pytestmark = pytest.mark.slow

#: Histories that are played while a failing one is made shorter.
_SHRINKING = 120


class Stage:
    """Where histories are played, with and without the attacker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.universe = Universe(folder / "universe")
        self._empty = empty_database(folder / "empty.sqlite3")
        self._runs = itertools.count()
        #: What comes of a history without the attacker's steps, which are left out of the shorter ones first.
        self._alone: dict[tuple[bool, tuple[Step, ...]], Transcript] = {}

    def play(self, history: Sequence[Step], *, with_attacker: bool, with_pages: bool = False) -> Transcript:
        """Play a history on a new registry."""
        folder = self._folder / f"run-{next(self._runs)}"
        with house(folder, self.universe, empty=self._empty, with_attacker=with_attacker) as made:
            return made.play(history, with_pages=with_pages)

    def compare(self, history: Sequence[Step], *, with_pages: bool = False) -> list[Difference]:
        """What the victim is told otherwise because the attacker is there; with what pages say, which are many."""
        alone = with_pages, tuple(step for step in history if step.who != ATTACKER)
        if alone not in self._alone:
            self._alone[alone] = self.play(alone[1], with_attacker=False, with_pages=with_pages)
        beside = self.play(history, with_attacker=True, with_pages=with_pages)
        return list(differences(self._alone[alone], beside))

    def explain(self, history: Sequence[Step]) -> str:
        """The shortest history that still fails, and what differs in it."""
        # Should it take too long to find that.
        print("differs:", *self.compare(history, with_pages=True), sep="\n")
        left = shrink(history, lambda shorter: bool(self.compare(shorter, with_pages=True)), most=_SHRINKING)
        steps = "\n".join(f"    {step}" for step in left)
        found = "\n".join(map(str, self.compare(left, with_pages=True)))
        return f"another tenant makes a difference:\n{steps}\n{found}"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    # Where there is a file system in memory, since hundreds of registries would mostly wait for a disk.
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="adapterctl-tenancy-", dir=memory if memory.is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patched,
    ):
        # Asking again and again for a hub that is out of reach takes half a minute, in which leases run out.
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield Stage(Path(folder))


_OPENING = (
    step(VICTIM, "base_add", base=2, id="id:llama", how="uploaded", by="ci"),
    step(VICTIM, "data_add", data=0, name="name:rows.jsonl"),
    step(VICTIM, "train", adapter="mine/a", base="id:llama", data="digest:0", seed=1, key="nightly"),
)
_TRAIN = {"adapter": "mine/a", "base": "fingerprint:2", "data": "digest:0", "seed": 1}
_END = (step(ADMIN, "work"), step(VICTIM, "get", ref="mine/a@v1"))


def _attacked(*attack: Step, before: bool = False) -> list[Step]:
    return [*attack, *_OPENING, *_END] if before else [*_OPENING, *attack, *_END]


def _their_base(how: str, **changed: object) -> Step:
    return step(ATTACKER, "base_add", **{"base": 2, "id": "id:llama", "how": how, "by": "ci", **changed})


#: What was possible once, each as a history that is as short as it can be.
SEEN = {
    "rows of another's under the digest of one's own": _attacked(step(ATTACKER, "data_add", data=1, name="digest:0")),
    "rows of another's under the first digits of it": _attacked(
        step(ATTACKER, "data_add", data=1, name="prefix:0"), step(VICTIM, "data_get", data="prefix:0")
    ),
    "another's name for one's own rows": _attacked(
        step(ATTACKER, "data_add", data=0, name="name:held-out.jsonl"), before=True
    ),
    "files of another's beside those of one's base": _attacked(_their_base("extra files")),
    "files of another's beside those of one's base, first": _attacked(_their_base("extra files"), before=True),
    "other weights under the fingerprint of one's base": _attacked(_their_base("other weights")),
    "another's place for one's base": _attacked(_their_base("elsewhere")),
    "another's place for one's base, first": _attacked(_their_base("elsewhere"), before=True),
    "another's shapes for one's base": _attacked(_their_base("other shapes"), before=True),
    "another's files for what one says of a base": [
        step(ATTACKER, "base_add", base=2, id="id:house", how="uploaded", by="ci"),
        step(VICTIM, "base_add", base=2, id="id:mistral", how="other shapes", by="ci"),
        step(VICTIM, "push", payload=3, adapter="mine/a", base="id:mistral"),
    ],
    "another's files for what one's worker says of a base": [
        step(VICTIM, "base_add", base=2, id="id:mistral", how="other shapes", by="gpu"),
        step(ATTACKER, "base_add", base=2, id="id:house", how="uploaded", by="ci"),
        step(VICTIM, "push", payload=3, adapter="mine/a", base="id:mistral"),
    ],
    "another base under the id of one's own": [
        _OPENING[0],
        _their_base("uploaded", base=1),
        *_OPENING[1:],
        *_END,
    ],
    "another's job for one's own key": [
        *_OPENING[:2],
        _their_base("folder"),
        step(ATTACKER, "hello", worker="gpu-1", shares="all"),
        step(ATTACKER, "data_add", data=1, name="name:rows.jsonl"),
        step(ATTACKER, "train", **{**_TRAIN, "data": "digest:1"}, key="nightly"),
        *_OPENING[2:],
        *_END,
    ],
    "rows that one has given up, and another has": [
        *_OPENING[:2],
        step(VICTIM, "train", **{**_TRAIN, "seed": 3}),
        step(ADMIN, "work"),
        step(VICTIM, "data_remove", data="digest:0"),
        step(ATTACKER, "data_add", data=0, name="name:rows.jsonl"),
        step(VICTIM, "job_retry", job="mine:0"),
        step(ADMIN, "work"),
    ],
    "one's worker, taken away by another": [
        step(VICTIM, "hello", worker="gpu-1", shares="nothing"),
        step(ATTACKER, "leave", worker="gpu-1"),
        step(VICTIM, "work_list"),
    ],
    "scores of another's for the same bytes, and of the same base": [
        *_OPENING[:2],
        step(VICTIM, "push", payload=0, adapter="mine/a", base="id:llama"),
        step(VICTIM, "push", payload=1, adapter="mine/a", base="id:llama"),
        step(VICTIM, "evaluate", target="mine/a@v1", data=0, key=None),
        step(VICTIM, "evaluate", target="mine/a@v2", data=0, key=None),
        step(ADMIN, "work"),
        _their_base("uploaded"),
        step(ATTACKER, "data_add", data=0, name="name:rows.jsonl"),
        step(ATTACKER, "push", payload=1, adapter="mine/b", base="fingerprint:2"),
        step(ATTACKER, "evaluate", target="mine/b@v1", data=0, key=None),
        step(ATTACKER, "evaluate", target="fingerprint:2", data=0, key=None),
        step(ATTACKER, "work", name="gpu-1"),
    ],
    "a folder that another's worker says it shares": [
        step(ATTACKER, "hello", worker="gpu-2", shares="all"),
        step(VICTIM, "base_add", base=2, id="id:llama", how="folder", by="ci"),
        *_OPENING[1:],
    ],
}


@pytest.mark.parametrize("name", SEEN)
def test_what_was_possible_once_makes_no_difference_now(name: str, stage: Stage) -> None:
    found = stage.compare(SEEN[name])
    assert not found, "\n".join(map(str, found))


def test_a_history_is_a_real_one(stage: Stage) -> None:
    # Else nothing would differ because nothing happens.
    said = dict(stage.play([*_OPENING, *_END], with_attacker=False).answers)
    assert said["4. victim get ref='mine/a@v1'"]["answer"]["dataset"]["digest"] == stage.universe.data_digests[0]
    (read,) = said["what the worker read for job 0"]
    assert read["data"] == [stage.universe.data_digests[0]]
    assert read["base"] == files_of(stage.universe.bases[2])


def test_a_reader_of_both_has_something_to_compare(stage: Stage) -> None:
    # Else nothing would differ because nothing is scored, or can be compared.
    forged = SEEN["scores of another's for the same bytes, and of the same base"]
    said = dict(stage.play(forged, with_attacker=True).answers)
    (pair,) = said["a reader of both asks for team/a@v1 and team/a@v2"]["pairs"]
    assert pair["difference"] != 0
    asked = "a reader of both asks for namespace = team and eval[{}].loss >= 1"
    assert len(said[asked.format(stage.universe.data_digests[0])]) == 2
    assert "refused" not in said["a reader of both asks for team/a@v1 and its base"]


def test_the_same_history_gives_the_same_twice(stage: Stage) -> None:
    # Else differences would be found that nobody made.
    history = [step for step in draw(0) if step.who != ATTACKER]
    runs = [stage.play(history, with_attacker=False, with_pages=True) for _ in range(2)]
    assert list(differences(*runs)) == []


@pytest.mark.soak
@pytest.mark.parametrize("number", range(scale(500, share=100)))
def test_nobody_is_told_otherwise_because_another_tenant_is_there(number: int, stage: Stage) -> None:
    # A short run does the same each time; a soak looks where nobody has looked.
    seed = secrets.randbits(32) if SOAKING else number
    print(f"draw({seed})")
    history = draw(seed)
    assert not stage.compare(history, with_pages=True), stage.explain(history)
