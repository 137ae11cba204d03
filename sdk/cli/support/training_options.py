"""The options of `train` that `sweep` has too: base and rows, the fields of a training, and how its jobs run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeVar

import click

from sdk.cli.completing.kinds import BASE, REF, ROWS
from sdk.cli.support.options import parse_size, whose_base_options
from sdk.cli.support.spec_options import spec_options
from sdk.errors import InvalidInput
from sdk.schemas.held_out import HoldoutFields
from sdk.schemas.template_fields import TemplateFields
from sdk.schemas.training import TrainingSpec
from sdk.schemas.vocabulary_fields import VocabularyFields
from sdk.schemas.watch_fields import WatchFields

F = TypeVar("F", bound=Callable[..., Any])


def rows_options(command: F) -> F:
    """Add the options of what is trained: the base, or the version that is continued, and rows."""
    return _with(
        command,
        click.option(
            "--base", type=BASE, help="A folder (./base), a registered base's id, or a hub name (org/name@revision)."
        ),
        whose_base_options,
        click.option(
            "--from",
            "parent",
            type=REF,
            metavar="REF",
            help="Continue a version: over its base, with its LoRA configuration.",
        ),
        click.option(
            "--data",
            type=ROWS,
            multiple=True,
            help="Rows to train on: a file of JSONL, JSON, CSV or Parquet, a dataset's name (NAME, NAME@v2) or digest; several together.",
        ),
        click.option(
            "--weight",
            type=float,
            multiple=True,
            help="One for each --data, in their order: its share of the rows, against the others. [default: all rows of each]",
        ),
        click.option(
            "--eval-data",
            type=ROWS,
            help="Held-out rows, as --data; their loss before and after training goes into the lineage.",
        ),
        click.option(
            "--test-data",
            type=ROWS,
            help="Rows, as --data, by which nothing is chosen: the test loss of the published weights.",
        ),
    )


def training_options(*, as_text: bool = False) -> Callable[[F], F]:
    """Return what adds an option for each field of a training; `as_text`: its value may say several."""
    apart = (TemplateFields, HoldoutFields, WatchFields, VocabularyFields)
    rest = TrainingSpec.model_fields.keys() - {name for fields in apart for name in fields.model_fields}

    def decorate(command: F) -> F:
        return _with(
            command,
            spec_options(HoldoutFields, as_text=as_text),
            spec_options(WatchFields, as_text=as_text),
            spec_options(TrainingSpec, rest, as_text=as_text),
            spec_options(TemplateFields, as_text=as_text),
            spec_options(VocabularyFields, as_text=as_text),
        )

    return decorate


def running_options(command: F) -> F:
    """Add the options of how a training's job runs."""
    return _with(
        command,
        click.option(
            "--checkpoint-every", metavar="10m|90s|50steps|never", help="How often to save a checkpoint. [default: 10m]"
        ),
        click.option(
            "--priority",
            type=int,
            help="From -100 to 100; a higher one runs first. Writers up to 10, promoters 50, admins 100. [default: 0]",
        ),
        click.option(
            "--timeout", metavar="90s|10m|2h", help="An attempt that runs longer fails. [default: the registry's, 24h]"
        ),
        click.option(
            "--device", type=click.Choice(["any", "cuda"]), help="The device its worker must have. [default: any]"
        ),
        click.option(
            "--memory", metavar="SIZE", help="The memory its worker must have free: 16GB. [default: by its forecast]"
        ),
    )


def _with(command: F, *options: Callable[[F], F]) -> F:
    return reduce(lambda made, option: option(made), reversed(options), command)


def data_given(data: Sequence[str], weights: Sequence[float]) -> Any:
    """Return the given rows: one file, several, or several with their weights. Raises InvalidInput."""
    if weights and len(weights) != len(data):
        raise InvalidInput(
            f"there are {len(weights)} weights for {len(data)} {'dataset' if len(data) == 1 else 'datasets'}; give one --weight for each --data, or none",
            param="weight",
        )
    if len(set(data)) < len(data):
        twice = next(one for one in data if data.count(one) > 1)
        raise InvalidInput(f"--data {twice[:200]} is given twice; give it once, with a weight", param="data")
    if weights:
        return dict(zip(data, weights, strict=True))
    return list(data) if len(data) > 1 else next(iter(data), None)


def bytes_given(size: Any) -> int:
    """Return the bytes of a size such as 16GB. Raises InvalidInput."""
    found = parse_size(str(size))
    if found is None:
        raise InvalidInput(
            f"memory: {str(size)[:40]!a} is not a size; write 16GB, 24GiB or plain bytes", param="memory"
        )
    return found
