"""Plain LoRAs: what plain PEFT makes of one on its base is what it makes of the adapter, but for what the rank cuts, which is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import merges
from support.architectures import save_model
from support.experts import save_experts, save_single_experts
from support.fixtures import Limits
from support.merges import Made
from support.traced import traced

from sdk.errors import InvalidInput, VerificationFailed
from sdk.lora.factors import Factors, Reduced, reduced
from sdk.schemas.export import PlainLoraReport, PlainLoraRequest
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.exporting import dora, plain_lora, plain_read_back
from workers.pipelines.exporting.plain_lora import export_plain_lora


def export(adapter: Path, out: Path, **asked: Any) -> PlainLoraReport:
    """Export in this process."""
    request = {"rank": None, "dtype": None, **asked}
    return export_plain_lora(PlainLoraRequest(folder=str(adapter), out=str(out), **request))


def config(folder: Path) -> dict[str, Any]:
    """Return what its configuration says."""
    return json.loads((folder / "adapter_config.json").read_bytes())


def updates(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    """Return what plain PEFT adds to each parameter of a base, in float64."""
    merged = merges.by_peft(Made(base, adapter), torch.float64)
    plain = merges.loaded(base)
    return {name: tensor - plain[name].double() for name, tensor in merged.items() if name in plain}


def energies(whole: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> dict[str, tuple[float, float]]:
    """Return ‖ΔW − ΔW_r‖² and ‖ΔW‖² of each changed parameter."""
    return {
        name.removesuffix(".weight"): (float((one - other[name]).square().sum()), float(one.square().sum()))
        for name, one in whole.items()
        if one.any()
    }


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny bases."""
    folder = tmp_path_factory.mktemp("bases")
    return {name: save_model(folder / name, name) for name in ("llama", "gpt2")}


LINEAR: dict[str, Any] = {"r": 3, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]}
PATTERNS: dict[str, Any] = {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 3, r".*\.1\..*": 7}}


class TestPadded:
    @pytest.mark.parametrize("rank", [None, 16])
    def test_it_is_the_same_adapter(self, rank: int | None, bases: dict[str, Path], tmp_path: Path) -> None:
        settings = {**LINEAR, **PATTERNS, "use_rslora": True}
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **settings)
        report = export(adapter, tmp_path / "plain", rank=rank)
        said = config(tmp_path / "plain")
        assert (said["r"], said["rank_pattern"], said["alpha_pattern"]) == (rank or 5, {}, {})
        assert (said["use_rslora"], said["target_modules"]) == (False, sorted(LINEAR["target_modules"]))
        assert (report.rank, report.cut, report.kept_energy, report.kept_by_module) == (rank or 5, 0, 1.0, {})
        found = energies(updates(bases["llama"], adapter), updates(bases["llama"], tmp_path / "plain"))
        assert len(found) == report.modules == 6
        assert all(left <= 1e-13 * square for left, square in found.values())

    def test_numbers_that_need_not_change_do_not(self, bases: dict[str, Path], tmp_path: Path) -> None:
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR)
        tensors = {name: tensor.bfloat16() for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
        save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
        (adapter / "chat_template.jinja").write_text("{{ messages }}")
        report = export(adapter, tmp_path / "plain", rank=8)
        assert (report.dtype, report.alpha, report.error < 1e-12) == ("bf16", 4 / 3 * 8, True)
        written = load_file(tmp_path / "plain" / "adapter_model.safetensors")
        assert written.keys() == tensors.keys()
        for name, tensor in tensors.items():
            kept = written[name][:3] if ".lora_A." in name else written[name][:, :3]
            assert torch.equal(kept, tensor)
            assert written[name].count_nonzero() == tensor.count_nonzero()
        assert (tmp_path / "plain" / "chat_template.jinja").read_text() == "{{ messages }}"

    def test_stacked_and_single_experts(self, tmp_path: Path) -> None:
        base = save_experts("mixtral", tmp_path / "base")
        stacked = merges.save_adapter(
            base, tmp_path / "stacked", r=2, lora_alpha=3, target_modules=["q_proj"], rank_pattern={"q_proj": 4},
            target_parameters=["experts.gate_up_proj", "experts.down_proj"],
        )  # fmt: skip
        single = save_single_experts("mixtral", base, tmp_path / "single")
        for adapter, rank in ((stacked, 6), (single, 5)):
            out = adapter.with_name(f"{adapter.name}-plain")
            assert export(adapter, out, rank=rank).cut == 0
            found = energies(updates(base, adapter), updates(base, out))
            assert len(found) == 6
            assert all(left <= 1e-12 * square for left, square in found.values())


class TestCut:
    @pytest.mark.parametrize("settings", [{}, PATTERNS, {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}])
    def test_the_energy_that_is_told_is_what_is_kept_and_most(
        self, settings: dict[str, Any], bases: dict[str, Path], tmp_path: Path
    ) -> None:
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **{**LINEAR, **settings})
        report = export(adapter, tmp_path / "plain", rank=2)
        whole, plain = updates(bases["llama"], adapter), updates(bases["llama"], tmp_path / "plain")
        found = energies(whole, plain)
        assert report.cut == report.modules == len(found) == len(report.kept_by_module)
        for module, (left, square) in found.items():
            sigma = torch.linalg.svdvals(whole[f"{module}.weight"]).square()
            assert left / square == pytest.approx(1 - report.kept_by_module[module], abs=1e-6)
            assert left == pytest.approx(float(sigma[2:].sum()), rel=1e-5)
        total = sum(square for _, square in found.values())
        assert report.kept_energy == pytest.approx(1 - sum(left for left, _ in found.values()) / total, abs=1e-6)
        assert "keeps" in report.notes[0]

    def test_a_rank_that_only_seems_higher_is_whole(self, bases: dict[str, Path], tmp_path: Path) -> None:
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR)
        wide = export(adapter, tmp_path / "wide", rank=9)
        again = export(tmp_path / "wide", tmp_path / "again", rank=3)
        assert (wide.cut, again.cut) == (0, 0)
        assert again.kept_energy == pytest.approx(1.0, abs=1e-12)
        found = energies(updates(bases["llama"], adapter), updates(bases["llama"], tmp_path / "again"))
        assert all(left <= 1e-12 * square for left, square in found.values())

    @pytest.mark.parametrize("dtype", ["f16", "bf16"])
    def test_in_sixteen_bits(self, dtype: str, bases: dict[str, Path], tmp_path: Path) -> None:
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR)
        assert export(adapter, tmp_path / "plain", rank=2, dtype=dtype).dtype == dtype


class TestDora:
    @pytest.mark.parametrize(
        ("family", "targets"), [("llama", ["q_proj", "down_proj", "embed_tokens"]), ("gpt2", ["c_attn", "c_fc"])]
    )
    def test_what_is_kept_is_told_and_all_of_it_at_the_full_rank(
        self, family: str, targets: list[str], bases: dict[str, Path], tmp_path: Path
    ) -> None:
        base = bases[family]
        adapter = merges.save_adapter(
            base, tmp_path / "a", r=3, lora_alpha=4, target_modules=targets, use_dora=True, use_rslora=True
        )
        whole = updates(base, adapter)
        # As PEFT saves it, and nobody pushed it yet.
        (adapter / "adapter_config.json").write_text(json.dumps({**config(adapter), "megatron_core": "megatron.core"}))
        for rank in (4, 64):
            report = export(adapter, tmp_path / f"{rank}", rank=rank, base=str(base))
            said = config(tmp_path / f"{rank}")
            assert (said["use_dora"], said["r"], said["lora_alpha"]) == (False, rank, rank)
            assert not any("magnitude" in name for name in load_file(tmp_path / f"{rank}/adapter_model.safetensors"))
            found = energies(whole, updates(base, tmp_path / f"{rank}"))
            for module, (left, square) in found.items():
                told = 1 - report.kept_by_module[module]
                assert left / square == pytest.approx(told, abs=1e-5)
                best = torch.linalg.svdvals(whole[f"{module}.weight"]).square()[rank:].sum()
                assert left == pytest.approx(float(best), rel=1e-3, abs=1e-8 * square)
        assert report.kept_energy == pytest.approx(1.0, abs=1e-6)

    def test_a_large_matrix_is_cut_by_random_combinations(
        self, bases: dict[str, Path], tmp_path: Path, limits: Limits
    ) -> None:
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR, use_dora=True)
        exact = export(adapter, tmp_path / "exact", rank=4, base=str(bases["llama"]))
        limits(dora, _WHOLE_SVD=1)
        found = export(adapter, tmp_path / "random", rank=4, base=str(bases["llama"]))
        for module, kept in exact.kept_by_module.items():
            assert kept - 1e-3 <= found.kept_by_module[module] <= kept + 1e-9
        export(adapter, tmp_path / "again", rank=4, base=str(bases["llama"]))
        same = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("random", "again")]
        assert same[0] == same[1]

    def test_over_four_bits_it_is_what_was_trained_over(self, bases: dict[str, Path], tmp_path: Path) -> None:
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR, use_dora=True)
        recipe = QuantizationRecipe(compute_dtype="float32")
        over = {"rank": 4, "base": str(bases["llama"])}
        plain, packed = (
            export(adapter, tmp_path / name, **over, quantization=given)
            for name, given in (("plain", None), ("packed", recipe))
        )
        assert plain.kept_by_module != packed.kept_by_module

    def test_over_eight_bits_it_is_over_the_stored_weights(self, bases: dict[str, Path], tmp_path: Path) -> None:
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR, use_dora=True)
        over = {"rank": 4, "base": str(bases["llama"])}
        plain, packed = (
            export(adapter, tmp_path / name, **over, quantization=given)
            for name, given in (("plain", None), ("packed", QuantizationRecipe(type="int8")))
        )
        assert plain.kept_by_module == packed.kept_by_module
        assert packed.notes == [
            *plain.notes,
            "it was trained over the base in int8, and its ΔW is over the weights as they are stored, as a merge's",
        ]

    def test_without_a_rank_it_is_refused(self, bases: dict[str, Path], tmp_path: Path) -> None:
        adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR, use_dora=True)
        with pytest.raises(InvalidInput, match=r"a DoRA, whose ΔW has no low rank; say .* with rank="):
            export(adapter, tmp_path / "plain", base=str(bases["llama"]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bias": "all"}, r"trained biases of the base \(bias 'all'\).*merge it instead: adapterctl merge"),
        ({"modules_to_save": ["input_layernorm"]}, r"replaces input_layernorm whole.*merge it instead"),
        ({"trainable_token_indices": [3, 5]}, r"trained single tokens.*merge it instead"),
        ({"lora_bias": True}, r"biases of B.*merge it instead"),
        ({"init_lora_weights": "pissa"}, r"changes the base"),
        ({"use_qalora": True}, r"has use_qalora, with which"),
        ({"peft_type": "IA3"}, "is of the type 'IA3'"),
        ({"alpha_pattern": {"q_proj": 1e308}}, "has the scale .*, beyond what float32 holds"),
    ],
)
def test_what_it_can_not_hold_is_refused_by_name(
    settings: dict[str, Any], said: str, bases: dict[str, Path], tmp_path: Path
) -> None:
    adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR)
    (adapter / "adapter_config.json").write_text(json.dumps({**config(adapter), **settings}))
    with pytest.raises(InvalidInput, match=said):
        export(adapter, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_nothing_of_the_machine_goes_along(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR)
    beside = {"base_model_name_or_path": "/home/me/base", "megatron_core": float("inf"), "auto_mapping": {"x": "y"}}
    (adapter / "adapter_config.json").write_text(json.dumps({**config(adapter), **beside}))
    export(adapter, tmp_path / "plain")
    assert not beside.keys() & config(tmp_path / "plain").keys()


def test_embeddings_that_were_saved_whole_are_named(bases: dict[str, Path], tmp_path: Path) -> None:
    adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR)
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(300, 32)
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match=r"embed_tokens\.weight' whole.*save_embedding_layers=False"):
        export(adapter, tmp_path / "plain")


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("wrong", ["lost", "transposed", "alpha", "scaled", "one number", "kept"])
def test_what_is_written_wrong_is_found(
    wrong: str, use_dora: bool, bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR, use_dora=use_dora)
    honest = plain_lora._write

    def write(out: Path, plan: Any, tensors: dict[str, Any], folder: Path) -> None:
        b = next(name for name in tensors if "layers.1.self_attn.q_proj.lora_B" in name)
        if wrong == "lost":
            tensors[b] = torch.zeros_like(tensors[b])
        elif wrong == "transposed":
            tensors[b] = tensors[b].flip(0).contiguous()
        elif wrong == "scaled":
            tensors[b] = tensors[b] * 1.01
        elif wrong == "one number":
            tensors[b][0, 0] += tensors[b].abs().max()
        honest(out, plan, tensors, folder)
        if wrong == "alpha":
            said = config(out)
            (out / "adapter_config.json").write_text(json.dumps({**said, "lora_alpha": said["lora_alpha"] * 2}))

    monkeypatch.setattr(plain_lora, "_write", write)
    if wrong == "kept":

        def boast(folder: Path, out: Path, kept: dict[str, float], *rest: Any) -> float:
            return plain_read_back.read_back(folder, out, {name: share + 1e-3 for name, share in kept.items()}, *rest)

        monkeypatch.setattr(plain_lora, "read_back", boast)
    with pytest.raises(
        VerificationFailed, match="q_proj|layers.0" if wrong in ("alpha", "kept") else "layers.1.self_attn.q_proj"
    ):
        export(adapter, tmp_path / "plain", rank=2, base=str(bases["llama"]))


def test_a_worse_cut_that_is_told_honestly_is_found(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = merges.save_adapter(bases["llama"], tmp_path / "a", **LINEAR)

    def worst(factors: Factors, rank: int) -> Reduced:
        whole = reduced(factors)
        last = Factors(whole.factors.b[:, -rank:], whole.factors.a[-rank:])
        return Reduced(last, reduced(last).square, whole.square)

    monkeypatch.setattr(plain_lora, "reduced", worst)
    with pytest.raises(VerificationFailed, match="the rank can keep"):
        export(adapter, tmp_path / "plain", rank=2)


def test_no_delta_of_full_size_is_formed(tmp_path: Path) -> None:

    rows, rank = 20_000, 4
    tensors = {
        "base_model.model.q_proj.lora_A.weight": np.random.default_rng(0).standard_normal((rank, rows), "<f4"),
        "base_model.model.q_proj.lora_B.weight": np.random.default_rng(1).standard_normal((rows, rank), "<f4"),
    }
    folder = tmp_path / "wide"
    folder.mkdir()
    save_file({name: torch.from_numpy(one) for name, one in tensors.items()}, folder / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(said))
    with traced() as peak_bytes:
        report = export(folder, tmp_path / "plain", rank=2)
        # ΔW would be 3.2 GB in float64.
        assert peak_bytes() < 40e6
    assert 0.4 < report.kept_energy < 0.7
