"""Previews: rows as a training would learn them, for callers without the libraries that render them."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.formats.cut_texts import storable
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import PreviewJobRequest
from sdk.schemas.preview import MOST_JOB_BYTES, Preview, PreviewRequest, PreviewText, RowsShown
from sdk.schemas.wire import Wire
from sdk.schemas.work import Assignment, Completion
from workers.kinds.attempt import Attempt, KindOfWork
from workers.kinds.causes import AttemptFailed
from workers.kinds.pins import day_of, of_base
from workers.pipelines.orders import PreviewOrder


def _differences(given: Assignment, request: PreviewJobRequest) -> Iterator[str]:
    if given.base is not None and request.base is not None:
        yield from of_base(request.base, given.base)


def _preview(attempt: Attempt, request: PreviewJobRequest) -> None:
    """Carry out a preview and hand in what it shows. Raises AttemptFailed, Stopped, AdapterctlError."""
    source = attempt.assignment.base
    if source is None:
        raise AttemptFailed(FailureReason.INTERNAL, "the registry gave a preview without a base; upgrade both")
    asked = PreviewRequest(
        **request.model_dump(include=set(RowsShown.model_fields)),
        base=str(attempt.inputs.base(source).folder),
        data=str(attempt.inputs.dataset(request.data)),
        day=day_of(request.template_date),
    )
    shown = attempt.run_child(PreviewOrder(asked=asked), Preview)
    attempt.complete(Completion(attempt=attempt.assignment.attempt, preview=within(shown)))


def within(preview: Preview, most_bytes: int = MOST_JOB_BYTES) -> Preview:
    """Return a preview with as many texts, from the first, as fit `most_bytes` as JSON together with the rest of it."""
    kept: list[PreviewText] = []
    left_bytes = most_bytes - _size(preview.model_copy(update={"rows": [], "left_out": len(preview.rows)}))
    for text in map(_without_nul, preview.rows):
        # Including the comma before it.
        left_bytes -= _size(text) + 1
        if left_bytes < 0:
            break
        kept.append(text)
    return preview.model_copy(update={"rows": kept, "left_out": len(preview.rows) - len(kept)})


def _without_nul(text: PreviewText) -> PreviewText:
    """Return a text with NUL, which registries can't store, replaced by the replacement character; spans stay correct."""
    said = {name: storable(getattr(text, name)) for name in ("text", "supervised_text", "cut_text")}
    return text.model_copy(update=said)


def _size(record: Wire) -> int:
    return len(record.model_dump_json().encode())


PREVIEW = KindOfWork(request=PreviewJobRequest, differences=_differences, carry_out=_preview)
