"""Which generated samples an evaluation keeps, within the limit of one request.

The registry takes no body above 4 MiB, and up to 64 targets of 100 samples each may be asked for, whose texts are as long as
rows and completions are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain

from sdk.schemas.evaluation import EvaluationReport, Sample

#: What the texts of all samples of a job may take as JSON, in bytes. What is left of 4 MiB is for names and metrics.
MOST_TEXT_BYTES = 3 * 1024 * 1024
#: What a text that was cut ends with.
CUT = " … [cut]"
_CUT_BYTES = len(CUT.encode())


def within(reports: Sequence[EvaluationReport], most_bytes: int = MOST_TEXT_BYTES) -> list[EvaluationReport]:
    """Return the reports with the longest texts of their samples cut, so that all texts take `most_bytes` at most.

    Texts that are shorter than those stay whole, and each that was cut says so at its end.
    """
    texts = chain.from_iterable(_texts(sample) for report in reports for sample in report.samples)
    longest = _longest([_size(text) for text in texts], most_bytes)
    if longest is None:
        return list(reports)
    return [
        report.model_copy(update={"samples": [_shorten(sample, longest) for sample in report.samples]})
        for report in reports
    ]


def _texts(sample: Sample) -> tuple[str, str, str]:
    return sample.prompt, sample.reference, sample.completion


def _shorten(sample: Sample, longest: int) -> Sample:
    prompt, reference, completion = (_cut(text, longest) for text in _texts(sample))
    return Sample(prompt=prompt, reference=reference, completion=completion)


def _longest(sizes: Sequence[int], most_bytes: int) -> int | None:
    """How long each text may be so that all fit; None if they do as they are."""
    left_bytes = most_bytes
    for done, size in enumerate(ordered := sorted(sizes)):
        share = left_bytes // (len(ordered) - done)
        if size > share:
            return share
        left_bytes -= size
    return None


def _cut(text: str, longest: int) -> str:
    """Return the text, or as much of its beginning as takes `longest` bytes together with the mark."""
    if _size(text) <= longest:
        return text
    room = longest - _CUT_BYTES
    # No character takes less than a byte, so no more of them fit.
    fits, too_many = 0, max(room, 0) + 1
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _size(text[:middle]) <= room:
            fits = middle
        else:
            too_many = middle
    return text[:fits] + CUT


def _size(text: str) -> int:
    """How many bytes of a body a text takes between its quotes."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2
