"""The device: how much memory can still be taken."""

from __future__ import annotations

import pytest
import torch

from workers.pipelines.model.device import Device

GB = 10**9


@pytest.mark.parametrize(
    ("free", "share", "reserved", "expected"),
    [(70, 1.0, 10, 70), (70, 0.1, 3, 5), (4, 0.1, 3, 4), (70, 0.1, 12, 0)],
    ids=["the whole card", "a share of it", "others have most of it", "the share is used up"],
)
def test_a_process_that_may_take_a_share_of_the_card_counts_on_no_more(
    monkeypatch: pytest.MonkeyPatch, free: int, share: float, reserved: int, expected: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GB, 80 * GB))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved * GB)
    assert Device("cuda", "a card", "bfloat16").available_memory_bytes() == expected * GB
