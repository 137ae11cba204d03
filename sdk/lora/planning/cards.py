"""Common cards with their memory, from the makers' data sheets.

A data sheet's 24 GB count as 24·10⁹ bytes: cards have up to 7 % more, but ECC and the driver take about that much.

>>> card_of("24GB").memory_bytes, card_of("4090").name, card_of("NVIDIA H100 PCIe").name
(24000000000, 'RTX 4090', 'H100 80GB')
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_GB = 10**9
#: What drivers and shops add to the name of a card.
_BESIDE = re.compile(r"nvidia|geforce|rtx|tesla|sxm\d?|pcie|hbm\d?e?")
_SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(gib|gb|g)", re.IGNORECASE | re.ASCII)


class CardError(ValueError):
    """The text is neither a size nor a card in the table; the message is a sentence."""


@dataclass(frozen=True)
class GpuCard:
    """A card, or just a size that was given."""

    name: str
    memory_bytes: int
    #: The data sheet.
    source: str


#: The smallest first.
CARDS = tuple(
    GpuCard(name, size * _GB, f"{source}, {size} GB")
    for name, size, source in (
        ("RTX 3060", 12, "NVIDIA, GeForce RTX 3060 specifications"),
        ("T4", 16, "NVIDIA, T4 data sheet"),
        ("RTX 4080", 16, "NVIDIA, GeForce RTX 4080 specifications"),
        ("RTX 3090", 24, "NVIDIA, GeForce RTX 3090 specifications"),
        ("RTX 4090", 24, "NVIDIA, GeForce RTX 4090 specifications"),
        ("L4", 24, "NVIDIA, L4 data sheet"),
        ("A10", 24, "NVIDIA, A10 data sheet"),
        ("RTX 5090", 32, "NVIDIA, GeForce RTX 5090 specifications"),
        ("A100 40GB", 40, "NVIDIA, A100 data sheet"),
        ("RTX A6000", 48, "NVIDIA, RTX A6000 data sheet"),
        ("L40S", 48, "NVIDIA, L40S data sheet"),
        ("A100 80GB", 80, "NVIDIA, A100 data sheet"),
        ("H100 80GB", 80, "NVIDIA, H100 data sheet"),
        ("H200", 141, "NVIDIA, H200 data sheet"),
    )
)


def card_of(text: str) -> GpuCard:
    """Return the card with this name, or with this size, given with its unit. Raises CardError."""
    wanted = text.strip()
    size = _SIZE.fullmatch(wanted)
    if size is not None and float(size[1]) > 0:
        unit = 2**30 if size[2].lower() == "gib" else _GB
        return GpuCard(wanted, int(float(size[1]) * unit), "as given")
    asked = _plain(wanted)
    found = [card for card in CARDS if _plain(card.name) == asked]
    if not found and asked and not asked.isdigit():
        found = [card for card in CARDS if _plain(card.name).startswith(asked)]
    if len({card.memory_bytes for card in found}) == 1:
        return found[0]
    if found:
        raise CardError(f"{_shown(text)} may be several GPUs; give one of: {', '.join(card.name for card in found)}")
    names = ", ".join(card.name for card in CARDS)
    raise CardError(f"{_shown(text)} is not a GPU; give its memory with a unit, such as 24GB, or one of: {names}")


def _shown(text: str) -> str:
    """Return a text in quotes, unchanged if it can be printed."""
    return repr(text[:40])


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _BESIDE.sub("", name.lower()))
