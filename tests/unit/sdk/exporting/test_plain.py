"""From the client, and the command, to the folder of a plain LoRA that is whole, or to none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from support import merges, tiny
from support.processes import environment, run
from support.trainings import names_in as left

import sdk.worker_program
from sdk.client import Client
from sdk.errors import AdapterctlError, Conflict, InvalidInput, NotFound, VerificationFailed

SETTINGS: dict[str, Any] = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "rank_pattern": {"v_proj": 2},
}


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with a pattern."""
    return merges.save_adapter(base, tmp_path_factory.mktemp("adapter") / "plain", **SETTINGS)


@pytest.fixture(scope="module")
def dora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DoRA."""
    return merges.save_adapter(base, tmp_path_factory.mktemp("dora") / "dora", **SETTINGS, use_dora=True)


@pytest.mark.slow
def test_the_command_makes_a_plain_lora(base: Path, dora: Path, tmp_path: Path) -> None:
    asked = ["export", str(dora), "--to", "lora", "--base", str(base), "--rank", "8", "-o", "out/plain"]
    done = run("adapterctl", *asked, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out/plain'}\n")
    assert "plain LoRA of rank 8, " in done.stderr
    assert "of ΔW's energy, at least " in done.stderr
    assert left(tmp_path / "out") == ["plain"]
    assert left(tmp_path / "out/plain") == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    for beside in (["--tokenizer-from", "x.gguf"], ["--to", "gguf"]):
        refused = run("adapterctl", *asked, *beside, cwd=tmp_path, env=environment())
        assert refused.returncode == 2
        assert "leave" in refused.stderr


@pytest.mark.usefixtures("here")
def test_a_version_and_its_base_are_found_by_the_ref(client: Client, base: Path, dora: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(base, own)
    client.bases.add(own, id="tiny")
    (own / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    version = client.push(dora, "team/dora", base="tiny")
    by_ref = client.versions.export_plain("team/dora@v1", tmp_path / "ref", rank=4)
    by_folder = client.versions.export_plain(dora, tmp_path / "folder", base=base, rank=4)
    *notes, unproven = by_folder.report.notes
    assert "nothing proves that the DoRA was trained over" in unproven
    same = {"size_bytes": by_ref.report.size_bytes, "notes": notes}
    assert by_ref.report == by_folder.report.model_copy(update=same)
    card = (by_ref.path / "README.md").read_text()
    assert '"license": "apache-2.0"' in card
    assert all(said in card for said in ("team/dora@v1", version.digest, "tiny", "DoRA of rank 4"))
    # What was made is an adapter as any other.
    assert client.push(by_ref.path, "team/plain", base="tiny").info.lora.rank == 4
    other = tiny.save_llama(tmp_path / "other", seed=9)
    with pytest.raises(VerificationFailed, match="belongs to tiny"):
        client.versions.export_plain("team/dora@v1", tmp_path / "x", base=other, rank=4)
    (own / "model.safetensors").unlink()
    with pytest.raises(InvalidInput, match="give the base's folder with base="):
        client.versions.export_plain("team/dora@v1", tmp_path / "x", rank=4)
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda c, b, a, f: c.versions.export_plain(a, f / "x", rank=0), InvalidInput, "give one from 1 to"),
        (lambda c, b, a, f: c.versions.export_plain(b, f / "x"), InvalidInput, "is a model; give a ref"),
        (lambda c, b, a, f: c.versions.export_plain(a, f / "there"), Conflict, "already exists; remove it"),
        (lambda c, b, a, f: c.versions.export_plain(a, f / "x", dtype="q4"), InvalidInput, "there is no dtype"),
        (lambda c, b, a, f: c.versions.export_plain(f / "no", f / "x"), NotFound, "there is no folder"),
    ],
)
def test_what_is_asked_wrong_leaves_nothing(
    ask: Any, error: type[AdapterctlError], said: str, client: Client, base: Path, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    before = left(tmp_path)
    with pytest.raises(error, match=said):
        ask(client, base, adapter, tmp_path)
    assert left(tmp_path) == before


@pytest.mark.usefixtures("here")
def test_numbers_that_are_nothing_in_the_type_asked_for(
    client: Client, base: Path, adapter: Path, tmp_path: Path
) -> None:
    faint = shutil.copytree(adapter, tmp_path / "faint")
    tensors = load_file(faint / "adapter_model.safetensors")
    save_file({name: 1e-9 * each for name, each in tensors.items()}, faint / "adapter_model.safetensors")
    with pytest.raises(InvalidInput, match="numbers too small for f16, which would be lost; export with dtype=f32"):
        client.versions.export_plain(faint, tmp_path / "plain", base=base, dtype="f16")
    assert not (tmp_path / "plain").exists()
    assert client.versions.export_plain(faint, tmp_path / "plain", base=base, dtype="f32").report.kept_energy == 1.0


@pytest.mark.usefixtures("here")
def test_what_came_there_meanwhile_stays(
    client: Client, adapter: Path, tmp_path: Path, instead: Callable[[Callable[..., Any]], None]
) -> None:
    program, target = sdk.worker_program.run_program, tmp_path / "out" / "plain"

    def beaten(*given: Any, **asked: Any) -> Any:
        target.mkdir()
        (target / "mine").write_text("mine")
        return program(*given, **asked)

    instead(beaten)
    with pytest.raises(Conflict, match="was created meanwhile"):
        client.versions.export_plain(adapter, target)
    assert (left(target.parent), left(target)) == (["plain"], ["mine"])


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("settings", "engine"),
    [
        ({"use_rslora": True}, "sglang"),
        ({"alpha_pattern": {"q_proj": 3}}, "sglang"),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}}, "sglang"),
        ({"use_dora": True}, "vllm"),
        ({"use_dora": True}, "llama.cpp"),
    ],
)
def test_what_makes_it_fit_by_compat_does(
    settings: dict[str, Any], engine: str, client: Client, base: Path, tmp_path: Path
) -> None:
    plain = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    folder = merges.save_adapter(base, tmp_path / "a", **{**plain, **settings})
    before = client.versions.compat(folder, engine=engine, base=base)
    assert before.answer == ("unknown" if len(settings) > 1 else "no")
    assert "--to lora" in " ".join([before.fix or "", *before.notes])
    made = client.versions.export_plain(
        folder, tmp_path / "plain", base=base, rank=4 if "use_dora" in settings else None
    )
    after = client.versions.compat(made.path, engine=engine, base=base)
    assert after.answer == "yes", after.against
