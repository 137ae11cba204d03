"""What histories are compared and made shorter with."""

from __future__ import annotations

from contract.tenancy.history import ATTACKER, VICTIM, Step, draw
from contract.tenancy.shrinking import shrink
from contract.tenancy.transcript import Transcript, differences


def test_a_history_is_made_as_short_as_it_can_be() -> None:
    asked: list[list[int]] = []

    def fails(left: list[int]) -> bool:
        asked.append(left)
        return {3, 17} <= set(left)

    assert shrink(range(20), fails, most=100) == [3, 17]
    assert len(asked) < 60


def test_shortening_ends_in_time_with_what_still_fails() -> None:
    assert set(shrink(range(20), lambda left: {3, 17} <= set(left), most=5)) >= {3, 17}


def _said(known: str, own: str, other: str, number: int) -> Transcript:
    said = Transcript({known}, lambda digits: "jobs 0" if digits == own else None)
    said.add(
        "1. all",
        {
            "job": own,
            "message": f"job {own} of {other} took 1.2 s, {known[:12]}",
            "at": "2026-01-01T00:00:00Z",
            "url": other,
            "id": number,
            "worker": other,
        },
    )
    return said


def test_ids_and_times_are_mapped_and_bytes_are_not() -> None:
    known = "ab" * 32
    one = _said(known, "0123456789ab", "ba9876543210", 1)
    two = _said(known, "1123456789ab", "ca9876543210", 7)
    assert list(differences(one, two)) == []
    ((_, answer),) = one.answers
    assert answer == {
        "job": "<jobs 0>",
        "message": f"job <jobs 0> of <id 1> took <seconds>, {known[:12]}",
        "at": "<time>",
        "worker": "<id 1>",
    }


def test_another_digest_and_another_one_of_two_ids_are_differences() -> None:
    def said(*values: str) -> Transcript:
        found = Transcript(set(), lambda _: None)
        found.add("1. all", list(values))
        return found

    assert len(list(differences(said("ab" * 32), said("ac" * 32)))) == 1
    assert len(list(differences(said("0" * 12, "0" * 12), said("0" * 12, "1" * 12)))) == 1
    assert len(list(differences(said(), said("extra")))) == 1


def test_a_graph_is_the_same_in_whatever_order_it_is_told_and_a_list_is_not() -> None:
    def said(key: str, *values: str) -> Transcript:
        found = Transcript(set(), lambda digits: f"jobs {digits[0]}")
        found.add("1. all", {key: [{"key": value} for value in values]})
        return found

    jobs = ("0123456789ab", "1123456789ab")
    assert list(differences(said("nodes", *jobs), said("nodes", *reversed(jobs)))) == []
    assert len(list(differences(said("nodes", *jobs), said("nodes", jobs[0])))) == 1
    assert len(list(differences(said("items", *jobs), said("items", *reversed(jobs))))) == 1


def test_memory_of_workers_and_places_in_queues_are_no_differences_of_pages() -> None:
    def page(*texts: str) -> Transcript:
        found = Transcript(set(), lambda _: None)
        found.add_page("/ui/workers", list(texts))
        return found

    assert list(differences(page("21.2 GiB", "#3", "cpu"), page("940.0 MiB", "#12", "cpu"))) == []
    assert len(list(differences(page("3", "cpu"), page("4", "cpu")))) == 1


def _meets_a_taken_key(history: list[Step]) -> bool:
    taken: set[str] = set()
    for number, step in enumerate(history):
        args = dict(step.args)
        key = args.get("key")
        if step.what not in ("train", "evaluate") or key is None:
            continue
        if step.who == VICTIM and key in taken:
            return True
        if step.who == ATTACKER and history[number - 1].what == "base_add" and str(args["data"]).startswith("file:"):
            taken.add(key)
    return False


def test_many_histories_have_another_s_job_under_a_key_before_one_s_own() -> None:
    # Nothing else shows whose a job's key is, and the attacker's job must be one that a registry accepts.
    assert sum(_meets_a_taken_key(draw(seed)) for seed in range(500)) > 20
