"""Which generated samples an evaluation keeps, within the limit of one request.

The registry takes no body above 4 MiB, but up to 64 targets with 100 samples each may be requested, whose texts are as
long as rows and completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from sdk.formats.cut_texts import cut_text, json_bytes, longest_that_fit
from sdk.schemas.evaluation import EvaluationReport, Sample

#: How many bytes the texts of all samples of a job may take as JSON. The rest of 4 MiB is for names and metrics.
MOST_TEXT_BYTES = 3 * 1024 * 1024


def within(reports: Sequence[EvaluationReport], most_bytes: int = MOST_TEXT_BYTES) -> list[EvaluationReport]:
    """Return the reports with the longest texts of their samples cut, so that all texts take `most_bytes` at most.

    Shorter texts stay whole, and each cut text is marked at its end.
    """
    texts = chain.from_iterable(_texts(sample) for report in reports for sample in report.samples)
    longest = longest_that_fit([json_bytes(text) for text in texts], most_bytes)
    if longest is None:
        return list(reports)
    return [
        report.model_copy(update={"samples": [_shorten(sample, longest) for sample in report.samples]})
        for report in reports
    ]


def _texts(sample: Sample) -> tuple[str, str, str]:
    return sample.prompt, sample.reference, sample.completion


def _shorten(sample: Sample, longest: int) -> Sample:
    prompt, reference, completion = (cut_text(text, longest) for text in _texts(sample))
    return Sample(prompt=prompt, reference=reference, completion=completion)
