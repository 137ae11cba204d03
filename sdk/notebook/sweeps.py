"""A sweep as a notebook shows it: what the registry last said."""

from __future__ import annotations

from sdk.formats.html_tables import facts, page, table
from sdk.schemas.sweeps import SweepView


def sweep_page(view: SweepView) -> str:
    """Return a sweep as a table of what is known of it, and of its members."""
    named: list[tuple[str, object]] = [
        ("id", view.id),
        ("state", str(view.state)),
        ("members", ", ".join(f"{count} {state}" for state, count in view.counts.items())),
        ("winner", view.ref or view.winner),
        ("message", view.message),
        ("created", view.created_at),
    ]
    members = [[one.number, one.setting, one.state, one.metrics.get("eval_loss"), one.ref] for one in view.members]
    made = table("Members", ["number", "setting", "state", "held-out loss", "ref"], members) if members else ""
    return page(facts(f"Sweep of {view.adapter}: {view.state}", [one for one in named if one[1]]), made)
