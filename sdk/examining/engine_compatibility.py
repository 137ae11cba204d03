"""Whether engines can serve a version, or a folder: this module gathers the facts, `sdk.lora.compatibility` judges
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdk.api import bases
from sdk.config import user_path
from sdk.errors import InvalidInput, NotAllowed, NotFound
from sdk.names import means_folder, or_folder
from sdk.objects import Registry, Version

if TYPE_CHECKING:
    from sdk.lora.compatibility import AdapterFacts, Compatibility


def facts_of(registry: Registry, ref: str | Path, base: str | Path | None = None) -> AdapterFacts:
    """Return what is known about a version, or about the folder `ref` over the folder `base`.

    Raises NotFound, InvalidInput.
    """
    from sdk.lora.compatibility.reading import facts_of_folder, facts_of_version

    if means_folder(ref):
        return facts_of_folder(user_path(ref), None if base is None else user_path(base))
    if base is not None:
        raise InvalidInput(
            "a version has a base of its own; leave --base out, or give a folder such as ./adapter", param="base"
        )
    with or_folder(str(ref)):
        version = registry.get(str(ref))
    return facts_of_version(version.info, _config_of(registry, version))


def by_engine(registry: Registry, version: Version) -> dict[str, dict[str, str]] | None:
    """Return a brief answer for the newest version read of each engine; None if it is not an adapter."""
    from sdk.lora.compatibility import ENGINES, judge
    from sdk.lora.compatibility.reading import facts_of_version

    if version.info.kind != "adapter":
        return None
    facts = facts_of_version(version.info, _config_of(registry, version))
    answers = (judge(facts, engine) for engine in ENGINES)
    return {
        one.engine: {"answer": one.answer.value, "judged_by": one.judged_by, "tables_day": one.tables_day}
        for one in answers
    }


def judged(facts: AdapterFacts, engine: str, version: str | None) -> Compatibility:
    """Return the answer for one engine. Raises InvalidInput for an unknown engine or version."""
    from sdk.lora.compatibility import ENGINES, judge
    from sdk.lora.compatibility.engines import UnknownVersion
    from sdk.lora.compatibility.judging import UnknownEngine

    if not isinstance(engine, str):
        raise InvalidInput(f"engine is not text; give one of {', '.join(ENGINES)}", param="engine")
    if not isinstance(version, str | None):
        raise InvalidInput("version is not text; give one as '0.33.0', or of llama.cpp as 'b11549'", param="version")
    try:
        return judge(facts, engine, version)
    except UnknownEngine as error:
        raise InvalidInput(str(error), param="engine") from error
    except UnknownVersion as error:
        raise InvalidInput(str(error), param="version") from error


def _config_of(registry: Registry, version: Version) -> dict[str, Any] | None:
    """Return the config of a version's base; None if the base was removed or may not be seen: nothing is guessed."""
    try:
        return bases.get(registry.transport, version.info.base.fingerprint).config
    except (NotFound, NotAllowed):
        return None
