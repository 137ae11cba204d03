"""Trainings made again from their records: by the command, other processes, another hash seed, on another day, and without the files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import tiny, workplace
from support.encoders import topic_rows
from support.soak import SOAKING

from registry.principal import Role
from sdk.cli import cli

pytestmark = [pytest.mark.slow, pytest.mark.soak]

HOOK = Path(__file__).parents[1] / "faults" / "hooks" / "skewed"
DAY = "2026-01-31"
WORDS = tiny.WORDS[:6]


def chat(number: int, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"count to {number}"}, {"role": "assistant", "content": answer}]


PAIRS = [{"prompt": f"{number}: ", "completion": word} for number, word in enumerate(WORDS)]
SHARED = [
    {"conversations": [{"from": "human", "value": f"say {word}"}, {"from": "gpt", "value": word}]} for word in WORDS
]
#: Other variants, for which there is time in a soak.
FURTHER: dict[str, tuple[Any, list[str]]] = {
    "texts": ([{"text": f"{word} and {word}"} for word in WORDS], ["--init-lora-weights", "eva", "--targets", "qv"]),
    "labels": (topic_rows(seed=1, count=6), ["--schedule", "linear"]),
    "qlora": (PAIRS, ["--method", "qlora", "--quant-type", "fp4"]),
    "int8": (PAIRS, ["--method", "qlora", "--quant-type", "int8"]),
    "rslora": (PAIRS, ["--use-rslora", "--alpha", "4", "--layers-to-transform", "1", "--weight-decay", "0.1"]),
    "noise": (SHARED, ["--neftune-noise-alpha", "5", "--seed", "7", "--modules-to-save", "model.norm"]),
    "tokens": ([{"text": f"{word} abc"} for word in WORDS], ["--trainable-token-indices", "71"]),
    "linear": (PAIRS, ["--targets", "all-linear", "--adam-beta2", "0.95", "--max-grad-norm", "0.3"]),
}
#: Name: rows, as JSON or CSV, and the options of the command.
TRAININGS: dict[str, tuple[Any, list[str]]] = {
    "chats": ([{"messages": chat(n, word)} for n, word in enumerate(WORDS)], ["--use-dora", "--dropout", "0.2"]),
    "preferences": (
        "id,question,good,bad\n" + "".join(f"{n},q {n},{word},{word.upper()}\n" for n, word in enumerate(WORDS)),
        [
            *("--columns", "prompt=question,chosen=good,rejected=bad", "--beta", "0.3"),
            *("--rank-pattern", "q_proj=4", "--loraplus-lr-ratio", "4", "--holdout", "0.3"),
        ],
    ),
    # Beside a registered dataset.
    "mixed": (
        PAIRS,
        [
            *("--weight", "3", "--data", "extra", "--weight", "1", "--holdout", "0.3"),
            *("--init-lora-weights", "eva", "--eva-rho", "2", "--targets", "all-linear"),
        ],
    ),
    **(FURTHER if SOAKING else {}),
    "preferred": (
        [{"prompt": f"say {word}: ", "chosen": word, "rejected": word.upper()} for word in WORDS],
        ["--from", "chats@v1", "--beta", "0.3"],
    ),
    "more": ([{"instruction": f"say {word}", "output": word} for word in WORDS], ["--from", "chats@v1"]),
}


def write(folder: Path, name: str, rows: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / (f"{name}.csv" if isinstance(rows, str) else f"{name}.jsonl")
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_trainings_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The base's template writes the day.
    tiny.save_llama(tmp_path / "base")
    template = tmp_path / "base" / "chat_template.jinja"
    template.write_text("{{ strftime_now('%d %B %Y') }}\n" + template.read_text())
    with workplace.opened(tmp_path / "place") as place:
        base = place.world.admin.bases.add(tmp_path / "base", id="dated", upload=True).id
        monkeypatch.setenv("ADAPTERCTL_URL", place.world.url)
        monkeypatch.setenv("ADAPTERCTL_TOKEN", place.world.token(Role.WRITER))
        monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
        quick = ("--max-steps", "2", "--batch-size", "2", "--grad-accum", "1", "--lr", "0.01")
        with monkeypatch.context() as then, place.worker(forks=True):
            then.setattr("registry.jobs.kinds.training.today", lambda session: DAY)
            extra = write(tmp_path / "rows", "extra", [{"prompt": f"{word}: ", "completion": "said"} for word in WORDS])
            assert run("data", "add", str(extra), "--name", "extra").exit_code == 0
            for name, (rows, options) in TRAININGS.items():
                data = write(tmp_path / "rows", name, rows)
                over = () if "--from" in options else ("--base", base, "--method", "lora", "--rank", "2")
                done = run("train", name, *over, "--data", str(data), *quick, *options)
                assert (done.exit_code, done.stdout) == (0, f"{name}@v1\n"), done.stderr
        # Nothing of it is left on this machine.
        for folder in ("base", "rows", "cache", "place/worker-cache"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        elsewhere = {
            "PYTHONHASHSEED": "4711",
            "PYTHONPATH": str(HOOK),
            "SKEWED_S": str(40 * 86_400),
            "ADAPTERCTL_CACHE": str(tmp_path / "elsewhere"),
        }
        with place.worker(forks=True, **elsewhere):
            for name in TRAININGS:
                done = run("train", f"{name}-again", "--like", f"{name}@v1")
                assert (done.exit_code, done.stdout) == (0, f"{name}-again@v1\n"), done.stderr
                assert f"the files are those of {name}@v1" in done.stderr
                assert f"libraries, device and samples are those of {name}@v1" in done.stderr
                assert place.client.get(f"{name}-again@v1").digest == place.client.get(f"{name}@v1").digest
        recorded = place.client.get("chats-again@v1").info
        assert recorded.dataset.rendering.template_date == DAY
        assert "libraries, device and samples are those of chats@v1" in place.said(recorded.job.id)
        mixed = place.client.get("mixed-again@v1").info.dataset
        assert mixed.sources is not None
        assert [(source.weight, source.epoch_rows > 0) for source in mixed.sources] == [(3.0, True), (1.0, True)]
        found = place.client.get("preferences-again@v1").info.training
        assert (found["objective"], found["beta"]) == ("dpo", 0.3)
        shown = run("show", "preferences-again@v1").stdout
        assert "dpo" in shown
        assert "chosen answer preferred in " in shown
        continued = place.client.get("preferred-again@v1").info.training
        assert continued["reference"].endswith("chats@v1")
        assert continued["reference"] in run("show", "preferred-again@v1").stdout.partition("continues")[0]
