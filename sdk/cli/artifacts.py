"""`adapterctl push`, `pull`, `verify`."""

from __future__ import annotations

from pathlib import Path

import click

from sdk.cli.output import format_option, print_json, say
from sdk.cli.session import open_client
from sdk.config import user_path
from sdk.folders import verify_folder
from sdk.schemas.refs import is_folder
from sdk.schemas.training import QuantizationRecipe


@click.command(name="push")
@click.argument("folder")
@click.argument("name")
@click.option("--base", required=True, help="The base that it was trained over: a folder or a registered id.")
@click.option(
    "--quantized", type=click.Choice(["nf4", "fp4"]), help="How the base was quantised in training, if it was."
)
@click.option("--description", default="", help="A line for people.")
@format_option
def push_command(folder: str, name: str, base: str, quantized: str | None, description: str, style: str) -> None:
    """Publish the adapter in FOLDER, as PEFT's save_pretrained wrote it, as the next version of NAME.

    Waits until its bytes are verified; prints the ref.

    \b
    Example:
      adapterctl push ./my-adapter code-review --base ./SmolLM2-135M-Instruct --quantized nf4
    """
    recipe = None if quantized is None else QuantizationRecipe.model_validate({"type": quantized})
    with open_client() as client:
        published, left_out = client.push_with_report(
            folder, name, base=base, quantization=recipe, description=description
        )
    if left_out:
        say(f"left out, not needed by a version: {', '.join(left_out[:8])}{', …' if len(left_out) > 8 else ''}")
    if published.existing:
        say("the same bytes were there already")
    if style == "json":
        print_json({"ref": published.version.ref, "digest": published.version.digest, "existing": published.existing})
    else:
        click.echo(published.version.ref)


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
