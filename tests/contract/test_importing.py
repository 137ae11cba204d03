"""Bulk import of a tree of PEFT folders: everything that can be a version becomes one, the rest is said with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from support import registries
from support.adapters import base_registration, lora_tensors, save_adapter
from support.registries import World

from sdk.cli import cli
from sdk.errors import InvalidInput, NotFound, Unavailable
from sdk.submitting.again import continued_spec


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with registries.embedded(tmp_path / "home") as world:
        world.admin.bases.register(base_registration())
        yield world


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Adapters at two depths, with all that lies about where people train."""
    root = tmp_path / "adapters"
    save_adapter(root / "code-review", 1)
    save_adapter(root / "team" / "Code Review", 2)
    save_adapter(root / "team" / "deep" / "er", 3)
    save_adapter(root / "code-review" / "checkpoint-100", 4)
    save_adapter(root / ".hidden" / "x", 5)
    (root / "notes").mkdir()
    (root / "notes" / "README.md").write_text("nothing")
    return root


def outcomes(world: World, root: Path, **options: Any) -> dict[str, tuple[str, str | None]]:
    return {found.folder: (found.outcome, found.ref) for found in world.writer.versions.push_tree(root, **options)}


def test_every_adapter_of_a_tree_becomes_a_version(world: World, tree: Path) -> None:
    seen = []
    results = world.writer.versions.push_tree(
        tree, base="tiny", on_folder=lambda done, total: seen.append((done, total))
    )
    assert {found.folder: (found.outcome, found.ref) for found in results} == {
        "code-review": ("new", "code-review@v1"),
        "team/Code Review": ("new", "team/code-review@v1"),
        "team/deep/er": ("new", "team/deep.er@v1"),
    }
    assert seen == [(1, 3), (2, 3), (3, 3)]
    info = world.writer.get("team/code-review").info
    assert (info.method, info.unknown) == ("unknown", ["quantization", "dataset", "training", "libraries"])


def test_again_goes_on_where_it_was_stopped(world: World, tree: Path) -> None:
    world.writer.push(tree / "code-review", "code-review", base="tiny")
    first = outcomes(world, tree, base="tiny")
    assert first["code-review"] == ("existing", "code-review@v1")
    assert {outcome for outcome, _ in outcomes(world, tree, base="tiny").values()} == {"existing"}
    assert [found.number for found in world.writer.versions("code-review")] == [1]


def test_what_is_refused_stops_nothing_and_says_why(world: World, tree: Path) -> None:
    zero = {key: value * ("lora_A" in key) for key, value in lora_tensors(9).items()}
    save_adapter(tree / "zero", tensors=zero)
    save_adapter(tree / "cut", 6)
    weights = tree / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    (tree / "no-weights").mkdir()
    shutil.copy(tree / "code-review" / "adapter_config.json", tree / "no-weights")
    (tree / "prompt").mkdir()
    (tree / "prompt" / "adapter_config.json").write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    save_adapter(tree / "broken", 9)
    (tree / "broken" / "adapter_config.json").write_text("{")
    save_adapter(tree / "foreign", 7, base_model_name_or_path="nobody/knows")
    save_adapter(tree / "---", 8)
    # Those that name a base themselves name "tiny".
    results = {found.folder: found for found in world.writer.versions.push_tree(tree)}
    refused = {name: (found.code, found.exit_code) for name, found in results.items() if found.outcome == "refused"}
    assert refused == {
        "---": ("invalid", 2),
        "broken": ("invalid", 2),
        "cut": ("verification", 7),
        "foreign": ("not_found", 3),
        "no-weights": ("not_found", 3),
        "prompt": ("invalid", 2),
        "zero": ("verification", 7),
    }
    assert all(found.message for found in results.values() if found.outcome == "refused")
    assert results["code-review"].ref == "code-review@v1"
    assert {found.adapter for found in world.writer.adapters()} == {"code-review", "team/code-review", "team/deep.er"}


def test_two_folders_of_one_name_are_not_made_one_adapter(world: World, tmp_path: Path) -> None:
    root = tmp_path / "adapters"
    save_adapter(root / "A B", 1)
    save_adapter(root / "a-b", 2)
    results = world.writer.versions.push_tree(root, base="tiny")
    assert [found.outcome for found in results] == ["new", "refused"]
    assert "--versions" in (results[1].message or "")


def test_folders_of_versions_become_versions_in_the_order_people_count(world: World, tmp_path: Path) -> None:
    root = tmp_path / "adapters"
    for number in (10, 2, 1):
        save_adapter(root / "code-review" / f"v{number}", number)
    results = world.writer.versions.push_tree(root, base="tiny", versions=True, namespace="team")
    assert [(found.folder, found.ref) for found in results] == [
        ("code-review/v1", "team/code-review@v1"),
        ("code-review/v2", "team/code-review@v2"),
        ("code-review/v10", "team/code-review@v3"),
    ]


def test_links_are_not_followed_out_of_the_tree(world: World, tmp_path: Path) -> None:
    save_adapter(tmp_path / "elsewhere" / "secret", 1)
    root = tmp_path / "adapters"
    save_adapter(root / "mine", 2)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    assert list(outcomes(world, root, base="tiny")) == ["mine"]


def test_what_is_no_tree_is_said(world: World, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        world.writer.versions.push_tree(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match=r"adapter_config\.json"):
        world.writer.versions.push_tree(tmp_path / "empty", base="tiny")
    with pytest.raises(InvalidInput):
        world.writer.versions.push_tree(tmp_path / "empty", base="tiny", namespace="Team")


def test_a_registry_that_is_away_stops_the_import(world: World, tree: Path) -> None:
    def away(done: int, _total: int) -> None:
        if done == 1:
            shutil.move(world.folder / "registry.sqlite3", world.folder / "gone")
            (world.folder / "registry.sqlite3").mkdir()
            world.services.db.close()

    with pytest.raises(Unavailable):
        world.writer.versions.push_tree(tree, base="tiny", on_folder=away)


def test_the_command_reports_what_was_refused(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    monkeypatch.setenv("ADAPTERCTL_URL", f"local:{tmp_path / 'other'}")
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    from sdk.client import Client

    client = Client()
    client.bases.register(base_registration())
    client.close()
    save_adapter(tree / "broken", 9)
    (tree / "broken" / "adapter_config.json").write_text("{")
    asked = ["push", "--tree", str(tree), "--base", "tiny", "--tag", "from=folders"]
    shown = CliRunner().invoke(cli, [*asked, "--format", "json"])
    assert shown.exit_code == 2, shown.output
    rows = json.loads(shown.stdout)
    assert [(row["folder"], row["outcome"], row["ref"]) for row in rows] == [
        ("broken", "refused", None),
        ("code-review", "new", "code-review@v1"),
        ("team/Code Review", "new", "team/code-review@v1"),
        ("team/deep/er", "new", "team/deep.er@v1"),
    ]
    assert "not JSON" in rows[0]["message"]
    again = CliRunner().invoke(cli, asked)
    assert "3 of 4 are in the registry; 1 refused" in again.stderr
    assert "refused broken: " in again.stderr
    quiet = CliRunner().invoke(cli, [*asked, "--format", "quiet"])
    assert quiet.stdout.split() == ["code-review@v1", "team/code-review@v1", "team/deep.er@v1"]
    for wrong in (["push", str(tree)], ["push", str(tree), "x", "--tree"], ["push", str(tree), "x", "--versions"]):
        assert CliRunner().invoke(cli, wrong).exit_code == 2


@pytest.mark.parametrize("quant_type", ["nf4", "fp4", "int8"])
def test_how_the_base_was_quantised_is_said_as_a_training_quantises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quant_type: Literal["nf4", "fp4", "int8"]
) -> None:
    from click.testing import CliRunner

    monkeypatch.setenv("ADAPTERCTL_URL", f"local:{tmp_path / 'other'}")
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    from sdk.client import Client

    folder = save_adapter(tmp_path / "adapter", 3)
    client = Client()
    client.bases.register(base_registration())
    said = CliRunner().invoke(cli, ["push", str(folder), "tone", "--base", "tiny", "--quantized", quant_type])
    assert said.exit_code == 0, said.output
    version = client.get("tone@v1").info
    client.close()
    recipe, wide = version.quantization, quant_type == "int8"
    assert version.method == "qlora"
    assert (recipe.type, recipe.double_quant, recipe.block_size) == (quant_type, not wide, None if wide else 64)
    # So it is continued over the same.
    assert continued_spec(version, {}).quant_type == quant_type


def test_names_are_written_in_place_of_patterns(world: World, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    save_adapter(tree / "endless", 1, target_modules="([a-z0-9_]+\\.?)+_proj", alpha_pattern={"(q_pro)+j": 8})
    (refused,) = world.writer.versions.push_tree(tree, base="tiny")
    assert (refused.outcome, refused.code) == ("refused", "invalid")
    assert "model.layers.0.self_attn.q_proj, model.layers.0.self_attn.v_proj" in (refused.message or "")
    report = world.writer.versions.push(tree / "endless", "endless", base="tiny", expand_patterns=True)
    assert report.expanded == ["target_modules", "alpha_pattern"]
    lora = world.writer.get("endless@v1").info.lora
    assert lora.target_modules == [f"model.layers.0.self_attn.{name}_proj" for name in "qv"]
    assert lora.alpha_pattern == {"q_proj": 8.0}
    (again,) = world.writer.versions.push_tree(tree, base="tiny", expand_patterns=True)
    assert (again.outcome, again.ref) == ("existing", "endless@v1")
