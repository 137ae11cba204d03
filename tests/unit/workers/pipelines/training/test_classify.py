"""A classification: what is trained is what plain PEFT loads again, over encoders and decoders, with a head that is saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import encoders, tiny
from support.fixtures import Limits
from support.quantised import pack_base
from support.trainings import Checkpoints, run_training, whole_and_resumed
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sdk.schemas.failures import FailureReason
from sdk.schemas.preview import Preview, PreviewRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.data import classify
from workers.pipelines.data.classify import Guess, scores
from workers.pipelines.data.examples import Example
from workers.pipelines.data.label_rows import label_rows
from workers.pipelines.data.preview import preview
from workers.pipelines.data.rows import Row
from workers.pipelines.data.tokenizer import load_tokenizer
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import save_tensors
from workers.pipelines.model.blueprint import read_blueprint
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import Device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import packed_modules
from workers.pipelines.training import inputs
from workers.pipelines.training.checkpoints import Interrupted

SPEC = TrainingSpec(method="lora", targets="all-linear", rank=4, max_steps=40, batch_size=6, grad_accum=2, lr=5e-3)
BASES: dict[str, Callable[[Path], Path]] = {
    "bert": encoders.save_bert,
    "bert-without-pooler": lambda folder: encoders.save_bert(folder, pooler=False),
    "roberta": encoders.save_roberta,
    "llama": tiny.save_llama,
}
NAMES = ["fruit", "tool", "weather"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows, and each base once it was asked for."""
    made = tmp_path_factory.mktemp("classify")
    encoders.write_topics(made / "rows.jsonl")
    encoders.write_topics(made / "heldout.jsonl", seed=100, count=24)
    return made


def base_of(folder: Path, kind: str) -> Path:
    if not (folder / kind).exists():
        BASES[kind](folder / kind)
    return folder / kind


def trained(folder: Path, base: Path, out: Path, spec: TrainingSpec = SPEC, **given: Any) -> TrainingReport:
    given = {"data": folder / "rows.jsonl", "eval_data": folder / "heldout.jsonl", **given}
    return run_training(base, given.pop("data"), out, spec=spec, **given)


def shown(base: Path, data: Path, **asked: Any) -> Preview:
    about = {"base": str(base), "data": str(data), "loss_on": None, "day": "2026-03-04", "max_length": 8}
    return preview(PreviewRequest(**{**about, **asked}))


def plain(base: Path, adapter: Path, texts: list[str], **options: Any) -> Any:
    """The logits of an adapter as anybody loads it, (texts, labels)."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, **options)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.pad_token_id)
    with torch.no_grad():
        return PeftModel.from_pretrained(model, adapter).eval()(**batch_of(tokenizer, texts)).logits.float()


def batch_of(tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", BASES)
def test_plain_peft_gives_the_logits_of_the_training(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [row["text"] for row in encoders.topic_rows(seed=200, count=9)]
    base, seen = base_of(folder, kind), []

    def spy(model: Any, *given: Any) -> Any:
        tokenizer = load_tokenizer(base, ends=False)
        with torch.no_grad():
            seen.append(model(**batch_of(tokenizer, texts)).logits)
        return guesses(model, *given)

    guesses = classify.guesses
    monkeypatch.setattr(classify, "guesses", spy)
    report = trained(folder, base, tmp_path / "out")
    assert report.metrics["eval_accuracy"] >= 0.8
    assert report.metrics["eval_loss"] < 0.8 * report.metrics["eval_loss_base"]
    assert report.labels == NAMES
    assert report.training["objective"] == "classify"
    assert report.supervised_tokens == report.rows == 36
    # Before the first step, at looks, and after the last one.
    first, *_, last = seen
    assert not torch.allclose(first, last, atol=0.1)
    assert torch.allclose(plain(base, tmp_path / "out", texts), last, atol=1e-5)
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "labels": json.dumps(NAMES)}
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["task_type"] == "SEQ_CLS"
    assert config["modules_to_save"] == report.lora.modules_to_save
    own = {"llama": ["score"], "bert-without-pooler": ["bert.pooler", "classifier"]}
    assert report.lora.modules_to_save == own.get(kind, ["classifier"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["roberta", "llama"])
def test_a_head_is_never_quantised_and_is_trained_in_float32(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide_share: Callable[[float], None]
) -> None:
    monkeypatch.setattr(inputs, "choose_device", lambda: Device("cpu", "cpu", "bfloat16"))
    wide_share(0.0)
    base = base_of(folder, kind)
    spec = SPEC.model_copy(update={"method": "qlora", "max_steps": 25})
    report = trained(folder, base, tmp_path / "out", spec)
    assert report.quantization.skipped_modules == report.lora.modules_to_save
    assert report.metrics["eval_loss"] < report.metrics["eval_loss_base"]
    classes = Classes(tuple(NAMES), pad_token_id=1)
    loaded = load_base(base, Device("cpu", "cpu", "bfloat16"), quantization=report.quantization, classes=classes)
    assert loaded.held == "packed"
    head = [tensor for name, tensor in loaded.model.named_parameters() if "classifier" in name or "score" in name]
    assert {tensor.dtype for tensor in head} == {torch.float32}
    # Read back with the recipe, the rest is quantised as before.
    assert loaded.quantization == report.quantization
    packed = [name for name, _ in packed_modules(loaded.model)]
    assert set(packed) == set(read_blueprint(base, classes).linear_names)


def test_a_base_that_is_stored_in_4_bits_gets_a_head_that_is_not(folder: Path, tmp_path: Path) -> None:
    base = pack_base(base_of(folder, "llama"), tmp_path / "packed")
    spec = SPEC.model_copy(update={"method": "qlora", "targets": "attention", "max_steps": 15})
    report = trained(folder, base, tmp_path / "out", spec)
    assert report.metrics["eval_accuracy"] > 0.6
    assert report.quantization.skipped_modules == ["score"]
    classes = Classes(tuple(NAMES), pad_token_id=1)
    loaded = load_base(base, Device("cpu", "cpu", "bfloat16"), quantization=None, classes=classes)
    assert loaded.model.score.weight.dtype == torch.float32


def test_equal_trainings_give_equal_bytes_and_another_seed_another_head(folder: Path, tmp_path: Path) -> None:
    base, spec = base_of(folder, "bert"), SPEC.model_copy(update={"max_steps": 2})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(ord(name))
        trained(folder, base, tmp_path / name, spec.model_copy(update={"seed": seed}))
    files = {name: (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc"}
    assert files["a"] == files["b"]
    heads = [
        load_file(tmp_path / name / "adapter_model.safetensors")["base_model.model.classifier.weight"] for name in "ac"
    ]
    assert float((heads[0] - heads[1]).abs().max()) > 0.05


def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    base, spec = base_of(folder, "roberta"), SPEC.model_copy(update={"max_steps": 4})
    whole, resumed = whole_and_resumed(lambda out, **kept: trained(folder, base, out, spec, **kept), tmp_path)
    assert whole == resumed
    with pytest.raises(Interrupted):
        trained(folder, base, tmp_path / "part", spec, checkpoints=Checkpoints(tmp_path, must_stop=lambda: True))


def test_a_base_with_the_head_of_another_task_is_given_a_fresh_one(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_of(folder, "bert"), base)
    tensors = load_file(base / "model.safetensors")
    more = {"classifier.weight": torch.ones(5, 64), "classifier.bias": torch.ones(5)}
    save_file({**tensors, **more}, base / "model.safetensors", metadata={"format": "pt"})
    report = trained(folder, base, tmp_path / "out", SPEC.model_copy(update={"max_steps": 2}))
    assert report.metrics["eval_loss_base"] < 2


def test_a_base_that_lacks_weights_beside_the_head_is_refused(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(base_of(folder, "bert"), base)
    tensors = load_file(base / "model.safetensors")
    lost = "encoder.layer.1.attention.self.query.weight"
    save_file(
        {name: t for name, t in tensors.items() if name != lost}, base / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(PipelineError, match=r"lack 1 of its model's tensors .*query\.weight") as caught:
        trained(folder, base, tmp_path / "out")
    assert caught.value.reason == "base"


class TestTokens:
    def test_a_cut_keeps_what_stands_at_the_end_and_positions_are_a_text_s(self, folder: Path) -> None:
        tokenizer = load_tokenizer(base_of(folder, "bert"), ends=False)
        row = Row("line 1", "text-label", {"text": "rain " * 40, "label": "weather"})
        found = label_rows([row], tokenizer, NAMES, max_length=10)
        (example,) = found.examples
        assert found.cut == 1
        assert (example.input_ids[0], example.input_ids[-1], len(example.input_ids)) == (2, 3, 10)
        assert example.labels == [2]

    def test_the_longest_text_of_a_roberta_fits(self, folder: Path, tmp_path: Path) -> None:
        data = tmp_path / "long.jsonl"
        rows = [{"text": "rain " * 90, "label": 1}, {"text": "pear", "label": 2}]
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        spec = SPEC.model_copy(update={"max_steps": 1})
        report = trained(folder, base_of(folder, "roberta"), tmp_path / "out", spec, data=data, eval_data=None)
        assert report.training["max_length"] == 32
        assert report.training["rows_cut"] == 1
        assert report.labels == ["1", "2"]

    def test_a_decoder_reads_its_answer_off_no_padding(self, folder: Path) -> None:
        tokenizer = load_tokenizer(base_of(folder, "llama"), ends=False)
        tokenizer.pad_token = tokenizer.eos_token
        row = Row("line 1", "text-label", {"text": f"rain{tokenizer.eos_token}", "label": "tool"})
        (example,) = label_rows([row], tokenizer, NAMES, max_length=32).examples
        assert example.input_ids == tokenizer("rain")["input_ids"]
        with pytest.raises(PipelineError, match="1 texts give no tokens"):
            label_rows(
                [Row("line 1", "text-label", {**row.fields, "text": tokenizer.eos_token})],
                tokenizer,
                NAMES,
                max_length=32,
            )


def test_labels_in_a_file_are_in_one_order_whatever_is_in_them(tmp_path: Path) -> None:
    names = ['a"b', "back\\slash", "迷惑", "😀", "{}"]
    files = set()
    for n in range(20):
        save_tensors({"x": torch.arange(6.0)}, tmp_path / f"{n}", labels=names)
        files.add((tmp_path / f"{n}").read_bytes())
    assert len(files) == 1
    with safe_open(tmp_path / "0", framework="pt") as file:
        assert json.loads(file.metadata()["labels"]) == names
        assert torch.equal(file.get_tensor("x"), torch.arange(6.0))


def test_scores_are_those_of_scikit_learn() -> None:
    # sklearn.metrics.f1_score([0, 0, 0, 1, 1, 3], [0, 0, 1, 1, 2, 3], average="macro") of release 1.7 is 0.575.
    def guess(label: int, guessed: int) -> Guess:
        return Guess(Example([1], [label], [], "", ""), guessed, 0.5, 0.6)

    found = scores([guess(*pair) for pair in ((0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (3, 3))])
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["macro_f1"] == pytest.approx((0.8 + 0.5 + 0.0 + 1.0) / 4)
    assert found["loss"] == 0.5


@pytest.mark.parametrize(
    ("spec", "rows", "said"),
    [
        ({"objective": "sft"}, None, "the objective 'sft' needs rows of .* and these are text-label rows"),
        ({"loss_on": "all"}, None, "leave loss_on out"),
        ({}, [("a", "x"), ("b", "x")], "all rows have the label 'x'"),
    ],
)
def test_what_can_t_be_trained_is_refused_before_the_base_is_loaded(
    spec: dict[str, Any], rows: Any, said: str, folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    encoders.write_topics(data)
    if rows is not None:
        data.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    with pytest.raises(PipelineError, match=said) as caught:
        trained(folder, base_of(folder, "bert"), tmp_path / "out", SPEC.model_copy(update=spec), data=data)
    assert caught.value.reason == ("spec" if "loss_on" in spec else "data")


def test_a_preview_shows_the_tokens_and_the_label_of_the_training(folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [{"text": "rain and fog and hail and rain", "label": "weather"}, {"text": "a saw", "label": "tool"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = base_of(folder, "bert")
    found = shown(base, data, rows=2)
    assert (found.shape, found.loss_on, found.labels) == ("text-label", "label", ["tool", "weather"])
    assert (found.totals.samples, found.totals.supervised_tokens, found.totals.rows_cut) == (2, 2, 1)
    first, second = found.rows
    assert (first.text, first.label, first.tokens) == ("[CLS] rain and fog and hail and [SEP]", "weather", 8)
    assert (first.cut_tokens, first.cut_text) == (1, "rain")
    assert (second.text, second.label, second.cut_tokens, second.cut_text) == ("[CLS] a saw [SEP]", "tool", 0, "")
    (only,) = shown(base, data, row=2).rows
    assert only == second
    with pytest.raises(PipelineError, match="leave loss_on out"):
        shown(base, data, loss_on="all")


def test_held_out_labels_are_those_of_the_training(folder: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "heldout.jsonl"
    held_out.write_text('{"text": "pear", "label": "fruit"}\n{"text": "cow", "label": "animal"}\n')
    with pytest.raises(PipelineError, match="line 2 has the label 'animal', which no training row has"):
        trained(folder, base_of(folder, "bert"), tmp_path / "out", eval_data=held_out)
    held_out.write_text('{"text": "cow"}\n')
    with pytest.raises(PipelineError, match=r"'classify' needs rows of \{text, label\}"):
        trained(folder, base_of(folder, "bert"), tmp_path / "out", eval_data=held_out)


def test_a_tokenizer_without_its_words_is_a_fault_of_the_base(folder: Path, tmp_path: Path) -> None:
    """A library makes a tokenizer of nothing but [UNK] where the file with the words is missing."""
    base = shutil.copytree(base_of(folder, "bert"), tmp_path / "base")
    for name in ("tokenizer.json", "vocab.txt"):
        (base / name).unlink(missing_ok=True)
    config = {"tokenizer_class": "BertTokenizer", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(PipelineError, match="has no vocabulary") as caught:
        trained(folder, base, tmp_path / "out")
    assert caught.value.reason is FailureReason.BASE


def test_a_token_for_padding_that_the_base_has_no_embedding_for_is_not_taken(folder: Path, tmp_path: Path) -> None:
    base = shutil.copytree(base_of(folder, "llama"), tmp_path / "base")
    tokenizer = load_tokenizer(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "pad_token_id": None}))
    assert load_tokenizer(base).pad_token_id == config["vocab_size"]
    report = trained(folder, base, tmp_path / "out", SPEC.model_copy(update={"max_steps": 1}))
    assert report.training["pad_token_id"] == tokenizer.eos_token_id


def test_a_preview_takes_no_padding_for_a_cut(folder: Path, tmp_path: Path) -> None:
    """Some tokenizers end each text in the token that pads."""
    from tokenizers.processors import TemplateProcessing

    base = shutil.copytree(base_of(folder, "llama"), tmp_path / "base")
    tokenizer = load_tokenizer(base)
    end = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "pad_token_id": tokenizer.eos_token_id}))
    found = shown(base, folder / "rows.jsonl", rows=2, max_length=200)
    assert [(row.cut_tokens, row.cut_text) for row in found.rows] == [(0, ""), (0, "")]


def test_a_preview_of_a_long_file_looks_at_the_rows_that_are_shown(
    folder: Path, tmp_path: Path, limits: Limits
) -> None:
    limits("workers.pipelines.data.preview", _MOST_COUNTED_ROWS=1)
    found = shown(base_of(folder, "bert"), folder / "rows.jsonl", row=3)
    assert (found.totals, [row.row for row in found.rows]) == (None, [3])
