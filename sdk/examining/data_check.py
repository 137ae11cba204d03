"""The audit of a file of rows, or of a registered dataset, in this process; tokens are counted by a worker program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Unpack

from sdk.api.datasets import DatasetRoutes
from sdk.errors import InvalidData, InvalidInput, disk_explained
from sdk.formats.rows import RowsError, detect_format
from sdk.given_values import build
from sdk.lora.tensors import require_numpy
from sdk.objects import Registry
from sdk.pulling.filling import OnTransfer
from sdk.pushing.given_base import GivenBase
from sdk.rows.audit import audit_rows
from sdk.rows.data_files import DataFile
from sdk.rows.holdout import HoldoutError
from sdk.schemas.data_audit import AuditFinding, DataAudit, TokenCountRequest, TokenCounts
from sdk.schemas.held_out import HoldoutFields
from sdk.schemas.keywords import RowOptions
from sdk.schemas.template_fields import TemplateFields
from sdk.schemas.training import TrainingSpec
from sdk.schemas.vocabulary_fields import VocabularyFields
from sdk.submitting.data_preview import LIBRARIES, ask_worker, base_folder, find_base, tokenizer_view
from sdk.submitting.given_data import RegisteredData, find_data, means_file
from sdk.submitting.given_template import with_template_text
from sdk.validation import check_columns, check_data_file, check_held_out, check_loss_on
from sdk.worker_program import require_libraries

_CHILD = "workers.pipelines.data.token_counts"
#: How many rows' tokens are counted by default: a conversation is rendered several times, which takes milliseconds.
SAMPLE_ROWS = 5_000
_SECONDS_PER_ROW = 0.05


class _Rows(NamedTuple):
    path: Path
    label: str
    columns: str | None


def check_rows_of(
    data: str | Path | Sequence[str | Path],
    *,
    base: GivenBase | None,
    eval_data: str | Path | None,
    sample: int | None,
    examples: int,
    registry: Callable[[], Registry],
    on_transfer: OnTransfer | None,
    **options: Unpack[RowOptions],
) -> DataAudit:
    """Return the audit of the rows of a file, or of several files together; see `DatasetsAPI.check`. `registry` is
    called only if something is not a file.
    """
    require_numpy("checking rows", "or install numpy alone")
    given = with_template_text({name: value for name, value in options.items() if value is not None}, registry)
    columns = given.pop("columns", None)
    over_base = {"loss_on", "max_length", *TemplateFields.model_fields, *VocabularyFields.model_fields}
    if base is None and (over_base & set(given) or sample is not None):
        raise InvalidInput("tokens are counted over a base; name it with --base", param="base")
    split = build(HoldoutFields, **{name: given.pop(name) for name in HoldoutFields.model_fields if name in given})
    check_held_out(split, eval_data=eval_data)
    # A column alone only says that it is not a key of a row.
    of_split = {} if split.hold_out is None and not split.holdout_seed else split.model_dump()
    spec = build(TrainingSpec, **given, **of_split)
    if examples < 1 or (sample is not None and sample < 1):
        raise InvalidInput(
            "examples and sample are numbers of rows; give 1 or more", param="examples" if examples < 1 else "sample"
        )
    every = [_rows(one, columns, "data", registry) for one in ([data] if isinstance(data, (str, Path)) else data)]
    if not every or (base is not None and len(every) > 1):
        raise InvalidInput(
            "tokens can be counted for one file at a time; leave base out, or check the files one by one", param="data"
        )
    rows = every[0]
    if any(one.columns != rows.columns for one in every):
        raise InvalidInput("the datasets have different columns; name those to use with --columns", param="columns")
    label = ", ".join(one.label for one in every)
    held_out = None if eval_data is None else _rows(eval_data, rows.columns, "eval_data", registry)
    found = None if base is None else _base(base, registry)
    if found is not None:
        require_libraries(LIBRARIES, doing="counting tokens")
    try:
        for each in (*every, held_out):
            if each is not None and detect_format(each.path) == "parquet":
                require_libraries(("pyarrow",), doing="reading Parquet")
        with disk_explained(f"checking the rows of {label}"):
            audit = audit_rows(
                [DataFile(one.path, _brief(one, every)) for one in every],
                label=label,
                columns=check_columns(rows.columns)[1],
                held_out=None if held_out is None else held_out.path,
                held_out_label=None if held_out is None else held_out.label,
                hold_out=split.hold_out,
                group_by=split.holdout_by,
                most_examples=examples,
                on_progress=on_transfer,
            )
    except (RowsError, HoldoutError) as error:
        raise InvalidData(f"{label}: {error}", param="data") from None
    if found is None or not audit.usable_rows:
        return audit
    counted = {"sample": SAMPLE_ROWS if sample is None else sample, "examples": examples}
    return _counted(audit, rows, found, spec, group_by=split.holdout_by, **counted)


def _counted(
    audit: DataAudit,
    rows: _Rows,
    base: Path,
    spec: TrainingSpec,
    *,
    group_by: str | None,
    sample: int,
    examples: int,
) -> DataAudit:
    """Return an audit with the tokens of its rows, and findings about them."""
    check_loss_on(spec.loss_on, _Shaped(audit))
    with tokenizer_view(base) as view:
        request = build(
            TokenCountRequest,
            base=str(view),
            data=str(rows.path.resolve()),
            columns=rows.columns,
            group_by=group_by,
            loss_on=spec.loss_on,
            max_length=spec.max_length,
            **spec.of_template,
            **spec.of_vocabulary,
            day=datetime.now(UTC).date().isoformat(),
            of_rows=audit.usable_rows,
            sample=sample,
            examples=examples,
        )
        counted_rows = min(sample, audit.usable_rows)
        tokens = ask_worker(
            _CHILD, request, TokenCounts, data=rows.path, label=rows.label, doing="counted",
            more_s=_SECONDS_PER_ROW * counted_rows,
        )  # fmt: skip
    findings = list(audit.findings)
    if tokens.rows_refused:
        findings.append(AuditFinding(kind="refused_by_base", rows=tokens.rows_refused, examples=tokens.refusals))
    if tokens.rows_cut:
        findings.append(AuditFinding(kind="too_long", rows=tokens.rows_cut, examples=tokens.too_long))
    return audit.model_copy(update={"tokens": tokens, "findings": findings})


class _Shaped:
    """What a check of options knows about the rows of an audit."""

    columns: str | None = None
    labels: frozenset[str] = frozenset()

    def __init__(self, audit: DataAudit) -> None:
        self.label, self.shape = audit.data, audit.shape


def _rows(given: str | Path, columns: str | None, param: str, registry: Callable[[], Registry]) -> _Rows:
    if isinstance(given, Path) or means_file(given):
        file = check_data_file(given, param=param)
        return _Rows(file, str(file), check_columns(columns)[0])
    reach = registry()
    data = find_data(reach.transport, given, None, columns=columns, param=param)
    if not isinstance(data, RegisteredData):
        return _Rows(data.path, data.label, data.columns)
    path = reach.puller.cached_file(data.view.digest, DatasetRoutes(reach.transport).locate)
    return _Rows(path, data.label, data.columns)


def _brief(rows: _Rows, every: Sequence[_Rows]) -> str:
    """Return what messages call one of several files: its name without folders, if no other has the same."""
    names = [Path(one.label).name for one in every]
    name = Path(rows.label).name
    return name if names.count(name) == 1 else rows.label


def _base(base: GivenBase, registry: Callable[[], Registry]) -> Path:
    if base.folder is not None:
        return base_folder(base.folder)
    reach = registry()
    return find_base(reach.transport, reach.cache, base)
