"""A base's weights in 4 bits, kept on disk: quantised once, and read by the attempts that follow.

Below the folder of a base each entry is a folder of its own, by all that its bits depend on. It has the weights as bitsandbytes
serialises them, and the SHA-256 of what a model held that was just quantised. That is computed again of each model that is made
of an entry: where it is another, the entry is removed and the base quantised anew. Config and generation config are always the
base's own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sdk.formats.base_files import CONFIG_FILE
from sdk.schemas.wire import digest_of
from workers.pipelines.libraries import versions_of
from workers.pipelines.model.device import Device, is_out_of_memory

#: What of the libraries moves the bits, or how they are serialised.
_LIBRARIES = ("accelerate", "bitsandbytes", "safetensors", "torch", "transformers")
_WEIGHTS_FILE = "model.safetensors"
_GENERATION_FILE = "generation_config.json"
_DIGEST_FILE = "sha256"
#: Held by who writes below a base's folder, and what that writes until it is whole.
_LOCK, _PARTIAL = ".lock", ".partial"
#: An entry is written only where so many times its size is free: the job needs the disk, too.
_ROOM = 2
_READ_ONLY = 0o444


@dataclass
class KeptWeights:
    """The entry of one base under one recipe."""

    folder: Path
    #: How the weights are packed, as a config says it.
    packing: Mapping[str, Any]
    #: What became of it, in words for the job's log.
    said: str = ""

    def read(self, base: Path, load: Callable[[Path], Any]) -> Any | None:
        """Return the model that `load` makes of a folder with the entry's weights; None where there is none that can be used.

        Memory that runs out is an error, as with the base itself.
        """
        if not self.folder.is_dir():
            return None
        try:
            expected = (self.folder / _DIGEST_FILE).read_text(encoding="ascii")
            with tempfile.TemporaryDirectory(prefix="adapterctl-kept-") as view:
                self._lay_out(base, Path(view))
                model = load(Path(view))
            # PEFT looks up there which vocabulary the base has.
            model.name_or_path = model.config._name_or_path = str(base)
            if digest_of_model(model) == expected:
                # When it was used last is what the cache is pruned by; it may be another user's.
                with contextlib.suppress(OSError):
                    os.utime(self.folder)
                self.said = "read in 4 bits from the node's cache"
                return model
        except Exception as error:  # whatever a damaged file breaks, the base itself is there
            if is_out_of_memory(error):
                raise
        self.said = "the entry in the node's cache could not be used, and is made anew"
        with contextlib.suppress(OSError), self._alone() as alone:
            if alone:
                shutil.rmtree(self.folder)
        return None

    def write(self, model: Any) -> None:
        """Keep the weights of a model that was just quantised. Where that fails, it is said, and nothing is left."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with self._alone() as alone:
                if alone and not self.folder.is_dir():
                    self._write(model)
                    self._say("kept in 4 bits in the node's cache")
        except (OSError, SafetensorError) as error:
            self._say(f"not kept in the node's cache ({(str(error).splitlines() or [type(error).__name__])[0][:200]})")

    def _say(self, said: str) -> None:
        self.said = f"{self.said}; {said}" if self.said else said

    def _write(self, model: Any) -> None:
        partial = self.folder.with_name(_PARTIAL)
        # What a killed process left.
        shutil.rmtree(partial, ignore_errors=True)
        # What is tied is there once, under the name that comes first.
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        tied -= {name for name, _ in model.named_parameters()}
        stored = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in tied}
        size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
        if shutil.disk_usage(self.folder.parent).free < _ROOM * size_bytes:
            raise OSError(errno.ENOSPC, "too little room on its disk")
        partial.mkdir()
        try:
            save_file(stored, partial / _WEIGHTS_FILE, metadata={"format": "pt"})
            (partial / _DIGEST_FILE).write_text(digest_of_model(model), encoding="ascii")
            for path in partial.iterdir():
                path.chmod(_READ_ONLY)
            partial.rename(self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _lay_out(self, base: Path, view: Path) -> None:
        """Put into a folder what a model is made of: all but the weights is the base's."""
        config = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8-sig"))
        said = {**config, "quantization_config": self.packing}
        (view / CONFIG_FILE).write_text(json.dumps(said), encoding="utf-8")
        if (base / _GENERATION_FILE).exists():
            (view / _GENERATION_FILE).symlink_to((base / _GENERATION_FILE).absolute())
        (view / _WEIGHTS_FILE).symlink_to((self.folder / _WEIGHTS_FILE).absolute())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Hold the base's folder against others that write there, or yield False where somebody does."""
        with (self.folder.parent / _LOCK).open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True


def kept_weights(folder: Path, packing: Any, packed: Sequence[str], dtype: str, device: Device) -> KeptWeights:
    """Return the entry below a base's folder for a recipe, the dtype of the rest, and this machine and its libraries.

    `packing` is the recipe as transformers takes it, `packed` are the names of the modules that are in 4 bits under it: what
    one asks to leave out, another leaves out by itself.
    """
    key = digest_of(
        {
            **versions_of(*_LIBRARIES),
            "type": packing.bnb_4bit_quant_type,
            "double_quant": packing.bnb_4bit_use_double_quant,
            "packed": digest_of(sorted(packed)),
            "dtype": dtype,
            "device": device.name,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            # Of double quantisation the offset is a mean, whose last bit depends on how many threads add it up.
            "threads": torch.get_num_threads(),
        }
    )
    return KeptWeights(folder / key, packing.to_dict())


def digest_of_model(model: Any) -> str:
    """Return the SHA-256 of all that a model holds: names, dtypes, shapes and bytes of parameters, scales and buffers."""
    hasher = hashlib.sha256()
    for name, tensor in _held(model):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hasher.hexdigest()


def _held(model: Any) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        yield name, parameter.data
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield from ((f"{name}.{part}", tensor) for part, tensor in state.as_dict(packed=True).items())
    yield from model.named_buffers()
