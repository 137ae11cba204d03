"""A name in a namespace where the caller may not write: the refusal says where they may."""

from __future__ import annotations

import pytest

from registry.catalog.versions.finding import space_to_change
from registry.errors import Forbidden, NotFound
from registry.principal import Principal, Role

ANA = Principal("ana", {"team": Role.WRITER, "other": Role.READER})


def test_refusal_names_the_namespace_and_the_name_there() -> None:
    for name in ("nope", "theirs/nope"):
        with pytest.raises(NotFound, match=r"; this token may write in team: name it team/nope$"):
            space_to_change(name, ANA)
    with pytest.raises(Forbidden, match=r"^this token may write in team: name it team/nope$"):
        space_to_change("other/nope", ANA)
    assert space_to_change("team/nope", ANA) == "team"


def test_refusal_names_few_of_many_namespaces() -> None:
    many = Principal("ci", {"-": Role.WRITER} | {f"team-{number}": Role.WRITER for number in range(5)})
    with pytest.raises(NotFound, match=r"in names without a namespace, team-0, team-1 and 3 more: name it nope$"):
        space_to_change("theirs/nope", many)


def test_token_that_may_write_nowhere_is_told_the_roles_that_may() -> None:
    with pytest.raises(Forbidden, match="use one with a role of"):
        space_to_change("other/nope", Principal("bo", {"other": Role.READER}))
