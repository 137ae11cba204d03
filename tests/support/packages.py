"""An adapter that is packed over a base which nobody has, and what its config says then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sdk.pushing.pack import Package, pack_adapter


def pack(folder: Path, staging: Path, **options: Any) -> Package:
    staging.mkdir(exist_ok=True)
    return pack_adapter(
        folder, base_id="org/base", base_revision="c" * 40, base_fingerprint="f" * 64, staging=staging, **options
    )


def config_of(staging: Path) -> dict[str, Any]:
    return json.loads((staging / "adapter_config.json").read_text())
