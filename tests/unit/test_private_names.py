"""What the product uses of other libraries that they call private: each with its reason and the test that would notice."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("adapterctl", "adapterctl_entry", "sdk", "registry", "workers", "migrations")
#: Documented, in spite of the underscore.
DOCUMENTED = {"_asdict", "_replace", "_exit", "_name_", "_value_", "_repr_html_", "_repr_svg_"}

PIPELINES = "workers/pipelines"
TESTS = "tests/unit/workers/pipelines"
LOADING = f"{TESTS}/model/test_loading.py::test_how_attention_is_computed_is_not_the_base_s_to_say"
CLOSED = "tests/unit/registry/db/test_db.py::test_a_connection_that_is_being_opened_while_the_database_is_closed_is_closed_as_well"
GARBAGE = "tests/unit/workers/entry/test_hints.py::test_garbage_in_the_queue_is_dropped_and_the_next_hint_taken"
ROUTERS = f"{TESTS}/model/test_experts.py::test_routers_that_the_library_keeps_in_float32_are_loaded_and_merged_so"
TRAINED = f"{TESTS}/training/test_variants.py"
UNSEEN = "no test: without it, a model would be treated as one that says nothing by this name"
NO_CPU = "only a CPU without instructions for bfloat16 would notice"

#: The name and the file that uses it; why, where there is no public way; the test that fails once it is gone.
TABLE: list[tuple[str, str, str, str]] = [
    (
        "torch.utils._python_dispatch.TorchDispatchMode",
        f"{PIPELINES}/model/causality.py",
        "documented for extending torch, but under this name alone: computes each operation in float32",
        f"{TESTS}/model/test_causality.py::test_decoders_are_causal",
    ),
    (
        "_attn_implementation",
        f"{PIPELINES}/model/blueprint.py",
        "a config says how attention is computed, before there is a model that could be asked to change it",
        LOADING,
    ),
    *(
        ("_attn_implementation", f"{PIPELINES}/{file}.py", "which attention a loaded model has can only be set", test)
        for file, test in (
            ("cpu/row_attention", f"{TESTS}/model/test_read_padding.py::test_a_training_passes_rows_one_at_a_time"),
            ("training/forecasting", LOADING),
        )
    ),
    (
        "_experts_implementation",
        f"{PIPELINES}/model/blueprint.py",
        "as _attn_implementation, for experts",
        UNSEEN,
    ),
    (
        "_from_config",
        f"{PIPELINES}/model/precision.py",
        "makes the class that a model has, whichever that is, where AutoModel would choose one",
        ROUTERS,
    ),
    (
        "_get_dtype_plan",
        f"{PIPELINES}/model/precision.py",
        "what the library keeps in float32 is said by the class alone",
        ROUTERS,
    ),
    (
        "_keys_to_ignore_on_load_missing",
        f"{PIPELINES}/merging/placement.py",
        "what a file may lack is said by the class alone",
        UNSEEN,
    ),
    (
        "_weight_conversions",
        f"{PIPELINES}/model/packed.py",
        "a model that was loaded in 4 bits would pack the weights again that were made wide",
        UNSEEN,
    ),
    (
        "_version",
        f"{PIPELINES}/model/shared_base.py",
        "that a weight was changed in place shows nowhere else, but by comparing all of it",
        f"{TESTS}/model/test_shared_base.py::test_a_changed_weight_that_no_fixed_text_reads_is_seen",
    ),
    (
        "_version",
        "workers/serving/decoding/trees.py",
        "that a shared weight was changed in place shows nowhere else, but by comparing all of it",
        "tests/unit/workers/serving/decoding/test_trees.py::test_a_weight_that_a_tree_wrote_to_is_seen",
    ),
    (
        "_parameters",
        f"{PIPELINES}/model/trained_whole.py",
        "a parameter is replaced by a rounded tensor for one pass; a module takes no plain tensor by its public name",
        TRAINED,
    ),
    (
        "_did_swap_in_out_features",
        f"{PIPELINES}/merging/adapter_changes.py",
        "PEFT decides for each stack of experts which way round its matrices are",
        f"{TESTS}/model/test_experts.py::test_an_adapter_of_single_experts_is_gated_scored_and_merged_expert_by_expert",
    ),
    *(
        (name, f"{PIPELINES}/cpu/arithmetic.py", "torch 2.10 has no public name for what a CPU can do", NO_CPU)
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported", "_is_mkldnn_bf16_supported")
    ),
    (
        "_get",
        f"{PIPELINES}/exporting/gguf_file.py",
        "gguf reads each number by it, and ignores the end of the file",
        f"{TESTS}/exporting/test_export_tokenizers.py",
    ),
    *(
        (name, "workers/entry/hints.py", "kombu takes a message off the broker before it parses it", GARBAGE)
        for name in ("_brpop_read", "_receive_one", "_deliver")
    ),
    *(
        (name, "registry/db/engine.py", "SQLAlchemy makes a pool from another's parts, which only that has", CLOSED)
        for name in ("_creator", "_dialect", "_do_return_conn", "_orig_logging_name", "_reset_on_return")
    ),
]


def private_names(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield what a file takes from modules that aren't ours, and attributes of anything but itself, if called private."""
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("__"):
            names = [f"{node.module}.{each.name}" for each in node.names]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        yield from (name for name in names if "._" in f".{name}" and name.split(".")[0] not in OURS)
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.Call) and is_named(node.func, "getattr", "hasattr", "setattr"):
            names = [node.args[1].value] if isinstance(node.args[1], ast.Constant) else []
        else:
            continue
        yield from (name for name in names if name.startswith("_") and not name.endswith("__"))


def defined_names(nodes: list[ast.AST]) -> Iterator[str]:
    """Yield the names that a file defines: functions, classes, and what it assigns to itself or without an owner."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and is_named(node.value, "self") and isinstance(node.ctx, ast.Store):
            yield node.attr


@cache
def private_uses() -> frozenset[tuple[str, str]]:
    trees = {path: list(ast.walk(ast.parse(path.read_text()))) for room in OURS for path in (ROOT / room).rglob("*.py")}
    folders: dict[Path, Counter[str]] = {}
    called: set[str] = set()
    for path, nodes in trees.items():
        folders.setdefault(path.parent, Counter()).update(set(defined_names(nodes)))
        for node in nodes:
            called.update(str(vars(node)[field]) for field in ("attr", "id", "value") if field in vars(node))
    uses = set()
    for path, nodes in trees.items():
        defined = folders[path.parent]
        # What a class of ours replaces, and calls, is another library's unless a file beside it defines it as well.
        calls = {node.attr for node in nodes if isinstance(node, ast.Attribute) and is_of_base(node)}
        theirs = {name for name in calls if defined[name] == 1}
        names = {name for name in private_names(nodes) if name in theirs or name not in defined}
        # What no file of ours calls is called by another library.
        methods = (each for node in nodes if isinstance(node, ast.ClassDef) for each in node.body)
        names |= {
            each.name for each in methods if isinstance(each, ast.FunctionDef) and not each.decorator_list
        } - called
        names = {name for name in names - DOCUMENTED if "._" in f".{name}" and not name.endswith("__")}
        uses |= {(name, path.relative_to(ROOT).as_posix()) for name in names}
    return frozenset(uses)


def is_of_base(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Call) and is_named(node.value.func, "super")


def is_named(node: ast.expr, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def test_what_is_private_is_in_the_table() -> None:
    assert private_uses() == {(name, path) for name, path, _, _ in TABLE}


def test_few_of_them_are_imported() -> None:
    assert len([name for name, _ in private_uses() if "." in name]) <= 1


def test_each_row_names_a_test_that_there_is() -> None:
    for _, _, _, test in TABLE:
        path, _, name = test.partition("::")
        assert test in (NO_CPU, UNSEEN) or f"def {name}" in (ROOT / path).read_text(), test
