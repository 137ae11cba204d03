"""What waits for rows that are read apart, and what one reading may take."""

from __future__ import annotations

from registry.pools import Pool

POOL = Pool(
    "reading rows",
    waits="nobody: whoever has rows read holds a place in a lane of reading, or is the check for training rows",
    at_once="one process for each of those",
    item="below 125 kB in the server, 4 MiB of memory; otherwise 1 GiB in a process of its own, 20 s of processor time and "
    "1 s more per 2 MB, three times that by the clock",
    share="that of the lane",
)
