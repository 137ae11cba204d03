"""Combinations: plain PEFT adds to the base what it adds for the parents, weighted; what the read-back catches."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import experts
from support.architectures import save_model
from support.combining import combined, deltas, furthest, save, weighted
from support.random_loras import MODULES, RandomLora, draw
from support.random_loras import save as save_random
from support.soak import scale

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.lora.adapter_config import lora_of
from sdk.lora.factors import Factors, Reduced
from workers.pipelines.combining import combine
from workers.pipelines.combining.read_back import read_back
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import ParentFolder

pytestmark = pytest.mark.filterwarnings("ignore")

#: What a sum in float64, rounded once to float32, may be off by.
EXACT = 1e-6

#: Settings that are refused by name, or for some pairs.
NOT_DRAWN = (
    "use_dora",
    "bias",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "init_lora_weights",
    "layer_replication",
    "alora_invocation_tokens",
    # Which one adapts by its name and another as a module can't be combined.
    "target_parameters",
)

#: Pairs of settings whose sum is exact, beside what `save` gives.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "ranks": ({"r": 2}, {"r": 7}),
    "rslora": ({"use_rslora": True}, {}),
    "patterns": (
        {"rank_pattern": {"0.self_attn.q_proj": 7}, "alpha_pattern": {r".*\.1\..*": 5}},
        {"alpha_pattern": {"v_proj": 1}},
    ),
    "targets": ({"target_modules": ["k_proj", "q_proj"]}, {"target_modules": ["o_proj", "q_proj"]}),
    "layers": ({"layers_to_transform": [1]}, {"exclude_modules": ["0.self_attn.v_proj"]}),
    "the same layers": ({"layers_to_transform": [1]}, {"layers_to_transform": [1], "r": 2}),
    "embeddings": ({"target_modules": ["embed_tokens", "q_proj"]}, {"target_modules": ["embed_tokens"]}),
    "lora_bias": ({"lora_bias": True}, {"lora_bias": True, "r": 2, "lora_alpha": 3}),
    "a parameter": ({"target_parameters": ["mlp.up_proj.weight"]}, {"target_modules": ["down_proj"]}),
}


@pytest.fixture(scope="module")
def biased_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("biased"), "llama-biased")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experts.save_experts("mixtral", tmp_path_factory.mktemp("mixtral"))


def held(base: Path, parents: list[tuple[Path, float]], out: Path, **spec: Any) -> float:
    """Combine; return how far plain PEFT finds the result from the sum of what it finds for the parents."""
    combined(parents, out, **spec)
    return furthest(deltas(base, out), weighted([(weight, deltas(base, folder)) for folder, weight in parents]))


class TestSums:
    @pytest.mark.parametrize("method", ["linear", "cat"])
    @pytest.mark.parametrize("name", PAIRS)
    def test_plain_peft_adds_the_sum(self, biased_base: Path, tmp_path: Path, name: str, method: str) -> None:
        one, other = (save(biased_base, tmp_path / f"{at}", at, **said) for at, said in enumerate(PAIRS[name]))
        assert held(biased_base, [(one, 0.7), (other, -0.3)], tmp_path / "out", method=method) <= EXACT

    @pytest.mark.parametrize("method", ["linear", "cat"])
    def test_transposed_weights(self, gpt2_base: Path, tmp_path: Path, method: str) -> None:
        said = [
            {"target_modules": ["c_attn"], "fan_in_fan_out": True},
            {"target_modules": ["mlp.c_proj"], "fan_in_fan_out": True},
        ]
        one, other = (save(gpt2_base, tmp_path / f"{at}", at, **settings) for at, settings in enumerate(said))
        assert held(gpt2_base, [(one, 0.7), (other, 0.3)], tmp_path / "out", method=method) <= EXACT

    @pytest.mark.parametrize("method", ["linear", "cat"])
    def test_stacked_experts(self, mixture: Path, tmp_path: Path, method: str) -> None:
        both = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        one = save(mixture, tmp_path / "one", 1, target_modules=["q_proj"], target_parameters=both)
        other = save(mixture, tmp_path / "other", 2, r=2, target_modules=["v_proj"], target_parameters=both)
        plain = save(mixture, tmp_path / "plain", 3)
        parents = [(one, 0.7), (other, -0.3), (plain, 2.0)]
        assert held(mixture, parents, tmp_path / "out", method=method) <= EXACT

    @pytest.mark.parametrize("method", ["linear", "cat"])
    def test_single_experts_beside_attention(self, mixture: Path, tmp_path: Path, method: str) -> None:
        single = experts.save_single_experts("mixtral", mixture, tmp_path / "single")
        # An expert that no token came to: its sum has no rank of its own, and PEFT joins it with the others.
        tensors = load_file(single / WEIGHTS_FILE)
        silent = next(name for name in tensors if ".experts.0.w1.lora_B" in name)
        save_file({**tensors, silent: torch.zeros_like(tensors[silent])}, single / WEIGHTS_FILE)
        plain = save(mixture, tmp_path / "plain", 3)
        assert held(mixture, [(single, 0.5), (plain, -2.0)], tmp_path / "out", method=method) <= EXACT

    @pytest.mark.parametrize("method", ["linear", "cat"])
    def test_convolutions_have_their_kernel_in_a(self, tmp_path: Path, method: str) -> None:
        dense = []
        for at, (rank, weight) in enumerate(((2, 0.7), (3, -0.3))):
            a, b = torch.randn(rank, 5, 3, 3), torch.randn(8, rank, 1, 1)
            folder = tmp_path / f"{at}"
            folder.mkdir()
            prefix = "base_model.model.conv1.lora_"
            save_file({f"{prefix}A.weight": a, f"{prefix}B.weight": b}, folder / WEIGHTS_FILE)
            config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["conv1"]}
            (folder / CONFIG_FILE).write_text(json.dumps(config))
            dense.append(weight * 2 * b.flatten(1).double() @ a.flatten(1).double())
        combined([(tmp_path / "0", 0.7), (tmp_path / "1", -0.3)], tmp_path / "out", method=method)
        found = load_file(tmp_path / "out" / WEIGHTS_FILE)
        a, b = (found[f"base_model.model.conv1.lora_{half}.weight"] for half in "AB")
        assert (a.shape, b.shape) == ((5, 5, 3, 3), (8, 5, 1, 1))
        said = sum(dense)
        assert float((b.flatten(1).double() @ a.flatten(1).double() - said).norm() / said.norm()) <= EXACT

    def test_random_ranks_patterns_targets_layers_and_weights(self, tmp_path: Path) -> None:
        bases = {name: save_model(tmp_path / name, name) for name in MODULES}
        folders: dict[str, list[tuple[Path, RandomLora]]] = {name: [] for name in bases}
        for seed in range(scale(600)):
            made = draw(seed)
            made = RandomLora(made.base, {**made.settings}, save_embeddings=False)
            for name in NOT_DRAWN:
                made.settings.pop(name, None)
            folder = tmp_path / f"{seed}"
            try:
                save_random(made, bases[made.base], folder, seed=seed, input_ids=torch.arange(4)[None])
            except ValueError:
                # What PEFT has no adapter for: an exclusion that leaves nothing.
                continue
            folders[made.base].append((folder, made))
        tried = 0
        for base, listed in folders.items():
            for turn, ((first, one), (second, other)) in enumerate(pairwise(listed)):
                pairs = list(zip((first, second), random.Random(turn).sample([0.7, -0.3, 1.0, 2.5], 2), strict=True))
                out = tmp_path / f"{base}-{turn}"
                combined(pairs, out, method=("linear", "cat")[turn % 2])
                tried += 1
                said = weighted([(weight, deltas(bases[base], folder)) for folder, weight in pairs])
                assert furthest(deltas(bases[base], out), said) <= EXACT, (str(one), str(other))
        assert tried >= scale(600) // 3

    def test_ranks_that_differ_are_patterns_of_the_numerical_rank(self, llama_base: Path, tmp_path: Path) -> None:
        one = save(llama_base, tmp_path / "one", 1, target_modules=["q_proj", "v_proj"])
        other = save(llama_base, tmp_path / "other", 2, r=3, target_modules=["q_proj"])
        combined([(one, 0.7), (other, 0.3), (other, 0.1)], tmp_path / "out")
        config = json.loads((tmp_path / "out" / CONFIG_FILE).read_text())
        # The parent that is there twice adds no direction.
        assert (config["r"], config["lora_alpha"]) == (7, 7)
        assert config["rank_pattern"] == config["alpha_pattern"] == {"v_proj": 4}
        assert config["target_modules"] == ["q_proj", "v_proj"]
        cat = combined([(one, 0.7), (other, 0.3), (other, 0.1)], tmp_path / "cat", method="cat")
        assert cat.metrics["rank_max"] == 10

    def test_peft_s_own_concatenation_is_the_same_for_plain_lora(self, llama_base: Path, tmp_path: Path) -> None:
        from peft import PeftModel
        from peft.tuners.lora import LoraLayer
        from transformers import AutoModelForCausalLM

        one, other = save(llama_base, tmp_path / "one", 1), save(llama_base, tmp_path / "other", 2)
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(llama_base, dtype=torch.float64),
            one,
            "one",
            autocast_adapter_dtype=False,
        )
        model.load_adapter(other, "other", autocast_adapter_dtype=False)
        model.add_weighted_adapter(["one", "other"], [0.7, 0.3], "both", combination_type="cat")
        with torch.no_grad():
            theirs = {
                name.removeprefix("base_model.model."): layer.get_delta_weight("both")
                for name, layer in model.named_modules()
                if isinstance(layer, LoraLayer)
            }
        combined([(one, 0.7), (other, 0.3)], tmp_path / "out", method="cat")
        assert furthest(deltas(llama_base, tmp_path / "out"), theirs) <= EXACT

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_the_parents_type_is_rounded_to_once(self, llama_base: Path, tmp_path: Path, dtype: str) -> None:
        one, other = (save(llama_base, tmp_path / f"{at}", at, dtype=dtype) for at in (1, 2))
        said = weighted([(weight, deltas(llama_base, folder)) for folder, weight in ((one, 0.7), (other, 0.3))])
        report = combined([(one, 0.7), (other, 0.3)], tmp_path / "out", dtype="parents")
        distance = furthest(deltas(llama_base, tmp_path / "out"), said)
        assert report.dtype == dtype
        assert 1e-6 < distance <= {"bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
        assert combined([(one, 0.7), (other, 0.3)], tmp_path / "wide").dtype == "float32"
        assert furthest(deltas(llama_base, tmp_path / "wide"), said) <= EXACT

    def test_numbers_that_the_type_does_not_hold_are_refused(self, llama_base: Path, tmp_path: Path) -> None:
        one = save(llama_base, tmp_path / "one", 1, dtype="float16")
        tensors = load_file(one / WEIGHTS_FILE)
        save_file({name: tensor * 1000 for name, tensor in tensors.items()}, one / WEIGHTS_FILE)
        with pytest.raises(
            PipelineError, match="numbers that float16 does not hold; give smaller weights, or the dtype float32"
        ):
            combined([(one, 1000.0)], tmp_path / "out", dtype="parents", method="cat")

    def test_a_rerun_gives_the_same_bytes(self, llama_base: Path, tmp_path: Path) -> None:
        one, other = save(llama_base, tmp_path / "one", 1), save(llama_base, tmp_path / "other", 2)
        for turn in ("first", "second"):
            combined([(one, 0.7), (other, -0.3)], tmp_path / turn)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


class TestCuts:
    def test_the_kept_energy_is_that_of_the_dense_sum(self, llama_base: Path, tmp_path: Path) -> None:
        one, other = save(llama_base, tmp_path / "one", 1), save(llama_base, tmp_path / "other", 2, use_rslora=True)
        report = combined([(one, 0.7), (other, -0.3)], tmp_path / "out", method="svd", rank=3)
        said = weighted([(0.7, deltas(llama_base, one)), (-0.3, deltas(llama_base, other))])
        found = deltas(llama_base, tmp_path / "out")
        kept = whole = 0.0
        for name, delta in said.items():
            squares = np.linalg.svd(delta.numpy(), compute_uv=False) ** 2
            assert report.kept_energy[name] == pytest.approx(float(squares[:3].sum() / squares.sum()), abs=1e-6)
            # No matrix of rank 3 is nearer.
            assert float((found[name] - delta).norm()) == pytest.approx(float(np.sqrt(squares[3:].sum())), rel=1e-6)
            kept, whole = kept + float(squares[:3].sum()), whole + float(squares.sum())
        assert report.metrics["kept_energy"] == pytest.approx(kept / whole, abs=1e-6)
        assert report.metrics["kept_energy_min"] == min(report.kept_energy.values())
        assert lora_of(json.loads((tmp_path / "out" / CONFIG_FILE).read_text())).rank == 3

    @pytest.mark.parametrize("weight", [1.0, 0.7])
    def test_a_module_that_cancels_keeps_all_of_nothing(self, llama_base: Path, tmp_path: Path, weight: float) -> None:
        """As where one adapter was trained on from another, and the difference is what it learnt."""
        one, other = save(llama_base, tmp_path / "one", 1), save(llama_base, tmp_path / "other", 2)
        same = {name: tensor for name, tensor in load_file(one / WEIGHTS_FILE).items() if "v_proj" in name}
        save_file(load_file(other / WEIGHTS_FILE) | same, other / WEIGHTS_FILE)
        report = combined([(one, weight), (other, -weight)], tmp_path / "out", method="svd", rank=3)
        kept = {name: share for name, share in report.kept_energy.items() if "v_proj" in name}
        assert set(kept.values()) == {1.0}
        found = deltas(llama_base, tmp_path / "out")
        assert all(float(found[name].norm()) == 0 for name in kept)
        assert all(float(found[name.replace("v_proj", "q_proj")].norm()) > 0 for name in kept)

    def test_experts_are_cut_one_by_one(self, mixture: Path, tmp_path: Path) -> None:
        said = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
        one, other = (save(mixture, tmp_path / f"{at}", at, **said) for at in (1, 2))
        report = combined([(one, 0.7), (other, 0.3)], tmp_path / "out", method="svd", rank=2)
        (name,) = (name for name in report.kept_energy if "layers.0.mlp" in name)
        dense = weighted([(0.7, deltas(mixture, one)), (0.3, deltas(mixture, other))])[name]
        squares = np.linalg.svd(dense.numpy(), compute_uv=False) ** 2
        assert report.kept_energy[name] == pytest.approx(float(squares[:, :2].sum() / squares.sum()), abs=1e-6)


class TestOneParent:
    @pytest.mark.parametrize("spec", [{}, {"method": "cat"}, {"method": "svd", "rank": 4}, {"dtype": "parents"}])
    @pytest.mark.parametrize(
        "said", [{"use_dora": True, "dtype": "bfloat16"}, {"use_rslora": True, "modules_to_save": ["lm_head"]}]
    )
    def test_of_weight_1_is_taken_byte_for_byte(
        self, llama_base: Path, tmp_path: Path, said: dict[str, Any], spec: dict[str, Any]
    ) -> None:
        parent = save(llama_base, tmp_path / "parent", 1, **said)
        (parent / "chat_template.jinja").write_text("{{ a }}")
        (parent / "README.md").write_text("not taken")
        combined([(parent, 1.0)], tmp_path / "out", **spec)
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            CONFIG_FILE,
            WEIGHTS_FILE,
            "chat_template.jinja",
        }
        for path in (tmp_path / "out").iterdir():
            assert path.read_bytes() == (parent / path.name).read_bytes()

    def test_of_another_weight_is_scaled(self, llama_base: Path, tmp_path: Path) -> None:
        assert held(llama_base, [(save(llama_base, tmp_path / "parent", 1), -0.5)], tmp_path / "out") <= EXACT


class TestRefusals:
    def test_what_a_worker_finds_is_refused_as_at_submit(self, llama_base: Path, mixture: Path, tmp_path: Path) -> None:
        one, dora = save(llama_base, tmp_path / "one", 1), save(llama_base, tmp_path / "dora", 2, use_dora=True)
        with pytest.raises(PipelineError, match="dora is a DoRA"):
            combined([(one, 0.5), (dora, 0.5)], tmp_path / "out")
        single = experts.save_single_experts("mixtral", mixture, tmp_path / "single")
        stacked = save(mixture, tmp_path / "stacked", 1, target_parameters=["mlp.experts.down_proj"])
        with pytest.raises(
            PipelineError, match="single adapts experts one by one, and stacked all of a layer as a parameter"
        ):
            combined([(single, 0.5), (stacked, 0.5)], tmp_path / "out2")

    def test_a_module_beyond_float64_is_named(self, llama_base: Path, tmp_path: Path) -> None:
        one = save(llama_base, tmp_path / "one", 1, dtype="float64", target_modules=["q_proj"])
        sizes = {"A": 1e-306, "B": 1e306}
        tensors = {
            name: tensor * next(size for half, size in sizes.items() if f"lora_{half}" in name)
            for name, tensor in load_file(one / WEIGHTS_FILE).items()
        }
        save_file(tensors, one / WEIGHTS_FILE)
        with pytest.raises(
            PipelineError, match=r"self_attn.q_proj can't be added up: .* beyond float64; give smaller weights"
        ):
            combined([(one, 1000.0)], tmp_path / "out")

    def test_embeddings_that_differ_are_refused(self, llama_base: Path, tmp_path: Path) -> None:
        one, other = (save(llama_base, tmp_path / f"{at}", at, target_modules=["embed_tokens"]) for at in (1, 2))
        combined([(one, 0.5), (other, 0.5)], tmp_path / "alike")
        tensors = load_file(other / WEIGHTS_FILE)
        name = next(name for name in tensors if "base_layer" in name)
        save_file({**tensors, name: tensors[name] + 1}, other / WEIGHTS_FILE)
        with pytest.raises(PipelineError, match=f"1 and 2 hold {name} whole, and differ in it"):
            combined([(one, 0.5), (other, 0.5)], tmp_path / "out")

    def test_what_differs_for_serving_is_left_out(self, llama_base: Path, tmp_path: Path) -> None:
        one, other = save(llama_base, tmp_path / "one", 1), save(llama_base, tmp_path / "other", 2)
        for folder, text in ((one, "a"), (other, "b")):
            (folder / "chat_template.jinja").write_text(text)
            (folder / "generation_config.json").write_text("{}")
        combined([(one, 0.5), (other, 0.5)], tmp_path / "out")
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            CONFIG_FILE,
            WEIGHTS_FILE,
            "generation_config.json",
        }


def changed(path: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Return what changes the tensors whose name ends so."""

    def act(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        save_file(
            {name: change(one) if name.endswith(path) else one for name, one in tensors.items()}, folder / WEIGHTS_FILE
        )

    return act


def without(part: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        save_file({name: one for name, one in tensors.items() if part not in name}, folder / WEIGHTS_FILE)

    return act


def configured(**said: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        config = json.loads((folder / CONFIG_FILE).read_text())
        merged = {name: {**config[name], **value} if isinstance(value, dict) else value for name, value in said.items()}
        (folder / CONFIG_FILE).write_text(json.dumps({**config, **merged}))

    return act


Q, V = "model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a wrong weight": (changed(f"{Q}.lora_B.weight", lambda b: b * 1.001), f"{Q} is off by 1.0e-03"),
    "a layer lost": (without(V), f"{V} is in only one of the two"),
    "a sign": (changed(f"{V}.lora_A.weight", torch.neg), f"{V} is off by 2.0e"),
    "a column": (changed(f"{Q}.lora_B.weight", lambda b: b.roll(1, dims=1)), f"{Q} is off by"),
    "α of a pattern": (configured(alpha_pattern={"1.self_attn.q_proj": 9}), f"{Q} is off by"),
    "rsLoRA": (configured(use_rslora=True), "is off by"),
    "an expert": (
        changed("experts.lora_B.weight", lambda b: b * torch.tensor([1.0, 1, 1, 0]).repeat(b.shape[1] // 4)),
        "experts, expert 3, is off by 1.0e",
    ),
    "the order of experts": (
        changed("experts.lora_A.weight", lambda a: a.roll(8, dims=0)),
        "experts, expert 0, is off by",
    ),
}


@pytest.fixture(scope="module")
def sound(mixture: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ParentFolder], Path]:
    """A combination that is right, and its parents."""
    folder = tmp_path_factory.mktemp("sound")
    said = {"target_parameters": ["mlp.experts.down_proj"]}
    parents = [(save(mixture, folder / "one", 1, **said), 0.7), (save(mixture, folder / "other", 2), 0.3)]
    combined(parents, folder / "out")
    return [ParentFolder(label=path.name, folder=path, weight=weight) for path, weight in parents], folder / "out"


@pytest.mark.parametrize("name", FAULTS)
def test_what_was_written_otherwise_is_named(sound: tuple[list[ParentFolder], Path], tmp_path: Path, name: str) -> None:
    parents, right = sound
    shutil.copytree(right, tmp_path / "out")
    assert read_back(parents, tmp_path / "out", expected_kept=None) <= EXACT
    fault, said = FAULTS[name]
    fault(tmp_path / "out")
    with pytest.raises(PipelineError, match="is not the sum of the parents") as caught:
        read_back(parents, tmp_path / "out", expected_kept=None)
    assert said in str(caught.value)
    assert caught.value.reason == "verification"


def test_a_wrong_weight_of_the_pipeline_is_caught(
    llama_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path that writes and the one that reads share no arithmetic: a fault in the first is not repeated in the second."""
    joined = combine.joined
    monkeypatch.setattr(combine, "joined", lambda terms: joined([(abs(weight), factors) for weight, factors in terms]))
    one, other = save(llama_base, tmp_path / "one", 1), save(llama_base, tmp_path / "other", 2)
    for spec in ({}, {"method": "cat"}, {"method": "svd", "rank": 2}):
        out = tmp_path / f"out-{len(spec)}-{spec.get('method')}"
        with pytest.raises(PipelineError, match=r"is not the sum of the parents: .* (is off by|keeps)"):
            combined([(one, 0.7), (other, -0.3)], out, **spec)


def test_a_cut_that_keeps_less_than_it_could_is_caught(
    llama_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduced = combine.reduced

    def smallest(factors: Factors, rank: int | None = None) -> Reduced:
        found = reduced(factors)
        kept = Factors(found.factors.b[:, -2:], found.factors.a[-2:])
        return Reduced(kept, float(np.linalg.norm(kept.b @ kept.a) ** 2), found.square)

    monkeypatch.setattr(combine, "reduced", smallest)
    one, other = save(llama_base, tmp_path / "one", 1), save(llama_base, tmp_path / "other", 2)
    with pytest.raises(PipelineError, match=r"keeps 0\.\d+ of the energy, of 0\.\d+ that the rank 2 can keep"):
        combined([(one, 0.7), (other, -0.3)], tmp_path / "out", method="svd", rank=2)
