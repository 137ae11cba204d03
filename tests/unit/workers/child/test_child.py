"""What a child has around it when it carries out an order: a folder of its own, and no network that it was told of."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support import processes
from support.processes import environment

from workers.child.protocol import FAULT_FILE, INTERRUPTED_STATUS, ORDER_FILE, Fault
from workers.pipelines.orders import EvaluationOrder

PROGRAM = """
import atexit, os, sys
from workers.child import main as child

# As libraries do that are built for cards.
atexit.register(print, "not all of it was freed", file=sys.stderr)

def carry_out(order, host):
    print(os.getcwd(), os.environ["HF_HUB_OFFLINE"], file=sys.stderr)
    libraries = {"transformers", "peft", "trl", "bitsandbytes", "workers.pipelines.training.train"}
    if len(sys.argv) == 1:
        assert libraries <= set(sys.modules), "one that waits has imported all"
        assert not sys.modules["torch"].cuda.is_initialized(), "and touched no card"
    if os.environ.get("FAILS"):
        raise RuntimeError("it failed")

child._carry_out = carry_out
child.run()
"""


def run(
    folder: Path, *, cwd: Path, warm: bool = False, line: str | None = None, **variables: str
) -> tuple[int, list[str]]:
    """Be a child with the order in `folder`, or with what it is told in a line; return its status, and what it said."""
    folder.mkdir()
    order = EvaluationOrder(items=[], data=Path("data"), spec={})
    (folder / ORDER_FILE).write_text(order.model_dump_json())
    done = processes.finished(
        sys.executable,
        "-c",
        PROGRAM,
        *([] if warm else [str(folder)]),
        env=environment(HF_HUB_OFFLINE="0", **variables),
        cwd=cwd,
        stdin=f'"{folder}"\n' if line is None else line,
    )
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("warm", [False, True])
def test_a_bare_name_leads_into_the_job_s_folder_and_no_name_to_a_hub(warm: bool, tmp_path: Path) -> None:
    if warm:
        pytest.importorskip("torch", reason="a warm child has imported it")
    folder, elsewhere = tmp_path / "job", tmp_path / "elsewhere"
    elsewhere.mkdir()
    # Nothing else: what a library says of itself while it is imported, or at the end, would be among what the job says. The
    # order has no report, as if it had been interrupted.
    assert run(folder, cwd=elsewhere, warm=warm) == (INTERRUPTED_STATUS, [f"{folder} 1"])


def test_the_last_that_a_failure_says_is_why(tmp_path: Path) -> None:
    status, said = run(tmp_path / "job", cwd=tmp_path, FAILS="1")
    assert (status, said[0], said[-1]) == (1, f"{tmp_path / 'job'} 1", "RuntimeError: it failed")
    assert Fault.model_validate_json((tmp_path / "job" / FAULT_FILE).read_text()).message.startswith("RuntimeError")


def test_one_that_waited_and_is_not_needed_ends_without_a_word(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="it has imported it")
    assert run(tmp_path / "job", cwd=tmp_path, warm=True, line="") == (0, [])
