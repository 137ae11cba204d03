"""docker-compose.yml and the Dockerfile: complete, confined, without secrets, and of one mind with the programs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support import deployment, processes

from registry.door.allowed_hosts import hosts_of
from registry.settings import Settings
from sdk.version import VERSION

WANTED = {
    "POSTGRES_PASSWORD": "pg-secret",
    "VALKEY_PASSWORD": "valkey-secret",
    "S3_ACCESS_KEY": "s3-access",
    "S3_SECRET_KEY": "s3-secret",
    "PUBLIC_HOST": "adapters.example",
}
WORKERS = ("worker", "worker-cpu")


def compose(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run docker-compose, which needs no engine for this, with these variables and no others."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed: apt-get install docker-compose")
    command = ["docker-compose", "--env-file", "/dev/null", "--file", str(deployment.COMPOSE), "--profile", "cpu"]
    return processes.finished(*command, "config", *args, env={"PATH": "/usr/local/bin:/usr/bin:/bin", **env})


Services = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def services() -> Services:
    """The services as docker-compose understands them."""
    done = compose("--format", "json", env=WANTED)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["services"]


def test_the_compose_file_is_sound() -> None:
    done = compose("-q", env=WANTED)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("missing", WANTED)
@pytest.mark.parametrize("how", ["unset", "empty"])
def test_the_compose_file_is_refused_without_a_secret(missing: str, how: str) -> None:
    env = {**WANTED, missing: ""} if how == "empty" else {key: WANTED[key] for key in WANTED if key != missing}
    done = compose("-q", env=env)
    assert done.returncode != 0
    assert f"set {missing} in .env" in done.stderr


def test_what_the_compose_file_asks_for_is_what_is_tried_above() -> None:
    text = deployment.COMPOSE.read_text()
    assert set(re.findall(r"\$\{(\w+):\?", text)) == set(WANTED)
    assert set(re.findall(r"\$\{(\w+)", text)) == {
        *WANTED,
        "S3_PUBLIC_ENDPOINT_URL",
        "BIND_ADDRESS",
        "ALLOWED_HOSTS",
        "TRUSTED_PROXIES",
        "BEHIND_PROXY",
    }


def test_the_api_answers_for_the_names_by_which_workers_and_users_come() -> None:
    services = deployment.compose_file()["services"]
    text = services["api"]["environment"]["REGISTRY_ALLOWED_HOSTS"]
    for unset, ours in (("", "adapters.example"), ("registry.example", "adapters.example")):
        filled = re.sub(r"\$\{PUBLIC_HOST[^}]*\}", ours, text).replace("${ALLOWED_HOSTS:-}", unset)
        hosts = hosts_of(auth="token", public_url="http://127.0.0.1:8080", allowed=filled)
        assert hosts.has(ours)
        assert hosts.has("registry.example") == bool(unset)
        for worker in WORKERS:
            assert hosts.has(urlsplit(services[worker]["environment"]["ADAPTERCTL_URL"]).hostname or "")


def test_every_service_is_confined(services: Services) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if not service["image"].startswith("adapterctl-"):
            assert service["user"] in ("postgres", "valkey", "1000:1000"), name


def test_what_runs_on_says_how_it_is(services: Services) -> None:
    lasting = {name for name, service in services.items() if service["restart"] == "unless-stopped"}
    assert lasting == {"postgres", "valkey", "s3", "api", "reconciler", *WORKERS}
    assert {name for name, service in services.items() if service["restart"] == "no"} == set(services) - lasting
    for name in lasting:
        assert services[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name


def test_a_worker_holds_no_credentials_but_its_own(services: Services) -> None:
    for name in WORKERS:
        worker = services[name]
        text = json.dumps(worker)
        for secret in ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"):
            assert WANTED[secret] not in text, name
        assert "database" not in worker["networks"], name
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in services["worker-cpu"]


def test_a_worker_accepts_the_plain_http_that_it_is_given(services: Services) -> None:
    for name in WORKERS:
        env = services[name]["environment"]
        assert (env["ADAPTERCTL_URL"], str(env["ADAPTERCTL_INSECURE"])) == ("http://api:8080", "1")


def test_a_worker_has_time_for_its_last_checkpoint(services: Services) -> None:
    for name in WORKERS:
        minutes, seconds = re.fullmatch(r"(?:(\d+)m)?(\d+)s", services[name]["stop_grace_period"]).groups("0")  # type: ignore[union-attr]
        assert 60 * int(minutes) + int(seconds) >= int(services[name]["environment"]["ADAPTER_WORKER_GRACE_S"]) + 30


def test_published_ports_are_on_loopback(services: Services) -> None:
    published = {name: port for name, service in services.items() for port in service.get("ports", [])}
    assert set(published) == {"api", "s3"}
    assert {port["host_ip"] for port in published.values()} == {"127.0.0.1"}


def test_the_registry_reads_what_the_compose_file_gives_it(services: Services) -> None:
    for name in ("api", "reconciler", "migrate", "worker-token"):
        settings = Settings.from_env(services[name]["environment"])
        assert settings.s3_public_endpoint_url == "http://adapters.example:8333"
    assert services["s3"]["networks"]["storage"]["aliases"] == ["adapters.example"]


def test_whoever_may_lead_keeps_the_audit_trail_in_one_volume(services: Services) -> None:
    for name in ("api", "reconciler"):
        settings = Settings.from_env(services[name]["environment"])
        assert settings.reconcile_s > 0
        (volume,) = services[name]["volumes"]
        assert (volume["type"], volume["source"], volume["target"]) == ("volume", "audit", settings.audit_folder)
        assert not volume.get("read_only"), name
    assert "audit" in deployment.compose_file()["volumes"]


def test_the_image_has_the_folder_of_the_audit_trail_for_its_user() -> None:
    steps = deployment.stages()["registry"]
    (made,) = [
        found for name, rest in steps if name == "RUN" for found in re.findall(r"install --directory ([^&]+)", rest)
    ]
    *options, folder = made.split()
    user, _, group = deployment.only(steps, "USER").partition(":")
    assert options == [f"--owner={user}", f"--group={group}", "--mode=0700"]
    assert folder == deployment.compose_file()["services"]["reconciler"]["environment"]["REGISTRY_AUDIT_FOLDER"]


def test_every_variable_that_is_named_is_one_that_a_program_reads() -> None:
    read = {f"REGISTRY_{field.name.upper()}" for field in fields(Settings) if field.name != "embedded_home"}
    for source in ("workers/settings.py", "sdk/config.py"):
        read |= set(re.findall(r'"((?:ADAPTER|REGISTRY)[A-Z0-9_]+)"', (deployment.ROOT / source).read_text()))
    files = [deployment.COMPOSE, deployment.DOCKERFILE, deployment.ROOT / "docs/deploy.md"]
    files += [path for path in deployment.KUBERNETES.iterdir() if path.suffix in (".yaml", ".example")]
    for path in files:
        named = set(re.findall(r"\b(?:ADAPTER(?:CTL)?|REGISTRY)_[A-Z0-9_]+\b", path.read_text()))
        assert named <= read, f"{path.name}: {sorted(named - read)}"


def _commands() -> list[tuple[str, list[str]]]:
    found = [
        (f"{name} image", deployment.exec_form(rest))
        for name, steps in deployment.stages().items()
        for instruction, rest in steps
        if instruction == "CMD"
    ]
    for name, service in deployment.compose_file()["services"].items():
        found += [(name, service["command"])] if "command" in service else []
        found += [(name, service["healthcheck"]["test"][1:])] if "healthcheck" in service else []
    for component, pod in deployment.pods().items():
        found += [(component, container["command"]) for container in pod["containers"]]
    scripts = [(where, words[-1]) for where, words in found if words[0] == "sh"]
    found += [
        (where, part.split(">")[0].split())
        for where, script in scripts
        for part in re.findall(r"adapter-[^\n&;}]+", script)
    ]
    return [(where, words) for where, words in found if words[0].startswith("adapter-")]


@pytest.mark.parametrize(("where", "words"), _commands(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_is_one_that_the_programs_take(where: str, words: list[str]) -> None:
    deployment.check_command(words)


def test_all_commands_were_looked_at() -> None:
    assert {where for where, _ in _commands()} >= {
        "registry image",
        "worker image",
        "migrate",
        "reconciler",
        "worker-token",
    }


@pytest.mark.parametrize(
    "dockerfile", sorted((deployment.ROOT / "deploy").rglob("*Dockerfile*")), ids=lambda path: path.name
)
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    done = processes.finished(processes.BIN / "hadolint", dockerfile)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_are_pinned_and_end_in_order() -> None:
    stages = deployment.stages()
    assert set(stages) == {"build", "registry", "worker"}
    for name, steps in stages.items():
        assert re.match(r"python:3\.\d+\.\d+-slim-\w+ AS ", deployment.only(steps, "FROM")), name
        if name != "build":
            assert deployment.only(steps, "USER") == "10001:10001"
            assert deployment.only(steps, "STOPSIGNAL") == "SIGTERM"
            assert deployment.exec_form(deployment.only(steps, "HEALTHCHECK").partition("CMD ")[2])


def test_every_image_of_others_is_of_one_release() -> None:
    images = {service["image"] for service in deployment.compose_file()["services"].values()}
    theirs = {image for image in images if not image.startswith("adapterctl-")}
    assert len(theirs) == 3
    assert all(re.search(r":\d+\.\d+(\.\d+)?$", image) for image in theirs), theirs


def test_every_image_of_ours_is_of_this_version() -> None:
    text = deployment.COMPOSE.read_text() + deployment.DOCKERFILE.read_text()
    assert set(re.findall(r"adapterctl-(?:registry|worker):(\S+)", text)) == {VERSION}
