"""`adapterctl merge`."""

from __future__ import annotations

from typing import Any

import click

from sdk.cli.commands.watch import watch
from sdk.cli.support.output import format_option, human_bytes, print_json, say
from sdk.cli.support.session import open_client
from sdk.config import user_path
from sdk.errors import VerificationFailed
from sdk.objects import MergedModel
from sdk.pulling.folder import require_free
from sdk.schemas.failures import FailureReason


@click.command(name="merge")
@click.argument("ref")
@click.option("-o", "--output", required=True, help="A new folder for the merged model.")
@click.option(
    "--onto",
    type=click.Choice(["auto", "original", "dequantized"]),
    help="Which base weights the adapter is added to: auto measures both and keeps the closer; a 4-bit base has only dequantized. [default: auto]",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "bfloat16", "float16", "float32"]),
    help="The merged model's dtype. [default: the base's]",
)
@click.option(
    "--quantize",
    type=click.Choice(["nf4"]),
    help="Store the merged model's linear weights in 4 bits, as bitsandbytes packs them. [default: no]",
)
@format_option
def merge_command(ref: str, output: str, style: str, **given: Any) -> None:
    """Merge the version that REF names into its base, W' = W + s·B·A, and write the model to a folder.

    What was written is read again: what nothing changes is the base's byte for byte, the rest is computed a second time, and
    fixed texts are held against the base as trained with the adapter. Where that fails, the command exits with 7.

    \b
    Examples:
      adapterctl merge code-review@v3 -o ./merged
      adapterctl merge code-review@v3 -o ./merged-nf4 --quantize nf4
    """
    target = user_path(output)
    require_free(target, replaceable=False)
    with open_client() as client:
        job = client.submit_merge(ref, **{key: value for key, value in given.items() if value is not None})
        say(f"job {job.id} merges {job.view.subject}")
        watch(job)
        if (error := job.error) is not None:
            # What was written and is not what was asked for is no mishap of the job.
            raise VerificationFailed(str(error)) if error.reason == FailureReason.VERIFICATION else error
        merged = job.result()
        if not isinstance(merged, MergedModel):
            raise TypeError("a merge must end with a merged model")
        path = merged.save(target)
    for warning in merged.report.get("warnings", []):
        say(warning)
    if style == "json":
        print_json({"ref": merged.ref, "digest": merged.digest, "path": str(path), "report": merged.report})
        return
    click.echo(str(path))
    if style == "table":
        say(
            f"{human_bytes(merged.manifest.size_bytes)}, merged onto the {merged.report['onto']} weights in {merged.report['dtype']}"
        )
        if (packed := merged.report.get("quantized")) is not None:
            kl = merged.report["metrics"].get(f"logit_kl_{packed['type']}")
            far = "not measured" if kl is None else f"{kl:.2g} nats a token from what was trained"
            say(f"{packed['weights']} weights in {packed['type']}, each off by at most {packed['furthest']:.1%}; {far}")
