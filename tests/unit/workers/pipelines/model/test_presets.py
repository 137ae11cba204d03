"""What each preset means in each architecture: by a base's files, by the model that is made of it, and in the docs' table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.architectures import TITLES, save_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from sdk.lora.architectures import is_encoder
from sdk.lora.linear_modules import linear_modules
from sdk.lora.targets import resolve_targets, unfit_targets
from sdk.lora.tensors import read_tensors
from sdk.schemas.option_types import TARGET_PRESETS
from workers.pipelines.model.blueprint import read_blueprint

DOCS = Path(__file__).parents[5] / "docs" / "models.md"


def of_model(base: Path) -> tuple[str, list[str]]:
    """Return the `model_type` of a base, and its model's linear modules without the head, as a training finds them."""
    config = AutoConfig.from_pretrained(base)
    if not is_encoder(config.to_dict()):
        return config.model_type, read_blueprint(base).linear_names
    # It learns to tell classes apart, under a head of its own.
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return config.model_type, sorted(name for name in linear if name != "classifier")


@pytest.fixture(scope="module")
def resolved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, tuple[list[str], list[str]]]]:
    """Architecture and preset to the names by the files, and by the model."""
    found: dict[str, dict[str, tuple[list[str], list[str]]]] = {}
    for name in TITLES:
        base = save_model(tmp_path_factory.mktemp(name), name)
        kind, names = of_model(base)
        tensors = {key: list(tensor.shape) for key, tensor in read_tensors(base / "model.safetensors").items()}
        found[name] = {}
        for preset in TARGET_PRESETS:
            assert unfit_targets(preset, tensors, model_type=kind) is None
            by_files = resolve_targets(preset, kind, linear_modules(tensors))
            found[name][preset] = (by_files, resolve_targets(preset, kind, names))
    return found


def test_the_files_and_the_model_say_the_same(
    resolved: dict[str, dict[str, tuple[list[str], list[str]]]],
) -> None:
    for name, presets in resolved.items():
        for preset, (by_files, by_model) in presets.items():
            assert list(map(_shown, by_files)) == list(map(_shown, by_model)), (name, preset)
            assert by_model


def test_the_table_in_the_docs_is_what_they_say(
    resolved: dict[str, dict[str, tuple[list[str], list[str]]]],
) -> None:
    lines = ["| base | `qv` | `attention` | `all-linear` |", "|---|---|---|---|"]
    for name, presets in resolved.items():
        cells = [" ".join(sorted(set(map(_shown, presets[preset][1])))) for preset in TARGET_PRESETS]
        lines.append(f"| {' | '.join([TITLES[name], *cells])} |")
    table = "\n".join(lines)
    assert table in DOCS.read_text(encoding="utf-8"), f"docs/models.md should hold:\n{table}"


def _shown(name: str) -> str:
    """Return a whole name by its place in the text part, whatever a library puts before it."""
    parts = name.split(".")
    at = next((position for position, part in enumerate(parts) if part.isdigit()), None)
    return name if at is None else ".".join(["…", *parts[at + 1 :]])
