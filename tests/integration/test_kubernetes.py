"""The manifests: valid for a recent Kubernetes, confined, and of one mind with the programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from support import deployment, processes

from registry.app.application import create_app
from registry.door.allowed_hosts import hosts_of
from registry.settings import Settings
from sdk.version import VERSION

FILES = sorted(path for path in deployment.KUBERNETES.glob("*.yaml") if path.name not in deployment.FOREIGN)
COMPONENTS = {"migrate", "api", "reconciler", "worker"}


def test_kubernetes_would_take_them() -> None:
    validate = [processes.BIN / "kubernetes-validate", "--strict"]
    done = processes.finished(*validate, *FILES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(str(path) in done.stdout + done.stderr for path in FILES), done.stdout + done.stderr


def of_kind(kind: str) -> Iterator[dict[str, Any]]:
    """Give the documents of one kind."""
    return (document for _, document in deployment.manifests() if document["kind"] == kind)


def kustomization() -> dict[str, Any]:
    """The list of what belongs together."""
    return yaml.safe_load((deployment.KUBERNETES / "kustomization.yaml").read_text())


def test_every_manifest_is_applied_and_of_this_version() -> None:
    assert sorted(kustomization()["resources"]) == [path.name for path in FILES]
    assert {image["newTag"] for image in kustomization()["images"]} == {VERSION}
    named = {container["image"] for pod in deployment.pods().values() for container in pod["containers"]}
    assert {image["name"] for image in kustomization()["images"]} == named


@pytest.mark.skipif(shutil.which("kustomize") is None, reason="kustomize is not installed: apt-get install kustomize")
def test_nothing_is_built_before_the_secrets_are_there(tmp_path: Path) -> None:
    folder = shutil.copytree(deployment.KUBERNETES, tmp_path / "k", ignore=shutil.ignore_patterns("*.env"))
    refused = processes.finished("kustomize", "build", folder)
    assert refused.returncode != 0
    assert "registry.env" in refused.stderr
    for name in ("registry", "worker"):
        shutil.copy(folder / f"{name}.env.example", folder / f"{name}.env")
    built = processes.finished("kustomize", "build", folder)
    assert built.returncode == 0, built.stderr
    assert {document["kind"] for document in yaml.safe_load_all(built.stdout)} > {"Secret", "Job", "Deployment"}


@pytest.mark.parametrize("name", ["registry", "worker"])
def test_an_example_of_secrets_holds_none(name: str) -> None:
    text = (deployment.KUBERNETES / f"{name}.env.example").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines
    assert all(line.endswith("=") for line in lines)
    ignored = subprocess.run(
        ["git", "check-ignore", deployment.KUBERNETES / f"{name}.env"], cwd=deployment.ROOT, check=False
    )
    assert ignored.returncode in (0, 128), "git would take the copy"


def test_the_registry_refuses_the_examples_as_they_are(tmp_path: Path) -> None:
    given = (deployment.KUBERNETES / "registry.env.example").read_text()
    env = dict(line.split("=", 1) for line in given.splitlines() if not line.startswith("#"))
    done = processes.run("adapter-registry", "db", "upgrade", env=processes.environment(**env), cwd=tmp_path)
    assert done.returncode == 2
    assert "REGISTRY_DATABASE_URL is not set" in done.stderr


def test_every_pod_is_confined() -> None:
    assert set(deployment.pods()) == COMPONENTS
    for component, pod in deployment.pods().items():
        assert pod["securityContext"]["runAsNonRoot"], component
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        assert pod["automountServiceAccountToken"] is False, component
        assert pod["enableServiceLinks"] is False, component
        for container in pod["containers"]:
            confined = container["securityContext"]
            assert confined["readOnlyRootFilesystem"], component
            assert confined["allowPrivilegeEscalation"] is False, component
            assert confined["capabilities"] == {"drop": ["ALL"]}, component
            assert {"mountPath": "/tmp", "name": "tmp"} in container["volumeMounts"], component


def test_settings_and_secrets_go_to_whom_they_belong() -> None:
    maps = {document["metadata"]["name"]: document["data"] for document in of_kind("ConfigMap")}
    secrets = {made["name"]: made["envs"] for made in kustomization()["secretGenerator"]}
    for component, pod in deployment.pods().items():
        whose = "worker" if component == "worker" else "registry"
        (container,) = pod["containers"]
        assert container["envFrom"] == [
            {"configMapRef": {"name": f"{whose}-settings"}},
            {"secretRef": {"name": f"{whose}-secrets"}},
        ]
        assert f"{whose}-settings" in maps
        assert secrets[f"{whose}-secrets"] == [f"{whose}.env"]
    # Inside the cluster the registry is asked by plain http, which nothing accepts unasked.
    assert maps["worker-settings"]["ADAPTERCTL_URL"].startswith("http://")
    assert maps["worker-settings"]["ADAPTERCTL_INSECURE"] == "1"
    assert not {"REGISTRY_DATABASE_URL", "REGISTRY_STORAGE_URL"} & set(maps["worker-settings"])
    assert "AWS_" not in (deployment.KUBERNETES / "worker.env.example").read_text()
    given = {**maps["registry-settings"], "REGISTRY_DATABASE_URL": "postgresql://registry@db/registry"}
    assert Settings.from_env(given).storage_url == "s3://adapters/prod"


def test_whoever_reconciles_keeps_the_audit_trail_in_a_volume_of_its_user() -> None:
    (claim,) = of_kind("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    pod, api = deployment.pods()["reconciler"], deployment.pods()["api"]
    (container,) = pod["containers"]
    env = {given["name"]: given["value"] for given in container["env"]}
    given = {
        **env,
        "REGISTRY_DATABASE_URL": "postgresql://registry@db/registry",
        "REGISTRY_STORAGE_URL": "s3://adapters",
    }
    folder = Settings.from_env(given).audit_folder
    (volume,) = [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume]
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert {"name": volume["name"], "mountPath": folder} in container["volumeMounts"]
    user, _, group = deployment.only(deployment.stages()["registry"], "USER").partition(":")
    assert str(pod["securityContext"]["fsGroup"]) == user == group
    # The volume is on one node at a time, so no second pod waits for it while the first is there,
    (reconciler,) = [document for document in of_kind("Deployment") if document["metadata"]["name"] == "reconciler"]
    assert (reconciler["spec"]["replicas"], reconciler["spec"]["strategy"]) == (1, {"type": "Recreate"})
    # and nobody else does that work: without the volume, whoever leads would keep every entry in the database.
    (container,) = api["containers"]
    assert {"name": "REGISTRY_RECONCILE_S", "value": "0"} in container["env"]


def test_the_api_is_never_all_away() -> None:
    (api,) = [document for document in of_kind("Deployment") if document["metadata"]["name"] == "adapter-registry"]
    (budget,) = of_kind("PodDisruptionBudget")
    labels = api["spec"]["template"]["metadata"]["labels"]
    assert api["spec"]["replicas"] > budget["spec"]["minAvailable"] >= 1
    assert api["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert budget["spec"]["selector"]["matchLabels"] == labels
    (service,) = of_kind("Service")
    assert service["spec"]["selector"] == labels
    assert (
        deployment.compose_file()["services"]["api"]["command"] == deployment.pods()["api"]["containers"][0]["command"]
    )


def test_the_api_answers_for_the_names_by_which_others_come() -> None:
    settings = {document["metadata"]["name"]: document["data"] for document in of_kind("ConfigMap")}
    (container,) = deployment.pods()["api"]["containers"]
    env = {entry["name"]: entry for entry in container["env"]}
    # Kubernetes only fills in variables that come earlier.
    names = list(env)
    assert names.index("POD_IP") < names.index("REGISTRY_ALLOWED_HOSTS")
    assert env["POD_IP"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    for address in ("10.42.0.17", "fd00::17"):
        allowed = env["REGISTRY_ALLOWED_HOSTS"]["value"].replace("$(POD_IP)", address)
        hosts = hosts_of(auth="token", public_url=settings["registry-settings"]["REGISTRY_PUBLIC_URL"], allowed=allowed)
        come = [urlsplit(settings["worker-settings"]["ADAPTERCTL_URL"]).hostname or "", address, "registry.example"]
        assert [hosts.has(name) for name in come] == [True, True, True]
        assert not hosts.has("10.42.0.18")


def test_the_probes_ask_what_the_api_answers(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/r.sqlite3", storage_url="s3://adapters"))
    paths = set(app.openapi()["paths"])
    (container,) = deployment.pods()["api"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    (port,) = container["ports"]
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert container[probe]["httpGet"]["path"] in paths
        assert container[probe]["httpGet"]["port"] == port["name"]
    monitor = yaml.safe_load((deployment.KUBERNETES / "servicemonitor.yaml").read_text())
    assert monitor["spec"]["endpoints"][0]["path"] in paths


def test_a_worker_has_a_card_and_time_for_its_last_checkpoint() -> None:
    pod = deployment.pods()["worker"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    (settings,) = [
        document["data"] for document in of_kind("ConfigMap") if document["metadata"]["name"] == "worker-settings"
    ]
    assert pod["terminationGracePeriodSeconds"] >= int(settings["ADAPTER_WORKER_GRACE_S"]) + 30


def test_workers_reach_the_api_the_broker_and_the_store_alone() -> None:
    policies = {document["metadata"]["name"]: document["spec"] for document in of_kind("NetworkPolicy")}
    assert policies["nothing-by-default"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    theirs = [
        spec
        for name, spec in policies.items()
        if spec["podSelector"].get("matchLabels") == {"app.kubernetes.io/component": "worker"}
    ]
    (spec,) = theirs
    ways = {(rule["ports"][0]["port"], "podSelector" in rule["to"][0]) for rule in spec["egress"]}
    assert ways == {(8080, True), (6379, False), (443, False)}
    database = [rule["to"] for rule in policies["registry"]["egress"] if rule["ports"] == [{"port": 5432}]]
    assert database
    assert not [rule for rule in spec["egress"] if rule["to"] in database]
