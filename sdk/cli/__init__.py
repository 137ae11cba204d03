"""`adapterctl`: one small function for each command, loaded when it is called; errors are mapped by one table.

Only click is imported here, so that `--version` and `--help` answer at once.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Any, NoReturn

import click

from sdk.cli.whole_words import WholeWords
from sdk.imports import nothing_collected

# Each command makes contexts of its own, so this is where all of them get it.
click.Context.formatter_class = WholeWords

#: Command to (module, help). The help is here so that listing the commands loads none of them.
COMMANDS: dict[str, tuple[str, str]] = {
    "example": ("example", "Write an example: a base, rows, options, and a page to follow."),
    "train": ("train", "Train an adapter over a base, and watch it."),
    "sweep": ("sweep", "Train with several settings, and find out which is the best."),
    "plot": ("plot", "Draw the curves of trainings, or a sweep, as SVG or PNG."),
    "plan": ("plan", "Estimate a training's memory, the GPUs it fits, and what to choose."),
    "push": ("artifacts", "Publish an adapter from a folder that PEFT wrote."),
    "convert": ("convert", "Turn pickled weights into safetensors."),
    "pull": ("pull", "Fetch a version's folder, ready for PEFT and vLLM."),
    "verify": ("pull", "Hash a version or a pulled folder again."),
    "sign": ("signing", "Sign a version with a key of yours."),
    "show": ("show", "Show a version with its lineage."),
    "list": ("catalog", "List adapters."),
    "versions": ("catalog", "List the versions of an adapter."),
    "search": ("search", "Find versions by base, rank, data, scores or tags."),
    "lineage": ("lineage", "Draw what a version was made from, and what was made from it."),
    "diff": ("diff", "Compare two versions: settings, scores and weights."),
    "compat": ("compat", "Say whether an inference engine can serve a version."),
    "alias": ("aliases", "Point names like 'production' at versions."),
    "promote": ("promotion.promote", "Point an alias at the version that a ref names, if its policies hold."),
    "rollback": ("promotion.promote", "Point an alias back at the version it named before."),
    "policy": ("promotion.policy", "Say what must hold before an alias moves."),
    "approve": ("promotion.approve", "Approve of a version for an alias."),
    "disapprove": ("promotion.approve", "Keep an alias from moving to a version."),
    "approvals": ("promotion.approve", "List approvals and vetoes, and withdraw your own."),
    "decisions": ("promotion.decisions", "List and show what was decided about aliases."),
    "annotate": ("removal", "Add a description, tags or a note to a version."),
    "copy": ("copy", "Make a version one of another adapter too, with its past."),
    "archive": ("removal", "Hide a version from lists and `latest`."),
    "restore": ("removal", "Bring an archived version back."),
    "delete": ("removal", "Delete a version for good."),
    "release": ("removal", "Release a quarantined version, giving it a number."),
    "generate": ("generate", "Ask a version something."),
    "chat": ("chat", "Talk to a version, or to two side by side."),
    "eval": ("evaluate", "Score versions and bare bases on the same rows."),
    "evals": ("evals", "List and show scores that were recorded."),
    "compare": ("compare", "Say which of several versions scores better on the same rows."),
    "report": ("report", "Write what there is to know of versions into one file to send."),
    "merge": ("merge", "Merge a version into its base."),
    "combine": ("merge", "Combine versions of one base by a weighted sum, into a version."),
    "export": ("export", "Write an adapter or a merged model as GGUF."),
    "base": ("bases", "Add and list bases."),
    "data": ("data", "Add, check, preview, list and remove datasets."),
    "jobs": ("jobs", "List, watch, cancel and retry jobs; print what they made."),
    "workers": ("workers", "List the workers that the registry has heard from."),
    "capacity": ("workers", "Show which jobs wait and run, and which workers could take them."),
    "cache": ("cache", "List, verify and prune the local cache."),
    "retention": ("removal", "Set which versions of an adapter `gc` keeps."),
    "gc": ("removal", "Remove files that nothing refers to any more."),
    "token": ("tokens", "Create, list and revoke tokens."),
    "quota": ("quotas", "Show and set a namespace's quotas."),
    "audit": ("audit", "List who changed what, and when."),
    "serve": ("serve", "Serve versions to OpenAI's clients, and follow their aliases."),
    "ui": ("ui", "Open the registry's pages in a browser."),
    "up": ("stack", "Start a registry with workers on this machine."),
    "down": ("stack", "Stop what `up` started; the data stays."),
    "status": ("stack", "Show the parts that `up` started."),
    "logs": ("stack", "Print the logs of what `up` started."),
    "login": ("login", "Remember a registry's URL and token."),
    "logout": ("login", "Forget the registry's URL and token."),
    "whoami": ("login", "Show who you are to the registry, and what you may do."),
    "config": ("config", "Show what is configured, and where it is from."),
    "completion": ("completion", "Print the completion script for a shell."),
    "help": ("help", "Show the help of a command."),
    "version": ("help", "Show the version of this program."),
}

#: Under which titles the help lists them; one that is not here stands under "Other".
GROUPS: dict[str, tuple[str, ...]] = {
    "Train": ("example", "train", "sweep", "plot", "plan", "data", "base", "jobs", "workers", "capacity"),
    "Versions": (
        *(
            "push",
            "pull",
            "show",
            "list",
            "versions",
            "search",
            "lineage",
            "diff",
            "copy",
            "annotate",
            "archive",
            "restore",
        ),
        *("delete", "release", "retention", "verify", "sign"),
    ),
    "Score and compare": ("eval", "evals", "compare", "report", "generate", "chat"),
    "Promote": ("alias", "promote", "rollback", "policy", "approve", "disapprove", "approvals", "decisions"),
    "Deliver": ("serve", "merge", "combine", "export", "convert", "compat"),
    "Registry": ("login", "logout", "whoami", "config", "token", "quota", "audit", "gc", "cache", "ui"),
    "This machine": ("up", "down", "status", "logs", "completion", "help", "version"),
}


_WIDEST = max(map(len, COMMANDS))


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which they are typically used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in COMMANDS:
            return None
        with nothing_collected():
            module = importlib.import_module(f"sdk.cli.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        listed = {name for names in GROUPS.values() for name in names}
        others = tuple(name for name in COMMANDS if name not in listed)
        for title, names in {**GROUPS, **({"Other": others} if others else {})}.items():
            with formatter.section(title):
                # Texts begin in one column, whatever the longest name of a group is.
                formatter.write_dl([(f"{name:<{_WIDEST}}", COMMANDS[name][1]) for name in names if name in COMMANDS])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest command for a mistyped one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see: adapterctl --help"
            raise click.UsageError(f"there is no command {name!a}; {hint}", ctx)
        return super().resolve_command(ctx, args)


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"adapterctl {version('adapterctl')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
@click.option("--insecure", is_flag=True, help="Accept plain http to other machines.")
@click.option("--verbose", is_flag=True, help="Say what the registry is asked, and show errors in full.")
def cli(insecure: bool, verbose: bool) -> None:
    """Train, version, evaluate, merge and deliver LoRA adapters.

    \b
    The registry is the one in ADAPTERCTL_URL: a server's URL, or local:DIR for a
    folder on this machine (default local:~/.adapterctl, which needs no server).

    \b
    Examples:
      adapterctl train code-review --base ./SmolLM2-135M --data reviews.jsonl
      adapterctl eval code-review@v1 base:SmolLM2-135M --data heldout.jsonl
      adapterctl alias set code-review production v1
      adapterctl pull code-review@production -o ./adapter
    """
    if insecure:
        from sdk.config import accept_plain_http

        accept_plain_http()
    if verbose:
        from sdk.config import show_details

        show_details()


def _stand_in_for_closed_streams() -> None:
    """Open streams that the caller has closed (`>&-`) on the null device: otherwise a file would get their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # This takes the lowest free number; those below are open by now.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def main() -> None:
    """The entry point: every error becomes one line, or one JSON document, and an exit code.

    If it can't be written because the terminal is gone, the process ends as if by SIGHUP.
    """
    _stand_in_for_closed_streams()
    if "_ADAPTERCTL_COMPLETE" in os.environ:
        from sdk.cli.completing.answering import answer

        answer()
    try:
        _run()
    except OSError as error:
        from sdk.cli.support.hangup import hang_up, lost_terminal

        if not lost_terminal(error):
            raise
        hang_up()


def _run() -> NoReturn:
    try:
        result: Any = cli.main(prog_name="adapterctl", standalone_mode=False)
    except Exception as error:  # noqa: BLE001 - the one handler; it shows what it does not know in full on request
        from sdk.cli.support.failures import leave

        leave(error)
    except SystemExit:
        # Click ends with 1 where the reader of our output has gone, as `head` does, and leaves this in its place.
        if not type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            raise
        from sdk.cli.support.failures import leave

        leave(BrokenPipeError())
    except KeyboardInterrupt:
        click.echo("\ninterrupted", err=True)
        sys.exit(130)
    # At exit Python would collect garbage once more, which is freed with the process anyway: 0.1 of 2.0 s of the
    # processor for `list` over a folder.
    gc.freeze()
    sys.exit(result if isinstance(result, int) else 0)
