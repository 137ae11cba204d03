"""One base, one adapter after the other: each finds the base as it was loaded, also after one that changes it."""

from __future__ import annotations

import gc
import itertools
import json
import shutil
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.soak import scale
from transformers import AutoModelForCausalLM

from sdk.schemas.evaluation import EvaluationFailure, EvaluationReport, EvaluationSpec
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.series import PointChunk
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.model import shared_base
from workers.pipelines.model.causality import fixed_texts, logits_of
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import EvaluationItem, EvaluationOrder
from workers.pipelines.scoring.evaluate import carry_out

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "rank_pattern": {"v_proj": 2}},
    "dora": {"use_dora": True},
    "bias": {"bias": "all"},
    "saved": {"modules_to_save": ["norm"]},
    "tokens": {"trainable_token_indices": [3, 5]},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
}
#: Which leave a base that can't be used again.
CHANGING = {"bias", "pissa", "olora"}


@pytest.fixture(scope="module")
def base(llama_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with biases in its attention, so that an adapter can bring others."""
    folder = shutil.copytree(llama_base, tmp_path_factory.mktemp("biased") / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An adapter of each variant, all of whose weights were moved."""
    from peft import LoraConfig, get_peft_model

    found = {}
    for seed, (name, options) in enumerate(VARIANTS.items()):
        torch.manual_seed(seed)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data += 0.05 * torch.randn_like(parameter)
            found[name] = tmp_path_factory.mktemp("adapters") / name
            model.save_pretrained(found[name], save_embedding_layers=False)
        written = found[name] / "adapter_config.json"
        config = json.loads(written.read_text())
        del config["megatron_core"]
        written.write_text(json.dumps(config))
    return found


def put_on(shared: SharedBase, base: Path, adapter: Path | None, quantization: QuantizationRecipe | None = None) -> Any:
    """Return the logits of a base that wears an adapter."""

    def load() -> Any:
        return load_base(base, choose_device(), quantization=quantization)

    with shared.wearing(adapter, key=(base, quantization), load=load) as (_, model):
        return logits_of(model, fixed_texts(model))


@pytest.mark.parametrize("quantization", [None, QuantizationRecipe()], ids=["float32", "nf4"])
def test_after_any_other_each_predicts_as_over_a_base_of_its_own(
    base: Path, adapters: dict[str, Path], quantization: QuantizationRecipe | None
) -> None:
    # PiSSA and OLoRA begin from weights, which in 4 bits they can't.
    known = {
        None: None,
        **{name: path for name, path in adapters.items() if quantization is None or name not in {"pissa", "olora"}},
    }
    alone = {name: put_on(SharedBase(), base, path, quantization) for name, path in known.items()}
    assert all(not torch.equal(alone[None], logits) for name, logits in alone.items() if name is not None)
    shared, random = SharedBase(), Random(1)
    order = [name for pair in itertools.permutations(known, 2) for name in pair]
    order += random.choices(list(known), k=scale(400))
    for name in order[: scale(len(order))]:
        assert torch.equal(put_on(shared, base, known[name], quantization), alone[name]), name
    # Loaded afresh after those that change it, and after no other.
    assert shared.loads <= 1 + sum(name in CHANGING for name in order)


def test_what_leaves_the_base_alone_is_no_reason_to_load_it_again(base: Path, adapters: dict[str, Path]) -> None:
    for name in VARIANTS:
        shared = SharedBase()
        put_on(shared, base, adapters[name])
        put_on(shared, base, None)
        assert shared.loads == 1 + (name in CHANGING), name


def test_adapters_of_one_form_are_wrapped_around_a_base_once(
    base: Path, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def like(name: str, factor: float) -> Path:
        folder = shutil.copytree(adapters[name], tmp_path / f"{name}-{factor}")
        weights = folder / "adapter_model.safetensors"
        save_file({key: (factor * each).half() for key, each in load_file(weights).items()}, weights)
        return folder

    halved, doubled = like("lora", 0.5), like("lora", 2.0)
    order = [adapters["lora"], halved, adapters["dora"], doubled, None, adapters["rslora"], like("rslora", 2.0), halved]
    alone = [put_on(SharedBase(), base, adapter) for adapter in order]
    loaded, shared, real = list[Path](), SharedBase(), shared_base.load_adapter
    monkeypatch.setattr(shared_base, "load_adapter", lambda model, path: (loaded.append(path), real(model, path))[1])
    together = [put_on(shared, base, adapter) for adapter in order]
    assert all(torch.equal(*each) for each in zip(together, alone, strict=True))
    assert loaded == [adapters["lora"], adapters["dora"], adapters["rslora"], halved]
    assert shared.loads == 1
    (halved / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(PipelineError, match="can't be loaded"):
        put_on(shared, base, halved)


def test_a_changed_weight_that_no_fixed_text_reads_is_seen(base: Path) -> None:
    shared = SharedBase()
    put_on(shared, base, None)
    model = shared._bare.loaded.model
    unread = set(range(model.config.vocab_size)) - set(fixed_texts(model)[0].tolist())
    with torch.no_grad():
        model.get_input_embeddings().weight[min(unread)] = 0.0
    put_on(shared, base, None)
    assert shared.loads == 2


def test_a_base_is_checked_once_for_each_that_is_put_on(
    base: Path, adapters: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, checks = SharedBase(), list[bool]()
    put_on(shared, base, adapters["lora"])
    bare = shared._bare
    real = bare.is_as_loaded

    def check() -> bool:
        checks.append(real())
        return checks[-1]

    monkeypatch.setattr(bare, "is_as_loaded", check)

    def load() -> Any:
        raise AssertionError("it is there")

    key = shared._key
    for _ in range(2):
        shared.bare(key=key, load=load, read=lambda model: 1)
        with shared.wearing(adapters["dora"], key=key, load=load):
            pass
    assert checks == [True, True]


def test_a_tokenizer_is_loaded_once_and_a_template_is_its_user_s_own(base: Path, tmp_path: Path) -> None:
    shared, loaded = SharedBase(), list[Path]()

    def load(folder: Path) -> Any:
        loaded.append(folder)
        return load_tokenizer(folder)

    first = shared.tokenizer_of(base, load)
    first.chat_template = "{{ 'of an adapter' }}"
    second = shared.tokenizer_of(base, load)
    assert second.chat_template == load_tokenizer(base).chat_template != first.chat_template
    assert second("two and two")["input_ids"] == first("two and two")["input_ids"]
    assert loaded == [base]
    shared.tokenizer_of(shutil.copytree(base, tmp_path / "other"), load)
    assert len(loaded) == 2


# A job.

SPEC = EvaluationSpec(batch_size=5, generate_rows=3, max_new_tokens=6, keep_samples=2)


class Heard:
    """The host of a pipeline that notes what is reported."""

    def __init__(self, out: Path) -> None:
        self.out, self.told_to_stop = out, False
        self.said: list[Progress] = []

    def report(self, progress: Progress) -> None:
        self.said.append(progress)

    def stop_in_order(self) -> None:
        """Nothing stops it."""

    def wrote_checkpoint(self, step: int, total: int, folder: Path) -> None:
        """It writes none."""

    def measured(self, chunk: PointChunk) -> None:
        """It trains nothing."""

    def reached_rung(self, number: int, step: int, loss: float) -> None:
        """It has no sweep."""

    def goes_on(self, number: int) -> bool | None:
        """It has no sweep."""


@pytest.fixture
def host(tmp_path: Path) -> Heard:
    return Heard(tmp_path)


def item(base: Path, adapter: Path | None, quantization: QuantizationRecipe | None = None) -> EvaluationItem:
    return EvaluationItem(
        base=base,
        adapter=adapter,
        quantization=quantization,
        template_date="2026-01-02",
        stop_ids=[],
        labels=None,
    )


def order(pairs: Path, *items: EvaluationItem) -> EvaluationOrder:
    return EvaluationOrder(items=list(items), data=pairs, spec=SPEC)


def loads(host: Heard) -> int:
    return sum("loading the base" in (progress.message or "") for progress in host.said)


def scores(report: EvaluationReport | EvaluationFailure) -> dict[str, float]:
    assert isinstance(report, EvaluationReport)
    return {name: report.metrics[name] for name in ("loss", "rouge_l")}


def test_a_job_loads_each_base_once_and_scores_as_each_target_alone(
    base: Path, adapters: dict[str, Path], pairs: Path, host: Heard
) -> None:
    nf4 = QuantizationRecipe()
    items = [
        item(base, adapters["lora"]),
        item(base, None, nf4),
        item(base, adapters["dora"]),
        item(base, adapters["rslora"], nf4),
        item(base, None),
    ]
    together = carry_out(order(pairs, *items), host).outcomes
    assert loads(host) == 2
    alone = [carry_out(order(pairs, one), host).outcomes[0] for one in items]
    assert [scores(report) for report in together] == [scores(report) for report in alone]


@pytest.mark.parametrize("fault", ["adapter", "crash"])
def test_a_target_that_can_not_be_scored_loses_its_own_scores_alone(
    base: Path,
    adapters: dict[str, Path],
    pairs: Path,
    host: Heard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    broken = shutil.copytree(adapters["lora"], tmp_path / "broken")
    if fault == "adapter":
        (broken / "adapter_model.safetensors").write_bytes(b"")
    else:
        real = carry_out.__globals__["evaluate"]

        def crash(scored: EvaluationItem, *rest: Any) -> EvaluationReport:
            if scored.adapter == broken:
                raise ZeroDivisionError("by an adapter")
            return real(scored, *rest)

        monkeypatch.setitem(carry_out.__globals__, "evaluate", crash)
    first, failed, last = carry_out(
        order(pairs, item(base, None), item(base, broken), item(base, adapters["dora"])), host
    ).outcomes
    assert isinstance(failed, EvaluationFailure)
    assert failed.reason == (FailureReason.ADAPTER if fault == "adapter" else FailureReason.INTERNAL)
    assert scores(first) == scores(carry_out(order(pairs, item(base, None)), host).outcomes[0])
    assert scores(last) == scores(carry_out(order(pairs, item(base, adapters["dora"])), host).outcomes[0])


def test_of_a_target_that_failed_nothing_is_kept_in_memory(
    base: Path,
    adapters: dict[str, Path],
    pairs: Path,
    host: Heard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import workers.pipelines.scoring.target as module

    broken = shutil.copytree(adapters["lora"], tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"")
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def load(*given: Any, **said: Any) -> Any:
        gc.collect()
        alive.append(sum(model() is not None for model in models))
        loaded = load_base(*given, **said)
        models.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(module, "load_base", load)
    carry_out(order(pairs, item(base, None), item(base, broken), item(base, adapters["dora"])), host)
    assert alive == [0, 0]


def test_a_job_in_which_nothing_can_be_scored_fails(
    base: Path, adapters: dict[str, Path], pairs: Path, host: Heard, tmp_path: Path
) -> None:
    broken = shutil.copytree(adapters["lora"], tmp_path / "broken")
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(PipelineError, match="can't be loaded") as caught:
        carry_out(order(pairs, item(base, broken), item(base, broken)), host)
    assert caught.value.reason is FailureReason.ADAPTER


def test_a_phase_says_that_it_has_begun_before_its_first_batch_is_done(
    base: Path, adapters: dict[str, Path], pairs: Path, host: Heard
) -> None:
    carry_out(order(pairs, item(base, adapters["lora"])), host)
    steps = [(progress.phase, progress.step) for progress in host.said if progress.step is not None]
    assert steps.index(("generate", 0)) == steps.index(("evaluate", 12)) + 1
    assert steps[0] == ("evaluate", 0)


def test_the_peak_of_each_target_is_its_own(base: Path, pairs: Path, host: Heard) -> None:
    hold = bytearray(600 * 2**20)
    del hold
    (report,) = carry_out(order(pairs, item(base, None)), host).outcomes
    assert isinstance(report, EvaluationReport)
    again = bytearray(300 * 2**20)
    peak = choose_device().peak_memory_bytes()
    assert report.metrics["peak_memory_bytes"] <= peak - 200 * 2**20
    del again


@pytest.fixture
def written(write_jsonl: Callable[..., Path]) -> Path:
    """Rows without a prompt."""
    return write_jsonl([{"text": "the cat sat"}])


def test_conditions_say_what_was_held(base: Path, pairs: Path, written: Path, host: Heard) -> None:
    (scored,) = carry_out(order(pairs, item(base, None)), host).outcomes
    (text,) = carry_out(order(written, item(base, None)), host).outcomes
    assert isinstance(scored, EvaluationReport)
    assert isinstance(text, EvaluationReport)
    assert text.conditions is not None
    assert (scored.conditions.loss_on, scored.conditions.generated_rows, scored.conditions.max_new_tokens) == (
        "completion",
        3,
        6,
    )
    assert scored.conditions.stop_ids != []
    assert scored.conditions.prompt_tokens > 0
    assert set(scored.conditions.metrics) == {"bytes", "words", "rouge-score", "sacrebleu"}
    (packed,) = carry_out(order(pairs, item(base, None, QuantizationRecipe(double_quant=False))), host).outcomes
    assert isinstance(packed, EvaluationReport)
    assert packed.conditions.quantization["double_quant"] is False
    assert scored.conditions.quantization is None
    # Nothing was generated, so nothing that governs it matters.
    assert (text.conditions.loss_on, text.conditions.generated_rows, text.conditions.stop_ids) == ("all", 0, [])
    assert scored.conditions.tokenizer == text.conditions.tokenizer
