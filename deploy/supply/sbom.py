"""The list of what a release consists of, as CycloneDX: `make dist` writes it next to the wheel.

    python -m deploy.supply.sbom dist

Its components are what the images of the registry and of the worker install, from their locks, each with the hashes of
its files. Two runs over the same files write the same bytes.
"""

from __future__ import annotations

import json
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.supply import locks
from sdk.version import VERSION

IMAGES = ("registry", "worker")
_SERIALS = uuid.UUID("6d9d8a34-4f0b-5ef4-9ba7-6a4f6f3a2a11")


def main() -> None:
    """Write the list into a folder, under the name of this version."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"adapterctl-{VERSION}.cdx.json"
    target.write_text(bill(), encoding="utf-8")
    print(f"Made {target}")


def bill() -> str:
    """Return the list as JSON."""
    packages = {(package.name, package.version): package for image in IMAGES for package in locks.read(image)}
    components = {key: _component(package) for key, package in sorted(packages.items())}
    project = tomllib.loads((locks.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    whole = Component(
        name="adapterctl",
        version=VERSION,
        type=ComponentType.APPLICATION,
        bom_ref=f"adapterctl@{VERSION}",
        description=project["description"],
        licenses=[LicenseExpression(project["license"])],
        purl=PackageURL("pypi", name="adapterctl", version=VERSION),
        # The build that is installed depends on the machine.
        properties=[Property(name="adapterctl:not-locked", value="torch")],
    )
    bom = Bom(components=components.values(), metadata=BomMetaData(component=whole))
    direct = _direct(project)
    bom.register_dependency(whole, [component for (name, _), component in components.items() if name in direct])
    return _reproducible(json.loads(JsonV1Dot6(bom).output_as_string()))


def _component(package: locks.Locked) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{package.name}@{package.version}",
        purl=PackageURL("pypi", name=package.name, version=package.version),
        hashes=[
            HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:")) for digest in package.hashes
        ],
    )


def _direct(project: dict[str, Any]) -> set[str]:
    """Return the names that the product itself asks for."""
    asked = [*project["dependencies"], *(line for image in IMAGES for line in project["optional-dependencies"][image])]
    return {canonicalize_name(Requirement(line).name) for line in asked}


def _reproducible(said: dict[str, Any]) -> str:
    """Return the document with a serial number that is derived from it, and without the time at which it was made."""
    del said["metadata"]["timestamp"], said["serialNumber"]
    said["serialNumber"] = uuid.uuid5(_SERIALS, json.dumps(said, sort_keys=True)).urn
    return json.dumps(said, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    main()
