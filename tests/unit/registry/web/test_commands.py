"""Commands of a version's page, for versions of each kind and bases in any place."""

from __future__ import annotations

import ast
import shlex
from typing import Any

import pytest
from support.adapters import digest

from registry.web.versions.commands import BasePlace, commands_of
from sdk.schemas.catalog import VersionView


def view_of(**said: Any) -> VersionView:
    base = {
        "id": "org/tiny",
        "revision": None,
        "fingerprint": digest("f"),
        "weights_digest": digest("w"),
        "architecture": "L",
    }
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    told = {
        "ref": "team/sql@v3", "adapter": "team/sql", "number": 3, "digest": digest("d"), "state": "ready", "kind": "adapter",
        "aliases": [], "tags": {}, "description": "", "created_by": "ana", "created_at": "2026-01-31T10:00:00Z", "base": base,
        "lora": lora, "method": "lora", "quantization": None, "dataset": None, "training": None, "metrics": {}, "parents": [],
        "job": None, "libraries": {}, "unknown": [], "files": [],
    }  # fmt: skip
    return VersionView.model_validate({**told, **said}, strict=False)


def texts(view: VersionView, place: BasePlace, **about: bool) -> dict[str, str]:
    given = {"is_proved": True, "was_trained": True, **about}
    return {one.title: one.text for one in commands_of(view, place, **given)}


@pytest.mark.parametrize("path", ["/srv/a base", "/srv/it's", '/srv/"x"', "/srv/new\nline", "/srv/\u202e\\"])
def test_place_of_a_base_is_a_literal(path: str) -> None:
    from urllib.parse import quote

    found = texts(view_of(), BasePlace.of(f"file://{quote(path)}", view_of()))["Load it in PEFT"]
    calls = [node for node in ast.walk(ast.parse(found)) if isinstance(node, ast.Call)]
    assert ast.literal_eval(calls[0].args[0]) == path


def test_base_of_the_hub_is_named_with_its_revision() -> None:
    place = BasePlace.of("hf://org/tiny@abc123", view_of())
    found = texts(view_of(), place)["Load it in PEFT"]
    assert "'org/tiny',\n    revision='abc123'," in found


def test_version_that_was_pushed_is_served_unproved_and_not_trained_again() -> None:
    found = texts(view_of(), BasePlace("x"), is_proved=False, was_trained=False)
    assert shlex.split(found["Serve it"]) == ["adapterctl", "serve", "team/sql@v3", "--unprobed"]
    assert not any("--like" in text for text in found.values())


def test_merged_model_is_loaded_whole() -> None:
    found = texts(view_of(kind="merged"), BasePlace("x"))
    assert list(found) == ["Pull its files", "Load it in transformers"]
    assert '"./sql-v3"' in found["Load it in transformers"]


def test_classifier_is_loaded_with_its_labels() -> None:
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "target_modules": ["q_proj"], "task_type": "SEQ_CLS"}
    data = {"digest": digest("rows"), "rows": 3, "supervised_tokens": 3, "labels": ["bad", "good"]}
    found = texts(view_of(lora=lora, dataset=data), BasePlace("x"))["Load it in PEFT"]
    assert "AutoModelForSequenceClassification.from_pretrained(\n    'x',\n    num_labels=2," in found
