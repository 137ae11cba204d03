"""A copy that `pull -o` writes is loaded by PEFT from any folder, without a network, and is the same version."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import pytest
from support import pages, processes, tiny
from support.command_line import CommandLine

pytestmark = pytest.mark.slow

#: The lines of the page, without a network.
_LOADS = f"""
import socket, sys
def refuse(*_): raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
{pages.block("artifacts.md", "load").replace('"./adapter"', "sys.argv[1]")}
print(model.get_base_model().config.hidden_size, sum(1 for name, _ in model.named_parameters() if "lora_A" in name))
"""


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A registry with `code-review@v1` over a base in a folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    tmp_path = tmp_path_factory.mktemp("line")
    base = tiny.save_llama(tmp_path / "tiny-llama")
    with warnings.catch_warnings():
        # PEFT asks transformers by a name that is to go.
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(base),
            LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        )
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "trained")
    line = CommandLine(tmp_path)
    line.ok("push", str(tmp_path / "trained"), "code-review", "--base", str(base))
    return line


def _named(folder: Path) -> str:
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


def test_a_copy_loads_from_anywhere_and_stays_the_version(line: CommandLine, tmp_path: Path) -> None:
    base = line.folder / "tiny-llama"
    copy, kept, elsewhere = (tmp_path / name for name in ("adapter", "kept", "elsewhere"))
    elsewhere.mkdir()
    done = line.run("pull", "code-review@v1", "-o", str(copy))
    assert done.stdout == f"{copy}\n"
    assert " ".join(done.stderr.split()) == f"its base is {base}; with --base-name keep, tiny-llama"
    assert _named(copy) == str(base)
    loads = elsewhere / "loads.py"
    loads.write_text(_LOADS)
    # Also no proxy's variables, since a library would try them.
    env = {"PATH": os.environ["PATH"], "HOME": str(elsewhere)}
    loaded = processes.finished(sys.executable, loads, str(copy), env=env, cwd=elsewhere)
    assert loaded.stdout == "64 2\n", loaded.stderr

    line.ok("pull", "code-review@v1", "-o", str(kept), "--base-name", "keep")
    assert _named(kept) == "tiny-llama"
    assert (copy / "adapter_config.json").read_text() == (kept / "adapter_config.json").read_text().replace(
        '"tiny-llama"', json.dumps(str(base))
    )
    whole = line.run("verify", str(copy))
    assert f"{base} in this copy, tiny-llama in the version" in " ".join(whole.stderr.split())
    checked, plain = line.json("verify", str(copy)), line.json("verify", str(kept))
    assert checked == {**plain, "base_name": str(base), "own_base_name": "tiny-llama"}
    digest = plain["digest"]
    # Neither another name for its base nor another version; its base is known without --base.
    for folder in (copy, kept):
        assert line.json("push", str(folder), "code-review")["ref"] == "code-review@v1"
    line.ok("pull", "code-review@v1", "-o", str(kept), "--base-name", "served")
    assert _named(kept) == "served"
    pushed = line.json("push", str(kept), "code-review")
    assert (pushed["ref"], pushed["digest"]) == ("code-review@v1", digest)


def test_a_base_that_is_not_here_is_not_named_as_if_it_were(line: CommandLine, tmp_path: Path) -> None:
    cached = Path(line.json("pull", "code-review@v1")["path"])
    assert _named(cached) == "tiny-llama"
    status, _, shown = line.at_a_terminal("pull", "code-review@v1", columns=200)
    assert status == 0
    loading = "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("
    assert f"load it with: {loading}'{line.folder}/tiny-llama'), '{cached}')" in " ".join(shown.split())
    # Other weights under the same path are another base.
    tiny.save_llama(line.folder / "tiny-llama", seed=2)
    done = line.run("pull", "code-review@v1", "-o", str(tmp_path / "adapter"))
    assert "its base tiny-llama is not on this machine" in " ".join(done.stderr.split())
    assert _named(tmp_path / "adapter") == "tiny-llama"
    line.cwd = tmp_path
    line.ok("pull", "code-review@v1", "-o", "adapter", "--base-name", "./moved")
    assert _named(tmp_path / "adapter") == str(tmp_path / "moved")
