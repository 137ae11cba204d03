"""A folder for a model hub: the version's files, a card that the hub's own library reads, and a base by its name there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from peft import PeftConfig
from support import merges, pages

from sdk.cli import cli
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput

#: What a name may hold that means something in YAML, Markdown or HTML.
HOSTILE = "a: b\n# <script>x</script> | `c` {{d}} \U0001f600"


@pytest.fixture
def ref(client: Client, base: Path, tmp_path: Path, here: None) -> str:
    client.bases.add(base, id="org/tiny")
    folder = merges.save_adapter(base, tmp_path / "made", r=4, lora_alpha=8, target_modules=["q_proj"])
    return client.push(folder, "reviews", base="org/tiny", description=HOSTILE, tags={"note": HOSTILE[:100]}).ref


def test_folder_has_the_versions_files_and_a_card_that_the_hub_reads(client: Client, ref: str, tmp_path: Path) -> None:
    made = client.versions.export_folder(ref, tmp_path / "card", license="apache-2.0")
    version = client.get(ref).info
    assert made.base == "org/tiny"
    written = {path.relative_to(made.path).as_posix() for path in made.path.rglob("*") if path.is_file()}
    assert written == {"README.md", *(file.path for file in version.files)}
    config = json.loads((made.path / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == "org/tiny"
    assert PeftConfig.from_pretrained(str(made.path)).base_model_name_or_path == "org/tiny"
    card = ModelCard.load(made.path / "README.md")
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("org/tiny", "peft", "apache-2.0")
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert card.data.pipeline_tag == "text-generation"
    assert version.base.fingerprint in card.text
    assert "`rank 4, alpha 8" in card.text
    # What people of this registry wrote stays here.
    assert "script" not in (made.path / "README.md").read_text()


def test_the_command_of_the_page_writes_the_folder(
    client: Client, ref: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERCTL_URL", client.config.url)
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    (words,) = pages.commands("exporting.md", "hub-folder")
    done = CliRunner().invoke(cli, [ref if word == "code-review@v3" else word for word in words[1:]])
    assert done.exception is None, done.output
    assert (tmp_path / "card" / "README.md").is_file()


def test_scores_are_listed_as_the_hub_reads_them() -> None:
    from sdk.exporting.model_card import ModelCard as OwnCard
    from sdk.exporting.model_card import Result, render

    scores = [Result(HOSTILE, "loss", 1.25, "float32"), Result("rows@v2", "rouge_l", float("nan"), "nf4")]
    text = render(
        OwnCard("a v1", "org/tiny", "adapter", "peft", ["lora"], [], [], [], task="text-generation", results=scores)
    )
    card = ModelCard(text)
    (result,) = card.data.eval_results or []
    assert (result.metric_type, result.metric_value, result.task_type) == ("loss", 1.25, "text-generation")
    assert yaml.safe_load(text.split("---")[1])["model-index"][0]["results"][0]["dataset"]["name"].startswith("a: b\n#")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 3
    # A bar within a cell ends it unless it is escaped, and what is in a code span is no HTML.
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)
    assert "`loss`" in rows[1]


def test_bad_input_is_refused_and_leaves_nothing(client: Client, ref: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(Conflict, match="already exists"):
        client.versions.export_folder(ref, tmp_path / "there")
    with pytest.raises(InvalidInput, match="is not a licence as a hub names it"):
        client.versions.export_folder(ref, tmp_path / "new", license="MIT License\nbase_model: x")
    with pytest.raises(InvalidInput, match="printable characters"):
        client.versions.export_folder(ref, tmp_path / "new", base_name="a\nb")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("new", ".new"))) == []


def test_base_that_is_at_no_hub_is_said(client: Client, base: Path, tmp_path: Path, here: None) -> None:
    client.bases.add(base, id="tiny")
    folder = merges.save_adapter(base, tmp_path / "made", r=4, lora_alpha=8, target_modules=["v_proj"])
    ref = client.push(folder, "local", base="tiny").ref
    made = client.versions.export_folder(ref, tmp_path / "card")
    assert any("is at no hub, as far as is known here" in note for note in made.notes)
    assert any("names no licence" in note for note in made.notes)
    named = client.versions.export_folder(ref, tmp_path / "named", base_name="org/tiny")
    assert ModelCard.load(named.path / "README.md").data.base_model == "org/tiny"
