"""Who reads pages, as the gate puts it into the scope of a request."""

from __future__ import annotations

from dataclasses import dataclass

from registry.principal import Principal


@dataclass(frozen=True)
class SignedIn:
    """Who has signed in, and what their forms have to hold."""

    who: Principal
    csrf: str
