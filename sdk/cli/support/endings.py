"""What stays of a training when it has ended: its curve, and five lines."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import click

from sdk.cli.support.curves import curve_lines
from sdk.cli.support.output import human_bytes, human_duration, say
from sdk.plotting.curves import LOSS
from sdk.schemas.training_warnings import held_out_losses
from sdk.schemas.version_facts import held_out_preferences

if TYPE_CHECKING:
    from sdk.plotting.curves import Curve
    from sdk.schemas.jobs import JobView


def say_ending(view: JobView, curve: Curve | None, *, drawn: bool = True) -> None:
    """Say on stderr how a training ended: with its curve on a terminal, and in lines for anybody."""
    result = view.result or {}
    if "ref" not in result:
        return
    if drawn:
        for line in curve_lines(curve, sys.stderr):
            click.echo(line, err=True)
    changing = any(one.get("changes") for one in result.get("advice", ()))
    again = f"adapterctl jobs retry {view.id} --advice" if changing else None
    for line in ending_lines(str(result["ref"]), result.get("metrics") or {}, curve, again=again):
        say(line)


def ending_lines(ref: str, metrics: Mapping[str, float], curve: Curve | None, *, again: str | None = None) -> list[str]:
    """Return what is left to know of a training: loss, held-out loss, time, memory, and what to do next: `again`, the command
    that runs it as it is advised, if there is one.

    >>> metrics = {"first_loss": 3.25, "last_loss": 1.5, "eval_loss_base": 3.0, "eval_loss": 1.75, "train_s": 750.0,
    ...            "tokens_per_s": 1234.0, "peak_memory_bytes": 2.5e9, "forecast_bytes": 3e9}
    >>> print(*ending_lines("sql@v3", metrics, None), sep="\\n")
    loss      3.25 → 1.5
    held-out  3 → 1.75
    time      12 min, 1,234 tokens/s
    memory    2.5 GB at most; 3.0 GB were forecast
    next      adapterctl show sql@v3
    >>> worse = {**metrics, "eval_loss_best": 1.5, "eval_loss_end": 1.75, "eval_margin_low": 0.125}
    >>> print(ending_lines("sql@v3", worse, None)[1])
    held-out  3 → 1.5 (best) → 1.75: worse since then
    """
    said = {
        "loss": _loss(metrics, curve),
        "held-out": _held_out(metrics, curve),
        "time": _time(metrics),
        "memory": _memory(metrics),
        "next": again or _next(ref, metrics),
    }
    return [f"{name:<8}  {text}" for name, text in said.items() if text]


def _loss(metrics: Mapping[str, float], curve: Curve | None) -> str:
    trained = None if curve is None else curve[LOSS]
    first = metrics.get("first_loss", math.nan if trained is None else trained.mean[0])
    last = metrics.get("last_loss", metrics.get("loss", math.nan))
    steps = "" if trained is None else f" in {trained.step[-1]} step{'' if trained.step[-1] == 1 else 's'}"
    if math.isnan(last):
        return f"unknown{steps}"
    return (f"{last:.4g}" if math.isnan(first) else f"{first:.4g} → {last:.4g}") + steps


def _held_out(metrics: Mapping[str, float], curve: Curve | None) -> str:
    """Before, best if that is known and not the last, and after, with a word if it got worse."""
    losses = held_out_losses(metrics)
    if losses is None:
        return "no rows; give some: --eval-data FILE"
    before, after = losses
    best, end = metrics.get("eval_loss_best", after), metrics.get("eval_loss_end", after)
    kept = curve is not None and curve.kept
    said = " → ".join([f"{before:.4g}", *_turning(best, end, curve, kept=kept), *([] if kept else [f"{after:.4g}"])])
    if f"{after:.4g}" != f"{before:.4g}" and after > before:
        said += ": worse than before the training"
    elif metrics.get("eval_margin_low", 0.0) > 0:
        # By paired rows, and never by two means.
        said += f"; at the end {end:.4g}, which is worse" if kept else ": worse since then"
    preferred = held_out_preferences(metrics)
    return said if preferred is None else f"{said}; {preferred}"


def _turning(best: float, end: float, curve: Curve | None, *, kept: bool) -> Iterator[str]:
    at = "" if curve is None or curve.best_step is None else f"step {curve.best_step}"
    if kept:
        yield f"{best:.4g} ({', '.join(part for part in (at, 'kept') if part)})"
    elif f"{best:.4g}" != f"{end:.4g}":
        yield f"{best:.4g} ({at or 'best'})"


def _time(metrics: Mapping[str, float]) -> str:
    if "train_s" not in metrics:
        return ""
    speed = f", {metrics['tokens_per_s']:,.0f} tokens/s" if "tokens_per_s" in metrics else ""
    looks = (
        f", and {human_duration(metrics['look_s'])} for looks at held-out rows" if metrics.get("look_s", 0) >= 1 else ""
    )
    took = metrics["train_s"]
    return f"{f'{took:.1f} s' if took < 10 else human_duration(took)}{speed}{looks}"


def _memory(metrics: Mapping[str, float]) -> str:
    if "peak_memory_bytes" not in metrics:
        return ""
    forecast = f"; {human_bytes(metrics['forecast_bytes'])} were forecast" if "forecast_bytes" in metrics else ""
    return f"{human_bytes(metrics['peak_memory_bytes'])} at most{forecast}"


def _next(ref: str, metrics: Mapping[str, float]) -> str:
    losses = held_out_losses(metrics)
    if losses is None:
        return f"adapterctl eval {ref} --data FILE, with unseen rows"
    before, after = losses
    surely_worse = metrics.get("eval_margin_low", 0.0) > 0 and after > metrics.get("eval_loss_best", after)
    if surely_worse or after > before:
        return f"adapterctl plot {ref} -o curve.svg, to see where it turned"
    return f"adapterctl show {ref}"
