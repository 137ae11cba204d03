"""EVA: each A starts with the main directions of its inputs on the rows (arXiv:2410.07170), and B with zero.

The r right singular vectors of X, (tokens, in), are found by subspace iteration on XᵀX, which needs passes over the
rows and memory for 2r vectors per module. PEFT's own search ends once two consecutive batches agree, and never if a
batch has fewer tokens than r; it subtracts the mean of X first, so its directions differ if that is far from zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from sdk.formats.adapter_files import base_parameter
from sdk.lora.redistribution import alpha_at, patterns_of, ranks_by_variance
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.training import TrainingSpec
from workers.pipelines.data.batches import example_batches, token_losses
from workers.pipelines.data.classify import reads_padding
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.data.objective import Batch, Objective
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.rotary import turns_at

#: How many tokens that the loss is computed on are used, from rows all over the file.
_MOST_TOKENS = 8192
#: Number of iterations: each shrinks components outside the first r directions by (σ / σᵣ)².
_PASSES = 8
#: Additional vectors beyond r in the iteration, so that the last ones converge as fast as the first.
_BESIDE = 8


def start_at_inputs(
    model: Any, examples: Sequence[Example], objective: Objective, spec: TrainingSpec, pad_id: int
) -> None:
    """Give each A of a fresh PeftModel, (r, in), the right singular vectors of its inputs, the largest first.

    With `eva_rho` above 1, modules first get new ranks, and alphas that keep their scale. Raises PipelineError ("spec") for a
    rank above a module's inputs.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    found = {name: _fresh(name, module, spec) for name, module in layers.items()}
    chosen, rows = _spread(examples), spec.batch_size
    if rows > 1 and not objective.traits.predicts_tokens and reads_padding(model, pad_id):
        rows = 1
    model.eval()
    for _ in range(_PASSES):
        sums = {name: torch.zeros_like(directions) for name, directions in found.items()}
        squares = dict.fromkeys(layers, 0.0)
        for batch in example_batches(chosen, objective, pad_id, rows, model.device, turns_at(model)):
            with torch.no_grad(), _summing(layers, found, sums, squares, _learnt(batch, objective)):
                objective.loss(model, batch, 1, token_losses)
        # Orthonormal, and in an invariant subspace of XᵀX its eigenvectors, the one with the most of X first.
        parts = {name: torch.linalg.svd(total, full_matrices=False) for name, total in sums.items()}
        found = {name: part.U for name, part in parts.items()}
    if spec.moves_ranks:
        # σ² of each direction divided by all of X: the share that it explains.
        shares = {name: (parts[name].S / max(squares[name], 1e-300)).tolist() for name in layers}
        _redistribute(model, layers, shares, spec)
    for name, module in layers.items():
        matrix = module.lora_A["default"].weight
        matrix.data = _signed(found[name].T[: matrix.shape[0]]).float().contiguous()


def resolved_lora(lora: LoraConfig, model: Any, spec: TrainingSpec) -> LoraConfig:
    """Return the configuration of a model whose modules have the ranks that EVA gave them."""
    ranks = {
        str(base_parameter(name)): module.r["default"]
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
    rank_pattern, alpha_pattern = patterns_of(spec, ranks)
    return lora.model_copy(update={"rank_pattern": rank_pattern, "alpha_pattern": alpha_pattern})


def _redistribute(
    model: Any, layers: Mapping[str, Any], shares: Mapping[str, Sequence[float]], spec: TrainingSpec
) -> None:
    """Give modules the ranks that follow from their shares, with a B of zeros, in float32."""
    allowed = {name: values[: min(spec.most_rank, layers[name].in_features)] for name, values in shares.items()}
    config = model.peft_config["default"]
    for name, rank in ranks_by_variance(allowed, budget=spec.rank * len(layers)).items():
        module = layers[name]
        if rank != module.r["default"]:
            module.update_layer("default", r=rank, lora_alpha=alpha_at(spec, rank), config=config)
            for part in (module.lora_A, module.lora_B):
                part["default"].weight.data = part["default"].weight.data.float()


def _fresh(name: str, module: Any, spec: TrainingSpec) -> Any:
    """Return orthonormal initial vectors, (in, q), in float64."""
    rank, width = module.lora_A["default"].weight.shape
    if rank > width:
        raise PipelineError(
            FailureReason.SPEC,
            f"EVA can't start an A of rank {rank} at the inputs of {name}, which are {width} wide; give a smaller rank, or leave"
            " init_lora_weights out.",
        )
    most = max(rank, spec.most_rank) if spec.moves_ranks else rank
    drawn = torch.randn(width, min(width, 2 * most + _BESIDE), generator=torch.Generator().manual_seed(spec.seed))
    return torch.linalg.qr(drawn.double()).Q.to(module.lora_A["default"].weight.device)


def _spread(examples: Sequence[Example]) -> list[Example]:
    """Return examples, spread evenly over the rows, with about `_MOST_TOKENS` tokens to learn."""
    total = sum(sum(label != IGNORED for label in example.labels) for example in examples)
    return list(examples[:: max(1, total // _MOST_TOKENS)])


def _learnt(batch: Batch, objective: Objective) -> Any:
    """Return which positions count, (batch, seq): those whose predictions have a loss, or all for a classification."""
    if not objective.traits.predicts_tokens:
        return batch["attention_mask"].bool()
    learnt = torch.zeros_like(batch["labels"], dtype=torch.bool)
    # A token is predicted at the position before it.
    learnt[:, :-1] = batch["labels"][:, 1:] != IGNORED
    return learnt


@contextmanager
def _summing(
    layers: dict[str, Any], found: dict[str, Any], sums: dict[str, Any], squares: dict[str, float], learnt: Any
) -> Iterator[None]:
    """Add XᵀX·V to the sums, and ‖X‖² to the squares, while a batch goes through."""

    def hook(name: str) -> Any:
        def add(module: Any, given: tuple[Any, ...]) -> None:
            inputs = given[0]
            # Some modules see the tokens of a batch in one row, and some see only a part of them.
            mask = learnt if inputs.shape[:2] == learnt.shape else learnt.flatten()
            inputs = (inputs[mask] if inputs.shape[: mask.ndim] == mask.shape else inputs.flatten(0, -2)).double()
            sums[name] += inputs.T @ (inputs @ found[name])
            squares[name] += float(inputs.square().sum())

        return add

    handles = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _signed(directions: Any) -> Any:
    """Return directions, (r, in), each with its largest number positive."""
    return directions * directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
