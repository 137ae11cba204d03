"""Checkpoints on their way to the registry, sent by a thread of their own while the training goes on.

The newest wins: if sending is slower than writing, older ones are skipped. Failed sending is retried, and never ends
the training.
"""

from __future__ import annotations

import logging
import shutil
import time
from enum import Enum, auto
from pathlib import Path

from sdk.api import work
from sdk.client import Client
from sdk.errors import AdapterctlError, QuotaExceeded, StaleAttempt, Unavailable, VerificationFailed
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.work import CheckpointRecord
from workers.background import Background
from workers.child.protocol import WrittenCheckpoint
from workers.kinds.attempt import Attempt, pack
from workers.lease.heartbeat import apart
from workers.lease.stop_signal import Stopped, StopReason

_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 60.0
#: The longest pause between two tries while a caller waits for the end.
_HURRIED_WAIT_S = 1.0
_LOOK_S = 0.5
#: How long to wait for the end of a request that is no longer needed.
_LEAVE_S = 5.0

_log = logging.getLogger(__name__)


class _Sent(Enum):
    YES = auto()
    #: Another try may help.
    NOT_YET = auto()
    NEVER = auto()


class CheckpointSender:
    """Sends the checkpoints of one run of a training, from `with` to its end."""

    def __init__(self, attempt: Attempt, *, base_fingerprint: str) -> None:
        self._attempt = attempt
        self._base_fingerprint = base_fingerprint
        #: Its guard is that of the attributes below.
        self._background = Background(self._work, name="checkpoints")
        #: The newest checkpoint that has not been sent yet.
        self._waiting: WrittenCheckpoint | None = None
        self._sending: WrittenCheckpoint | None = None
        #: The newest that was written; its folder stays until the attempt ends.
        self._newest: WrittenCheckpoint | None = None
        #: By when sending must have ended, by the monotonic clock; None: nobody waits for it.
        self._until: float | None = None

    def __enter__(self) -> CheckpointSender:
        self._background.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A transfer in progress is aborted at its next bytes.
        self._background.end(_LEAVE_S)

    def written(self, checkpoint: WrittenCheckpoint) -> None:
        """Take a checkpoint that is on the disk."""
        with self._background.changing():
            older, self._newest = self._newest, checkpoint
            skipped, self._waiting = self._waiting, checkpoint
            if skipped is not None:
                _log.info("checkpoint of step %s: not sent, since a newer one exists", skipped.step)
            if older is not None and older != self._sending:
                _remove(older)

    def finish(self, within_s: float) -> None:
        """Wait until the newest is sent, but no longer than `within_s`."""
        with self._background.changing():
            self._until = time.monotonic() + within_s
            while (unsent := self._waiting or self._sending) is not None and not self._is_over:
                left_s = self._until - time.monotonic()
                if left_s <= 0:
                    break
                self._background.changed.wait(min(left_s, _LOOK_S))
        if unsent is not None:
            self._tell(f"the checkpoint of step {unsent.step} could not be sent in time")

    @property
    def _is_over(self) -> bool:
        return self._background.over or self._attempt.lease.lost

    def _work(self) -> None:
        with apart(self._attempt.client, self._on_transfer) as client:
            wait_s = _FIRST_WAIT_S
            while (checkpoint := self._next()) is not None:
                sent = self._try(client, checkpoint)
                self._put_down(checkpoint, sent)
                if sent is _Sent.NOT_YET:
                    self._pause(checkpoint, wait_s)
                    wait_s = min(_LONGEST_WAIT_S, 2 * wait_s)
                else:
                    wait_s = _FIRST_WAIT_S

    def _next(self) -> WrittenCheckpoint | None:
        """Take up the newest as soon as there is one; None at the end."""
        with self._background.changed:
            self._background.changed.wait_for(lambda: self._waiting is not None or self._background.over)
            if self._is_over:
                return None
            self._sending, self._waiting = self._waiting, None
            return self._sending

    def _put_down(self, checkpoint: WrittenCheckpoint, sent: _Sent) -> None:
        with self._background.changing():
            self._sending = None
            if checkpoint != self._newest:
                _remove(checkpoint)
            elif sent is _Sent.NOT_YET:
                self._waiting = checkpoint

    def _pause(self, checkpoint: WrittenCheckpoint, seconds: float) -> None:
        """Wait before the next try; a newer checkpoint, or a caller that begins to wait, ends the pause."""
        with self._background.changed:
            until = self._until
            longest_s = seconds if until is None else min(seconds, _HURRIED_WAIT_S)
            self._background.changed.wait_for(
                lambda: self._is_over or self._waiting != checkpoint or self._until != until, longest_s
            )

    def _try(self, client: Client, checkpoint: WrittenCheckpoint) -> _Sent:
        try:
            self._send(client, checkpoint)
        except StaleAttempt:
            self._attempt.lease.lose()
        except Stopped:
            # It is no longer needed.
            pass
        except (Unavailable, VerificationFailed) as error:
            self._tell(
                f"the checkpoint of step {checkpoint.step} could not be sent yet and will be tried again: {error}"
            )
            return _Sent.NOT_YET
        except QuotaExceeded as error:
            self._tell(
                f"the checkpoint of step {checkpoint.step} is not stored; the training continues without it: {error}"
            )
        except (AdapterctlError, OSError, ValueError) as error:
            self._tell(f"the checkpoint of step {checkpoint.step} can't be sent ({type(error).__name__}): {error}")
        else:
            return _Sent.YES
        return _Sent.NEVER

    def _send(self, client: Client, checkpoint: WrittenCheckpoint) -> None:
        began = time.monotonic()
        folder = Path(checkpoint.folder)
        report = TrainingReport.model_validate_json((folder / "report.json").read_bytes())
        manifest, sources = pack(folder, kind="checkpoint", base_fingerprint=self._base_fingerprint)
        _log.info("checkpoint of step %s: uploading", checkpoint.step)
        record = CheckpointRecord(
            attempt=self._attempt.assignment.attempt,
            step=checkpoint.step,
            total=checkpoint.total,
            upload=client.uploader.upload(sources, "uploading checkpoint", self._attempt.assignment.namespace),
            manifest=manifest,
            report=report,
        )
        work.record_checkpoint(client.transport, self._attempt.assignment.job, record)
        seconds = time.monotonic() - began
        self._tell(f"the checkpoint of step {checkpoint.step} of {checkpoint.total} is stored ({seconds:.1f} s)")

    def _on_transfer(self, _doing: str, _count: int, _total_bytes: int) -> None:
        if self._is_over or (self._until is not None and time.monotonic() > self._until):
            raise Stopped(StopReason.LOST)

    def _tell(self, message: str) -> None:
        _log.info(message)
        self._attempt.lease.log(message)


def _remove(checkpoint: WrittenCheckpoint) -> None:
    shutil.rmtree(checkpoint.folder, ignore_errors=True)
