"""GGUF files: a worker program, in a process of its own, writes them and reads them back, then they get their name.

What can be refused because of the config, or the header of the weights, is refused here, before that program starts. Beside an
adapter or model there may be a Modelfile: what `ollama create NAME -f FILE` makes a model from.

>>> print(modelfile_text("merged.gguf", kind="model", base=None).splitlines()[-1])
FROM ./merged.gguf
>>> print(*modelfile_text("sql.gguf", kind="adapter", base="llama3.2:1b").splitlines()[-2:], sep=chr(10))
FROM llama3.2:1b
ADAPTER ./sql.gguf
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict, get_args

from sdk.config import user_path
from sdk.errors import InvalidBase, InvalidInput, NotFound, disk_explained
from sdk.exporting.placing import beside, free, put_in_place, require_utf8
from sdk.exporting.running import Exported, run
from sdk.formats import adapter_files, base_files
from sdk.lora.gguf_adapters import plan_adapter
from sdk.lora.gguf_models import adapted_model, whole_model
from sdk.schemas.export import ExportReport, ExportRequest, GgufDtype
from sdk.schemas.wire import read
from sdk.worker_program import require_libraries

#: Names of models in Ollama and their paths, and names of files: none has a line break, and only the last have spaces.
_BASE = re.compile(r"[A-Za-z0-9./~_-][A-Za-z0-9./:@~_+-]{0,255}")
_FILE = re.compile(r"[\w.+@ -]{1,255}")
#: A Jinja template can't be written as a TEMPLATE, which is in Go's template language.
_NO_TEMPLATE = (
    "# No TEMPLATE: from 0.30 on Ollama renders conversations by the chat template in the model's own GGUF file, and a template in "
    "Jinja can't be written here."
)
_ADAPTERS_TEMPLATE = (
    "# An adapter's own chat template, if it has one, is not used: only the base's is. Merge the adapter to keep it."
)


class GgufOptions(TypedDict):
    """In which type numbers are written; whether a Modelfile is, and over which base."""

    dtype: GgufDtype | None
    modelfile: bool
    ollama_base: str | None


def modelfile_place(target: Path) -> Path:
    """Return the path of a GGUF file's Modelfile."""
    return target.with_suffix(".Modelfile")


def modelfile_text(file: str, *, kind: str, base: str | None) -> str:
    """Return the Modelfile of a GGUF file in the same folder: of an "adapter" over `base`, as Ollama calls it, or of a
    "model", which has no base.

    Raises InvalidInput for names that a Modelfile can't hold, and if an adapter has no base or a model has one.
    """
    if kind == "model" and base is not None:
        raise InvalidInput("a whole model needs no base in Ollama; leave --ollama-base out", param="ollama_base")
    if kind == "adapter" and base is None:
        raise InvalidInput(
            "a Modelfile of an adapter names its base; give its name in Ollama, or its GGUF file, with --ollama-base",
            param="ollama_base",
        )
    if base is not None and not _BASE.fullmatch(base):
        raise InvalidInput(
            f"{base[:80]!a} is neither the name of a model in Ollama nor a path that a Modelfile can hold; give another",
            param="ollama_base",
        )
    if not _FILE.fullmatch(file):
        raise InvalidInput(f"a Modelfile can't name {file[:80]!a}; give the file another name", param="output")
    lines = [f"# ollama create NAME -f {Path(file).stem}.Modelfile", _NO_TEMPLATE]
    if base is None:
        return "\n".join([*lines, f"FROM ./{file}", ""])
    return "\n".join([*lines, _ADAPTERS_TEMPLATE, f"FROM {base}", f"ADAPTER ./{file}", ""])


def export_adapter(
    folder: Path,
    output: str | Path,
    *,
    base_config: Mapping[str, Any],
    name: str,
    base_name: str | None = None,
    dtype: GgufDtype | None = None,
    modelfile: bool = False,
    ollama_base: str | None = None,
) -> Exported:
    """Write a PEFT adapter as a new file that llama.cpp applies to a GGUF of its base: exactly s·B·A for each module.

    With `modelfile`, an Ollama Modelfile is written beside it; its base is `ollama_base`, the name of a model in Ollama
    or a GGUF file. Raises InvalidInput and InvalidBase for what such a file can't hold, Conflict if `output` exists,
    NotFound, VerificationFailed, Unavailable without the worker's extra or if the disk is full, TimedOut.
    """
    target = _target(output, dtype)
    plan_adapter(folder, adapted_model(base_config))
    require_libraries(("numpy", "gguf"), doing="exporting to GGUF")
    request = {"kind": "adapter", "base_name": base_name}
    beside_it = modelfile_text(target.name, kind="adapter", base=ollama_base) if modelfile else None
    return _written(target, folder, base_config, {**request, "name": name, "dtype": dtype}, beside_it)


def export_model(
    folder: Path,
    output: str | Path,
    *,
    name: str | None = None,
    dtype: GgufDtype | None = None,
    tokenizer_from: str | Path | None = None,
    modelfile: bool = False,
    ollama_base: str | None = None,
) -> Exported:
    """Write the model in a folder, with tokenizer and chat template, as a new file for llama.cpp.

    The file has the model's `name`, by default the folder's. `tokenizer_from` is a GGUF file of the same base, for
    tokenizers that are not known. Raises as `export_adapter` does.
    """
    target, config = _target(output, dtype), config_of(folder)
    whole_model(config)
    given = None if tokenizer_from is None else user_path(tokenizer_from)
    if given is not None and (tokenizer_from == "" or not _is(given.is_file)):
        what = "an empty name" if tokenizer_from == "" else f"{given}, which is not a file"
        raise NotFound(f"the tokenizer is to come from {what}; give a GGUF file of the base", param="tokenizer_from")
    require_libraries(("numpy", "gguf", "transformers"), doing="exporting a model to GGUF")
    request = {"kind": "model", "tokenizer_from": None if given is None else str(given.resolve())}
    beside_it = modelfile_text(target.name, kind="model", base=ollama_base) if modelfile else None
    return _written(
        target, folder, config, {**request, "name": name or folder.resolve().name, "dtype": dtype}, beside_it
    )


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


def require_dtype(dtype: str | None) -> None:
    """Raise InvalidInput for a dtype in which nothing can be exported."""
    if dtype is not None and dtype not in get_args(GgufDtype):
        raise InvalidInput(f"there is no dtype {dtype[:40]!a}; give {', '.join(get_args(GgufDtype))}", param="dtype")


def _target(output: str | Path, dtype: str | None) -> Path:
    require_dtype(dtype)
    return free(output, like="FILE.gguf")


def _written(
    target: Path, folder: Path, config: Mapping[str, Any], asked: Mapping[str, Any], modelfile: str | None
) -> Exported:
    """Let the program write the file under a temporary name, then give it and its Modelfile their names."""
    require_utf8(folder.resolve(), target, asked.get("tokenizer_from") or "")
    place = None if modelfile is None else free(modelfile_place(target), like="FILE.Modelfile")
    with disk_explained(f"writing {target}"), beside(target) as partial:
        file = partial / "file.gguf"
        request = ExportRequest(folder=str(folder.resolve()), config=dict(config), out=str(file), **asked)
        report = read(ExportReport, run(request, folder, reads=(folder,)))
        if modelfile is not None and place is not None:
            (partial / place.name).write_text(modelfile, encoding="utf-8")
            put_in_place(partial / place.name, place)
        try:
            put_in_place(file, target)
        except BaseException:
            if place is not None:
                place.unlink(missing_ok=True)
            raise
    return Exported(target, request.kind, report, place)
