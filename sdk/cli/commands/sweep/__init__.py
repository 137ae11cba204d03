"""`adapterctl sweep NAME`, which begins a sweep, and `adapterctl sweep list|show|pause|go|cancel`."""

from __future__ import annotations

from sdk.cli.commands.sweep.begin import sweep_command
from sdk.cli.commands.sweep.manage import sweep_cancel, sweep_go, sweep_list, sweep_pause, sweep_show

for _command in (sweep_list, sweep_show, sweep_pause, sweep_go, sweep_cancel):
    sweep_command.add_command(_command)

__all__ = ["sweep_command"]
