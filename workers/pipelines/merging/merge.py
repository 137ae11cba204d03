"""Merge an adapter into its base, W' = W + s·B·A, shard by shard, and verify the written bytes."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sdk.formats.canonical_json import digest_of
from sdk.imports import nothing_collected
from sdk.lora.memory import prompts_bytes
from sdk.lora.stored_quantization import require_measuring, require_onto, require_unpacking
from sdk.schemas.evaluation import UNMEASURED, FourBitWeights, MergeReport, ReadBack
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.data.tokenizer import default_template, load_tokenizer, template_beside
from workers.pipelines.errors import PipelineError
from workers.pipelines.imports import import_libraries, nothing_searched
from workers.pipelines.libraries import library_versions, versions_of
from workers.pipelines.memory_errors import memory_errors_named, peak_resident_bytes
from workers.pipelines.merging.folder import stop_as_taught, write_small_files
from workers.pipelines.merging.found import FoundCorrect
from workers.pipelines.merging.judgement import Distance, Judgement, hold_norms
from workers.pipelines.merging.plain import plain
from workers.pipelines.merging.plain_measuring import is_measured_here, is_there_memory, measured
from workers.pipelines.merging.plan import MergedTensor, Onto
from workers.pipelines.merging.prepared import Prepared
from workers.pipelines.merging.read_back import read_back, require_said
from workers.pipelines.merging.writing import (
    beside,
    finished,
    full_disk_named,
    in_their_place,
    put_in_place,
    require_room,
    write_shards,
)
from workers.pipelines.orders import Host, MergeOrder

if TYPE_CHECKING:
    from workers.pipelines.merging.prompts import Expected
    from workers.pipelines.model.classifier import Classes
    from workers.pipelines.model.device import Device

T = TypeVar("T")

#: The most modules whose norms a report contains: there may be tens of thousands of single experts.
_MOST_NORMS = 4096


def carry_out(order: MergeOrder, host: Host) -> MergeReport:
    """Merge an adapter into its base and write a complete model folder, the host's `out`.

    With "auto" both the original and the dequantised base are merged and compared with the base as trained plus the
    unmerged adapter, and the closer one is kept; a base that is stored in 4 bits is dequantised. The sum is computed in
    float32, block by block from mapped files, and rounded once. For a classification the trained head is included, and
    the config has the labels' names.

    The files are written next to `out`, and get that name only once they have been read back and found correct. A
    killed run is resumed. Raises PipelineError, after which there is nothing at `out`.
    """
    out = host.out.resolve()
    _require_place(order.base, order.adapter, out)
    plan = plain(order.base, order.adapter) if order.may_be_plain else None
    if plan is not None and (not order.spec.measure or is_measured_here(plan, order.base)):
        merging = _Merging(order, host, out)
        return merging.carry_out([merging.marked(plan)])
    with nothing_collected(ever=True), nothing_searched():
        import_libraries()
        import_module("workers.pipelines.merging.prepare")
    return _with_libraries(order, host, out)


def _with_libraries(order: MergeOrder, host: Host, out: Path) -> MergeReport:
    """Carry out a merge that PEFT and transformers plan."""
    from workers.pipelines.data.label_rows import pad_token_id
    from workers.pipelines.model.blueprint import read_config, read_packing, stored_quantization_named
    from workers.pipelines.model.classifier import Classes

    tokenizer, classes = load_tokenizer(order.base, order.adapter, ends=order.labels is None), None
    if order.labels is not None:
        classes = Classes(tuple(order.labels), pad_token_id(read_config(order.base), tokenizer))
    packing = read_packing(order.base)
    with stored_quantization_named():
        require_onto(packing, order.spec.onto)
        quantized, measured = order.quantization is not None, order.spec.measure
        require_measuring(packing, order.spec.onto, quantized=quantized, measured=measured)
        require_unpacking(order.quantization, order.spec.onto)
    merging = _Merging(order, host, out, packing or order.quantization, classes, tokenizer)
    with memory_errors_named("merge on a machine with more of it."):
        plans = [merging.planned(onto) for onto in _candidates(order, packing)]
    return merging.carry_out(plans)


def _candidates(order: MergeOrder, packing: QuantizationRecipe | None) -> Sequence[Onto]:
    """Return what the adapter is merged onto, to keep the closest. Raises PipelineError ("spec")."""
    if packing is not None:
        return ["dequantized"]
    recipe, onto = order.quantization, order.spec.onto
    if recipe is None:
        if onto == "dequantized":
            raise PipelineError(
                FailureReason.SPEC,
                "The adapter was trained over a base that was not quantised; merge onto original or auto.",
            )
        return ["original"]
    if onto != "auto":
        return [onto]
    return ["original"] if recipe.type == "int8" else ["dequantized", "original"]


def _require_place(base: Path, adapter: Path, out: Path) -> None:
    """Raise PipelineError if a merge would be written into its own inputs."""
    for called, source in (("base", base.resolve()), ("adapter", adapter.resolve())):
        if out == source or source in out.parents:
            raise PipelineError(
                FailureReason.SPEC, f"{out} is in the {called}'s own folder; choose a folder of its own with -o DIR."
            )


@dataclass
class _Candidate:
    """One merge, written next to the target and read back."""

    prepared: Prepared
    folder: Path
    digests: dict[str, str]
    found: FoundCorrect
    distance: Distance | None = None
    #: Over how many tokens.
    tokens: int = 0

    def far(self) -> float:
        """Return how far its predictions are from the trained model's; infinity if that is unknown."""
        kl = math.inf if self.distance is None else self.distance.kl
        return math.inf if math.isnan(kl) else kl


@dataclass
class _Merging:
    order: MergeOrder
    host: Host
    out: Path
    #: How the base was quantised in training, or is stored.
    quantization: QuantizationRecipe | None = None
    classes: Classes | None = None
    #: None if the merged model speaks and stops as its base does.
    tokenizer: Any = None
    started_s: float = field(default_factory=time.perf_counter)

    @cached_property
    def device(self) -> Device:
        """Where the fixed texts go through the models."""
        from workers.pipelines.model.device import choose_device

        return choose_device()

    def planned(self, onto: Onto) -> Prepared:
        """Return what a merge onto a base would write. Raises PipelineError for anything that can't be merged exactly."""
        from workers.pipelines.merging.prepare import prepare

        dtype = None if self.order.spec.dtype == "auto" else self.order.spec.dtype
        return self.marked(
            prepare(
                self.order.base,
                self.order.adapter,
                classes=self.classes,
                onto=onto,
                dtype=dtype,
                recipe=self.quantization,
            )
        )

    def marked(self, plan: Prepared) -> Prepared:
        """Return a plan with a digest that also stands for what comes after the merge."""
        spec = self.order.spec
        if spec.quantize is None and spec.measure:
            return plan
        # The report of one is not that of the other.
        further = {} if spec.measure else {"measure": False}
        return replace(plan, digest=digest_of({"plan": plan.digest, "quantize": spec.quantize, **further}))

    def carry_out(self, plans: Sequence[Prepared]) -> MergeReport:
        """Carry plans out, unless an earlier run has done so."""
        with memory_errors_named("merge on a machine with more of it."):
            if (report := finished(self.out, [plan.digest for plan in plans])) is not None:
                return MergeReport.model_validate_json(report)
            with full_disk_named(self.out, plans[0].written):
                return self.run(plans)

    def run(self, plans: Sequence[Prepared]) -> MergeReport:
        """Write each candidate, keep the closest and give it the final name."""
        expected = self._expected(plans)
        unmeasured = expected is None and len(plans) > 1
        if unmeasured:
            # The training was over the dequantised base: without a measurement that one counts as closer.
            plans = plans[:1]
        metrics: dict[str, float] = {}
        with contextlib.ExitStack() as held:
            found = []
            for plan in plans:
                one = self._written(plan, held.enter_context(beside(self.out, plan.digest)), expected)
                if one.far() < math.inf:
                    metrics[f"logit_kl_{plan.target.onto}"] = one.far()
                found.append(one)
            if len(found) > 1 and any(one.distance is None for one in found):
                unmeasured = True
            # The first candidate is the dequantised one.
            best = found[0] if unmeasured else min(found, key=_Candidate.far)
            for one in found:
                if one is not best:
                    shutil.rmtree(one.folder, ignore_errors=True)
            judgement = Judgement()
            if self.tokenizer is not None:
                judgement.hold_template(default_template(self.tokenizer), template_beside(self.order.adapter))
            if unmeasured:
                judgement.warnings.append(
                    "There was not the memory to measure both bases: the adapter is merged onto the dequantised one, which is what"
                    " it was trained over."
                )
            return self._finish(best, metrics, judgement, expected)

    def _expected(self, plans: Sequence[Prepared]) -> Expected | None:
        """Return the trained model's predictions; None if they are not wanted, or measured later, or there isn't enough memory."""
        if not self.order.spec.measure or plans[0].is_plain:
            return None
        with nothing_collected(ever=True), nothing_searched():
            from workers.pipelines.merging.prompts import as_trained
            from workers.pipelines.model.blueprint import read_config
            from workers.pipelines.model.dtype_names import dtype_name
            from workers.pipelines.model.loading import native_dtype

        stored = dtype_name(read_config(self.order.base).dtype)
        # A device that can't multiply 16-bit numbers holds them in 32.
        wider = 2 if stored != native_dtype(self.order.base, self.device) == "float32" else 1
        needed = prompts_bytes(
            wider * sum(tensor.end - tensor.begin for tensor in plans[0].base.tensors.values()),
            quantized=self.quantization is not None,
            merged_bytes=wider * max(sum(each.size_bytes for each in plan.written) for plan in plans),
            vocabulary=int(getattr(read_config(self.order.base).get_text_config(), "vocab_size", 0) or 0),
        )
        if self.device.available_memory_bytes() < needed:
            return None
        self._say("load", "measuring the base as trained with the adapter")
        return _if_memory(lambda: as_trained(self.order, self.classes, self.device, self.tokenizer))

    def _written(self, plan: Prepared, folder: Path, expected: Expected | None) -> _Candidate:
        """Write a plan's files next to the target, read them back, and measure the model."""
        changed, total = sum(not each.copied for each in plan.written), len(plan.written)
        with _removed_if_wrong(folder):
            require_room(folder, self.out, plan.written)
            self._say("merge", f"adding the adapter to {changed} tensors of the {plan.target.onto} base")
            shards = write_shards(plan.base, plan.written, plan.blocks, folder, self._counted("merge", total))
            write_small_files(
                shards.folder,
                base=self.order.base,
                adapter=self.order.adapter,
                config=plan.config,
                stored=plan.base,
                written=plan.written,
            )
            if self.classes is None and self.tokenizer is not None:
                stop_as_taught(shards.folder, self.order.base, self.order.adapter, self.tokenizer)
            found = read_back(plan, shards.folder, shards.digests, self._counted("read back", total))
            require_said(plan, shards.folder)
            one = _Candidate(plan, folder, shards.digests, found)
            if expected is not None:
                from workers.pipelines.merging.prompts import distance_of

                self._say("read back", "measuring the merged model")
                one.tokens = expected.tokens
                one.distance = _if_memory(
                    lambda: distance_of(shards.folder, expected, classes=self.classes, device=self.device)
                )
            elif plan.is_plain and self.order.spec.measure and is_there_memory(plan):
                self._say("read back", "measuring what was trained and the merged model")
                both = _if_memory(lambda: measured(plan, self.order.base, shards.folder))
                if both is not None:
                    one.distance, one.tokens = both
        return one

    def _finish(
        self,
        best: _Candidate,
        metrics: dict[str, float],
        judgement: Judgement,
        expected: Expected | None,
    ) -> MergeReport:
        plan = best.prepared
        with _removed_if_wrong(best.folder):
            hold_norms(judgement, best.found, self.order.norms)
            if best.distance is not None:
                judgement.hold_distance(best.distance, plan, quantised=self.quantization is not None)
                metrics["max_abs_logit_diff"] = best.distance.max_abs_logit_diff
                metrics["probe_tokens"] = float(best.tokens)
        digests, packed = self._packed(best, metrics, judgement, expected)
        metrics["merged_modules"] = float(len({parameter for parameter, _ in plan.adapted()}))
        metrics["merge_s"] = time.perf_counter() - self.started_s
        metrics["peak_memory_bytes"] = float(
            peak_resident_bytes() if plan.is_plain else self.device.peak_memory_bytes()
        )
        report = MergeReport(
            onto=plan.target.onto,
            dtype=plan.dtype,
            metrics=metrics,
            libraries={**library_versions(), **versions_of("numpy")},
            digests={file: digest_of(named) for file, named in sorted(digests.items())},
            norms=best.found.norms if len(best.found.norms) <= _MOST_NORMS else {},
            read_back=ReadBack(
                tensors=best.found.tensors,
                copied=best.found.copied,
                rows=best.found.rows,
                prompts=self._prompts(best),
            ),
            quantized=packed,
            warnings=judgement.warnings,
        )
        self._say("save", f"writing the model merged onto the {plan.target.onto} base")
        put_in_place(best.folder, self.out, report.model_dump_json())
        return report

    def _prompts(self, best: _Candidate) -> str:
        """Return whether the fixed texts went through the written model, and why they did not."""
        if not self.order.spec.measure:
            return UNMEASURED
        return "not run: memory" if best.distance is None else "run"

    def _packed(
        self, best: _Candidate, metrics: dict[str, float], judgement: Judgement, expected: Expected | None
    ) -> tuple[dict[str, dict[str, str]], FourBitWeights | None]:
        """Quantise the best candidate to 4 bits if requested; return the digests by file, and what is in 4 bits."""
        plan = best.prepared
        if self.order.spec.quantize is None:
            by_file: dict[str, dict[str, str]] = {}
            for each in plan.written:
                by_file.setdefault(each.file, {})[each.name] = best.digests[each.name]
            return by_file, None
        from workers.pipelines.merging.in_four_bits import nf4, write_in_four_bits
        from workers.pipelines.merging.prompts import distance_of

        self._say("quantize", f"putting the merged model into {self.order.spec.quantize}")
        recipe = nf4(self.order.base, plan.dtype, self.classes)
        with _removed_if_wrong(best.folder), in_their_place(best.folder) as (merged, out):
            found = write_in_four_bits(merged, out, recipe, self.classes)
            if expected is not None:
                self._say("quantize", "measuring the model in 4 bits")
                distance = _if_memory(lambda: distance_of(out, expected, classes=self.classes, device=self.device))
                if distance is not None:
                    judgement.hold_four_bits(distance)
                    metrics[f"logit_kl_{recipe.type}"] = distance.kl
                    metrics[f"max_abs_logit_diff_{recipe.type}"] = distance.max_abs_logit_diff
        return found.digests, FourBitWeights(
            type="nf4",
            double_quant=recipe.double_quant,
            block_size=recipe.four_bit_block,
            weights=len(found.weights),
            kept=found.kept[:_MOST_NORMS],
            furthest=found.furthest,
        )

    def _counted(self, phase: str, total: int) -> Callable[[MergedTensor], None]:
        """Return a callback that reports how many tensors are done."""
        done = 0

        def say(written: MergedTensor) -> None:
            nonlocal done
            done += 1
            if not written.copied or done == total:
                self.host.report(Progress(phase=phase, step=done, total=total, unit="tensors"))

        return say

    def _say(self, phase: str, message: str) -> None:
        self.host.report(Progress(phase=phase, message=message))


@contextlib.contextmanager
def _removed_if_wrong(folder: Path) -> Iterator[None]:
    """Remove a folder if a check of what is in it fails in the block."""
    try:
        yield
    except PipelineError as error:
        if error.reason is FailureReason.VERIFICATION:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _if_memory(measured: Callable[[], T]) -> T | None:
    """Return the measurement; None if memory runs out, which is acceptable since the bytes have been checked already."""
    try:
        with memory_errors_named("measure on a machine with more of it."):
            return measured()
    except PipelineError as error:
        if error.reason is FailureReason.OOM:
            return None
        raise
