"""A merged model written again in 4 bits, as a bitsandbytes checkpoint that transformers loads by its `quantization_config`.

It is made from the merged files after they were read back, weight by weight, with bitsandbytes' own functions. The same
modules are in 4 bits as if transformers had quantised the merged model. The result is read back: every widened weight
must equal the merged one quantised and widened, and every other tensor the merged one byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import quantize_4bit

from sdk.formats.base_files import CONFIG_FILE, INDEX_FILE
from sdk.formats.safetensors import Kind
from sdk.formats.safetensors_header import TensorEntry, written_header
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.cpu.arithmetic import one_thread
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.found import wrong
from workers.pipelines.merging.four_bits import FourBits, quantised, stored_in_four_bits
from workers.pipelines.merging.placement import place
from workers.pipelines.merging.stored_base import StoredBase, open_files, open_stored_base
from workers.pipelines.merging.writing import chunks, digest_in, write_weights
from workers.pipelines.model.blueprint import blank_model, read_blueprint
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.dtype_names import DtypeName
from workers.pipelines.model.packed import packing_config, quantised_names
from workers.pipelines.model.torch_tensors import FORMAT_TYPES

_CHUNK_BYTES = 8 * 2**20
_BLOCK_ROWS, _BLOCK_NUMBERS = 256, 2**20
#: The relative error allowed for 4 bits: half the widest gap of NF4 is 0.15 of a block's largest number, and numbers in
#: the middle of gaps near zero lose at most 0.35. A larger error means another weight.
_FURTHEST = 0.5


@dataclass
class FourBitFiles:
    """What was written and read back."""

    #: Weights in 4 bits, and the linear modules that are not.
    weights: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    #: Tensor to the digest of its bytes, by file.
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    #: ‖W − W₄‖/‖W‖ of the weight where it is largest.
    furthest: float = 0.0


@dataclass(frozen=True)
class _Part:
    """One tensor of a file to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    #: Yields its bytes.
    chunks: Callable[[], Iterator[Any]]
    size_bytes: int


def nf4(base: Path, compute_dtype: DtypeName, classes: Classes | None) -> QuantizationRecipe:
    """Return the recipe of the 4 bits, with scales in 8 bits (arXiv:2305.14314, section 3); the head of a classification is left out."""
    head = [] if classes is None else read_blueprint(base, classes).head
    return QuantizationRecipe(compute_dtype=compute_dtype, skipped_modules=head)


@one_thread()
def write_in_four_bits(merged: Path, out: Path, recipe: QuantizationRecipe, classes: Classes | None) -> FourBitFiles:
    """Write the model of a folder into the new folder `out` in 4 bits, and read it back.

    Raises PipelineError ("spec") if a weight that should be in 4 bits isn't a tensor of its own, ("verification"),
    naming a tensor that is wrong.
    """
    source = open_stored_base(merged)
    blueprint = read_blueprint(merged, classes)
    names = quantised_names(merged, recipe, classes)
    turned = {f"{name}.weight" for name in names} & {f"{name}.weight" for name in blueprint.conv1d_names}
    packed = _stored_names(merged, source, names, classes)
    found = FourBitFiles(sorted(packed), sorted(set(blueprint.linear_names) - set(names)))
    if not packed:
        raise PipelineError(
            FailureReason.SPEC,
            "The merged model has no linear module that could be quantised to 4 bits; leave --quantize out.",
        )
    out.mkdir()
    across = {stored for stored, parameter in packed.items() if parameter in turned}
    for file in source.headers:
        with (out / ".codes").open("w+b") as codes:
            parts = [
                part for name in _names_in(source, file) for part in _parts(source, name, packed, across, recipe, codes)
            ]
            found.digests[file] = _write(out / file, parts, source.metadata(file))
        (out / ".codes").unlink()
    _write_small_files(merged, out, found, recipe)
    _read_back(source, out, found, packed, across, recipe)
    return found


def _stored_names(merged: Path, source: StoredBase, names: list[str], classes: Classes | None) -> dict[str, str]:
    """Return the stored tensor of each weight that is to be in 4 bits, with its name in the model. Raises PipelineError."""
    pieces = place(blank_model(merged, classes), {name: source.shape(name) for name in source.tensors}).pieces
    found = {}
    for name in names:
        parameter = f"{name}.weight"
        of = pieces.get(parameter, ())
        if len(of) != 1 or of[0].axes != (0, 1) or of[0].size != source.shape(of[0].source):
            raise PipelineError(
                FailureReason.SPEC,
                f"{parameter} does not lie in the merged files as one tensor, so that it can't be in 4 bits there; leave --quantize"
                " out, and let transformers quantise the model as it loads it.",
            )
        found[of[0].source] = parameter
    return found


def _names_in(source: StoredBase, file: str) -> list[str]:
    return [name for name, tensor in source.tensors.items() if tensor.file.name == file]


def _parts(
    source: StoredBase, name: str, packed: Mapping[str, str], across: set[str], recipe: QuantizationRecipe, codes: Any
) -> Iterator[_Part]:
    """Yield the tensors that a merged one becomes; large data is kept in the file `codes`."""
    tensor = source.tensors[name]
    if name not in packed:
        raw = source.bytes_of(name)
        yield _Part(name, tensor.dtype, tensor.shape, partial(chunks, raw), len(raw))
        return
    weight = source.read(name)
    code, state = quantize_4bit(
        (weight.T if name in across else weight).contiguous(),
        blocksize=recipe.four_bit_block,
        compress_statistics=recipe.double_quant,
        quant_type=recipe.type,
    )
    begin = codes.seek(0, 2)
    codes.write(_bytes(code))
    size = codes.tell() - begin
    yield _Part(name, "U8", tuple(code.shape), partial(_read, codes, begin, size), size)
    for key, part in state.as_dict(packed=True).items():
        raw = _bytes(part)
        yield _Part(f"{name}.{key}", FORMAT_TYPES[part.dtype], tuple(part.shape), partial(chunks, raw), len(raw))


def _bytes(tensor: Any) -> memoryview:
    return memoryview(tensor.contiguous().view(torch.uint8).numpy().reshape(-1))


def _read(codes: Any, begin: int, size: int) -> Iterator[bytes]:
    codes.seek(begin)
    while size:
        chunk = codes.read(min(size, _CHUNK_BYTES))
        size -= len(chunk)
        yield chunk


def _write(path: Path, parts: list[_Part], metadata: Mapping[str, str]) -> dict[str, str]:
    """Write a weight file, wider types first, so that each tensor is aligned; return the digest of each."""
    ordered = sorted(parts, key=lambda part: -_width(part.dtype))
    entries = (TensorEntry(part.name, part.dtype, part.shape, part.size_bytes) for part in ordered)
    header = written_header(entries, {"format": "pt", **metadata})
    return write_weights(path, header, ((part.name, part.chunks()) for part in ordered))


def _write_small_files(merged: Path, out: Path, found: FourBitFiles, recipe: QuantizationRecipe) -> None:
    for path in merged.iterdir():
        if path.name not in (*found.digests, CONFIG_FILE, INDEX_FILE):
            shutil.copyfile(path, out / path.name)
    config = json.loads((merged / CONFIG_FILE).read_bytes())
    config["quantization_config"] = packing_config(recipe, recipe.compute_dtype, []).to_dict()
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if (merged / INDEX_FILE).is_file():
        where = {name: file for file, digests in found.digests.items() for name in digests}
        files = open_files(out, list(found.digests))
        total = sum(tensor.end - tensor.begin for tensor in files.tensors.values())
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (out / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _read_back(
    source: StoredBase,
    out: Path,
    found: FourBitFiles,
    packed: Mapping[str, str],
    across: set[str],
    recipe: QuantizationRecipe,
) -> None:
    """Compare what was written with the merged files. Raises PipelineError ("verification"), naming the tensor."""
    files = open_stored_base(out)
    for file, digests in found.digests.items():
        for name, digest in digests.items():
            if name not in files.tensors or files.tensors[name].file.name != file or digest_in(files, name) != digest:
                raise wrong(name, "in 4 bits are not those that were computed")
    if files.packed.keys() != packed.keys() or set(source.tensors) != set(files.tensors) - files.beside:
        raise wrong(
            min(files.packed.keys() ^ packed.keys(), default="all"), "in 4 bits are of other tensors than were meant"
        )
    for name in source.tensors:
        if name in packed:
            weight = source.read(name)
            far = _distance(files, name, weight.T if name in across else weight, recipe)
            found.furthest = max(found.furthest, far)
        elif _bytes_differ(source, files, name):
            raise wrong(name, "besides the 4 bits are not those of the merged model")


def _bytes_differ(one: StoredBase, other: StoredBase, name: str) -> bool:
    """Whether bytes, shape or type of a tensor differ between two files."""
    kinds = [(files.tensors[name].dtype, files.tensors[name].shape) for files in (one, other)]
    return kinds[0] != kinds[1] or digest_in(one, name) != digest_in(other, name)


def _distance(files: StoredBase, name: str, weight: Any, recipe: QuantizationRecipe) -> float:
    """Return the relative error of a weight in 4 bits. Raises PipelineError if it isn't the merged one."""
    ours = stored_in_four_bits(files, name)
    # In pieces, and with the scales widened in another way than by the library for the whole weight.
    theirs = quantised(weight, recipe, weight.dtype)
    if ours.shape != theirs.shape:
        raise wrong(name, f"in 4 bits are of {list(ours.shape)}, not of {list(theirs.shape)}")
    for begin in range(0, ours.shape[0], _BLOCK_ROWS):
        end = min(ours.shape[0], begin + _BLOCK_ROWS)
        if not torch.equal(ours.rows(begin, end), theirs.rows(begin, end)):
            raise wrong(name, "in 4 bits are not what quantising the merged ones gives")
    far = _furthest(ours, weight)
    if not far <= _FURTHEST:
        raise wrong(name, f"in 4 bits are {far:.0%} of their size from the merged ones")
    return far


def _furthest(held: FourBits, weight: Any) -> float:
    """Return ‖W − W₄‖/‖W‖."""
    numbers = weight.reshape(-1)
    if len(numbers) % held.block_size == 0:
        # One block per row: if a row of the weight isn't a whole number of blocks, the kernel for CPUs uses other scales.
        held = replace(held, shape=(len(numbers) // held.block_size, held.block_size))
    off = square = 0.0
    step = max(1, _BLOCK_NUMBERS // held.shape[1])
    for begin in range(0, held.shape[0], step):
        end = min(held.shape[0], begin + step)
        merged = numbers[begin * held.shape[1] : end * held.shape[1]].float()
        off += float((held.rows(begin, end).reshape(-1).float() - merged).square_().sum(dtype=torch.float64))
        square += float(merged.square().sum(dtype=torch.float64))
    return (off / square) ** 0.5 if square else 0.0


def _width(dtype: str) -> int:
    return Kind(dtype, (1,)).size_bytes
