"""`adapterctl sweep NAME`."""

from __future__ import annotations

from typing import Any

import click

from sdk.cli.commands.sweep.group import Beginning, SweepGroup
from sdk.cli.commands.sweep.watch import print_result, watch_sweep
from sdk.cli.commands.watch import say_no_worker, say_rows
from sdk.cli.completing.kinds import ADAPTER, FILE
from sdk.cli.support.options import require_worker_option
from sdk.cli.support.output import format_option, print_made, say
from sdk.cli.support.session import open_client
from sdk.cli.support.spec_options import spec_options
from sdk.cli.support.training_file import read_sweep_file
from sdk.cli.support.training_options import bytes_given, data_given, rows_options, running_options, training_options
from sdk.errors import InvalidInput
from sdk.schemas.sweeps import SweepFields
from sdk.submitting.sweep_options import check_swept


@click.command(
    name="sweep",
    cls=Beginning,
    short_help="Train with several settings, and find out which is the best.",
    no_args_is_help=True,
)
@click.argument("name", type=ADAPTER)
@rows_options
@click.option(
    "--config", "config_file", type=FILE, help="YAML file with any of these options; the command line takes precedence."
)
@spec_options(SweepFields)
@click.option("--max-time", metavar="90s|10m|2h", help="Start no member this long after the sweep began.")
@training_options(as_text=True)
@running_options
@require_worker_option
@click.option("--explain", is_flag=True, help="Say what the sweep would cost, without one.")
@click.option("--detach", is_flag=True, help="Submit and return at once; the sweep goes on.")
@format_option
def _begin(
    name: str,
    config_file: str | None,
    data: tuple[str, ...],
    weight: tuple[float, ...],
    explain: bool,
    detach: bool,
    style: str,
    **given: Any,
) -> None:
    """Train adapter NAME with several settings, and say which is the best, and how sure that is.

    Any option of a training may have several values, 1,2,4, or a range, 1e-4..1e-3:log[5]: five values at equal ratios. Values
    of texts are separated by semicolons. All are trained on the same rows, and compared on the same held-out rows. Waits and
    shows progress; Ctrl-C detaches, and the sweep goes on. The winner becomes the next version of NAME, whose ref is printed.
    Exits with 0 also if settings are not told apart, and with 6 if a member failed, or no
    version was made of the best.

    \b
    Examples:
      adapterctl sweep sql --base ./b --data sql.csv --holdout 0.1 --rank 1,4,16
      adapterctl sweep sql --base ./b --data sql.csv --eval-data held.csv \\
          --rank 4,16 --lr 1e-4..1e-3:log[3] --seeds 3
      adapterctl sweep sql --config sweep.yaml --sample tpe --trials 20 --detach
      adapterctl sweep sql --config sweep.yaml --explain
      adapterctl sweep list
      adapterctl sweep show 3f1c2a9b7d20 --watch
    """
    check_swept(name)
    in_file = read_sweep_file(config_file) if config_file else {}
    given["data"] = data_given(data, weight)
    options = in_file | {key: value for key, value in given.items() if value is not None}
    if "memory" in options:
        options["memory"] = bytes_given(options["memory"])
    for required in ("data",) if options.get("parent") else ("base", "data"):
        if not options.get(required):
            raise InvalidInput(f"a sweep needs --{required}; see: adapterctl sweep --help", param=required)
    if explain:
        from sdk.cli.commands.sweep.ahead import show_ahead

        show_ahead(name, options, style)
        return
    with open_client() as client:
        sweep = client.sweep(name, **options)
        request = sweep.view.request.training.model_dump(mode="json")
        say_rows(request, data=options.get("data"), eval_data=options.get("eval_data"))
        say_no_worker(sweep.view.waits)
        if detach:
            document = {"sweep": name, "id": sweep.id, "state": sweep.view.state.value}
            print_made(style, document, sweep.id, f"watch it: adapterctl sweep show {sweep.id} --watch")
            return
        say(f"sweep {sweep.id} trains {name}")
        view = watch_sweep(client, sweep.view)
    print_result(view, style)


sweep_command = SweepGroup(_begin)
