"""What is asked: a version, what a member of a sweep has kept, or a bare base; and how its rows were rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from sdk.asking.programs import EngineBase

#: What a bare base is called: `base:ID`.
BASE = "base:"


@dataclass(frozen=True)
class AskTarget:
    """A version, or a bare base, as an engine program is asked for it."""

    #: "NAME@vN", "sweep:ID/N" or "base:ID".
    ref: str
    base: EngineBase
    #: The digest of the adapter's manifest, and its folder; None: the bare base.
    digest: str | None = None
    folder: str | None = None
    #: Whether its rows were conversations, which a template rendered; None: its record doesn't say.
    conversations: bool | None = None
    #: Whether it has a chat template of its own, and whether its base has one.
    own_template: bool = False
    base_template: bool = False
    #: Whether these two are different texts: the bare base is asked by its own.
    template_differs: bool = False
    #: The tokens that ended what it has learnt, and the date that its template was given; None: it asked for none.
    stop_ids: tuple[int, ...] = ()
    day: str | None = None

    @property
    def name(self) -> str:
        """What it is called in the engine program: of several registries, versions may have the same ref."""
        return "base" if self.digest is None else f"sha256:{self.digest}"

    @property
    def loading(self) -> dict[str, Any]:
        """The body of the request that loads it."""
        return {
            "name": self.name,
            "folder": self.folder,
            "stop_ids": list(self.stop_ids),
            "day": self.day,
            "template": None,
        }

    @property
    def is_chat(self) -> bool:
        """Whether a prompt is a user's turn, unless somebody says otherwise."""
        if self.conversations is not None:
            return self.conversations
        return self.own_template or self.base_template

    @property
    def form_remark(self) -> str | None:
        """What to say of how a prompt is rendered, if the record doesn't say it."""
        if self.conversations is not None:
            return None
        how, other = ("a user's turn", "--plain") if self.is_chat else ("plain text", "--chat")
        why = "it is a bare base" if self.digest is None else "its record doesn't say how its rows were rendered"
        return f"{self.ref} is asked with {how}, since {why}; for the other way, add {other}"

    def bare(self) -> AskTarget:
        """Return its base, asked as it is."""
        return replace(self, ref=f"{BASE}{self.base.id}", digest=None, folder=None, own_template=False)

    def as_json(self) -> dict[str, Any]:
        """Return it as it is remembered."""
        return asdict(self)

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> AskTarget:
        """Return what was remembered. Raises KeyError, TypeError for something else."""
        return cls(**{**found, "base": EngineBase(**found["base"]), "stop_ids": tuple(found["stop_ids"])})
