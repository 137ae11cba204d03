"""`train --dry-run` and `--explain`: what is printed, and that there is no job and no registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sdk.cli.commands import train as module
from sdk.cli.commands.train import train_command
from sdk.errors import InvalidInput
from sdk.examining.planning import plan_training
from sdk.lora.planning.tables import LLAMA_2_7B
from sdk.schemas.training import TrainingSpec


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B))

    def refuse() -> Any:
        raise AssertionError("a registry is opened")

    monkeypatch.setattr(module, "open_client", refuse)
    return str(tmp_path)


def run(*args: str) -> Result:
    # Without a format, a pipe gets records.
    style = [] if "--format" in args else ["--format", "table"]
    return CliRunner().invoke(train_command, ["sql", *args, *style], catch_exceptions=False)


def test_a_pipe_gets_the_plan_as_records_and_no_table(base: str) -> None:
    done = CliRunner().invoke(
        train_command, ["sql", "--base", base, "--rank", "4", "--dry-run"], catch_exceptions=False
    )
    header, *lines = [line.split("\t") for line in done.output.splitlines()]
    assert header == ["kind", "name", "value", "size", "method", "location", "note"]
    assert {len(line) for line in lines} == {len(header)}
    assert lines[0][:3] == ["setting", "rank", "4"]
    assert lines[0][-1] == "command line; default 8"
    assert {"model", "part", "GPU", "recommended"} <= {line[0] for line in lines}


def test_a_dry_run_prints_what_differs_and_the_plan(base: str, tmp_path: Path) -> None:
    (tmp_path / "sql.yaml").write_text(f"base: {base}\nrank: 16\nlr: 1e-4\nepochs: 3.0\n")
    done = run("--config", str(tmp_path / "sql.yaml"), "--rank", "4", "--dry-run")
    lines = done.output.splitlines()
    assert lines[:4] == [
        "rank = 4  (command line; default 8)",
        "alpha = 8  (2·rank; default none)",
        "lr = 0.0001  (file; default 0.0002)",
        "",
    ]
    assert "qlora trains 4,194,304: 0.0622 % of the base, 0.0622 % of both" in lines
    assert max(map(len, lines)) <= 80


def test_as_json_the_plan_is_that_of_the_run_as_it_is(base: str) -> None:
    said = json.loads(run("--base", base, "--method", "lora", "--dry-run", "--explain", "--format", "json").output)
    assert TrainingSpec.model_validate(said["spec"]) == TrainingSpec(method="lora", alpha=16.0)
    assert said["plan"] == plan_training(None, base, method="lora", as_given=True).model_dump(mode="json")
    assert [row["option"] for row in said["explained"]] == list(TrainingSpec.model_fields)


def test_each_option_is_explained(base: str) -> None:
    done = run("--base", base, "--targets", "qv", "--explain")
    lines = done.output.splitlines()
    at = lines.index("targets = qv  (command line; default attention)")
    assert lines[at + 1].startswith('    A preset ("qv", "attention", "all-linear")')
    assert "loss_on = none  (default; the job resolves it)" in lines
    assert max(map(len, lines)) <= 80
    assert "PART" not in done.output
    said = json.loads(run("--base", base, "--explain", "--format", "json").output)
    assert all(row["about"] for row in said["explained"])
    (optim,) = (row["about"] for row in said["explained"] if row["option"] == "optim")
    assert optim.endswith("adamw keeps exp_avg, exp_avg_sq for each trained tensor.")


def test_a_base_with_fewer_positions_is_named_where_rows_are_cut(base: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA_2_7B, "max_position_embeddings": 512}))
    line = "max_length = 1024  (default; rows are truncated to 512, since the base has no more positions)"
    assert line in " ".join(run("--base", base, "--explain").output.split()).replace("1024 (", "1024  (")
    assert (
        json.loads(run("--base", base, "--dry-run", "--format", "json").output)["plan"]["forecast"]["max_length"] == 512
    )


def test_what_is_wrong_is_said_as_at_submit(base: str) -> None:
    with pytest.raises(InvalidInput, match=r"alpha can't be 0; use a number above 0 and at most 65536"):
        run("--base", base, "--alpha", "0", "--dry-run")
    with pytest.raises(InvalidInput, match="give base="):
        run("--explain")


@pytest.mark.parametrize("flag", ["--rank-pattern", "--alpha-pattern"])
def test_a_pattern_of_a_module_that_is_no_target_is_refused_ahead(base: str, flag: str) -> None:
    for pattern in ("up_proj=64", "layers.0.mlp.up_proj=64"):
        with pytest.raises(InvalidInput, match=f"names {pattern.split('=')[0]}, which is not among the targets"):
            run("--base", base, "--targets", "qv", flag, pattern, "--dry-run")
    assert run("--base", base, "--targets", "q_proj,up_proj", flag, "up_proj=64", "--dry-run").exit_code == 0


@pytest.mark.parametrize(("flag", "param"), [("--like", "like"), ("--from", "parent")])
@pytest.mark.parametrize("ahead", ["--dry-run", "--explain"])
def test_what_a_record_says_is_not_known_ahead(base: str, flag: str, param: str, ahead: str) -> None:
    with pytest.raises(InvalidInput, match=f"the options of {flag[2:]}=sql@v1 are in its record") as caught:
        run("--base", base, flag, "sql@v1", ahead)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--holdout", "0.1", "--eval-data", "held.jsonl"), "held-out rows are given"),
        (("--memory", "much"), "'much' is not a size"),
        (("--timeout", "soon"), "'soon' is not a duration"),
        (("--timeout", "9999d"), "timeout_s"),
        (("--checkpoint-every", "10"), "'10' is not an interval"),
        (("--from-checkpoint", "3f1c2a9b7d20@last"), "is not a checkpoint"),
        (("--priority", "101"), "priority"),
    ],
)
@pytest.mark.parametrize("ahead", ["--dry-run", "--explain"])
def test_what_a_submit_refuses_without_rows_is_refused_ahead(
    base: str, options: tuple[str, ...], said: str, ahead: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        run("--base", base, *options, ahead)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "1e308"])
def test_weights_that_a_submit_refuses_are_refused(base: str, weight: str) -> None:
    with pytest.raises(InvalidInput, match=r"the weight of a\.jsonl is"):
        run("--base", base, "--data", "a.jsonl", "--weight", weight, "--data", "b.jsonl", "--weight", "1", "--dry-run")


def test_a_weight_of_one_file_and_a_file_given_twice_are_refused(base: str) -> None:
    with pytest.raises(InvalidInput, match="there is only one dataset; leave it out"):
        run("--base", base, "--data", "a.jsonl", "--weight", "1", "--dry-run")
    with pytest.raises(InvalidInput, match=r"a\.jsonl and \./a\.jsonl are the same rows"):
        run("--base", base, "--data", "a.jsonl", "--data", "./a.jsonl", "--dry-run")


@pytest.mark.parametrize(("written", "means"), [("off", "off"), ("on", "on"), ("auto", "auto"), ("'on'", "on")])
def test_packing_is_written_in_yaml_as_on_the_command_line(base: str, tmp_path: Path, written: str, means: str) -> None:
    (tmp_path / "sql.yaml").write_text(f"base: {base}\npacking: {written}\n")
    said = json.loads(run("--config", str(tmp_path / "sql.yaml"), "--dry-run", "--format", "json").output)
    assert said["spec"]["packing"] == means


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rank-pattern", "nope=4"), "rank_pattern names nope, which is not a module of the base"),
        (("--alpha-pattern", "nope=4"), "alpha_pattern names nope, which is not a module of the base"),
        (("--bias", "all"), "bias is 'all', and the base's text part has no such biases"),
        (("--modules-to-save", "q_proj"), r"modules_to_save names q_proj, which is held in 4 bits"),
    ],
)
def test_options_that_a_base_cannot_be_trained_with_are_refused_ahead_as_by_a_submit(
    base: str, options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(InvalidInput, match=said):
        run("--base", base, *options, "--dry-run")


def test_what_is_held_in_4_bits_is_planned_whole_where_it_is_not(base: str) -> None:
    with pytest.raises(InvalidInput, match="or train with the method lora"):
        plan_training(None, base, modules_to_save="q_proj")
    assert plan_training(None, base, method="lora", targets="v_proj", modules_to_save="q_proj").trainable > 32 * 4096**2
    # All is trained: it has no adapter that an option could clash with.
    assert plan_training(None, base, method="full", rank_pattern="nope=4").trainable == 6_738_415_616


def test_the_options_that_a_dry_run_prints_are_a_file_of_options(base: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B | {"max_position_embeddings": 512}))
    given = ["--rank", "4", "--packing", "off", "--rank-pattern", "q_proj=2", "--layers-to-transform", "0-3"]
    said = json.loads(run("--base", base, *given, "--dry-run", "--format", "json").output)
    assert said["plan"]["forecast"]["max_length"] == 512
    (tmp_path / "sql.yaml").write_text(yaml.safe_dump(said["spec"] | {"base": base}))
    again = json.loads(run("--config", str(tmp_path / "sql.yaml"), "--dry-run", "--format", "json").output)
    assert again["spec"] == said["spec"]
    # Only that they are given, not defaults, is said otherwise.
    assert again["plan"] | {"recommendation": None} == said["plan"] | {"recommendation": None}
    with pytest.raises(InvalidInput, match="has only 512 positions"):
        run("--base", base, "--max-length", "1025", "--dry-run")
