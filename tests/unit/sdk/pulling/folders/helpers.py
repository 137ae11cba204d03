"""What these tests share. A pulled folder is whole or says that it is not, and what a pull did not write is not touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sdk.pulling.transfer import hash_file
from sdk.schemas.manifest import Manifest, ManifestFile

#: A file of no tensors, whose header is as short as it can be.
WEIGHTS = "\x02" + "\0" * 7 + "{}"


OTHER_WEIGHTS = "\x03" + "\0" * 7 + "{ }"


ONE = {"adapter_config.json": "{}", "adapter_model.safetensors": WEIGHTS, "extra/old.txt": "old"}


TWO = {
    "a_new.txt": "new too",
    "adapter_config.json": "{ }",
    "adapter_model.safetensors": OTHER_WEIGHTS,
    "more/new.txt": "new",
}


MARKERS = ["manifest.json", "manifest.sha256"]


def make(folder: Path, content: dict[str, str]) -> tuple[Path, Manifest]:
    """Write a cache's folder; return it with its manifest."""
    files = []
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sha256, size = hash_file(path)
        files.append(ManifestFile(path=name, size_bytes=size, sha256=sha256))
    return folder, Manifest(base_fingerprint="f" * 64, files=files)


def _file(name: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("precious")

    return add


def _link(name: str, to: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(to)


FOREIGN = [
    _file("notes.txt"),
    _file(".github/workflow.yml"),
    _file(".adapterctl/notes.txt"),
    _file("extra/mine.txt"),
    _file("model.partial-0123abcd"),
    _link("link", "/etc"),
    _link("link", "nowhere"),
    _link("link", "adapter_config.json"),
]


# Another name for the base.

CONFIG = {"r": 2, "base_model_name_or_path": "/home/x/base", "target_modules": ["q_proj"], "lora_alpha": 4.0}
