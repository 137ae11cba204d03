"""Linear modules in 8 bits (LLM.int8, arXiv:2208.07339): their weights, and whether this processor can compute with them.

Each weight has an int8 and each row a float32: W = codes · scale / 127. bitsandbytes quantises inputs too if nothing is
trained, so products are off by about a hundredth; on processors without the instructions it is written for, it may fail
or give wrong results.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

#: The allowed error of products and gradients, as a share of their norm. Quantised inputs make it about 0.01.
_ALLOWED = 0.05
_TOKENS = 8
_LEVELS = 127.0


def eight_bit_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield (full name, module) of the linear modules in 8 bits."""
    from bitsandbytes.nn import Linear8bitLt

    for name, module in model.named_modules():
        if isinstance(module, Linear8bitLt):
            yield name, module


def scales_of(module: Any) -> Any:
    """Return the scale of each row, (out,)."""
    # The first pass moves the scales from the weight to the module's state.
    return module.state.SCB if getattr(module.weight, "SCB", None) is None else module.weight.SCB


def wide_weight(module: Any, dtype: torch.dtype) -> Any:
    """Return the weight with which a module in 8 bits computes, (out, in)."""
    return (module.weight.data.float() * (scales_of(module).float() / _LEVELS)[:, None]).to(dtype)


def keep_scales(model: Any) -> None:
    """Make modules keep their scales if their weight is moved to a device after the first pass, as PEFT does for DoRA.

    bitsandbytes would take the scales from the weight again, which no longer has any.
    """
    for _, module in eight_bit_modules(model):
        module.register_forward_pre_hook(_with_scales)


def _with_scales(module: Any, _given: Any) -> None:
    if module.weight.CB is not None and module.weight.SCB is None:
        module.weight.SCB = module.state.SCB


def require_gradients(model: Any, dtype: torch.dtype) -> None:
    """Check products and gradients of a module of each shape against its weights. Raises PipelineError ("base") if they
    differ.
    """
    seen: set[tuple[int, int]] = set()
    for name, module in eight_bit_modules(model):
        shape = (module.out_features, module.in_features)
        if shape in seen:
            continue
        seen.add(shape)
        try:
            errors = _errors(module, dtype)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise _unable(name, (str(error).splitlines() or [type(error).__name__])[0][:200]) from error
        for what, far in errors.items():
            if not far <= _ALLOWED:
                raise _unable(name, f"{what} are {far:.0%} from those of its weights")


def _errors(module: Any, dtype: torch.dtype) -> dict[str, float]:
    weight, device, was = wide_weight(module, torch.float32), module.weight.device, module.training
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_TOKENS, module.in_features, generator=generator).to(device, dtype).requires_grad_()
    dy = torch.randn(_TOKENS, module.out_features, generator=generator).to(device, dtype)
    bias = 0 if module.bias is None else module.bias.float()
    expected = x.detach().float() @ weight.T + bias
    found: dict[str, float] = {}
    try:
        for training in (False, True):
            y = module.train(training)(x)
            found[f"products in {'training' if training else 'evaluation'}"] = _far(y, expected)
        y.backward(dy)
        found["gradients"] = 1.0 if x.grad is None else _far(x.grad, dy.float() @ weight)
    finally:
        module.train(was)
    return found


def _far(found: Any, expected: Any) -> float:
    return float((found.detach().float() - expected).norm() / expected.norm())


def _unable(name: str, said: str) -> PipelineError:
    return PipelineError(
        FailureReason.BASE,
        f"bitsandbytes can't compute in 8 bits on this processor ({name}: {said}); choose quant_type nf4, the method lora, or a worker"
        " with a CUDA card.",
    )
