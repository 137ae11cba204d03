"""What a command imports: whatever it doesn't need makes each of them slower, and nobody sees which import it was."""

from __future__ import annotations

import json
import sys

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of commands over a folder, whose schema was made by an earlier one."""
    home = tmp_path_factory.mktemp("commands")
    env = processes.environment(
        ADAPTERCTL_URL=f"local:{home / 'home'}",
        ADAPTERCTL_CACHE=str(home / "cache"),
        ADAPTERCTL_HELPER="0",
        HOME=str(home),
    )
    processes.finished(sys.executable, "-c", PROGRAM, env=env, check=True)
    return env


@pytest.fixture
def modules(folder: dict[str, str]) -> set[str]:
    """What `list` over a folder has imported; its schema was made by an earlier command."""
    done = processes.finished(sys.executable, "-c", PROGRAM, env=folder, check=True)
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


#: A command as its script runs it; what it refuses doesn't matter.
COMMAND = """
import json, sys
from sdk.imports import begin_program
begin_program()
from sdk.cli import cli
from sdk.errors import NotFound
try:
    cli.main(sys.argv[1:], standalone_mode=False)
except NotFound:
    pass
print(json.dumps(sorted(name for name, module in sys.modules.items() if module is not None)))
"""
#: What no short command over a folder needs, and what each doesn't need beside it.
NOT_AT_ALL = {
    "registry.web registry.series registry.search registry.lineage registry.serving registry.quotas registry.monitoring",
    "registry.rows.service registry.removal.expiry registry.access.tokens registry.evaluations.comparing email_validator",
    "pydantic.v1 rich yaml jinja2 numpy alembic.command boto3 celery prometheus_client uvicorn torch",
}
NOT_FOR = {
    "show nope@v1": "registry.jobs registry.promotion registry.sweeps registry.datasets registry.artifacts.admission sdk.pushing "
    "sdk.examining sdk.nouns sdk.lora.planning",
    "jobs list --format json": "registry.promotion registry.sweeps registry.evaluations sdk.pushing sdk.examining sdk.nouns",
    "promote nope@v1 staging": "registry.jobs registry.sweeps registry.datasets registry.artifacts.admission sdk.examining sdk.nouns",
    "pull nope@v1": "registry.jobs registry.promotion registry.evaluations registry.datasets sdk.examining sdk.nouns sdk.objects",
}


@pytest.mark.parametrize("command", NOT_FOR)
def test_a_command_over_a_folder_imports_what_it_needs(command: str, folder: dict[str, str]) -> None:
    done = processes.finished(sys.executable, "-c", COMMAND, *command.split(), env=folder, check=True)
    unneeded = {name for line in {*NOT_AT_ALL, NOT_FOR[command]} for name in line.split()}
    assert {
        name
        for name in json.loads(done.stdout.splitlines()[-1])
        if any(name == each or name.startswith(f"{each}.") for each in unneeded)
    } == set()


def test_scores_are_read_without_what_compares_rows_and_decides(folder: dict[str, str]) -> None:
    program = """
import json, sys
from sdk.client import Client
with Client() as client:
    client.transport.call("GET", "/evaluations", object)
print(json.dumps([name for name in sys.modules if name.startswith("registry.")]))
"""
    done = processes.finished(sys.executable, "-c", program, env=folder, check=True)
    unneeded = ("registry.promotion", "registry.sweeps", "registry.rows.service", "registry.evaluations.comparing")
    assert [name for name in json.loads(done.stdout) if name.startswith(unneeded)] == []
