"""`adapterctl train`."""

from __future__ import annotations

from typing import Any

import click

from sdk.cli.commands.watch import result_of, say_no_worker, say_rows
from sdk.cli.completing.kinds import ADAPTER, FILE, JOB, REF
from sdk.cli.support.curves import curve_of
from sdk.cli.support.endings import say_ending
from sdk.cli.support.options import require_worker_option
from sdk.cli.support.output import format_option, print_detached, print_json, say
from sdk.cli.support.session import open_client
from sdk.cli.support.training_file import read_training_file
from sdk.cli.support.training_options import bytes_given, data_given, rows_options, running_options, training_options
from sdk.errors import InvalidInput


@click.command(name="train", short_help="Train an adapter over a base, and watch it.")
@click.argument("name", type=ADAPTER)
@rows_options
@click.option(
    "--like",
    type=REF,
    metavar="REF",
    help="Repeat a version's training: its options, rows and base are in its record.",
)
@click.option(
    "--config", "config_file", type=FILE, help="YAML file with any of these options; the command line takes precedence."
)
@training_options()
@click.option(
    "--from-checkpoint",
    type=JOB,
    metavar="JOB[@STEP]",
    help="Start from a checkpoint of a training with the same base, data and options.",
)
@running_options
@require_worker_option
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
    given["data"] = data_given(data, weight)
    on_command_line = {key: value for key, value in given.items() if value is not None}
    options = in_file | on_command_line
    if "memory" in options:
        options["memory"] = bytes_given(options["memory"])
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
        say_rows(job.view.request, data=options.get("data"), eval_data=options.get("eval_data"))
        say_no_worker(job.view.waits)
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
