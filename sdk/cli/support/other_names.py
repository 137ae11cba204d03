"""What options are called elsewhere, read from `other_names.json`: by PEFT, transformers, TRL, Axolotl and the model hub's tools."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path


@cache
def other_names() -> Mapping[str, str]:
    """Return, by the name that somebody may know, ours."""
    names: Mapping[str, str] = json.loads(Path(__file__).with_suffix(".json").read_bytes())
    return names


def ours(option: str, known: Collection[str]) -> str | None:
    """Return what an option is called here, if a command that knows some options has it.

    >>> ours("--learning_rate", ["--lr"]), ours("--learning-rate", ["--rank"])
    ('--lr', None)
    """
    name = other_names().get(option.partition("=")[0].replace("_", "-"))
    return name if name is not None and name.split()[0] in known else None
