"""A training that holds rows out, as it is submitted: on all three doors alike, and refused where it means nothing."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.adapters import digest
from support.people import submit
from support.tenants import Tenant

from sdk.cli import cli
from sdk.errors import InvalidData, InvalidInput
from sdk.schemas.job_requests import BaseChoice, TrainingRequest, used_fields
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.training import TrainingSpec

OPTIONS: dict[str, Any] = {"method": "lora", "rank": 4, "targets": "qv"}


@pytest.fixture
def tenant(join: Callable[[], Tenant]) -> Tenant:
    return join()


def rows(tmp_path: Path, *groups: str) -> Path:
    path = tmp_path / f"{uuid.uuid4().hex}.csv"
    path.write_text("id,q,a\n" + "".join(f"{group},question {n},answer {n}\n" for n, group in enumerate(groups)))
    return path


def test_flags_yaml_and_python_ask_for_the_same(
    tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rows(tmp_path, "x", "x", "y", "z")
    held: dict[str, Any] = {"holdout": 0.25, "holdout_by": "id", "holdout_seed": 7, "columns": "prompt=q,completion=a"}
    config = tmp_path / "options.yaml"
    config.write_text(
        "base: tiny\nholdout: 0.25\nholdout-by: id\nholdout_seed: 7\ncolumns: {prompt: q, completion: a}\n"
        "method: lora\nrank: 4\ntargets: qv\n"
    )
    name = f"{tenant.space}/held"
    job = tenant.client.submit_training(name, base="tiny", data=data, **OPTIONS, **held)
    monkeypatch.setenv("ADAPTERCTL_URL", tenant.client.config.url)
    monkeypatch.setenv("ADAPTERCTL_TOKEN", tenant.client.config.token or "")
    flags = ["--base", "tiny", "--method", "lora", "--rank", "4", "--targets", "qv"]
    flags += ["--holdout", "0.25", "--holdout-by", "id", "--holdout-seed", "7", "--columns", held["columns"]]
    for more in (flags, ["--config", str(config)]):
        asked = ["train", name, "--data", str(data), "--detach", "--format", "quiet", *more]
        done = CliRunner().invoke(cli, asked, catch_exceptions=False)
        other = tenant.client.job(done.stdout.strip())
        assert other.view.request["spec"] == job.view.request["spec"]
    request = TrainingRequest.model_validate(job.view.request)
    assert (request.spec.holdout, request.spec.holdout_by, request.spec.holdout_seed) == (0.25, "id", 7)
    # A worker that knows none of it would train on all rows.
    assert used_fields(request) >= {f"training.spec.{name}" for name in ("holdout", "holdout_by", "holdout_seed")}


def test_what_can_not_be_held_out_is_refused_at_submit(tenant: Tenant, tmp_path: Path) -> None:
    name = f"{tenant.space}/held"
    columns = "prompt=q,completion=a"

    def submitted(data: Any, **options: Any) -> None:
        tenant.client.submit_training(name, base="tiny", data=data, columns=columns, **{**OPTIONS, **options})

    with pytest.raises(InvalidInput, match="leave out holdout, or eval_data") as caught:
        submitted(rows(tmp_path, "x", "y"), eval_data=rows(tmp_path, "x"), holdout=0.5)
    assert caught.value.param == "holdout"
    with pytest.raises(InvalidData, match="in one group of 'id'"):
        submitted(rows(tmp_path, "x", "x"), holdout=0.5, holdout_by="id")
    with pytest.raises(InvalidData, match="line 2 has nothing in the column `group`"):
        submitted(rows(tmp_path, "x", "x"), holdout=0.5, holdout_by="group")
    one = tenant.client.add_data(rows(tmp_path, "x"), namespace=tenant.space, columns=columns)
    with pytest.raises(InvalidInput, match="has one row, so none can be held out"):
        submitted(one.digest, holdout=0.5)
    # Whoever asks the registry without a client is told the same.
    body = TrainingRequest(
        adapter=name,
        base=BaseChoice(id="tiny", fingerprint=digest("tiny: base")),
        data=one.digest,
        eval_data=one.digest,
        spec=TrainingSpec(**OPTIONS, columns=columns, holdout=0.5),
    )
    with pytest.raises(InvalidInput, match="leave out holdout, or eval_data") as caught:
        submit(tenant.client, JobSubmission(request=body))
    assert caught.value.param == "spec.holdout"
