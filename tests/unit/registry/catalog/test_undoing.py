"""What an alias named before its last move, from all of its history or only the end of it."""

from __future__ import annotations

import random

import pytest

from registry.catalog.aliases.undoing import Moved, named_before


def history(chance: random.Random, length: int) -> list[Moved]:
    """Moves as they are recorded: an undone one goes back to what `named_before` says, if there is any."""
    moves: list[Moved] = []
    for _ in range(length):
        now = moves[-1].to_number if moves else None
        before = named_before(moves) if moves else None
        kind = chance.choice(["set", "set", "rollback", "remove"])
        if kind == "rollback" and before is not None:
            moves.append(Moved("rollback", now, before))
        elif kind == "remove" and now is not None:
            moves.append(Moved("remove", now, None))
        else:
            moves.append(Moved("set", now, chance.randint(1, 4)))
    return moves


@pytest.mark.parametrize("seed", range(30))
def test_the_end_of_a_history_says_the_same_as_all_of_it_or_nothing(seed: int) -> None:
    chance = random.Random(seed)
    moves = history(chance, 40)
    whole = named_before(moves)
    ends = [named_before(moves[-count:]) for count in range(1, len(moves))]
    assert set(ends) <= {whole, None}
    # Once enough of it is known, it stays known.
    known = [end == whole for end in ends]
    assert known == sorted(known)


def test_a_rollback_of_a_removal_finds_what_was_removed() -> None:
    assert named_before([Moved("set", None, 1), Moved("remove", 1, None)]) == 1
    assert named_before([Moved("set", None, 1)]) is None
