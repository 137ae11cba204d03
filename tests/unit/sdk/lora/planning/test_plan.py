"""What is recommended for which card, and what a plan says of it."""

from __future__ import annotations

from typing import Any

import pytest

from sdk.lora.planning import tables as configs
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.cards import CARDS, CardError, card_of
from sdk.lora.planning.plan import plan_of
from sdk.lora.planning.recommending import Asked, task_options
from sdk.schemas.planning import Plan
from sdk.schemas.training import TrainingSpec


def plan(config: dict[str, Any], gpu: str | None = None, **asked: Any) -> Plan:
    options = asked.pop("options", {})
    given = {*options, *({"method"} & asked.keys())}
    return plan_of(blueprint_of(config), Asked(spec=TrainingSpec(**options), given=frozenset(given), gpu=gpu, **asked))


def said(found: Plan) -> dict[str, str]:
    return {choice.option: choice.value for choice in found.recommendation}


@pytest.mark.parametrize(
    ("config", "gpu", "method"),
    [
        ("LLAMA_2_7B", "24GB", "qlora"),
        ("LLAMA_2_13B", "24GB", "qlora"),
        ("LLAMA_2_7B", "40GB", "lora"),
        ("LLAMA_2_13B", "40GB", "qlora"),
        ("LLAMA_2_7B", "80GB", "lora"),
        ("LLAMA_2_13B", "80GB", "lora"),
        ("LLAMA_3_70B", "80GB", "qlora"),
    ],
)
def test_the_method_by_the_memory_of_the_card(config: str, gpu: str, method: str) -> None:
    found = plan(getattr(configs, config), gpu)
    assert (found.method, said(found)["method"]) == (method, method)
    assert found.forecast.card_bytes <= 0.9 * card_of(gpu).memory_bytes


def test_rough_totals_of_7b() -> None:
    """With LoRA 16 to 20 GB, with QLoRA 6 to 8; full, without checkpointing, 80 and more."""
    found = plan(configs.LLAMA_2_7B)
    assert 16e9 <= found.card_bytes["lora"] <= 20e9
    assert 6e9 <= found.card_bytes["qlora"] <= 8e9
    full = plan(configs.LLAMA_2_7B, "H200", method="full", gradient_checkpointing=False, options={"batch_size": 4})
    assert full.forecast.card_bytes >= 80e9
    assert full.trainable == full.parameters
    assert full.adapter_size_bytes == 0


def test_lora_of_7b_squeezes_into_24_gb_and_is_not_recommended_there() -> None:
    found = plan(configs.LLAMA_2_7B, "24GB")
    fit = next(fit for fit in found.cards if fit.card == "RTX 4090")
    assert (fit.qlora, fit.lora, fit.full) == ("fits", "tight", "no")


def test_smaller_batches_come_before_checkpointing_and_that_before_shorter_rows() -> None:
    seen = []
    for gpu in ("H200", "24GB", "12GB", "8GB", "6.2GB"):
        forecast = plan(configs.LLAMA_2_7B, gpu, method="qlora").forecast
        seen.append((forecast.batch_size, forecast.gradient_checkpointing, forecast.max_length))
    assert seen == [(4, False, 1024), (1, False, 1024), (4, True, 1024), (1, True, 1024), (1, True, 1024)]
    assert said(plan(configs.LLAMA_2_7B, "24GB"))["batch × accumulation"] == "1 × 16"


def test_what_was_given_stays() -> None:
    options = {"batch_size": 4, "grad_accum": 3, "max_length": 2048, "rank": 16, "targets": "qv"}
    found = plan(configs.LLAMA_2_7B, "12GB", method="lora", options=options)
    assert (found.forecast.batch_size, found.forecast.max_length, found.verdict) == (4, 2048, "no")
    assert {choice.option for choice in found.recommendation if choice.reason == "given"} == {
        "method", "rank", "targets", "batch × accumulation", "max length"
    }  # fmt: skip
    assert any("weights take 13.5 GB" in note and "a GPU that it fits: RTX 5090" in note for note in found.notes)


def test_each_choice_has_a_reason_and_tasks_have_their_ranks() -> None:
    found = plan(configs.LLAMA_3_8B, "24GB")
    assert list(said(found)) == [
        "method", "rank", "alpha", "targets", "batch × accumulation", "max length", "checkpointing"
    ]  # fmt: skip
    assert all(choice.reason for choice in found.recommendation)
    ranks = {task: task_options(task)["rank"] for task in ("format", "instruct", "summarise", "code")}
    assert ranks == {"format": 4, "instruct": 8, "summarise": 16, "code": 32}
    assert task_options(None) == {}


def test_without_a_card_it_is_the_smallest_that_fits() -> None:
    assert plan(configs.LLAMA_2_7B).card == "RTX 3060"
    assert plan(configs.LLAMA_3_70B).card == "A100 80GB"
    none = plan(configs.LLAMA_3_70B, method="full")
    assert (none.card, none.verdict) == (None, "no")
    assert "no GPU of the table" in none.notes[-1]


def test_attention_of_gemma_2_needs_the_scores() -> None:
    config = configs.MISTRAL_7B | {"model_type": "gemma2", "head_dim": 128}
    part = next(part for part in plan(config).forecast.parts if part.name == "activations")
    assert part.of.endswith("eager")


def test_paged_moments_are_not_counted_on_the_card_but_for_small_tensors() -> None:
    """bitsandbytes pages none of fewer than 100,000 numbers: at rank 8 A and B of a 7B's attention are smaller."""
    for rank, paged in ((8, 0), (32, 8 * 4 * 8_388_608)):
        sizes = [
            plan(configs.LLAMA_2_7B, options={"optim": optim, "rank": rank}).card_bytes["lora"]
            for optim in ("adamw", "paged_adamw")
        ]
        assert sizes[0] - sizes[1] == paged


def test_full_fine_tuning_says_that_the_optimiser_is_not_the_one_asked_for() -> None:
    notes = plan(configs.LLAMA_2_7B, method="full", options={"optim": "adamw_8bit"}).notes
    assert any("not with adamw_8bit" in note for note in notes)


def test_ranks_that_eva_moves_are_counted_as_asked_and_their_most_is_said() -> None:
    """32 layers: 128 modules of rank 8 over 96 of (4096, 4096) and, as all-linear, 96 of 4096 by 11008, whose sides together are 15104."""
    eva = {"init_lora_weights": "eva", "eva_rho": 2.0}
    found = plan(configs.LLAMA_2_7B, method="lora", options={**eva, "targets": "all-linear"})
    assert found.trainable == plan(configs.LLAMA_2_7B, method="lora", options={"targets": "all-linear"}).trainable
    # All ranks but one of each of 128 square modules could go to the 96 wide ones, up to 16 there: 96·8 of them.
    wide, square = 96 * 16, 128 * 8 - 96 * 8
    assert any(f"up to {wide * 15104 + square * 8192:,} parameters" in note for note in found.notes)
    assert not any("eva_rho" in note for note in plan(configs.LLAMA_2_7B, options={"targets": "all-linear"}).notes)


def test_parts_add_up_and_chunks_save_logits() -> None:
    found = plan(configs.GEMMA_3_27B, "80GB")
    assert found.forecast.card_bytes == sum(part.size_bytes for part in found.forecast.parts if part.where == "card")
    assert any("images" in note for note in found.notes)
    chunked = plan(configs.GEMMA_3_27B, "80GB", logit_chunk_tokens=256)
    assert chunked.card_bytes["qlora"] < found.card_bytes["qlora"] - 9e9


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24e9),
        ("24 gib", 24 * 2**30),
        ("NVIDIA H100 80GB", 80e9),
        ("a10", 24e9),
        ("t4", 16e9),
        ("4090", 24e9),
        ("Tesla T4", 16e9),
        ("NVIDIA A100-SXM4-80GB", 80e9),
        ("A100-PCIE-40GB", 40e9),
        ("NVIDIA H100 80GB HBM3", 80e9),
        ("H100", 80e9),
        ("A6000", 48e9),
    ],
)
def test_cards_by_size_and_by_name(text: str, size: float) -> None:
    assert card_of(text).memory_bytes == size


@pytest.mark.parametrize("text", ["24", "", "0GB", "-1GB", "nanGB", "24MB", "RTX 9999", "4", "GB"])
def test_what_is_no_card(text: str) -> None:
    with pytest.raises(CardError, match="give its memory with a unit, such as 24GB"):
        card_of(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [("A", "A10, A100 40GB, RTX A6000, A100 80GB"), ("a100", "A100 40GB, A100 80GB"), ("L", "L4, L40S")],
)
def test_a_part_of_a_name_that_cards_of_several_sizes_have(text: str, names: str) -> None:
    with pytest.raises(CardError, match=f"may be several GPUs; give one of: .*{names}"):
        card_of(text)


def test_cards_are_sorted_and_say_where_their_memory_is_from() -> None:
    assert [card.memory_bytes for card in CARDS] == sorted(card.memory_bytes for card in CARDS)
    assert all("NVIDIA" in card.source for card in CARDS)


@pytest.mark.parametrize("gpu", ["12GB", "16GB", "24GB", "40GB", "80GB"])
@pytest.mark.parametrize("config", ["LLAMA_2_7B", "LLAMA_3_2_1B", "QWEN2_5_7B"])
def test_checkpointing_is_announced_as_a_worker_chooses_it(config: str, gpu: str) -> None:
    """It keeps activations where these and the logits take at most half of what weights, adapter and context leave."""
    found = plan(getattr(configs, config), gpu, options={"batch_size": 4, "max_length": 1024})
    kept = plan(
        getattr(configs, config),
        gpu,
        method=found.method,
        gradient_checkpointing=False,
        options={"batch_size": 4, "max_length": 1024},
    )
    sizes = {part.name: part.size_bytes for part in kept.forecast.parts if part.where == "card"}
    taken = sizes["activations"] + sizes["logits"]
    rest = sum(sizes.values()) - taken - sizes["gradients"] - sizes["optimizer"] - sizes.get("widened matrix", 0)
    assert found.forecast.gradient_checkpointing == (taken > 0.5 * (card_of(gpu).memory_bytes - rest))


def test_a_preference_is_two_sequences_and_a_classification_has_no_logits_of_the_vocabulary() -> None:
    def parts(**options: Any) -> dict[str, int]:
        fixed = {"batch_size": 4, "max_length": 1024} | options
        found = plan(configs.LLAMA_3_8B, "80GB", method="lora", gradient_checkpointing=False, options=fixed)
        return {part.name: part.size_bytes for part in found.forecast.parts}

    sft, dpo, classify = (parts(objective=name) for name in ("sft", "dpo", "classify"))
    assert dpo["activations"] == 2 * sft["activations"]
    assert "logits" not in classify
    assert sft["weights"] - classify["weights"] == 2 * 4096 * 128_256
    notes = {name: " ".join(plan(configs.LLAMA_3_8B, options={"objective": name}).notes) for name in (None, "classify")}
    assert "two sequences per row" in notes[None]
    assert "4096 numbers for each class" in notes["classify"]
    assert "objective" not in " ".join(plan(configs.LLAMA_3_8B, options={"objective": "sft"}).notes)


@pytest.mark.parametrize(("objective", "time"), [("ipo", "2.8"), ("orpo", "2"), ("simpo", "2"), ("kto", "2.2")])
def test_no_way_to_prefer_takes_more_memory_than_dpo_and_its_time_is_said(objective: str, time: str) -> None:
    fixed = {"batch_size": 4, "max_length": 1024}
    found, dpo = (
        plan(
            configs.LLAMA_3_8B, "80GB", method="lora", gradient_checkpointing=False, options=fixed | {"objective": name}
        )
        for name in (objective, "dpo")
    )
    assert found.forecast.card_bytes <= dpo.forecast.card_bytes
    assert f"about {time} times as long as a row of sft" in " ".join(found.notes)


def test_accumulation_that_was_given_stays_where_the_batch_is_halved() -> None:
    found = plan(configs.LLAMA_2_7B, "24GB", options={"grad_accum": 4})
    assert said(found)["batch × accumulation"] == "1 × 4"


def test_as_given_nothing_is_chosen_and_defaults_are_called_so() -> None:
    found = plan(configs.LLAMA_2_7B, "6GB", as_given=True, method="qlora", options={"rank": 8, "batch_size": 3})
    assert (found.forecast.batch_size, found.forecast.max_length) == (3, 1024)
    assert said(found)["batch × accumulation"] == "3 × 4"
    reasons = {choice.option: choice.reason for choice in found.recommendation}
    assert (reasons["rank"], reasons["alpha"], reasons["max length"]) == ("given", "default", "default")


@pytest.mark.parametrize("gpu", [None, "24GB"])
def test_checkpointing_that_was_given_is_what_all_of_the_plan_is_of(gpu: str | None) -> None:
    chosen, on, off = (
        plan(configs.LLAMA_2_7B, gpu, gradient_checkpointing=switch, options={"batch_size": 4})
        for switch in (None, True, False)
    )
    assert chosen.card_bytes == on.card_bytes
    assert all(off.card_bytes[method] > on.card_bytes[method] for method in ("qlora", "lora", "full"))
    for found, value in ((on, "on"), (off, "off")):
        last = found.recommendation[-1]
        assert (last.option, last.value, last.reason) == ("checkpointing", value, "given")
        assert any("a training has no option for checkpointing" in note for note in found.notes)
    assert off.card is None or off.verdict == "fits" or gpu


@pytest.mark.parametrize("name", sorted(configs.COMMON_BASES))
def test_a_card_that_was_found_is_one_that_it_fits(name: str) -> None:
    for asked in ({}, {"gradient_checkpointing": False}, {"as_given": True, "method": "lora"}):
        found = plan({**configs.COMMON_BASES[name]}, **asked)
        assert (found.card, found.verdict) == (None, "no") or found.verdict == "fits"


def test_fits_is_70_percent_everywhere() -> None:
    found = plan(configs.LLAMA_2_7B, method="lora", options={"batch_size": 4, "max_length": 1024})
    whole = 4 * 1024
    needed = plan(configs.LLAMA_2_7B, "H200", method="lora", gradient_checkpointing=True).card_bytes["lora"]
    for share, verdict in ((0.695, "fits"), (0.705, "tight"), (0.95, "tight"), (1.01, "no")):
        again = plan(
            configs.LLAMA_2_7B,
            f"{needed / share / 1e9:.3f}GB",
            method="lora",
            gradient_checkpointing=True,
            logit_chunk_tokens=whole,
            options={"batch_size": 4, "max_length": 1024},
        )
        assert (again.verdict, again.cards[-1].lora) == (verdict, verdict)
    assert found.verdict == "fits"
    why = plan(configs.LLAMA_2_7B, f"{needed / 0.703 / 1e9:.3f}GB").recommendation[0].reason
    assert "would take 71 % of the GPU's memory, and more than 70 %" in why


def test_full_fine_tuning_names_the_options_that_do_not_count() -> None:
    found = plan(configs.LLAMA_2_7B, "H200", method="full", options={"rank": 64, "quant_type": "fp4", "lr": 1e-5})
    (note,) = (note for note in found.notes if "no adapter" in note)
    assert note.endswith("trains over no quantised base: quant_type, rank do not count")
    plain = plan(configs.LLAMA_2_7B, "H200", method="full")
    assert (plain.card_bytes["full"], [note for note in plain.notes if "no adapter" in note]) == (
        found.card_bytes["full"],
        [],
    )


def test_what_is_no_card_is_shown_as_it_was_written() -> None:
    with pytest.raises(CardError, match=r"^'２４GB' is not a GPU"):
        card_of("２４GB")
    with pytest.raises(CardError, match=r"^'\\x1b\[2J' is not a GPU"):
        card_of("\x1b[2J")
