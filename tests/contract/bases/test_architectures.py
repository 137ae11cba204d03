"""An encoder is not taken for a model that predicts the next token: where its config says so, nothing is begun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from contract.bases.helpers import Tenant
from support.small import write_adapter

from sdk.errors import InvalidBase, VerificationFailed

BERT: dict[str, Any] = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}


@pytest.fixture
def rows(ours: Tenant) -> Path:
    ours.folder.mkdir(parents=True, exist_ok=True)
    path = ours.folder / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "completion": "of an encoder"}))
    return path


class TestEncoders:
    def test_a_folder_is_refused_before_anything_is_sent(self, ours: Tenant, rows: Path) -> None:
        with pytest.raises(InvalidBase, match=r"is an encoder \(bert\)") as caught:
            ours.client.submit_training(f"{ours.space}/x", base=ours.base("sent", **BERT), data=rows)
        assert caught.value.param == "base"
        assert "sent" not in {base.id for base in ours.client.bases()}

    def test_a_registered_one_is_refused_by_the_registry(self, ours: Tenant, rows: Path) -> None:
        view = ours.register(ours.base("known", **BERT), upload=True)
        with pytest.raises(InvalidBase, match=r"base known .* is an encoder \(bert\)"):
            ours.client.submit_training(f"{ours.space}/x", base=view.fingerprint, data=rows)
        with pytest.raises(InvalidBase, match=r"is an encoder \(bert\)"):
            ours.client.submit_evaluation(f"base:{view.fingerprint}", data=rows)
        decoder = ours.register(ours.base("decoder", **BERT, is_decoder=True), upload=True)
        ours.client.submit_training(f"{ours.space}/x", base=decoder.fingerprint, data=rows, targets="q_proj,v_proj")

    def test_what_says_it_is_causal_is_no_version_over_one(self, ours: Tenant) -> None:
        view = ours.register(ours.base("encoder", **BERT), upload=True)
        with pytest.raises(
            VerificationFailed, match=r"says CAUSAL_LM, but the base is not causal: it is an encoder \(bert\)"
        ):
            ours.client.push(write_adapter(ours.folder / "a"), f"{ours.space}/a", base=view.fingerprint)
        other = write_adapter(ours.folder / "b", task_type="FEATURE_EXTRACTION")
        pushed = ours.client.push(other, f"{ours.space}/b", base=view.fingerprint)
        assert pushed.info.lora.task_type == "FEATURE_EXTRACTION"
