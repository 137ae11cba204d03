"""`adapterctl export`."""

from __future__ import annotations

import click

from sdk.cli.support.hangup import unwinding
from sdk.cli.support.output import format_option, human_bytes, print_json, say
from sdk.cli.support.session import open_client
from sdk.schemas.export import GgufDtype


@click.command(name="export")
@click.argument("target")
@click.option(
    "--to", type=click.Choice(["gguf"]), default="gguf", show_default=True, expose_value=False, help="The format."
)
@click.option("-o", "--output", required=True, help="A new file, FILE.gguf.")
@click.option(
    "--base", help="For an adapter in a folder: the base that it was trained over, a folder or a registered id."
)
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "bf16"]),
    help="Type of the numbers. [default: f32 for an adapter, the model's own for a model]",
)
@click.option(
    "--tokenizer-from", metavar="GGUF", help="For a model: take the tokenizer from this file of the same base."
)
@format_option
def export_command(
    target: str,
    output: str,
    base: str | None,
    dtype: GgufDtype | None,
    tokenizer_from: str | None,
    style: str,
) -> None:
    """Write an adapter, or a merged model, as a GGUF file for llama.cpp, and read it back.

    \b
    TARGET is a REF, of an adapter or a merged model, the folder of an adapter
    (./DIR, with --base), or of a model.
    Exported are adapters over Llama, Mistral, Qwen3 and Gemma, and models of
    Llama, Mistral and Qwen3.
    An export is exact; what can't be is refused by name.

    \b
    Examples:
      adapterctl export code-review@v3 -o code-review.gguf
      adapterctl export ./sql --base ./SmolLM2-135M -o sql.gguf --dtype f16
      adapterctl export ./merged -o merged.gguf
    """
    with unwinding(), open_client() as client:
        exported = client.export(target, output, base=base, dtype=dtype, tokenizer_from=tokenizer_from)
    report = exported.report
    for note in report.notes:
        say(f"note: {note}")
    if style == "json":
        print_json({"path": str(exported.path), "kind": exported.kind, **report.model_dump(mode="json")})
        return
    click.echo(str(exported.path))
    if style == "table":
        pre = f", texts split as {report.pre_tokenizer}" if report.pre_tokenizer else ""
        same = "each number the nearest" if report.rounding else "the same"
        say(
            f"{report.architecture} {exported.kind}, {report.tensors} tensors in {report.dtype}, "
            f"{human_bytes(report.size_bytes)}{pre}; read back and {same}"
        )
