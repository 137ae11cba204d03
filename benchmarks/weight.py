"""What the source weighs, at the working tree and at a commit: files, lines of code, and what should grow fewer.

    python benchmarks/weight.py [COMMIT]

A line counts if it holds at least one token that is neither a comment nor part of a docstring. Counted as private are
imports of what another library names with one leading underscore, and such names reached through a module of it.
"""

from __future__ import annotations

import ast
import gc
import io
import subprocess
import sys
import tarfile
from collections import Counter
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("sdk", "registry", "workers", "migrations", "adapterctl", "adapterctl_entry", "adapterctl_entry.py")
#: By file: the class whose fields are the settings.
SETTINGS = {"registry/settings.py": "Settings", "workers/settings.py": "WorkerSettings"}
Tree = dict[str, bytes]


class Counts(NamedTuple):
    """What one file adds."""

    lines: int
    private_imports: int
    private_attributes: int


def main() -> int:
    """Print the table; return 0."""
    gc.disable()  # Trees of syntax have no circles, and are many objects.
    here = weigh(working_tree())
    if len(sys.argv) < 2:
        _print(("", "here"), [(name, [count]) for name, count in here.items()])
        return 0
    there = weigh(tree_of(sys.argv[1]))
    names = dict.fromkeys([*there, *here])
    rows = [(name, [there[name], here[name], here[name] - there[name]]) for name in names]
    _print(("", sys.argv[1][:12], "here", "difference"), rows)
    return 0


def working_tree() -> Tree:
    """Return the files that git has or would add, by path, with what is in them."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    return {path: (ROOT / path).read_bytes() for path in sorted(set(listed)) if (ROOT / path).is_file()}


def tree_of(commit: str) -> Tree:
    """Return the files of a commit."""
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive:
        files = [(member.name, archive.extractfile(member)) for member in archive if member.isfile()]
        return {name: file.read() for name, file in files if file is not None}


def weigh(tree: Tree) -> Counter[str]:
    """Return every figure of a tree by its name, in the order of the table."""
    figures: Counter[str] = Counter()
    sources = {path: data for path, data in tree.items() if path.endswith(".py")}
    own = frozenset(
        PurePosixPath(part).stem for path in sources for part in path.split("/")[: 1 + path.startswith("tests/")]
    )
    tests = {path: data for path, data in sources.items() if path.startswith("tests/")}
    counts = {path: measured(data, own) for path, data in sources.items() if path.split("/")[0] in (*PRODUCT, "tests")}
    parts = {folder: [counts[path] for path in counts if path.split("/")[0] == folder] for folder in PRODUCT}
    parts["product"] = [one for part in parts.values() for one in part]
    parts["tests"] = [counts[path] for path in tests]
    for name, part in parts.items():
        figures[f"{name}, files"] = len(part)
    for name, part in parts.items():
        figures[f"{name}, lines"] = sum(one.lines for one in part)
    for name in ("product", "tests"):
        figures[f"{name}, private imports"] = sum(one.private_imports for one in parts[name])
        figures[f"{name}, private names of modules"] = sum(one.private_attributes for one in parts[name])
    figures["CHANGELOG.md, lines"] = len(tree.get("CHANGELOG.md", b"").splitlines())
    figures["migrations"] = sum(path.startswith("migrations/versions/") for path in sources)
    figures["tests, monkeypatch.setattr("] = sum(data.count(b"monkeypatch.setattr(") for data in tests.values())
    figures["tests, sleep("] = sum(data.count(b"sleep(") for data in tests.values())
    for path, name in SETTINGS.items():
        figures[f"{path.split('/')[0]}, settings"] = fields(sources.get(path, b""), name)
    return figures


@cache
def measured(source: bytes, own: frozenset[str]) -> Counts:
    """Read one file; `own` names what is no library of others."""
    nodes = list(ast.walk(ast.parse(source)))
    imports, modules = 0, set()
    for node in nodes:
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            paths = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        others = [path for path in paths if path.split(".")[0] not in own]
        imports += any(_is_private(part) for path in others for part in path.split("."))
        if others:
            modules |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
    private = [node for node in nodes if isinstance(node, ast.Attribute) and _is_private(node.attr)]
    return Counts(_code_lines(source, nodes), imports, sum(_root(node) in modules for node in private))


def _code_lines(source: bytes, nodes: list[ast.AST]) -> int:
    """Count the lines that hold a token of code; a string of several lines counts without its blank ones."""
    lines = [line.strip() for line in source.split(b"\n")]
    inside = {line for node in nodes if _is_text(node) for line in range(node.lineno + 1, node.end_lineno + 1)}
    code = {n for n, line in enumerate(lines, 1) if line and (n in inside or not line.startswith(b"#"))}
    for node in nodes:
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            # What stands before it or behind it on its lines is code.
            before = source.split(b"\n")[first.lineno - 1][: first.col_offset].strip()
            behind = source.split(b"\n")[first.end_lineno - 1][first.end_col_offset :].strip()
            code -= set(range(first.lineno + bool(before), first.end_lineno + 1 - (behind[:1] not in (b"", b"#"))))
    return len(code)


def fields(source: bytes, name: str) -> int:
    """Count the fields of a class."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef) and node.name == name]
    return sum(isinstance(line, ast.AnnAssign) for node in found for line in node.body)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _root(node: ast.Attribute) -> str | None:
    """Return the name that a dotted path begins with."""
    value = node.value
    while isinstance(value, ast.Attribute):
        value = value.value
    return value.id if isinstance(value, ast.Name) else None


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, stdout=subprocess.PIPE).stdout


def _print(heads: tuple[str, ...], rows: list[tuple[str, list[int]]]) -> None:
    print(f"{heads[0]:40}" + "".join(f"{head:>13}" for head in heads[1:]))
    for name, counts in rows:
        signs = ["", "", "+"]
        print(f"{name:40}" + "".join(f"{count:{sign}13,}" for count, sign in zip(counts, signs, strict=False)))


if __name__ == "__main__":
    sys.exit(main())
