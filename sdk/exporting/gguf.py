"""GGUF files. A program of the worker, in a process of its own, writes them and reads them back; then they get their name.

What can be refused by the config and the header of the weights is refused here, before that program is started.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sdk.config import user_path
from sdk.errors import (
    FULL_DISK,
    AdapterctlError,
    Conflict,
    InvalidBase,
    InvalidInput,
    NotFound,
    TimedOut,
    Unavailable,
    disk_explained,
    raise_for,
)
from sdk.formats import adapter_files, base_files
from sdk.lora.gguf_adapters import plan_adapter
from sdk.lora.gguf_models import adapted_model, whole_model
from sdk.schemas.export import ExportReport, ExportRequest, GgufDtype
from sdk.schemas.wire import read
from sdk.worker_program import require_libraries, run_program

_PROGRAM = "workers.pipelines.exporting.program"
#: A model's tokenizer needs transformers, which takes some seconds to load, on a cold disk a minute.
_TIMEOUT_S = 300.0
_BYTES_PER_S = 5_000_000
_PARTIAL = ".partial"
#: The errors of file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Exported:
    """A file that was written and read back."""

    path: Path
    kind: Literal["adapter", "model"]
    report: ExportReport


def export_adapter(
    folder: Path,
    output: str | Path,
    *,
    base_config: Mapping[str, Any],
    name: str,
    base_name: str | None = None,
    dtype: GgufDtype | None = None,
) -> Exported:
    """Write a PEFT adapter as a new file that llama.cpp applies to a GGUF of its base: exactly s·B·A for each module.

    Raises InvalidInput and InvalidBase for what such a file can't hold, Conflict if `output` exists, NotFound,
    VerificationFailed, Unavailable without the worker's extra or if the disk is full, TimedOut.
    """
    target = _free(output, dtype)
    plan_adapter(folder, adapted_model(base_config))
    require_libraries(("numpy", "gguf"), doing="exporting to GGUF")
    request = {"kind": "adapter", "base_name": base_name}
    return _written(target, folder, base_config, {**request, "name": name, "dtype": dtype})


def export_model(
    folder: Path,
    output: str | Path,
    *,
    name: str | None = None,
    dtype: GgufDtype | None = None,
    tokenizer_from: str | Path | None = None,
) -> Exported:
    """Write the model in a folder, with tokenizer and chat template, as a new file for llama.cpp, under its `name` or the folder's.

    `tokenizer_from` is a GGUF file of the same base, for tokenizers that are not known. Raises as `export_adapter` does.
    """
    target, config = _free(output, dtype), config_of(folder)
    whole_model(config)
    given = None if tokenizer_from is None else user_path(tokenizer_from)
    if given is not None and (tokenizer_from == "" or not _is(given.is_file)):
        what = "an empty name" if tokenizer_from == "" else f"{given}, which is no file"
        raise NotFound(f"the tokenizer is to come from {what}; give a GGUF file of the base", param="tokenizer_from")
    require_libraries(("numpy", "gguf", "transformers"), doing="exporting a model to GGUF")
    request = {"kind": "model", "tokenizer_from": None if given is None else str(given.resolve())}
    return _written(target, folder, config, {**request, "name": name or folder.resolve().name, "dtype": dtype})


def _is(asked: Callable[[], bool]) -> bool:
    try:
        return asked()
    except OSError:
        return False


def is_adapter(folder: Path) -> bool:
    """Say whether a folder holds an adapter rather than a model. Raises NotFound if it holds neither."""
    if not _is(folder.is_dir):
        raise NotFound(f"there is no folder {folder}; give a ref, or the folder of an adapter or model", param="target")
    if (folder / adapter_files.CONFIG_FILE).is_file():
        return True
    if (folder / base_files.CONFIG_FILE).is_file():
        return False
    raise NotFound(
        f"{folder} has neither {adapter_files.CONFIG_FILE} nor {base_files.CONFIG_FILE}; give the folder of an adapter or model",
        param="target",
    )


def config_of(folder: Path) -> dict[str, Any]:
    """Return the config of a base's folder. Raises NotFound, InvalidBase."""
    path = folder / base_files.CONFIG_FILE
    try:
        with path.open("rb") as file:
            return base_files.read_config(file.read(base_files.MAX_CONFIG_BYTES + 1))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no {path}; give the folder that save_pretrained wrote", param="base") from None
    except OSError as error:
        raise InvalidBase(f"{path} can't be read ({error.strerror}); give another folder", param="base") from error
    except base_files.BadBaseError as error:
        raise InvalidBase(f"{path} can't be read ({error}); correct it, then export again", param="base") from error


def _free(output: str | Path, dtype: str | None) -> Path:
    if dtype is not None and dtype not in get_args(GgufDtype):
        raise InvalidInput(f"there is no dtype {dtype[:40]!a}; give {', '.join(get_args(GgufDtype))}", param="dtype")
    if not str(output):
        raise InvalidInput("the output has no name; give one with -o FILE.gguf", param="output")
    target = user_path(output).absolute()
    with _output_explained(target):
        if target.exists() or target.is_symlink():
            raise Conflict(f"{target} already exists; remove it, or name another file with -o", param="output")
    if not target.name.endswith(".gguf"):
        raise InvalidInput(f"{target.name} does not end in .gguf; call it {target.name}.gguf", param="output")
    return target


@contextmanager
def _output_explained(target: Path) -> Iterator[None]:
    """Turn what the system has against a file's name or place into InvalidInput; what `disk_explained` explains passes."""
    try:
        yield
    except OSError as error:
        if error.errno in (*FULL_DISK, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        why = error.strerror if not isinstance(error, FileExistsError) else "a part of its path is a file"
        raise InvalidInput(f"{target} can't be written ({why}); name another file with -o", param="output") from error


def _written(target: Path, folder: Path, config: Mapping[str, Any], asked: Mapping[str, Any]) -> Exported:
    """Let the program write the file under a temporary name, then give it its own."""
    for path in (folder.resolve(), target, asked.get("tokenizer_from") or ""):
        if not _is_utf8(str(path)):
            raise InvalidInput(f"the path {str(path)!a} is not UTF-8; rename it, then export again", param="target")
    with disk_explained(f"writing {target}"), _beside(target) as partial:
        file = partial / "file.gguf"
        request = ExportRequest(folder=str(folder.resolve()), config=dict(config), out=str(file), **asked)
        report = _run(request, folder)
        file.chmod(0o644)
        with _output_explained(target):
            _publish(file, target)
        _flush(target.parent)
    return Exported(target, request.kind, report)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A folder beside a future file, removed at the end of the block; what killed calls left there is removed first."""
    with _output_explained(target):
        partial = _new_partial(target)
    try:
        with _held(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _new_partial(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name may have some 255 bytes.
    begins = f".{os.fsencode(target.name)[:100].decode(errors='ignore')}."
    for path in target.parent.iterdir():
        if path.name.startswith(begins) and path.name.endswith(_PARTIAL):
            with suppress(OSError), _held(path):
                shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=begins, suffix=_PARTIAL, dir=target.parent))


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder until the block, or this process, ends. Raises BlockingIOError if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _publish(file: Path, target: Path) -> None:
    """Give a file its name, unless that exists by now."""
    try:
        # Unlike a rename, a link never replaces a file that was created meanwhile.
        target.hardlink_to(file)
    except FileExistsError as error:
        raise Conflict(f"{target} was created meanwhile; name another file with -o", param="output") from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        file.rename(target)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _run(request: ExportRequest, folder: Path) -> ExportReport:
    size_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file())
    timeout_s = _TIMEOUT_S + size_bytes / _BYTES_PER_S
    try:
        said = run_program(_PROGRAM, asked=request.model_dump_json().encode(), timeout_s=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise TimedOut(
            f"{folder} was not exported within {timeout_s:.0f} s; try again on a machine that is less busy",
            param="target",
        ) from error
    if said is None:
        raise Unavailable(
            f"{folder} could not be exported, since the program that does it ended without an answer: it was killed, perhaps for its "
            "memory, or can't load its libraries; free some memory, or run: pip install 'adapterctl[worker]'"
        )
    if "unexpected" in said:
        raise AdapterctlError(
            f"{folder} could not be exported, for an unexpected {said['unexpected']}; report it with the folder's config.json"
        )
    if "refused" in said:
        raise_for(str(said["code"]), str(said["refused"]), said.get("param"))
    return read(ExportReport, said)
