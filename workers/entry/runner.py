"""A worker at work: claims a job, has it carried out, and reports how it ended. A client of the registry like any other."""

from __future__ import annotations

import logging
import secrets
import time
from functools import partial

from sdk.api import work
from sdk.api.work import NotUnderstoodError
from sdk.client import Client
from sdk.errors import FULL_DISK, AdapterctlError, Conflict, Incompatible, RateLimited, StaleAttempt, Unavailable
from sdk.formats.cut_texts import storable
from sdk.schemas.failures import FailureReason
from sdk.schemas.work import Assignment, ClaimRequest, Failure, Farewell, Release
from sdk.version import VERSION
from workers.child.process import Child, WarmChild
from workers.kinds import causes
from workers.kinds.attempt import Attempt, hand_in
from workers.kinds.causes import AttemptFailed
from workers.kinds.known import carry_out, require_pinned
from workers.lease.heartbeat import Lease, apart
from workers.lease.stop_signal import Stopped, StopReason, StopSignal
from workers.node import logs, machine
from workers.node.attempt_folders import Folders
from workers.node.inputs import AttemptInputs
from workers.node.shutdown import Shutdown
from workers.node.transfers import Transfers
from workers.settings import WorkerSettings

#: How long to wait each time, in seconds, before a claim without an answer is sent again.
_ASK_AGAIN_S = (0.5, 1.0, 2.0, 4.0)

_log = logging.getLogger(__name__)


class Worker:
    """One worker, with one job at a time."""

    def __init__(self, settings: WorkerSettings, shutdown: Shutdown, *, first_child: Child | None = None) -> None:
        self._settings = settings
        self._shutdown = shutdown
        self._transfers = Transfers()
        self._client = Client(on_transfer=self._transfers)
        self._client.cache.keep_private()
        self._folders = Folders(self._client.cache.root / "jobs")
        self.warm_child = WarmChild(warm=settings.warm, first=first_child)
        #: The key of the last claim, until it is answered.
        self._unanswered: str | None = None

    def work_once(self, hint: str | None = None) -> bool:
        """Claim one job and carry it out; return whether there was one. Its errors are reported, not raised."""
        if self._shutdown.asked:
            return False
        try:
            assignment, claimed_at = self._ask(hint)
        except NotUnderstoodError as error:
            self._give_up(error)
            return True
        if assignment is None:
            return False
        with logs.about(assignment.job, assignment.attempt):
            _log.info("claimed (%s)", assignment.request.kind)
            self._hold(assignment, claimed_at)
        if not self._shutdown.asked:
            self.warm_child.prepare()
        return True

    def get_ready(self) -> None:
        """Open the registry, before there is a job; its helper, if that is asked, may only be starting."""
        self._client.transport.awaits_helper = True
        self._client.transport.open()

    def sweep(self) -> None:
        """Remove what attempts of killed workers left in this cache."""
        self._folders.sweep()

    def leave(self) -> None:
        """Tell the registry that this worker takes no more jobs."""
        work.leave(self._client.transport, Farewell(worker=self._settings.name))

    def end(self) -> None:
        """End the warm child and close the connections."""
        self.warm_child.end()
        self._client.close()

    def _ask(self, hint: str | None) -> tuple[Assignment | None, float]:
        """Ask for work; also return when that was, by the monotonic clock.

        A claim without an answer is sent again with the same key. Otherwise the registry may have given out a job that
        no worker knows about: it would wait until its lease expires, and lose an attempt.
        """
        self._unanswered = key = self._unanswered or secrets.token_hex(16)
        pauses_s = iter(_ASK_AGAIN_S)
        while True:
            claimed_at = time.monotonic()
            try:
                worker = machine.worker_info(self._settings, self._client.cache)
                assignment = work.claim(self._client.transport, ClaimRequest(worker=worker, hint=hint), key=key)
            except NotUnderstoodError:
                self._unanswered = None
                raise
            except (Unavailable, Conflict) as error:
                if isinstance(error, (Incompatible, RateLimited)):
                    # It was an answer. If it can't be understood, the job in it is for another worker.
                    self._unanswered = None
                    raise
                pause_s = next(pauses_s, None)
                if pause_s is None or self._shutdown.wait(pause_s):
                    # A key that is refused for something else would be refused for ever.
                    self._unanswered = None if isinstance(error, Conflict) else key
                    raise
            else:
                self._unanswered = None
                return assignment, claimed_at

    def _give_up(self, given: NotUnderstoodError) -> None:
        """Give back a job that this release does not understand; after a pause the registry offers it to other workers."""
        _log.warning("job %s given back, since this worker's release does not understand it: %s", given.job, given)
        message = f"the worker {self._settings.name} ({VERSION}) does not understand it: {given}; upgrade the workers"
        failed = AttemptFailed(FailureReason.UNSUPPORTED, message)
        try:
            work.fail(self._client.transport, given.job, _failure(given.attempt, failed))
        except AdapterctlError as error:
            # Its lease will run out.
            _log.warning("not reported: %s", error)

    def _hold(self, assignment: Assignment, claimed_at: float) -> None:
        with apart(self._client) as connection, Lease(connection, assignment, claimed_at=claimed_at) as lease:
            stop_signal = StopSignal(
                lease, self._shutdown, grace_s=self._settings.grace_s, timeout_s=assignment.timeout_s
            )
            try:
                self._carry_out(assignment, lease, stop_signal)
            except (StaleAttempt, Stopped, AttemptFailed) as ended:
                self._report(assignment, lease, stop_signal, ended)
            except Exception as error:  # noqa: BLE001 - see below
                # Whatever the error, the job must not hang until its lease runs out.
                _log.exception("unexpected error")
                failed = AttemptFailed(
                    FailureReason.INTERNAL, f"{type(error).__name__} in the worker; its log has the details"
                )
                self._report(assignment, lease, stop_signal, failed)
            finally:
                self._transfers.ignore()

    def _carry_out(self, assignment: Assignment, lease: Lease, stop_signal: StopSignal) -> None:
        """Raises AttemptFailed, Stopped, StaleAttempt."""
        try:
            require_pinned(assignment)
            made = self._folders.make(f"{assignment.job}-{assignment.attempt}")
            with (
                made as folder,
                AttemptInputs(
                    self._client,
                    self._transfers,
                    folder=folder,
                    namespace=assignment.namespace,
                    settings=self._settings,
                ) as inputs,
            ):
                attempt = Attempt(
                    self._client,
                    assignment,
                    lease=lease,
                    stop_signal=stop_signal,
                    inputs=inputs,
                    transfers=self._transfers,
                    warm_child=self.warm_child,
                    folder=folder,
                )
                carry_out(attempt)
        except StaleAttempt:
            raise
        except AdapterctlError as error:
            raise causes.of_error(error) from error
        except OSError as error:
            if error.errno not in FULL_DISK:
                raise
            raise causes.of_error(error) from error

    def _report(self, assignment: Assignment, lease: Lease, stop_signal: StopSignal, ended: Exception) -> None:
        """Report how an attempt ended; nothing is reported if another attempt holds the job."""
        reason = ended.reason if isinstance(ended, Stopped) else None
        if isinstance(ended, StaleAttempt) or reason is StopReason.LOST or lease.lost:
            _log.warning("another attempt holds the job; dropped")
            return
        lease.flush()
        transport, job, attempt = self._client.transport, assignment.job, assignment.attempt
        if reason is StopReason.DRAINING:
            send = partial(work.release, transport, job, Release(attempt=attempt))
            _log.info("given back, since this worker is shutting down")
        else:
            failed = ended if isinstance(ended, AttemptFailed) else _of_stop(reason, assignment)
            send = partial(work.fail, transport, job, _failure(attempt, failed))
            _log.info("%s: %s", failed.reason, failed)
        try:
            hand_in(stop_signal, send)
        except AdapterctlError as error:
            _log.warning("not reported: %s", error)


def _of_stop(reason: StopReason | None, assignment: Assignment) -> AttemptFailed:
    if reason is StopReason.TIMEOUT:
        return AttemptFailed(
            FailureReason.TIMEOUT,
            f"it ran longer than its timeout of {assignment.timeout_s:g} s; submit it with a longer one, "
            f"or continue from its last checkpoint with: adapterctl jobs retry {assignment.job}",
        )
    return AttemptFailed(FailureReason.CANCELLED, "it was cancelled")


def _failure(attempt: int, failed: AttemptFailed) -> Failure:
    # A library's message may quote the bytes on which it failed.
    message = storable(str(failed)).encode("utf-8", "replace").decode()[:4000]
    return Failure(attempt=attempt, reason=failed.reason, message=message)
