"""The verdict on a merge after reading it back: nothing, a warning, or that it must not be used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.found import FoundCorrect
from workers.pipelines.merging.prepared import Prepared

#: KL in nats per token above which a merge gets a warning, and above which it fails. In float32 models were seen to agree to
#: 1e-8, in 16 bit to 1e-3 (tiny random ones of 13 families, whose weights are large), and with experts to 4e-3.
KL_WARNS, KL_FAILS = 1e-2, 0.1
#: The limit for failing if rounding may send tokens to other experts, and for a warning about a model in 4 bits.
KL_ROUTED_FAILS, KL_FOUR_BITS_WARNS = 1.0, 0.5
#: The share of an update that has to be left after rounding.
_KEPT_SHARE = 0.5
#: The relative difference allowed between a norm from float32 sums and the norm from A and B, and between this and the
#: stored one.
_NORM_ERROR, _STORED_ERROR = 1e-3, 1e-6
#: The most tokens of each fixed text. On a CPU a pass takes as long as there are tokens, and with few, the logits of a large
#: vocabulary are small; a weight that is wrong shows in each of them.
PROBE_LENGTH = 32


@dataclass(frozen=True)
class Distance:
    """How far a merged model's predictions are from those of base-as-trained + adapter."""

    #: Mean of KL(as trained ‖ merged), in nats per token.
    kl: float
    max_abs_logit_diff: float


@dataclass
class Judgement:
    """Warnings, each a sentence."""

    warnings: list[str] = field(default_factory=list)

    def hold_template(self, base: str | None, adapter: str | None) -> None:
        """Warn if the merged model renders conversations otherwise than its base, because the adapter was taught so."""
        if adapter is not None and adapter != base:
            self.warnings.append(
                "The merged model has the chat template that the adapter was trained with, which is not its base's; serve it"
                " with its own."
            )

    def hold_distance(self, distance: Distance, plan: Prepared, *, quantised: bool) -> None:
        """Compare the distance of the predictions with the thresholds. Raises PipelineError ("verification")."""
        said = (
            f"its predictions are {distance.kl:.2g} nats per token from those of the base as trained with the adapter"
        )
        far = not distance.kl < KL_WARNS
        # What is in float32 already is not rounded any less by writing it so.
        finer = "" if plan.dtype == "float32" else "; --dtype float32 rounds less"
        require_finite(distance)
        if quantised and plan.target.onto == "original":
            # The request was to merge onto another base than was trained over.
            if far:
                self.warnings.append(
                    f"The adapter was trained over a quantised base and is merged onto the original one: {said}."
                )
            return
        if not distance.kl < (KL_ROUTED_FAILS if _routes(plan) else KL_FAILS):
            raise PipelineError(
                FailureReason.VERIFICATION,
                f"The merged model is not what was trained: {said}; {'merge with --dtype float32, or ' if finer else ''}serve the adapter"
                " on its base.",
            )
        if far and _routes(plan):
            self.warnings.append(f"Rounding may send tokens to other experts: {said}{finer}.")
        elif far:
            self.warnings.append(f"The merged model is rounded: {said}{finer}.")

    def hold_four_bits(self, distance: Distance) -> None:
        """Warn if the model in 4 bits has lost accuracy. Raises PipelineError ("verification")."""
        require_finite(distance)
        if not distance.kl < KL_FOUR_BITS_WARNS:
            self.warnings.append(
                f"In 4 bits its predictions are {distance.kl:.2g} nats per token from those of the base as trained with the"
                " adapter; a small model loses much by 4 bits."
            )


def require_finite(distance: Distance) -> None:
    """Raise PipelineError ("verification") if predictions are not finite: thresholds don't apply to them."""
    if not math.isfinite(distance.kl):
        raise PipelineError(
            FailureReason.VERIFICATION,
            "The merged model's predictions can't be compared with those of what was trained: they are not finite;"
            " merge with --dtype float32, or onto another base.",
        )


def _routes(plan: Prepared) -> bool:
    """Whether rounding may change which experts get a token."""
    return any("expert" in name for name in plan.changes.shapes) and plan.dtype != "float32"


def hold_norms(judgement: Judgement, found: FoundCorrect, stored: Mapping[str, float | None] | None) -> None:
    """Compare ‖W' − W‖ of each module with ‖s·B·A‖, and this with the stored norm. Raises PipelineError ("verification")."""
    formula = {module: math.sqrt(square) for module, square in found.formula_squares.items()}
    for module, norm in (stored or {}).items():
        if norm is not None and not math.isclose(norm, formula.get(module, 0.0), rel_tol=_STORED_ERROR):
            raise _another(module, f"the adapter's own is {formula.get(module, 0.0):.6g}", norm)
    lost, norms, blurs = [], found.norms, found.blur
    for module, norm in formula.items():
        if module in found.scaled:
            continue
        measured, blur = norms.get(module, 0.0), blurs.get(module, 0.0)
        if not abs(measured - norm) <= 2 * blur + _NORM_ERROR * norm:
            raise _another(module, f"that in the merged files is {measured:.6g}", norm)
        if measured < _KEPT_SHARE * norm:
            lost.append(module)
    if lost:
        judgement.warnings.append(
            f"Rounding took more than half of the update of {len(lost)} modules (first: {min(lost)}); merge with --dtype float32."
        )


def _another(module: str, said: str, norm: float) -> PipelineError:
    return PipelineError(
        FailureReason.VERIFICATION,
        f"The update of {module} should have the norm {norm:.6g}, and {said}; pull the adapter again and merge once more.",
    )
