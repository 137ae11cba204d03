"""Whether the rows of a dataset have the columns that a policy names, by the first of them: all must have these."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts.service import Artifacts
from registry.errors import Invalid, InvalidData, RegistryError
from registry.rows.service import RowReading
from sdk.schemas.policies import PolicyDocument

#: How much of a file is read: a longer first row is looked at when a version is judged.
_HEAD_BYTES = 100_000


@dataclass(frozen=True)
class PolicyColumns:
    """Looks at the first row of each dataset."""

    artifacts: Artifacts
    reading: RowReading

    def require(self, document: PolicyDocument, sizes: dict[str, int]) -> None:
        """Raise Invalid, which names the columns that there are, for one that the rows don't have; `sizes` are those of the
        datasets' files, in bytes. What can't be read now is accepted: decisions say why a rule is unknown.
        """
        for number, rule in enumerate(document.require):
            for key, column in (("by", rule.by), ("cluster", rule.cluster)):
                if column is None:
                    continue
                try:
                    self._require(rule.data, sizes[rule.data], column)
                except InvalidData:
                    continue
                except Invalid as error:
                    raise Invalid(error.message, param=f"policy.require.{number}.{key}") from None
                except RegistryError:
                    continue

    def _require(self, digest: str, size_bytes: int, column: str) -> None:
        head = self.artifacts.parts(digest)(0, min(size_bytes, _HEAD_BYTES))
        if size_bytes > len(head):
            head = head[: head.rfind(b"\n") + 1]
        with tempfile.TemporaryDirectory(prefix="columns-") as folder:
            path, rows = Path(folder, "head"), Path(folder, "rows")
            path.write_bytes(head)
            rows.write_bytes(bytes(8))
            self.reading.groups(path, column, rows, Path(folder, "groups"), by="json")
