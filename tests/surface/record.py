"""Write the public surface of this tree into a folder: two folders that are equal show that nothing public changed.

    PYTHONPATH=tests:. python -m surface.record FOLDER

writes the OpenAPI document (`openapi.json`), the help of every command (`help/`), what the command line answers over
small registries (`calls/`: arguments, exit code, stdout, stderr), and records as they are sent and hashed (`records/`).
For another commit, copy `tests/surface` and `tests/support/small.py` into its tree, run it there with the same Python
environment, and compare:

    diff -r FOLDER OTHER

Only what users reach is used: the scripts, the server's own document, and `sdk.schemas` by the names of its classes.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from surface.calls import record_calls
from surface.records import record_records

#: Each script's group of commands.
GROUPS = {"adapterctl": "sdk.cli", "adapter-registry": "registry.ops.cli", "adapter-worker": "workers.entry.cli"}
WIDTH = 80


def main() -> int:
    """Record everything; return 0."""
    out = Path(sys.argv[1]).resolve()
    out.mkdir(parents=True)
    record_helps(out / "help")
    record_records(out / "records")
    # Names of one length: tables are as wide in each run.
    with tempfile.TemporaryDirectory(prefix="surface-") as folder:
        document = record_calls(out / "calls", Path(folder).resolve())
    (out / "openapi.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return 0


def record_helps(out: Path) -> None:
    """Write the help of each command into a file of its own."""
    out.mkdir()
    for script, module in GROUPS.items():
        for path, text in helps(importlib.import_module(module).cli, script):
            (out / f"{path.replace(' ', '-')}.txt").write_text(text + "\n")


def helps(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Yield the path of a command and of all below it, each with its help."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH, **command.context_settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from helps(found, below, context)


if __name__ == "__main__":
    sys.exit(main())
