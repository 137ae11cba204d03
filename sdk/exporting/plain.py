"""Plain LoRAs, for engines that do not read an adapter's patterns, rsLoRA or magnitudes, or not with so high a rank."""

from __future__ import annotations

from pathlib import Path

from sdk.errors import InvalidInput, NotFound, disk_explained
from sdk.exporting.cards import plain_card
from sdk.exporting.gguf import require_dtype
from sdk.exporting.placing import beside, free, put_in_place, require_utf8
from sdk.exporting.running import ExportedLora, run
from sdk.formats.base_files import CARD_FILE, CONFIG_FILE
from sdk.lora.adapter_config import harmless, read_adapter_config
from sdk.lora.plain_lora import plan_plain
from sdk.schemas.catalog import VersionView
from sdk.schemas.export import GgufDtype, PlainLoraReport, PlainLoraRequest
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.wire import read
from sdk.worker_program import require_libraries


def needs_base(folder: Path, rank: int | None) -> bool:
    """Whether making a plain LoRA of an adapter needs the base's weights.

    Raises InvalidInput for what a plain LoRA can't hold, NotFound, VerificationFailed.
    """
    return plan_plain(folder, rank).lora.use_dora


def export_plain_lora(
    folder: Path,
    output: str | Path,
    *,
    rank: int | None = None,
    dtype: GgufDtype | None = None,
    base: Path | None = None,
    quantization: QuantizationRecipe | None = None,
    version: VersionView | None = None,
    licensed: Path | None = None,
) -> ExportedLora:
    """Write an adapter into a new folder as a LoRA with one rank and one α for all modules, and read it back.

    Modules of a lower rank are padded, which is exact, and those of a higher rank are cut; the report says how much
    energy is kept. `base` is the folder of a DoRA's base, and `quantization` says how the base was quantised in
    training. `version` is what the model card says it was made from, and `licensed` the folder of the base, whose own
    card names the licence. Raises InvalidInput for what a plain LoRA can't hold, Conflict if `output` exists, NotFound,
    InvalidBase, VerificationFailed, Unavailable without the worker's extra or if the disk is full, TimedOut.
    """
    require_dtype(dtype)
    target = free(output, like="DIR")
    if needs_base(folder, rank):
        if base is None:
            raise InvalidInput(
                "the adapter is a DoRA, whose magnitudes scale the base's own weights; give the base's folder with --base",
                param="base",
            )
        if not (base / CONFIG_FILE).is_file():
            raise NotFound(f"there is no base in {base}; give the folder that save_pretrained wrote", param="base")
        require_libraries(("torch", "transformers", "peft"), doing="exporting a DoRA")
    else:
        licensed, base = licensed or base, None
        require_libraries(("numpy", "torch"), doing="exporting to a plain LoRA")
    require_utf8(folder.resolve(), target, "" if base is None else base.resolve())
    with disk_explained(f"writing {target}"), beside(target) as partial:
        written = partial / "adapter"
        request = PlainLoraRequest(
            folder=str(folder.resolve()),
            out=str(written),
            rank=rank,
            dtype=dtype,
            base=None if base is None else str(base.resolve()),
            quantization=quantization,
        )
        report = read(PlainLoraReport, run(request, folder, reads=(folder, *(() if base is None else (base,)))))
        if base is not None and version is None:
            # Of a version it is known which base it was trained over, by the fingerprint, and how that was quantised.
            unproven = f"nothing proves that the DoRA was trained over {base.name}, as it is stored here: only the shapes were compared"
            report = report.model_copy(update={"notes": [*report.notes, unproven]})
        card = plain_card(
            folder.resolve().name if version is None else version.ref,
            report,
            version=version,
            base_name=harmless(read_adapter_config(folder)).get("base_model_name_or_path"),
            base=licensed or base,
        )
        (written / CARD_FILE).write_text(card, encoding="utf-8")
        put_in_place(written, target)
    return ExportedLora(target, report)
