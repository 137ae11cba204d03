"""What a read-back finds: each way in which a merged model may be wrong is caught, and the tensor is named."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.merges import Made, make, merge
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import workers.pipelines.merging.folder as folder_module
import workers.pipelines.merging.merge as module
import workers.pipelines.merging.prompts as prompts
from sdk.lora.adapter_config import lora_of
from sdk.lora.delta_norms import delta_norms
from sdk.schemas.evaluation import UNMEASURED, MergeReport, MergeSpec
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.data.fixed_texts import PROBE_TEXTS
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.plain_measuring import Measured
from workers.pipelines.merging.prompts import Distance
from workers.pipelines.merging.read_back import read_back
from workers.pipelines.merging.stored_base import open_files
from workers.pipelines.merging.writing import digest_in
from workers.pipelines.orders import MergeOrder

pytestmark = pytest.mark.filterwarnings("ignore")

Q = "model.layers.1.self_attn.q_proj.weight"
#: Changes the tensors of a written file; given those of the base as well.
Mutation = Callable[[dict[str, Any], dict[str, Any]], None]


def run(made: Made, out: Path, **options: Any) -> MergeReport:
    return merge(made.base, made.adapter, out, **options)


@pytest.fixture(autouse=True)
def short_of_memory(free_memory: Callable[[int], None]) -> None:
    """Most of these look at bytes alone."""
    free_memory(0)


def mutated(
    made: Made, out: Path, change: Mutation, monkeypatch: pytest.MonkeyPatch, *, as_computed: bool = True
) -> PipelineError:
    """Merge, change what was written before it is read again, and return the error; `as_computed`: as if it had been computed so."""
    real = read_back

    def after_change(prepared: Any, folder: Path, digests: dict[str, str], done: Any) -> Any:
        (path,) = folder.glob("*.safetensors")
        tensors, base = load_file(path), load_file(made.base / path.name)
        change(tensors, base)
        save_file(
            {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
        )
        if as_computed:
            there = open_files(folder, [path.name])
            digests = {name: digest_in(there, name) for name in there.tensors}
        return real(prepared, folder, digests, done)

    monkeypatch.setattr(module, "read_back", after_change)
    with pytest.raises(PipelineError) as caught:
        run(made, out)
    assert caught.value.reason == "verification"
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))
    return caught.value


def undo(name: str) -> Mutation:
    return lambda tensors, base: tensors.update({name: base[name]})


def scaled(name: str, by: float) -> Mutation:
    def change(tensors: dict[str, Any], base: dict[str, Any]) -> None:
        wide = base[name].float()
        tensors[name] = (wide + by * (tensors[name].float() - wide)).to(base[name].dtype)

    return change


def turned(tensors: dict[str, Any], base: dict[str, Any]) -> None:
    assert tensors[Q].shape[0] == tensors[Q].shape[1]
    tensors[Q] = tensors[Q].T.contiguous()


def overwritten(tensors: dict[str, Any], base: dict[str, Any]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()


def nudged(name: str) -> Mutation:
    def change(tensors: dict[str, Any], base: dict[str, Any]) -> None:
        tensors[name].view(torch.uint8).view(-1)[5] ^= 64

    return change


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "variant", "change", "named"),
    [
        ("llama", "plain", undo(Q), Q),
        ("llama", "plain", turned, Q),
        ("llama", "patterns", scaled(Q, 4 / 3 / (3 / 5)), Q),
        ("llama", "dora", scaled(Q, 0.9), Q),
        ("llama", "whole", undo("model.layers.1.input_layernorm.weight"), "model.layers.1.input_layernorm.weight"),
        ("llama-tied", "tokens", undo("model.embed_tokens.weight"), "model.embed_tokens.weight"),
        ("llama-tied", "embeddings", overwritten, "lm_head.weight"),
        ("opt", "B's bias", undo("model.decoder.layers.0.fc2.bias"), "model.decoder.layers.0.fc2.bias"),
        (
            "mixtral",
            "experts",
            undo("model.layers.1.block_sparse_moe.experts.2.w2.weight"),
            "model.layers.1.block_sparse_moe.experts.2.w2.weight",
        ),
        ("llama", "plain", nudged("model.norm.weight"), "model.norm.weight"),
    ],
    ids=[
        "a layer skipped",
        "transposed",
        "wrong alpha",
        "DoRA",
        "whole",
        "tokens",
        "tied copy",
        "bias",
        "expert",
        "untouched",
    ],
)
def test_what_is_computed_wrongly_is_named(
    family: str, variant: str, change: Mutation, named: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(family, variant, tmp_path, dtype=dtype)
    said = mutated(made, tmp_path / "out", change, monkeypatch)
    assert f"the bytes of {named} on the disk" in said.message


def test_a_lost_expert_of_a_stacked_tensor_is_named_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make("qwen3-moe", "experts", tmp_path)
    state = AutoModelForCausalLM.from_pretrained(made.base).state_dict()
    stacked = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    save_file(stacked, made.base / "model.safetensors", metadata={"format": "pt"})
    name = "model.layers.0.mlp.experts.gate_up_proj"

    def lose(tensors: dict[str, Any], base: dict[str, Any]) -> None:
        tensors[name][2] = base[name][2]

    said = mutated(made, tmp_path / "out", lose, monkeypatch)
    assert f"the bytes of {name} on the disk" in said.message
    assert "expert 2" in said.message


@pytest.mark.parametrize("name", [Q, "model.norm.weight"])
def test_a_flipped_byte_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = mutated(make("llama", "plain", tmp_path), tmp_path / "out", nudged(name), monkeypatch, as_computed=False)
    assert f"the bytes of {name} on the disk are not those that were computed" in said.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors, base: tensors.pop(Q), "missing from model.safetensors"),
        (lambda tensors, base: tensors.update({"more.weight": torch.ones(2)}), "too many in model.safetensors"),
        (lambda tensors, base: tensors.update({Q: tensors[Q].double()}), "are F64"),
    ],
)
def test_other_tensors_than_were_planned_are_named(
    change: Mutation, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make("llama", "plain", tmp_path)
    assert said in mutated(made, tmp_path / "out", change, monkeypatch).message


def test_rows_that_are_lost_of_a_faint_update_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any block of those that are written at a time, of an update so faint that neither norm nor random product shows it."""
    made = make("llama", "embeddings", tmp_path, dtype="bfloat16")
    path = made.adapter / "adapter_model.safetensors"
    save_file({key: tensor * 0.1 for key, tensor in load_file(path).items()}, path)
    name, real, found = "model.embed_tokens.weight", read_back, []

    def each_block(prepared: Any, folder: Path, digests: dict[str, str], done: Any) -> Any:
        path = folder / "model.safetensors"
        whole, base = load_file(path), load_file(made.base / path.name)
        for begin in range(0, 256, 64):
            lost = whole[name].clone()
            lost[begin : begin + 64] = base[name][begin : begin + 64]
            save_file(whole | {name: lost}, folder / "lost.safetensors", metadata={"format": "pt"})
            # Another file, for that one is mapped.
            (folder / "lost.safetensors").replace(path)
            there = open_files(folder, [path.name])
            try:
                real(prepared, folder, {key: digest_in(there, key) for key in there.tensors}, done)
            except PipelineError as error:
                found.append(f"the bytes of {name} on the disk" in error.message)
            else:
                found.append(False)
        raise RuntimeError("seen")

    monkeypatch.setattr(module, "read_back", each_block)
    with pytest.raises(RuntimeError, match="seen"):
        run(made, tmp_path / "out")
    assert found == [True] * 4


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("every", [1, 2], ids=["zero", "sparse"])
def test_a_right_merge_beside_zeros_is_none_that_is_wrong(dtype: str, every: int, tmp_path: Path) -> None:
    """What terms that cancel leave of a sum in float32 is off by steps of a 16-bit type, where the base adds nothing to it."""
    made = make("llama", "plain", tmp_path, dtype=dtype)
    path = made.base / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if "proj" in name:
            tensor[:, ::every] = 0
    save_file(tensors, path, metadata={"format": "pt"})
    adapter = made.adapter / "adapter_model.safetensors"
    factors = load_file(adapter)
    for name, each in factors.items():
        if "lora_A" in name:
            each[1], each[2] = each[0], 0
        else:
            each[:, 1], each[:, 2] = -each[:, 0] * (1 + 1e-5), 0
    save_file(factors, adapter)
    assert run(made, tmp_path / "out").read_back is not None


def test_weights_in_64_bit_are_read_and_left_as_they_are(tmp_path: Path) -> None:
    made = make("llama", "plain", tmp_path)
    path = made.base / "model.safetensors"
    save_file(load_file(path) | {Q: load_file(path)[Q].double()}, path, metadata={"format": "pt"})
    run(made, tmp_path / "out")
    given = load_file(made.adapter / "adapter_model.safetensors")
    b, a = (given[f"base_model.model.{Q.removesuffix('.weight')}.lora_{half}.weight"].double() for half in "BA")
    merged = load_file(tmp_path / "out" / "model.safetensors")[Q]
    assert merged.dtype == torch.float64
    torch.testing.assert_close(merged, load_file(path)[Q] + 4 / 3 * b @ a, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config.json", lambda said: said.update(tie_word_embeddings=True), "are not those that were planned"),
        ("config.json", lambda said: said.update(rope_theta=7), "are not those that were planned"),
        ("model.safetensors.index.json", lambda said: said["weight_map"].popitem(), "name other tensors or files"),
    ],
)
def test_a_config_or_an_index_that_says_something_else_is_named(
    name: str, change: Callable[[Any], Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make("llama-tied", "embeddings", tmp_path, shards=4)
    real = folder_module.write_small_files

    def written(out: Path, **given: Any) -> None:
        real(out, **given)
        found = json.loads((out / name).read_text())
        change(found)
        (out / name).write_text(json.dumps(found))

    monkeypatch.setattr(module, "write_small_files", written)
    with pytest.raises(PipelineError, match=rf"the bytes of {name} on the disk {said}") as caught:
        run(made, tmp_path / "out")
    assert caught.value.reason == "verification"
    assert not list(tmp_path.glob("*out*"))


def _formula(tensors: dict[str, Any], scales: dict[str, float]) -> dict[str, float]:
    found = {}
    for name, scale in scales.items():
        b, a = (tensors[f"base_model.model.{name}.lora_{half}.weight"].double() for half in "BA")
        found[name] = float((scale * b @ a).norm())
    return found


class TestNorms:
    """The norm of each module's update, held against those that were stored at publication."""

    def test_they_are_those_of_s_b_a(self, tmp_path: Path) -> None:
        made = make("llama", "patterns", tmp_path)
        tensors = load_file(made.adapter / "adapter_model.safetensors")
        found = run(made, tmp_path / "out").norms
        assert len(found) == 6
        scales = {"model.layers.0.self_attn.q_proj": 3 / 5, "model.layers.1.self_attn.v_proj": 7 / 3}
        for name, norm in _formula(tensors, scales).items():
            assert found[name] == pytest.approx(norm, rel=1e-5)
        stored = {name: float(value) for name, value in _formula(tensors, scales).items()}
        assert run(made, tmp_path / "again", norms=stored).warnings == []

    def test_another_one_is_an_error_that_names_the_module(self, tmp_path: Path) -> None:
        made = make("llama", "plain", tmp_path, dtype="bfloat16")
        name = Q.removesuffix(".weight")
        tensors = load_file(made.adapter / "adapter_model.safetensors")
        (right,) = _formula(tensors, {name: 4 / 3}).values()
        run(made, tmp_path / "out", norms={name: right, "model.layers.0.self_attn.q_proj": None})
        for wrong in ({name: right * (1 + 1e-5)}, {"model.layers.9.self_attn.q_proj": 1.0}):
            with pytest.raises(PipelineError, match=r"should have the norm .*, and the adapter's own is") as caught:
                run(made, tmp_path / "again", norms=wrong)
            assert caught.value.reason == "verification"
            assert f"The update of {min(wrong)} should" in caught.value.message
            assert not (tmp_path / "again").exists()
            assert not list(tmp_path.glob(".again*"))

    def test_an_update_that_rounding_takes_is_warned_of(self, tmp_path: Path) -> None:
        made = make("llama", "plain", tmp_path, dtype="bfloat16")
        path = made.adapter / "adapter_model.safetensors"
        save_file({name: tensor * 1e-3 for name, tensor in load_file(path).items()}, path)
        (warning,) = run(made, tmp_path / "out").warnings
        assert warning.startswith("Rounding took more than half of the update of 6 modules")
        assert run(made, tmp_path / "wide", dtype="float32").warnings == []


class TestPrompts:
    """Fixed texts through what was trained and what was written."""

    def test_where_memory_is_short_they_are_left_out_and_said_to_be(self, tmp_path: Path) -> None:
        report = run(make("llama", "plain", tmp_path), tmp_path / "out")
        assert report.read_back.prompts == "not run: memory"
        assert not {name for name in report.metrics if "logit" in name}
        assert (tmp_path / "out" / "model.safetensors").is_file()

    @pytest.fixture
    def by_transformers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plain merges are planned and measured as all others."""
        monkeypatch.setattr(module, "plain", lambda *given: None)

    def test_each_model_is_loaded_once_and_sees_all_texts_in_one_pass(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        free_memory: Callable[[int], None],
        by_transformers: None,
    ) -> None:
        free_memory(2**40)
        passes: list[tuple[int, ...]] = []
        real = LlamaForCausalLM.forward

        def counted(self: Any, *given: Any, **options: Any) -> Any:
            passes.append(tuple(options["input_ids"].shape))
            return real(self, *given, **options)

        monkeypatch.setattr(LlamaForCausalLM, "forward", counted)
        report = run(make("llama", "plain", tmp_path, dtype="bfloat16"), tmp_path / "out")
        assert report.read_back.prompts == "run"
        # The trained one sees one of them again, with another last token, which shows that it is causal.
        assert [texts for texts, _ in passes] == [len(PROBE_TEXTS) + 1, len(PROBE_TEXTS)]

    def test_a_model_that_sees_what_it_predicts_is_refused(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        free_memory: Callable[[int], None],
        by_transformers: None,
    ) -> None:
        free_memory(2**40)
        real = LlamaForCausalLM.forward

        def seeing(self: Any, *given: Any, **options: Any) -> Any:
            found = real(self, *given, **options)
            found.logits = found.logits + found.logits[:, -1:]
            return found

        monkeypatch.setattr(LlamaForCausalLM, "forward", seeing)
        with pytest.raises(PipelineError, match="sees the tokens that it should predict") as caught:
            run(make("llama", "plain", tmp_path), tmp_path / "out")
        assert caught.value.reason == "untrained"

    def test_without_measuring_no_model_is_loaded_and_the_report_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_memory: Callable[[int], None]
    ) -> None:
        free_memory(2**40)
        made = make("llama", "plain", tmp_path, dtype="bfloat16")
        run(made, tmp_path / "measured")
        for name in ("as_trained", "distance_of"):
            monkeypatch.delattr(prompts, name)
        monkeypatch.delattr(module, "measured")
        report = run(made, tmp_path / "out", measure=False)
        assert report.read_back.prompts == UNMEASURED
        assert (report.read_back.tensors, report.read_back.rows > 0) == (
            len(load_file(tmp_path / "out/model.safetensors")),
            True,
        )
        assert not {name for name in report.metrics if "logit" in name or "probe" in name}
        written, measured = (tmp_path / name / "model.safetensors" for name in ("out", "measured"))
        assert written.read_bytes() == measured.read_bytes()

    def test_without_measuring_the_nearer_of_two_bases_cannot_be_kept(self, tmp_path: Path) -> None:
        made = make("llama", "plain", tmp_path)
        with pytest.raises(PipelineError, match="has to measure; merge onto original, or onto dequantized"):
            run(made, tmp_path / "out", quantization=QuantizationRecipe(), measure=False)
        for onto in ("original", "dequantized"):
            report = run(made, tmp_path / onto, quantization=QuantizationRecipe(), measure=False, onto=onto)
            assert (report.onto, report.read_back.prompts) == (onto, UNMEASURED)

    @pytest.mark.parametrize(
        ("owner", "what"), [(prompts, "as_trained"), (prompts, "distance_of"), (module, "measured")]
    )
    @pytest.mark.parametrize(
        "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("can't allocate memory")]
    )
    def test_where_memory_runs_out_the_merge_stands(
        self,
        owner: Any,
        what: str,
        error: Exception,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        free_memory: Callable[[int], None],
    ) -> None:
        def fail(*given: Any, **options: Any) -> None:
            raise error

        free_memory(2**40)
        monkeypatch.setattr(owner, what, fail)
        if owner is prompts:
            monkeypatch.setattr(module, "plain", lambda *given: None)
        report = run(make("llama", "plain", tmp_path), tmp_path / "out")
        assert report.read_back.prompts == "not run: memory"
        assert (tmp_path / "out" / "model.safetensors").is_file()

    @pytest.mark.parametrize(
        ("kl", "family", "dtype", "warned", "fails"),
        [
            (1e-4, "llama", "float32", False, False),
            (0.05, "llama", "bfloat16", True, False),
            (2.0, "llama", "bfloat16", False, True),
            (0.5, "mixtral", "bfloat16", True, False),
            (2.0, "mixtral", "bfloat16", False, True),
            (2.0, "mixtral", "float32", False, True),
            (float("nan"), "llama", "float32", False, True),
            (float("nan"), "mixtral", "bfloat16", False, True),
        ],
    )
    def test_far_predictions_are_warned_of_and_too_far_ones_are_an_error(
        self,
        kl: float,
        family: str,
        dtype: Any,
        warned: bool,
        fails: bool,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        free_memory: Callable[[int], None],
    ) -> None:
        free_memory(2**40)
        monkeypatch.setattr(prompts, "distance_of", lambda *given, **options: Distance(kl, 1.0))
        monkeypatch.setattr(module, "measured", lambda *given: Measured(Distance(kl, 1.0), 3))
        made = make(family, "plain", tmp_path, dtype=dtype)
        if fails:
            with pytest.raises(PipelineError, match=r"what was trained: (its predictions|they) are") as caught:
                run(made, tmp_path / "out")
            assert caught.value.reason == "verification"
            assert not (tmp_path / "out").exists()
            assert not list(tmp_path.glob(".out*"))
            return
        warnings = run(made, tmp_path / "out").warnings
        assert len(warnings) == warned
        assert all(f"its predictions are {kl:.2g} nats per token" in warning for warning in warnings)


class TestOntoEither:
    """A QLoRA's merge onto one of two bases, by their distances."""

    @pytest.fixture(autouse=True)
    def roomy(self, free_memory: Callable[[int], None]) -> None:
        free_memory(2**40)

    @staticmethod
    def _run(
        made: Made, out: Path, distances: list[float], monkeypatch: pytest.MonkeyPatch, **spec: Any
    ) -> MergeReport:
        found = iter(distances)
        monkeypatch.setattr(prompts, "distance_of", lambda *given, **options: Distance(next(found), 1.0))
        return run(made, out, quantization=QuantizationRecipe(), **spec)

    def test_predictions_that_are_not_finite_are_never_the_nearer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = make("llama", "plain", tmp_path)
        assert self._run(made, tmp_path / "out", [math.nan, 0.5], monkeypatch).onto == "original"

    def test_nor_are_they_only_warned_of_onto_another_base(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = make("llama", "plain", tmp_path)
        with pytest.raises(PipelineError, match="they are not finite"):
            self._run(made, tmp_path / "out", [math.nan], monkeypatch, onto="original")
        assert not list(tmp_path.glob("*out*"))


def test_tokens_that_the_model_has_no_rows_for_are_left_out_of_the_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    made = make("llama", "plain", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(made.base)
    tokenizer.add_tokens(["The committee", *(f"<{number}>" for number in range(30)), "budget"])
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert max(tokenizer("budget")["input_ids"]) >= 300
    tokenizer.save_pretrained(made.base)
    report = run(made, tmp_path / "out")
    assert report.read_back.prompts == "run"
    assert report.metrics["logit_kl_original"] < 1e-6


@pytest.mark.parametrize(("family", "variant"), [("mixtral", "experts"), ("gpt2", "embeddings"), ("phi3", "dora")])
def test_the_norms_that_the_registry_keeps_are_those_of_the_files(family: str, variant: str, tmp_path: Path) -> None:
    made = make(family, variant, tmp_path, dtype="bfloat16")
    config = json.loads((made.adapter / "adapter_config.json").read_text())
    kept = delta_norms(made.adapter, lora_of(config)).norms()
    report = run(made, tmp_path / "out", norms=kept)
    assert kept.keys() == report.norms.keys()
    assert report.warnings == []
    # As the worker's child is told.
    order = MergeOrder(base=Path("b"), adapter=Path("a"), quantization=None, labels=None, spec=MergeSpec(), norms=kept)
    assert MergeOrder.model_validate_json(order.model_dump_json()) == order
