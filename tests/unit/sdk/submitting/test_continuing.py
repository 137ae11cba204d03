"""What a training that continues a version takes over from it, and what may be chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sdk.errors import InvalidInput
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.version_records import TrainingRecord
from sdk.submitting.again import continued_spec

LORA = LoraConfig(
    rank=4, alpha=6.0, dropout=0.1, target_modules=["q_proj", "v_proj"], target_parameters=[], use_dora=True,
    rank_pattern={"q_proj": 2}, trainable_token_indices=[5, 6],
)  # fmt: skip


def parent(**changed: Any) -> Any:
    return SimpleNamespace(
        **{
            "ref": "sql@v3",
            "kind": "adapter",
            "method": "lora",
            "quantization": None,
            "lora": LORA,
            "training": None,
            "record": TrainingRecord(),
            "files": [],
            **changed,
        }
    )


def test_the_configuration_is_the_parents_and_the_rest_is_chosen() -> None:
    spec = continued_spec(parent(), {"lr": 1e-3, "dropout": 0.0, "rank": 4, "alpha": 6, "use_dora": True})
    assert (spec.method, spec.rank, spec.alpha, spec.targets) == ("lora", 4, 6.0, "q_proj,v_proj")
    assert (spec.use_dora, spec.rank_pattern, spec.tokens) == (True, "q_proj=2", [5, 6])
    assert (spec.lr, spec.dropout) == (1e-3, 0.0)
    assert continued_spec(parent(), {}).dropout == 0.1
    recipe = QuantizationRecipe(type="fp4", double_quant=False)
    over = continued_spec(parent(method="qlora", quantization=recipe), {})
    assert (over.method, over.quant_type, over.double_quant) == ("qlora", "fp4", False)
    eight = QuantizationRecipe(type="int8", double_quant=False, block_size=None)
    spec = continued_spec(parent(method="qlora", quantization=eight), {})
    assert (spec.quant_type, spec.packs_scales) == ("int8", False)
    # The base is stored so.
    stored = recipe.model_copy(update={"storage_dtype": "uint8"})
    assert continued_spec(parent(method="qlora", quantization=stored), {}).quant_type == "nf4"
    assert continued_spec(parent(method="unknown"), {"method": "lora"}).method == "lora"


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"rank": 8}, "rank"),
        ({"alpha": 8.0}, "alpha"),
        ({"targets": "attention"}, "targets"),
        ({"exclude": "q_proj"}, "exclude"),
        ({"method": "qlora"}, "method"),
        ({"use_dora": False}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"rank_pattern": "q_proj=3"}, "rank_pattern"),
        ({"layers_to_transform": "0"}, "layers_to_transform"),
        ({"init_lora_weights": "eva"}, "init_lora_weights"),
        ({"bias": "all"}, "bias"),
        ({"trainable_token_indices": "5"}, "trainable_token_indices"),
    ],
)
def test_what_contradicts_it_is_refused(given: dict[str, Any], param: str) -> None:
    with pytest.raises(
        InvalidInput, match=f"^sql@v3 keeps its {param}, .*, when it is continued; leave {param} out"
    ) as refused:
        continued_spec(parent(), given)
    assert refused.value.param == param


def test_of_a_version_that_nobody_said_the_method_of_it_is_asked_for() -> None:
    with pytest.raises(InvalidInput, match=r"the record of sql@v3 doesn't say how it was trained; give method: lora"):
        continued_spec(parent(method="unknown"), {})


def test_a_merged_model_is_not_continued() -> None:
    with pytest.raises(InvalidInput, match="sql@v3 is a merged model, not an adapter, so it can't be continued"):
        continued_spec(parent(kind="merged"), {})


def test_added_tokens_are_those_of_the_parents_record() -> None:
    lora = LORA.model_copy(update={"trainable_token_indices": {"embed_tokens": [5, 300], "lm_head": [300]}})
    record = TrainingRecord(add_tokens="<x>\n", trainable_token_indices="5")
    spec = continued_spec(parent(lora=lora, record=record), {})
    assert (spec.added, spec.tokens) == (["<x>"], [5])
    with pytest.raises(InvalidInput, match=r"^sql@v3 keeps its add_tokens"):
        continued_spec(parent(lora=lora, record=record), {"add_tokens": "<y>"})
    with pytest.raises(InvalidInput, match="sql@v3 came with a tokenizer of its own, and its record doesn't say"):
        continued_spec(parent(files=[SimpleNamespace(path="tokenizer.json")]), {})


def test_conversations_are_rendered_as_for_the_parent() -> None:
    rendering = {"chat_template": "{{ messages }}{{ brief }}", "template_kwargs": "brief=true"}
    made = parent(training={"rank": 4})
    spec = continued_spec(made, {}, rendering=rendering)
    assert spec.of_template == continued_spec(made, rendering, rendering=rendering).of_template == rendering
    for given in ({"template_kwargs": {"brief": False}}, {"chat_template": "{{ messages }}"}):
        with pytest.raises(InvalidInput, match=f"sql@v3 keeps its {next(iter(given))}, .* when it is continued"):
            continued_spec(made, given, rendering=rendering)
    with pytest.raises(InvalidInput, match="sql@v3 keeps its template_kwargs, None, when it is continued"):
        continued_spec(made, {"template_kwargs": "brief=true"}, rendering={})
    # Nobody said how a pushed version was taught; its worker looks at its template.
    assert continued_spec(parent(), rendering).of_template == rendering
