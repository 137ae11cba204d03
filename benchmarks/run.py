"""Every benchmark, one after another, and the table of what they found.

make bench
python benchmarks/run.py startup
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("RESULTS.md")
SUITES = {
    "startup": "Start-up",
    "serving": "Registry beside MLflow",
    "growth": "A registry that fills",
    "artifacts": "Artifacts beside aws, MLflow and curl",
    "training": "Training beside the common script",
    "merging": "Merging beside PEFT and cp",
    "evaluating": "Evaluating many adapters over one base",
    "comparing": "Comparing by rows",
    "log_likelihoods": "Log-likelihoods beside lm-eval",
    "memory_of_rows": "Memory of rows",
    "jobs": "Jobs",
    "pages": "Pages of a large registry",
}
_LIBRARIES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate")


def main() -> None:
    """Run the suites that are named, or all; replace their sections in RESULTS.md and keep all others."""
    wanted = sys.argv[1:] or list(SUITES)
    sections = _sections()
    for name in wanted:
        rows = importlib.import_module(name).run()
        sections[name] = _section(SUITES[name], rows)
        RESULTS.write_text(_page(sections))
        print(sections[name])


def _sections() -> dict[str, str]:
    """The sections that RESULTS.md has already, by suite; those of no suite, as of soaks, by their title."""
    text = RESULTS.read_text() if RESULTS.exists() else ""
    suites = {title: name for name, title in SUITES.items()}
    parts = {part.splitlines()[0]: f"## {part.rstrip()}\n" for part in text.split("\n## ")[1:]}
    return {suites.get(title, title): part for title, part in parts.items()}


def _section(title: str, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"## {title}",
        "",
        f"{_machine()}, {datetime.now(UTC):%Y-%m-%d}.",
        "",
        "| what | ours | peer | ratio | conditions |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {row['what']} | {row['ours']} | {row['peer']} | {row['ratio']} | {row['note']} |" for row in rows]
    return "\n".join(lines) + "\n"


def _page(sections: dict[str, str]) -> str:
    head = (
        "# Results\n\nWritten by `make bench`. Each row is measured in one run on one machine, ours and the peer interleaved. "
        "`ratio` says how many times better ours is; below 1 it is worse. The machine is shared and noisy: ratios count, seconds do not.\n"
    )
    ordered = [*(name for name in SUITES if name in sections), *(name for name in sections if name not in SUITES)]
    return "\n".join([head, *(sections[name] for name in ordered)])


def _machine() -> str:
    processor = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
    return f"{os.cpu_count()} cores ({processor}), {memory:.0f} GB, no GPU, Python {platform.python_version()}, {libraries}"


if __name__ == "__main__":
    main()
