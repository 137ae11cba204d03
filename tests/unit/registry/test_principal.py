"""What each role may do, where; and that nobody learns of what they may not see."""

from __future__ import annotations

import pytest
from sqlalchemy import String, column, select

from registry.errors import Forbidden, NotFound
from registry.principal import LOCAL, SYSTEM, Principal, Role

ACTIONS = {
    "read": {"reader", "writer", "promoter", "worker", "server", "admin"},
    "serve": {"server", "admin"},
    "send": {"writer", "promoter", "worker", "admin"},
    "write": {"writer", "promoter", "admin"},
    "promote": {"promoter", "admin"},
    "work": {"worker", "admin"},
    "admin": {"admin"},
}
CASES = [(action, role) for action in ACTIONS for role in Role]


@pytest.mark.parametrize(("action", "role"), CASES)
@pytest.mark.parametrize("where", ["team", "-", "*"])
def test_what_each_role_may_do_where_it_is_held(action: str, role: Role, where: str) -> None:
    who = Principal("x", {where: role})
    allowed = role.value in ACTIONS[action]
    for namespace in ("team", "-", "other"):
        assert who.may(action, namespace) == (allowed and where in (namespace, "*"))


@pytest.mark.parametrize(("action", "role"), CASES)
def test_what_is_required_is_refused_by_what_may_be_seen(action: str, role: Role) -> None:
    who = Principal("x", {"team": role})
    if role.value in ACTIONS[action]:
        who.require(action, "team", missing="nothing there")
        who.require_anywhere(action)
    else:
        with pytest.raises(Forbidden, match="use one with a role of") as caught:
            who.require(action, "team", missing="nothing there")
        assert "'team'" in caught.value.message
        with pytest.raises(Forbidden):
            who.require_anywhere(action)
    with pytest.raises(NotFound) as hidden:
        who.require(action, "other", missing="nothing there", param="ref")
    assert (hidden.value.message, hidden.value.param) == ("nothing there", "ref")


def test_what_belongs_to_the_whole_registry_is_read_by_everybody_and_changed_by_few() -> None:
    who = Principal("x", {"team": Role.ADMIN})
    assert who.may("read", "*")
    assert not who.may("write", "*")
    with pytest.raises(Forbidden, match="may not do this for all namespaces; use one with a role of: admin"):
        who.require("admin", "*", missing="")
    # Even of nobody: tokens always carry a role.
    assert Principal("nobody").may("read", "*")


def test_a_role_everywhere_adds_to_one_somewhere() -> None:
    who = Principal("x", {"*": Role.READER, "team": Role.WRITER})
    assert (who.may("write", "team"), who.may("write", "other"), who.may("read", "other")) == (True, False, True)
    # The lower of two takes nothing away.
    both = Principal("x", {"*": Role.ADMIN, "team": Role.READER})
    assert both.may("admin", "team")
    # Two roles in one namespace by two grants: what either allows.
    worker = Principal("x", {"*": Role.WORKER, "team": Role.WRITER})
    assert (worker.may("work", "team"), worker.may("write", "team")) == (True, True)


def test_the_namespaces_of_an_action() -> None:
    who = Principal("x", {"b": Role.WRITER, "-": Role.READER, "a": Role.ADMIN, "w": Role.WORKER})
    assert who.namespaces() == ["-", "a", "b", "w"]
    assert who.namespaces("write") == ["a", "b"]
    assert who.namespaces("admin") == ["a"]
    assert Principal("x", {"*": Role.READER, "a": Role.ADMIN}).namespaces() is None
    assert Principal("x", {"*": Role.READER, "a": Role.ADMIN}).namespaces("admin") == ["a"]
    assert Principal("x").namespaces() == []


def condition(who: Principal, action: str = "read") -> str:
    query = select(column("x")).where(who.within(column("namespace", String), action))
    return str(query.compile(compile_kwargs={"literal_binds": True})).partition("WHERE ")[2]


def test_the_condition_on_rows_says_the_same() -> None:
    who = Principal("x", {"team": Role.ADMIN, "-": Role.READER})
    assert condition(who) == "namespace IN ('-', 'team', '*')"
    # What is recorded of the whole registry is administered by nobody of a namespace.
    assert condition(who, "admin") == "namespace IN ('team')"
    assert condition(LOCAL, "admin") in ("", "1 = 1", "true")
    assert "IN" in condition(Principal("x"), "admin")


def test_where_what_has_no_name_is_made() -> None:
    assert Principal("x", {"team": Role.WRITER, "-": Role.WRITER}).home() == "-"
    assert Principal("x", {"team": Role.WRITER, "-": Role.READER}).home() == "team"
    assert Principal("x", {"b": Role.WRITER, "a": Role.ADMIN}).home() == "a"
    assert LOCAL.home() == "-"
    with pytest.raises(Forbidden):
        Principal("x", {"team": Role.READER}).home()


def test_the_registry_itself_may_do_everything() -> None:
    for who in (LOCAL, SYSTEM):
        for action in ACTIONS:
            who.require(action, "*", missing="")
            who.require(action, "team", missing="")
