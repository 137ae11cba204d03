"""What `show` says of a version, where a list would fill the screen."""

from __future__ import annotations

from sdk.cli.commands.catalog import _first


def test_many_target_modules_are_counted() -> None:
    names = [f"model.language_model.layers.{n}.self_attn.q_proj" for n in range(34)]
    assert _first(names) == [*names[:12], "and 22 more"]
    assert _first(names[:12]) == names[:12]
