"""What is known of a folder, and of a version's record."""

from __future__ import annotations

import ast
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.small import HIDDEN, write_adapter, write_base, write_safetensors

from sdk.errors import InvalidInput, NotFound
from sdk.lora.compatibility import judge
from sdk.lora.compatibility.reading import facts_of_folder, facts_of_version
from sdk.schemas.catalog import VersionView

LLAMA = {"vocab_size": 16, "tie_word_embeddings": False, "eos_token_id": 2}
_Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path / "base", **LLAMA)


def _with(folder: Path, **tensors: list[int]) -> Path:
    shapes = {f"{_Q}.lora_A.weight": [2, HIDDEN], f"{_Q}.lora_B.weight": [HIDDEN, 2], **tensors}
    write_safetensors(folder / "adapter_model.safetensors", shapes)
    return folder


def test_a_folder_over_its_base(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "my adapter", use_rslora=True, use_dora=True, init_lora_weights="gaussian")
    (folder / "chat_template.jinja").write_text("x")
    (base / "chat_template.jinja").write_text("x")
    (folder / "rendering.json").write_text('{"stop_ids": [2, 7]}')
    facts = facts_of_folder(folder, base)
    assert (facts.rank, facts.alpha, facts.target_modules) == (2, 4.0, ("q_proj", "v_proj"))
    assert (facts.use_rslora, facts.use_dora, facts.unusable) == (True, True, None)
    assert (facts.architecture, facts.tied, facts.vocabulary_changed) == ("LlamaForCausalLM", False, False)
    assert (facts.has_template, facts.template_is_base, facts.has_generation) == (True, True, False)
    assert (facts.stop_ids, facts.base_stop_ids, facts.foreign_stops) == ((2, 7), (2,), (7,))
    assert (facts.name, facts.folder) == ("my-adapter", f"'{folder}'")


def test_without_its_base_nothing_is_guessed(tmp_path: Path) -> None:
    facts = facts_of_folder(write_adapter(tmp_path / "a", base_model_name_or_path="org/base"), None)
    assert (facts.architecture, facts.tied, facts.base_stop_ids, facts.template_is_base) == (None, None, None, None)
    assert facts.base == "org/base"
    assert judge(facts, "vllm").find_out == (
        f"adapterctl compat {tmp_path / 'a'} --base DIR --engine vllm, where DIR is the folder of its base"
    )
    assert [judge(facts, engine).answer for engine in ("vllm", "sglang", "llama.cpp", "ollama")] == ["unknown"] * 4


@pytest.mark.parametrize(
    ("config", "known"),
    [({}, (None, None)), ({"text_config": {"tie_word_embeddings": True, "eos_token_id": [1, 2]}}, (True, (1, 2)))],
)
def test_what_a_base_leaves_to_a_library_is_not_known(
    tmp_path: Path, config: dict[str, Any], known: tuple[Any, Any]
) -> None:
    facts = facts_of_folder(write_adapter(tmp_path / "a"), write_base(tmp_path / "base", **config))
    assert (facts.tied, facts.base_stop_ids) == known


class TestEmbeddings:
    def test_of_another_number_of_tokens(self, base: Path, tmp_path: Path) -> None:
        folder = _with(write_adapter(tmp_path / "a"), **{"base_model.model.model.embed_tokens.weight": [18, HIDDEN]})
        facts = facts_of_folder(folder, base)
        assert (facts.vocabulary_changed, facts.saved_embeddings) == (True, True)
        assert facts_of_folder(folder, None).vocabulary_changed is None
        assert {judge(facts, engine).answer for engine in ("vllm", "sglang", "llama.cpp", "ollama", "peft")} == {"no"}

    def test_of_the_bases_number(self, base: Path, tmp_path: Path) -> None:
        folder = _with(write_adapter(tmp_path / "a"), **{"base_model.model.model.embed_tokens.weight": [16, HIDDEN]})
        facts = facts_of_folder(folder, base)
        assert (facts.vocabulary_changed, facts.saved_embeddings) == (False, True)

    def test_what_adapts_them_is_counted_and_is_not_whole(self, base: Path, tmp_path: Path) -> None:
        head = "base_model.model.lm_head"
        tensors = {
            f"{head}.lora_A.weight": [2, HIDDEN],
            f"{head}.lora_B.weight": [16, 2],
            f"{head}.base_layer.weight": [16, HIDDEN],
        }
        folder = _with(write_adapter(tmp_path / "a", target_modules=["q_proj", "lm_head"]), **tensors)
        facts = facts_of_folder(folder, base)
        assert (facts.vocabulary_changed, facts.saved_embeddings, facts.adapted_embeddings) == (
            False,
            False,
            frozenset({"lm_head"}),
        )

    def test_what_modules_to_save_asks_for(self, base: Path, tmp_path: Path) -> None:
        folder = write_adapter(tmp_path / "a", modules_to_save=["lm_head"])
        facts = facts_of_folder(_with(folder, **{"base_model.model.lm_head.weight": [16, HIDDEN]}), base)
        assert (facts.saved_embeddings, facts.modules_to_save) == (False, ("lm_head",))


def test_settings_that_change_nothing_and_those_that_do(base: Path, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", eva_config={"rho": 2.0}, ensure_weight_tying=True, use_qalora=True)
    assert facts_of_folder(folder, base).other == ("use_qalora",)
    folder = write_adapter(tmp_path / "b", ensure_weight_tying=True, modules_to_save=["lm_head"])
    assert facts_of_folder(folder, base).other == ("ensure_weight_tying",)


def test_a_pattern_and_a_changed_base(base: Path, tmp_path: Path) -> None:
    assert facts_of_folder(write_adapter(tmp_path / "a", target_modules=".*_proj"), base).target_modules is None
    changed = facts_of_folder(write_adapter(tmp_path / "b", init_lora_weights="pissa"), base)
    assert changed.unusable.startswith("init_lora_weights is 'pissa'")


@pytest.mark.parametrize("content", ["[]", "{", '{"peft_type": "IA3"}', "NaN"])
def test_what_is_no_lora_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_config.json").write_text(content)
    with pytest.raises(InvalidInput):
        facts_of_folder(folder, None)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"adapter_config\.json"):
        facts_of_folder(tmp_path, None)
    folder = write_adapter(tmp_path / "a")
    with pytest.raises(NotFound, match=r"config\.json"):
        facts_of_folder(folder, tmp_path)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(NotFound, match=r"adapter_model\.safetensors"):
        facts_of_folder(folder, None)


def _version(**changed: Any) -> VersionView:
    base = {
        "id": "llama",
        "revision": None,
        "fingerprint": "f" * 64,
        "weights_digest": "e" * 64,
        "architecture": "LlamaForCausalLM",
    }
    said: dict[str, Any] = {
        "ref": "team/x@v3",
        "adapter": "team/x",
        "number": 3,
        "digest": "d" * 64,
        "state": "available",
        "kind": "adapter",
        "aliases": [],
        "tags": {},
        "description": "",
        "created_by": "ana",
        "created_at": datetime(2026, 11, 26, tzinfo=UTC),
        "base": base,
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]},
        "method": "qlora",
        "quantization": {"type": "nf4"},
        "dataset": None,
        "training": None,
        "metrics": {},
        "parents": [],
        "job": None,
        "libraries": {},
        "unknown": [],
        "files": [{"path": "adapter_config.json", "size_bytes": 1, "sha256": "c" * 64}],
    }
    return VersionView.model_validate({**said, **changed})


class TestVersion:
    def test_a_record(self) -> None:
        facts = facts_of_version(_version(), {"tie_word_embeddings": True, "eos_token_id": 2})
        assert (facts.ref, facts.name, facts.folder) == ("team/x@v3", "x", "./x")
        assert (facts.base, facts.base_folder, facts.base_said) == ("BASE", "BASE_FOLDER", "llama")
        assert (facts.architecture, facts.tied, facts.base_stop_ids) == ("LlamaForCausalLM", True, (2,))
        assert (facts.quantization, facts.stop_ids, facts.has_template, facts.is_folder) == ("nf4", None, False, False)

    def test_what_was_rendered(self) -> None:
        files = [
            {"path": name, "size_bytes": 1, "sha256": "c" * 64}
            for name in ("chat_template.jinja", "generation_config.json")
        ]
        dataset = {"digest": "a" * 64, "rows": 1, "supervised_tokens": 1, "rendering": {"stop_ids": [2, 7]}}
        facts = facts_of_version(_version(files=files, dataset=dataset), {"eos_token_id": 2})
        assert (facts.has_template, facts.has_generation, facts.foreign_stops) == (True, True, (7,))
        assert judge(facts, "vllm").flags[-1] == "--generation-config ./x"
        # The base's own are not known: each is passed on.
        assert facts_of_version(_version(files=files, dataset=dataset), None).foreign_stops == (2, 7)

    def test_settings_without_a_field(self) -> None:
        lora = {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": ["q_proj"]}
        other = {"eva_config.rho": 2.0, "use_qalora": True, "kasa_config.beta": 1.0}
        facts = facts_of_version(_version(lora={**lora, "other": other}), None)
        assert facts.other == ("kasa_config", "use_qalora")
        assert (facts.unusable or "").startswith("kasa_config takes the smallest singular values")

    @pytest.mark.parametrize(("highest", "changed"), [(31, False), (32, True)])
    def test_tokens_that_the_base_has_no_row_for_are_another_vocabulary(self, highest: int, changed: bool) -> None:
        lora = {"rank": 8, "alpha": 16, "dropout": 0.0, "target_modules": ["q_proj"]}
        tokens = {"embed_tokens": [3, highest], "lm_head": [highest]}
        facts = facts_of_version(_version(lora={**lora, "trainable_token_indices": tokens}), {"vocab_size": 32})
        assert (facts.trained_tokens, facts.vocabulary_changed) == (True, changed)
        for engine in ("vllm", "sglang", "llama.cpp"):
            found = judge(facts, engine)
            assert found.answer == "no"
            assert "adapterctl merge team/x@v3" in (found.fix or "")
        said = " ".join(finding.reason for finding in judge(facts, "peft").findings)
        assert ("call resize_token_embeddings on the base first" in said) == changed

    def test_a_merged_model_is_no_adapter(self) -> None:
        with pytest.raises(InvalidInput, match="is a merged model and no adapter"):
            facts_of_version(_version(kind="merged"), None)


@pytest.mark.parametrize(
    ("named", "base", "folder"),
    [("org/base", "org/base", "BASE_FOLDER"), ("base", "BASE", "BASE_FOLDER"), ("/no/such", "BASE", "BASE_FOLDER")],
)
def test_what_commands_call_a_base_that_was_not_given(tmp_path: Path, named: str, base: str, folder: str) -> None:
    facts = facts_of_folder(write_adapter(tmp_path / "a", base_model_name_or_path=named), None)
    assert (facts.base, facts.base_folder, facts.base_said) == (base, folder, named)


@pytest.mark.parametrize("name", ["a b", "x\x1b[31mred\ny", "it's \x07", "back\\slash\t", "\u202egnp", "$HOME\x01"])
def test_a_folder_in_a_command_is_the_folder(base: Path, tmp_path: Path, name: str) -> None:
    folder = write_adapter(tmp_path / name)
    facts = facts_of_folder(folder, base)
    assert facts.folder.isprintable()
    command = ["bash", "-c", f"printf %s {facts.folder}"]
    said = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert said.stdout.decode() == str(folder)
    assert ast.literal_eval(judge(facts, "peft").commands[0].rpartition(", ")[2].removesuffix(")")) == str(folder)
