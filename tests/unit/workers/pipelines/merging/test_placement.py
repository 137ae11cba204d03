"""Where parameters lie in a base's files, held against what transformers makes of the same files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.architectures import ARCHITECTURES, SEVERAL_PARTS, save_model
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from workers.pipelines.merging.placement import place, tied_groups
from workers.pipelines.merging.stored_base import StoredBase, open_stored_base
from workers.pipelines.model.blueprint import blank_model

pytestmark = pytest.mark.filterwarnings("ignore")


def assembled(stored: StoredBase, pieces: Any, like: Any) -> Any:
    """Put a parameter together from its pieces."""
    made = torch.full(like.shape, float("nan"), dtype=like.dtype)
    for piece in pieces:
        source = stored.read(piece.source)
        own = {
            axis: (piece.source_begin[axis], piece.size[at]) for at, axis in enumerate(piece.axes) if axis is not None
        }
        block = source[tuple(slice(begin, begin + size) for begin, size in (own[axis] for axis in range(source.dim())))]
        block = block.permute([axis for axis in piece.axes if axis is not None]).reshape(piece.size)
        made[tuple(slice(begin, begin + size) for begin, size in zip(piece.begin, piece.size, strict=True))] = block
    return made


def require_as_loaded(base: Path, *, several: bool = False) -> None:
    stored, model = open_stored_base(base), blank_model(base)
    placement = place(model, {name: stored.shape(name) for name in stored.weight_names()})
    maker = AutoModelForImageTextToText if several else AutoModelForCausalLM
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = maker.from_pretrained(base).state_dict()
    tied = {name for group in tied_groups(model) for name in group}
    assert not placement.opaque | placement.unused
    assert state.keys() - placement.pieces.keys() <= tied
    for name, pieces in placement.pieces.items():
        assert torch.equal(assembled(stored, pieces, state[name]), state[name]), name


@pytest.mark.parametrize("name", sorted({*ARCHITECTURES, *SEVERAL_PARTS} - {"bert"}))
def test_each_parameter_is_made_of_the_numbers_that_transformers_loads(name: str, tmp_path: Path) -> None:
    require_as_loaded(save_model(tmp_path / name, name), several=name in SEVERAL_PARTS)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_experts_that_lie_stacked_in_the_file_are_found_too(name: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / name, name)
    state = AutoModelForCausalLM.from_pretrained(base).state_dict()
    tensors = {key: tensor.contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert any(".experts.down_proj" in key for key in tensors)
    require_as_loaded(base)
