"""Fixed records, in minimal and in full form: how this tree sends them, and the digest of that."""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import sdk.schemas

CORPUS = Path(__file__).parent / "records.json"


def record_records(out: Path) -> None:
    """Write one file for each schema of the corpus: each case as it is read, written and hashed."""
    out.mkdir()
    schemas = {
        name: value
        for module in pkgutil.iter_modules(sdk.schemas.__path__)
        for name, value in vars(importlib.import_module(f"sdk.schemas.{module.name}")).items()
        if isinstance(value, type)
    }
    for name, cases in json.loads(CORPUS.read_text()).items():
        written = {case: _written(schemas.get(name), given) for case, given in cases.items()}
        (out / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")


def _written(schema: Any, given: Any) -> Any:
    if schema is None:
        return "there is no such schema"
    try:
        record = schema.model_validate_json(json.dumps(given))
    except ValueError as error:
        return {"refused": str(error)}
    text = record.model_dump_json()
    plain = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    found = {"json": json.loads(text), "sha256": hashlib.sha256(plain.encode()).hexdigest()}
    if hasattr(record, "canonical"):
        found["canonical_sha256"] = hashlib.sha256(record.canonical()).hexdigest()
    return found
