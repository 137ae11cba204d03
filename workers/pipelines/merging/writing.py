"""The files of a merge: written shard by shard next to the target, and resumed after the process was killed.

A shard that is complete and on the disk has a line in a journal, with a digest of each of its tensors computed while
writing. A run of the same plan checks those shards again, keeps the ones that match the journal, and writes the rest.
The result is the same, byte for byte, however often it was restarted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import xxhash

from sdk.file_locks import locked, locked_if_free
from sdk.formats.safetensors import Kind
from sdk.formats.safetensors_header import TensorEntry, with_length, written_header
from sdk.schemas.failures import FailureReason
from sdk.whole_files import give_name, sync
from workers.pipelines.errors import PipelineError, named
from workers.pipelines.merging.plan import MergedTensor
from workers.pipelines.merging.stored_base import StoredBase, open_files
from workers.pipelines.merging.threads import at_once, threads

#: How many of a tensor's bytes are copied or hashed at a time.
_CHUNK_BYTES = 8 * 2**20
_FILES, _OTHERS, _JOURNAL, _REPORT = "files", "others", "journal.jsonl", "report.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Shards:
    """The weight files of a merge in a folder of their own, and the digests of their bytes."""

    folder: Path
    #: Tensor to the digest of its computed bytes.
    digests: dict[str, str] = field(default_factory=dict)


class WrittenRows(Protocol):
    """Computes the tensors that are not the base's own, some rows at a time."""

    def ranges(self, written: MergedTensor) -> Iterator[tuple[int, int]]:
        """Yield the rows of a plane that are computed at a time, as (begin, end)."""

    def bytes_of(self, written: MergedTensor, plane: int, begin: int, end: int) -> memoryview:
        """Return the rows [begin, end) of a plane as they are written; valid until the next call. Raises PipelineError."""


@contextlib.contextmanager
def beside(target: Path, plan: str) -> Iterator[Path]:
    """Lock the folder next to a target in which a plan's merge is written; it is an error if another process has locked it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = _folder(target, plan)
    (folder / _FILES).mkdir(parents=True, exist_ok=True)
    with locked_if_free(folder / _JOURNAL) as alone:
        if not alone:
            raise PipelineError(
                FailureReason.SPEC, f"Another process merges into {target}; wait for it, or choose another folder."
            )
        yield folder


def write_shards(
    base: StoredBase,
    written: Sequence[MergedTensor],
    blocks: Callable[[], WrittenRows],
    folder: Path,
    done: Callable[[MergedTensor], None],
) -> Shards:
    """Write every weight file below `folder`, except those that an earlier run has finished; return where they are.

    Two files are written at a time, each with `blocks` of its own; `done` is called for one tensor after the other.
    """
    shards = Shards(folder / _FILES)
    journal = folder / _JOURNAL
    finished = _read_journal(journal)
    telling, stopped = threading.Lock(), threading.Event()

    def tell(tensor: MergedTensor) -> None:
        with telling:
            if stopped.is_set():
                raise _StoppedError
            done(tensor)

    def shard(file: str, tensors: Sequence[MergedTensor]) -> tuple[Mapping[str, str], Future[None] | None]:
        digests = finished.get(file)
        if digests is not None and _is_whole(shards.folder, file, tensors, digests):
            for tensor in tensors:
                tell(tensor)
            return digests, None
        made = _write_shard(base, file, tensors, blocks(), shards.folder, tell)
        return made, syncing.submit(_keep, shards.folder / file, journal, made)

    # While a shard is synced to the disk, the next one is computed.
    with ThreadPoolExecutor(1, "merge-sync") as syncing, threads(at_once(written, base.packed)) as writing:
        try:
            futures = [writing.submit(shard, file, tensors) for file, tensors in _by_file(base, written).items()]
            # The first error is the one that is reported.
            for future in as_completed(futures):
                future.result()
        finally:
            stopped.set()
        for future in futures:
            digests, kept = future.result()
            shards.digests |= digests
            if kept is not None:
                kept.result()
    return shards


class _StoppedError(Exception):
    """Another thread has ended the merge."""


def _keep(path: Path, journal: Path, digests: Mapping[str, str]) -> None:
    """Sync a shard to the disk, and then add it to the journal."""
    sync(path, path.parent)
    _append(journal, {"file": path.name, "digests": digests})


@contextlib.contextmanager
def full_disk_named(target: Path, written: Sequence[MergedTensor]) -> Iterator[None]:
    """Turn a full disk into a PipelineError ("disk_full")."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _disk_full(target, written) from error
        raise


@contextlib.contextmanager
def in_their_place(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the folder of the written files and a new one, not created yet, whose files replace them at the end of the
    block.
    """
    files, others = folder / _FILES, folder / _OTHERS
    shutil.rmtree(others, ignore_errors=True)
    yield files, others
    shutil.rmtree(files)
    others.replace(files)


def put_in_place(folder: Path, target: Path, report: str) -> None:
    """Rename the written files to the target, which is then complete or absent. The report stays until that is done."""
    files = folder / _FILES
    (folder / _REPORT).write_text(report)
    sync(folder / _REPORT, folder)
    said = f"{target} was made by something else during the merge; choose a new folder with -o DIR."
    with named(FailureReason.SPEC, said, FileExistsError):
        give_name(files, target, durable=True)
    shutil.rmtree(folder, ignore_errors=True)
    _remove_others(target)


def _remove_others(target: Path) -> None:
    """Remove what killed merges of other plans left beside a target, which is no longer free for them."""
    for folder in target.parent.iterdir():
        if folder.name.startswith(_prefix(target)):
            with contextlib.suppress(OSError), locked(folder / _JOURNAL, timeout_s=0):
                shutil.rmtree(folder, ignore_errors=True)


def finished(target: Path, plans: Sequence[str]) -> str | None:
    """Return the report of a merge by one of these plans that was killed after its files were renamed; None if there is none.

    Raises PipelineError if the target contains anything else.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise PipelineError(FailureReason.SPEC, f"{target} exists and is not a folder; choose another with -o DIR.")
    if not target.is_dir() or not any(target.iterdir()):
        return None
    for folder in (_folder(target, plan) for plan in plans):
        if (folder / _REPORT).is_file() and not (folder / _FILES).exists():
            report = (folder / _REPORT).read_text()
            _remove_others(target)
            return report
    raise PipelineError(FailureReason.SPEC, f"{target} is not empty; choose a new folder with -o DIR.")


def _folder(target: Path, plan: str) -> Path:
    return target.parent / f"{_prefix(target)}{plan[:16]}"


def _prefix(target: Path) -> str:
    return f".{target.name}.partial-"


def _by_file(base: StoredBase, written: Sequence[MergedTensor]) -> dict[str, list[MergedTensor]]:
    found: dict[str, list[MergedTensor]] = {file: [] for file in base.headers}
    for each in written:
        found[each.file].append(each)
    return {file: _aligned(base, tensors) for file, tensors in found.items() if tensors}


def _aligned(base: StoredBase, tensors: list[MergedTensor]) -> list[MergedTensor]:
    """Put wider types first, as the format's library does, so that each tensor is aligned; not if all types are the base's."""
    if all(each.source == each.name and each.dtype == base.tensors[each.name].dtype for each in tensors):
        return tensors
    return sorted(tensors, key=lambda each: -Kind(each.dtype, (1,)).size_bytes)


def header_of(base: StoredBase, file: str, tensors: Sequence[MergedTensor]) -> bytes:
    """Return the header of a file with its length: the base's own, byte for byte, if nothing in it differs."""
    own = [name for name in base.tensors if base.tensors[name].file.name == file]
    same = [each.name for each in tensors] == own and all(
        (base.tensors[each.name].dtype, base.tensors[each.name].shape) == (each.dtype, each.shape) for each in tensors
    )
    if same:
        return with_length(bytes(base.headers[file].raw))
    entries = (TensorEntry(each.name, each.dtype, each.shape, each.size_bytes) for each in tensors)
    return written_header(entries, base.metadata(file))


def _write_shard(
    base: StoredBase,
    file: str,
    tensors: Sequence[MergedTensor],
    blocks: WrittenRows,
    folder: Path,
    done: Callable[[MergedTensor], None],
) -> dict[str, str]:
    def parts() -> Iterator[tuple[str, Iterable[Any]]]:
        for tensor in tensors:
            yield (
                tensor.name,
                chunks(base.bytes_of(tensor.source or "")) if tensor.copied else _computed(blocks, tensor),
            )
            done(tensor)

    return write_weights(folder / file, header_of(base, file, tensors), parts())


def write_weights(path: Path, header: bytes, tensors: Iterable[tuple[str, Iterable[Any]]]) -> dict[str, str]:
    """Write a weight file, each tensor in chunks; return the digest of each."""
    digests = {}
    with path.open("wb") as out:
        out.write(header)
        for name, data in tensors:
            digest = xxhash.xxh3_128()
            for chunk in data:
                digest.update(chunk)
                out.write(chunk)
            digests[name] = digest.hexdigest()
    return digests


def chunks(view: memoryview) -> Iterator[memoryview]:
    """Yield bytes, some at a time."""
    return (view[begin : begin + _CHUNK_BYTES] for begin in range(0, len(view), _CHUNK_BYTES))


def _computed(blocks: WrittenRows, tensor: MergedTensor) -> Iterator[memoryview]:
    for plane in range(tensor.grid.planes):
        for begin, end in blocks.ranges(tensor):
            yield blocks.bytes_of(tensor, plane, begin, end)


def digest_in(files: StoredBase, name: str) -> str:
    """Return the digest of a tensor's bytes in a file."""
    digest = xxhash.xxh3_128()
    for chunk in chunks(files.bytes_of(name)):
        digest.update(chunk)
    return digest.hexdigest()


def _is_whole(folder: Path, file: str, tensors: Sequence[MergedTensor], digests: Mapping[str, str]) -> bool:
    """Whether a shard that an earlier run finished still matches the journal."""
    try:
        there = open_files(folder, [file])
    except (OSError, ValueError):
        return False
    names = [each.name for each in tensors]
    return list(digests) == names == list(there.tensors) and all(
        digest_in(there, name) == digest for name, digest in digests.items()
    )


def _read_journal(path: Path) -> dict[str, dict[str, str]]:
    found = {}
    for line in path.read_text().splitlines():
        # The last line may be cut if the process was killed while writing it.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            said = json.loads(line)
            found[said["file"]] = dict(said["digests"])
    return found


def _append(path: Path, said: Mapping[str, Any]) -> None:
    with path.open("a") as journal:
        # A preceding cut line is ended first, so that this one is separate.
        journal.write("\n" + json.dumps(said) + "\n")
        journal.flush()
        os.fsync(journal.fileno())


def require_room(folder: Path, target: Path, written: Sequence[MergedTensor]) -> None:
    """Raise PipelineError ("disk_full") if the disk lacks the room for everything that is still to be written in a folder."""
    there = sum(path.stat().st_size for path in (folder / _FILES).iterdir())
    if shutil.disk_usage(folder).free + there < sum(each.size_bytes for each in written):
        raise _disk_full(target, written)


def _disk_full(target: Path, written: Sequence[MergedTensor]) -> PipelineError:
    size = sum(each.size_bytes for each in written)
    return PipelineError(
        FailureReason.DISK_FULL,
        f"The disk of {target.parent} is too full for the merged model of {size / 1e9:.2f} GB; free some space and run the"
        " merge again; it continues from the files that are complete.",
    )
