"""The device that a pipeline computes on: its abilities, its memory, and its peak use."""

from __future__ import annotations

import contextlib
import gc
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from workers.main_memory import main_memory
from workers.pipelines.cpu.arithmetic import multiplies_bfloat16
from workers.pipelines.cpu.heap import give_pages_back
from workers.pipelines.memory_errors import is_out_of_memory as is_out_of_memory
from workers.pipelines.memory_errors import memory_errors_named as memory_errors_named
from workers.pipelines.memory_errors import peak_resident_bytes
from workers.pipelines.model.dtype_names import DtypeName as DtypeName
from workers.pipelines.model.dtype_names import dtype_name as dtype_name

#: Where Linux reports resident memory, in KiB, and where it is told to reset its peak (proc(5)).
_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESIDENT = re.compile(r"^VmRSS:\s+([0-9]+) kB$", re.M)

_KIB = 1024

#: Names of dtypes in specs and reports.
DTYPES: dict[str, Any] = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Device:
    """One device and the widest-ranged 16-bit dtype that it multiplies natively, or float32."""

    kind: Literal["cuda", "cpu"]
    #: The hardware's own name.
    name: str
    compute_dtype: DtypeName

    @property
    def torch_device(self) -> Any:
        """The device for torch."""
        return torch.device(self.kind, 0) if self.kind == "cuda" else torch.device("cpu")

    def available_memory_bytes(self) -> int:
        """Return the bytes that are still available: on the GPU, or in main memory within the limits of control groups."""
        if self.kind == "cuda":
            free, total = torch.cuda.mem_get_info(0)
            # A process may have only a share of the card.
            share = torch.cuda.get_per_process_memory_fraction(0)
            return max(0, min(int(free), int(share * total) - int(torch.cuda.memory_reserved(0))))
        return main_memory().available_bytes

    def peak_memory_bytes(self) -> int:
        """Return the peak so far, or since `forget_peak`: allocated on the GPU, or resident in main memory, in this process."""
        if self.kind == "cuda":
            return int(torch.cuda.max_memory_allocated(0))
        return peak_resident_bytes()

    def forget_peak(self) -> None:
        """Reset the peak, if the system can: on the GPU, and on Linux."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(0)
            return
        with contextlib.suppress(OSError):
            _CLEAR_REFS.write_text("5")


def resident_bytes() -> int | None:
    """Return what this process has in main memory, with what is mapped of files; None if the system does not say it."""
    found = _RESIDENT.search(_said(_STATUS))
    return None if found is None else int(found[1]) * _KIB


def _said(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def choose_device() -> Device:
    """Return the first CUDA device if there is one, else the CPU."""
    if torch.cuda.is_available():
        dtype: DtypeName = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        return Device("cuda", torch.cuda.get_device_name(0), dtype)
    return Device("cpu", "cpu", "bfloat16" if multiplies_bfloat16() else "float32")


def give_back() -> None:
    """Free reference cycles, and return free memory: the heap's pages, and a card's cached blocks.

    The next step may need pieces larger than any free one, and then the process would hold both.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    give_pages_back()
