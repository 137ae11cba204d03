"""Errors that mean that memory ran out, and the peak of what this process had."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

#: The messages of libraries that raise no class of their own.
_SHORT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")
#: Where Linux reports the peak of resident memory, in KiB.
_STATUS, _PEAK, _KIB = Path("/proc/self/status"), re.compile(r"^VmHWM:\s+([0-9]+) kB$", re.M), 1024


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a card or in main memory."""
    # Its error can't come from a process that has not imported it.
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # The CPU's allocator, and cuBLAS, raise a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT_OF_MEMORY)


@contextlib.contextmanager
def memory_errors_named(advice: str) -> Iterator[None]:
    """Turn any out-of-memory error of the block into a PipelineError that ends with `advice`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise PipelineError(FailureReason.OOM, f"Memory ran out; {advice}") from error


def peak_resident_bytes() -> int:
    """Return the most that this process had in main memory so far, or since that was reset."""
    with contextlib.suppress(OSError):
        if found := _PEAK.search(_STATUS.read_text()):
            return int(found[1]) * _KIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * _KIB
