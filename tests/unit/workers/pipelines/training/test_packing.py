"""Rows packed into one sequence: the same losses and gradients as alone, over bases that keep them apart, and never over others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from support.architectures import config_of, save_model
from support.fixtures import Limits
from support.trainings import Checkpoints, run_training, save_jsonl

from sdk.schemas.events import Progress
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.cpu import row_attention
from workers.pipelines.cpu.row_attention import row_lengths, take_rows_alone
from workers.pipelines.data import batches
from workers.pipelines.data.batches import collate, loss_sum, token_losses
from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.heads import head_of
from workers.pipelines.data.packing import best_fit, computed, keeps_apart, packed
from workers.pipelines.orders import Fit
from workers.pipelines.training import choosing
from workers.pipelines.training.choosing import _is_cheaper

pytestmark = pytest.mark.filterwarnings("ignore")

EPS = torch.finfo(torch.float32).eps
ROWS = [
    {"input_ids": [5, 6, 7, 8, 9, 4, 3], "labels": [IGNORED, IGNORED, 7, 8, 9, 4, 3]},
    # Its first token is a label, of which nothing is learnt where the row is alone.
    {"input_ids": [9, 8, 7, 11], "labels": [9, 8, 7, 11]},
    {"input_ids": [20, 21, 22], "labels": [IGNORED, 21, IGNORED]},
    {"input_ids": [30, 31], "labels": [IGNORED, 31]},
]
APART = ["llama", "mistral", "qwen3", "gemma2", "gemma3", "gpt2", "phi3", "mixtral", "qwen3-moe"]
WITH_EXPERTS = ["mixtral", "qwen3-moe"]
LEAKING = ["opt", "qwen3.5"]


@given(st.lists(st.integers(1, 40), max_size=30).map(lambda found: sorted(found, reverse=True)), st.integers(1, 60))
def test_each_row_is_in_one_pack_and_none_is_too_long(lengths: list[int], room: int) -> None:
    packs = best_fit(lengths, room)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    filled = [sum(lengths[row] for row in pack) for pack in packs]
    assert all(tokens <= room for tokens, pack in zip(filled, packs, strict=True) if len(pack) > 1)
    # No two of them would have gone together.
    assert all(a + b > room for at, a in enumerate(filled) for b in filled[at + 1 :])


def model_of(name: str) -> Any:
    torch.manual_seed(1)
    base = transformers.AutoModelForCausalLM.from_config(config_of(name), dtype=torch.float32)
    lora = peft.LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return peft.get_peft_model(base, lora).eval()


def gradients(model: Any) -> dict[str, Any]:
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def require_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    largest = max(float(each.abs().max()) for each in expected.values())
    for parameter, gradient in found.items():
        assert torch.allclose(gradient, expected[parameter], rtol=1e-5, atol=1e-5 * largest), parameter


@pytest.mark.parametrize("name", APART)
def test_gradients_of_packed_rows_are_those_of_rows_alone(name: str) -> None:
    model, batch = model_of(name), collate(ROWS, 1)
    head = head_of(model, batch, EPS)
    assert keeps_apart(model, batch, token_losses, EPS, experts=name in WITH_EXPERTS)
    total = loss_sum(model, batch)
    total.backward()
    expected = gradients(model)
    passes = list(packed(batch, 9))
    assert [part["input_ids"].shape for part in passes] == [(1, 9), (1, 7)]
    for losses in (token_losses, head.losses(3)):
        found = 0.0
        for part in passes:
            loss = loss_sum(model, part, losses)
            loss.backward()
            found += float(loss)
        assert found == pytest.approx(float(total), rel=1e-5)
        require_close(gradients(model), expected)


def test_a_model_that_takes_no_positions_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama")
    decoder = model.get_base_model().model
    true = decoder.forward
    monkeypatch.setattr(
        decoder,
        "forward",
        lambda input_ids, **rest: (
            true(input_ids, use_cache=rest["use_cache"]) if rest["position_ids"] is None else 1 / 0
        ),
    )
    assert not keeps_apart(model, collate(ROWS, 1), token_losses, EPS)


@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("name", LEAKING)
def test_bases_that_let_rows_see_one_another_are_found_out(name: str, by_row: bool) -> None:
    model = model_of(name)
    take_rows_alone(model.get_base_model(), by_row)
    assert not keeps_apart(model, collate(ROWS, 1), token_losses, EPS, experts=True)


@pytest.mark.parametrize("by_row", [False, True])
def test_a_base_that_counts_on_far_into_a_sequence_is_not_packed(by_row: bool) -> None:
    """Llama 4 scales queries by their place in the whole sequence, whichever row stands there, in steps longer than two short rows."""
    config = transformers.Llama4TextConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        intermediate_size_mlp=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=2,
        initializer_range=0.2,
        no_rope_layers=[1, 0],
        floor_scale=8,
        pad_token_id=1,
    )
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    long = [{"input_ids": list(range(3, 3 + length)), "labels": list(range(3, 3 + length))} for length in (12, 11)]
    assert take_rows_alone(model, by_row) is by_row
    batch = collate(long, 1)
    alone = torch.cat([token_losses(model, row)[0] for row in batches.micro_batches(batch, 1)])
    assert float((token_losses(model, next(packed(batch, 23)))[0] - alone).abs().max()) > 0.01
    assert not keeps_apart(model, collate(ROWS[2:], 1), token_losses, EPS, experts=True)


def test_a_model_that_counts_positions_on_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows don't see one another, but stand where they don't alone."""
    model, batch = model_of("gpt2"), collate(ROWS, 1)
    wpe = model.get_base_model().transformer.wpe
    true = wpe.forward
    monkeypatch.setattr(wpe, "forward", lambda ids: true(torch.arange(ids.shape[1])[None].expand_as(ids)))
    assert not keeps_apart(model, batch, token_losses, EPS)


def test_what_passes_cost() -> None:
    # Eight tokens in two passes of two rows: 2·3 + 2·2 padded ones, or 8 packed.
    assert computed([3, 2, 2, 1], batch=4, rows=2, room=4, linear=1, attention=0) == (10.0, 8.0)
    # A token is held against half of its own row, or under a mask against all of its sequence.
    assert computed([4, 4], batch=2, rows=2, room=8, linear=0, attention=1) == (8 * 2.0, 8 * 8.0)
    assert computed([4], batch=2, rows=2, room=8, linear=0, attention=1) == (4 * 2.0, 4 * 2.0)


SPEC = TrainingSpec(
    method="lora", rank=4, dropout=0.0, max_steps=3, lr=0.01, batch_size=4, grad_accum=2, packing="on", seed=3
)


def train(base: Path, data: Path, out: Path, spec: TrainingSpec = SPEC, **rest: Any) -> tuple[TrainingReport, str]:
    """The report, and what is said of packing."""
    seen: list[Progress] = []
    report = run_training(base, data, out, spec=spec, on_progress=seen.append, **rest)
    said = [progress.message or "" for progress in seen if progress.phase == "fit"]
    return report, "; ".join(line for line in said if "packed" in line)


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def save_uneven(folder: Path, longest: int = 200) -> Path:
    """Write rows of which each eighth one is long."""
    rows = [{"prompt": f"{at:02d} ", "completion": "x" * (12 if at % 8 else longest)} for at in range(16)]
    return save_jsonl(folder / "uneven.jsonl", rows)


def test_a_training_learns_the_same_of_packed_rows(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    report, said = train(llama_base, pairs, tmp_path / "on")
    assert (report.training["packing"], report.training["packed"], said) == ("on", True, "rows are packed")
    plain, said = train(llama_base, pairs, tmp_path / "off", SPEC.model_copy(update={"packing": "off"}))
    assert (plain.training["packed"], said) == (False, "")
    assert report.metrics["tokens"] == plain.metrics["tokens"]
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("on", "off"))
    for name, matrix in theirs.items():
        torch.testing.assert_close(ours[name], matrix, rtol=1e-4, atol=1e-5)


def test_a_base_that_lets_rows_see_one_another_trains_without(pairs: Path, tmp_path: Path) -> None:
    base = save_model(tmp_path / "opt", "opt")
    report, said = train(base, pairs, tmp_path / "out", SPEC.model_copy(update={"max_steps": 1, "max_length": 128}))
    assert (report.training["packed"], report.training["micro_batch"]) == (False, 4)
    assert said == "rows are not packed: opt does not keep rows of one sequence apart"


@pytest.mark.parametrize(("longest", "is_packed"), [(200, True), (12, False)])
def test_auto_packs_where_that_is_less_to_compute(
    llama_base: Path, tmp_path: Path, longest: int, is_packed: bool
) -> None:
    spec = SPEC.model_copy(update={"packing": "auto", "max_steps": 1})
    report, said = train(llama_base, save_uneven(tmp_path, longest), tmp_path / "out", spec)
    assert report.training["packed"] is is_packed
    assert said == ("rows are packed" if is_packed else "rows are not packed: rows sorted by length take less time")


def test_whoever_goes_on_or_trains_again_packs_as_it_was(llama_base: Path, pairs: Path, tmp_path: Path) -> None:
    whole, _ = train(llama_base, pairs, tmp_path / "whole", checkpoints=Checkpoints(tmp_path / "kept", every_steps=1))
    resume = Checkpoints(tmp_path / "again", resume=tmp_path / "kept" / "step-00000002")
    train(llama_base, pairs, tmp_path / "gone on", checkpoints=resume)
    assert weights(tmp_path / "gone on") == weights(tmp_path / "whole")
    said = {name: whole.training[name] for name in ("packed", "row_attention", "micro_batch", "logit_chunk_tokens")}
    like = RecordedTraining(ref="sql@v3", digest="a" * 64, ran_with=said)
    train(llama_base, pairs, tmp_path / "like", SPEC.model_copy(update={"packing": "off"}), like=like)
    assert weights(tmp_path / "like") == weights(tmp_path / "whole")


def test_a_record_that_says_packed_is_looked_at_again(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other versions of the libraries rows of one sequence may see one another."""
    like = RecordedTraining(ref="sql@v3", digest="a" * 64, ran_with={"packed": True, "micro_batch": 1})
    short = SPEC.model_copy(update={"max_steps": 1, "max_length": 128})
    report, said = train(save_model(tmp_path / "opt", "opt"), pairs, tmp_path / "like", short, like=like)
    assert report.training["packed"] is False
    assert said == "rows are no longer packed: opt does not keep rows of one sequence apart here"
    train(llama_base, pairs, tmp_path / "whole", checkpoints=Checkpoints(tmp_path / "kept", every_steps=1))
    monkeypatch.setattr("workers.pipelines.training.choosing.keeps_apart", lambda *_, **__: False)
    resume = Checkpoints(tmp_path / "again", resume=tmp_path / "kept" / "step-00000002")
    gone_on, said = train(llama_base, pairs, tmp_path / "gone on", checkpoints=resume)
    assert gone_on.training["packed"] is False
    assert said == "rows are no longer packed: llama does not keep rows of one sequence apart here"


@pytest.mark.parametrize(
    ("most", "passes", "steps"), [(4, [4, 4], None), (1, [4, 1, 1], "the evaluation: 1 row a pass")]
)
def test_held_out_rows_are_scored_by_the_batch_beside_packed_ones(
    llama_base: Path,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
    passes: list[int],
    steps: str | None,
) -> None:
    true, asked = batches.example_losses, list[int]()

    def example_losses(model: Any, examples: Any, pad_id: int, rows: int, *rest: Any) -> Any:
        asked.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return true(model, examples, pad_id, rows, *rest)

    monkeypatch.setattr(batches, "example_losses", example_losses)
    # Steps have passes of one row.
    monkeypatch.setattr(choosing, "passes_of_packs", lambda *_: {"micro_rows": 1})
    report, _ = train(llama_base, pairs, tmp_path / "out", SPEC.model_copy(update={"max_steps": 1, "holdout": 0.3}))
    assert asked == passes
    assert (report.training["packed"], report.training["memory_steps"]) == (True, steps)
    assert report.training["gradient_checkpointing"] is False


def test_auto_does_not_pack_under_a_mask_on_a_cpu_in_16_bit() -> None:
    """There it was slower, whatever there is less to compute."""
    given: Any = SimpleNamespace(
        device=SimpleNamespace(kind="cpu"),
        spec=SPEC,
        rows=SimpleNamespace(examples=[SimpleNamespace(input_ids=[1] * length) for length in [200, 12, 12, 12] * 4]),
    )
    model, fit = model_of("llama").get_base_model(), Fit(micro_rows=1, checkpointing=False, packed=True)
    found = {}
    for dtype in ("float32", "bfloat16"):
        loaded: Any = SimpleNamespace(model=model, dtype=dtype)
        rows = fit.model_copy(update={"row_attention": True})
        found[dtype] = (_is_cheaper(given, loaded, fit), _is_cheaper(given, loaded, rows))
    assert found == {"float32": (True, True), "bfloat16": (False, True)}


ROW_BY_ROW = [name for name in APART if name != "gemma2"]


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_attention_takes_each_row_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients are those of rows alone, and no kernel is given a mask."""
    model, batch, seen = model_of(name), collate(ROWS, 1), list[bool]()
    total = loss_sum(model, batch)
    total.backward()
    expected = gradients(model)
    assert take_rows_alone(model.get_base_model())
    assert keeps_apart(model, batch, token_losses, EPS, experts=name in WITH_EXPERTS)
    true = torch.nn.functional.scaled_dot_product_attention

    def listen(*given: Any, **named: Any) -> Any:
        seen.append(named["attn_mask"] is None)
        return true(*given, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", listen)
    (part,) = packed(batch, 16)
    loss = loss_sum(model, part)
    loss.backward()
    assert all(seen)
    assert len(seen) == len(ROWS) * model.config.num_hidden_layers
    assert float(loss) == pytest.approx(float(total), rel=1e-5)
    require_close(gradients(model), expected)


def test_a_model_of_another_attention_keeps_it() -> None:
    base = model_of("gemma2").get_base_model()
    assert take_rows_alone(base) is False
    assert base.config._attn_implementation == "eager"


def lengths(mask: Any) -> list[int] | None:
    found = row_lengths(mask)
    return None if found is None else found.tolist()


def test_masks_of_another_kind_are_used_as_they_are() -> None:
    """A window, a row that is padded, and one whose tokens look ahead."""
    at = torch.arange(6)
    causal = at[:, None] >= at
    assert lengths(causal) == [6]
    assert lengths(causal & (at[:, None] - at < 3)) is None
    assert lengths(causal & (at >= 2)) is None
    assert lengths(torch.ones(6, 6, dtype=torch.bool)) is None
    # The second of three rows sees the first.
    rows = torch.tensor([0, 0, 1, 1, 2, 2])
    apart = causal & (rows[:, None] == rows)
    assert lengths(apart) == [2, 2, 2]
    leaking = apart.clone()
    leaking[3, 1] = True
    assert lengths(leaking) is None


def test_a_window_shorter_than_a_row_is_kept() -> None:
    """transformers' mask says both, rows and window; it is passed on."""
    config = config_of("mistral")
    config.sliding_window = 3
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    (part,) = packed(collate(ROWS, 1), 16)
    expected = token_losses(model, part)[0]
    assert take_rows_alone(model)
    torch.testing.assert_close(token_losses(model, part)[0], expected)


def test_packed_by_default_on_a_cpu_and_recorded(llama_base: Path, tmp_path: Path) -> None:
    data = save_uneven(tmp_path)
    spec = SPEC.model_copy(update={"packing": None, "max_steps": 2})
    report, said = train(llama_base, data, tmp_path / "out", spec)
    names = ("packed", "row_attention", "micro_batch", "logit_chunk_tokens")
    assert [report.training[name] for name in names[:3]] == [True, True, 4]
    assert said == "rows are packed"
    # What was packed under a mask, as on a card, is computed under one.
    old = RecordedTraining(ref="sql@v3", digest="a" * 64, ran_with={"packed": True, "micro_batch": 1})
    again, _ = train(llama_base, data, tmp_path / "old", spec, like=old)
    assert [again.training[name] for name in names[:3]] == [True, False, 1]
    like = old.model_copy(update={"ran_with": {name: report.training[name] for name in names}})
    train(llama_base, data, tmp_path / "like", spec, like=like)
    assert weights(tmp_path / "like") == weights(tmp_path / "out")


def test_rows_with_noise_on_their_embeddings_are_not_packed_by_themselves(llama_base: Path, tmp_path: Path) -> None:
    """The noise is divided by the length of the sequence, so that packed rows would have less of it."""
    spec = SPEC.model_copy(update={"packing": None, "max_steps": 1, "neftune_noise_alpha": 5.0})
    report, said = train(llama_base, save_uneven(tmp_path), tmp_path / "out", spec)
    assert (report.training["packed"], report.training["row_attention"], said) == (False, False, "")


def test_passes_end_where_their_mask_grows_large(llama_base: Path, tmp_path: Path, limits: Limits) -> None:
    """Rows are found in a mask of all tokens by all, which no forecast has."""
    data = save_uneven(tmp_path)
    spec, found = SPEC.model_copy(update={"packing": None, "max_steps": 1, "batch_size": 8, "grad_accum": 1}), []
    for most in (8192, 450, 100):
        limits(choosing, MOST_MASKED=most)
        limits(row_attention, MOST_MASKED=most)
        report, _ = train(llama_base, data, tmp_path / str(most), spec)
        found.append((report.training["packed"], report.training["micro_batch"]))
    assert found == [(True, 8), (True, 2), (False, 8)]


def test_with_little_memory_packed_passes_are_shorter_before_anything_is_computed_twice(
    llama_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for most in (4, 2, 0):
        monkeypatch.setattr(choosing, "needs_checkpointing", lambda *given, most=most: given[3].micro_rows > most)
        report, _ = train(llama_base, pairs, tmp_path / str(most), SPEC.model_copy(update={"max_steps": 1}))
        found.append((report.training["micro_batch"], report.training["gradient_checkpointing"]))
    assert found == [(4, False), (2, False), (4, True)]
