"""`adapterctl train`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from sdk.cli.commands.watch import result_of, say_rows
from sdk.cli.support.curves import curve_of
from sdk.cli.support.endings import say_ending
from sdk.cli.support.options import parse_size, whose_base_options
from sdk.cli.support.output import format_option, print_detached, print_json, say
from sdk.cli.support.session import open_client
from sdk.cli.support.spec_options import spec_options
from sdk.cli.support.training_file import read_training_file
from sdk.errors import InvalidInput
from sdk.schemas.held_out import HoldoutFields
from sdk.schemas.template_fields import TemplateFields
from sdk.schemas.training import TrainingSpec
from sdk.schemas.vocabulary_fields import VocabularyFields
from sdk.schemas.watch_fields import WatchFields


@click.command(name="train", short_help="Train an adapter over a base, and watch it.")
@click.argument("name")
@click.option("--base", help="A folder (./base), a registered base's id, or a hub name (org/name@revision).")
@whose_base_options
@click.option("--from", "parent", metavar="REF", help="Continue a version: over its base, with its LoRA configuration.")
@click.option(
    "--like", metavar="REF", help="Make a version's training again: its options, rows and base are in its record."
)
@click.option(
    "--data",
    multiple=True,
    help="Rows to train on: a file of JSONL, JSON, CSV or Parquet, a dataset's name (NAME, NAME@v2) or digest; several together.",
)
@click.option(
    "--weight",
    type=float,
    multiple=True,
    help="One for each --data, in their order: its share of the rows, against the others. [default: all rows of each]",
)
@click.option(
    "--eval-data", help="Held-out rows, as --data; their loss before and after training goes into the lineage."
)
@click.option(
    "--test-data", help="Rows, as --data, by which nothing is chosen: they tell how good the published weights are."
)
@spec_options(HoldoutFields)
@spec_options(WatchFields)
@click.option("--config", "config_file", help="YAML file with any of these options; the command line takes precedence.")
@spec_options(
    TrainingSpec,
    TrainingSpec.model_fields.keys()
    - HoldoutFields.model_fields.keys()
    - WatchFields.model_fields.keys()
    - TemplateFields.model_fields.keys()
    - VocabularyFields.model_fields.keys(),
)
@spec_options(TemplateFields)
@spec_options(VocabularyFields)
@click.option(
    "--checkpoint-every", metavar="10m|90s|50steps|never", help="How often to save a checkpoint. [default: 10m]"
)
@click.option(
    "--from-checkpoint",
    metavar="JOB[@STEP]",
    help="Start from a checkpoint of a training with the same base, data and options.",
)
@click.option(
    "--priority",
    type=int,
    help="From -100; higher goes first. Writers up to 10, promoters 50, admins 100. [default: 0]",
)
@click.option(
    "--timeout", metavar="90s|10m|2h", help="An attempt that runs longer fails. [default: the registry's, 24h]"
)
@click.option("--device", type=click.Choice(["any", "cuda"]), help="The device its worker must have. [default: any]")
@click.option("--memory", metavar="SIZE", help="The memory its worker must have free: 16GB. [default: by its forecast]")
@click.option("--dry-run", is_flag=True, help="Print the options and the plan of the training, without a job.")
@click.option("--explain", is_flag=True, help="Print each option, its default and where it is from, without a job.")
@click.option("--detach", is_flag=True, help="Submit and return at once; the job keeps running.")
@format_option
def train_command(
    name: str,
    config_file: str | None,
    data: tuple[str, ...],
    weight: tuple[float, ...],
    dry_run: bool,
    explain: bool,
    detach: bool,
    style: str,
    **given: Any,
) -> None:
    """Train an adapter NAME over a base and publish it as the next version.

    Waits and shows progress; Ctrl-C detaches, and the job keeps running. Prints the version's ref.

    \b
    Examples:
      adapterctl train code-review --base ./SmolLM2-135M --data reviews.jsonl
      adapterctl train team/sql --base ./base --data sql.csv --targets all-linear
      adapterctl train sql --base ./b --data sql.csv --use-rslora --alpha 16
      adapterctl train sql --from sql@v3 --data more.csv
      adapterctl train sql --like sql@v3
      adapterctl train sql --base ./b --data sql.csv --holdout 0.1
      adapterctl train sql --base ./b --data sql.csv --holdout 0.1 --patience 3
      adapterctl train sql --base ./b --data a.csv --weight 3 --data b --weight 1
      adapterctl train mood --base ./bert --data mood.csv --objective classify
      adapterctl train tone --base ./b --data preferences.jsonl --lr 5e-6
      adapterctl train sql --config sql.yaml --dry-run --explain
      adapterctl train sql --config sql.yaml --detach --format json
      adapterctl train sql --config sql.yaml --from-checkpoint 3f1c2a9b7d20@200
    """
    in_file = read_training_file(config_file) if config_file else {}
    given["data"] = _data_given(data, weight)
    on_command_line = {key: value for key, value in given.items() if value is not None}
    options = in_file | on_command_line
    if "memory" in options:
        options["memory"] = _as_bytes(options["memory"])
    if dry_run or explain:
        from sdk.cli.commands.train_ahead import show_ahead

        show_ahead(name, options, style, in_file=in_file, given=on_command_line, dry_run=dry_run, explain=explain)
        return
    needed = () if options.get("like") else ("data",) if options.get("parent") else ("base", "data")
    for required in needed:
        if not options.get(required):
            raise InvalidInput(f"a training needs --{required}; see: adapterctl train --help", param=required)
    with open_client() as client:
        job = client.submit_training(name, **options)
        say_rows(job.view, data=options.get("data"), eval_data=options.get("eval_data"))
        if detach:
            print_detached(style, job)
            return
        say(f"job {job.id} trains {name}")
        result = result_of(job)
        curve = curve_of(client, job.view) if style == "table" else None
    if style == "json":
        print_json({"ref": result["ref"], "job": job.id, "existing": result["existing"]})
        return
    if result["existing"]:
        say("these bytes are already a version")
    if result.get("same"):
        say(f"the files are those of {job.view.request['like']['ref']}")
    for warning in result.get("warnings", []):
        say(f"warning: {warning}")
    click.echo(result["ref"])
    if style == "table":
        say_ending(job.view, curve)


def _data_given(data: Sequence[str], weights: Sequence[float]) -> Any:
    """Return the given rows: one file, several, or several with their weights. Raises InvalidInput."""
    if weights and len(weights) != len(data):
        raise InvalidInput(
            f"there are {len(weights)} weights for {len(data)} datasets; give one --weight for each --data, or none",
            param="weight",
        )
    if len(set(data)) < len(data):
        twice = next(one for one in data if data.count(one) > 1)
        raise InvalidInput(f"--data {twice[:200]} is given twice; give it once, with a weight", param="data")
    if weights:
        return dict(zip(data, weights, strict=True))
    return list(data) if len(data) > 1 else next(iter(data), None)


def _as_bytes(size: Any) -> int:
    found = parse_size(str(size))
    if found is None:
        raise InvalidInput(f"{str(size)[:40]!a} is not a size; write 16GB, 24GiB or plain bytes", param="memory")
    return found
