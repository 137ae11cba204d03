"""`adapterctl jobs list|show|checkpoints`: the state of jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.commands.watch import COLOURS, count_of, standing_of
from sdk.cli.completing.kinds import JOB
from sdk.cli.support.columns import ListColumn, measured
from sdk.cli.support.curves import curve_lines, curve_of
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.output import (
    format_option,
    human_bytes,
    is_piped,
    print_one,
    say,
)
from sdk.cli.support.records import print_facts, print_gap, print_listing
from sdk.cli.support.session import open_client
from sdk.cli.support.spec_options import shown_value
from sdk.errors import NotFound
from sdk.objects import scored_beside
from sdk.schemas.advice import changes_of
from sdk.schemas.jobs import AttemptView, CheckpointView, JobState, JobView
from sdk.schemas.planning import Forecast
from sdk.schemas.series import MOST_BUCKETS
from sdk.schemas.version_records import changes_said

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.plotting.curves import Curve

#: How many checkpoints `show` lists.
_SHOWN = 5
#: How many parts of a forecast are shown, the largest ones.
_PARTS = 3


_JOBS = Listing(
    ListColumn("id"),
    ListColumn("state", importance=8),
    ListColumn("kind", importance=6),
    ListColumn("subject", lambda view: sweep_of(view) or view.subject.split(), 7),
    ListColumn("made", lambda view: _made(view) if view.state is JobState.SUCCEEDED else None, 6),
    ListColumn("note", lambda view: note_of(view), 5),
    ListColumn("tries", lambda view: view.attempt or None, 1, usual=1),
    ListColumn("failures", importance=2, usual=0),
    ListColumn("created", "created_at", 3),
    *(ListColumn(name, importance=0) for name in ("queue", "priority", "worker", "reason", "message")),
    key="id",
)


@click.command(name="list")
@click.option("--state", type=click.Choice([state.value for state in JobState]))
@click.option("--queue", type=click.Choice(["gpu", "cpu"]), help="Only jobs in this queue.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@listed(_JOBS)
def jobs_list(state: str | None, queue: str | None, limit: int, style: str) -> None:
    """List jobs, newest first.

    MADE is the version that it made. NOTE is a waiting job's place in the queue and why it waits, a running job's progress,
    or a failed job's reason. TRIES counts attempts, and FAILURES those that failed or were lost.

    \b
    Examples:
      adapterctl jobs list --state running
      adapterctl jobs list --state queued --queue gpu
    """
    with open_client() as client:
        views = [job.view for job in client.jobs(state=state, queue=queue, limit=limit)]
    documents = (view.model_dump(mode="json", exclude={"request"}) | {"sweep": sweep_of(view)} for view in views)
    empty = (
        "no jobs yet; submit one with: adapterctl train" if state is queue is None else "no job matches these filters"
    )
    _JOBS.print(style, views, empty=empty, documents=documents, colour=_coloured)


def _coloured(view: JobView, line: str) -> str:
    # The state comes before anything that users have named; an id can't contain such a word.
    colour = COLOURS.get(view.state.value)
    return line.replace(view.state.value, click.style(view.state.value, fg=colour), 1) if colour else line


def sweep_of(view: JobView) -> str | None:
    """Return which member of which sweep a job trains, as `sweep:ID/N`; None for any other job."""
    place = view.request.get("sweep")
    return None if place is None else f"sweep:{place['sweep']}/{place['number']}"


def note_of(view: JobView) -> str:
    """What is worth knowing about a job besides its state."""
    if view.state is JobState.QUEUED:
        place = "" if view.ahead is None else f"#{view.ahead + 1}: "
        return f"{place}{view.waits or 'waits for a worker'}"
    if view.state is JobState.RUNNING:
        going = "stops" if view.cancel_requested else ""
        return going or ("" if view.progress is None else f"{view.progress.phase} {count_of(view.progress)}".strip())
    return "" if view.state is JobState.SUCCEEDED or view.reason == view.state.value else view.reason or ""


_ATTEMPTS = Listing(
    ListColumn("attempt"),
    ListColumn("state", importance=8),
    ListColumn("reason", lambda one: ": ".join(part for part in (one.reason, one.message) if part), 7),
    ListColumn("worker", importance=4),
    ListColumn("took", lambda one: one.finished_at and (one.finished_at - one.started_at).total_seconds(), 6),
    ListColumn("started", "started_at", 5),
    key="attempt",
)
_CHECKPOINTS = Listing(
    ListColumn("step"),
    ListColumn("steps", "total", 5),
    ListColumn("loss", "metrics.loss", 8),
    ListColumn("attempt", importance=2, usual=1),
    ListColumn("size", "size_bytes", 6),
    ListColumn("created", "created_at", 4),
    ListColumn("expires", "expires_at", 3, none="never", always=True),
    ListColumn("digest", importance=0),
    key="step",
)


@click.command(name="show")
@click.argument("job_id", type=JOB, metavar="JOB")
@format_option
def jobs_show(job_id: str, style: str) -> None:
    """Show a job with its attempts and checkpoints; of a training also, on a terminal, the curve so far.

    \b
    Examples:
      adapterctl jobs show 3f1c2a9b7d20
      adapterctl jobs show 3f1c2a9b7d20 --format json
    """
    with open_client() as client:
        view = client.jobs.view(job_id)
        attempts, checkpoints = client.jobs.attempts(job_id), client.jobs.checkpoints(job_id)
        curve = curve_of(client, view) if style == "table" and sys.stdout.isatty() else None
        changed = changes_since(client, view) if style == "table" else ""
    document = {**view.model_dump(mode="json"), "attempts": attempts, "checkpoints": checkpoints}
    print_one(style, document, view.state.value, lambda: _print_job(view, attempts, checkpoints, changed, curve))


def changes_since(client: Client, view: JobView) -> str:
    """Say with which other options a training repeats an earlier job; empty if it has the same, or that one is gone."""
    if view.retry_of is None or view.kind != "training":
        return ""
    try:
        earlier = client.jobs.view(view.retry_of)
    except NotFound:
        return ""
    was, now = (one.request.get("spec") or {} for one in (earlier, view))
    return changes_said({name: (was.get(name), value) for name, value in now.items() if was.get(name) != value})


def _print_job(
    view: JobView,
    attempts: Sequence[AttemptView],
    checkpoints: Sequence[CheckpointView],
    changed: str,
    curve: Curve | None,
) -> None:
    facts = [
        *_facts(view),
        ("changed", changed),
        *_said(view),
    ]
    print_facts([(name, value) for name, value in facts if value not in (None, False, 0, "")])
    if lines := curve_lines(curve, sys.stdout):
        click.echo("\n" + "\n".join(lines))
    if attempts:
        print_gap()
        print_listing("attempts", _ATTEMPTS, attempts)
    if checkpoints:
        print_gap()
        print_listing("checkpoints", _CHECKPOINTS, checkpoints if is_piped() else checkpoints[:_SHOWN])
    if len(checkpoints) > _SHOWN and not is_piped():
        click.echo(f"and {len(checkpoints) - _SHOWN} earlier: adapterctl jobs checkpoints {view.id}")
    if view.state is JobState.SUCCEEDED:
        say(f"see what it made: {result_command(view)}")
    if any(one.changes for one in view.advice):
        say(advised_next(view))


def _said(view: JobView) -> list[tuple[str, str]]:
    """What is said of a job: the warnings of its result, and what it was advised before it had one."""
    warnings = [*(view.result or {}).get("warnings", ())]
    advice = [one.message for one in view.advice if one.message not in warnings]
    return [*(("warning", said) for said in warnings), *(("advice", said) for said in advice)]


def advised_next(view: JobView) -> str:
    """Return how a training's advice is followed: by trying it again, but for a member of a sweep, which isn't tried again."""
    if (member := sweep_of(view)) is not None:
        changes = ", ".join(f"{name} {shown_value(value)}" for name, value in changes_of(view.advice).items())
        return f"{member} is not tried again; to follow its advice, train with {changes}: adapterctl train --help"
    again = f"adapterctl jobs retry {view.id} --advice"
    if view.state.is_final:
        return f"run it again as it is advised: {again}"
    return f"to follow its advice now: adapterctl jobs cancel {view.id}; then: {again}"


def result_command(view: JobView) -> str:
    """The command that prints or writes a job's result."""
    unregistered = view.kind == "merge" and not view.request.get("register_as")
    return f"adapterctl jobs result {view.id}" + (" -o DIR" if unregistered else "")


def _facts(view: JobView) -> list[tuple[str, Any]]:
    running = view.state is JobState.RUNNING
    progress = view.progress if running else None
    memory = None if view.needs.memory_bytes is None else f"{human_bytes(view.needs.memory_bytes)} of memory"
    device = "a CUDA GPU" if view.needs.device == "cuda" else None
    return [
        ("id", view.id),
        ("kind", view.kind),
        ("subject", view.subject),
        ("sweep", sweep_of(view)),
        ("scored with", ", ".join(f"{ref} ({role})" for ref, role in scored_beside(view).items())),
        ("state", view.state.value),
        ("stops", running and view.cancel_requested),
        ("place", note_of(view) if view.state is JobState.QUEUED else None),
        ("runs", ", ".join(f"{name} {run.run}" for name, run in sorted(view.runs.items()))),
        ("reason", view.reason),
        ("message", view.message),
        ("progress", None if progress is None else f"{progress.phase} {standing_of(progress)}"),
        ("result", _made(view) or (view.result or {}).get("evaluations")),
        ("queue", view.queue),
        ("priority", view.priority),
        ("needs", ", ".join(part for part in (device, memory) if part)),
        *_memory_facts(view),
        ("retry of", view.retry_of),
        ("created", view.created_at.isoformat()),
    ]


def _memory_facts(view: JobView) -> Iterator[tuple[str, str]]:
    """A job's forecast, and what it really took."""
    if view.forecast is not None and view.forecast.unknown is not None:
        yield "forecast", f"none: {view.forecast.unknown}"
    elif view.forecast is not None:
        for where, found in (("with a GPU", view.forecast.card), ("without one", view.forecast.machine)):
            if found is not None:
                yield "forecast", f"{human_bytes(found.needed_bytes)} {where}: {_parts_of(found)}"
    if (peak := view.peak) is not None:
        forecast, took = human_bytes(peak.forecast_bytes), human_bytes(peak.measured_bytes)
        share = 100 * peak.measured_bytes / peak.forecast_bytes
        yield "peak", f"{took} of memory, {share:.0f} % of the {forecast} that its worker forecast on {peak.device}"
        if (learnt := peak.learnt) is not None:
            yield "usually", f"{100 * learnt.ratio:.0f} ± {100 * learnt.spread:.0f} % there, by {learnt.jobs} trainings"


def _parts_of(found: Forecast) -> str:
    largest = sorted((part for part in found.parts if part.where == found.place), key=lambda part: -part.size_bytes)
    parts = ", ".join(f"{part.name} {human_bytes(part.size_bytes)}" for part in largest[:_PARTS])
    return f"{parts}; for {found.batch_size} × {found.max_length} tokens"


@click.command(name="checkpoints", short_help="List the checkpoints of a training.")
@click.argument("job_id", type=JOB, metavar="JOB")
@listed(_CHECKPOINTS)
def jobs_checkpoints(job_id: str, style: str) -> None:
    """List the checkpoints of a training, newest first: another training can start from them, or they can be published.

    \b
    Examples:
      adapterctl jobs checkpoints 3f1c2a9b7d20
      adapterctl jobs publish 3f1c2a9b7d20 --step 200
    """
    with open_client() as client:
        checkpoints = client.jobs.checkpoints(job_id)
    _CHECKPOINTS.print(style, checkpoints, empty=f"job {job_id} has no checkpoint")


#: Before a column for each of what was measured.
_SERIES = Listing(ListColumn("step"), key="step")


@click.command(name="series", short_help="Print what a training measured, by step.")
@click.argument("job_id", type=JOB, metavar="JOB")
@click.option("--buckets", type=click.IntRange(1, MOST_BUCKETS), help="Print at most this many lines for each series.")
@click.option("--keys", metavar="NAME,…", help="Only these series, such as loss,eval_loss.")
@listed(_SERIES)
def jobs_series(job_id: str, buckets: int | None, keys: str | None, style: str) -> None:
    """Print what a training measured, by step: loss, lr, grad_norm, tokens, seconds, memory_bytes, scores of held-out rows.

    The newest steps have a line each. Older ones are in buckets: a line is the mean of one, at its last step.

    \b
    Examples:
      adapterctl jobs series 3f1c2a9b7d20 --keys loss,eval_loss --buckets 20
      adapterctl jobs series 3f1c2a9b7d20 --format json
    """
    wanted = None if keys is None else keys.split(",")
    with open_client() as client:
        points = client.jobs.series(job_id, buckets=buckets, keys=wanted).points()
    rows = [{"step": point.step, **point.values} for point in points]
    names = dict.fromkeys(name for point in points for name in point.values)
    listing = _SERIES.with_columns(*(measured(name, importance=max(1, 8 - at)) for at, name in enumerate(names)))
    listing.print(style, rows, empty=f"job {job_id} has measured nothing; see: adapterctl jobs show {job_id}")


def _made(view: JobView) -> str | None:
    """Return the ref of what a job made; for a merge, the version that its model became, or else the version that was
    merged.
    """
    found = view.result or {}
    return found.get("version") or found.get("ref")
