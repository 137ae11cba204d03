"""`adapterctl eval`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.commands.watch import result_of, say_no_worker, say_rows
from sdk.cli.completing.kinds import REF_OR_BASE, ROWS
from sdk.cli.support.options import require_worker_option, whose_base_options
from sdk.cli.support.output import (
    filled,
    format_option,
    is_piped,
    one_line,
    plain,
    print_detached,
    print_one,
    say,
    say_filled,
)
from sdk.cli.support.scores import error_lines, failed_lines, general_line, long_lines, target_listing
from sdk.cli.support.session import open_client
from sdk.cli.support.spec_options import spec_options
from sdk.objects import Job, failed_targets, scored_beside, scores_of, unscored
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.scores import warning

if TYPE_CHECKING:
    from sdk.client import Client
    from sdk.objects import Evaluation


@click.command(name="eval")
@click.argument("refs", type=REF_OR_BASE, nargs=-1, required=True)
@click.option(
    "--data",
    type=ROWS,
    required=True,
    help="Held-out rows: a file of JSONL, JSON, CSV or Parquet, a dataset's name (NAME, NAME@v2) or digest.",
)
@whose_base_options
@spec_options(EvaluationSpec)
@click.option("--only", is_flag=True, help="Leave out the bare base, and the version in production.")
@click.option("--again", is_flag=True, help="Compute scores that are recorded already.")
@require_worker_option
@click.option("--detach", is_flag=True, help="Submit and return at once; the job keeps running.")
@format_option
def eval_command(refs: tuple[str, ...], data: str, detach: bool, style: str, **given: Any) -> None:
    """Score versions (REF), members of sweeps (sweep:ID/N) and bare bases (base:NAME) on the same rows: loss, perplexity,
    completions; accuracy and macro-F1 of labels.

    The bare base, and the version of each name that is in production, are scored too, unless --only is given.

    On general texts, the same for all, it also says what an adapter changed besides its task: the loss, and how far
    predictions are from those of the bare base (KL).

    What was scored before, on the same rows under the same conditions, is taken from the record, unless with --again.

    \b
    Examples:
      adapterctl eval code-review@v3 base:SmolLM2-135M --data heldout.jsonl
      adapterctl eval code-review@v2 code-review@v3 --data new.jsonl --format json
      adapterctl eval sql@v4 --data heldout.jsonl --metrics exact_match,chrf
      adapterctl eval sql@v4 --data heldout.jsonl --regex '(?i)^select '
    """
    with open_client() as client:
        job = client.submit_evaluation(
            refs, data=data, **{key: value for key, value in given.items() if value is not None}
        )
        say_rows(job.view.request, data=data)
        say_no_worker(job.view.waits)
        if detach:
            print_detached(style, job)
            return
        say(f"job {job.id} evaluates {job.view.subject}")
        if beside := scored_beside(job.view):
            say(f"also scored, unless --only is given: {', '.join(_marked(ref, beside) for ref in beside)}")
        result_of(job)
        print_scores(client, job, style)


def print_scores(client: Client, job: Job[Any], style: str) -> None:
    """Print the scores of a successful evaluation. Raises JobFailed after that if a target has none."""
    scores, beside = scores_of(job.view, client), scored_beside(job.view)
    found = [{**item.model_dump(mode="json"), "beside": beside.get(item.ref)} for item in scores]
    for ref, _, message in failed_targets(job.view, beside=True):
        say(f"{_marked(ref, beside)} has no scores: {message}")
    for item in scores:
        if item.job != job.id:
            say(f"{item.ref}: as recorded on {item.created_at:%Y-%m-%d} ({item.id}); to compute it again, add --again")
    failed = [
        line
        for one in scores
        for line in failed_lines(_marked(one.ref, beside), one.metrics, one.conditions.get("failed") or ())
    ]
    errors = [line for one in scores for line in error_lines(_marked(one.ref, beside), one.scorer_errors)]
    long = [
        line
        for one in scores
        for line in long_lines(
            _marked(one.ref, beside), one.metrics, one.conditions, one.id if one.rows_digest else None
        )
    ]
    for line in (*long, *failed, *errors):
        say(line)
    if any("scorer." in line for line in (*failed, *errors)):
        say(f"the first error of each scorer, in full: adapterctl jobs logs {job.id}")
    asked = (f"{each['ref']} {each['metrics']['loss']:.4f}" for each in found if each["beside"] is None)
    print_one(style, found, asked, lambda: _print_table(found, scores, beside))
    if (error := unscored(job.view)) is not None:
        raise error


def _marked(ref: str, beside: Mapping[str, str]) -> str:
    """A ref with the reason why it was added; for a base, the ref tells."""
    return f"{ref} ({beside[ref]})" if beside.get(ref) not in (None, "base") else ref


def _print_table(found: list[dict[str, Any]], scores: Sequence[Evaluation], beside: Mapping[str, str]) -> None:
    listing = target_listing(scores, lambda ref: _marked(ref, beside))
    listing.print("table", scores, empty="nothing was scored")
    if len({one.precision for one in scores}) > 1:
        say(
            "these were held in different precisions, so they are not compared; to compare them, add: --precision native"
        )
    # Sentences for people: a program gets the list, and nothing else.
    tell = say if is_piped() else click.echo
    for one in scores:
        if one.digest is not None and (line := general_line(one.ref, one.metrics)) is not None:
            tell(plain(line))
    for one in scores:
        if (told := warning(one.contamination, is_base=one.digest is None)) is not None:
            if is_piped():
                say_filled(f"{one.ref}: {told}")
            else:
                click.echo(filled(f"{one.ref}: {told}", "! "))
    if is_piped():
        return
    for index, sample in enumerate(found[0]["samples"] if found else []):
        prompt = sample["prompt"].strip().splitlines() or [""]
        click.echo(f"\n— {plain(prompt[0][:76])}")
        click.echo(f"  expected: {one_line(sample['reference'])}")
        for item in found:
            if index < len(item["samples"]):
                said = item["samples"][index]
                click.echo(f"  {item['ref']}: {one_line(said.get('content', said['completion']))}")
