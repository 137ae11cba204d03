"""What a training would learn of rows, said by the code that a training uses, in a program of the worker's beside this one."""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sdk.api import bases
from sdk.api.transport import Transport
from sdk.config import user_path
from sdk.errors import AdapterctlError, InvalidBase, InvalidData, NotFound, TimedOut, Unavailable
from sdk.formats.base_files import CONFIG_FILE, OTHER_FILES, TOKENIZER_FILES
from sdk.formats.refs import is_folder
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.pushing.pusher import no_such_base
from sdk.schemas.failures import FailureReason
from sdk.schemas.preview import Preview, PreviewRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import read
from sdk.validation import build, check_data
from sdk.worker_program import require_libraries, run_program

_CHILD = "workers.pipelines.data.preview"
#: Its libraries alone take some seconds to load, on a cold disk a minute.
_PATIENCE_S = 300.0
_BYTES_PER_S = 1_000_000


def preview_data(
    transport: Transport,
    cache: Cache,
    file: str | Path,
    spec: TrainingSpec,
    *,
    base: str | Path,
    rows: int,
    row: int | None,
) -> Preview:
    """Return what a training as in `spec` would learn of the first `rows` rows of a file, or of one; see `Client.preview`."""
    data = check_data(file, param="file")
    found = _find_base(transport, cache, base)
    require_libraries(("transformers", "jinja2", "trl", "pyarrow"), doing="previewing rows")
    with tempfile.TemporaryDirectory() as view:
        # As a worker lays a base out: whatever else lies there a library might load as well.
        for name in (*TOKENIZER_FILES, *OTHER_FILES):
            if (found / name).is_file():
                (Path(view) / name).symlink_to((found / name).resolve())
        request = build(
            PreviewRequest,
            base=view,
            data=str(data.path.resolve()),
            loss_on=spec.loss_on,
            max_length=spec.max_length,
            day=datetime.now(UTC).date().isoformat(),
            rows=rows,
            row=row,
        )
        preview = _run(request, data.path)
    if not preview.rows:
        raise NotFound(
            f"{data.path} has {preview.file_rows} rows and no row {row}; give one from 1 to {preview.file_rows}",
            param="row",
        )
    return preview


def _find_base(transport: Transport, cache: Cache, base: str | Path) -> Path:
    """Return the folder of a base: one that is given, or that of a registered base in the cache or where it was registered."""
    if isinstance(base, Path) or is_folder(base):
        folder = user_path(base)
        if not folder.is_dir():
            raise NotFound(f"there is no folder {folder}; check the path of the base", param="base")
        if not (folder / CONFIG_FILE).is_file():
            raise NotFound(
                f"{folder} has no {CONFIG_FILE}, so it is no base; give the folder that save_pretrained wrote",
                param="base",
            )
        return folder
    try:
        view = bases.get(transport, base)
    except NotFound:
        raise no_such_base(base) from None
    places = [cache.base(view.fingerprint)]
    location = urlsplit(view.location or "")
    if location.scheme == "file" and location.netloc in ("", "localhost"):
        places.append(Path(unquote(location.path)))
    for folder in places:
        # Files that were changed since would be another base's rows.
        with suppress(NotFound, InvalidBase):
            if scan_base(folder, cache=cache).registration.fingerprint == view.fingerprint:
                return folder
    raise NotFound(
        f"the files of base {view.id} don't lie on this machine as they were registered; give a folder with them, as "
        "--base ./FOLDER",
        param="base",
    )


def _run(request: PreviewRequest, file: Path) -> Preview:
    patience_s = _PATIENCE_S + file.stat().st_size / _BYTES_PER_S
    try:
        said = run_program(_CHILD, asked=request.model_dump_json().encode(), patience_s=patience_s)
    except subprocess.TimeoutExpired as error:
        raise TimedOut(
            f"{file} was not rendered within {patience_s:.0f} s; preview a file with fewer rows", param="file"
        ) from error
    if said is None:
        raise Unavailable(
            f"{file} could not be rendered within the memory and time that a preview may take; preview a file with fewer "
            "rows, or check that the worker's libraries can be loaded: pip install 'adapterctl[worker]'"
        )
    if "refused" in said:
        raise _refusal(said["refused"], said["reason"], file)
    return read(Preview, said)


def _refusal(message: str, reason: str, file: Path) -> AdapterctlError:
    # A job's sentences stand alone, ours after a label.
    sentence = message[:1].lower() + message[1:].rstrip(".")
    if reason == FailureReason.BASE:
        return InvalidBase(sentence, param="base")
    return InvalidData(f"{file}: {sentence}", param="file")
