"""What is stored with an adapter for serving it: the chat template, where answers stop, how rows became tokens.

A base's template may change, and the tokenizer's end of text may differ from the learnt end of turn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdk.formats.adapter_files import GENERATION_FILE, RENDERING_FILE, TEMPLATE_FILE
from sdk.schemas.wire import canonical_json
from workers.pipelines.data.tokenise import Tokenised
from workers.pipelines.data.tokenizer import all_stops, read_object

#: Keys of a generation config about how it was saved, or where it came from.
_OF_THE_FILE = ("transformers_version", "_from_model_config")


def write_serving(out: Path, *, base: Path, tokenizer: Any, rows: Tokenised) -> None:
    """Write the files in `SERVING_FILES` that apply to the rows into `out`. Equal rows over an equal base give equal bytes.

    `chat_template.jinja` is the template that rendered conversations. `generation_config.json` has the settings of the
    base, and every token at which generation stops; not for a classification. `rendering.json` is the corresponding
    part of the version's record.
    """
    if rows.template is not None:
        (out / TEMPLATE_FILE).write_bytes(rows.template.encode("utf-8"))
    if rows.shape != "text-label":
        generation = {**_settings(base), "eos_token_id": all_stops(base, tokenizer, rows.rendering.stop_ids)}
        generation.setdefault("pad_token_id", tokenizer.pad_token_id)
        (out / GENERATION_FILE).write_bytes(canonical_json(generation))
    (out / RENDERING_FILE).write_bytes(rows.rendering.canonical())


def _settings(base: Path) -> dict[str, Any]:
    """Return the generation settings of a base's author; empty if the file can't be copied as it is."""
    found = read_object(base / GENERATION_FILE) or {}
    kept = {name: value for name, value in found.items() if name not in _OF_THE_FILE}
    try:
        canonical_json(kept)
    except (ValueError, RecursionError):
        return {}
    return kept
