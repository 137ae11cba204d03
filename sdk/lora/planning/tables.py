"""Plans for common bases, as Markdown for docs/planning.md: `python -m sdk.lora.planning.tables`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from sdk.lora.planning.asked import Asked
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.cards import CARDS
from sdk.lora.planning.common_bases import COMMON_BASES
from sdk.lora.planning.plan import plan_of
from sdk.schemas.planning import CardFit, Plan

_SIZES = sorted({card.memory_bytes for card in CARDS})


def markdown() -> str:
    """Return the table of bases and cards, the table of memory, and the cards with their sources."""
    plans = {name: plan_of(blueprint_of(config), Asked()) for name, config in COMMON_BASES.items()}
    return "\n".join([*_cards(plans), "", *_memory(plans), "", *_sources()]) + "\n"


def _cards(plans: dict[str, Plan]) -> Iterator[str]:
    yield "| base | " + " | ".join(f"{size // 10**9} GB" for size in _SIZES) + " |"
    yield "|---" * (len(_SIZES) + 1) + "|"
    for name, plan in plans.items():
        fits = {fit.memory_bytes: fit for fit in plan.cards}
        yield f"| {name} | " + " | ".join(_method(fits[size]) for size in _SIZES) + " |"


def _method(fit: CardFit) -> str:
    """The larger method that leaves room; in brackets if it takes nearly all of the card."""
    return (
        "LoRA" if fit.lora == "fits" else "QLoRA" if fit.qlora == "fits" else "(QLoRA)" if fit.qlora == "tight" else "–"
    )


def _memory(plans: dict[str, Plan]) -> Iterator[str]:
    yield "| base | parameters | trained | adapter | QLoRA | LoRA | full |"
    yield "|---|---|---|---|---|---|---|"
    for name, plan in plans.items():
        sizes = " | ".join(f"{plan.card_bytes[method] / 1e9:.1f} GB" for method in ("qlora", "lora", "full"))
        adapter = f"{plan.adapter_size_bytes / 1e6:.1f} MB"
        yield f"| {name} | {plan.parameters:,} | {plan.trainable:,} | {adapter} | {sizes} |"


def _sources() -> Iterator[str]:
    yield "| card | memory by |"
    yield "|---|---|"
    for card in CARDS:
        yield f"| {card.name} | {card.source} |"


if __name__ == "__main__":
    sys.stdout.write(markdown())
