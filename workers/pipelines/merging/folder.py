"""What a merged model has besides its weights: the new config, the index, the tokenizer, where generation stops."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk.formats.adapter_files import GENERATION_FILE, TEMPLATE_FILE, VOCABULARY_FILES
from sdk.formats.base_files import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, read_index
from workers.pipelines.data.tokenizer import all_stops, configured_stops, read_object, tokenizer_folder
from workers.pipelines.merging.plan import MergedTensor
from workers.pipelines.merging.stored_base import StoredBase
from workers.pipelines.model.dtype_names import DtypeName

#: Endings of weight files, which are not copied from the base to a merged folder.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
#: Files of a base that a merged model needs besides config and weights.
_TAKEN_OVER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "*.jinja",
    "chat_template.json",
    GENERATION_FILE,
    # How a model with several parts processes images.
    "*processor_config.json",
)
_QUANTIZATION = ("quantization_config", "compression_config")


def merged_config(
    base: Path, *, dtype: DtypeName | None, untied: bool, vocabulary: int | None, labelled: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the base's config with the merged model's changes.

    `dtype` is None if it stays; `labelled` has a classification's additions, None for a language model.
    """
    said: dict[str, Any] = json.loads((base / CONFIG_FILE).read_text(encoding="utf-8-sig"))
    parts = [said, *(part for part in (said.get("text_config"),) if isinstance(part, dict))]
    for part in parts:
        for key in ("_name_or_path", *_QUANTIZATION):
            part.pop(key, None)
        if dtype is not None and (part is said or {"dtype", "torch_dtype"} & part.keys()):
            part.pop("torch_dtype", None)
            part["dtype"] = dtype
        if untied and (part is said or "tie_word_embeddings" in part):
            part["tie_word_embeddings"] = False
        if vocabulary is not None and (part is parts[-1] or "vocab_size" in part):
            part["vocab_size"] = vocabulary
    said.update(labelled or {})
    return said


def labelled_config(config: Any, architecture: str) -> dict[str, Any]:
    """Return what a classification's config has that its base's does not."""
    # As in JSON: keys are strings.
    names = {str(number): name for number, name in config.id2label.items()}
    return {
        "architectures": [architecture],
        "id2label": names,
        "label2id": dict(config.label2id),
        "problem_type": config.problem_type,
        "pad_token_id": config.get_text_config().pad_token_id,
    }


def write_small_files(
    out: Path,
    *,
    base: Path,
    adapter: Path,
    config: Mapping[str, Any],
    stored: StoredBase,
    written: Sequence[MergedTensor],
) -> None:
    """Write the config and the index, and copy the tokenizer's files, with the adapter's template; they are the adapter's if
    it has a tokenizer.

    Anything else in `out` besides the weights is from an earlier run, and is removed.
    """
    weights = {each.file for each in written}
    for path in out.iterdir():
        if path.name not in weights:
            path.unlink()
    (out / CONFIG_FILE).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if list(stored.headers) != [SINGLE_FILE]:
        (out / INDEX_FILE).write_bytes(_index(base, written))
    vocabulary = tokenizer_folder(base, adapter)
    for pattern in _TAKEN_OVER:
        for source in sorted(base.glob(pattern)):
            other = vocabulary is not base and source.name in VOCABULARY_FILES
            if source.is_file() and not source.name.endswith(_WEIGHTS) and not other:
                shutil.copyfile(source, out / source.name)
    for name in VOCABULARY_FILES:
        if vocabulary is not base and (vocabulary / name).is_file():
            shutil.copyfile(vocabulary / name, out / name)
    if (adapter / TEMPLATE_FILE).is_file():
        shutil.copyfile(adapter / TEMPLATE_FILE, out / TEMPLATE_FILE)


def _index(base: Path, written: Sequence[MergedTensor]) -> bytes:
    """Return the base's index, byte for byte if each tensor is in the same file with the same size."""
    raw = (base / INDEX_FILE).read_bytes()
    said = read_index(raw)
    where = {each.name: each.file for each in written}
    before, total = said.get("metadata") or {}, sum(each.size_bytes for each in written)
    before = before if isinstance(before, dict) else {"total_size": None}
    if where == said["weight_map"] and before.get("total_size", total) == total:
        return raw
    metadata = {key: value for key, value in before.items() if key != "total_parameters"} | {"total_size": total}
    return (json.dumps({"metadata": metadata, "weight_map": where}, indent=2, sort_keys=True) + "\n").encode()


def stop_as_taught(out: Path, base: Path, adapter: Path, tokenizer: Any) -> None:
    """Make generation with a merged model also stop where its adapter was taught to."""
    taught = all_stops(base, tokenizer, configured_stops(adapter))
    if not set(taught) - set(all_stops(base, tokenizer, [])):
        return
    with warnings.catch_warnings():
        # If a base's generation settings contradict each other, they are kept as they are.
        warnings.simplefilter("ignore", UserWarning)
        if (said := read_object(out / GENERATION_FILE)) is not None:
            (out / GENERATION_FILE).write_text(
                json.dumps(said | {"eos_token_id": taught}, indent=2) + "\n", encoding="utf-8"
            )
            return
        from transformers import GenerationConfig

        from workers.pipelines.model.blueprint import read_config

        config = GenerationConfig.from_model_config(read_config(base))
        config.eos_token_id = taught
        config.save_pretrained(out)
