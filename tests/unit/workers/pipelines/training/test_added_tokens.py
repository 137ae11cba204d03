"""Tokens that a training adds: where their rows begin, what is stored of them, and who can use what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support.architectures import save_model
from support.evaluated import score
from support.gguf_models import export_folder
from support.llama_cpp import LlamaCpp
from support.merges import merge
from support.random_loras import logits
from support.trainings import inputs_of, run_training, save_jsonl, whole_and_resumed
from support.weights import admitted
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.jobs.kinds.training_outcome import lora_differences
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.pushing.pack import pack_adapter
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.probe import ProbeRequest
from sdk.schemas.training import TrainingSpec
from sdk.validation import build
from workers.pipelines.data.digests import tokenizer_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.added_rows import start_rows
from workers.pipelines.scoring.replay import replay

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

#: The tokenizers of the bases have 285 tokens and their embeddings 300 rows: 20 tokens fill the rows that are left, and 5 more.
TOKENS = {"llama-tied": [f"<t{number}>" for number in range(20)], "llama": ["<red>", "<blue>"]}
PROMPTS = [f"{letter * 2} is " for letter in "abcdefghijklmnopqrst"]
DELTA = "token_adapter.trainable_tokens_delta"


class Trained(NamedTuple):
    base: Path
    rows: Path
    adapter: Path
    tokens: list[str]
    report: Any
    whole: Mapping[str, bytes]
    resumed: Mapping[str, bytes]


@pytest.fixture(scope="module", params=sorted(TOKENS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A training that learns to answer with a new token, and the same one resumed from its second step."""
    folder, tokens = tmp_path_factory.mktemp("added"), TOKENS[request.param]
    base = save_model(folder / "base", request.param)
    rows = [{"prompt": prompt, "completion": token} for prompt, token in zip(PROMPTS, tokens, strict=False)]
    data = save_jsonl(folder / "rows.jsonl", rows)
    reports = []

    def train(out: Path, **how: Any) -> None:
        options = {"method": "lora", "rank": 4, "lr": 0.02, "schedule": "linear", "batch_size": 20, "grad_accum": 1}
        reports.append(
            run_training(
                base, data, out, add_tokens=tokens, targets="all-linear", max_steps=50, dropout=0, **options, **how
            )
        )

    whole, resumed = whole_and_resumed(train, folder)
    return Trained(base, data, folder / "whole", tokens, reports[0], whole, resumed)


def plain(trained: Trained) -> tuple[Any, Any]:
    """Return the adapter as plain PEFT loads it over the base, as its author is told to, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(trained.adapter)
    model = AutoModelForCausalLM.from_pretrained(trained.base)
    if len(tokenizer) > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(len(tokenizer))
    return PeftModel.from_pretrained(model, trained.adapter).eval(), tokenizer


def test_resumed_training_has_the_same_bytes(trained: Trained) -> None:
    assert trained.resumed == trained.whole
    assert {"tokenizer.json", "tokenizer_config.json"} <= trained.whole.keys()


def test_rows_of_the_tokens_alone_are_stored(trained: Trained) -> None:
    ids = list(range(285, 285 + len(trained.tokens)))
    untied = not json.loads((trained.base / "config.json").read_text())["tie_word_embeddings"]
    config = json.loads(trained.whole[CONFIG_FILE])
    assert config["trainable_token_indices"] == ({"embed_tokens": ids, "lm_head": ids} if untied else ids)
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(trained.adapter / WEIGHTS_FILE).items()}
    whole = {name.removeprefix("base_model.model."): shape for name, shape in shapes.items() if "lora_" not in name}
    modules = ["model.embed_tokens", *(["lm_head"] if untied else [])]
    assert whole == {f"{module}.{DELTA}": (len(ids), 32) for module in modules}


def test_plain_peft_and_transformers_write_the_new_tokens(trained: Trained) -> None:
    model, tokenizer = plain(trained)
    said = []
    for prompt in PROMPTS[: len(trained.tokens)]:
        given = tokenizer(prompt, return_tensors="pt")
        answer = model.generate(**given, max_new_tokens=1, do_sample=False)[0, given["input_ids"].shape[1] :]
        said.append(tokenizer.decode(answer, skip_special_tokens=True))
    assert said == trained.tokens


def test_evaluation_writes_the_new_tokens(trained: Trained) -> None:
    spec = EvaluationSpec(generate_rows=len(trained.tokens), max_new_tokens=2, metrics=["exact_match"])
    report = score(trained.base, trained.rows, trained.adapter, spec=spec)
    assert report.metrics["exact_match"] == 1.0
    assert report.conditions.tokenizer == tokenizer_of(trained.adapter) == trained.report.rendering.tokenizer


def test_merged_model_writes_them_without_an_adapter(trained: Trained, tmp_path: Path) -> None:
    merge(trained.base, trained.adapter, tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = tokenizer(f"say {trained.tokens[-1]}: {trained.tokens[0]}", return_tensors="pt")["input_ids"]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert (logits(merged, ids) - logits(plain(trained)[0], ids)).abs().max() < 1e-3
    assert len(merged.get_input_embeddings().weight) == max(300, 285 + len(trained.tokens))


def test_llama_cpp_writes_them_from_the_merged_model(trained: Trained, tmp_path: Path) -> None:
    merge(trained.base, trained.adapter, tmp_path / "merged")
    export_folder(tmp_path / "merged", tmp_path / "merged.gguf")
    engine, tokenizer = LlamaCpp(tmp_path / "merged.gguf"), AutoTokenizer.from_pretrained(trained.adapter)
    text = f"the cat {trained.tokens[-1]}sat on{trained.tokens[0]}"
    assert engine.tokens(text) == tokenizer(text)["input_ids"]
    written = engine.greedy(tokenizer(PROMPTS[0])["input_ids"], 1)
    assert tokenizer.decode(written) == trained.tokens[0]


def test_version_is_continued_over_four_bits_and_its_probe_measured_again(trained: Trained, tmp_path: Path) -> None:
    options = {"method": "qlora", "rank": 4, "dropout": 0, "targets": "all-linear", "add_tokens": trained.tokens}
    how = {"lr": 0.01, "max_steps": 1, "batch_size": 20, "grad_accum": 1, "warmup_ratio": 0.0}
    report = run_training(trained.base, trained.rows, tmp_path / "on", parent=trained.adapter, **options, **how)
    was, now = (load_file(folder / WEIGHTS_FILE) for folder in (trained.adapter, tmp_path / "on"))
    moved = [name for name in was if DELTA in name and not torch.equal(was[name], now[name])]
    assert moved == [name for name in was if DELTA in name]
    assert max(float((was[name] - now[name]).abs().max()) for name in moved) < 0.02
    said = report.training
    found = replay(
        ProbeRequest(
            base=str(trained.base),
            adapter=str(tmp_path / "on"),
            quantization=report.quantization,
            dtype=said["dtype"],
            held=said["base_weights"],
            seed=0,
        )
    )
    assert found.report.metrics() == pytest.approx({name: report.metrics[name] for name in found.report.metrics()})


def test_worker_hands_in_what_was_asked_for_and_admission_takes_it(trained: Trained, tmp_path: Path) -> None:
    package = pack_adapter(
        trained.adapter, base_id="tiny", base_revision=None, base_fingerprint="0" * 64, staging=tmp_path
    )
    assert {"tokenizer.json", "tokenizer_config.json"} <= {file.path for file in package.manifest.files}
    assert package.lora.trainable_token_indices == trained.report.lora.trainable_token_indices
    asked = build(TrainingSpec, add_tokens=trained.tokens, targets="all-linear", rank=4, dropout=0, method="lora")
    assert list(lora_differences(asked, trained.report.lora)) == []
    assert admitted(trained.adapter, trained.base, package.lora, tokenizer=True) == []


@pytest.mark.parametrize("kind", sorted(TOKENS))
def test_rows_begin_at_the_mean_of_the_base_s(kind: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(save_model(tmp_path / "base", kind))
    own = [module.weight.detach().clone() for module in (model.get_input_embeddings(), model.get_output_embeddings())]
    start_rows(model, [298, 299, 300, 301])
    for module, before in zip((model.get_input_embeddings(), model.get_output_embeddings()), own, strict=True):
        mean = before.double().mean(0).float()
        assert torch.equal(module.weight[:298], before[:298])
        assert torch.equal(module.weight[298:], mean.expand(4, -1))
        assert not module.weight.requires_grad


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ("<red>,the", r"add_tokens can't be used: 'the' is a token of the base already \(\d+\); leave it out"),
        ("<|end|>", r"'<\|end\|>' is a special token of the base already \(0\)"),
        ("<red>,<green>", "No row has the token '<green>', which add_tokens adds"),
    ],
)
def test_tokens_that_can_not_be_added_are_refused_before_a_base_is_loaded(
    tokens: str, said: str, bases: Mapping[str, Path], write_jsonl: Callable[..., Path]
) -> None:
    rows = write_jsonl([{"prompt": "say: ", "completion": "<red>"}])
    with pytest.raises(PipelineError, match=said):
        inputs_of(bases["llama"], rows, spec=build(TrainingSpec, method="lora", add_tokens=tokens))
