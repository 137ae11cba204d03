"""`adapterctl push`, `pull`, `verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sdk.cli.output import format_option, print_json, print_rows, say
from sdk.cli.session import counting, open_client
from sdk.cli.values import take_tags
from sdk.config import user_path
from sdk.folders import verify_folder
from sdk.schemas.refs import is_folder
from sdk.schemas.training import QuantizationRecipe


@click.command(name="push")
@click.argument("folder")
@click.argument("name", required=False)
@click.option(
    "--base", help="The base that it was trained over: a folder or a registered id. [default: as its config names it]"
)
@click.option(
    "--quantized",
    type=click.Choice(["nf4", "fp4", "none"]),
    help="How the base was quantised in training. [default: unknown]",
)
@click.option("--base-revision", help="The commit of the base that it was trained over, if you know it.")
@click.option("--description", default="", help="A line for people.")
@click.option("--tag", "tags", multiple=True, callback=take_tags, metavar="KEY=VALUE", help="A tag; repeatable.")
@click.option("--tree", is_flag=True, help="Push every adapter in the folders below FOLDER; again goes on.")
@click.option("--namespace", help="With --tree: put all adapters into this namespace.")
@click.option("--versions", is_flag=True, help="With --tree: the last folder is a version: NAME/v1, NAME/v2.")
@format_option
def push_command(
    folder: str,
    name: str | None,
    base: str | None,
    quantized: str | None,
    base_revision: str | None,
    description: str,
    tags: dict[str, str],
    tree: bool,
    namespace: str | None,
    versions: bool,
    style: str,
) -> None:
    """Publish the adapter in FOLDER, as PEFT's save_pretrained wrote it, as the next version of NAME.

    Waits until its bytes are verified; prints the ref. What its config doesn't say, and you neither, is recorded as
    unknown. With --tree, FOLDER/code-review becomes code-review and FOLDER/team/code-review becomes team/code-review;
    what is refused is reported with the reason and stops nothing else.

    \b
    Examples:
      adapterctl push ./my-adapter code-review --base ./SmolLM2-135M-Instruct --quantized nf4
      adapterctl push --tree ./adapters --base SmolLM2-135M-Instruct --namespace team
    """
    if tree == (name is not None):
        raise click.UsageError("give NAME for one adapter, or --tree for the folders below FOLDER, one of the two")
    if not tree and (namespace is not None or versions):
        raise click.UsageError("--namespace and --versions belong to --tree")
    given: dict[str, Any] = {
        "base": base,
        "method": {"none": "lora", None: None}.get(quantized, "qlora"),
        "quantization": None if quantized in (None, "none") else QuantizationRecipe.model_validate({"type": quantized}),
        "base_revision": base_revision,
        "description": description,
        "tags": tags,
    }
    if name is None:
        _push_tree(folder, namespace, versions, given, style)
        return
    with open_client() as client:
        report = client.push_with_report(
            folder, name, **given, ask_revision=_ask_revision if sys.stdin.isatty() else None
        )
    if report.left_out:
        more = ", …" if len(report.left_out) > 8 else ""
        say(f"left out, not needed by a version: {', '.join(report.left_out[:8])}{more}")
    if report.existing:
        say("the same bytes were there already")
    else:
        _say_unknown(report.version.unknown)
    if style == "json":
        print_json({"ref": report.version.ref, "digest": report.version.digest, "existing": report.existing})
    else:
        click.echo(report.version.ref)


def _ask_revision(base: str) -> str | None:
    """Ask for what the folder doesn't say; nobody has to know it."""
    return click.prompt(f"commit of {base} that it was trained over (empty: unknown)", default="", err=True) or None


def _say_unknown(unknown: list[str]) -> None:
    options = {"base_revision": "--base-revision", "quantization": "--quantized"}
    named = [f"{what} ({options[what]})" for what in unknown if what in options]
    if named:
        say(f"recorded as unknown, since neither its config nor you say it: {', '.join(named)}")


def _push_tree(folder: str, namespace: str | None, versions: bool, given: dict[str, Any], style: str) -> None:
    with open_client() as client, counting("pushing", "adapters") as counted:
        results = client.push_tree(folder, namespace=namespace, versions=versions, on_folder=counted, **given)
    rows = [{key: value for key, value in asdict(result).items() if key != "exit_code"} for result in results]
    refused = [result for result in results if result.outcome == "refused"]
    done = [row for row in rows if row["outcome"] != "refused"]
    if style == "table":
        print_rows(style, rows, ["folder", "outcome", "ref"], key="folder", empty="nothing was pushed")
        for result in refused:
            say(f"refused {result.folder}: {result.message}")
    else:
        print_rows(style, rows if style == "json" else done, [], key="ref", empty="")
    say(f"{len(done)} of {len(rows)} are in the registry; {len(refused)} refused")
    if refused:
        raise SystemExit(refused[0].exit_code)


@click.command(name="pull")
@click.argument("ref")
@click.option("-o", "--output", help="A new or pulled folder. [default: a folder in the cache]")
@click.option("--base", help="Check that the version belongs to this base: a folder or a registered id.")
@format_option
def pull_command(ref: str, output: str | None, base: str | None, style: str) -> None:
    """Fetch the version that REF names, and print its folder.

    \b
    REF is NAME@vN, NAME@ALIAS, NAME@latest, NAME@sha256:DIGEST, or NAME for the latest.
    The folder loads in PEFT and vLLM as it is.

    \b
    Examples:
      adapterctl pull code-review@v3
      adapterctl pull code-review@production -o ./adapter
    """
    with open_client() as client:
        version = client.get(ref)
        if base is not None:
            client.require_base(version, base)
        path = client.pull(f"{version.info.adapter}@sha256:{version.digest}", output)
    if style == "json":
        print_json({"ref": version.ref, "digest": version.digest, "path": str(path)})
    else:
        click.echo(str(path))


@click.command(name="verify")
@click.argument("target")
@format_option
def verify_command(target: str, style: str) -> None:
    """Hash a pulled folder again (./DIR), or fetch a version (REF) and hash it.

    \b
    Examples:
      adapterctl verify ./adapter
      adapterctl verify code-review@v3
    """
    if is_folder(target) or Path(target).is_dir():
        manifest = verify_folder(user_path(target))
    else:
        with open_client() as client:
            manifest = client.verify(target)
    if style == "json":
        print_json({"digest": manifest.digest, "files": len(manifest.files), "ok": True})
    elif style == "quiet":
        click.echo(manifest.digest)
    else:
        click.echo(f"whole: {len(manifest.files)} files, sha256:{manifest.digest}")
