"""A base's weights in 4 bits, kept on disk: quantised once, and read by the attempts that follow.

Each entry is a folder within the base's folder, named by everything that its bits depend on. It has the weights as
serialised by bitsandbytes, and the SHA-256 of the freshly quantised model's contents. This is computed again for each
model made from an entry: if it differs, the entry is removed and the base quantised again. Config and generation config
are always the base's own.
"""

from __future__ import annotations

import contextlib
import errno
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

from sdk.file_locks import locked_if_free
from sdk.formats.base_files import CONFIG_FILE
from sdk.schemas.wire import digest_of
from sdk.whole_files import give_name
from workers.pipelines.errors import first_line
from workers.pipelines.libraries import versions_of
from workers.pipelines.model.device import Device, is_out_of_memory

#: Libraries whose versions affect the bits, or how they are serialised.
_LIBRARIES = ("accelerate", "bitsandbytes", "safetensors", "torch", "transformers")
_WEIGHTS_FILE = "model.safetensors"
_GENERATION_FILE = "generation_config.json"
_DIGEST_FILE = "sha256"
#: The lock of the process that writes in a base's folder, and the name of its files until they are complete.
_LOCK, _PARTIAL = ".lock", ".partial"
#: An entry is written only if this many times its size is free: the job needs the disk, too.
_ROOM = 2
_READ_ONLY = 0o444


@dataclass
class KeptWeights:
    """The entry of one base under one recipe."""

    folder: Path
    #: How the weights are packed, in a config's terms.
    packing: Mapping[str, Any]
    #: What happened to it, in words for the job's log.
    said: str = ""

    def read(self, base: Path, load: Callable[[Path], Any]) -> Any | None:
        """Return the model that `load` makes from a folder with the entry's weights; None if there is no usable entry.

        Running out of memory is an error, as with the base itself.
        """
        if not self.folder.is_dir():
            return None
        try:
            expected = (self.folder / _DIGEST_FILE).read_text(encoding="ascii")
            with tempfile.TemporaryDirectory(prefix="adapterctl-kept-") as view:
                self._lay_out(base, Path(view))
                model = load(Path(view))
            # PEFT looks up the base's vocabulary there.
            model.name_or_path = model.config.name_or_path = str(base)
            if digest_of_model(model) == expected:
                # The cache is pruned by the time of last use; the entry may belong to another user.
                with contextlib.suppress(OSError):
                    os.utime(self.folder)
                self.said = "read in 4 bits from the node's cache"
                return model
        except Exception as error:  # whatever a damaged file breaks, the base itself is there
            if is_out_of_memory(error):
                raise
        self.said = "the entry in the node's cache could not be used, and is made again"
        with contextlib.suppress(OSError), self._alone() as alone:
            if alone:
                shutil.rmtree(self.folder)
        return None

    def write(self, model: Any) -> None:
        """Keep the weights of a freshly quantised model. If that fails, it is logged, and nothing is left."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with self._alone() as alone:
                if alone and not self.folder.is_dir():
                    self._write(model)
                    self._say("kept in 4 bits in the node's cache")
        except (OSError, SafetensorError) as error:
            self._say(f"not kept in the node's cache ({first_line(error)})")

    def _say(self, said: str) -> None:
        self.said = f"{self.said}; {said}" if self.said else said

    def _write(self, model: Any) -> None:
        partial = self.folder.with_name(_PARTIAL)
        # Left by a killed process.
        shutil.rmtree(partial, ignore_errors=True)
        # Tied weights occur once, under the first name.
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
            give_name(partial, self.folder, durable=False)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _lay_out(self, base: Path, view: Path) -> None:
        """Assemble a model's folder: everything except the weights is the base's."""
        config = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8-sig"))
        said = {**config, "quantization_config": self.packing}
        (view / CONFIG_FILE).write_text(json.dumps(said), encoding="utf-8")
        if (base / _GENERATION_FILE).exists():
            (view / _GENERATION_FILE).symlink_to((base / _GENERATION_FILE).absolute())
        (view / _WEIGHTS_FILE).symlink_to((self.folder / _WEIGHTS_FILE).absolute())

    def _alone(self) -> contextlib.AbstractContextManager[bool]:
        """Lock the base's folder for writing, or yield False if another process has it."""
        return locked_if_free(self.folder.parent / _LOCK)


def kept_weights(folder: Path, packing: Any, packed: Sequence[str], dtype: str, device: Device) -> KeptWeights:
    """Return the entry below a base's folder for a recipe, the dtype of the rest, and this machine and its libraries.

    `packing` is the recipe for transformers, `packed` are the names of the modules that it puts into 4 bits: recipes
    may leave out the same modules explicitly or implicitly.
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
            # With double quantisation, the offset is a mean whose last bit depends on the number of threads.
            "threads": torch.get_num_threads(),
        }
    )
    return KeptWeights(folder / key, packing.to_dict())


def digest_of_model(model: Any) -> str:
    """Return the SHA-256 of everything in a model: names, dtypes, shapes and bytes of parameters, scales and buffers."""
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
