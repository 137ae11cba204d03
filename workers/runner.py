"""One attempt at a job: claim, prepare, run the child, hand in. A client of the registry like any other."""

from __future__ import annotations

import logging
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

from sdk import transfer
from sdk.bases import ScannedBase
from sdk.cache import Cache
from sdk.client import Client
from sdk.errors import (
    AdapterctlError,
    InvalidBase,
    InvalidInput,
    NotFound,
    StaleAttempt,
    Unavailable,
    VerificationFailed,
    disk_explained,
)
from sdk.fetching import fetch
from sdk.packing import pack_adapter
from sdk.schemas.catalog import Publication
from sdk.schemas.events import Progress
from sdk.schemas.jobs import (
    Assignment,
    BaseSource,
    ClaimRequest,
    Completion,
    EvaluationRequest,
    EvaluationResult,
    Failure,
    JobView,
    MergeRequest,
    MergeResult,
    TrainingRequest,
    WorkerInfo,
)
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.training import DatasetUse, QuantizationRecipe
from workers import bases
from workers.heartbeat import Holder
from workers.orders import (
    FAULT_FILE,
    ORDER_FILE,
    OUT_FOLDER,
    RESULT_FILE,
    EvaluationItem,
    EvaluationOrder,
    Fault,
    MergeOrder,
    Order,
    Outcome,
    TrainingOrder,
)
from workers.process import LOG_FILE, run_child

#: How long a registry that is away is waited for when a result is handed in, in seconds.
_PATIENCE_S = 300.0
_NF4 = QuantizationRecipe()

_log = logging.getLogger(__name__)


class AttemptFailed(Exception):  # noqa: N818 - it reads as what happened
    """This attempt ends without a result."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def claim(client: Client, worker: WorkerInfo, hint: str | None = None) -> Assignment | None:
    """Ask for work; None where there is none."""
    return client.call("POST", "/jobs/claim", Assignment | None, body=ClaimRequest(worker=worker, hint=hint))  # type: ignore[arg-type]


def work_once(client: Client, worker: WorkerInfo, hint: str | None = None) -> bool:
    """Claim one job and carry it out; return whether there was one. What goes wrong with it is reported, not raised."""
    assignment = claim(client, worker, hint)
    if assignment is None:
        return False
    _log.info("job %s attempt %s: claimed (%s)", assignment.job, assignment.attempt, assignment.request.kind)
    try:
        with Holder(client, assignment) as holder:
            Attempt(client, assignment, holder).run()
    except StaleAttempt:
        _log.warning("job %s attempt %s: another attempt holds it; dropped", assignment.job, assignment.attempt)
    except AttemptFailed as failed:
        _report_failure(client, assignment, failed)
    except Exception as error:  # noqa: BLE001 - see below
        # Whatever it was, the job must not hang until its lease runs out.
        _log.exception("job %s attempt %s: unexpected error", assignment.job, assignment.attempt)
        message = f"{type(error).__name__} in the worker; its log has the details"
        _report_failure(client, assignment, AttemptFailed("internal", message))
    return True


def _report_failure(client: Client, assignment: Assignment, failed: AttemptFailed) -> None:
    _log.info("job %s attempt %s: %s: %s", assignment.job, assignment.attempt, failed.reason, failed)
    # What a library says may quote the bytes that it choked on.
    message = str(failed).replace("\0", "\ufffd").encode("utf-8", "replace").decode()[:4000]
    failure = Failure(attempt=assignment.attempt, reason=failed.reason, message=message)
    try:
        _hand_in(client, f"/jobs/{assignment.job}/fail", failure)
    except AdapterctlError as error:
        _log.warning("job %s attempt %s: not reported: %s", assignment.job, assignment.attempt, error)


def _hand_in(client: Client, path: str, body: Completion | Failure) -> JobView:
    """Post a result, waiting for a registry that is away; the registry takes the same one twice without harm."""
    patience = Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_exponential_jitter(initial=0.5, max=15),
        stop=stop_after_delay(_PATIENCE_S),
        reraise=True,
    )
    handed_in: JobView = patience(client.call, "POST", path, JobView, body=body, timeout_s=1800)
    return handed_in


class Attempt:
    """One attempt, in a folder of its own that is removed at its end."""

    def __init__(self, client: Client, assignment: Assignment, holder: Holder) -> None:
        self._client = client
        self._assignment = assignment
        self._holder = holder
        #: What of the cache nobody may prune meanwhile.
        self._kept = ExitStack()
        self._bases: list[ScannedBase] = []
        self._adapters: dict[str, Path] = {}

    def run(self) -> None:
        """Prepare, run, hand in. Raises AttemptFailed, StaleAttempt."""
        jobs = self._client.cache.root / "jobs"
        try:
            with disk_explained("preparing the job"):
                jobs.mkdir(parents=True, exist_ok=True)
                folder = Path(tempfile.mkdtemp(prefix=f"{self._assignment.job}-{self._assignment.attempt}-", dir=jobs))
            try:
                with self._kept:
                    self._run_in(folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except StaleAttempt:
            raise
        except AdapterctlError as error:
            raise AttemptFailed(_reason_of(error), error.message) from error

    def _run_in(self, folder: Path) -> None:
        request = self._assignment.request
        if isinstance(request, TrainingRequest):
            self._train(folder, request)
        elif isinstance(request, MergeRequest):
            self._merge(folder)
        else:
            self._evaluate(folder, request)

    def _train(self, folder: Path, request: TrainingRequest) -> None:
        source = self._assignment.base
        if source is None:
            raise AttemptFailed("internal", "the registry gave a training without a base; upgrade both")
        # Known before the training, not after it.
        self._client.check_signing_key()
        base = self._base(source)
        order = TrainingOrder(
            base=str(base.folder),
            base_name=base.registration.id,
            base_revision=base.registration.revision,
            data=str(self._dataset(request.data)),
            eval_data=None if request.eval_data is None else str(self._dataset(request.eval_data)),
            spec=request.spec,
        )
        report = self._run_child(folder, order).training
        if report is None:
            raise AttemptFailed("internal", "the training left no report; the worker's log has the details")
        self._holder.report(Progress(phase="upload", message="uploading the adapter"))
        package = pack_adapter(
            folder / OUT_FOLDER,
            base_id=base.registration.id,
            base_revision=base.registration.revision,
            base_fingerprint=base.registration.fingerprint,
            staging=folder,
        )
        publication = Publication(
            adapter=request.adapter,
            upload=self._client.upload(package.sources, "uploading adapter"),
            manifest=package.manifest,
            lora=report.lora,
            method="lora" if report.quantization is None else "qlora",
            quantization=report.quantization,
            dataset=DatasetUse(digest=request.data, rows=report.rows, supervised_tokens=report.supervised_tokens),
            training=report.training,
            metrics=report.metrics,
            libraries=report.libraries,
            signature=self._client.signed(package.manifest),
        )
        self._complete(Completion(attempt=self._assignment.attempt, version=publication))

    def _evaluate(self, folder: Path, request: EvaluationRequest) -> None:
        targets = self._assignment.targets
        scanned = [self._base(t.base) for t in targets]
        as_trained = next((t.quantization for t in targets if t.digest is not None), None)
        items = []
        for target, base in zip(targets, scanned, strict=True):
            recipe = {
                "native": None,
                "nf4": _NF4,
                "as-trained": target.quantization if target.digest is not None else as_trained,
            }[request.spec.precision]
            adapter = None if target.manifest is None else str(self._adapter(target.manifest))
            items.append(EvaluationItem(base=str(base.folder), adapter=adapter, quantization=recipe))
        order = EvaluationOrder(items=items, data=str(self._dataset(request.data)), spec=request.spec)
        reports = self._run_child(folder, order).evaluations
        if reports is None or len(reports) != len(targets):
            raise AttemptFailed("internal", "the evaluation left no report; the worker's log has the details")
        results = [
            EvaluationResult(
                label=target.label, digest=target.digest, base_fingerprint=base.registration.fingerprint, report=report
            )
            for target, base, report in zip(targets, scanned, reports, strict=True)
        ]
        self._complete(Completion(attempt=self._assignment.attempt, evaluations=results))

    def _merge(self, folder: Path) -> None:
        target = self._assignment.targets[0]
        base = self._base(target.base)
        if target.manifest is None:
            raise AttemptFailed("internal", "the registry gave a merge without a version; upgrade both")
        order = MergeOrder(
            base=str(base.folder),
            adapter=str(self._adapter(target.manifest)),
            quantization=target.quantization,
            spec=self._assignment.request.spec if isinstance(self._assignment.request, MergeRequest) else None,  # type: ignore[arg-type]
        )
        report = self._run_child(folder, order).merge
        if report is None:
            raise AttemptFailed("internal", "the merge left no report; the worker's log has the details")
        self._holder.report(Progress(phase="upload", message="storing the merged model"))
        files = []
        sources = {}
        for path in sorted((folder / OUT_FOLDER).iterdir()):
            sha256, size = transfer.hash_file(path)
            files.append(ManifestFile(path=path.name, size_bytes=size, sha256=sha256))
            sources[sha256] = path
        manifest = Manifest(kind="merged", base_fingerprint=base.registration.fingerprint, files=files)
        upload = self._client.upload(sources, "storing merged model")
        merged = MergeResult(manifest=manifest, upload=upload, report=report)
        self._complete(Completion(attempt=self._assignment.attempt, merge=merged))

    def _base(self, source: BaseSource) -> ScannedBase:
        """Obtain a base, kept in the cache for as long as the attempt lasts; register one that is new, from a hub."""
        found = next((base for base in self._bases if base.registration.fingerprint == source.fingerprint), None)
        if found is not None:
            return found
        scanned = bases.obtain(self._client, source)
        if source.fingerprint is None:
            self._client.register_base(scanned.registration)
        self._bases.append(scanned)
        self._kept.enter_context(self._client.cache.lock(f"base-{scanned.registration.fingerprint}", shared=True))
        return scanned

    def _adapter(self, manifest: Manifest) -> Path:
        """Return a version's files in the cache, kept there for as long as the attempt lasts."""
        # A lock that this attempt holds already would be in its own way.
        while manifest.digest not in self._adapters:
            folder = self._client.fill_cache(manifest)
            kept = self._client.cache.lock(manifest.digest, shared=True)
            with ExitStack() as stack:
                stack.enter_context(kept)
                # Between the two another process may have pruned the cache.
                if folder.is_dir():
                    self._adapters[manifest.digest] = folder
                    self._kept.push(stack.pop_all())
        return self._adapters[manifest.digest]

    def _dataset(self, digest: str) -> Path:
        """Return a dataset's file, fetched once into the cache."""
        path = self._client.cache.blob(digest)
        with self._client.cache.lock(digest):
            if not path.is_file():
                fetch(self._client.locate_data(digest), path)
        self._client.cache.used(path)
        return path

    def _run_child(self, folder: Path, order: TrainingOrder | EvaluationOrder | MergeOrder) -> Outcome:
        with disk_explained("preparing the job"):
            (folder / ORDER_FILE).write_text(Order(order=order).model_dump_json())
        self._holder.report(Progress(phase="load", message="starting"))
        status = run_child(folder, on_progress=self._holder.report, must_stop=lambda: self._holder.must_stop)
        if self._holder.lost.is_set():
            raise StaleAttempt(f"attempt {self._assignment.attempt} no longer holds job {self._assignment.job}")
        if self._holder.cancelled.is_set():
            raise AttemptFailed("cancelled", "it was cancelled")
        if status == 0:
            return Outcome.model_validate_json((folder / RESULT_FILE).read_bytes())
        raise self._explain(folder, status)

    def _explain(self, folder: Path, status: int) -> AttemptFailed:
        """Say why the child ended: by its own word, or by the signal that killed it."""
        log = (folder / LOG_FILE).read_text(errors="replace")
        _log.info(
            "job %s attempt %s: the child's last words:\n%s",
            self._assignment.job,
            self._assignment.attempt,
            log[-4000:],
        )
        try:
            fault = Fault.model_validate_json((folder / FAULT_FILE).read_bytes())
            return AttemptFailed(fault.reason, fault.message)
        except (OSError, ValueError):
            # It had no time to say.
            pass
        if status in (-9, 137):
            message = "the system killed the process, most often for want of memory; lower batch_size or max_length, then submit again"
            return AttemptFailed("oom", message)
        return AttemptFailed("crashed", f"the process ended with status {status}; the worker's log has its last words")

    def _complete(self, completion: Completion) -> None:
        if self._holder.must_stop:
            if self._holder.cancelled.is_set():
                raise AttemptFailed("cancelled", "it was cancelled")
            raise StaleAttempt(f"attempt {self._assignment.attempt} no longer holds job {self._assignment.job}")
        self._holder.flush()
        _hand_in(self._client, f"/jobs/{self._assignment.job}/complete", completion)
        _log.info("job %s attempt %s: succeeded", self._assignment.job, self._assignment.attempt)


def _reason_of(error: AdapterctlError) -> str:
    """The reason that a failure of the preparation or the hand-in has."""
    if isinstance(error, InvalidBase):
        return "base"
    if isinstance(error, VerificationFailed):
        return "verification"
    if isinstance(error, Unavailable):
        return "disk_full" if "disk is full" in error.message else "unavailable"
    if isinstance(error, NotFound):
        return "missing"
    return "spec" if isinstance(error, InvalidInput) else "internal"


def clean_up(cache: Cache) -> None:
    """Remove what attempts of a killed worker left. Only for a process that is the only worker on this cache."""
    shutil.rmtree(cache.root / "jobs", ignore_errors=True)
