"""Keys of rows in sorted order, however many there are: sorted in runs in a scratch file, and merged a part at a time.

>>> keys = SortedKeys("u8")
>>> keys.append([7, 3, 7], [0, 1, 2])
>>> [(part.tolist(), rows.tolist()) for part, rows in keys.sorted()]
[([3, 7, 7], [1, 0, 2])]
"""

from __future__ import annotations

import itertools
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy.typing as npt

#: How many keys a run has, which is sorted in memory, and about how many a part of all runs has.
_RUN_KEYS = 1 << 19
#: One in this many keys of a run is sampled, to decide where the parts begin.
_SAMPLED = 1 << 13

#: Keys, (n,), and the rows that they belong to, (n,) of uint32.
Part = tuple["npt.NDArray[Any]", "npt.NDArray[Any]"]


class SortedKeys:
    """Keys, each with its row, in a file without a name.

    Keys are numbers ("u8") or bytes of one length ("S32"); each takes 4 bytes more for its row. Equal keys come in the
    order in which they were added. One run and one part are in memory, and nothing for each row. Needs numpy.
    """

    def __init__(self, dtype: str) -> None:
        import numpy as np

        self._dtype = np.dtype([("key", dtype), ("row", "<u4")])
        self._file: IO[bytes] | None = None
        self._batches: list[npt.NDArray[Any]] = []
        self._batched = 0
        #: How many keys each run in the file has.
        self._runs: list[int] = []
        self._sample: list[npt.NDArray[Any]] = []

    def append(self, keys: npt.NDArray[Any] | Sequence[int | bytes], rows: npt.NDArray[Any] | Sequence[int]) -> None:
        """Add keys and their rows, (n,) each."""
        import numpy as np

        found = np.empty(len(keys), self._dtype)
        found["key"], found["row"] = keys, rows
        for begin in range(0, len(found), _RUN_KEYS):
            part = found[begin : begin + _RUN_KEYS]
            if self._batched + len(part) > _RUN_KEYS:
                self._write_run()
            self._batches.append(part)
            self._batched += len(part)

    def sorted(self) -> Iterator[Part]:
        """Yield all keys in sorted order, with their rows, a part at a time.

        Equal keys are in one part, or in several parts that hold no other keys.
        """
        import numpy as np

        if self._file is None:
            if self._batched:
                yield _in_order(np.concatenate(self._batches))
            return
        if self._batched:
            self._write_run()
        cuts = self._cuts()
        starts = [0, *itertools.accumulate(self._runs)]
        # (runs, cuts + 2): where the parts of each run begin and end.
        places = np.zeros((len(self._runs), len(cuts) + 2), np.int64)
        for number, keys in enumerate(self._runs):
            run = self._read(starts[number], keys)["key"].copy()
            places[number, 1:-1] = [np.searchsorted(run, cut.key, cut.side) for cut in cuts]
            places[number, -1] = keys
        for part in range(len(cuts) + 1):
            pieces = (
                self._read(starts[run] + int(begin), int(end - begin))
                for run, (begin, end) in enumerate(places[:, part : part + 2])
                if end > begin
            )
            if part and cuts[part - 1].alone:
                # The part is one key that very many rows have, so it is in order as it is.
                yield from ((piece["key"], piece["row"]) for piece in pieces)
            elif found := list(pieces):
                yield _in_order(np.concatenate(found))

    def _write_run(self) -> None:
        import numpy as np

        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
            weakref.finalize(self, _close, self._file)
        run = np.concatenate(self._batches)
        self._batches, self._batched = [], 0
        run = run[np.argsort(run["key"], kind="stable")]
        self._file.write(run.tobytes())
        # Sampled at the same places, all runs would give about the same keys, and so few parts for many rows.
        places = np.arange(0, len(run), _SAMPLED)
        places += np.random.default_rng(len(self._runs)).integers(0, _SAMPLED, len(places))
        self._sample.append(run["key"][np.minimum(places, len(run) - 1)])
        self._runs.append(len(run))

    def _cuts(self) -> list[_Cut]:
        """Return where the parts begin; there are about as many parts as runs."""
        import numpy as np

        sample, parts = np.sort(np.concatenate(self._sample)), len(self._runs)
        cuts = []
        for key, times in zip(
            *np.unique(sample[np.arange(1, parts) * len(sample) // parts], return_counts=True), strict=True
        ):
            cuts.append(_Cut(key, "left", alone=times > 1))
            if times > 1:
                cuts.append(_Cut(key, "right", alone=False))
        return cuts

    def _read(self, first: int, count: int) -> npt.NDArray[Any]:
        import numpy as np

        assert self._file is not None
        self._file.flush()
        size = self._dtype.itemsize
        return np.frombuffer(os.pread(self._file.fileno(), count * size, first * size), self._dtype)


class _Cut(NamedTuple):
    """Where a part begins: at a key, or after all keys that are equal to it."""

    key: Any
    side: Literal["left", "right"]
    #: Whether the part holds only this key.
    alone: bool


def _close(file: IO[bytes]) -> None:
    # If the disk is full, what could not be written is no longer needed.
    with suppress(OSError):
        file.close()


def _in_order(found: npt.NDArray[Any]) -> Part:
    import numpy as np

    order = np.argsort(found["key"], kind="stable")
    return found["key"][order], found["row"][order]
