"""Which versions can be asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from support.loras import lora

from sdk.asking.finding import require_askable
from sdk.errors import Conflict, InvalidInput
from sdk.schemas.catalog import BaseBrief, VersionView
from sdk.schemas.training_report import DatasetUse


def _version(**changed: Any) -> VersionView:
    found: dict[str, Any] = {
        "ref": "a@v1",
        "adapter": "a",
        "number": 1,
        "digest": "1" * 64,
        "state": "ready",
        "kind": "adapter",
        "aliases": [],
        "tags": {},
        "description": "",
        "created_by": "ana",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "base": BaseBrief(
            id="tiny", revision=None, fingerprint="0" * 64, weights_digest="0" * 64, architecture="LlamaForCausalLM"
        ),
        "lora": lora(),
        "method": "lora",
        "quantization": None,
        "dataset": None,
        "training": None,
        "metrics": {},
        "parents": [],
        "job": None,
        "libraries": {},
        "unknown": [],
        "files": [],
    }
    return VersionView(**{**found, **changed})


@pytest.mark.parametrize("state", ["ready", "archived", "kept"])
def test_versions_that_can_be_pulled_can_be_asked(state: str) -> None:
    require_askable(_version(state=state))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"state": "quarantined", "refusal": "NaN"}, Conflict, r"is in quarantine \(NaN\).*adapterctl release a@v1"),
        ({"state": "pending"}, Conflict, "is pending; ask a version that is ready"),
        ({"kind": "merged"}, InvalidInput, "is a merged model.*adapterctl lineage a@v1 --up"),
        ({"training": {"objective": "classify"}}, InvalidInput, "writes no text.*adapterctl eval a@v1"),
        ({"lora": lora(task_type="SEQ_CLS")}, InvalidInput, "is a classification"),
        (
            {"dataset": DatasetUse(digest="2" * 64, rows=1, supervised_tokens=1, labels=["no", "yes"])},
            InvalidInput,
            "is a classification",
        ),
    ],
)
def test_what_writes_no_text_or_is_not_released_is_refused(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        require_askable(_version(**changed))
