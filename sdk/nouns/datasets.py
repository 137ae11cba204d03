"""Datasets: adding, checking and fetching files of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from sdk.api.datasets import DatasetRoutes
from sdk.config import user_path
from sdk.errors import Conflict, InvalidInput, NotFound, place_explained
from sdk.objects import Job, Registry
from sdk.pulling.download import fetch
from sdk.pulling.filling import watching
from sdk.pushing.given_base import given_base_if_any
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.data_audit import DataAudit
from sdk.schemas.keywords import RowOptions
from sdk.schemas.preview import Preview
from sdk.submitting.data_preview import RowsOfFile, preview_asked
from sdk.submitting.given_template import with_template_text
from sdk.submitting.job_options import JobOptions
from sdk.validation import check_data, check_data_name


class DatasetsAPI(DatasetRoutes):
    """Datasets. Called, it lists those that the client may use."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport)
        self._registry = registry

    def add(
        self,
        path: str | Path,
        *,
        namespace: str | None = None,
        name: str | None = None,
        columns: str | None = None,
    ) -> DatasetView:
        """Check and upload a dataset of JSONL, JSON, CSV or Parquet, for the readers of a namespace ("-": none).

        `namespace` defaults to the first in which this client may write, `name` to the file's name. If other rows have
        that name there, it gets the next number; the same rows keep theirs. `columns`, such as
        "prompt=question,completion=answer", says which columns are which keys of a row wherever the dataset is used,
        unless others are given there. Raises NotFound, InvalidData with the bad lines, InvalidName for a name that
        would be read as a digest, a number or a path, NotAllowed.
        """
        data = check_data(path, columns=columns)
        called = check_data_name(data.name if name is None else name)
        return self._registry.pusher.send_data(data, namespace, called)

    def pull(
        self, name: str, output: str | Path, *, namespace: str | None = None, overwrite: bool = False
    ) -> DatasetView:
        """Write the rows of a dataset, by digest or name as in `get`, to the file `output`, byte for byte.

        With `namespace`, only what that namespace has is meant.

        They are hashed while they are fetched, and the file is there complete or not at all; an interrupted pull
        continues where it broke. Raises NotFound, Conflict if `output` exists and `overwrite` isn't given, InvalidInput
        if it is a folder, VerificationFailed.
        """
        output = user_path(output)
        with place_explained(output):
            is_folder, is_there = output.is_dir(), output.exists() or output.is_symlink()
        if is_folder:
            raise InvalidInput(
                f"{output} is a folder; name a file with -o, such as {output / 'rows.jsonl'}", param="output"
            )
        if not overwrite and is_there:
            raise Conflict(
                f"{output} already exists; name another file with -o, or give --overwrite to replace it", param="output"
            )
        view = self.get(name, namespace=namespace)
        if namespace is not None and view.namespace not in (None, namespace):
            # A name that this namespace hasn't given was then looked up in others.
            raise NotFound(
                f"there is no dataset {name[:80]!a} in the namespace {namespace!r}; list them with: adapterctl data list",
                param="data",
            )
        origin = self.locate(view.digest)
        fetch(
            origin,
            output,
            watching(self._registry.on_transfer, "fetching data", origin.size_bytes),
            # A location may expire while it is read from.
            relocate=lambda: self.locate(view.digest),
            http=self._registry.http,
        )
        return view

    def check(
        self,
        data: str | Path | Sequence[str | Path],
        *,
        base: str | Path | None = None,
        base_namespace: str | None = None,
        published: bool = False,
        eval_data: str | Path | None = None,
        sample: int | None = None,
        examples: int = 5,
        **options: Unpack[RowOptions],
    ) -> DataAudit:
        """What is wrong with the rows of a file, of a registered dataset, or of several together, before a training.

        It finds rows that can't be used, that occur twice, nearly twice or with different answers, that have odd
        characters, or that are also among `eval_data` or the rows that `holdout` holds out. `holdout_by` may be given
        alone, for a column that is not a key of a row.

        It is computed here, with numpy. The rows are kept in a temporary folder, so memory grows by about a byte for
        each row; held-out and repeated rows take more, as `sdk.rows.audit` says. With `base` (a folder, or a registered
        base whose files are on this machine), the worker's libraries count the tokens of `sample` rows (5,000 by
        default), spread over the file, in a separate process; `options` are those of a training. `examples` is
        how many rows of each kind are named. Raises NotFound, InvalidInput, InvalidBase; InvalidData for a file whose
        rows can't be told apart; TimedOut; Unavailable without numpy, or the worker's extra.
        """
        from sdk.examining.data_check import check_rows_of

        return check_rows_of(
            data,
            base=given_base_if_any(base, base_namespace, published),
            eval_data=eval_data,
            sample=sample,
            examples=examples,
            registry=lambda: self._registry,
            on_transfer=self._registry.on_transfer,
            **options,
        )

    def submit_preview(
        self,
        file: str | Path | None = None,
        *,
        of: str | None = None,
        base: str | Path | None = None,
        base_namespace: str | None = None,
        published: bool = False,
        rows: int = 3,
        row: int | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        **options: Unpack[RowOptions],
    ) -> Job[Preview]:
        """Have a worker do what `Client.preview` does, and return at once. The file is added as a dataset, and a base in a
        folder is registered.

        `rows` may be at most 100, and the result has at most 1 MiB; its `left_out` is how many texts didn't fit.
        """
        over = given_base_if_any(base, base_namespace, published)
        asked = preview_asked(file, of=of, base=over, **with_template_text(options, lambda: self._registry))
        at, job_options = self._registry, JobOptions(priority, key=idempotency_key)
        found = asked if isinstance(asked, RowsOfFile) else at.get(asked).info
        view = at.submitter.preview(found, rows=rows, row=row, job_options=job_options)
        return Job(view, at)
