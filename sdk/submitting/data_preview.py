"""What a training would learn from rows, or has learnt, according to the training's own code, run in a
separate worker program.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, Unpack, get_args

from pydantic import BaseModel

from sdk.api import versions
from sdk.api.datasets import DatasetRoutes
from sdk.api.transport import Transport
from sdk.errors import AdapterctlError, InvalidBase, InvalidData, InvalidInput, NotFound, Unavailable
from sdk.formats.base_files import CONFIG_FILE, OTHER_FILES, TOKENIZER_FILES
from sdk.formats.objectives import LossOn
from sdk.formats.refs import BadRefError, parse_digest
from sdk.given_values import build
from sdk.pulling.cache import Cache
from sdk.pulling.puller import Puller
from sdk.pushing.given_base import GivenBase, files_here, registered_base
from sdk.pushing.pusher import no_such_base
from sdk.schemas.artifacts import Transfer
from sdk.schemas.catalog import VersionView
from sdk.schemas.failures import FailureReason
from sdk.schemas.keywords import RowOptions
from sdk.schemas.preview import Preview, PreviewRequest
from sdk.schemas.recorded import Rendering
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import read
from sdk.submitting.given_data import GivenData, find_data
from sdk.validation import CheckedData, require_adapter
from sdk.worker_program import missing_libraries, require_libraries, run_program

_CHILD = "workers.pipelines.data.preview"
#: Loading its libraries takes some seconds, on a cold disk a minute.
_TIMEOUT_S = 300.0
_BYTES_PER_S = 1_000_000
LIBRARIES = ("transformers", "jinja2", "trl", "pyarrow")

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class RowsAsked:
    """Which rows of a dataset are asked for, and how they are rendered."""

    #: What messages call the dataset.
    label: str
    #: The fields that a preview here and one by a job have in common.
    options: dict[str, Any]
    #: The date that a template is told if it asks for it; None: today.
    day: str | None = None


@dataclass(frozen=True)
class RowsOfFile:
    """Rows of a file, or of a registered dataset, as a training over a base would be given them."""

    file: str | Path
    base: GivenBase
    spec: TrainingSpec


def preview_asked(
    file: str | Path | None, *, of: str | None, base: GivenBase | None, **options: Unpack[RowOptions]
) -> RowsOfFile | str:
    """Return which rows of a file to preview, or the ref of the version. Raises InvalidInput for both, or neither."""
    if (file is None) == (of is None):
        raise InvalidInput("give either a file of rows, or with --of the version whose rows you mean", param="file")
    given: dict[str, Any] = {name: value for name, value in {"base": base, **options}.items() if value is not None}
    if of is not None:
        if given:
            raise InvalidInput(
                f"{' and '.join(given)} of a version {'is' if len(given) == 1 else 'are'} in its record; leave {'it' if len(given) == 1 else 'them'} out",
                param=next(iter(given)),
            )
        return of
    if file is None or base is None:
        raise InvalidInput("name the base that the rows would be trained over with --base", param="base")
    given.pop("base")
    return RowsOfFile(file, base, build(TrainingSpec, **given))


def preview_here(
    transport: Transport,
    cache: Cache,
    puller: Puller,
    given: RowsOfFile | VersionView,
    *,
    rows: int,
    row: int | None,
    rendering_of: Callable[[VersionView], dict[str, Any]],
) -> Preview:
    """Return what a training would learn from rows of a dataset, or what that of a version has learnt from its own, by
    this machine's libraries; see `Client.preview`.
    """
    here: Path | None = None
    origin: Transfer | None = None
    if isinstance(given, RowsOfFile):
        data, asked = asked_of_rows(transport, given, rows=rows, row=row)
        base = find_base(transport, cache, given.base)
        here, digest = (data.path, "") if isinstance(data, CheckedData) else (None, data.view.digest)
    else:
        digest, asked = trained_on(given), asked_of(given, rows=rows, row=row, rendering=rendering_of(given))
        # Also if the cache has the rows: this token may not be allowed to read them.
        origin = locate_rows(transport, given, digest)
        base = base_of(transport, cache, given, param="of")
    require_libraries(LIBRARIES, doing="previewing rows")
    path = here or puller.cached_file(digest, lambda digest: origin or DatasetRoutes(transport).locate(digest))
    return _render(asked, path, base)


def can_be_here(transport: Transport, cache: Cache, given: RowsOfFile | VersionView) -> bool:
    """Whether rows can be previewed on this machine: the libraries are installed, and the base of a version is here."""
    if missing_libraries(LIBRARIES):
        return False
    return (
        isinstance(given, RowsOfFile)
        or files_here(cache, given.base.fingerprint, registered_base(transport, given)) is not None
    )


def trained_on(version: VersionView) -> str:
    """Return the digest of the dataset that a version was trained on. Raises InvalidInput if its record names none."""
    require_adapter(
        version.ref,
        version.kind,
        f"it was trained on no rows; preview those of its adapter, which is named by: adapterctl lineage {version.ref} --up",
        param="of",
    )
    if version.dataset is not None and version.dataset.sources is not None:
        named = ", ".join(source.digest[:12] for source in version.dataset.sources)
        raise InvalidInput(
            f"{version.ref} was trained on several datasets ({named}); preview one of them with: adapterctl data preview DIGEST "
            f"--base {version.base.id}",
            param="of",
        )
    if version.dataset is not None:
        with suppress(BadRefError):
            return parse_digest(version.dataset.digest)
    raise InvalidInput(
        f"the record of {version.ref} names no dataset, because it was pushed; preview a file of rows with: "
        f"adapterctl data preview FILE --base {version.base.id}",
        param="of",
    )


def asked_of_rows(
    transport: Transport, given: RowsOfFile, *, rows: int, row: int | None
) -> tuple[GivenData, RowsAsked]:
    """Find a dataset, and say how its rows would be rendered. Raises NotFound, InvalidData, InvalidInput."""
    spec = given.spec
    data = find_data(transport, given.file, None, columns=spec.columns, param="file", hold_out=spec.hold_out)
    options = _options(spec, loss_on=spec.loss_on, columns=data.columns, rows=rows, row=row, **spec.of_template)
    return data, RowsAsked(data.label, options)


def _options(of: TrainingSpec | TrainingRecord, **more: Any) -> dict[str, Any]:
    return {"max_length": of.max_length, **of.of_vocabulary, **of.of_holdout, **more}


def asked_of(
    version: VersionView, *, rows: int, row: int | None, rendering: Mapping[str, Any] | None = None
) -> RowsAsked:
    """Say how the rows of a version were rendered, by its record, and by the options `rendering` of its chat template.

    Raises InvalidInput if the record doesn't say.
    """
    record = version.record
    # A classification learns the label of each text, not parts of the text.
    labelled = record.objective == "classify"
    loss_on = None if labelled else record.loss_on
    if record.max_length is None or not (labelled or loss_on in get_args(LossOn)):
        raise InvalidInput(
            f"the record of {version.ref} doesn't have its training's loss_on and max_length; preview the file of its rows "
            "with: adapterctl data preview FILE --base BASE",
            param="of",
        )
    used = (None if version.dataset is None else version.dataset.rendering) or Rendering()
    options = _options(record, loss_on=loss_on, columns=used.columns, rows=rows, row=row, **(rendering or {}))
    if record.special_tokens != "once":
        # Trainings before it was recorded had the other rule.
        options["special_tokens"] = "added"
    # If no date is recorded, the template didn't ask for one.
    return RowsAsked(f"the dataset of {version.ref}", options, used.template_date)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _render(asked: RowsAsked, data: Path, base: Path) -> Preview:
    with tokenizer_view(base) as view:
        request = build(
            PreviewRequest,
            base=str(view),
            data=str(data.resolve()),
            day=asked.day or _today(),
            **asked.options,
        )
        preview = ask_worker(_CHILD, request, Preview, data=data, label=asked.label, doing="rendered")
    if not preview.rows:
        count = preview.file_rows
        raise NotFound(
            f"{asked.label} has {count} rows, so there is no row {asked.options['row']}; give one from 1 to {count}",
            param="row",
        )
    return preview


@contextmanager
def tokenizer_view(base: Path) -> Iterator[Path]:
    """A folder with only a base's config and tokenizer, as a worker lays it out: a library might load other files."""
    with tempfile.TemporaryDirectory() as view:
        for name in (*TOKENIZER_FILES, *OTHER_FILES):
            if (base / name).is_file():
                (Path(view) / name).symlink_to((base / name).resolve())
        yield Path(view)


# Where bases and rows are.


def find_base(transport: Transport, cache: Cache, base: GivenBase) -> Path:
    """Return the folder of a base: one that is given, or that of a registered base in the cache or where it was
    registered.
    """
    if base.folder is not None:
        return base_folder(base.folder)
    try:
        view = base.find(transport)
    except NotFound:
        if base.is_somebodys:
            raise
        raise no_such_base(base.name) from None
    found = files_here(cache, view.fingerprint, view)
    if found is None:
        raise NotFound(
            f"the files of base {view.id} are not on this machine as they were registered; give a folder with them as "
            "--base ./FOLDER",
            param="base",
        )
    return found


def base_folder(folder: Path) -> Path:
    """Return the folder of a base that is given by its path. Raises NotFound if it is none."""
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}; check the path of the base", param="base")
    if not (folder / CONFIG_FILE).is_file():
        raise NotFound(
            f"{folder} has no {CONFIG_FILE}, so it is not a base; give the folder that save_pretrained wrote",
            param="base",
        )
    return folder


def base_of(transport: Transport, cache: Cache, version: VersionView, *, param: str) -> Path:
    """Return the folder of the base of a version, in the cache or where it was registered. Raises NotFound, naming `param`."""
    base, view = version.base, registered_base(transport, version)
    found = files_here(cache, base.fingerprint, view)
    if found is not None:
        return found
    if view is None:
        raise NotFound(
            f"the base {base.id} of {version.ref} was removed, and its files are not in the cache; add it again with: "
            "adapterctl base add FOLDER",
            param=param,
        )
    raise NotFound(
        f"the files of base {base.id} of {version.ref} are not on this machine as they were registered; say where they are "
        f"with: adapterctl base fix {base.id} --location file:///FOLDER",
        param=param,
    )


def locate_rows(transport: Transport, version: VersionView, digest: str) -> Transfer:
    """Return where to fetch the rows of a version from. Raises NotFound, with different messages for removed rows and
    for others' rows.
    """
    with suppress(NotFound):
        return DatasetRoutes(transport).locate(digest)
    try:
        versions.trace(transport, f"data:{digest}", direction="up", depth=1)
    except NotFound:
        raise NotFound(
            f"the dataset {digest[:12]} of {version.ref} is in no namespace that this token may read; ask an admin for one "
            "that may read it, made with: adapterctl token create NAME --grant NAMESPACE=reader",
            param="of",
        ) from None
    raise NotFound(
        f"the dataset {digest[:12]} of {version.ref} was removed; add its file again with: adapterctl data add FILE",
        param="of",
    )


# The program that renders.


def ask_worker(
    module: str, request: BaseModel, answer: type[M], *, data: Path, label: str, doing: str, more_s: float = 0
) -> M:
    """Return what a program of the worker answers about a file of rows; it may take `more_s` longer than a preview.

    Raises InvalidBase and InvalidData for what a training would refuse, TimedOut, Unavailable.
    """
    timeout_s = _TIMEOUT_S + more_s + data.stat().st_size / _BYTES_PER_S
    late = f"{label} was not {doing} within {timeout_s:.0f} s; ask for fewer rows, or give a file with fewer"
    asked = request.model_dump_json().encode()
    said = run_program(module, asked=asked, timeout_s=timeout_s, late=late, param="file")
    if said is None:
        raise Unavailable(
            f"{label} could not be {doing} within the memory and time that this may take; ask for fewer rows, or check that "
            "the worker's libraries can be loaded: pip install 'adapterctl[worker]'"
        )
    if "refused" in said:
        raise _refusal(said["refused"], said["reason"], label)
    return read(answer, said)


def _refusal(message: str, reason: str, label: str) -> AdapterctlError:
    # A job's messages are sentences of their own, ours follow a label.
    sentence = message[:1].lower() + message[1:].rstrip(".")
    if reason == FailureReason.BASE:
        return InvalidBase(sentence, param="base")
    if reason == FailureReason.SPEC:
        return InvalidInput(sentence)
    return InvalidData(f"{label}: {sentence}", param="file")
