"""Users who write in a namespace of their own, with datasets there."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from sdk.client import Client
from sdk.schemas.artifacts import DatasetView


@dataclass
class Tenant:
    """A user who writes in a namespace, and the datasets there."""

    client: Client
    space: str
    folder: Path

    def file(self, text: str, name: str = "rows.jsonl") -> Path:
        """A dataset of one row, in a file."""
        path = self.folder / f"{self.space}-{uuid.uuid4().hex[:8]}" / name
        path.parent.mkdir()
        path.write_text(f'{{"prompt": "{text}", "completion": "b"}}\n')
        return path

    def add(self, text: str, name: str = "rows.jsonl") -> DatasetView:
        return self.client.datasets.add(self.file(text, name), namespace=self.space)

    def located(self, name: str) -> str:
        """The digest that a name or digest leads to."""
        return self.client.datasets.locate(name).sha256
