"""`adapterctl export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sdk.cli.completing.kinds import BASE, FILE, REF_OR_FOLDER
from sdk.cli.support.hangup import unwinding
from sdk.cli.support.options import whose_base_options
from sdk.cli.support.output import format_option, human_bytes, print_made, say
from sdk.cli.support.session import open_client
from sdk.schemas.export import ExportReport, PlainLoraReport


@click.command(name="export")
@click.argument("target", type=REF_OR_FOLDER)
@click.option(
    "--to",
    type=click.Choice(["gguf", "lora", "hf"]),
    default="gguf",
    show_default=True,
    help="A GGUF file; the folder of a plain LoRA, one rank and one alpha for all modules; or the folder of a version with a "
    "model card, as a hub shows it.",
)
@click.option("-o", "--output", type=FILE, required=True, help="A new file, FILE.gguf; a new folder for a plain LoRA.")
@click.option(
    "--base",
    type=BASE,
    help="The base that it was trained over, a folder or a registered id: for an adapter in a folder, and for a DoRA.",
)
@whose_base_options
@click.option(
    "--rank",
    type=int,
    help="For a plain LoRA: the rank of each module; lower ones are padded, higher ones truncated. [default: the largest there is]",
)
@click.option(
    "--dtype",
    type=click.Choice(["f32", "f16", "bf16"]),
    help="Type of the numbers. [default: the model's own, or the plain LoRA's where no number changes; otherwise f32]",
)
@click.option(
    "--tokenizer-from",
    type=FILE,
    metavar="GGUF",
    help="For a model: take the tokenizer from this file of the same base.",
)
@click.option("--modelfile", is_flag=True, help="Also write FILE.Modelfile next to it, for Ollama.")
@click.option(
    "--ollama-base", metavar="NAME", help="For an adapter's Modelfile: the base's name in Ollama, or its GGUF file."
)
@click.option(
    "--base-name", metavar="ORG/NAME", help="For a hub: what the base is called there. [default: what is registered]"
)
@click.option(
    "--license", "terms", metavar="NAME", help="For a hub: the licence. [default: that of the base's own model card]"
)
@format_option
def export_command(
    target: str,
    to: str,
    output: str,
    rank: int | None,
    tokenizer_from: str | None,
    modelfile: bool,
    ollama_base: str | None,
    base_name: str | None,
    terms: str | None,
    style: str,
    **given: Any,
) -> None:
    """Write an adapter, or a merged model, for other programs, and read it back.

    \b
    TARGET is a REF, of an adapter or a merged model, the folder of an adapter
    (./DIR, with --base), or of a model.
    --to gguf: for llama.cpp. It takes adapters over Llama, Mistral, Qwen3 and
    Gemma, and models of Llama, Mistral and Qwen3. An export is exact; what can't
    be is refused by name.
    --to hf: the version's folder with a model card, for people. Nothing is sent.
    --to lora: for engines that don't read rank or alpha patterns, rsLoRA, DoRA.
    It is exact except for what --rank cuts, and says how much is kept. A DoRA
    needs --rank, and the files of its base.

    \b
    Examples:
      adapterctl export code-review@v3 -o code-review.gguf
      adapterctl export ./sql --base ./SmolLM2-135M -o sql.gguf --dtype f16
      adapterctl export ./merged -o merged.gguf --modelfile
      adapterctl export code-review@v3 --to lora -o ./plain
      adapterctl export code-review@v3 --to lora --rank 8 -o ./smaller
      adapterctl export code-review@v3 --to hf -o ./card --license apache-2.0
    """
    if to == "hf":
        if any(value for value in (rank, tokenizer_from, modelfile, ollama_base, *given.values())):
            raise click.UsageError("a folder for a hub is the version as it is; give --base-name and --license alone")
        with open_client() as client:
            made = client.versions.export_folder(target, output, base_name=base_name, license=terms)
        for note in made.notes:
            say(f"note: {note}")
        document = {"path": str(made.path), "kind": "folder", "base": made.base, "notes": [*made.notes]}
        print_made(
            style,
            document,
            str(made.path),
            f"README.md is the model card; send it with: hf upload ORG/NAME {made.path}",
        )
        return
    if base_name is not None or terms is not None:
        raise click.UsageError("--base-name and --license are for a hub's model card; give --to hf, or leave them out")
    if to == "lora":
        if tokenizer_from is not None:
            raise click.UsageError("a plain LoRA has no tokenizer; leave --tokenizer-from out")
        if modelfile or ollama_base is not None:
            raise click.UsageError("a Modelfile is of a GGUF file; leave --modelfile and --ollama-base out")
        with unwinding(), open_client() as client:
            plain = client.versions.export_plain(target, output, rank=rank, **given)
        _show(plain.path, "lora", plain.report, _of_lora(plain.report), style)
        return
    if rank is not None:
        raise click.UsageError("a GGUF file takes any rank; leave --rank out, or give --to lora")
    with unwinding(), open_client() as client:
        given |= {"tokenizer_from": tokenizer_from, "modelfile": modelfile, "ollama_base": ollama_base}
        found = client.versions.export(target, output, **given)
    if found.modelfile is not None:
        say(f"for Ollama: ollama create NAME -f {found.modelfile}")
    _show(found.path, found.kind, found.report, _of_gguf(found.kind, found.report), style)


def _show(path: Path, kind: str, report: ExportReport | PlainLoraReport, said: str, style: str) -> None:
    for note in report.notes:
        say(f"note: {note}")
    print_made(style, {"path": str(path), "kind": kind, **report.model_dump(mode="json")}, str(path), said)


def _of_gguf(kind: str, report: ExportReport) -> str:
    pre = f", texts split as {report.pre_tokenizer}" if report.pre_tokenizer else ""
    same = "each number the nearest" if report.rounding else "the same"
    return (
        f"{report.architecture} {kind}, {report.tensors} tensors in {report.dtype}, "
        f"{human_bytes(report.size_bytes)}{pre}; read back and {same}"
    )


def _of_lora(report: PlainLoraReport) -> str:
    kept = "all of ΔW"
    if report.cut:
        least = min(report.kept_by_module, key=lambda name: report.kept_by_module[name])
        kept = (
            f"{report.kept_energy:.4%} of ΔW's energy, at least {report.kept_by_module[least]:.4%} "
            f"({least}), in {report.cut} modules that were truncated"
        )
    return (
        f"plain LoRA of rank {report.rank}, {report.modules} modules in {report.dtype}, "
        f"{human_bytes(report.size_bytes)}; keeps {kept}; read back"
    )
