"""`adapterctl combine`."""

from __future__ import annotations

from typing import Any

import click

from sdk.cli.commands.watch import result_of
from sdk.cli.support.output import format_option, print_detached, print_json, say
from sdk.cli.support.session import open_client
from sdk.errors import InvalidInput


@click.command(name="combine", short_help="Add versions of one base up by weights, into a version.")
@click.argument("name")
@click.argument("parents", metavar="REF=WEIGHT…", nargs=-1, required=True)
@click.option(
    "--method",
    type=click.Choice(["linear", "cat", "svd"]),
    help="The exact sum at its own rank, the exact sum as it is written, or the sum cut to --rank. [default: linear]",
)
@click.option("--rank", type=int, help="The largest rank of a module, with --method svd.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "parents"]),
    help="Type of A and B; parents: the type of theirs. [default: float32]",
)
@click.option("--detach", is_flag=True, help="Submit and return at once; the job keeps running.")
@format_option
def combine_command(name: str, parents: tuple[str, ...], detach: bool, style: str, **given: Any) -> None:
    """Combine versions over one base into the next version of NAME: ΔW = Σ wᵢ·ΔWᵢ.

    Weights may be below 0, and those of one version add up. Prints the version's ref.

    \b
    Examples:
      adapterctl combine team/mix team/sql@v2=0.7 team/chat@v1=0.3
      adapterctl combine mix sql@production=1 chat@v1=-0.5 --method cat
      adapterctl combine small sql@v2=0.7 chat@v1=0.3 --method svd --rank 8
    """
    pairs = [_parsed(parent) for parent in parents]
    with open_client() as client:
        job = client.submit_combine(name, pairs, **{key: value for key, value in given.items() if value is not None})
        if detach:
            print_detached(style, job.id, job.view.state.value)
            return
        say(f"job {job.id} combines {len(pairs)} {'version' if len(pairs) == 1 else 'versions'} into {name}")
        result = result_of(job)
    if style == "json":
        print_json({name: result.get(name) for name in ("ref", "existing", "metrics", "kept_energy")} | {"job": job.id})
        return
    if result["existing"]:
        say("the same bytes were there already")
    click.echo(result["ref"])
    if style == "table":
        kept = result.get("metrics", {}).get("kept_energy")
        if kept is not None:
            least = min(result["kept_energy"].items(), key=lambda item: item[1])
            say(f"it keeps {kept:.2%} of the energy, and least in {least[0]}: {least[1]:.2%}")
        say(f"see it: adapterctl show {result['ref']}")


def _parsed(parent: str) -> tuple[str, float]:
    """Return ref and weight of "a@v2=0.7". Raises InvalidInput."""
    ref, sign, weight = parent.rpartition("=")
    if not sign:
        raise InvalidInput(f"{parent[:120]!a} gives no weight; write it as {parent[:120]}=0.5", param="parents")
    if not ref:
        raise InvalidInput(
            f"{parent[:120]!a} names no version before its weight; write it as REF=0.5, as in sql@v2=0.5",
            param="parents",
        )
    try:
        return ref, float(weight)
    except ValueError:
        raise InvalidInput(
            f"{weight[:40]!a} is not a number; write the weight as {ref[:120]}=0.5", param="parents"
        ) from None
