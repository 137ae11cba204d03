"""One attempt at a job, in a folder of its own: the part that all kinds of job share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar

from tenacity import Retrying, retry_if_exception_type, wait_exponential, wait_random

from sdk.api import work
from sdk.client import Client
from sdk.errors import Unavailable, disk_explained
from sdk.pulling.transfer import hash_file
from sdk.pushing.pack import Package, pack_adapter
from sdk.schemas.catalog import BaseRegistration
from sdk.schemas.events import Progress
from sdk.schemas.jobs import JobView
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.series import PointChunk
from sdk.schemas.wire import Wire
from sdk.schemas.work import Assignment, BaseSource, Completion
from workers.child.process import WarmChild
from workers.child.protocol import (
    ORDER_FILE,
    OUT_FOLDER,
    RESULT_FILE,
    News,
    ReachedRung,
    WrittenCheckpoint,
)
from workers.kinds import causes
from workers.lease.heartbeat import Lease
from workers.lease.stop_signal import Stopped, StopSignal
from workers.node.inputs import AttemptInputs
from workers.node.transfers import Transfers
from workers.pipelines.orders import LIGHT, Order

F = TypeVar("F", bound=Wire)

#: How long to wait for an unavailable registry when something is handed in, in seconds.
HAND_IN_S = 300.0
_LEAST_TIMEOUT_S = 3.0
#: Of how many files the digests are computed at a time.
_HASHED_AT_ONCE = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """What a kind of job uses to carry out its work."""

    client: Client
    assignment: Assignment
    lease: Lease
    stop_signal: StopSignal
    inputs: AttemptInputs
    transfers: Transfers
    warm_child: WarmChild
    folder: Path

    def __post_init__(self) -> None:
        self.transfers.watch(self.stop_signal.check, self.lease.report)

    def run_child(
        self,
        order: Order,
        report: type[F],
        on_checkpoint: Callable[[WrittenCheckpoint], None] | None = None,
        on_points: Callable[[PointChunk], None] | None = None,
        on_rung: Callable[[ReachedRung], None] | None = None,
    ) -> F:
        """Have a child carry out an order; return its result. Raises Stopped once all its processes are gone,
        AttemptFailed.
        """
        self.stop_signal.check()
        with disk_explained("preparing the job"):
            (self.folder / ORDER_FILE).write_text(order.model_dump_json())
        self.lease.report(Progress(phase="load", message="starting"))
        kills = causes.oom_kills()
        # The sender of checkpoints checks for stops itself.
        self.transfers.ignore()
        if order.pipeline in LIGHT:
            self.warm_child.skip_first()
        child = self.warm_child.take(self.folder)
        _log.info("child %s: started", child.pid)
        ending = child.run(self.folder, _Listener(self.lease, on_checkpoint, on_points, on_rung), self.stop_signal)
        _log.info("child %s: ended with status %s", child.pid, ending.status)
        if ending.status == 0:
            return report.model_validate_json((self.folder / RESULT_FILE).read_bytes())
        # A machine that shuts down signals all processes at once, so the child may have been signalled first.
        reason = ending.stop_reason or self.stop_signal.reason()
        if reason is not None:
            raise Stopped(reason)
        _log.info("child %s: its last output:\n%s", child.pid, child.last_words)
        raise causes.of_child(self.folder, ending.status, kills)

    def pack_adapter(self, base: BaseRegistration | BaseSource, fingerprint: str) -> Package:
        """Return the child's adapter over a base, ready to be sent."""
        return pack_adapter(
            self.folder / OUT_FOLDER,
            base_id=base.id,
            base_revision=base.revision,
            base_fingerprint=fingerprint,
            staging=self.folder,
        )

    def finishing(self, message: str) -> None:
        """Report that the child's result is being handed in."""
        _log.info(message)
        self.transfers.watch(self.stop_signal.check_finishing, self.lease.report)
        self.stop_signal.check_finishing()
        self.lease.report(Progress(phase="upload", message=message))

    def complete(self, completion: Completion) -> None:
        """Hand in the result, which the registry drops if the job was cancelled. Raises Stopped, StaleAttempt."""
        self.stop_signal.check_finishing()
        self.lease.flush()
        _log.info("publishing")
        send = partial(work.complete, self.client.transport, self.assignment.job, completion)
        ended = hand_in(self.stop_signal, send, timeout_s=work.COMPLETING_S)
        self.lease.end()
        _log.info("%s", ended.state)


class _Listener:
    """Passes on a child's reports."""

    def __init__(
        self,
        lease: Lease,
        on_checkpoint: Callable[[WrittenCheckpoint], None] | None,
        on_points: Callable[[PointChunk], None] | None,
        on_rung: Callable[[ReachedRung], None] | None,
    ) -> None:
        self._lease = lease
        self._on_checkpoint = on_checkpoint
        self._on_points = on_points
        self._on_rung = on_rung

    def news(self, news: News) -> None:
        """Take progress, a checkpoint, points, advice, or a rung."""
        if news.progress is not None:
            self._lease.report(news.progress)
        elif news.checkpoint is not None and self._on_checkpoint is not None:
            self._on_checkpoint(news.checkpoint)
        elif news.points is not None and self._on_points is not None:
            self._on_points(news.points)
        elif news.advice is not None:
            self._lease.note_advice(news.advice)
        elif news.rung is not None and self._on_rung is not None:
            self._on_rung(news.rung)

    def line(self, text: str) -> None:
        """Take a line of the child's standard error."""
        _log.debug("child: %s", text)
        self._lease.log(text)


def hand_in(stop_signal: StopSignal, send: Callable[..., JobView], *, timeout_s: float = 60.0) -> JobView:
    """Call `send`, which takes a `timeout_s`, until the registry answers, or the attempt has no more time; sending the
    same twice is harmless.
    """
    retrying = Retrying(
        retry=retry_if_exception_type(Unavailable),
        wait=wait_exponential(multiplier=0.5, max=5) + wait_random(0, 1),
        stop=lambda state: (state.seconds_since_start or 0) >= stop_signal.remaining_s(HAND_IN_S),
        reraise=True,
    )
    timeout_s = max(_LEAST_TIMEOUT_S, min(timeout_s, stop_signal.remaining_s(timeout_s)))
    answer: JobView = retrying(send, timeout_s=timeout_s)
    return answer


R = TypeVar("R", bound=Wire)


@dataclass(frozen=True)
class KindOfWork(Generic[R]):
    """One kind of job."""

    #: The class of requests; its field `kind` has the kind's name.
    request: type[R]
    #: Says which part of an assignment differs from the request's pins.
    differences: Callable[[Assignment, R], Iterator[str]]
    #: Fetches the inputs, has a child carry out the order, and hands in the result. Raises AttemptFailed, Stopped,
    #: AdapterctlError.
    carry_out: Callable[[Attempt, R], None]

    @property
    def name(self) -> str:
        """The kind's name in requests."""
        return str(self.request.model_fields["kind"].default)


def pack(
    folder: Path, *, kind: Literal["merged", "checkpoint"], base_fingerprint: str
) -> tuple[Manifest, dict[str, Path]]:
    """Return the manifest of the files in `folder`, and their paths by SHA-256."""
    files = []
    sources = {}
    paths = sorted(folder.iterdir())
    with ThreadPoolExecutor(_HASHED_AT_ONCE, "hash") as pool:
        hashed = list(pool.map(hash_file, paths))
    for path, (sha256, size) in zip(paths, hashed, strict=True):
        files.append(ManifestFile(path=path.name, size_bytes=size, sha256=sha256))
        sources[sha256] = path
    return Manifest(kind=kind, base_fingerprint=base_fingerprint, files=files), sources
