"""The ΔW of a DoRA (arXiv:2402.09353, equation 5), which needs the base: m/‖W + s·B·A‖ ∘ (W + s·B·A) − W, one module at a time."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.lora.adapter_config import harmless, read_adapter_config
from sdk.lora.factors import Factors, Reduced
from sdk.lora.plain_lora import PlainPlan
from sdk.schemas.export import PlainLoraRequest
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.blocks import Blocks
from workers.pipelines.merging.changes import LowRank
from workers.pipelines.merging.plan import Onto
from workers.pipelines.merging.prepare import prepare
from workers.pipelines.model.blueprint import read_packing

#: If the shorter side of a matrix is at most this, all of its singular values are computed; otherwise those to keep are
#: found by powers of random combinations (Halko, Martinsson and Tropp, 2011), which keep a little less, and the
#: reported share is the one really kept.
_WHOLE_SVD = 1024
_BESIDE, _POWERS = 16, 4


class Magnitude(NamedTuple):
    """The parts of a module's ΔW, in float64."""

    #: W, (out, in).
    weight: Any
    #: (out, r), including s, and (r, in).
    b: Any
    a: Any
    #: m, (out).
    magnitude: Any


@contextmanager
def over_base(request: PlainLoraRequest, plan: PlainPlan) -> Iterator[MagnitudeDeltas]:
    """Load the DoRA of a request over its base, without settings that could run something when PEFT reads them, as a
    push stores it.
    """
    folder = Path(request.folder)
    said = harmless(read_adapter_config(folder))
    with tempfile.TemporaryDirectory(prefix="adapterctl-") as held:
        (Path(held) / CONFIG_FILE).write_text(json.dumps(said), encoding="utf-8")
        (Path(held) / WEIGHTS_FILE).symlink_to((folder / WEIGHTS_FILE).resolve())
        yield MagnitudeDeltas(Path(held), request, plan)


class MagnitudeDeltas:
    """The modules of the DoRA in a folder over its base. Raises PipelineError for a base that the adapter does not fit."""

    def __init__(self, adapter: Path, request: PlainLoraRequest, plan: PlainPlan) -> None:
        assert request.base is not None
        base = Path(request.base)
        recipe = read_packing(base) or request.quantization
        # The weights that were trained over: 4-bit weights, widened again. 8-bit ones are not supported here.
        onto: Onto = "original" if recipe is None or recipe.type == "int8" else "dequantized"
        self._prepared = prepare(base, adapter, classes=None, onto=onto, dtype="float32", recipe=recipe)
        blocks = self._prepared.blocks()
        assert isinstance(blocks, Blocks), "a DoRA's magnitudes need torch"
        self._blocks = blocks
        self._changes = {change.module: (parameter, change) for parameter, change in self._prepared.adapted()}
        if odd := sorted(self._changes.keys() ^ plan.products.keys()):
            raise PipelineError(
                FailureReason.ADAPTER, f"The base has {odd[0]} under another name; merge the adapter instead."
            )

    def parts(self, module: str) -> Magnitude:
        """Return a module's parts."""
        parameter, change = self._changes[module]
        weight = self._blocks.weight(parameter).double()
        return Magnitude(
            weight.T if change.across else weight,
            change.scale * self._matrix(change.b),
            self._matrix(change.a),
            self._read(change).reshape(-1).double(),
        )

    def nearest(self, module: str, rank: int) -> Reduced:
        """Return the factors of the nearest matrix of a rank to a module's ΔW, and what they keep of it."""
        parts = self.parts(module)
        updated = torch.addmm(parts.weight, parts.b, parts.a)
        delta = updated.mul_((parts.magnitude / updated.norm(dim=1)).unsqueeze(1)).sub_(parts.weight)
        if not torch.isfinite(delta).all():
            raise PipelineError(
                FailureReason.ADAPTER, f"The ΔW of {module} has values that are not finite; train the adapter again."
            )
        square = float(delta.square().sum())
        u, sigma, v = _svd(delta, rank)
        roots = sigma.sqrt()
        factors = Factors((u * roots).numpy(), (v * roots).T.numpy())
        return Reduced(factors, min(square, float(sigma.square().sum())), square)

    def _matrix(self, factor: Any) -> Any:
        tensor = self._prepared.changes.file.read(factor.key)
        return tensor.reshape(tensor.shape[0], -1)[slice(*factor.rows), slice(*factor.columns)].double()

    def _read(self, change: LowRank) -> Any:
        assert change.magnitude is not None
        return self._prepared.changes.file.read(change.magnitude)


def _svd(delta: Any, rank: int) -> tuple[Any, Any, Any]:
    """Return U (out, r), σ (r), and V (in, r), the same each time."""
    shortest = min(delta.shape)
    rank = min(rank, shortest)
    if shortest <= max(_WHOLE_SVD, rank + _BESIDE):
        u, sigma, vh = torch.linalg.svd(delta, full_matrices=False)
        v = vh.T
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            u, sigma, v = torch.svd_lowrank(delta, q=rank + _BESIDE, niter=_POWERS)
    signs = torch.sign(u.gather(0, u.abs().argmax(0, keepdim=True)))
    return (u * signs)[:, :rank], sigma[:rank], (v * signs)[:, :rank]
