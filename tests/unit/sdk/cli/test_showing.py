"""`show`: what a training has counted of its base."""

from __future__ import annotations

from sdk.cli.commands.catalog import _held


def test_which_share_of_the_base_was_in_which_precision() -> None:
    counted = {"base_nf4_parameters": 117.0, "base_bfloat16_parameters": 883.0}
    assert _held({**counted, "base_parameters": 1000.0, "base_nf4_bytes": 60.0, "loss": 1.0}) == [
        "bfloat16 88.3 %, nf4 11.7 %"
    ]
    # An earlier release has counted nothing.
    assert _held({"base_parameters": 1000.0}) == []
