"""The parameters of a model whose config tells little: `python -m workers.pipelines.model.shapes`.

Standard input is a `config.json`; the last line of standard output is `{"shapes"}`, name to shape as in the model's
library, or `{"refused"}` with a sentence. The config may be untrusted, so the process has no network if the system
allows that.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from sdk.formats.base_files import CONFIG_FILE
from sdk.imports import nothing_collected
from workers.pipelines.errors import PipelineError
from workers.pipelines.imports import nothing_searched
from workers.pipelines.sandbox import stand_alone


def shapes_of_config(config: bytes) -> dict[str, list[int]]:
    """Return name and shape of each parameter, tied ones once. Raises PipelineError."""
    from workers.pipelines.model.blueprint import blank_model

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG_FILE).write_bytes(config)
        try:
            model = blank_model(Path(folder))
        except PipelineError as error:
            # The caller doesn't know this folder.
            raise PipelineError(error.reason, error.message.replace(folder, CONFIG_FILE)) from error
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}


def main() -> int:
    """Answer for the config on standard input."""
    config = sys.stdin.buffer.read()
    stand_alone()
    try:
        with nothing_collected(ever=True), nothing_searched():
            said: dict[str, object] = {"shapes": shapes_of_config(config)}
    except PipelineError as error:
        said = {"refused": error.message}
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
