"""Previews: rows as a training would learn them, or has learnt them; they are the job's result."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.orm import Session

from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.catalog.versions.kinds import require_adapter
from registry.datasets.finding import is_given
from registry.errors import Invalid
from registry.jobs.base_contents import PinnedBase
from registry.jobs.kinds.rules import CompletionServices, HandedIn, JobKindRules, Mismatch, require_none
from registry.jobs.models import Job
from registry.jobs.pins import Pinned, base_of, pin_base, pin_data, today
from registry.jobs.sources import JobInputs, base_source
from registry.jobs.subjects import dataset_use
from registry.principal import Principal
from sdk.schemas.job_requests import BaseChoice, PreviewJobRequest
from sdk.schemas.preview import MOST_JOB_BYTES, Preview

_DATASETS = ("data",)


def _pin(session: Session, request: PreviewJobRequest, who: Principal, embedded: bool) -> Pinned[PreviewJobRequest]:
    """Raises Invalid for rows or a base that the version was not trained with, and for a base that is only on a hub."""
    of = None
    if request.of is not None:
        version = find_version(session, parse_ref(request.of), who, action="write")
        require_adapter(session, version, "previewed", param="of")
        namespace, of = version.adapter.namespace, exact_ref(version)
        use = dataset_use(session, version)
        if use is None or use.digest != request.data:
            raise Invalid(f"{of} was not trained on these rows; preview the rows in its record", param="data")
        if use.sources is not None:
            raise Invalid(f"{of} was trained on several datasets; preview one of them without it", param="of")
        pinned: PinnedBase | None = base_of(session, version, embedded)
        if request.base is not None and request.base.fingerprint != version.base.fingerprint:
            raise Invalid(f"{of} was not trained over this base; leave it out", param="base")
    elif request.base is not None:
        namespace = who.home()
        _, pinned = pin_base(session, request.base, namespace, embedded)
    else:
        raise Invalid("a preview without base and version")
    if pinned is None:
        raise Invalid("a preview is over a registered base; add it with: adapterctl base add FOLDER", param="base")
    named = pin_data(session, request, _DATASETS, who, namespace)
    if not is_given(session, named["data"], namespace):
        # All readers of the job's namespace can see what is shown.
        raise Invalid(
            f"these rows belong to another namespace than {namespace}, and its readers could see the preview; preview them where "
            "the worker's libraries are: pip install 'adapterctl[worker]'",
            param="data",
        )
    base = BaseChoice(id=pinned.id, revision=pinned.revision, fingerprint=pinned.fingerprint)
    update = {"of": of, "base": base, "template_date": request.template_date or today(session), **named}
    subject = of or f"data:{named['data'][:12]}"
    return Pinned(request.model_copy(update=update), namespace, subject, pinned)


def _assign(session: Session, request: PreviewJobRequest, job: Job) -> JobInputs:
    if request.base is None:
        raise Invalid("a preview whose base was not pinned")
    return JobInputs(base=base_source(session, request.base, job.namespace))


def _keep(services: CompletionServices, request: PreviewJobRequest, done: HandedIn) -> None:
    """Keep the shown rows, which must be those that were asked for, as the job's result."""
    preview = done.completion.preview
    if preview is None:
        raise Invalid("a preview's completion must have what it shows", param="preview")
    if len(preview.model_dump_json().encode()) > MOST_JOB_BYTES:
        raise Invalid(f"a preview may take at most {MOST_JOB_BYTES} bytes; leave out the last texts", param="preview")
    require_none(_differences(request, preview))
    with services.db.write() as session:
        done.succeed(session, {"preview": preview.model_dump(mode="json")})


def _differences(request: PreviewJobRequest, preview: Preview) -> Iterator[Mismatch]:
    """In what way the shown rows aren't those that were asked for, are rendered differently, or contradict
    themselves.
    """
    last = min(request.rows, preview.file_rows)
    asked = [request.row] if request.row is not None else list(range(1, last + 1))
    shown = list(dict.fromkeys(text.row for text in preview.rows))
    # If there isn't room for all, the last ones are left out; each row becomes at least one text.
    if shown != (asked[: len(shown)] if preview.left_out > 0 else asked) or preview.left_out < 0:
        yield Mismatch("rows", asked, shown)
    if request.loss_on not in (None, preview.loss_on):
        yield Mismatch("loss_on", request.loss_on, preview.loss_on)
    if not 0 < preview.max_length <= request.max_length:
        yield Mismatch("max_length", request.max_length, preview.max_length)
    if preview.rendering.template_date not in (None, request.template_date):
        yield Mismatch("template_date", request.template_date, preview.rendering.template_date)
    if preview.rendering.columns != request.columns:
        yield Mismatch("columns", request.columns, preview.rendering.columns)
    for text in preview.rows:
        ends = [0, *(end for span in text.supervised for end in span), len(text.text)]
        parts = "".join(text.text[start:end] for start, end in text.supervised)
        if ends != sorted(ends) or parts != text.supervised_text:
            yield Mismatch(f"supervised_text of row {text.row}", parts, text.supervised_text)


PREVIEW = JobKindRules(
    request=PreviewJobRequest,
    queue="cpu",
    datasets=_DATASETS,
    pin=_pin,
    assign=_assign,
    complete=_keep,
    shows_rows=True,
    long_parts=("preview",),
)
