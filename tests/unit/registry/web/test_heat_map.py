"""The map of norms: what is in which cell, and that it stays small whatever modules are called."""

from __future__ import annotations

import math
import time

import pytest

from registry.web.versions.heat_map import MOST_LAYERS, MOST_ROWS, STEPS, heat_map


def test_map_without_a_known_norm_is_none() -> None:
    assert heat_map({}) is None
    assert heat_map({"model.layers.0.q_proj": None}) is None


def test_cells_keep_the_whole_norm() -> None:
    norms = {f"layers.{layer}.mlp.experts.{one}.up_proj": 0.5 for layer in range(3) for one in range(4)}
    found = heat_map({**norms, "layers.1.q_proj": 2.0, "layers.2.q_proj": None, "lm_head": 1.0})
    assert found is not None
    assert (found.layers, found.unknown, found.left_out, found.grouped) == (("0", "1", "2", ""), 1, 0, True)
    assert found.rows == ("lm_head", "mlp.experts.*.up_proj", "q_proj")
    assert math.hypot(*(cell.norm for cell in found.cells)) == pytest.approx(
        math.hypot(*norms.values(), 2.0, 1.0), rel=1e-12
    )
    experts = [cell for cell in found.cells if cell.row == 1]
    assert [(cell.column, cell.modules, cell.norm, cell.step) for cell in experts] == [
        (layer, 4, 1.0, STEPS // 2) for layer in range(3)
    ]


def test_zero_norms_have_the_lowest_step() -> None:
    found = heat_map({"layers.0.q_proj": 0.0})
    assert found is not None
    assert [cell.step for cell in found.cells] == [0]


def test_many_layers_share_columns_and_many_modules_leave_some_out() -> None:
    found = heat_map({f"h.{layer}.m{module}": 1.0 + module for layer in range(200) for module in range(100)})
    assert found is not None
    assert len(found.layers) <= MOST_LAYERS
    assert found.layers[0] == "0–3"
    assert len(found.rows) == MOST_ROWS
    assert len(found.cells) <= MOST_ROWS * MOST_LAYERS
    assert found.left_out == 200 * (100 - MOST_ROWS)
    # Those that are left out are the smallest.
    assert min(cell.norm for cell in found.cells) >= 1.0 + 100 - MOST_ROWS


@pytest.mark.parametrize(
    "name",
    ["1." * 500 + "x", "." * 1000, "9" * 1000, "a" * 1000 + ".1", "layers.1.\n<b>", "layers.99999999.q", ".0.", ""],
)
def test_hostile_names_are_cells_too(name: str) -> None:
    found = heat_map({name: 1.0})
    assert found is not None
    assert len(found.cells) == 1
    assert all(len(row) <= 44 for row in found.rows)


def test_work_is_linear_in_names() -> None:
    norms = {f"{'a.' * 400}{number}.{'1.' * 40}q": 1.0 for number in range(5_000)}
    began = time.process_time()
    heat_map(norms)
    assert time.process_time() - began < 2.0
