"""`adapterctl convert`."""

from __future__ import annotations

import shlex

import click

from sdk.cli.completing.kinds import FOLDER
from sdk.cli.support.output import format_option, human_bytes, print_made, say
from sdk.config import user_path
from sdk.pushing.convert import convert_adapter


@click.command(name="convert")
@click.argument("folder", type=FOLDER)
@click.option("-o", "--output", type=FOLDER, help="A new folder. [default: FOLDER-safetensors]")
@format_option
def convert_command(folder: str, output: str | None, style: str) -> None:
    """Turn the pickled weights in FOLDER into safetensors, in a new folder, without running any code in them.

    \b
    Example:
      adapterctl convert ./old-adapter -o ./adapter
    """
    converted = convert_adapter(user_path(folder), None if output is None else user_path(output))
    path = str(converted.folder)
    if not converted.offline:
        say(
            "the pickle was read by a process that could reach the network, since this system doesn't let users prevent that "
            "(user namespaces); convert files that you don't trust on another machine"
        )
    made = f"{converted.tensors} tensors, {human_bytes(converted.size_bytes)}"
    how = f"push it with: adapterctl push {shlex.quote(path)} NAME --base BASE"
    document = {"path": path, "tensors": converted.tensors, "size_bytes": converted.size_bytes}
    print_made(style, document, path, f"{made}; {how}")
