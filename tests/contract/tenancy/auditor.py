"""A reader of both namespaces, who compares and chooses the victim's versions: what it is told of their scores is the same
whatever the other tenant has handed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

from contract.tenancy.answers import plain
from contract.tenancy.universe import ADAPTERS
from support.registries import World

from registry.principal import SYSTEM, Role
from sdk.client import Client
from sdk.errors import AdapterctlError
from sdk.objects import Version

#: Losses as honest workers find them are between 1 and 2.
_FILTERS = ("eval[{}].loss < 1.5", "eval[{}].loss >= 1", "not eval[{}].loss >= 1", "eval[{}].rows != 3")


class Auditor:
    """Somebody whom both trust with reading."""

    def __init__(self, world: World, space: str, other_space: str) -> None:
        self._space = space
        grants = {space: Role.READER, other_space: Role.READER}
        made = world.services.tokens.create(name="auditor", grants=grants, who=SYSTEM)
        self._client = Client(world.url, made.secret, cache=world.folder / "auditor")

    def close(self) -> None:
        """Close its connection."""
        self._client.close()

    def ask(self, datasets: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Ask for all that scores decide; yield what was asked, and the answer."""
        adapters = [f"{self._space}/{name}" for name in ADAPTERS]
        named = {adapter.adapter for adapter in self._client.adapters(namespace=self._space)}
        versions = [each for name in adapters if name in named for each in self._client.versions(name, archived=True)]
        versions.sort(key=lambda version: version.ref)
        for version in versions:
            yield f"the scores of {version.ref}", plain(version.evaluations)
            yield f"{version.ref} and its base", self._answer(lambda version=version: self._beside_base(version))
            yield f"what came of {version.ref}", self._answer(lambda version=version: self._scored(version))
        for one, two in combinations([version.ref for version in versions][:4], 2):
            yield f"{one} and {two}", self._answer(lambda refs=(one, two): self._compared(refs))
        for digest in datasets:
            for wanted in _FILTERS:
                asked = f"namespace = {self._space} and {wanted.format(digest)}"
                yield (
                    asked,
                    self._answer(lambda asked=asked: plain([version.brief for version in self._client.search(asked)])),
                )

    def _answer(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except AdapterctlError as error:
            return {"refused": error.code.value}

    def _beside_base(self, version: Version) -> Any:
        # By which of its names a base is called is no matter of scores.
        found = self._compared((version.ref, f"base:{version.info.base.fingerprint}"))
        return json.loads(json.dumps(found).replace(json.dumps(found["refs"][1]), '"the base"'))

    def _compared(self, refs: Sequence[str]) -> Any:
        found = plain(self._client.compare(refs))
        # Whether equal rows were looked for: who has the same rows too keeps them from being removed.
        return {name: value for name, value in found.items() if name != "notes"}

    def _scored(self, version: Version) -> Any:
        found = self._client.lineage(version.ref, direction="down", depth=1)
        return plain([node for node in found.nodes if node.kind == "evaluation"])
