"""SmolLM2 with adapters, and prompts by whose answers each version is told from all others: for what moves in front of engines.

Base and the first two versions answer with a difference of 0.05 between the two greatest logits at each of 24 tokens, so that rounding
decides nothing; of later versions, all texts that rounding may make of their answers are known.
"""

from __future__ import annotations

import itertools
import json
import random
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support.served import save_adapter
from support.served_models import ServedModels, choose

#: Prompts of each kind that are tried, and how many of them are used.
_TRIED, _PROMPTS = 1000, 2
_RANK = 42  # 7 modules in 30 layers: 50 MB in float32
_WORDS = ["sea", "wind", "tree", "moon", "road", "door", "fish", "hand", "king", "song", "gold", "snow"]


def large(base: Path, folder: Path, name: str, versions: int) -> ServedModels:
    """Return random adapters of about 50 MB, made in a folder unless they are there."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapters = {}
    for number in range(1, versions + 1):
        made = folder / f"random-v{number}"
        if not (made / "adapter_config.json").is_file():
            save_adapter(base, made, seed=number, scale=0.04, r=_RANK, lora_alpha=_RANK, target_modules=targets)
        adapters[f"{name}@v{number}"] = made
    texts = [f"The {one} and the {two} went to the {three}" for one, two, three in _threes()]
    return chosen(base, adapters, texts, folder / f"{name}.json")


def trained(base: Path, adapters: Path, out: Path, name: str) -> ServedModels:
    """Return adapters that were trained, from a folder with v1, v2 and so on as `adapterctl pull` writes them."""
    numbers = itertools.takewhile(lambda number: (adapters / f"v{number}").is_dir(), itertools.count(1))
    folders = {f"{name}@v{number}": adapters / f"v{number}" for number in numbers}
    texts = [
        f"class {one.title()}:\n    def {two}(self):\n        return self.{three}\n\n    def"
        for one, two, three in _threes()
    ]
    return chosen(base, folders, texts, out / f"{name}.json")


def chosen(base: Path, adapters: dict[str, Path], texts: Iterable[str], file: Path) -> ServedModels:
    """Return the prompts among texts, which are kept in a file, since it takes minutes to find them."""
    if file.is_file():
        return ServedModels(base, adapters, **json.loads(file.read_text()))
    tokenizer = tokenizer_of(base)
    rows = [tokenizer(text)["input_ids"] for text in texts]
    length = max(map(len, rows), key=[len(row) for row in rows].count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = [row for row in rows if len(row) == length][:_TRIED]
        models = choose(base, adapters, rows, _PROMPTS, decided=[*adapters][:2])
    file.write_text(
        json.dumps({"prompts": models.prompts, "expected": models.expected, "accepted": models.accepted}, indent=1)
    )
    return models


def tokenizer_of(base: Path) -> Any:
    """Return a base's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


def _threes() -> list[tuple[str, ...]]:
    found = list(itertools.permutations(_WORDS, 3))
    random.Random(0).shuffle(found)  # noqa: S311 - the same prompts each time
    return found
