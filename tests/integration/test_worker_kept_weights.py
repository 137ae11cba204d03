"""Weights in 4 bits in a real worker's cache: a training keeps them, the next one and an evaluation read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import tiny
from support.workplace import opened

from sdk.pulling.cache import Cache
from sdk.pulling.cache_maintenance import entries

pytestmark = pytest.mark.slow


def test_a_base_is_quantised_once_on_a_node(tmp_path: Path) -> None:
    with opened(tmp_path / "place") as place, place.worker(forks=True):

        def used() -> bool:
            """Whether the only entry was used; from now on it counts as one that was not."""
            (entry,) = (entry for entry in entries(Cache(place.folder / "worker-cache")) if entry.kind == "quantized")
            assert entry.digest == place.base.fingerprint
            os.utime(entry.path, (0, 0))
            return entry.used_s > 0

        digests = set()
        for _ in range(2):
            trained = place.client.job(place.submit(steps=2, method="qlora", lr=0.01)).wait()
            ref = str((trained.view.result or {})["ref"])
            digests.add(place.client.get(ref).digest)
            assert used()
        assert len(digests) == 1
        rows = tiny.write_rows(tmp_path / "rows.jsonl")
        assert place.client.submit_evaluation([ref], data=rows).wait().result()[0].precision == "nf4"
        assert used()
