"""The folder of an example: its rows, the options of a training, a link to the base, and a page to follow."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from sdk.config import user_path
from sdk.errors import Conflict, NotFound, disk_explained, place_explained
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
#: How the folder is called in which an example is written within an empty folder.
_PARTIAL = ".adapterctl-example-"


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
    if target.is_symlink() or (target.exists() and not _is_empty(target)):
        raise Conflict(f"{target} exists already and is left as it is; choose a new folder with -o DIR", param="output")
    if base is not None and not (user_path(base) / CONFIG_FILE).is_file():
        raise NotFound(
            f"{user_path(base)} has no {CONFIG_FILE}, so it is not a base; give the folder that save_pretrained wrote",
            param="base",
        )
    over = make_base() if base is None else Path(os.path.abspath(user_path(base)))  # noqa: PTH100 - a link stays one
    with disk_explained(f"writing {target}"):
        if target.is_dir():
            # It stays the folder that it is, since a shell may be in it.
            for left in target.iterdir():
                shutil.rmtree(left, ignore_errors=True)
            with place_explained(target), tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=target) as partial:
                _fill(Path(partial), name, over)
                for path in Path(partial).iterdir():
                    path.rename(target / path.name)
        else:
            with folder_whole(target, durable=False) as folder:
                _fill(folder, name, over)
    return WrittenExample(target, [*_TEXTS, *ROWS], over)


def _is_empty(path: Path) -> bool:
    """Whether it is a folder with nothing but what a killed call has left."""
    return path.is_dir() and all(each.name.startswith(_PARTIAL) for each in path.iterdir())


def _fill(folder: Path, name: str, base: Path) -> None:
    """Write the files of an example."""
    source = Path(__file__).parent / name
    for file in ROWS:
        (folder / file).write_bytes((source / file).read_bytes())
    for file in _TEXTS:
        text = Template((source / file).read_text(encoding="utf-8")).substitute(base=base.name)
        (folder / file).write_text(text, encoding="utf-8")
    (folder / base.name).symlink_to(base, target_is_directory=True)
