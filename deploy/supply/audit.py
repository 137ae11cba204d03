"""Finds out whether any locked package is known to be unsafe: `make audit` asks a database of advisories about each of
them.

    python -m deploy.supply.audit [--vulnerability-service osv]

Exits with 0 if all were looked up and none is known to be unsafe, with 1 if one is, and with 3 if the database could
not be asked, or doesn't know a package: then nothing is proved.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from deploy.supply import locks

UNSAFE, UNKNOWN = 1, 3


def main() -> None:
    """Ask about all locks at once; words on the command line are passed on to pip-audit."""
    packages = {
        (package.name, package.version): package
        for name in (*locks.EXTRAS, locks.BUILD)
        for package in locks.read(name)
    }
    status, lines = ask(sorted(packages), *sys.argv[1:])
    print("\n".join(lines))
    sys.exit(status)


def ask(packages: list[tuple[str, str]], *options: str) -> tuple[int, list[str]]:
    """Ask about packages by name and version. Return an exit status, and what to say."""
    answers: list[dict[str, Any]] = []
    while packages:
        # If a package is locked in two versions, for different Pythons, pip-audit accepts only one at a time.
        now = dict(packages)
        packages = [package for package in packages if package not in now.items()]
        found, why = _ask_once(now, *options)
        if found is None:
            return UNKNOWN, [f"No database of advisories could be reached ({why}); try again where one can be."]
        answers += found
    return judge(answers)


def _ask_once(packages: dict[str, str], *options: str) -> tuple[list[dict[str, Any]] | None, str]:
    """Return what pip-audit found out about each package, or why it could not."""
    with tempfile.TemporaryDirectory() as folder:
        report, asked = Path(folder, "report.json"), Path(folder, "asked.txt")
        asked.write_text("".join(f"{name}=={version}\n" for name, version in packages.items()), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(asked), "--disable-pip", "--no-deps"]
        command += ["--format", "json", "--output", str(report), "--progress-spinner", "off", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            return None, next(iter(done.stderr.strip().splitlines()[-1:]), "pip-audit said nothing")
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
        return found, ""


def judge(answers: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Return an exit status, and what to say, for what pip-audit found out about each package."""
    unsafe = [
        f"{answer['name']} {answer['version']}: {found['id']}, "
        + (f"fixed in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "not fixed yet")
        for answer in answers
        for found in answer.get("vulns", [])
    ]
    unknown = [answer["name"] for answer in answers if "skip_reason" in answer]
    if unsafe:
        return UNSAFE, [*unsafe, "Raise the ranges in pyproject.toml to releases without these faults, then: make lock"]
    if unknown or not answers:
        names = ", ".join(unknown[:5]) + (", …" if len(unknown) > 5 else "")
        return UNKNOWN, [
            f"The database knows nothing about {len(unknown)} of {len(answers)} packages ({names}); ask another one: "
            "make audit AUDIT=--vulnerability-service=osv"
        ]
    return 0, [f"None of {len(answers)} locked packages is known to be unsafe; torch is not locked, look at yours."]


if __name__ == "__main__":
    main()
