"""In how many files the product holds the name of an option: what follows from its description has no need of it.

PYTHONPATH=. python tests/unit/sdk/schemas/test_option_files.py prints the files of each option.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from sdk.formats.peft_config import KEYS as PEFT_KEYS
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.training import TrainingSpec

ROOT = Path(__file__).parents[4]
PRODUCT = ("sdk", "registry", "workers", "migrations", "adapterctl", "adapterctl_entry")
MOST_FILES = 6

#: Options whose names mean something else too, and what: a file that holds such a name need not hold the option.
OTHER_MEANINGS: Mapping[str, str] = {
    "method": "of a combination, of PEFT's and of rendering, and what a base was quantised with",
    "objective": "the object that tokenises, collates and sums the loss of its rows",
    "rank": "of any adapter and of a matrix",
    "alpha": "of any adapter",
    "dropout": "of any adapter, and of a base",
    "targets": "of an evaluation, and the modules of any adapter",
    "exclude": "keyword of pydantic",
    "quant_type": "keyword of bitsandbytes",
    "double_quant": "field of the recipe by which any base was quantised",
    "use_rslora": "key of PEFT's configuration",
    "use_dora": "key of PEFT's configuration",
    "init_lora_weights": "key of PEFT's configuration",
    "rank_pattern": "key of PEFT's configuration",
    "alpha_pattern": "key of PEFT's configuration",
    "layers_to_transform": "key of PEFT's configuration",
    "bias": "key of PEFT's configuration, and of any linear module",
    "modules_to_save": "key of PEFT's configuration",
    "trainable_token_indices": "key of PEFT's configuration",
    "loss_on": "option of an evaluation",
    "columns": "option of an evaluation, and of any table",
    "lr": "of a step, in its event and in torch's groups of parameters",
    "schedule": "the object with the rate of each step",
    "batch_size": "option of an evaluation",
    "chat_template": "attribute of any tokenizer, and the name of its file",
    "packing": "how the weights of a base are packed",
    "max_length": "option of an evaluation, pydantic's and transformers' keyword",
    "keep": "what anything does that stores something",
    "samples": "the rows of an epoch in records, and the texts that an evaluation keeps",
    "seed": "option of an evaluation, and of any random choice",
}
#: Files in which the name of an option means only something else.
OTHER_FILES: Mapping[str, Mapping[str, str]] = {
    "beta": {
        "sdk/formats/peft_config.py": "key of PEFT's configuration of KaSA",
        "sdk/lora/compatibility/engines.py": "the end of a release's number",
    }
}


def identifiers(text: str) -> frozenset[str]:
    """Return the identifiers of a module, and the words of its texts, docstrings left out."""
    return frozenset(_identifiers(ast.parse(text)))


def _identifiers(tree: ast.AST) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documentation = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name
            case ast.Constant(value=str(text)) if node not in documentation:
                yield from re.findall(r"\w+", text)


@cache
def files_of_options() -> Mapping[str, list[str]]:
    """Return the files of the product that hold the name of each option."""
    files = {
        str(path.relative_to(ROOT)): identifiers(path.read_text())
        for package in PRODUCT
        for path in sorted((ROOT / package).rglob("*.py"))
    }
    return {
        option: [name for name, held in files.items() if option in held and name not in OTHER_FILES.get(option, ())]
        for option in TrainingSpec.model_fields
    }


def test_a_name_is_held_by_code_and_texts_and_not_by_documentation() -> None:
    source = '"""Of rank."""\ndef f(alpha, *, beta=1):\n    return alpha.gamma["delta"], f"an epsilon of {f(beta, zeta=2)}"\n'
    assert {"alpha", "beta", "gamma", "delta", "epsilon", "zeta"} <= identifiers(source)
    assert "rank" not in identifiers(source)


@pytest.mark.parametrize("option", [name for name in TrainingSpec.model_fields if name not in OTHER_MEANINGS])
def test_an_option_is_in_few_files(option: str) -> None:
    assert len(files_of_options()[option]) <= MOST_FILES, files_of_options()[option]


def test_only_options_in_many_files_have_other_meanings() -> None:
    assert {name for name in OTHER_MEANINGS if len(files_of_options().get(name, ())) <= MOST_FILES} == set()


def test_other_meanings_are_there() -> None:
    peft = {name for name, meaning in OTHER_MEANINGS.items() if meaning.startswith("key of PEFT's")}
    assert peft <= PEFT_KEYS.keys()
    assert {name for name, meaning in OTHER_MEANINGS.items() if "option of an evaluation" in meaning} == {
        *TrainingSpec.model_fields.keys() & EvaluationSpec.model_fields.keys()
    }
    assert {"rank", "alpha", "dropout"} <= LoraConfig.model_fields.keys()
    assert "double_quant" in QuantizationRecipe.model_fields


if __name__ == "__main__":
    for name, held in sorted(files_of_options().items(), key=lambda item: (item[0] in OTHER_MEANINGS, -len(item[1]))):
        print(f"{len(held):3} {name}: {OTHER_MEANINGS.get(name) or ', '.join(held)}")
