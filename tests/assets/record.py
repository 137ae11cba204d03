"""Record what this release leaves to later ones: a tiny registry, rows of jobs, and the OpenAPI document.

    python tests/assets/record.py

It is run once, for the release. Later releases read the recordings in tests/integration/test_past_schemas.py,
tests/contract/test_stored_rows.py and tests/contract/test_openapi.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from support.openapi_promises import document  # noqa: E402
from support.recorded_rows import rows  # noqa: E402
from support.small_registry import made_now  # noqa: E402

from registry.db.database import head_revision  # noqa: E402
from sdk.version import VERSION  # noqa: E402


def main() -> None:
    """Write the files."""
    release = VERSION.rpartition(".")[0]
    (HERE / f"schema_{head_revision()}.sqlite3").write_bytes(made_now())
    for name, recorded in (
        ("rows", {name: row.model_dump(mode="json") for name, row in rows().items()}),
        ("openapi", document()),
    ):
        (HERE / f"{name}_{release}.json").write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
