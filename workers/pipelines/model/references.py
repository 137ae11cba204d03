"""The last check of a base's small files, in the process that passes them to a library, wherever they came from."""

from __future__ import annotations

from pathlib import Path

from sdk.formats.base_files import BadBaseError
from sdk.formats.base_references import REFERRING_FILES, check_references
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError


def require_self_contained(base: Path, *, adapter: bool = False) -> None:
    """Raise PipelineError ("base", "adapter") if a file in a base's folder, or in an adapter's, would make a library read
    outside it.
    """
    for name, most_bytes in REFERRING_FILES.items():
        try:
            with (base / name).open("rb") as file:
                check_references(name, file.read(most_bytes + 1))
        except FileNotFoundError:
            continue
        except (OSError, BadBaseError) as error:
            reason, said = (
                (FailureReason.ADAPTER, f"The adapter's tokenizer was not loaded ({error}); push the adapter again.")
                if adapter
                else (
                    FailureReason.BASE,
                    f"The base was not loaded ({error}); correct the file and add the base again.",
                )
            )
            raise PipelineError(reason, said) from error
