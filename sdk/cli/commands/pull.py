"""`adapterctl pull`, `verify`. Little is imported, since most of a pull's time is spent on starting."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import BASE, FILE, FOLDER, REF, REF_OR_FOLDER
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed, no_header_option
from sdk.cli.support.options import whose_base_options
from sdk.cli.support.output import format_option, human_bytes, print_json, print_made, print_one, say
from sdk.cli.support.session import open_client, open_puller
from sdk.config import user_path
from sdk.formats.refs import is_folder

if TYPE_CHECKING:
    from sdk.pulling.puller import Pulled, Puller, PullPlan
    from sdk.pulling.signed_aliases import AliasSigner


_FILES = Listing(ListColumn("path"), ListColumn("size", "size_bytes"), ListColumn("cached"), key="path")


@click.command(name="pull")
@click.argument("ref", type=REF)
@click.option(
    "-o", "--output", type=FOLDER, help="A new folder, or one that was pulled before. [default: a folder in the cache]"
)
@click.option("--base", type=BASE, help="Check that the version belongs to this base: a folder or a registered id.")
@whose_base_options
@click.option(
    "--base-name",
    metavar="auto|keep|NAME",
    help="With -o: the base in the copy's config: auto is its folder here, else its name at a hub; keep changes nothing; or "
    "a path or name. [default: auto]",
)
@click.option(
    "--verify-with", type=FILE, metavar="KEY", help="Fail unless it is signed by this public key, a PEM file."
)
@click.option(
    "--require-signed-alias",
    type=FILE,
    metavar="KEY",
    help="Fail unless this public key, a PEM file or a folder of them, has signed that the alias names this.",
)
@click.option("--max-age", metavar="AGE", help="With --require-signed-alias: refuse older statements. [default: 7d]")
@click.option("--dry-run", is_flag=True, help="Only show the files, their sizes and what is cached.")
@click.option("--offline", is_flag=True, help="Use only the cache; REF must be a version or digest.")
@click.option("--frozen", is_flag=True, help="Refuse a REF that may move; it must be a version or digest.")
@listed(_FILES)
def pull_command(
    ref: str,
    output: str | None,
    base: str | None,
    base_name: str | None,
    verify_with: str | None,
    require_signed_alias: str | None,
    max_age: str | None,
    dry_run: bool,
    offline: bool,
    frozen: bool,
    style: str,
    **whose: Any,
) -> None:
    """Fetch the version that REF names, and print its folder.

    \b
    REF is NAME@vN, NAME@ALIAS, NAME@latest, NAME@sha256:DIGEST, NAME for the
    latest, or sweep:ID/N for a sweep's member. With -o, PEFT loads the folder
    from anywhere; the cache's folder has the version's own bytes. An
    interrupted pull continues where it broke.

    \b
    Examples:
      adapterctl pull code-review@v3
      adapterctl pull code-review@production -o ./adapter
      adapterctl pull code-review@v3 -o ./a --verify-with KEY.pub.pem --frozen
      adapterctl pull code-review@production --require-signed-alias KEY.pub.pem
    """
    if offline and base is not None:
        raise click.UsageError("--base has to ask the registry, which --offline rules out; give one of the two")
    target = None if output is None else user_path(output)
    if base is None and any(said is not None for said in whose.values()):
        raise click.UsageError("--base-namespace and --published say whose base is meant; give --base too")
    signer = _signer(require_signed_alias, max_age)
    if base is not None:
        ref = _over(ref, base, frozen, signer, whose)
        # The alias was looked at; now it is pulled by its digest.
        signer = None
    with open_puller(offline=offline) as puller:
        if dry_run:
            _show_plan(puller.plan(ref, target, offline=offline, frozen=frozen, alias_signer=signer), style)
            return
        pulled = puller.pull(
            ref,
            target,
            offline=offline,
            frozen=frozen,
            base_name=base_name,
            verify_with=verify_with,
            alias_signer=signer,
        )
        remarks = _how_to_load(puller, pulled, copied=target is not None, asks=not offline and style == "table")
    _show(pulled, style, remarks)


def _signer(key: str | None, max_age: str | None) -> AliasSigner | None:
    if key is None:
        if max_age is not None:
            raise click.UsageError("--max-age belongs to --require-signed-alias; give both")
        return None
    from sdk.pulling.signed_aliases import AliasSigner

    return AliasSigner.of(key, max_age or "7d")


def _over(ref: str, base: str, frozen: bool, signer: AliasSigner | None, whose: dict[str, Any]) -> str:
    """Return the version's ref by digest, or the member's of a sweep, if it belongs to this base. Raises VerificationFailed if
    it belongs to another.
    """
    from sdk.schemas.catalog import KEPT

    with open_client() as client:
        version = client.get(client.puller.resolve(ref, frozen=frozen, alias_signer=signer).ref)
        client.versions.require_base(version, base, **whose)
    return version.ref if version.info.state == KEPT else f"{version.info.adapter}@sha256:{version.digest}"


def _how_to_load(puller: Puller, pulled: Pulled, *, copied: bool, asks: bool) -> list[str]:
    """Say which base the copy names, or, on a terminal, how the cache's folder is loaded, whose config names the base as
    the registry does.
    """
    if copied and pulled.base_name is None:
        return []
    if copied and not pulled.base_known and "/" in str(pulled.base_name):
        # A hub may have it under this name.
        return []
    if copied and not pulled.base_known:
        return [
            f"its base {pulled.base_name} is not on this machine; to load the folder in PEFT, pull it again with "
            "--base-name and the base's path, or its name at a hub"
        ]
    if copied:
        renamed = pulled.base_name != pulled.own_base_name
        return [f"its base is {pulled.base_name}; with --base-name keep, {pulled.own_base_name}"] if renamed else []
    if not asks or not sys.stderr.isatty():
        return []
    base = puller.base_name_for(puller.resolve(pulled.ref))
    return (
        []
        if base is None
        else [
            f"load it with: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), {str(pulled.path)!r})"
        ]
    )


def _show(pulled: Pulled, style: str, remarks: Sequence[str]) -> None:
    path = str(pulled.path)
    print_made(style, {"ref": pulled.ref, "digest": pulled.digest, "path": path}, path, *remarks)


def _show_plan(plan: PullPlan, style: str) -> None:
    files = [asdict(file) for file in plan.files]
    if style == "json":
        totals = {"size_bytes": plan.size_bytes, "fetch_bytes": plan.fetch_bytes}
        print_json({"ref": plan.ref, "digest": plan.digest, "files": files, **totals})
        return
    _FILES.print(style, files, empty="it has no files")
    if style == "table":
        say(f"{plan.ref}: {human_bytes(plan.size_bytes)}, of which {human_bytes(plan.fetch_bytes)} would be fetched")


@click.command(name="verify")
@click.argument("target", type=REF_OR_FOLDER)
@click.option(
    "--verify-with", type=FILE, metavar="KEY", help="Fail unless it is signed by this public key, a PEM file."
)
@click.option(
    "--probe", is_flag=True, help="Also measure again what it does to its base, and compare that with the record."
)
@click.option(
    "--base",
    type=BASE,
    metavar="DIR",
    help="With --probe: the folder of its base. [default: where it is on this machine]",
)
@click.option(
    "--record",
    "records",
    is_flag=True,
    help="With --probe: record what was found, for policies that ask for it, and for serving.",
)
@format_option
@no_header_option
def verify_command(
    target: str, verify_with: str | None, probe: bool, base: str | None, records: bool, style: str
) -> None:
    """Hash a pulled folder again (./DIR), or fetch a version (REF) and hash it.

    Any file that was altered, added, removed or renamed is an error, and so is a signature by another key or for
    another version. With --probe, the norm of every module's update is computed from
    the fetched bytes, and predictions on fixed texts are computed over the base; any difference from the record is an error.
    With --record the registry keeps what was found, also a difference, for policies that ask that another worker has
    measured it again; and what the version answers to fixed prompts, by which `serve` proves that an engine has loaded it: of
    a version that was trained here, its training has recorded that.

    \b
    Examples:
      adapterctl verify ./adapter
      adapterctl verify ./adapter --verify-with KEY.pub.pem
      adapterctl verify code-review@v3
      adapterctl verify code-review@v3 --probe --base ./SmolLM2-135M-Instruct
      adapterctl verify code-review@v3 --probe --record
    """
    if base is not None and not probe:
        raise click.UsageError("--base belongs to --probe")
    if records and not probe:
        raise click.UsageError("--record belongs to --probe")
    if probe and (is_folder(target) or Path(target).is_dir()):
        raise click.UsageError("--probe holds a version against its record: give its REF, not a folder")
    key = None if verify_with is None else user_path(verify_with)
    renamed = None
    if is_folder(target) or Path(target).is_dir():
        from sdk.pulling.folder import renamed_base
        from sdk.pulling.verification import verify_pulled

        manifest = verify_pulled(user_path(target), key)
        renamed = renamed_base(user_path(target))
    else:
        from sdk.names import parse_ref

        with open_client() as client:
            if probe:
                from sdk.examining.probe_replay import require_probed

                require_probed(client.puller.resolve(str(parse_ref(target))))
            manifest = client.versions.verify(target, verify_with=key)
            if probe:
                # An alias may move meanwhile, so the verified version is the one that is replayed.
                exact = f"{parse_ref(target).adapter}@sha256:{manifest.digest}"
                from sdk.cli.support.replayed_probe import print_replay

                replayed = client.versions.replay_probe(exact, base=base, answers=records)
                print_replay(replayed, style, record=client.versions.record_probe if records else None)
                return
    document = {"digest": manifest.digest, "files": len(manifest.files), "ok": True, "signed": key is not None}
    if renamed is not None:
        document["base_name"], document["own_base_name"] = renamed
    signed = "" if key is None else f", signed by {verify_with}"
    whole = f"whole: {len(manifest.files)} files, sha256:{manifest.digest}{signed}"
    print_one(style, document, manifest.digest, lambda: _print_whole(whole, renamed))


def _print_whole(whole: str, renamed: tuple[str, str | None] | None) -> None:
    click.echo(whole)
    if renamed is not None:
        here, own = renamed
        say(f"base_model_name_or_path differs, as the pull has recorded: {here} in this copy, {own} in the version")
