"""The folder of an example: its rows, the options of a training, a link to the base, and a page to follow."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from sdk.config import user_path
from sdk.errors import Conflict, NotFound, disk_explained
from sdk.formats.base_files import CONFIG_FILE
from sdk.pulling.transfer import folder_whole

#: Name and what it shows.
EXAMPLES = {
    "docstrings": "write the first line of a function's docstring",
    "labels": "classify a function by its package",
    "preferences": "learn which of two docstrings is preferred, by DPO",
}
ROWS = ("train.jsonl", "heldout.jsonl")
_TEXTS = ("README.md", "train.yaml")


@dataclass(frozen=True)
class WrittenExample:
    """An example that was written."""

    folder: Path
    files: list[str]
    #: The folder of the base, to which a link in the example leads.
    base: Path


def write_example(name: str, to: str | Path, base: str | Path | None, make_base: Callable[[], Path]) -> WrittenExample:
    """Write an example into the new folder `to`; without `base`, the folder of one, `make_base` gives it.

    Raises Conflict if anything is there, NotFound if `base` is none, and what `make_base` raises.
    """
    target = user_path(to).absolute()
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise Conflict(f"{target} exists already and is left as it is; choose a new folder with -o DIR", param="output")
    if base is not None and not (user_path(base) / CONFIG_FILE).is_file():
        raise NotFound(
            f"{user_path(base)} has no {CONFIG_FILE}, so it is not a base; give the folder that save_pretrained wrote",
            param="base",
        )
    over = make_base() if base is None else Path(os.path.abspath(user_path(base)))  # noqa: PTH100 - a link stays one
    source = Path(__file__).parent / name
    with disk_explained(f"writing {target}"), folder_whole(target, durable=False) as partial:
        for file in ROWS:
            (partial / file).write_bytes((source / file).read_bytes())
        for file in _TEXTS:
            text = Template((source / file).read_text(encoding="utf-8")).substitute(base=over.name)
            (partial / file).write_text(text, encoding="utf-8")
        (partial / over.name).symlink_to(over, target_is_directory=True)
        if target.is_dir():
            target.rmdir()
    return WrittenExample(target, [*_TEXTS, *ROWS], over)
