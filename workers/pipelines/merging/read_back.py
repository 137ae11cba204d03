"""Reading back what was written: the bytes must be the computed ones, and equal W + s·B·A computed in another way.

Tensors are checked by name: the base's are compared byte by byte, and changed ones are computed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdk.formats.base_files import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, BadBaseError
from sdk.formats.safetensors import SafetensorsError
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import named
from workers.pipelines.merging.found import FoundCorrect, wrong
from workers.pipelines.merging.plan import MergedTensor
from workers.pipelines.merging.prepared import Prepared
from workers.pipelines.merging.recomputed import Recomputed
from workers.pipelines.merging.stored_base import StoredBase, open_files
from workers.pipelines.merging.threads import at_once, threads
from workers.pipelines.merging.writing import digest_in

#: How many bytes are compared at a time.
_CHUNK_BYTES = 4 * 2**20


def read_back(
    prepared: Prepared, folder: Path, digests: Mapping[str, str], done: Callable[[MergedTensor], None]
) -> FoundCorrect:
    """Check the weight files in a folder against the plan. Raises PipelineError ("verification"), naming the tensor."""
    files = _opened(prepared, folder)

    def look_at(written: MergedTensor) -> FoundCorrect:
        found = FoundCorrect(tensors=1, copied=int(written.copied))
        if digest_in(files, written.name) != digests[written.name]:
            raise wrong(written.name, "are not those that were computed")
        if written.copied:
            _require_copy(prepared.base, files, written)
        else:
            Recomputed(prepared, files, written, found).check()
        return found

    whole = FoundCorrect()
    with threads(at_once(prepared.written, prepared.base.packed)) as reading:
        # In a fixed order, so that sums are the same each time.
        for written, found in zip(prepared.written, reading.map(look_at, prepared.written), strict=True):
            whole.add(found)
            done(written)
    return whole


def _opened(prepared: Prepared, folder: Path) -> StoredBase:
    """Return the written files, which must have exactly the planned tensors."""
    planned: dict[str, set[str]] = {}
    for each in prepared.written:
        planned.setdefault(each.file, set()).add(each.name)
    said = "The merged files can't be read again ({error}); merge once more."
    with named(FailureReason.VERIFICATION, said, OSError, BadBaseError, SafetensorsError):
        files = open_files(folder, sorted(planned))
    for file, names in planned.items():
        there = {name for name, tensor in files.tensors.items() if tensor.file.name == file}
        if odd := sorted(there ^ names):
            raise wrong(odd[0], f"are {'missing from' if odd[0] in names else 'too many in'} {file}")
    for each in prepared.written:
        tensor = files.tensors[each.name]
        if (tensor.dtype, tensor.shape) != (each.dtype, each.shape):
            raise wrong(each.name, f"are {tensor.dtype} {list(tensor.shape)}, not {each.dtype} {list(each.shape)}")
    return files


def require_said(prepared: Prepared, folder: Path) -> None:
    """Check the config and the index in a folder against the plan: a library loads by them. Raises PipelineError."""
    if _object(folder / CONFIG_FILE) != prepared.config:
        raise wrong(CONFIG_FILE, "are not those that were planned")
    where = {each.name: each.file for each in prepared.written}
    if list(prepared.base.headers) != [SINGLE_FILE] and _object(folder / INDEX_FILE).get("weight_map") != where:
        raise wrong(INDEX_FILE, "name other tensors or files than were written")


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise wrong(path.name, "can't be read") from error
    return found if isinstance(found, dict) else {}


def _require_copy(base: StoredBase, files: StoredBase, written: MergedTensor) -> None:
    ours = np.frombuffer(files.bytes_of(written.name), "u1")
    theirs = np.frombuffer(base.bytes_of(written.source or ""), "u1")
    same = len(ours) == len(theirs) and all(
        np.array_equal(ours[begin : begin + _CHUNK_BYTES], theirs[begin : begin + _CHUNK_BYTES])
        for begin in range(0, len(ours), _CHUNK_BYTES)
    )
    if not same:
        raise wrong(written.name, f"are not those of the base's {written.source}, which nothing was to change")
