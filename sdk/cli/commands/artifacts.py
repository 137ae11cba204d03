"""`adapterctl push`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.commands.signing import ask_password
from sdk.cli.completing.kinds import ADAPTER, BASE, FILE, FOLDER
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import take_tags, whose_base_options
from sdk.cli.support.output import print_made, say
from sdk.cli.support.session import counting, open_client
from sdk.pushing.hub import is_url
from sdk.schemas.lora_config import QuantizationRecipe

if TYPE_CHECKING:
    from sdk.pushing.pusher import PushReport

_PUSHED = Listing(
    ListColumn("folder"), ListColumn("outcome"), ListColumn("ref"), ListColumn("message", importance=0), key="ref"
)


@click.command(name="push")
@click.argument("folder", type=FOLDER)
@click.argument("name", type=ADAPTER, required=False)
@click.option(
    "--base",
    type=BASE,
    help="The base it was trained over: a folder or a registered id. [default: the one its config names]",
)
@whose_base_options
@click.option(
    "--quantized",
    type=click.Choice(["nf4", "fp4", "int8", "none"]),
    help="How the base was quantised in training. [default: unknown]",
)
@click.option("--base-revision", help="The base's commit that it was trained over, if you know it.")
@click.option("--description", default="", help="A one-line description.")
@click.option(
    "--sign", type=FILE, help="Sign it with this EC private key, a PEM file. [default: ADAPTERCTL_SIGNING_KEY]"
)
@click.option("--tag", "tags", multiple=True, callback=take_tags, metavar="KEY=VALUE", help="A tag; repeatable.")
@click.option(
    "--claims/--no-claims", default=True, help="Send a pulled folder's claims: its recorded past. [default: --claims]"
)
@click.option("--expand-patterns", is_flag=True, help="Replace patterns in its config with module names.")
@click.option(
    "--tree", is_flag=True, help="Push every adapter in the folders below FOLDER; if interrupted, run it again."
)
@click.option("--namespace", help="With --tree: put all adapters into this namespace.")
@click.option("--versions", is_flag=True, help="With --tree: treat the last folder as a version: NAME/v1, NAME/v2.")
@listed(_PUSHED)
def push_command(
    folder: str,
    name: str | None,
    quantized: str | None,
    tree: bool,
    namespace: str | None,
    versions: bool,
    style: str,
    **given: Any,
) -> None:
    """Publish the adapter in FOLDER, as PEFT's save_pretrained wrote it, as the next version of NAME.

    Waits until its bytes are verified; prints the ref. Anything that neither its config nor you state is recorded as
    unknown. With --tree, FOLDER/code-review becomes code-review and FOLDER/team/code-review becomes team/code-review; a
    refused folder is reported with the reason and does not stop the others. The record in a folder that
    `pull -o` wrote is kept as claimed by the registry that it is from. FOLDER may be hf://ORG/NAME@REVISION on a
    model hub.

    \b
    Examples:
      adapterctl push ./adapter code-review --base ./SmolLM2-135M --quantized nf4
      adapterctl push --tree ./adapters --base SmolLM2-135M --namespace team
      adapterctl push hf://org/name@main code-review --sign KEY.pem
    """
    if tree == (name is not None):
        raise click.UsageError("give either NAME for one adapter, or --tree for the folders below FOLDER")
    if not tree and (namespace is not None or versions):
        raise click.UsageError("--namespace and --versions need --tree")
    if tree and is_url(folder):
        raise click.UsageError(
            "--tree takes a folder on this machine; push adapters from a hub one by one, each with its NAME"
        )
    recipe = None if quantized in (None, "none") else QuantizationRecipe.model_validate({"type": quantized})
    given |= {"method": {"none": "lora", None: None}.get(quantized, "qlora"), "quantization": recipe}
    given["sign_password"] = ask_password(given["sign"])
    if name is None:
        _push_tree(folder, namespace, versions, given, style)
        return
    with open_client() as client:
        report = client.versions.push(folder, name, **given, ask_revision=_ask_revision if sys.stdin.isatty() else None)
    if report.left_out:
        more = ", …" if len(report.left_out) > 8 else ""
        say(f"left out, since a version doesn't need them: {', '.join(report.left_out[:8])}{more}")
    if report.expanded:
        say(f"patterns replaced with module names in {', '.join(report.expanded)}")
    if report.existing:
        say("these bytes are already a version")
    else:
        _say_unknown(report.version.unknown)
    _say_claims(report)
    for warning in report.version.warnings:
        say(f"warning: {warning}")
    version = report.version
    print_made(style, {"ref": version.ref, "digest": version.digest, "existing": report.existing}, version.ref)


def _say_claims(report: PushReport) -> None:
    """Say what became of the folder's claims."""
    if report.claims_left_out is not None:
        say(f"the folder's claims aren't sent: {report.claims_left_out}")
    elif report.claims == "signed":
        say(f"the claims of {report.claimed_by} are signed by a key that this registry lists, and are in its record")
    elif report.claims is not None:
        say(f"what {report.claimed_by} recorded is kept as claimed; see: adapterctl show {report.version.ref}")


def _ask_revision(base: str) -> str | None:
    """Ask for what the folder doesn't tell; every question may be left unanswered."""
    return click.prompt(f"commit of {base} that it was trained over (empty: unknown)", default="", err=True) or None


def _say_unknown(unknown: list[str]) -> None:
    options = {"base_revision": "--base-revision", "quantization": "--quantized"}
    named = [f"{what} ({options[what]})" for what in unknown if what in options]
    if named:
        say(f"recorded as unknown, since neither its config nor the command says it: {', '.join(named)}")


def _push_tree(folder: str, namespace: str | None, versions: bool, given: dict[str, Any], style: str) -> None:
    with open_client() as client, counting("pushing", "adapters") as counted:
        results = client.versions.push_tree(folder, namespace=namespace, versions=versions, on_folder=counted, **given)
    rows = [{key: value for key, value in asdict(result).items() if key != "exit_code"} for result in results]
    refused = [result for result in results if result.outcome == "refused"]
    done = [row for row in rows if row["outcome"] != "refused"]
    _PUSHED.print(style, done if style == "quiet" else rows, empty="nothing was pushed")
    if style == "table":
        for result in refused:
            say(f"refused {result.folder}: {result.message}")
    say(f"{len(done)} of {len(rows)} are in the registry; {len(refused)} refused")
    if refused:
        raise SystemExit(refused[0].exit_code)
