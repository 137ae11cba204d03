"""What a command imports: whatever it doesn't need makes each of them slower, and nobody sees which import it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support import processes

#: Libraries of `adapterctl list`, whichever registry it asks; and rooms of the SDK.
LIBRARIES = {"annotated_types", "click", "pydantic", "pydantic_core", "typing_extensions", "typing_inspection"}
HTTP = {"anyio", "certifi", "h11", "httpcore", "httpx", "idna"}
ROOMS = {
    "allowed_locations api cli client config environment errors file_locks formats given_values home_helpers imports lora names process_starts",
    "pulling rows schemas validation version whole_files default_client",
}
#: What neither `list` nor the registry of a folder that answers it needs.
NOT_FOR_A_LIST = {
    "registry.web",
    "registry.sweeps",
    "registry.promotion",
    "registry.evaluations",
    "registry.series",
    "registry.search",
    "registry.lineage",
    "registry.jobs",
    "registry.removal.expiry",
    "registry.serving",
    "registry.quotas",
    "registry.monitoring",
    "registry.datasets.service",
    "sdk.examining",
    "sdk.nouns",
    "sdk.submitting",
    "sdk.pushing",
    "sdk.exporting",
    "sdk.asking",
    "sdk.plotting",
    "sdk.statistics",
    "sdk.objects",
    "rich",
    "yaml",
    "jinja2",
    "numpy",
    "alembic.command",
    "boto3",
    "botocore",
    "celery",
    "prometheus_client",
    "uvicorn",
    "torch",
    "pandas",
}

PROGRAM = """
import json, sys
from sdk.cli import cli
cli.main(["list", "--format", "json"], standalone_mode=False)
print(json.dumps(sorted(name for name, module in sys.modules.items() if module is not None)))
"""


@pytest.fixture
def modules(tmp_path: Path) -> set[str]:
    """What `list` over a folder has imported; its schema was made by an earlier command."""
    env = processes.environment(ADAPTERCTL_URL=f"local:{tmp_path / 'home'}", HOME=str(tmp_path))
    processes.finished(sys.executable, "-c", PROGRAM, env=env, check=True)
    done = processes.finished(sys.executable, "-c", PROGRAM, env=env, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_list_over_a_folder_imports_what_it_needs(modules: set[str]) -> None:
    assert {
        name for name in modules if any(name == each or name.startswith(f"{each}.") for each in NOT_FOR_A_LIST)
    } == set()


def test_a_list_imports_these_libraries_and_rooms_of_the_sdk() -> None:
    program = """
import json, sys
before = set(sys.modules)
from sdk.cli import cli
try:
    cli.main(["list", "--format", "json"], standalone_mode=False)
except Exception as error:
    assert type(error).__name__ == "Unavailable", error
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    done = processes.finished(
        sys.executable, "-c", program, env=processes.environment(ADAPTERCTL_URL="http://127.0.0.1:9"), check=True
    )
    found = json.loads(done.stdout)
    tops = {name.partition(".")[0] for name in found if not name.startswith("_")}
    libraries = tops - set(sys.stdlib_module_names) - {"sdk", "adapterctl_entry"}
    assert libraries <= LIBRARIES | HTTP, libraries
    # Of what notebooks show, only the class of the lists that the SDK gives out.
    rooms = {
        name.split(".")[1]
        for name in found
        if name.startswith("sdk.") and name not in {"sdk.notebook", "sdk.notebook.table_list"}
    }
    assert rooms <= {name for line in ROOMS for name in line.split()}, rooms
