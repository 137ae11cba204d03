"""A folder that was pulled from another registry, where a job has made its version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from contract.registry.test_copies import Trained
from support.registries import World

from sdk.formats.about_file import ABOUT


class Pulled(NamedTuple):
    """A version that a job of another registry made, and a folder that was pulled from there."""

    there: World
    made: Trained
    folder: Path

    @property
    def about(self) -> Path:
        return self.folder / ".adapterctl" / ABOUT

    def tell(self, **changed: Any) -> str:
        """What the folder tells, changed in its record; written there too."""
        told = json.loads(self.about.read_bytes())
        told["about"] |= changed
        self.about.write_text(json.dumps(told))
        return self.about.read_text()
