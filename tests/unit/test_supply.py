"""What is installed is locked with hashes, is what pyproject.toml asks for, and is in the list of each release."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import processes
from support.answering import Handler, answering

from deploy.supply import audit, locks, sbom

PYPROJECT = tomllib.loads((locks.ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
ALL = (*locks.EXTRAS, locks.BUILD)


def asked_by(name: str) -> list[Requirement]:
    """Return what an extra or the build asks for itself, those of its own extras too."""
    if name == locks.BUILD:
        return [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]
    found = [Requirement(line) for line in PROJECT["dependencies"]]
    for line in PROJECT["optional-dependencies"][name]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            found += [more for extra in requirement.extras for more in asked_by(extra)]
        else:
            found.append(requirement)
    return [requirement for requirement in found if requirement.marker is None or requirement.marker.evaluate()]


@pytest.mark.parametrize("name", ALL)
def test_a_lock_holds_what_pyproject_asks_for(name: str) -> None:
    held = {package.name: package for package in locks.read(name) if package.holds_here}
    for requirement in asked_by(name):
        package = held.get(canonicalize_name(requirement.name))
        if locks.belongs_to_torch(requirement.name):
            assert package is None
            continue
        assert package is not None, f"{requirement} is not in {locks.path_of(name).name}: make lock"
        assert requirement.specifier.contains(package.version), f"{requirement} is not {package.version}: make lock"


@pytest.mark.parametrize("name", ALL)
def test_everything_locked_has_one_version_and_hashes(name: str) -> None:
    packages = locks.read(name)
    assert packages
    for package in packages:
        assert package.version
        assert package.hashes, package.name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in package.hashes), package.name
        assert not locks.belongs_to_torch(package.name)
    here = [package.name for package in packages if package.holds_here]
    assert len(here) == len(set(here))
    # Not where it came from: everybody has a mirror of his own.
    text = locks.path_of(name).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=)", text, re.MULTILINE)


@pytest.mark.parametrize("image", sbom.IMAGES)
def test_an_image_installs_what_was_tested(image: str) -> None:
    tested = {(package.name, package.version): package.hashes for package in locks.read("dev")}
    for package in locks.read(image):
        assert tested[package.name, package.version] == package.hashes


def test_the_list_of_a_release_names_all_that_images_install() -> None:
    # It parses forty grammars when it is imported: two seconds of each process that collects tests.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = sbom.bill()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert sbom.bill() == text
    said = json.loads(text)
    listed = {
        (component["name"], component["version"]): {digest["content"] for digest in component["hashes"]}
        for component in said["components"]
    }
    locked = {
        (package.name, package.version): {digest.removeprefix("sha256:") for digest in package.hashes}
        for image in sbom.IMAGES
        for package in locks.read(image)
    }
    assert listed == locked
    assert said["metadata"]["component"]["version"] == sbom.VERSION
    (ours,) = [one for one in said["dependencies"] if one["ref"] == f"adapterctl@{sbom.VERSION}"]
    direct = {ref.partition("@")[0] for ref in ours["dependsOn"]}
    assert {"sqlalchemy", "transformers", "click"} <= direct
    assert not direct & {"mako", "tokenizers", "torch"}


class _Advisories(Handler):
    """As osv.dev answers: of one release, that it is unsafe."""

    def do_POST(self) -> None:
        asked = json.loads(self.body())
        fault = {
            "id": "OSV-1",
            "summary": "It obeys strangers.",
            "published": "2026-01-01T00:00:00Z",
            "affected": [
                {
                    "package": {"name": "click", "ecosystem": "PyPI"},
                    "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "8.2.1"}]}],
                }
            ],
        }
        unsafe = (asked["package"]["name"], asked["version"]) == ("click", "8.2.0")
        self.answer(200, json.dumps({"vulns": [fault]} if unsafe else {}).encode())


@contextmanager
def advisories() -> Iterator[str]:
    """A database of advisories on loopback."""
    with answering(_Advisories) as server:
        yield server.url


@pytest.mark.parametrize(
    ("version", "status", "said"),
    [("8.2.0", 1, "click 8.2.0: OSV-1, fixed in 8.2.1"), ("8.2.1", 0, "None of 2 locked packages")],
)
def test_a_package_that_is_known_to_be_unsafe_fails_the_audit(version: str, status: int, said: str) -> None:
    with advisories() as url:
        found = audit.ask([("click", version), ("rich", "15.0.0")], "-s", "osv", "--osv-url", url)
    assert (found[0], found[1][0].startswith(said)) == (status, True), found


def test_an_audit_that_could_ask_nobody_proves_nothing() -> None:
    away = f"http://127.0.0.1:{processes.free_port()}"
    status, (said,) = audit.ask([("click", "8.2.0")], "-s", "osv", "--osv-url", away)
    assert status == audit.UNKNOWN
    assert said.startswith("No database of advisories could be reached")
    # An index without advisories answers that it does not know the package, and pip-audit then ends well.
    status, (said,) = audit.judge([{"name": "click", "skip_reason": "not found"}, {"name": "rich", "vulns": []}])
    assert (status, said.startswith("The database knows nothing about 1 of 2 packages")) == (audit.UNKNOWN, True)
