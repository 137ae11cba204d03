"""`adapterctl merge` and `combine`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from sdk.cli.commands.watch import result_of, watch_all
from sdk.cli.completing.kinds import ADAPTER, FOLDER, REF
from sdk.cli.support.output import format_option, human_bytes, print_detached, print_json, print_one, say
from sdk.cli.support.records import print_facts
from sdk.cli.support.session import expecting_job, open_client
from sdk.cli.support.spec_options import spec_options
from sdk.config import user_path
from sdk.errors import InvalidInput, VerificationFailed
from sdk.objects import Job, MergedModel
from sdk.pulling.folder import require_free
from sdk.schemas.combination import CombineSpec
from sdk.schemas.evaluation import UNMEASURED, MergeSpec
from sdk.schemas.failures import FailureReason


@click.command(name="merge")
@click.argument("ref", type=REF)
@click.option("-o", "--output", type=FOLDER, help="A new folder for the merged model.")
@click.option("--register", type=ADAPTER, metavar="NAME", help="Make it the next version of NAME, of the kind merged.")
@spec_options(MergeSpec)
@click.option("--detach", is_flag=True, help="Submit and return at once; then: adapterctl jobs result JOB -o DIR.")
@format_option
def merge_command(ref: str, output: str | None, register: str | None, detach: bool, style: str, **given: Any) -> None:
    """Merge the version that REF names into its base, W' = W + s·B·A, and write the model to a folder or register it.

    What was written is read back: tensors that nothing changes must be the base's byte for byte, the others are computed a
    second time, and fixed texts are compared with the base as trained with the adapter. If that fails, the exit code is 7.
    With --no-measure the texts are left out, and the model's record says that its predictions were not measured.

    A registered model is pulled, shown and given aliases as any version, and is of the kind merged: NAME can't have adapters.
    Prints the folder, or else the version's ref.

    \b
    Examples:
      adapterctl merge code-review@v3 -o ./merged
      adapterctl merge code-review@v3 -o ./merged-nf4 --quantize nf4
      adapterctl merge code-review@v3 --register code-review-merged
      adapterctl merge code-review@v3 --detach
    """
    if output is None and register is None and not detach:
        raise click.UsageError(
            "say where the model goes: to a folder with -o DIR, or into the registry with --register NAME"
        )
    if output is not None and detach:
        raise click.UsageError("nobody waits to write -o; leave it out, then: adapterctl jobs result JOB -o DIR")
    target = None if output is None else user_path(output)
    if target is not None:
        require_free(target, replaceable=False)
    chosen = {key: value for key, value in {**given, "register": register}.items() if value is not None}
    with expecting_job(_module_for(chosen)), open_client() as client:
        job = client.submit_merge(ref, **chosen)
        if detach:
            print_detached(style, job)
            return
        say(f"job {job.id} merges {job.view.subject}")
        watch_all([job])
        require_merged(job)
        hand_out(job, target, style)


def _module_for(chosen: Mapping[str, Any]) -> str | None:
    """Return the pipeline's module that is enough for a merge with these options, if it is a plain one; None: all are needed."""
    if any(chosen.get(name, plain) != plain for name, plain in (("dtype", "auto"), ("quantize", None))):
        return None
    return "merging.merge"


def require_merged(job: Job[MergedModel]) -> None:
    """Raise VerificationFailed if the written model is not what was asked for, which is not an accident of the job, or
    else JobFailed.
    """
    if (error := job.error) is not None:
        raise VerificationFailed(error.message) if error.reason == FailureReason.VERIFICATION else error


def hand_out(job: Job[MergedModel], target: Path | None, style: str) -> None:
    """Write the model of a successful merge into a new folder, if one is given, and print where it is."""
    merged = job.result()
    path = None if target is None else merged.save(target)
    for warning in merged.report.get("warnings", []):
        say(warning)
    if style == "json":
        place = {} if path is None else {"path": str(path)}
        version = {} if merged.registered is None else {"version": merged.registered, "existing": merged.existing}
        print_json({"ref": merged.ref, "digest": merged.digest, **place, **version, "report": merged.report})
        return
    if merged.existing:
        say("the same bytes were there already")
    if path is None and merged.registered is None:
        print_one(style, {}, merged.digest, lambda: print_facts(_report(merged)))
        say(f"write the model into a folder with: adapterctl jobs result {job.id} -o DIR")
        return
    click.echo(merged.registered if path is None else str(path))
    if path is not None and merged.registered is not None:
        say(f"registered as {merged.registered}")
    if style == "table":
        say(
            f"{human_bytes(merged.manifest.size_bytes)}, merged onto the {merged.report['onto']} weights in {merged.report['dtype']}"
        )
        if (merged.report.get("read_back") or {}).get("prompts") == UNMEASURED:
            say("its predictions were not measured; without --no-measure they are compared with what was trained")
        if (packed := merged.report.get("quantized")) is not None:
            kl = merged.report["metrics"].get(f"logit_kl_{packed['type']}")
            far = "not measured" if kl is None else f"{kl:.2g} nats per token from what was trained"
            say(f"{packed['weights']} weights in {packed['type']}, each off by at most {packed['furthest']:.1%}; {far}")


def _report(merged: MergedModel) -> list[tuple[str, Any]]:
    """Name and value of what a merge reports: how it was made, how far its predictions are, what was read back."""
    report = merged.report
    said = [("ref", merged.ref), ("digest", merged.digest), ("size", human_bytes(merged.manifest.size_bytes))]
    said += [("onto", f"the {report['onto']} weights"), ("dtype", report["dtype"])]
    said += [(name.replace("_", " "), value) for name, value in (report.get("metrics") or {}).items()]
    read_back = report.get("read_back") or {}
    said += [(f"read back {name}".replace("_", " "), value) for name, value in read_back.items()]
    return [*said, *(("warning", warning) for warning in report.get("warnings", []))]


@click.command(name="combine", short_help="Combine versions of one base by a weighted sum, into a version.")
@click.argument("name", type=ADAPTER)
@click.argument("parents", type=REF, metavar="REF=WEIGHT…", nargs=-1, required=True)
@spec_options(CombineSpec)
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
            print_detached(style, job)
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
