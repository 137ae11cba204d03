"""What the images and the checks install is chosen once, and written down with its hashes: `make lock`.

    python -m deploy.supply.locks

Each file is installed by `pip install --require-hashes --no-deps -r FILE`. The images use the versions that are chosen
for the checks. torch and its CUDA libraries are left out, because the build that fits depends on the machine.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
#: The extras that are locked; the first is the largest, and the others follow it.
EXTRAS = ("dev", "registry", "worker")
#: What builds the wheel.
BUILD = "build"
_OF_TORCH = re.compile(r"torch|triton|(cuda|nvidia)-[a-z0-9-]+")
_HEADER = """\
# Made by `make lock` from pyproject.toml; not to be edited by hand.
# Without torch, whose build depends on the machine: install that after these.
"""


@dataclass(frozen=True)
class Locked:
    """One package of a lock."""

    requirement: Requirement
    #: As `sha256:…`, one for each of its files.
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name as an index spells it."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """The exact version."""
        (only,) = self.requirement.specifier
        assert only.operator == "=="
        return only.version

    @property
    def holds_here(self) -> bool:
        """Whether it applies to this Python and machine."""
        return self.requirement.marker is None or self.requirement.marker.evaluate()


def path_of(name: str) -> Path:
    """Return the file with what an extra, or the build, installs."""
    return ROOT / "deploy" / f"requirements-{name}.txt"


def read(name: str) -> list[Locked]:
    """Return all packages that an extra, or the build, installs."""
    lines = [line for line in path_of(name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        said, *hashes = line.split(" --hash=")
        found.append(Locked(Requirement(said.strip()), tuple(digest.strip() for digest in hashes)))
    return found


def belongs_to_torch(name: str) -> bool:
    """Say whether a package is left out because it comes with a build of torch."""
    return _OF_TORCH.fullmatch(name) is not None


def main() -> None:
    """Choose versions again, and write all locks."""
    for extra in EXTRAS:
        _lock(extra, "pyproject.toml", "--extra", extra)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    _lock(BUILD, "-", given="\n".join(build))


def _lock(name: str, *source: str, given: str = "") -> None:
    follows = [] if name == EXTRAS[0] else ["--constraints", str(path_of(EXTRAS[0]))]
    everything = _compile(*source, *follows, given=given)
    left_out = filter(belongs_to_torch, re.findall(r"^(\S+)==", everything, re.MULTILINE))
    drops = [word for package in sorted(set(left_out)) for word in ("--no-emit-package", package)]
    chosen = _without_platforms(_compile(*source, *follows, "--generate-hashes", *drops, given=given))
    path_of(name).write_text(_HEADER + chosen, encoding="utf-8")
    print(f"{path_of(name).relative_to(ROOT)}: {len(read(name))} packages")


def _without_platforms(chosen: str) -> str:
    """Leave out what uv repeats for each package: that it is only for tool.uv.environments."""
    markers = re.findall(r"^\S+==\S+ ; (.*?)(?: \\)?$", chosen, re.MULTILINE)
    ((everywhere, _),) = Counter(markers).most_common(1)
    platforms = everywhere.partition(" and ")[2]
    return chosen.replace(f" ; {everywhere}", "").replace(f" and {platforms}", "")


def _compile(*options: str, given: str) -> str:
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
    # Without the index's name: people use different mirrors, and the hashes are the same for all of them.
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", *options]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"uv could not choose: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
