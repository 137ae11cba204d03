"""A base becomes a trainable model: fresh matrices are added to its modules, and checked to change nothing yet."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from transformers import set_seed

from sdk.lora.adapter_config import config_of
from sdk.schemas.failures import FailureReason
from workers.pipelines.cpu.dropout import draw_by_sixteen_bits
from workers.pipelines.data.batches import example_batches, of_sequences, rows_of
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.objective import Batch
from workers.pipelines.data.preferences import log_likelihoods
from workers.pipelines.data.stored_examples import shortest_of
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.loading import LoadedBase
from workers.pipelines.model.trained_whole import biases_of, keep_biases, widen_trained, without_adapter
from workers.pipelines.training.eva import start_at_inputs
from workers.pipelines.training.inputs import Inputs

#: Keys of a configuration that describe an adapter that has been saved.
_OF_THE_FILE = frozenset({"base_model_name_or_path", "inference_mode", "init_lora_weights", "peft_type", "revision"})

#: The names in modules and configs for the share that they drop, including whole layers, or for the noise that they add.
_DRAWS = re.compile("drop|jitter")


def own_dropout(model: Any) -> float:
    """Return the largest dropout probability of a model in training; 0 if it drops nothing."""
    found = [0.0]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            found.append(float(module.p))
        # Some models store only the number and call the function.
        found += [value for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]
    return max(found)


def drop_nothing(model: Any) -> None:
    """Make a model compute in training as in evaluation, without drawing anything at random."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and _DRAWS.search(name):
                setattr(module, name, 0.0)
    for config in {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }.values():
        for name, value in list(vars(config).items()):
            if isinstance(value, float) and _DRAWS.search(name):
                setattr(config, name, 0.0)


def adapted(given: Inputs, loaded: LoadedBase) -> Any:
    """Add fresh matrices, A random and B zero, to the target modules. They are in float32 on every base.

    Raises PipelineError for modules that PEFT refuses.
    """
    lora, spec = given.lora, given.spec
    set_seed(spec.seed)
    transposed = lora.fan_in_fan_out and loaded.quantization is None
    keys = config_of(lora, base_name="", base_revision=None, fan_in_fan_out=transposed)
    config = PeftLoraConfig(**{key: value for key, value in keys.items() if key not in _OF_THE_FILE})
    biases = biases_of(loaded.model) if lora.bias != "none" else {}
    try:
        model = get_peft_model(loaded.model, config)
    except ValueError as error:
        said = " ".join(str(error).split())
        raise PipelineError(
            FailureReason.TARGETS,
            f"PEFT can't adapt these targets of a {loaded.model.config.model_type} model ({said[:300]}); choose others.",
        ) from error
    keep_biases(model, biases)
    widen_trained(model)
    if lora.use_dora:
        _start_magnitudes(model)
    if spec.init_lora_weights == "eva" and given.resumed is None:
        start_at_inputs(model, given.rows.examples, of_sequences(given.objective), spec, given.tokenizer.pad_token_id)
        if lora.use_dora and spec.moves_ranks:
            # PEFT has replaced the matrices of modules with another rank.
            _start_magnitudes(model)
    if given.device.kind == "cpu" and spec.dropout > 0:
        draw_by_sixteen_bits(model, spec.dropout)
    return model


def _start_magnitudes(model: Any) -> None:
    """Initialise DoRA's magnitudes with the norms of the rows of W in float32, the type in which each pass computes them.

    PEFT rounds them to the base's type, and then the ratio of the two is not 1.
    """
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name, layer in module.lora_magnitude_vector.items():
                weight = dequantize_module_weight(module.get_base_layer()).float()
                nothing = torch.zeros((), device=weight.device)
                layer.weight.data = layer.get_weight_norm(weight, nothing, module.scaling[name])


def require_equal_to_base(given: Inputs, model: Any) -> None:
    """Check that y = W·x + s·B·(A·x) with B = 0 gives the base's logits exactly, on a batch of short rows."""
    model.eval()
    objective, batch = of_sequences(given.objective), short_rows(given)
    with torch.no_grad():
        ours = objective.logits(model, batch)
        with without_adapter(model):
            bare = objective.logits(model, batch)
    if not torch.equal(ours, bare):
        raise PipelineError(
            FailureReason.UNTRAINED,
            f"The fresh adapter changes the base's logits by up to {float((ours - bare).abs().max()):g} before any"
            " training; report this base and these library versions.",
        )


def reference_of(given: Inputs, model: Any) -> Any:
    """Return the base's own log π of the answers of a row, (sequences,), as a training computes it."""
    row = min(
        rows_of(given.rows.examples, given.objective), key=lambda row: max(len(each["input_ids"]) for each in row)
    )
    batch = given.objective.collate(row, given.tokenizer.pad_token_id)
    was = model.training
    model.train()
    try:
        with torch.no_grad():
            return log_likelihoods(
                model, {name: tensor.to(given.device.torch_device) for name, tensor in batch.items()}
            )
    finally:
        model.train(was)


def require_reference(given: Inputs, model: Any, bare: Any) -> None:
    """Check that the adapted model without its adapter gives exactly `bare`, the base's result. Raises PipelineError
    ("untrained").
    """
    with without_adapter(model):
        found = reference_of(given, model)
    if not torch.equal(found, bare):
        raise PipelineError(
            FailureReason.UNTRAINED,
            f"Without its adapter the model differs from its base by {float((found - bare).abs().max()):g} nats on a row, so it is not"
            f" a reference for {given.objective.name}; train with other options, or report this base and these library versions.",
        )


#: Tokens of each row. With a vocabulary of 262,144, two rows of 2,048 tokens would have logits of 4 GB, and as much
#: again without the adapter.
MOST_TOKENS = 32


def short_rows(given: Inputs) -> Batch:
    """Return the rows that a model is tested with before it learns: the two shortest as a batch; only their ends if
    tokens are predicted, since all their logits are in memory at once.
    """
    rows = shortest_of(given.rows.examples, 2)
    if given.objective.traits.predicts_tokens:
        rows = [_end_of(row) for row in rows]
    pad_id, place = given.tokenizer.pad_token_id, given.device.torch_device
    return next(example_batches(rows, of_sequences(given.objective), pad_id, 2, place))


def _end_of(example: Example) -> Example:
    """Return some tokens of an example, up to the last supervised one."""
    last = max((at for at, label in enumerate(example.labels) if label != IGNORED), default=len(example.labels) - 1)
    kept = slice(max(0, last + 1 - MOST_TOKENS), last + 1)
    return replace(example, input_ids=example.input_ids[kept], labels=example.labels[kept])
