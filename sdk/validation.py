"""What is checked before anything is sent: values, names, refs, rows and target modules.

>>> check_name("team/code-review")
'team/code-review'
>>> check_targets("q_proj,nope", {"model.layers.0.self_attn.q_proj.weight": [64, 64]}, base="tiny")
Traceback (most recent call last):
sdk.errors.InvalidTargets: base tiny has no linear module 'nope'; name some of these as targets: q_proj
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from sdk.config import user_path
from sdk.errors import InvalidData, InvalidInput, InvalidName, InvalidRef, InvalidTargets, NotFound
from sdk.formats import rows
from sdk.formats.refs import BadNameError, BadRefError, Ref, looks_like_digest, parse_alias, parse_name, parse_number
from sdk.lora.targets import missing_targets
from sdk.schemas.codes import explain_validation

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

M = TypeVar("M", bound=BaseModel)


def build(model: type[M], **values: Any) -> M:
    """Build a spec from keywords. Raises InvalidInput that names the field and what is wrong with it."""
    try:
        return model(**values)
    except ValidationError as error:
        message, param = explain_validation(list(error.errors()))
        raise InvalidInput(f"{message}; correct it, then try again", param=param) from None


def parse_ref(ref: str) -> Ref:
    """Parse a ref. Raises InvalidName or InvalidRef."""
    try:
        return Ref.parse(ref)
    except BadRefError as error:
        raise InvalidRef(str(error), param="ref") from None
    except BadNameError as error:
        raise InvalidName(str(error), param="ref") from None


def check_name(name: str) -> str:
    """Return the name of an adapter. Raises InvalidName."""
    return _checked(parse_name, name, "name")


def check_alias(alias: str) -> str:
    """Return the name of an alias. Raises InvalidName."""
    return _checked(parse_alias, alias, "alias")


def _checked(parse: Callable[[str], str], text: str, param: str) -> str:
    try:
        return parse(text)
    except BadNameError as error:
        raise InvalidName(str(error), param=param) from None


def check_number(version: str | int) -> int:
    """Return 3 for "v3" or 3, and 0, which means none, for "0" or 0. Raises InvalidRef."""
    if isinstance(version, int) and not isinstance(version, bool):
        if 0 <= version < 10**9:
            return version
    elif version == "0":
        return 0
    try:
        return parse_number(str(version))
    except BadRefError as error:
        raise InvalidRef(str(error), param="version") from None


def check_job_id(job_id: str) -> str:
    """Return the id of a job if it can be one. Raises NotFound."""
    if not _JOB_ID.fullmatch(job_id):
        raise NotFound(f"there is no job {job_id[:80]!a}; see: adapterctl jobs list", param="job")
    return job_id


def segment(text: str) -> str:
    """Return `text` as one segment of a URL's path; it can't climb."""
    return quote(text, safe="").replace(".", "%2E") if text.strip(".") == "" and text else quote(text, safe="") or "-"


@dataclass(frozen=True)
class CheckedData:
    """A dataset file whose rows can be used."""

    path: Path
    format: rows.Format
    #: None for Parquet, which the job looks into.
    shape: Any
    rows: int | None

    @property
    def name(self) -> str:
        """What it is called where nobody says it: as its file is."""
        return self.path.name.encode("utf-8", "replace").decode()[:200]


def check_data(path: str | Path, *, param: str = "data") -> CheckedData:
    """Look at every row of a JSONL or CSV file. Raises NotFound, InvalidData with the bad lines."""
    file = user_path(path)
    if file.is_dir():
        raise InvalidData(f"{file} is a folder; give a file of JSONL, CSV or Parquet", param=param)
    if not file.is_file():
        raise NotFound(f"there is no file {file}; check the path of the dataset", param=param)
    if file.stat().st_size == 0:
        raise InvalidData(
            f"{file} is empty; give rows of {{prompt, completion}}, {{messages}} or {{text}}", param=param
        )
    count = 0
    shape = None
    try:
        kind = rows.detect_format(file)
        if kind == "parquet":
            return CheckedData(file, kind, None, None)
        for row in rows.check_rows(rows.text_values(file)):
            count += 1
            shape = row.shape
    except rows.RowsError as error:
        raise InvalidData(f"{file}: {error}", param=param) from None
    return CheckedData(file, kind, {"prompt": "prompt-completion"}.get(shape or "", shape), count)


def check_data_name(name: str) -> str:
    """Return the name of a dataset. Raises InvalidName for one that looks like a digest."""
    if looks_like_digest(name):
        raise InvalidName(
            f"{name[:80]!a} looks like a digest, which no dataset may be called; give another name with --name",
            param="name",
        )
    return name


def check_targets(targets: str, tensors: Mapping[str, Sequence[int]], *, base: str) -> None:
    """Raise InvalidTargets for a module name of which the base's weight files hold nothing like it."""
    missing = missing_targets(targets, tensors)
    if missing is not None:
        have = ", ".join(missing.present) or "none"
        raise InvalidTargets(
            f"base {base} has no linear module {', '.join(map(repr, missing.names[:5]))}; name some of these as targets: {have}",
            param="targets",
        )
