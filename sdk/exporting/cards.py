"""The model cards of merged models, in the registry or not, and of plain LoRAs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdk.errors import NotAllowed, NotFound, VerificationFailed
from sdk.exporting.model_card import ModelCard, license_of, render
from sdk.formats.base_files import CARD_FILE
from sdk.objects import MergedModel, Registry
from sdk.pushing.given_base import places_of, registered_base
from sdk.schemas.catalog import VersionView
from sdk.schemas.export import PlainLoraReport
from sdk.schemas.lora_config import LoraConfig
from sdk.version import VERSION

#: The last line of what a card says of how something was made.
MADE_BY = ("made by", f"adapterctl {VERSION}")


def merged_card(ref: str, report: Mapping[str, Any], version: VersionView | None, base: Path | None) -> str:
    """Return the card of a merged model.

    `version` is None if the registry no longer has it, and `base` if the base's files are not on this machine.
    """
    packed = report.get("quantized")
    model = "AutoModelForCausalLM"
    made = [("adapter", ref)]
    if version is not None:
        made = [*_of_base(version), *_of_version(version)]
        if version.lora.task_type == "SEQ_CLS":
            model = "AutoModelForSequenceClassification"
    made.append(("merged onto", f"the {report['onto']} weights, W' = W + s·B·A, in {report['dtype']}"))
    if packed is not None:
        made.append(("quantised to", f"{packed['type']} by bitsandbytes, {packed['weights']} weights"))
    return render(
        ModelCard(
            title=f"{ref}, merged into its base",
            base=None if version is None else version.base.id,
            relation="finetune" if packed is None else "quantized",
            library="transformers",
            tags=["lora", "merged", *([] if packed is None else ["bitsandbytes", "4-bit"])],
            made=[*made, MADE_BY],
            read_back=list(_of_merge(report)),
            loading=[
                f"from transformers import {model}, AutoTokenizer",
                "",
                'folder = "."  # where this file lies',
                f'model = {model}.from_pretrained(folder, dtype="auto")',
                "tokenizer = AutoTokenizer.from_pretrained(folder)",
            ],
            license={} if base is None else license_of(base),
            warnings=report.get("warnings", []),
        )
    )


def plain_card(
    name: str, report: PlainLoraReport, *, version: VersionView | None, base_name: str | None, base: Path | None
) -> str:
    """Return the card of a plain LoRA that was made from `name`, a version's ref or a folder's name."""
    made = [("base", base_name)] if base_name else []
    of = [("adapter", name)]
    if version is not None:
        made, of = list(_of_base(version)), list(_of_version(version))
    said = "all of ΔW" if not report.cut else f"{report.kept_energy:.4%} of ‖ΔW‖², {report.cut} modules were truncated"
    return render(
        ModelCard(
            title=f"{name}, as a plain LoRA",
            base=base_name if version is None else version.base.id,
            relation="adapter",
            library="peft",
            tags=["lora"],
            made=[
                *made,
                *of,
                (
                    "written as",
                    f"LoRA of rank {report.rank} and alpha {report.alpha:g}, {report.modules} modules, {report.dtype}",
                ),
                ("keeps", said),
                MADE_BY,
            ],
            read_back=[("‖ΔW − ΔW_r‖ is what the kept share leaves", f"to {report.error:.1e} of ‖ΔW‖")],
            loading=[
                "from peft import PeftModel",
                "from transformers import AutoModelForCausalLM",
                "",
                'folder = "."  # where this file lies',
                'base = AutoModelForCausalLM.from_pretrained("BASE", dtype="auto")  # the base above',
                "model = PeftModel.from_pretrained(base, folder)",
            ],
            license={} if base is None else license_of(base),
            warnings=report.notes,
        )
    )


def _of_base(version: VersionView) -> Iterator[tuple[str, str]]:
    revision = f" at {version.base.revision}" if version.base.revision else ""
    yield "base", f"{version.base.id}{revision}"
    yield "base's fingerprint", version.base.fingerprint


def _of_version(version: VersionView) -> Iterator[tuple[str, str]]:
    yield "adapter", version.ref
    yield "adapter's digest", version.digest
    over = f", trained over {version.quantization.type}" if version.quantization is not None else ""
    yield (
        "adapter's method",
        f"{_kind(version.lora)} of rank {version.lora.rank} and alpha {version.lora.alpha:g}{over}",
    )


def _kind(lora: LoraConfig) -> str:
    return "DoRA" if lora.use_dora else "rsLoRA" if lora.use_rslora else "LoRA"


def _of_merge(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    metrics, found = report["metrics"], report.get("read_back")
    if found is not None:
        yield (
            "tensors",
            f"{found['tensors']}, {found['copied']} of them the base's byte for byte; {found['rows']} rows of the others in float64",
        )
    for what, kl, gap in (
        ("distance from what was trained", f"logit_kl_{report['onto']}", "max_abs_logit_diff"),
        ("after the quantisation", "logit_kl_nf4", "max_abs_logit_diff_nf4"),
    ):
        if kl in metrics:
            tokens = f" over {metrics['probe_tokens']:.0f} tokens" if "probe_tokens" in metrics else ""
            yield (
                what,
                f"KL {metrics[kl]:.2g} nats per token, largest difference of logits {metrics.get(gap, 0.0):.2g}{tokens}",
            )
    if found is not None and found["prompts"] != "run":
        yield "fixed texts", found["prompts"]


def card_of(registry: Registry, merged: MergedModel) -> str:
    """Return the model card of a merged model, as `MergedModel.save` writes it."""
    try:
        version = registry.get(merged.ref).info
        return merged_card(merged.ref, merged.report, version, folder_with_card(registry, version))
    except (NotFound, NotAllowed, VerificationFailed):
        # The version was removed, or may no longer be seen: the model is there all the same.
        return merged_card(merged.ref, merged.report, None, None)


def folder_with_card(at: Registry, version: VersionView) -> Path | None:
    """Return a folder of a version's base that has a model card, or None; the weights in it are not looked at."""
    places = places_of(at.cache, version.base.fingerprint, registered_base(at.transport, version))
    return next((place for place in places if (place / CARD_FILE).is_file()), None)
