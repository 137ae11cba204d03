"""A causal loss is taken on causal models only: by the config where it says so, by changing the last token in any case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from support import tiny
from support.evaluated import score
from support.trainings import run_training
from transformers.models.auto import modeling_auto

from sdk.lora.architectures import ENCODERS, is_encoder
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from workers.pipelines.errors import PipelineError
from workers.pipelines.model import blueprint, causality
from workers.pipelines.model.blueprint import read_blueprint
from workers.pipelines.model.causality import TOLERANCE, influence, require_causal
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**SIZES, "num_key_value_heads": 2}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_hidden_layers": 4,
    "head_dim": 16,
}
CAUSAL = {
    "llama": GROUPED,
    "qwen3_moe": {**GROUPED, "num_experts": 8, "moe_intermediate_size": 32, "head_dim": 16},
    "gemma3_text": {**GROUPED, "head_dim": 16},
    "qwen3_5_text": {**GROUPED, **LINEAR},
    "mamba": {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "bert": {**SIZES, "is_decoder": True},
}
SEEING = {"bert": SIZES, "roberta": SIZES, "xlnet": {"d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 64}}


def model_of(kind: str, settings: dict[str, Any], dtype: Any = torch.float32) -> Any:
    torch.manual_seed(0)
    made = transformers.CONFIG_MAPPING[kind](vocab_size=300, eos_token_id=0, bos_token_id=None, **settings)
    return transformers.AutoModelForCausalLM.from_config(made).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", CAUSAL)
def test_decoders_are_causal(kind: str, dtype: Any) -> None:
    model = model_of(kind, CAUSAL[kind], dtype)
    found = influence(model)
    assert found.last > 0.01
    assert found.before <= TOLERANCE / 10 * found.last
    require_causal(model)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SEEING)
def test_what_sees_the_whole_text_is_found_by_changing_it(kind: str, dtype: Any) -> None:
    model = model_of(kind, SEEING[kind], dtype)
    found = influence(model)
    assert found.before > 10 * TOLERANCE * found.last
    # As in float32, and not by the rounding of bfloat16, which moves them by four times as much.
    assert found.before < 0.006 * found.last
    with pytest.raises(PipelineError, match="sees the tokens that it should predict") as caught:
        require_causal(model)
    assert caught.value.reason == "untrained"


def test_a_model_that_says_the_same_after_whatever_token_teaches_nothing() -> None:
    model = model_of("llama", GROUPED)
    model.lm_head.weight.data.zero_()
    with pytest.raises(PipelineError, match="nothing could be learnt") as caught:
        require_causal(model)
    assert caught.value.reason == "untrained"
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(PipelineError, match="nothing could be learnt"):
        require_causal(model)


def test_tokens_of_one_embedding_are_no_reason_to_refuse() -> None:
    model = model_of("llama", GROUPED)
    texts = causality.fixed_texts(model)
    # Three of the four other last tokens look like the first one.
    weight = model.get_input_embeddings().weight.data
    weight[texts[1:4, -1]] = weight[texts[0, -1]].clone()
    require_causal(model)


def test_what_a_config_calls_a_token_s_id_may_be_anything() -> None:
    model = model_of("llama", GROUPED)
    assert causality._special_ids(model.config) == {0}
    more = {"eos": [7, 8], "foo": {"a": 1}, "bar": [9, [1, 2]], "image": 10, "end": True, "begin": "3"}
    for name, value in more.items():
        setattr(model.config, f"{name}_token_id", value)
    assert causality._special_ids(model.config) == {7, 8, 9, 10}
    require_causal(model)


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["packed", "wide"])
def test_a_base_in_four_bits_still_passes_gradients_on(
    share: float, llama_base: Path, wide_share: Callable[[float], None]
) -> None:
    wide_share(share)
    loaded = load_base(llama_base, choose_device(), quantization=QuantizationRecipe())
    require_causal(loaded.model)
    embedded = loaded.model.get_input_embeddings()(torch.arange(8, device=loaded.model.device)[None])
    embedded = embedded.detach().requires_grad_()
    loaded.model(inputs_embeds=embedded).logits.float().sum().backward()
    assert bool(embedded.grad.abs().gt(0).all(dim=-1).all())


def test_the_encoders_are_those_that_transformers_fills_masks_with() -> None:
    # Encoder-decoders decode causally; Reformer and XLM are causal by other settings, and are left to the probe.
    left_out = {"bart", "mbart", "mvp", "reformer", "xlm"}
    known = set(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    assert known - ENCODERS == left_out & known
    assert not is_encoder({"model_type": "bert", "is_decoder": True})


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers, as it was trained to fill masks."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = tiny.save_tokenizer(folder)
    torch.manual_seed(4)
    config = transformers.BertConfig(vocab_size=vocabulary, max_position_embeddings=256, **SIZES)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    return folder


def test_an_encoder_is_refused_before_anything_is_loaded(bert: Path) -> None:
    with pytest.raises(PipelineError, match=r"is an encoder \(bert\)") as caught:
        read_blueprint(bert)
    assert caught.value.reason == "base"


def test_an_architecture_that_nobody_listed_is_neither_trained_nor_scored(
    bert: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blueprint, "is_encoder", lambda config: False)
    phases: list[str] = []
    said: Callable[[Any], None] = lambda progress: phases.append(progress.phase)  # noqa: E731
    spec = TrainingSpec(method="lora", targets="query,value", rank=2, max_steps=1, batch_size=2, grad_accum=1)
    with pytest.raises(PipelineError, match="sees the tokens"):
        run_training(bert, pairs, tmp_path / "out", spec=spec, on_progress=said)
    assert phases[-1] == "load"
    assert not (tmp_path / "out").exists()
    with pytest.raises(PipelineError, match="sees the tokens"):
        score(bert, pairs, on_progress=said)


def test_a_base_that_says_it_decodes_is_trained(bert: Path, pairs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "decoder"
    folder.mkdir()
    for path in bert.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_decoder": True}))
    spec = TrainingSpec(method="lora", targets="qv", rank=2, max_steps=1, batch_size=2, grad_accum=1)
    report = run_training(folder, pairs, tmp_path / "out", spec=spec)
    assert report.metrics["steps"] == 1
