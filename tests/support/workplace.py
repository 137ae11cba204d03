"""A served registry with a tiny base and rows, and real workers, for tests of whole attempts."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from registry.principal import Role
from sdk.client import Client
from sdk.schemas.events import Event
from sdk.schemas.job_requests import BaseChoice, CheckpointPolicy, CheckpointRef, TrainingRequest
from sdk.schemas.jobs import AttemptView, CheckpointView, JobSubmission, JobView
from sdk.schemas.training import TrainingSpec
from sdk.schemas.work import WorkerView
from support import child_forks, processes, registries, tiny
from support.registries import World
from support.waiting import PATIENCE_S, wait_until

PlaceT = TypeVar("PlaceT", bound="Workplace")

#: A training so long that no test waits for its end.
ENDLESS_STEPS = 1_000_000


class Workplace:
    """What tests of workers need."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.client: Client = world.writer
        self.token = world.token(Role.WORKER)
        base = world.admin.bases.add(tiny.save_llama(folder / "tiny"), upload=True)
        # Workers have to fetch it.
        shutil.rmtree(folder / "tiny")
        self.base = BaseChoice(id=base.id, revision=base.revision, fingerprint=base.fingerprint)
        self.data = self.client.datasets.add(tiny.write_rows(folder / "rows.jsonl"), namespace="-").digest

    def submit(
        self,
        *,
        steps: int = ENDLESS_STEPS,
        every_steps: int | None = None,
        timeout_s: float | None = None,
        start_from: CheckpointRef | None = None,
        **spec: Any,
    ) -> str:
        """Submit a training; return its id."""
        request = TrainingRequest(
            adapter=f"trained-{os.urandom(4).hex()}",
            base=self.base,
            data=self.data,
            spec=TrainingSpec(**{"method": "lora", "max_steps": steps, "batch_size": 2, "grad_accum": 1, **spec}),
            checkpoint=CheckpointPolicy(every_steps=every_steps, every_minutes=None),
            from_checkpoint=start_from,
        )
        body = JobSubmission(request=request, timeout_s=timeout_s)
        return self.client.call("POST", "/jobs", JobView, body=body).id

    def job(self, job: str) -> JobView:
        """What the registry says about it."""
        return self.client.jobs.view(job)

    def attempts(self, job: str) -> list[AttemptView]:
        """Its attempts."""
        return self.client.call("GET", f"/jobs/{job}/attempts", list[AttemptView])

    def checkpoints(self, job: str) -> list[CheckpointView]:
        """Its checkpoints, the newest first."""
        return self.client.call("GET", f"/jobs/{job}/checkpoints", list[CheckpointView])

    def workers(self) -> list[WorkerView]:
        """The workers that the registry knows."""
        return self.client.call("GET", "/workers", list[WorkerView])

    def events(self, job: str) -> list[Event]:
        """All that it said."""
        found: list[Event] = []
        while more := self.client.jobs.events(job, after=found[-1].seq if found else 0):
            found += more
        return found

    def said(self, job: str) -> str:
        """The lines of its log."""
        return "\n".join(event.message or "" for event in self.events(job) if event.kind == "log")

    def wait_for_state(self, job: str, state: str) -> JobView:
        """Wait until a job is in a state."""
        wait_until(lambda: self.job(job).state == state, lambda: f"{self.job(job)}\n{self.said(job)}")
        return self.job(job)

    def wait_for_step(self, job: str, step: int = 1) -> None:
        """Wait until a job has trained so far."""

        def trains() -> bool:
            progress = self.job(job).progress
            return progress is not None and progress.phase == "train" and (progress.step or 0) >= step

        wait_until(trains, lambda: f"{self.job(job)}\n{self.said(job)}")

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a worker."""
        given = {
            "ADAPTERCTL_URL": self.world.url,
            "ADAPTERCTL_TOKEN": self.token,
            "ADAPTERCTL_CACHE": str(self.folder / "worker-cache"),
            # If the threads of several trainings wait for each other's cores, a tiny one takes ten times as long.
            "OMP_NUM_THREADS": "1",
            "HOME": str(self.folder),
        }
        return processes.environment(**{**given, **more})

    @contextmanager
    def worker(
        self, *options: str, largest_file_bytes: int | None = None, forks: bool = False, **environment: str
    ) -> Iterator[Running]:
        """A worker as a process of its own, whatever happens to it.

        With a limit, it finds its disk full there. With `forks`, its children don't take three seconds to start; it is
        for tests that are not about the children.
        """
        log = self.folder / f"worker-{os.urandom(4).hex()}.log"
        env = self.environment(**environment)
        program = child_forks.worker(env) if forks else [str(processes.BIN / "adapter-worker")]
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*program, "start", *options], env=env, stdout=file, stderr=file, start_new_session=True
            )
        if largest_file_bytes is not None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest_file_bytes, largest_file_bytes))
        running = Running(process, log)
        try:
            yield running
        finally:
            running.kill()


@contextmanager
def opened(folder: Path, kind: type[PlaceT] = Workplace, **settings: Any) -> Iterator[PlaceT]:  # type: ignore[assignment]
    """A workplace over SQLite and a folder."""
    with registries.served(folder / "registry", **settings) as world:
        yield kind(world, folder)


class Running:
    """A running worker, and all its processes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    @property
    def text(self) -> str:
        """Its output so far."""
        return self.log.read_text(errors="replace")

    def below(self) -> dict[int, str]:
        """Its living processes except itself: command lines by process id."""
        return descendants(self.process.pid)

    def child(self) -> int:
        """The process that trains."""
        return self._one("workers.child.main")

    def child_at_work(self) -> int:
        """The process that is about to train: it has tied itself to this worker, and imports its libraries."""
        child = self.child()
        wait_until(lambda: "libtorch" in _text_of(Path(f"/proc/{child}/maps")), lambda: f"{self.below()}\n{self.text}")
        return child

    def _one(self, command: str) -> int:
        found: list[int] = []

        def there() -> bool:
            found[:] = [pid for pid, line in self.below().items() if command in line]
            return len(found) == 1

        wait_until(there, lambda: f"{self.below()}\n{self.text}")
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started."""
        self.process.send_signal(number)

    def status(self) -> int:
        """Wait for its end; return its exit status."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.text}") from None

    def kill(self) -> None:
        """End it and all below it."""
        for pid in (*self.below(), self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


def descendants(root: int) -> dict[int, str]:
    """The living processes below one: command lines by process id."""
    parents: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and is_alive(int(process.name)):
            try:
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    found: dict[int, str] = {}
    generation = {root}
    while generation:
        generation = {pid for pid, parent in parents.items() if parent in generation}
        for pid in generation:
            try:
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    return found


def _text_of(file: Path) -> str:
    """What a process says about itself; nothing if it has ended."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process is alive; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
