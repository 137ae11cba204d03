"""Files that come with an adapter for serving it, held against the record."""

from __future__ import annotations

import hashlib

import pytest
from support.weights import LORA

from registry.catalog.publishing.inspecting import require_rendering
from registry.errors import Verification
from sdk.schemas.catalog import Publication
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.recorded import Rendering
from sdk.schemas.training_report import DatasetUse


def publication(rendering: Rendering, *names: str, size_bytes: int = 1) -> Publication:
    files = dict.fromkeys(names, "a" * 64) | {"rendering.json": hashlib.sha256(rendering.canonical()).hexdigest()}
    files |= {"adapter_config.json": "1" * 64, "adapter_model.safetensors": "2" * 64}
    listed = [
        ManifestFile(path=name, size_bytes=size_bytes if name in names else 1, sha256=sha256)
        for name, sha256 in sorted(files.items())
    ]
    return Publication(
        adapter="a",
        manifest=Manifest(kind="adapter", base_fingerprint="f" * 64, files=listed),
        lora=LORA,
        method="lora",
        dataset=DatasetUse(digest="d" * 64, rows=1, supervised_tokens=1, rendering=rendering),
    )


def test_template_is_one_that_rendered_rows_or_comes_with_a_tokenizer_of_its_own() -> None:
    rendered, plain = Rendering(templates=["a" * 64]), Rendering()
    require_rendering(publication(rendered, "chat_template.jinja"))
    require_rendering(publication(plain, "chat_template.jinja", "tokenizer.json"))
    for rendering, names in ((plain, ()), (Rendering(templates=["b" * 64]), ("tokenizer.json",))):
        with pytest.raises(Verification, match=r"chat_template.jinja is not among the templates in dataset.rendering"):
            require_rendering(publication(rendering, "chat_template.jinja", *names))


def test_vocabulary_may_be_longer_than_a_template() -> None:
    mib = 1024 * 1024
    require_rendering(publication(Rendering(), "tokenizer.json", size_bytes=60 * mib))
    for name, size in (("tokenizer.json", 65 * mib), ("generation_config.json", 2 * mib)):
        with pytest.raises(Verification, match=f"^{name} is longer than"):
            require_rendering(publication(Rendering(), name, size_bytes=size))
