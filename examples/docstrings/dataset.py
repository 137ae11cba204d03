"""Functions of the Python standard library and the first lines of their docstrings, as training and held-out rows.

    python examples/docstrings/dataset.py OUT

The sources are parsed and never imported. The same Python version gives the same bytes.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

INSTRUCTION = "Write the first line of the docstring of this Python function.\n\n{source}\n\nDocstring:\n"
TRAIN_ROWS = 320
HELDOUT_ROWS = 48
#: Characters of a function's source; about 200 tokens at the upper bound.
SOURCE_CHARACTERS = (60, 640)
#: Characters of a docstring's first line.
DOCSTRING_CHARACTERS = (20, 100)
#: Of this many modules one is held out.
HELDOUT_EVERY = 5
#: Folders of the standard library that are left out: tests, and what pip installed.
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3"})


def write_dataset(out: Path) -> tuple[Path, Path]:
    """Write `out/train.jsonl` and `out/heldout.jsonl` and return both paths.

    Rows are `{"prompt", "completion"}`. The split is by module, and a function body that occurs in both is dropped
    from the training rows.
    """
    rows: dict[bool, list[dict[str, str]]] = {False: [], True: []}
    bodies: dict[bool, set[str]] = {False: set(), True: set()}
    functions = sorted(_functions(Path(sysconfig.get_path("stdlib"))), key=lambda found: found[0])
    # Held-out rows come first, so that the training rows can avoid their bodies.
    for heldout in (True, False):
        for _, module, body, prompt, completion in functions:
            seen = body in bodies[True] or body in bodies[False]
            if _is_heldout(module) == heldout and not seen:
                bodies[heldout].add(body)
                rows[heldout].append({"prompt": prompt, "completion": completion})
    out.mkdir(parents=True, exist_ok=True)
    train, held = out / "train.jsonl", out / "heldout.jsonl"
    _write(train, rows[False][:TRAIN_ROWS])
    _write(held, rows[True][:HELDOUT_ROWS])
    return train, held


def _is_heldout(module: str) -> bool:
    """Choose modules by a digest of their names, which is the same in every process."""
    return int(hashlib.sha256(module.encode()).hexdigest(), 16) % HELDOUT_EVERY == 0


def _functions(root: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (order, module, body, prompt, completion) of each short documented function below `root`."""
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root).with_suffix("").as_posix()
        if SKIPPED_FOLDERS.intersection(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
                continue
            completion = (ast.get_docstring(node) or "").split("\n", 1)[0].strip()
            if not DOCSTRING_CHARACTERS[0] <= len(completion) <= DOCSTRING_CHARACTERS[1]:
                continue
            # The docstring is the first statement; what is left is unparsed, so comments and layout do not matter.
            del node.body[0]
            source = ast.unparse(node)
            if not SOURCE_CHARACTERS[0] <= len(source) <= SOURCE_CHARACTERS[1]:
                continue
            body = "\n".join(ast.unparse(statement) for statement in node.body)
            # Rows of one module would stand together in the order of its name; a digest mixes them for good.
            order = hashlib.sha256(f"{module}:{node.lineno}:{source}".encode()).hexdigest()
            yield order, module, body, INSTRUCTION.format(source=source), completion


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as JSONL: one object a line, UTF-8, line feed only."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_bytes("".join(lines).encode("utf-8"))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/docstrings/dataset.py OUT")
    for written in write_dataset(Path(sys.argv[1])):
        print(written)
