"""Pickled weights to safetensors, in a process of its own: `python -m workers.pipelines.model.convert SOURCE TARGET`.

The pickle is read by torch's restricted reader, which builds tensors and runs nothing, and within limits of memory,
processor time and file size, since a crafted file may still ask for more than there is. If the system allows it, the
process has no network, so that a hole in the reader leads nowhere. The last line of standard output is one JSON object,
`{"tensors", "size_bytes", "offline"}` or `{"refused"}`, a sentence.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from sdk.imports import nothing_collected
from workers.pipelines.sandbox import limit, stand_alone

#: Memory on top of the process with its libraries loaded; the file is held twice, once read and once to be written.
_SPARE_BYTES = 512 * 1024 * 1024
_MOST_TENSORS = 262_144
_BLOCKED = re.compile(r"GLOBAL ([A-Za-z0-9_.]{1,100})")


class RefusedError(Exception):
    """The file contains more than tensors."""


def convert(source: Path, target: Path) -> dict[str, int]:
    """Write the tensors of a pickled file as safetensors; return how many there are, and their bytes.

    Raises RefusedError for a file that contains, or would run, anything else.
    """
    tensors = _load(source)
    from safetensors.torch import save_file

    # Tied tensors share their memory, which safetensors can't express: each gets a copy.
    separate = {name: tensor.detach().clone().contiguous() for name, tensor in sorted(tensors.items())}
    save_file(separate, target, metadata={"format": "pt"})
    return {"tensors": len(separate), "size_bytes": target.stat().st_size}


def _load(source: Path) -> dict[str, Any]:
    import torch

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        blocked = _BLOCKED.search(str(error))
        if blocked:
            said = f"{source.name} holds more than tensors, and would call {blocked[1]} when loaded"
        else:
            said = f"{source.name} is damaged, or holds more than tensors"
        raise RefusedError(said) from error
    if not isinstance(found, dict) or not 0 < len(found) <= _MOST_TENSORS:
        raise RefusedError(f"{source.name} is not a dictionary of tensors by name")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise RefusedError(f"{source.name} holds something besides tensors by name")
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise RefusedError(f"{source.name} holds a tensor that is sparse, quantised or without data")
    # A few bytes can describe a tensor of any size.
    if sum(tensor.numel() * tensor.element_size() for tensor in found.values()) > 4 * source.stat().st_size + 65536:
        raise RefusedError(f"{source.name} describes far more than it holds")
    return found


def main() -> int:
    """Convert the file in the first argument to the one in the second."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    offline = stand_alone()
    with nothing_collected(ever=True):
        import safetensors.torch  # noqa: F401 - loaded before the limits are set
        import torch

    # One thread reads as fast, and needs no memory for other threads' stacks.
    torch.set_num_threads(1)
    source_bytes = source.stat().st_size
    limit(
        spare_bytes=10 * source_bytes + _SPARE_BYTES,
        processor_s=120 + source_bytes // 10_000_000,
        file_bytes=4 * source_bytes + 64 * 1024 * 1024,
    )
    try:
        said: dict[str, Any] = {**convert(source, target), "offline": offline}
    except RefusedError as error:
        said = {"refused": str(error)}
    except (MemoryError, RuntimeError) as error:
        short = isinstance(error, MemoryError) or "alloc" in str(error)
        said = {
            "refused": f"{source.name} {'needs more memory than such a file may' if short else 'could not be read'}"
        }
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
