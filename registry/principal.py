"""Who is asking, and what they may do in which namespace.

>>> who = Principal("ci", {"team": Role.WRITER, "-": Role.READER})
>>> who.may("write", "team"), who.may("write", "-"), who.may("read", "other")
(True, False, False)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, true

from registry.errors import Forbidden, InvalidName, NotFound
from sdk.formats.refs import BadNameError, parse_namespace

#: In a grant: every namespace. In a record: the registry as a whole, which every reader may see.
EVERYWHERE = "*"


class Role(StrEnum):
    """What a token allows in a namespace."""

    #: Reads everything.
    READER = "reader"
    #: Also pushes versions, submits and cancels jobs, moves aliases that are not protected, archives.
    WRITER = "writer"
    #: Also moves protected aliases.
    PROMOTER = "promoter"
    #: Reads, claims jobs and hands in their results, and nothing else.
    WORKER = "worker"
    #: Reads, and asks for a gateway what the holders of tokens may do.
    SERVER = "server"
    #: Everything: deletes, releases, protects, sets quotas and retention, gives out tokens, reads the audit trail.
    ADMIN = "admin"


#: Which roles may do what. "send" means uploading files and registering bases, which people and workers do.
_MAY: dict[str, frozenset[Role]] = {
    "read": frozenset(Role),
    "send": frozenset({Role.WRITER, Role.PROMOTER, Role.WORKER, Role.ADMIN}),
    "write": frozenset({Role.WRITER, Role.PROMOTER, Role.ADMIN}),
    "promote": frozenset({Role.PROMOTER, Role.ADMIN}),
    "work": frozenset({Role.WORKER, Role.ADMIN}),
    "serve": frozenset({Role.SERVER, Role.ADMIN}),
    "admin": frozenset({Role.ADMIN}),
}


def roles_of(action: str) -> list[str]:
    """The roles that allow `action`."""
    return sorted(role.value for role in _MAY[action])


#: How many namespaces an error names.
_SPACES_NAMED = 3


@dataclass(frozen=True)
class Principal:
    """Who is asking: a name, and a role for each namespace ("-": names without one, "*": all)."""

    name: str
    grants: Mapping[str, Role] = field(default_factory=dict)
    token_id: str | None = None

    @property
    def owner(self) -> str:
        """Whose claims, idempotency keys, upload sessions and workers these are: a token's, whatever its name.

        Rights belong to namespaces, and names are only shown. No token has the owner of a principal without one.
        """
        return f"name:{self.name}" if self.token_id is None else f"token:{self.token_id}"

    def payer(self, taken: Mapping[str, int]) -> str:
        """Who pays for something that a server has little of: the one of its namespaces that has taken least.

        A namespace's admins can create as many tokens as they like, so what many of them take counts for the namespace.
        A token for all namespaces, which only an admin of all can create, pays for itself.
        """
        if not self.grants or EVERYWHERE in self.grants:
            return self.owner
        return min(self.grants, key=lambda namespace: taken.get(namespace, 0))

    def may(self, action: str, namespace: str) -> bool:
        """Tell whether `action` is allowed in `namespace`; everybody may read what belongs to the whole registry."""
        if namespace == EVERYWHERE and action == "read":
            return True
        roles = (self.grants.get(EVERYWHERE), self.grants.get(namespace))
        return any(role in _MAY[action] for role in roles if role is not None)

    def require(self, action: str, namespace: str, *, missing: str | None = None, param: str | None = None) -> None:
        """Raise NotFound(`missing`), or that there is no such namespace, if the caller may not even read there; Forbidden
        if they may read but not do this.
        """
        if not self.may("read", namespace):
            said = missing or f"there is no namespace {namespace[:64]!r} that this token may see"
            # Files are sent for something that is then written.
            if (
                missing is None
                and action in ("write", "send")
                and (instead := self.elsewhere("write", namespace, "NAME"))
            ):
                said += f"; {instead}"
            raise NotFound(said, param=param)
        if not self.may(action, namespace):
            if action == "send" and (instead := self.elsewhere("write", namespace, "NAME")) is not None:
                raise Forbidden(instead, param=param)
            raise _forbidden(
                action, "for all namespaces" if namespace == EVERYWHERE else f"in the namespace {namespace!r}"
            )

    def elsewhere(self, action: str, namespace: str, name: str) -> str | None:
        """Say in which other namespaces `action` is allowed, and what something is called there; None if it is allowed in this one, or
        in none.
        """
        spaces = self.namespaces(action)
        if not spaces or self.may(action, namespace):
            return None
        shown = ", ".join("names without a namespace" if space == "-" else space for space in spaces[:_SPACES_NAMED])
        more = f" and {len(spaces) - _SPACES_NAMED} more" if len(spaces) > _SPACES_NAMED else ""
        there = name if spaces[0] == "-" else f"{spaces[0]}/{name}"
        return f"this token may {action} in {shown}{more}: name it {there}"

    def require_anywhere(self, action: str) -> None:
        """Raise Forbidden unless `action` is allowed in some namespace: which one it is about is not known yet."""
        if not any(role in _MAY[action] for role in self.grants.values()):
            raise _forbidden(action)

    def namespaces(self, action: str = "read") -> list[str] | None:
        """The namespaces in which `action` is allowed, sorted; None if it is allowed in all."""
        if self.grants.get(EVERYWHERE) in _MAY[action]:
            return None
        return sorted(namespace for namespace, role in self.grants.items() if role in _MAY[action])

    def spaces(self, action: str = "read") -> list[str] | None:
        """The namespaces, as rows have them, in which `action` is allowed; None if it is allowed in all."""
        allowed = self.namespaces(action)
        return [*allowed, EVERYWHERE] if allowed is not None and action == "read" else allowed

    def within(self, column: Any, action: str = "read") -> ColumnElement[bool]:
        """The condition that a row's namespace is one in which `action` is allowed."""
        spaces = self.spaces(action)
        if spaces is None:
            return true()
        condition: ColumnElement[bool] = column.in_(spaces)
        return condition

    def home(self, action: str = "write") -> str:
        """The namespace of something that is made without one: the one of names without a namespace, or else the first
        that is allowed.

        Raises Forbidden if there is none.
        """
        if self.may(action, "-"):
            return "-"
        self.require_anywhere(action)
        return (self.namespaces(action) or ["-"])[0]


def require_namespace(name: str, hint: str, *, also: Collection[str], param: str) -> None:
    """Raise InvalidName for what is not a name of a namespace, unless it is one of `also`, which `hint` explains."""
    if name not in also:
        try:
            parse_namespace(name)
        except BadNameError as error:
            raise InvalidName(f"{error}; {hint}", param=param) from None


def _forbidden(action: str, where: str = "") -> Forbidden:
    allowed = ", ".join(roles_of(action))
    return Forbidden(f"this token may not do this{where and ' '}{where}; use one with a role of: {allowed}")


#: Everyone, if `REGISTRY_AUTH=none` or the registry is embedded.
LOCAL = Principal("local", {EVERYWHERE: Role.ADMIN})
#: The registry itself: retention, collecting garbage, the command line of the server.
SYSTEM = Principal("registry", {EVERYWHERE: Role.ADMIN})
