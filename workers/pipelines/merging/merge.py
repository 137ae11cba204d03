"""Merge an adapter into its base, W' = W + s·B·A, onto the W that comes nearest to what was trained."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from transformers.pytorch_utils import Conv1D

from sdk.formats.adapter_files import TEMPLATE_FILE
from sdk.lora.stored_quantization import require_onto
from sdk.schemas.evaluation import MergeReport, MergeSpec
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import QuantizationRecipe
from workers.pipelines.data.classify import label_logits
from workers.pipelines.data.label_rows import pad_token_id
from workers.pipelines.data.tokenise import all_stops, configured_stops, load_tokenizer, longest_row
from workers.pipelines.errors import PipelineError
from workers.pipelines.libraries import library_versions
from workers.pipelines.model.adapters import load_adapter
from workers.pipelines.model.causality import require_causal
from workers.pipelines.model.classifier import Classes
from workers.pipelines.model.device import DTYPES, Device, DtypeName, choose_device, dtype_name, memory_errors_named
from workers.pipelines.model.loading import (
    load_base,
    packed_modules,
    read_blueprint,
    read_config,
    stored_quantization_named,
    widen,
)
from workers.pipelines.model.precision import cast
from workers.pipelines.scoring.probe import PROBE_TEXTS

Onto = Literal["original", "dequantized"]

#: Endings of weight files, which a merged folder does not take over from its base.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
#: Files of a base that a merged model needs beside config and weights.
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
    # What a model of several parts makes of images.
    "*processor_config.json",
)


#: Tokens of each probe text at most; a small batch keeps the logits of a large vocabulary small.
_PROBE_LENGTH = 128


@dataclass(frozen=True)
class _Distance:
    """How far a merged model's predictions are from those of base-as-trained + adapter on the probe."""

    #: Mean of KL(as trained ‖ merged), in nats a token.
    kl: float
    max_abs_logit_diff: float


def merge(
    *,
    base: Path,
    adapter: Path,
    quantization: QuantizationRecipe | None,
    out: Path,
    spec: MergeSpec,
    on_progress: Callable[[Progress], None],
    labels: Sequence[str] | None = None,
) -> MergeReport:
    """Merge the adapter of a folder into the base of a folder and write a complete model folder `out`.

    `quantization` is the recipe that the adapter was trained under, None for a 16- or 32-bit base. Under "auto" both
    the original and the dequantised base are merged and measured against the base as trained with the adapter beside
    it, and the nearer one is kept; a base that is stored in 4 bits is dequantised. The sum is made per module in float32 by PEFT's own merge, which knows rsLoRA,
    rank and alpha patterns, DoRA and transposed weights, and is then rounded once. Of a classification, which tells `labels` apart, the head that was trained
    goes with it, and the config has their names. Raises PipelineError.
    """
    started = time.perf_counter()
    tokenizer = load_tokenizer(base, ends=labels is None)
    classes = None if labels is None else Classes(tuple(labels), pad_token_id(read_config(base), tokenizer))
    packing = read_blueprint(base, classes).packing
    with stored_quantization_named():
        require_onto(packing, spec.onto)
    quantization = packing or quantization
    if spec.onto == "dequantized" and quantization is None:
        raise PipelineError(
            FailureReason.SPEC,
            "The adapter was trained over a base that was not quantised; merge onto original or auto.",
        )
    device = choose_device()
    with memory_errors_named("merge on a machine whose memory holds the base twice."):
        merging = _Merging(base, adapter, quantization, packing is not None, classes, device, tokenizer, on_progress)
        metrics, onto, model, dtype = merging.run(spec)
        on_progress(Progress(phase="save", message=f"writing the model merged onto the {onto} base"))
        if classes is None:
            _stop_as_taught(model, base, adapter, tokenizer)
        _save(model, base, adapter, out)
    metrics["merge_s"] = time.perf_counter() - started
    metrics["peak_memory_bytes"] = float(device.peak_memory_bytes())
    return MergeReport(onto=onto, dtype=dtype, metrics=metrics, libraries=library_versions())


@dataclass
class _Merging:
    base: Path
    adapter: Path
    quantization: QuantizationRecipe | None
    #: Whether the base is stored in 4 bits, so that there is no original to merge onto.
    packed: bool
    classes: Classes | None
    device: Device
    tokenizer: Any
    on_progress: Callable[[Progress], None]

    def run(self, spec: MergeSpec) -> tuple[dict[str, float], Onto, Any, DtypeName]:
        """Return metrics, the base that was merged onto, the merged model and its dtype.

        One model is in memory at a time: the base as trained, then each candidate, the original one last because it
        needs no quantisation to be made again.
        """
        stored = dtype_name(read_config(self.base).dtype)
        dtype: DtypeName = stored if spec.dtype == "auto" else spec.dtype
        probe = self._probe()
        self._say("measuring the base as trained with the adapter")
        loaded = load_base(self.base, self.device, quantization=self.quantization, classes=self.classes)
        if self.classes is None:
            require_causal(loaded.model)
        model = load_adapter(loaded.model, self.adapter)
        expected, kept_places = self._logits(model, probe)
        del model, loaded
        candidates: tuple[Onto, ...] = ("original",)
        if self.packed:
            candidates = ("dequantized",)
        elif self.quantization is not None:
            candidates = ("dequantized", "original") if spec.onto == "auto" else (spec.onto,)
        metrics: dict[str, float] = {}
        distances: dict[Onto, _Distance] = {}
        merged: Any = None
        for onto in candidates:
            merged = None
            merged, modules = self._merged(onto, dtype)
            metrics["merged_modules"] = float(modules)
            distances[onto] = _distance(expected, self._logits(merged, probe)[0], kept_places)
            metrics[f"logit_kl_{onto}"] = distances[onto].kl
        kept = min(candidates, key=lambda onto: distances[onto].kl)
        if kept != candidates[-1]:
            merged = None
            merged, _ = self._merged(kept, dtype)
        metrics["max_abs_logit_diff"] = distances[kept].max_abs_logit_diff
        metrics["probe_tokens"] = float(probe["attention_mask"].sum())
        return metrics, kept, merged, dtype

    def _merged(self, onto: Onto, dtype: DtypeName) -> tuple[Any, int]:
        """Return a plain model with the adapter merged in, in `dtype`, and the number of modules changed."""
        self._say(f"loading the {onto} base")
        if onto == "dequantized":
            loaded = load_base(self.base, self.device, quantization=self.quantization, classes=self.classes)
            if next(packed_modules(loaded.model), None) is not None:
                widen(loaded.model)
        else:
            stored = dtype_name(read_config(self.base).dtype)
            loaded = load_base(self.base, self.device, quantization=None, dtype=stored, classes=self.classes)
        model = load_adapter(loaded.model, self.adapter)
        _untie(model.get_base_model())
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        for done, layer in enumerate(layers, start=1):
            # Experts are parameters without a module of their own.
            name = layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"
            weight = getattr(layer.get_base_layer(), name)
            weight.data = weight.data.to(DTYPES["float32"])
            layer.merge(safe_merge=True)
            merged = getattr(layer.get_base_layer(), name)
            merged.data = merged.data.to(DTYPES[dtype])
            self.on_progress(Progress(phase="merge", step=done, total=len(layers), unit="tensors"))
        with warnings.catch_warnings():
            # Each layer is merged already, of which PEFT warns once more.
            warnings.simplefilter("ignore")
            plain = model.merge_and_unload()
        if onto == "dequantized":
            _transpose_again(plain, read_blueprint(self.base, self.classes).conv1d_names)
        cast(plain, DTYPES[dtype])
        return plain.eval(), len(layers)

    def _probe(self) -> dict[str, Any]:
        """Return the fixed texts as input_ids and attention_mask, (batch, seq), padded on the right."""
        cut = longest_row(self.base, _PROBE_LENGTH)
        rows = [self.tokenizer(text)["input_ids"][:cut] for text in PROBE_TEXTS]
        longest = max(map(len, rows))
        input_ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros((len(rows), longest), dtype=torch.int64)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        place = self.device.torch_device
        return {"input_ids": input_ids.to(place), "attention_mask": mask.to(place)}

    def _logits(self, model: Any, probe: dict[str, Any]) -> tuple[Any, Any]:
        """Return logits in float32, and which of them count: (batch, seq, vocab) of tokens, or (batch, labels) of texts."""
        with torch.no_grad():
            if self.classes is not None:
                return label_logits(model, probe), torch.ones(len(probe["input_ids"]), dtype=torch.bool)
            return model(**probe, use_cache=False).logits.float(), probe["attention_mask"].bool()

    def _say(self, message: str) -> None:
        self.on_progress(Progress(phase="load", message=message))


def _untie(model: Any) -> None:
    """Give an output head its own copy of the weight that it shares with the embeddings, where LoRA adapts one of the two.

    PEFT adds each one's s·B·A to the shared weight, and so to the other too. It says in the config afterwards that they
    are tied no more.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if not isinstance(head, LoraLayer) and not isinstance(embeddings, LoraLayer):
        return
    layer = head.get_base_layer() if isinstance(head, LoraLayer) else head
    other = embeddings.get_base_layer() if isinstance(embeddings, LoraLayer) else embeddings
    if layer is not None and layer.weight is other.weight:
        layer.weight = torch.nn.Parameter(other.weight.detach().clone(), requires_grad=False)


def _distance(expected: Any, merged: Any, kept: Any) -> _Distance:
    """Compare logits, (…, vocab) of tokens or (batch, labels) of texts, where `kept` says that they count."""
    p, q = expected[kept].log_softmax(-1), merged[kept].log_softmax(-1)
    # KL(p‖q) = Σ p·(log p − log q), summed over the vocabulary, or the labels, and averaged over tokens, or texts. It is never negative, but the
    # rounding of a sum whose terms cancel may be.
    kl = max(0.0, float((p.exp() * (p - q)).sum(-1).mean()))
    return _Distance(kl, float((expected - merged)[kept].abs().max()))


def _stop_as_taught(model: Any, base: Path, adapter: Path, tokenizer: Any) -> None:
    """Let the generation of a merged model stop where its adapter was taught to, too."""
    taught = all_stops(base, tokenizer, configured_stops(adapter))
    if set(taught) - set(all_stops(base, tokenizer, [])):
        model.generation_config.eos_token_id = taught


def _transpose_again(model: Any, names: Collection[str]) -> None:
    """Put back the modules that hold their weight as (in, out), for which linear ones of (out, in) stood in 4 bits."""
    for name in names:
        linear = model.get_submodule(name)
        if isinstance(linear, torch.nn.Linear):
            with torch.device("meta"):
                conv = Conv1D(linear.out_features, linear.in_features)
            conv.weight = torch.nn.Parameter(linear.weight.data.T.contiguous(), requires_grad=False)
            conv.bias = torch.nn.Parameter(linear.bias.data, requires_grad=False)
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, conv)


def _save(model: Any, base: Path, adapter: Path, out: Path) -> None:
    """Write config, generation config and safetensors, and take the tokenizer's files over, with the adapter's template."""
    out.mkdir(parents=True, exist_ok=True)
    # A folder's path is an accident of this machine.
    model.config._name_or_path = ""
    with warnings.catch_warnings():
        # A base whose generation settings contradict each other is saved with them as it came.
        warnings.simplefilter("ignore", UserWarning)
        model.save_pretrained(out)
    for pattern in _TAKEN_OVER:
        for source in sorted(base.glob(pattern)):
            if source.is_file() and not source.name.endswith(_WEIGHTS):
                shutil.copyfile(source, out / source.name)
    if (adapter / TEMPLATE_FILE).is_file():
        shutil.copyfile(adapter / TEMPLATE_FILE, out / TEMPLATE_FILE)
