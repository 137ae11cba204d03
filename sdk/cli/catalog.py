"""`adapterctl show`, `list`, `versions`, `alias`."""

from __future__ import annotations

from typing import Any

import click

from sdk.cli.output import format_option, human_bytes, print_facts, print_json, print_rows, render, say
from sdk.cli.session import open_client


@click.command(name="show")
@click.argument("ref")
@format_option
def show_command(ref: str, style: str) -> None:
    """Show the version that REF names: base, configuration, data, training, scores, files.

    \b
    Examples:
      adapterctl show code-review@v3
      adapterctl show code-review@production --format json | jq .base.fingerprint
    """
    with open_client() as client:
        version = client.get(ref)
        shown = version.as_dict()
    if style == "json":
        print_json(shown)
    elif style == "quiet":
        click.echo(version.ref)
    else:
        print_facts(_facts(shown))
        if shown["evaluations"]:
            click.echo()
            click.echo(_scores(shown["evaluations"]))


def _facts(shown: dict[str, Any]) -> list[tuple[str, Any]]:
    base, lora, recipe, data = shown["base"], shown["lora"], shown["quantization"], shown["dataset"]
    metrics = shown["metrics"]
    facts = [
        ("ref", shown["ref"]),
        ("digest", f"sha256:{shown['digest']}"),
        ("state", shown["state"]),
        ("aliases", shown["aliases"]),
        ("created", shown["created_at"]),
        ("base", f"{base['id']}{'@' + base['revision'][:12] if base['revision'] else ''} ({base['architecture']})"),
        ("fingerprint", base["fingerprint"]),
        ("lora", f"rank {lora['rank']}, alpha {lora['alpha']:g}, dropout {lora['dropout']:g}"),
        ("targets", lora["target_modules"]),
        (
            "quantised",
            "no"
            if recipe is None
            else f"{recipe['type']}, double {recipe['double_quant']}, {recipe['compute_dtype']} compute",
        ),
        ("size", human_bytes(sum(file["size_bytes"] for file in shown["files"]))),
    ]
    if data is not None:
        facts.append(
            ("data", f"{data['digest'][:12]}, {data['rows']} rows, {data['supervised_tokens']} supervised tokens")
        )
    if "loss" in metrics:
        facts.append(("train loss", metrics["loss"]))
    if "eval_loss" in metrics:
        facts.append(
            ("held-out loss", f"{metrics.get('eval_loss_base', float('nan')):.4g} → {metrics['eval_loss']:.4g}")
        )
    if "train_s" in metrics:
        facts.append(
            ("trained in", f"{metrics['train_s']:.0f} s, peak {human_bytes(metrics.get('peak_memory_bytes', 0))}")
        )
    if shown["job"] is not None:
        facts.append(("job", f"{shown['job']['id']}, attempt {shown['job']['attempt']}"))
    if shown["description"]:
        facts.append(("description", shown["description"]))
    return facts


def _scores(evaluations: list[dict[str, Any]]) -> str:
    rows = [
        [
            item["dataset"][:12],
            item["precision"],
            *(item["metrics"].get(name) for name in ("loss", "perplexity", "rouge_l")),
            item["created_at"],
        ]
        for item in evaluations
    ]
    return render(["dataset", "precision", "loss", "perplexity", "rouge_l", "created"], rows)


@click.command(name="list")
@format_option
def list_command(style: str) -> None:
    """List the adapters that have a version.

    \b
    Example:
      adapterctl list --format json
    """
    with open_client() as client:
        rows = [view.model_dump(mode="json") for view in client.adapters()]
    columns = ["latest", "versions", "base", "updated_at"]
    print_rows(style, rows, columns, key="adapter", empty="no adapters yet; make one with: adapterctl train")


@click.command(name="versions")
@click.argument("name")
@format_option
def versions_command(name: str, style: str) -> None:
    """List the versions of the adapter NAME, the newest first.

    \b
    Example:
      adapterctl versions code-review
    """
    with open_client() as client:
        views = [version.info.model_dump(mode="json") for version in client.versions(name)]
    rows = [
        {
            **{key: view[key] for key in ("ref", "number", "digest", "state", "aliases", "created_at")},
            "base": view["base"]["id"],
            "rank": view["lora"]["rank"],
            "eval_loss": view["metrics"].get("eval_loss"),
        }
        for view in views
    ]
    print_rows(
        style, rows, ["ref", "aliases", "rank", "eval_loss", "base", "created_at"], key="ref", empty="no versions yet"
    )


@click.group(name="alias")
def alias_command() -> None:
    """Point names like 'production' at versions."""


@alias_command.command(name="set")
@click.argument("name")
@click.argument("alias")
@click.argument("version")
@click.option("--expect", help="Move it only if it names this version now: vN, or 0 for none.")
@click.option("--reason", default="", help="Why; kept in the history.")
@format_option
def alias_set(name: str, alias: str, version: str, expect: str | None, reason: str, style: str) -> None:
    """Point ALIAS of the adapter NAME at VERSION.

    \b
    Example:
      adapterctl alias set code-review production v3 --expect v2
    """
    with open_client() as client:
        moved = client.set_alias(name, alias, version, expect=expect, reason=reason)
    if style == "json":
        print_json(moved.model_dump(mode="json"))
    else:
        say(f"{name}@{alias} names {moved.ref}")
        click.echo(moved.ref)


@alias_command.command(name="list")
@click.argument("name")
@format_option
def alias_list(name: str, style: str) -> None:
    """List the aliases of the adapter NAME.

    \b
    Example:
      adapterctl alias list code-review
    """
    with open_client() as client:
        rows = [view.model_dump(mode="json") for view in client.aliases(name)]
    print_rows(
        style,
        rows,
        ["alias", "ref", "moved_by", "moved_at"],
        key="alias",
        empty=f"no aliases; set one: adapterctl alias set {name}",
    )
