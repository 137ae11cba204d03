"""What the files of a deployment say: Dockerfile, docker-compose.yml and the manifests, read as data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from registry.ops.cli import cli as registry_cli
from sdk.cli import cli as adapterctl_cli
from workers.entry.cli import cli as worker_cli

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
KUBERNETES = ROOT / "deploy/kubernetes"
#: Kinds that Kubernetes itself does not know.
FOREIGN = ("kustomization.yaml", "servicemonitor.yaml")

_PROGRAMS: dict[str, click.Group] = {
    "adapterctl": adapterctl_cli,
    "adapter-registry": registry_cli,
    "adapter-worker": worker_cli,
}


def stages(dockerfile: Path = DOCKERFILE) -> dict[str, list[tuple[str, str]]]:
    """Return each stage's instructions, in order, as (instruction, the rest of it)."""
    found: dict[str, list[tuple[str, str]]] = {}
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            steps = found.setdefault(rest.rpartition(" AS ")[2], [])
        if instruction:
            steps.append((instruction, rest.strip()))
    return found


def only(stage: list[tuple[str, str]], instruction: str) -> str:
    """Return the argument of the only such instruction in a stage."""
    (found,) = [rest for name, rest in stage if name == instruction]
    return found


def exec_form(text: str) -> list[str]:
    """Return the words of a command in exec form. Raises ValueError for the shell form."""
    return json.loads(text)


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every document of the manifests that Kubernetes knows, with its file's name."""
    for path in sorted(KUBERNETES.glob("*.yaml")):
        if path.name not in FOREIGN:
            for document in yaml.safe_load_all(path.read_text()):
                yield path.name, document


def pods() -> dict[str, dict[str, Any]]:
    """Return the pod that each workload of the manifests makes, by component."""
    return {
        document["metadata"]["labels"]["app.kubernetes.io/component"]: document["spec"]["template"]["spec"]
        for _, document in manifests()
        if "template" in document.get("spec", {})
    }


def compose_file() -> dict[str, Any]:
    """Return docker-compose.yml as written, with no variable filled in."""
    return yaml.safe_load(COMPOSE.read_text())


def shell_of(service: str) -> str:
    """Return the script that a service of docker-compose.yml gives to its shell."""
    script: str = compose_file()["services"][service]["command"][-1]
    return script.replace("$$", "$")


def check_command(words: list[str]) -> None:
    """Raise click's own error unless one of our programs accepts these words."""
    program: click.Command = _PROGRAMS[words[0]]
    name, rest = words[0], words[1:]
    while isinstance(program, click.Group):
        name, *rest = rest
        found = program.get_command(click.Context(program), name)
        if found is None:
            raise click.UsageError(f"no such command: {shlex.join(words)}")
        program = found
    program.make_context(name, rest)
