"""A merge that ends half-way: nothing is at the target, and the next run goes on to the same bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.merges import Made, make, merge
from support.quiet_forks import QuietForks
from support.soak import scale
from support.waiting import wait_until

import workers.pipelines.merging.merge as module
import workers.pipelines.merging.writing as writing
from sdk.schemas.evaluation import MergeReport
from sdk.schemas.events import Progress
from workers.pipelines.errors import PipelineError

#: What asks for room on a disk.
WRITES = ((Path, "mkdir"), (Path, "write_text"), (os, "fsync"), (shutil, "copyfile"), (writing, "_append"))
#: The number of the call that fails: some forty are made.
POINTS = (1, 2, 3, 5, 8, 12, 16, 20, 24, 28)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def short_of_memory(free_memory: Callable[[int], None]) -> None:
    """What the models say is of no account here."""
    free_memory(0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make("llama", "plain", tmp_path_factory.mktemp("made"), dtype="bfloat16", shards=4)


def run(made: Made, out: Path, **options: Any) -> MergeReport:
    return merge(made.base, made.adapter, out, **options)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def killed(made: Made, out: Path, after: int, forks: QuietForks) -> bool:
    """Merge in a process of its own that is killed after so many calls that write or sync; return whether it was."""
    child = forks.fork()
    if child == 0:
        calls = 0

        def counted(real: Any) -> Any:
            def call(*given: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == after:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*given, **options)

            return call

        for name in ("fsync", "replace"):
            setattr(os, name, counted(getattr(os, name)))
        for name in ("_computed", "chunks", "_append", "digest_in", "_read_journal"):
            setattr(writing, name, counted(getattr(writing, name)))
        shutil.rmtree = counted(shutil.rmtree)
        try:
            run(made, out)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_after_a_kill_at_any_point_a_rerun_ends_with_the_same_bytes(made: Made, tmp_path: Path) -> None:
    forks, report = QuietForks(), run(made, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    rng, hit = random.Random(11), 0
    for number in range(scale(50, share=8)):
        out = tmp_path / str(number)
        hit += killed(made, out, rng.randrange(1, 56), forks)
        assert not out.exists() or contents(out) == whole
        again = run(made, out) if not (out.exists() and not list(tmp_path.glob(f".{number}.*"))) else report
        assert contents(out) == whole
        assert again.digests == report.digests
        assert not list(tmp_path.glob(f".{number}.*"))
    assert hit


def test_a_shard_that_is_whole_is_not_written_again_and_a_broken_one_is(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "out", []
    real = writing._write_shard

    def failing(base: Any, file: str, *given: Any) -> Any:
        if file.startswith("model-00004"):
            (journal,) = tmp_path.glob(".out.partial-*/journal.jsonl")
            # The others are written beside it.
            wait_until(lambda: journal.read_text().count("digests") == 3, timeout_s=30)
            raise RuntimeError("the process ends here")
        return real(base, file, *given)

    monkeypatch.setattr(writing, "_write_shard", failing)
    with pytest.raises(RuntimeError, match="ends here"):
        run(made, out)
    (partial,) = tmp_path.glob(".out.partial-*")
    with (partial / "files" / "model-00002-of-00004.safetensors").open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x01")

    def noting(base: Any, file: str, *given: Any) -> Any:
        seen.append(file)
        return real(base, file, *given)

    monkeypatch.setattr(writing, "_write_shard", noting)
    run(made, out)
    assert sorted(seen) == ["model-00002-of-00004.safetensors", "model-00004-of-00004.safetensors"]
    run(made, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_another_plan_does_not_go_on_with_these_files(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_memory: Callable[[int], None]
) -> None:
    monkeypatch.setattr(module, "read_back", lambda *given: pytest.fail("stopped"))
    with pytest.raises(pytest.fail.Exception):
        run(made, tmp_path / "out")
    with pytest.raises(pytest.fail.Exception):
        run(made, tmp_path / "out", dtype="float32")
    assert len(list(tmp_path.glob(".out.partial-*"))) == 2
    monkeypatch.undo()
    free_memory(0)
    run(made, tmp_path / "out", dtype="float32")
    # The target is no longer free for the other one.
    assert not list(tmp_path.glob(".out.partial-*"))


def test_what_an_earlier_run_took_from_elsewhere_is_not_kept(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = shutil.copytree(made.adapter, tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text("{{ 'taught' }}")
    (adapter / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    mine = Made(shutil.copytree(made.base, tmp_path / "base"), adapter)
    for name in ("chat_template.jinja", "generation_config.json"):
        (mine.base / name).unlink()
    with monkeypatch.context() as patched:
        patched.setattr(module, "read_back", lambda *given: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception):
            run(mine, tmp_path / "out")
    (adapter / "chat_template.jinja").unlink()
    (adapter / "generation_config.json").unlink()
    run(mine, tmp_path / "out")
    run(mine, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_target_that_is_made_meanwhile_is_left_as_it_is(made: Made, tmp_path: Path) -> None:
    def meanwhile(progress: Progress) -> None:
        if progress.phase == "save":
            run(made, tmp_path / "out", dtype="float32")

    with pytest.raises(PipelineError, match="was made by something else during the merge") as caught:
        run(made, tmp_path / "out", on_progress=meanwhile)
    assert caught.value.reason == "spec"
    run(made, tmp_path / "wide", dtype="float32")
    assert contents(tmp_path / "out") == contents(tmp_path / "wide")


@pytest.mark.parametrize("where", range(1, 11))
def test_a_disk_that_is_full_at_any_point_is_said_and_leaves_nothing_at_the_target(
    made: Made, tmp_path: Path, where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def full(real: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            # Each call of the list below is reached, in turn.
            if calls == POINTS[where - 1]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*given, **options)

        return call

    with monkeypatch.context() as patched:
        for owner, name in WRITES:
            patched.setattr(owner, name, full(getattr(owner, name)))
        with pytest.raises(PipelineError, match=r"too full for the merged model of .* run the merge again") as caught:
            run(made, tmp_path / "out")
    assert caught.value.reason == "disk_full"
    assert not (tmp_path / "out").exists()
    run(made, tmp_path / "out")
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("most", [100, 9_000, 17_000])
def test_a_full_disk_is_said_and_leaves_nothing_at_the_target(made: Made, tmp_path: Path, most: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        with pytest.raises(PipelineError, match=r"too full for the merged model of .* run the merge again") as caught:
            run(made, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.reason == "disk_full"
    assert not (tmp_path / "out").exists()
    run(made, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_disk_that_lacks_the_room_is_told_of_before_anything_is_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "write_shards", lambda *given: pytest.fail("it was written"))
    with pytest.raises(PipelineError, match="too full for the merged model"):
        run(made, tmp_path / "out")


def test_nothing_is_written_into_the_base_or_over_other_files(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = shutil.copytree(made.base, tmp_path / "base")
    mine = Made(base, made.adapter)
    (tmp_path / "link").symlink_to(base)
    for out in (base, base / "merged", tmp_path / "base/../base/merged", tmp_path / "link/merged"):
        with pytest.raises(PipelineError, match="in the base's own folder") as caught:
            run(mine, out)
        assert caught.value.reason == "spec"
    with pytest.raises(PipelineError, match="in the adapter's own folder"):
        run(mine, made.adapter / "merged")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(PipelineError, match="is not empty; choose a new folder"):
        run(mine, tmp_path / "taken")
    assert contents(base) == contents(made.base)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    run(mine, Path())
    assert (tmp_path / "empty" / "config.json").is_file()


def test_two_merges_into_one_folder_do_not_meet(made: Made, tmp_path: Path) -> None:
    def meanwhile(progress: Progress) -> None:
        if progress.phase == "merge" and progress.step is None:
            with pytest.raises(PipelineError, match="Another process merges into"):
                run(made, tmp_path / "out")

    run(made, tmp_path / "out", on_progress=meanwhile)
    assert (tmp_path / "out" / "config.json").is_file()
