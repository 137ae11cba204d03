"""What becomes of a folder that PEFT wrote: the same bytes for the same adapter, and nothing that runs."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packages import config_of, pack
from support.small import write_adapter

from registry.artifacts.admission.inspection import inspect_config
from sdk.errors import AdapterctlError, InvalidInput, NotFound
from sdk.formats.peft_config import DROPPED_KEYS, KEYS, examine
from sdk.pushing.pack import pack_adapter
from sdk.schemas.lora_config import MAX_OTHER_CHARACTERS, MAX_OTHER_SETTINGS


def test_equal_adapters_have_equal_bytes(tmp_path: Path) -> None:
    digests = set()
    for number, names in enumerate(itertools.permutations(["q_proj", "v_proj", "k_proj"])):
        config = {
            "target_modules": list(names),
            "exclude_modules": [f"0.{name}" for name in names],
            "target_parameters": [f"experts.{name}" for name in names],
            "peft_version": f"0.{number}",
            "base_model_name_or_path": f"/home/user-{number}/base",
        }
        folder = write_adapter(tmp_path / f"adapter-{number}", **config)
        digests.add(pack(folder, tmp_path / f"staging-{number}").manifest.digest)
    assert len(digests) == 1


def test_other_adapters_have_other_bytes(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"value": 0.5}, {"lora_alpha": 8}, {"target_modules": ["q_proj"]}]
    digests = {
        pack(write_adapter(tmp_path / f"{n}", **change), tmp_path / f"s{n}").manifest.digest
        for n, change in enumerate(changes)
    }
    assert len(digests) == len(changes)


def test_files_that_a_version_does_not_need_are_left_out_and_said(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    for name in ("README.md", "optimizer.pt", ".env"):
        (folder / name).write_text("x")
    (folder / "checkpoint-5").mkdir()
    (folder / ".adapterctl").mkdir()
    package = pack(folder, tmp_path / "staging")
    assert package.left_out == [".env", "README.md", "checkpoint-5", "optimizer.pt"]
    assert [file.path for file in package.manifest.files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert set(package.sources) == {file.sha256 for file in package.manifest.files}
    assert package.lora.target_modules == ["q_proj", "v_proj"]
    assert package.lora.alpha == 4.0


def test_pickled_weights_are_refused_with_the_command_that_converts(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "an adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidInput, match=r"pickled and can run code.*with: adapterctl convert '.*adapter'"):
        pack(folder, tmp_path / "staging")


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"},
        {"r": 0},
        {"r": True},
        {"r": "8"},
        {"lora_alpha": None},
        {"lora_dropout": 2},
        {"target_modules": "all-linear"},
        {"target_modules": []},
        {"target_modules": [7, "q_proj"]},
        {"target_modules": [["q_proj"]]},
        {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {"q": 1.5}},
        {"bias": "some"},
        {"task_type": 7},
    ],
)
def test_a_config_that_is_none_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", **config)
    with pytest.raises(InvalidInput) as caught:
        pack(folder, tmp_path / "staging")
    assert "adapter_config.json" in caught.value.message
    assert not (tmp_path / "staging" / "adapter_config.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"peft_type": "LORA", "r": NaN}', '{"x": "\\ud800"}'])
def test_a_config_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"adapter_config\.json"):
        pack(folder, tmp_path / "staging")


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors", None])
def test_what_is_missing_is_named(missing: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    if missing is not None:
        (write_adapter(folder) / missing).unlink()
    with pytest.raises(AdapterctlError, match=missing or "there is no folder") as caught:
        pack(folder, tmp_path / "staging")
    assert type(caught.value) is NotFound


@pytest.mark.parametrize(
    "changed",
    [
        {"fan_in_fan_out": "yes"},
        {"lora_bias": 1},
        {"exclude_modules": [7]},
        {"exclude_modules": 7},
        {"layers_to_transform": ["0"]},
        {"layers_to_transform": True},
        {"layers_pattern": [["h"]]},
        {"target_parameters": [7]},
        {"layer_replication": [[0, 1, 2]]},
        {"layer_replication": 4},
        {"trainable_token_indices": "all"},
        {"alora_invocation_tokens": [0.5]},
    ],
)
def test_settings_that_peft_does_not_write_are_refused(changed: dict[str, Any], tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", **changed)
    with pytest.raises(InvalidInput, match=r"adapter_config\.json is not as PEFT writes it .*save the adapter again"):
        pack(folder, tmp_path / "staging")


def test_other_settings_are_few_and_short(tmp_path: Path) -> None:
    long = "k" * 300
    other = pack(write_adapter(tmp_path / "1", exclude_modules=long), tmp_path / "staging").lora.other
    assert other == {"exclude_modules": "k" * (MAX_OTHER_CHARACTERS - 1) + "…"}
    many = {"target_modules_bd_a": [f"m{number}" for number in range(1000)]}
    other = pack(write_adapter(tmp_path / "2", use_bdlora=many), tmp_path / "staging").lora.other
    assert (
        list(other) == sorted(f"use_bdlora.target_modules_bd_a.{number}" for number in range(1000))[:MAX_OTHER_SETTINGS]
    )


def test_an_unknown_key_that_says_nothing_is_dropped_and_listed(tmp_path: Path) -> None:
    unknown: dict[str, Any] = {
        "a": None,
        "b": False,
        "c": "",
        "d": [],
        "e": {},
        "eva_config": {"new": None, "rho": 1.0},
    }
    package = pack(write_adapter(tmp_path / "adapter", **unknown), tmp_path / "staging")
    assert package.left_out == [f"adapter_config.json: {key}" for key in ("a", "b", "c", "d", "e", "eva_config.new")]
    assert package.lora.other == {"eva_config.rho": 1.0}
    assert config_of(tmp_path / "staging")["eva_config"] == {"rho": 1.0}
    assert not {"a", "b", "c", "d", "e"} & config_of(tmp_path / "staging").keys()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"note": "x"}, "note"),
        ({"tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs"),
        ({"eva_config": {"more": 1}}, "eva_config.more"),
        ({"kasa_config": {"more": [0]}}, "kasa_config.more"),
        ({"zero": 0}, "zero"),
    ],
)
def test_an_unknown_key_that_says_something_is_refused_by_name(
    config: dict[str, Any], key: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=f"has '{key}', which is not a LoRA setting.*remove it from the file"):
        pack(write_adapter(tmp_path / "adapter", **config), tmp_path / "staging")


def test_what_runs_or_lies_on_this_machine_is_dropped_at_every_depth(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "corda_config": {"cache_file": "/home/me/c.pt", "covariance_file": "d.pt", "corda_method": "kpm"},
        "eva_config": {"trust_remote_code": True, "auto_map": None},
        "revision": "/home/me/base",
        "megatron_core": "megatron.core",
        "auto_mapping": {"base_model_class": "os.system", "parent_library": "os"},
        "trust_remote_code": True,
    }
    package = pack(write_adapter(tmp_path / "adapter", **config), tmp_path / "staging")
    keys = (
        "auto_mapping",
        "corda_config.cache_file",
        "corda_config.covariance_file",
        "eva_config.trust_remote_code",
        "megatron_core",
        "revision",
        "trust_remote_code",
    )
    assert package.left_out == [f"adapter_config.json: {key}" for key in keys]
    kept = config_of(tmp_path / "staging")
    assert not {"auto_mapping", "megatron_core", "trust_remote_code"} & kept.keys()
    assert "/home/me" not in json.dumps(kept) + package.lora.model_dump_json()
    assert package.unknown == ["base_revision"]


def test_a_config_longer_than_any_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "adapter", exclude_modules=["x" * 400] * 1000)
    with pytest.raises(InvalidInput, match="longer than 256 KiB"):
        pack(folder, tmp_path / "staging")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["/a", "~/b", "c://d"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*KEYS, *DROPPED_KEYS, "unknown"]), VALUES, max_size=4))
def test_what_the_sdk_lets_pass_the_registry_takes(config: dict[str, Any]) -> None:
    """One list of keys: whatever was packed has no finding left, and so is never refused for its config."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        write_adapter(root / "adapter", **{key: value for key, value in config.items() if key != "peft_type"})
        try:
            package = pack(root / "adapter", root / "staging")
        except InvalidInput:
            return
        raw = (root / "staging/adapter_config.json").read_bytes()
        said = {finding.key for finding in examine(json.loads(raw))}
        assert not said
        assert inspect_config(io.BytesIO(raw)).rank == package.lora.rank


@pytest.mark.parametrize(
    ("named", "hub_name"),
    [
        ("org/base", "org/base"),
        ("gpt2", "gpt2"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("/data/base", None),
        ("./base", None),
        ("../base", None),
        ("~/base", None),
        ("runs/7/checkpoint", None),
        ("org/", None),
        ("org/..", None),
        ("org/a..b", None),
        ("C:\\models\\base", None),
        ("https://example.org/base", None),
        ("org/base\n", None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_the_base_that_a_config_names_is_said_where_it_is_no_path(
    named: Any, hub_name: str | None, tmp_path: Path
) -> None:
    package = pack(write_adapter(tmp_path / "adapter", base_model_name_or_path=named), tmp_path / "staging")
    assert package.named_base == hub_name
    config = config_of(tmp_path / "staging")
    assert config["base_model_name_or_path"] == (hub_name or "org/base")
    assert str(tmp_path) not in json.dumps(config)
    assert config["revision"] == "c" * 40
    assert "peft_version" not in config


@pytest.mark.parametrize(
    ("in_config", "given", "kept"),
    [
        (None, None, None),
        ("", None, None),
        ("a" * 40, None, "a" * 40),
        (None, "c" * 40, "c" * 40),
        ("a" * 40, "c" * 40, "a" * 40),
    ],
)
def test_a_revision_that_nobody_says_is_unknown(
    in_config: str | None, given: str | None, kept: str | None, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path / "adapter", revision=in_config)
    package = pack_adapter(folder, base_id="org/base", base_revision=given, base_fingerprint="f" * 64, staging=tmp_path)
    assert package.unknown == ([] if kept else ["base_revision"])
    assert config_of(tmp_path)["revision"] == kept
