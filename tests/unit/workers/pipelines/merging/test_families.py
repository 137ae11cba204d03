"""Families and variants: what is written is W + s·B·A as PEFT has it, rounded once, and everything else is the base's."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix import table
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from support.architectures import save_model
from support.merges import (
    FAMILIES,
    Made,
    by_peft,
    loaded,
    make,
    merge,
    require_published,
    save_adapter,
    save_as_pushed,
    save_in,
    settings,
    variants,
)
from support.soak import MATRIX

from registry.errors import Verification
from sdk.schemas.evaluation import MergeReport

pytestmark = pytest.mark.filterwarnings("ignore")

DTYPES = ("float32", "bfloat16", "float16")
#: Variants whose sum PEFT and this make of the same roundings.
SAME_BITS = ("plain", "rslora", "patterns", "bias", "whole", "tokens", "embeddings", "head", "B's bias")


#: Family, variant, type and number of files.
Cell = tuple[str, str, str, int]


def product() -> list[Cell]:
    return [
        (family, variant, dtype, shards)
        for family in FAMILIES
        for variant in variants(family)
        for dtype, shards in itertools.product(DTYPES, (1, 4))
    ]


def pairwise() -> list[Cell]:
    """So few that every two values of families, variants, types and numbers of files meet in one."""
    found = []
    for number, family in enumerate(FAMILIES):
        for turn, variant in enumerate(variants(family)):
            dtype = DTYPES[(number + turn + number // 3) % 3]
            found.append((family, variant, dtype, (1, 4)[(turn // 2 + number // 2) % 2]))
    # Two families have experts, and there are three types.
    return [*found, ("mixtral", "experts", "bfloat16", 1)]


def measured(cell: Cell) -> bool:
    """Whether the predictions of a cell are compared too: of each family those of three variants or four."""
    family, variant, *_ = cell
    names, number = list(variants(family)), list(FAMILIES).index(family)
    return variant in {names[(number * 3 + at) % len(names)] for at in range(3)} | {"experts"}


def run(made: Made, out: Path, **spec: Any) -> MergeReport:
    return merge(made.base, made.adapter, out, **spec)


def step(values: Any, dtype: Any) -> Any:
    """Return the distance of a type's numbers at some values."""
    _, exponents = torch.frexp(values.abs())
    bits = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}[dtype]
    return torch.ldexp(
        torch.ones_like(values), torch.clamp(exponents - bits, min=-24 if dtype == torch.float16 else -149)
    )


def test_every_two_values_meet_in_a_cell() -> None:
    wanted, found = (
        {((at, cell[at]), (other, cell[other])) for cell in cells for at, other in itertools.combinations(range(4), 2)}
        for cells in (product(), pairwise())
    )
    assert wanted - found == set()


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, int], Path]:
    """Bases of a family, type and number of files, each made once."""

    @functools.cache
    def base(family: str, dtype: str, shards: int) -> Path:
        folder = tmp_path_factory.mktemp("base")
        return save_in(save_model(folder / "plain", family), folder / "base", dtype=dtype, shards=shards)

    return base


@pytest.mark.parametrize("cell", product() if MATRIX else pairwise(), ids=lambda cell: " ".join(map(str, cell)))
def test_what_is_written_is_the_sum_rounded_once(
    cell: Cell, bases: Callable[[str, str, int], Path], tmp_path: Path, free_memory: Callable[[int], None]
) -> None:
    family, variant, dtype, shards = cell
    base = bases(family, dtype, shards)
    made = Made(base, save_adapter(base, tmp_path / "adapter", **settings(family, variant)))
    if not measured(cell):
        free_memory(0)
    report = run(made, tmp_path / "out")
    assert (report.read_back.prompts == "run") is measured(cell)
    require_published(made, tmp_path / "out", report)
    ours, truth, before = loaded(tmp_path / "out"), by_peft(made, torch.float64), loaded(made.base)
    plain = by_peft(made, torch.float32) if dtype == "float32" else {}
    assert ours.keys() == truth.keys()
    equal = total = 0
    worst = 0.0
    for name, right in truth.items():
        got, base = ours[name], before[name].double()
        assert got.dtype == before[name].dtype, name
        if torch.equal(right, base):
            assert torch.equal(got, before[name]), name
            continue
        size = torch.maximum(base.abs(), (right - base).abs())
        error = (got.double() - right).abs()
        if dtype == "float32":
            allowed = 1e-5 * size + 1e-7 if "dora" in variant else 2e-6 * (size + 0.1)
            if variant in SAME_BITS:
                assert torch.equal(got, plain[name]), name
        else:
            allowed = 1.001 * step(size, got.dtype) + (1e-5 * size if "dora" in variant else 0)
            equal += int((got.double() == right.to(got.dtype).double()).sum())
            total += got.numel()
            worst = max(worst, float((error / step(size, got.dtype)).max()))
        assert bool((error <= allowed).all()), name
    assert equal >= 0.999 * total
    if MATRIX:
        table.keep_merged(cell, worst)


def headers(folder: Path) -> dict[str, list[str]]:
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found[path.name] = [str(name) for name in file.offset_keys()]
    return found


def test_the_layout_of_the_files_is_the_bases(tmp_path: Path) -> None:
    made = make("llama", "plain", tmp_path, dtype="bfloat16", shards=4)
    run(made, tmp_path / "out")
    assert headers(tmp_path / "out") == headers(made.base)
    index = "model.safetensors.index.json"
    assert (tmp_path / "out" / index).read_bytes() == (made.base / index).read_bytes()
    for path in made.base.glob("*.safetensors"):
        assert path.stat().st_size == (tmp_path / "out" / path.name).stat().st_size
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("variant", "untied"), [("plain", False), ("tokens", False), ("embeddings", True), ("head", True)]
)
def test_what_was_tied_is_written_twice_where_the_adapter_unties_it(variant: str, untied: bool, tmp_path: Path) -> None:
    made = make("llama-tied", variant, tmp_path)
    require_published(made, tmp_path / "out", run(made, tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is not untied
    names = {name for file in headers(tmp_path / "out").values() for name in file}
    assert ("lm_head.weight" in names) is untied
    if untied:
        weights, base = loaded(tmp_path / "out"), loaded(made.base)["model.embed_tokens.weight"]
        kept = "lm_head.weight" if variant == "embeddings" else "model.embed_tokens.weight"
        assert torch.equal(weights[kept], base)
        assert not torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("family", ["gemma3-vision", "qwen2.5-vl"])
def test_parts_that_see_are_merged_too_convolutions_among_them(family: str, dora: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    base = save_model(tmp_path / "base", family)
    model = AutoModelForImageTextToText.from_pretrained(base)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    convolutions = [name for name, each in model.named_modules() if isinstance(each, torch.nn.Conv2d | torch.nn.Conv3d)]
    assert convolutions
    torch.manual_seed(5)
    settings = {"target_modules": [*convolutions, "q_proj"], "use_dora": dora, "init_lora_weights": False}
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    seen = Made(base, save_as_pushed(adapted, tmp_path / "saved"))
    require_published(seen, tmp_path / "out", run(seen, tmp_path / "out"))
    right = adapted.merge_and_unload().state_dict()
    ours = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()
    assert {name for name in ours if not torch.equal(ours[name], before[name])} >= {
        f"{name}.weight" for name in convolutions
    }
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, right[name], rtol=1e-5 if dora else 0, atol=1e-7 if dora else 0, msg=name)


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_a_larger_vocabulary_passes_admission_with_its_adapter_s_word_alone(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    base = save_model(tmp_path / "base", family)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(303, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    made = Made(base, save_as_pushed(adapted, tmp_path / "grown", save_embedding_layers=True))
    report = run(made, tmp_path / "out")
    require_published(made, tmp_path / "out", report, vocabulary=303)
    with pytest.raises(Verification, match="says another vocab_size than base base"):
        require_published(made, tmp_path / "out", report)
