"""An adapter's two files: written canonically, read with a check that they reach the model."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sdk.formats.adapter_files import (
    CONFIG_FILE,
    VOCABULARY_FILES,
    WEIGHTS_FILE,
    base_parameter,
    lora_key,
    unwrapped,
)
from sdk.formats.peft_config import MAX_CONFIG_BYTES, hazard
from sdk.formats.peft_unusable import changes_base
from sdk.lora.adapter_config import canonical_text, config_of
from sdk.lora.tensors import Tensor, open_file
from sdk.lora.trained_tokens import TrainedTokens, highest_token, missing_rows
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import LoraConfig
from workers.pipelines.errors import PipelineError, first_line, named
from workers.pipelines.model.added_rows import grow
from workers.pipelines.model.torch_tensors import as_torch
from workers.pipelines.model.trained_whole import biases_of, keep_biases

#: PEFT's name for a model's only adapter, within the names of its parameters.
_ADAPTER = re.compile(r"\.default(?=\.|$)")
#: A rank that may be in a config though no matrix has it. PEFT makes some megabytes of it for each module.
_ANY_RANK = 512
_OS_ERROR = re.compile(r"\(os error ([0-9]{1,4})\)")


def write_adapter(
    out: Path,
    *,
    tensors: dict[str, Any],
    lora: LoraConfig,
    base_name: str,
    base_revision: str | None,
    fan_in_fan_out: bool,
    labels: Sequence[str] = (),
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`, and nothing else, into `out`.

    Equal arguments give equal bytes: lists and keys are sorted, and no path, time or library version is written.
    `tensors` are stored in float32 under PEFT's own keys. A classification's `labels` are in the metadata of the
    weights, as a JSON list in the order of their numbers.
    """
    config = config_of(lora, base_name=base_name, base_revision=base_revision, fan_in_fan_out=fan_in_fan_out)
    out.mkdir(parents=True, exist_ok=True)
    (out / CONFIG_FILE).write_bytes(canonical_text(config).encode("utf-8"))
    stored = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    save_tensors(stored, out / WEIGHTS_FILE, labels=labels)


def save_tensors(tensors: dict[str, Any], path: Path, *, labels: Sequence[str] = ()) -> None:
    """Write CPU tensors as safetensors. Raises OSError if the disk is full."""
    named = {"labels": json.dumps(list(labels), ensure_ascii=False)} if labels else {}
    try:
        save_file(tensors, path, metadata={"format": "pt", **named})
        if named:
            _sort_metadata(path)
    except SafetensorError as error:
        # The library has the system's error only as text.
        if said := _OS_ERROR.search(str(error)):
            number = int(said[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _sort_metadata(path: Path) -> None:
    """Sort the metadata in a file's header: the library writes it in any order, and equal files must have equal bytes."""
    with path.open("r+b") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
        start = header.index(b"{", 1)
        texts, _ = json.JSONDecoder().raw_decode(header[start:].decode("utf-8"))
        ordered = json.dumps(texts, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
        file.seek(8 + start)
        file.write(ordered)


def unload(worn: Any) -> Any:
    """Remove an adapter from its base; return the base, with its own modules where PEFT leaves an adapter's whole ones, such
    as a classification's head.
    """
    from peft.utils import ModulesToSaveWrapper

    base = worn.get_base_model()
    own = {name: each.original_module for name, each in base.named_modules() if isinstance(each, ModulesToSaveWrapper)}
    worn.unload()
    for name, module in own.items():
        parent, _, child = name.rpartition(".")
        setattr(base.get_submodule(parent), child, module)
    return base


def load_adapter(model: Any, adapter: Path) -> Any:
    """Return a PeftModel of `model` with the adapter in a folder, in evaluation mode, its matrices in float32.

    PEFT only warns when keys match nothing and then leaves the fresh, ineffective matrices in place. Here each
    tensor of the file must reach the model and each matrix of the model must come from the file, else PipelineError
    ("adapter"), as is a config that PEFT should not be given.
    """
    from peft import PeftModel, get_peft_model_state_dict

    config = peft_config_of(adapter)
    try:
        with warnings.catch_warnings():
            # What PEFT warns about is checked below, and is an error.
            warnings.simplefilter("ignore")
            tensors = open_file(adapter / WEIGHTS_FILE).tensors()
            names = set(tensors)
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            _require_ranks(config, shapes)
            resize_vocabulary(model, shapes, tokens_of(adapter, config))
            if not changes_base(config.init_lora_weights):
                # Each matrix comes from the file; some initialisations are impossible over 4-bit weights.
                config.init_lora_weights = True
            biases = biases_of(model) if config.bias != "none" else {}
            peft_model = PeftModel.from_pretrained(model, adapter, config=config, local_files_only=True)
            keep_biases(peft_model, biases)
            wanted = set(get_peft_model_state_dict(peft_model, save_embedding_layers=False))
            found = names if names == wanted else _as_loaded(peft_model, tensors)
            # PEFT also saves and loads embeddings that it doesn't train, and copies of modules that it trains.
            found -= _loaded_whole(peft_model, [tensors[name] for name in names & found - wanted])
    except (OSError, ValueError, LookupError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise unloadable(first_line(error)) from error
    if wanted != found:
        raise mismatch(found - wanted, wanted - found)
    return peft_model.eval()


def _require_ranks(config: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError for a rank that no matrix of the file has: PEFT makes matrices of each module's rank before it reads the file's.

    A rank that only modules without one of their own in `rank_pattern` would have may be that of none.
    """
    widest = max((shape[0] for name, shape in shapes.items() if "lora_" in name and "_A" in name and shape), default=0)
    most = max(_ANY_RANK, widest)
    for rank in (config.r, *(config.rank_pattern or {}).values()):
        if rank > most:
            raise ValueError(f"its {CONFIG_FILE} has a rank of {rank}, and the matrices of its file at most {widest}")


def unloadable(said: str) -> PipelineError:
    """Return the error for an adapter that does not fit its base."""
    return PipelineError(
        FailureReason.ADAPTER, f"The adapter can't be loaded on this base ({said}); check that it was made for it."
    )


def mismatch(unused: Collection[str], missing: Collection[str]) -> PipelineError:
    """Return the error for a file with unused tensors, or that lacks some."""
    return PipelineError(
        FailureReason.ADAPTER,
        f"{len(unused)} of the adapter's tensors match no module of this base, and {len(missing)} of"
        f" its matrices are missing (first: {min([*unused, *missing])}); check the base and the key prefix.",
    )


def peft_config_of(adapter: Path) -> Any:
    """Return PEFT's config object for an adapter's folder. Raises PipelineError ("adapter") for a config that PEFT must
    not be given.
    """
    from peft import PeftConfig

    unread = f"The adapter's {CONFIG_FILE} can't be read; push the adapter again."
    with named(FailureReason.ADAPTER, unread, OSError), (adapter / CONFIG_FILE).open("rb") as config:
        said = hazard(config.read(MAX_CONFIG_BYTES + 1))
    if said:
        # It was stored before the registry refused such configs.
        raise PipelineError(
            FailureReason.ADAPTER,
            f"The adapter's {CONFIG_FILE} is not given to PEFT, since {said}; push the adapter again with: adapterctl push"
            " --expand-patterns.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftConfig.from_pretrained(adapter, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise unloadable(first_line(error)) from error


def _as_loaded(peft_model: Any, tensors: Mapping[str, Tensor]) -> set[str]:
    """Return the names that a file's tensors have once PEFT has joined those of single experts, as releases before 5 of
    transformers had them, to stacked ones.
    """
    from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers

    config = peft_model.peft_config[peft_model.active_adapter]
    single = {name: as_torch(tensor) for name, tensor in tensors.items() if lora_key(name)}
    return (tensors.keys() - single.keys()) | set(
        convert_peft_adapter_state_dict_for_transformers(peft_model, config, single)
    )


def own_tensors(model: Any) -> dict[str, Any]:
    """Return the tensors of a PeftModel's adapter, by their names in its file."""
    from peft import get_peft_model_state_dict

    config = model.peft_config[model.active_adapter]
    # If the vocabulary grew, PEFT would save all of the embedding beside the rows that were trained.
    return dict(
        get_peft_model_state_dict(model, save_embedding_layers=False if config.trainable_token_indices else "auto")
    )


def tokens_of(adapter: Path, config: Any) -> TrainedTokens | None:
    """Return the tokens that the adapter in a folder trains if it has a tokenizer of its own; None without one."""
    return config.trainable_token_indices if any((adapter / name).is_file() for name in VOCABULARY_FILES) else None


def resize_vocabulary(model: Any, shapes: Mapping[str, Sequence[int]], tokens: TrainedTokens | None) -> int | None:
    """Resize a model's vocabulary to the whole embeddings in a file of weights, (tokens, dimension), or so that it has a
    row for each of the tokens that are trained, if they leave none out.

    `shapes` are the shapes of the file's tensors. Return the new number of tokens, None if nothing changed.
    """
    embeddings = model.get_input_embeddings()
    name = next((name for name, module in model.named_modules() if module is embeddings), None)
    for key, shape in shapes.items():
        if unwrapped(base_parameter(key) or "") == f"{name}.weight":
            rows = shape[0]
            if rows == embeddings.weight.shape[0]:
                return None
            model.resize_token_embeddings(rows, mean_resizing=False)
            return rows
    before, needed = embeddings.weight.shape[0], highest_token(tokens) + 1
    if needed <= before or tokens is None or missing_rows(tokens, rows=before):
        return None
    grow(model, needed)
    return needed


def _loaded_whole(peft_model: Any, tensors: Sequence[Tensor]) -> set[str]:
    """Return which of these tensors in a file the model has with the file's own values."""
    held = {_ADAPTER.sub("", key): tensor for key, tensor in peft_model.state_dict().items()} if tensors else {}
    return {
        tensor.name
        for tensor in tensors
        if (own := held.get(tensor.name)) is not None
        and tensor.shape == tuple(own.shape)
        and bool((as_torch(tensor).to(own.device, own.dtype) == own).all())
    }


def fill(model: Any, stored: Mapping[str, Any], tensors: Callable[[Any], Mapping[str, Any]] = own_tensors) -> None:
    """Copy tensors from a file into the matrices of a PeftModel, and look whether it has them.

    `tensors` returns the matrices by name. PEFT could name copies of them, which nobody trains or saves. Raises
    PipelineError ("adapter").
    """
    with torch.no_grad():
        for name, matrix in tensors(model).items():
            matrix.copy_(stored[name])
    held = tensors(model)
    unmoved = [name for name, matrix in held.items() if not bool((stored[name].to(matrix) == matrix).all())]
    if unmoved:
        raise PipelineError(
            FailureReason.ADAPTER,
            f"{len(unmoved)} of {len(held)} adapter matrices did not take what was copied into them (first: {min(unmoved)});"
            " report this base and these library versions.",
        )


def zero_matrices(tensors: dict[str, Any]) -> list[str]:
    """Return the sorted names of B matrices that are all zero and so change nothing."""
    return sorted(name for name, tensor in tensors.items() if "lora_B" in name and not bool(tensor.any()))
