"""The logs of a stack's parts: their last lines, and new ones as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_LOOK_EVERY_S = 0.2
_BLOCK_BYTES = 64 * 1024


def last_lines(path: Path, count: int) -> tuple[list[str], int]:
    """Return the last lines of a file, and the place after them, for `follow`; no lines if there is no file."""
    try:
        with path.open("rb") as log:
            end = start = log.seek(0, os.SEEK_END)
            text = b""
            while start > 0 and text.count(b"\n") <= count:
                start = max(0, start - _BLOCK_BYTES)
                log.seek(start)
                text = log.read(end - start)
    except FileNotFoundError:
        return [], 0
    # The last line may be half written; `follow` gives it once it is whole.
    whole = text[: text.rfind(b"\n") + 1]
    return whole.decode("utf-8", "replace").splitlines()[-count:] if count else [], end - (len(text) - len(whole))


def follow(paths: Mapping[str, Path], places: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Yield each new line with the name of its log, for ever. `places` says where in each to begin, and is updated."""
    while True:
        for name, path in paths.items():
            for line in _new_lines(path, places, name):
                yield name, line
        time.sleep(_LOOK_EVERY_S)


def _new_lines(path: Path, places: dict[str, int], name: str) -> list[str]:
    try:
        with path.open("rb") as log:
            if log.seek(0, os.SEEK_END) < places.get(name, 0):
                # The log was put aside, and a new one begun.
                places[name] = 0
            log.seek(places.get(name, 0))
            text = log.read()
    except FileNotFoundError:
        return []
    whole = text[: text.rfind(b"\n") + 1]
    places[name] = places.get(name, 0) + len(whole)
    return whole.decode("utf-8", "replace").splitlines()
