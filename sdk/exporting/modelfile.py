"""A Modelfile beside a GGUF file: what `ollama create NAME -f FILE` makes a model from.

>>> print(text("merged.gguf", kind="model", base=None).splitlines()[-1])
FROM ./merged.gguf
>>> print(*text("sql.gguf", kind="adapter", base="llama3.2:1b").splitlines()[-2:], sep=chr(10))
FROM llama3.2:1b
ADAPTER ./sql.gguf
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TypedDict

from sdk.errors import InvalidInput

#: Names of models in Ollama and their paths, and names of files: none has a line break, and only the last have spaces.
_BASE = re.compile(r"[A-Za-z0-9./~_-][A-Za-z0-9./:@~_+-]{0,255}")
_FILE = re.compile(r"[\w.+@ -]{1,255}")
#: A Jinja template can't be written as a TEMPLATE, which is in Go's template language.
_NO_TEMPLATE = (
    "# No TEMPLATE: from 0.30 on Ollama renders conversations by the chat template in the model's own GGUF file, and a template in "
    "Jinja can't be said here."
)
_ADAPTERS_TEMPLATE = (
    "# An adapter's own chat template, if it has one, is not used: only the base's is. Merge the adapter to keep it."
)


class OllamaOptions(TypedDict):
    """Whether a Modelfile is written, and over which base."""

    modelfile: bool
    ollama_base: str | None


def place_of(target: Path) -> Path:
    """Return the path of a GGUF file's Modelfile."""
    return target.with_suffix(".Modelfile")


def text(file: str, *, kind: str, base: str | None) -> str:
    """Return the Modelfile of a GGUF file in the same folder: of an "adapter" over `base`, as Ollama calls it, or of a
    "model", which has no base.

    Raises InvalidInput for names that a Modelfile can't hold, and if an adapter has no base or a model has one.
    """
    if kind == "model" and base is not None:
        raise InvalidInput("a whole model needs no base in Ollama; leave --ollama-base out", param="ollama_base")
    if kind == "adapter" and base is None:
        raise InvalidInput(
            "a Modelfile of an adapter names its base; give its name in Ollama, or its GGUF file, with --ollama-base",
            param="ollama_base",
        )
    if base is not None and not _BASE.fullmatch(base):
        raise InvalidInput(
            f"{base[:80]!a} is neither the name of a model in Ollama nor a path that a Modelfile can hold; give another",
            param="ollama_base",
        )
    if not _FILE.fullmatch(file):
        raise InvalidInput(f"a Modelfile can't name {file[:80]!a}; give the file another name", param="output")
    lines = [f"# ollama create NAME -f {Path(file).stem}.Modelfile", _NO_TEMPLATE]
    if base is None:
        return "\n".join([*lines, f"FROM ./{file}", ""])
    return "\n".join([*lines, _ADAPTERS_TEMPLATE, f"FROM {base}", f"ADAPTER ./{file}", ""])
