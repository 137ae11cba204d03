"""What is checked before anything is sent: values, rows and target modules. Names and refs are checked in `sdk.names`.

>>> check_targets("q_proj,nope", {"model.layers.0.self_attn.q_proj.weight": [64, 64]}, base="tiny")
Traceback (most recent call last):
sdk.errors.InvalidTargets: base tiny has no linear module 'nope'; name some of these as targets: q_proj
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sdk.config import user_path
from sdk.errors import InvalidBase, InvalidData, InvalidInput, InvalidName, InvalidTargets, NotFound
from sdk.formats import rows
from sdk.formats.columns import canonical_columns, parse_columns
from sdk.formats.dataset_names import no_dataset_name
from sdk.formats.labels import classes_of
from sdk.formats.objectives import (
    WITHOUT_COMPLETIONS,
    LossOn,
    Objective,
    ObjectiveError,
    resolve_loss_on,
    resolve_objective,
)
from sdk.given_values import build as build
from sdk.lora.architectures import is_encoder, no_next_token
from sdk.lora.targets import unfit_targets
from sdk.lora.variants import unfit_options
from sdk.rows.holdout import HoldoutError, Splittable, split_unit
from sdk.schemas.evaluation import EvaluationSpec, no_completions
from sdk.schemas.held_out import HoldOut, HoldoutFields, both_held_out, no_held_out
from sdk.schemas.training import TrainingSpec, clash_of
from sdk.schemas.watch_fields import no_prompts


@dataclass(frozen=True)
class CheckedData:
    """A dataset file whose rows can be used."""

    path: Path
    format: rows.Format
    #: None for Parquet, which only the job reads.
    shape: Any
    rows: int | None
    #: The labels of rows that have some.
    labels: frozenset[str] = frozenset()
    #: Which columns are which keys, if that was given.
    columns: str | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return str(self.path)

    @property
    def name(self) -> str:
        """Its name if no other is given: that of its file."""
        return self.path.name.encode("utf-8", "replace").decode()[:200]


def check_data(
    path: str | Path,
    *,
    columns: str | None = None,
    param: str = "data",
    known_labels: Collection[str] | None = None,
    hold_out: HoldOut | None = None,
    alone: bool = True,
) -> CheckedData:
    """Check every row of a JSONL, JSON or CSV file; if `known_labels` are given, each label must be one of them.

    `columns` says which columns are which keys of a row. With `hold_out`, it must be possible to hold some of the rows
    out; that is not checked unless the file is `alone`. Raises NotFound, InvalidInput, InvalidData with the bad lines.
    """
    columns, keys = check_columns(columns)
    file = check_data_file(path, param=param)
    count = 0
    shape = None
    labels: set[str] = set()
    splittable = None if hold_out is None or not alone else Splittable(hold_out)
    group_by = None if hold_out is None else hold_out.by
    try:
        kind = rows.detect_format(file)
        if kind == "parquet":
            return CheckedData(file, kind, None, None, columns=columns)
        for row in rows.check_rows(
            rows.text_values(file, keys), columns=keys, known_labels=known_labels, group_by=group_by
        ):
            count += 1
            if splittable is not None:
                splittable.add(split_unit(row))
            shape = row.shape
            if row.label is not None:
                labels.add(row.label)
        if splittable is not None:
            splittable.require()
    except (rows.RowsError, HoldoutError) as error:
        raise InvalidData(f"{file}: {error}", param=param) from None
    named = {"prompt": "prompt-completion"}.get(shape or "", shape)
    return CheckedData(file, kind, named, count, frozenset(labels), columns)


def check_data_file(path: str | Path, *, param: str) -> Path:
    """Return the path of a file that is not empty. Raises NotFound, InvalidData."""
    if "://" in str(path):
        raise InvalidData(
            f"{str(path)[:200]!a} is a URL, and only files are read; fetch it first, as with: curl -L -o rows.jsonl URL",
            param=param,
        )
    file = user_path(path)
    if os.path.isdir(file):  # noqa: PTH112 - False for a text that can't be a path
        raise InvalidData(f"{file} is a folder; give a JSONL, JSON, CSV or Parquet file", param=param)
    if not os.path.isfile(file):  # noqa: PTH113
        raise NotFound(f"there is no file {str(file)[:300]}; check the path of the dataset", param=param)
    if file.stat().st_size == 0:
        raise InvalidData(
            f"{file} is empty; give rows of {rows.SHAPES}",
            param=param,
        )
    return file


def check_columns(columns: str | None) -> tuple[str | None, dict[str, str] | None]:
    """Return columns as they are recorded, and the column of each key. Raises InvalidInput."""
    if columns is None:
        return None, None
    try:
        return canonical_columns(columns), parse_columns(columns)
    except ValueError as error:
        raise InvalidInput(str(error), param="columns") from None


class DescribedRows(Protocol):
    """What is known about a dataset, a file or a registered one, before a job reads it."""

    @property
    def label(self) -> str:
        """What messages call it."""

    @property
    def shape(self) -> str | None:
        """The shape of its rows; None if only the job sees that."""

    @property
    def labels(self) -> frozenset[str]:
        """The labels of rows that have some; empty if only the job sees them."""

    @property
    def columns(self) -> str | None:
        """Which columns are which keys of a row; None if the columns are named like the keys."""


def check_objective(
    asked: Objective | None, rows: Sequence[DescribedRows], held_out: DescribedRows | None = None
) -> Objective | None:
    """Return the objective that the rows of datasets are for; None if neither the caller nor they tell.

    Rows of Parquet don't, since only the job reads them. Raises InvalidInput if the rows are for another objective than
    the requested one, InvalidData for labels that can't be learnt.
    """
    for data in rows if held_out is None else (*rows, held_out):
        if data.shape is not None:
            try:
                asked = resolve_objective(asked, data.shape)
            except ObjectiveError as error:
                others = "give other rows" if asked is None else "leave objective out, or give other rows"
                raise InvalidInput(f"{data.label}: {error}; {others}", param="objective") from None
    if labels := known_labels_of(rows):
        try:
            classes_of(labels)
        except ValueError as error:
            raise InvalidData(f"{', '.join(one.label for one in rows)}: {error}", param="data") from None
    return asked


def known_labels_of(rows: Sequence[DescribedRows]) -> frozenset[str]:
    """Return the labels of all datasets together; none if those of one are unknown here."""
    return frozenset().union(*(one.labels for one in rows)) if all(one.labels for one in rows) else frozenset()


def check_held_out(spec: HoldoutFields, *, eval_data: object) -> None:
    """Raise InvalidInput if held-out rows are given and some of the others are to be held out, too, or if there are none to
    look at.
    """
    if eval_data is not None and (spec.hold_out is not None or spec.holdout_by is not None):
        raise InvalidInput(both_held_out(), param="holdout")
    if isinstance(spec, TrainingSpec) and spec.of_looks and eval_data is None and spec.hold_out is None:
        raise InvalidInput(no_held_out(spec.of_looks), param=spec.of_looks[0])


def check_samples(spec: TrainingSpec, rows: DescribedRows) -> None:
    """Raise InvalidInput if held-out prompts are to be answered, and rows of this shape have none."""
    if spec.samples and rows.shape in WITHOUT_COMPLETIONS:
        raise InvalidInput(f"{rows.label}: {no_prompts(rows.shape)}", param="samples")


def only_row(label: str) -> InvalidInput:
    """Return the error that the one row of a dataset can't be held out."""
    return InvalidInput(f"{label} has one row, so none can be held out of the others; give more rows", param="holdout")


def check_together(spec: TrainingSpec, objective: Objective) -> None:
    """Raise InvalidInput for options that an objective, even one that only the rows tell, can't be trained with."""
    if said := clash_of(spec.model_copy(update={"objective": objective})):
        raise InvalidInput(f"{said}; correct it, then try again", param="objective")


def check_loss_on(loss_on: LossOn | None, rows: DescribedRows) -> None:
    """Raise InvalidInput if rows of this shape don't have what is to be learnt or scored."""
    if rows.shape is not None:
        try:
            resolve_loss_on(loss_on, rows.shape)
        except ObjectiveError as error:
            raise InvalidInput(f"{rows.label}: {error}", param="loss_on") from None


def check_scorable(spec: EvaluationSpec, rows: DescribedRows) -> None:
    """Raise InvalidInput if completions are to be scored, but rows of this shape have none or none are generated."""
    if (rows.shape in WITHOUT_COMPLETIONS or spec.generate_rows == 0) and (said := no_completions(spec)):
        raise InvalidInput(f"{rows.label}: {said}", param="metrics" if spec.asked_of_texts else "max_thought_tokens")


def check_data_name(name: str) -> str:
    """Return the name of a dataset. Raises InvalidName for one that would be taken for something else."""
    if (unfit := no_dataset_name(name) if name.strip() else "the dataset's name is empty") is not None:
        raise InvalidName(f"{unfit}; give another name with --name", param="name")
    return name


def check_causal(config: Mapping[str, Any], *, base: str) -> None:
    """Raise InvalidBase for a base whose config says that it can't learn to predict the next token."""
    if is_encoder(config):
        raise InvalidBase(
            f"base {base} can't be used for that: {no_next_token(config.get('model_type'))}", param="base"
        )


def check_targets(
    targets: str,
    tensors: Mapping[str, Sequence[int]],
    *,
    base: str,
    model_type: str = "",
    exclude: str | None = None,
) -> None:
    """Raise InvalidTargets for targets that can't be trained, by the names in the base's weight files.

    They are not in these, or are modules that rows of text don't train.
    """
    if said := unfit_targets(targets, tensors, model_type=model_type, exclude=exclude):
        raise InvalidTargets(f"base {base} {said}", param="targets")


def require_adapter(ref: str, kind: str, consequence: str, *, param: str = "ref") -> None:
    """Raise InvalidInput for a version that is not an adapter, before anything of it is fetched.

    `consequence` is a clause that ends with what to do.

    >>> require_adapter("a@v1", "adapter", "it has no ΔW")
    >>> require_adapter("m@v1", "merged", "it has no ΔW; see its adapter: adapterctl lineage m@v1 --up")
    Traceback (most recent call last):
    sdk.errors.InvalidInput: m@v1 is a merged model, not an adapter, so it has no ΔW; see its adapter: adapterctl lineage m@v1 --up
    """
    if kind != "adapter":
        raise InvalidInput(f"{ref} is a {kind} model, not an adapter, so {consequence}", param=param)


def check_options(spec: TrainingSpec, tensors: Mapping[str, Sequence[int]], config: Mapping[str, Any]) -> None:
    """Raise InvalidInput for options that a base can't be trained with, by its weight files and its config."""
    if unfit := unfit_options(spec, tensors, config):
        raise InvalidInput(f"{unfit.param} {unfit.said}", param=unfit.param)
