"""What the names of models mean by a table: `NAME@vN`, `NAME@ALIAS`, `NAME@latest` and `NAME`.

>>> version = ServedVersion(number=3, digest="a" * 64, state="ready", base="b" * 64)
>>> names = ModelNames([ServedAdapter(name="sql", latest=3, aliases={"production": 3}, versions=[version])])
>>> names.find("sql@production").name, names.find("sql").name, names.find("sql@v4"), names.find("../sql")
('sql@v3', 'sql@v3', None, None)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sdk.schemas.serving import ServedAdapter, ServedVersion

#: The selector of the newest version that is ready.
LATEST = "latest"


@dataclass(frozen=True)
class NamedVersion:
    """A version in the table, with the name that it has in an engine."""

    adapter: str
    version: ServedVersion

    @property
    def name(self) -> str:
        """Its exact ref."""
        return f"{self.adapter}@v{self.version.number}"


class ModelNames:
    """One table, indexed. A look-up takes as long for a name that isn't there as for one that is, and nothing of it is kept."""

    def __init__(self, adapters: Iterable[ServedAdapter]) -> None:
        self._adapters = {each.name: each for each in adapters}
        self._versions = {
            name: {version.number: version for version in each.versions} for name, each in self._adapters.items()
        }

    def find(self, model: str) -> NamedVersion | None:
        """Return the version that a name means now; None if it means none."""
        name, _at, selector = model.partition("@")
        adapter = self._adapters.get(name)
        if adapter is None:
            return None
        number = _number(adapter, selector or (LATEST if model == name else ""))
        version = None if number is None else self._versions[name].get(number)
        return None if version is None else NamedVersion(name, version)

    def has(self, named: NamedVersion) -> bool:
        """Whether exactly this version, by name and digest, is still in the table."""
        version = self._versions.get(named.adapter, {}).get(named.version.number)
        return version is not None and version.digest == named.version.digest

    def followed(self, ref: str) -> Iterator[str]:
        """Yield the names to be kept moving for a ref: itself, and for the bare name of an adapter each of its aliases too."""
        yield ref
        adapter = self._adapters.get(ref)
        for alias in sorted(adapter.aliases) if adapter is not None else ():
            yield f"{ref}@{alias}"


def is_exact(model: str) -> bool:
    """Whether a name always means the same version."""
    return _is_number(model.partition("@")[2])


def _number(adapter: ServedAdapter, selector: str) -> int | None:
    if selector == LATEST:
        return adapter.latest
    if _is_number(selector):
        return int(selector[1:])
    return adapter.aliases.get(selector)


def _is_number(selector: str) -> bool:
    digits = selector[1:]
    # No other spelling of a number, such as v03 or one in another script, is a second name of a version.
    return selector[:1] == "v" and digits.isascii() and digits.isdecimal() and len(digits) <= 9 and digits[0] != "0"
