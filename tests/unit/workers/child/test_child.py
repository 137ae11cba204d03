"""What a child has around it when it carries out an order: a folder of its own, and no network that it was told of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import environment

from workers.child.protocol import ORDER_FILE
from workers.pipelines.scoring.order import EvaluationOrder

PROGRAM = """
import os, sys
from workers.child import main as child

def carry_out(order, host):
    print(os.getcwd(), os.environ["HF_HUB_OFFLINE"], file=sys.stderr)
    libraries = {"transformers", "peft", "trl", "bitsandbytes", "workers.pipelines.training.train"}
    if len(sys.argv) == 1:
        assert libraries <= set(sys.modules), "one that waits has imported all"
        assert not sys.modules["torch"].cuda.is_initialized(), "and touched no card"

child._carry_out = carry_out
sys.exit(child.main())
"""


@pytest.mark.parametrize("warm", [False, True])
def test_a_bare_name_leads_into_the_job_s_folder_and_no_name_to_a_hub(warm: bool, tmp_path: Path) -> None:
    if warm:
        pytest.importorskip("torch", reason="a warm child has imported it")
    folder, elsewhere = tmp_path / "job", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    order = EvaluationOrder(items=[], data="data", spec={})
    (folder / ORDER_FILE).write_text(order.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *([] if warm else [str(folder)])],
        input=f'"{folder}"\n',
        env=environment(HF_HUB_OFFLINE="0"),
        cwd=elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    # Nothing else: what a library says of itself while it is imported would end up among what the job says.
    assert done.stderr.splitlines() == [f"{folder} 1"]
