"""Start-up of the command line beside `hf` and `mlflow`: whole processes, interleaved, medians.

python benchmarks/startup.py
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: One row of a results table: what was measured, our figure, the peer's, how many times better ours is, conditions.
Row = dict[str, Any]

ROUNDS = 15
#: What is asked of a helper.
_HELPED = ("helped list",)
_PEERS = ROOT / "build" / "peers"
#: Peers' scripts, each with the packages that it takes: MLflow's server reads from S3 by boto3.
_PACKAGES = {"mlflow": ["mlflow", "boto3"], "hf": ["huggingface_hub"], "aws": ["awscli"]}


def run(rounds: int = ROUNDS) -> list[Row]:
    """Time every command `rounds` times in turn and return one row for each of ours."""
    here = Path(sys.executable).parent
    peers = peer_environment()
    with tempfile.TemporaryDirectory() as home:
        _seed(home)
        environment = {**os.environ, "ADAPTERCTL_URL": f"local:{home}/registry", "ADAPTERCTL_CACHE": f"{home}/cache"}
        commands: dict[str, list[Path | str]] = {
            "version": [here / "adapterctl", "--version"],
            "help": [here / "adapterctl", "--help"],
            "show": [here / "adapterctl", "show", "seeded@v1", "--format", "json"],
            "list": [here / "adapterctl", "list"],
            "helped list": [here / "adapterctl", "list"],
            "hf": [peers / "hf", "--help"],
            "hf version": [peers / "hf", "version"],
            "mlflow": [peers / "mlflow", "--version"],
        }
        _start_helper(commands["list"], environment)
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(
                    _time(command, {**environment, "ADAPTERCTL_HELPER": "1" if name in _HELPED else "0"})
                )
    median = {name: statistics.median(found) for name, found in times.items()}
    note = f"whole process, median of {rounds} interleaved"
    return [
        _row("`adapterctl --version`, s (target 0.1)", median["version"], median["mlflow"], "mlflow --version", note),
        _row("`adapterctl --version`, s", median["version"], median["hf version"], "hf version", note),
        _row("`adapterctl --help`, s (target 0.15)", median["help"], median["hf"], "hf --help", note),
        _row("embedded `adapterctl show`, s (target 1.0)", median["show"], median["mlflow"], "mlflow --version", note),
        _row("embedded `adapterctl list`, s (target 1.0)", median["list"], median["mlflow"], "mlflow --version", note),
        _row(
            "the same by the folder's helper, s (target 0.4)",
            median["helped list"],
            median["hf version"],
            "hf version",
            note,
        ),
    ]


def _start_helper(command: list[Path | str], environment: dict[str, str]) -> None:
    """Let a command leave its helper, and wait until that answers."""
    from sdk.home_helpers import greet, place_of

    subprocess.run(command, env={**environment, "ADAPTERCTL_HELPER": "1"}, stdout=subprocess.DEVNULL, check=True)
    place = place_of(Path(environment["ADAPTERCTL_URL"].removeprefix("local:")))
    while place is None or greet(place) is None:
        time.sleep(0.1)


def _row(what: str, ours: float, peer: float, name: str, note: str) -> Row:
    return {
        "what": what,
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "ratio": round(peer / ours, 2),
        "note": f"peer: `{name}`; {note}",
    }


def _time(command: list[Path | str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def peer_environment() -> Path:
    """Return the scripts' folder of an environment with the peers, made once; one that lacks a peer is given it."""
    scripts = _PEERS / "bin"
    if not all((scripts / name).exists() for name in _PACKAGES):
        if not (scripts / "python").exists():
            venv.create(_PEERS, with_pip=True)
        # All at once, so that pip finds versions that go together.
        packages = [package for wanted in _PACKAGES.values() for package in wanted]
        subprocess.run([scripts / "python", "-m", "pip", "install", "--quiet", *packages], check=True)
    return scripts


def _seed(home: str) -> None:
    """Publish one small version over a made-up base, so that `show` has something to show."""
    import json

    import numpy as np
    from safetensors.numpy import save_file

    from sdk.client import Client

    folder = Path(home)
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir()
    adapter.mkdir()
    (base / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((64, 64), "f4")}, base / "model.safetensors")
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{prefix}.lora_A.weight": np.ones((8, 64), "f4"), f"{prefix}.lora_B.weight": np.ones((64, 8), "f4")},
        adapter / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    client = Client(f"local:{home}/registry", cache=folder / "cache")
    client.push(adapter, "seeded", base=base)
    client.close()


if __name__ == "__main__":
    for found in run():
        print(found)
