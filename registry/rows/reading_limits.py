"""What waits for rows that are read apart, and what one reading may take, which grows with what it reads."""

from __future__ import annotations

from dataclasses import dataclass

from registry.pools import Pool

#: How many rows times pairs are compared at once: some 20 seconds of one core, and half a gigabyte, in a process apart.
MOST_WORK = 2_000_000
#: What any of it takes of the server's own memory at most, in bytes.
MOST_HELD_BYTES = 4 * 1024**2
#: More than the longest row takes as objects, and a file of any length is read a few rows at a time.
MEMORY_BYTES = 1024**3
#: Seconds of processor time, and how much more is read in each further one: a third of what it can be.
_BASE_S, _BYTES_PER_S = 20, 2 * 1000**2
#: So many times longer it may take by the clock, if others keep the machine busy.
_BUSY = 3


POOL = Pool(
    "reading rows",
    waits="nobody: whoever has rows read holds a place in a lane of reading, or is the check for training rows",
    at_once="one process for each of those",
    item="below 125 kB in the server, 4 MiB of memory; otherwise 1 GiB in a process of its own, 20 s of processor time and "
    "1 s more per 2 MB, three times that by the clock",
    share="that of the lane",
)


@dataclass(frozen=True)
class ReadingLimits:
    """What one reading may take."""

    memory_bytes: int
    #: Processor time, and time by the clock.
    processor_s: int
    clock_s: int

    @classmethod
    def of(cls, size_bytes: int) -> ReadingLimits:
        """Return the limits for reading this much."""
        seconds = _BASE_S + size_bytes // _BYTES_PER_S
        return cls(MEMORY_BYTES, seconds, _BUSY * seconds)

    def given(self) -> dict[str, int]:
        """Return them as plain values."""
        return {"memory_bytes": self.memory_bytes, "processor_s": self.processor_s, "clock_s": self.clock_s}

    @property
    def out_of_memory(self) -> str:
        """The rest of a sentence about what takes more memory."""
        return f"takes more than {self.memory_bytes >> 20} MiB of memory to read; divide its long rows"

    @property
    def out_of_time(self) -> str:
        """The rest of a sentence about what takes more time."""
        return f"takes more than {self.processor_s} s of processor time to read; use fewer rows"
