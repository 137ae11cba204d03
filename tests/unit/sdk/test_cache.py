"""The cache is shared by processes: what two of them want is fetched once, and is whole when it has its name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdk.cache import Cache

FETCH = """
import os, sys, time
from pathlib import Path
from sdk.cache import Cache
from sdk.config import Config
from sdk.files import FileClient
from sdk.schemas.artifacts import Transfer
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.transfer import hash_file
from sdk.transport import Transport

source, root, log = map(Path, sys.argv[1:])

class Slow(FileClient):
    def locate(self, digest):
        with log.open("a") as file:
            file.write("fetched\\n")
        time.sleep(0.5)
        return [Transfer(sha256=sha256, size_bytes=size, url=source.as_uri())]

sha256, size = hash_file(source)
manifest = Manifest(base_fingerprint="f" * 64, files=[ManifestFile(path="file", size_bytes=size, sha256=sha256)])
client = Slow(Transport(Config("http://unused.invalid")), Cache(root), None)
print(client.fill_cache(manifest))
client.check_cached(manifest)
"""


def test_two_processes_fetch_once(tmp_path: Path) -> None:
    source, log = tmp_path / "source", tmp_path / "log"
    source.write_bytes(os.urandom(3_000_000))
    command = [sys.executable, "-c", FETCH, str(source), str(tmp_path / "cache"), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert log.read_text() == "fetched\n"
    (folder,) = folders
    assert Path(folder, "file").read_bytes() == source.read_bytes()
    assert [path.name for path in Path(folder).parent.iterdir()] == [Path(folder).name]


def test_a_fetch_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")

    def fail() -> None:
        with cache.new_folder(cache.version("a" * 64)) as partial:
            (partial / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "cache/versions").iterdir()) == []


def test_what_the_cache_takes(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.size_bytes() == 0
    with cache.new_folder(cache.version("a" * 64)) as partial:
        (partial / "file").write_bytes(b"x" * 1000)
    assert cache.size_bytes() == 1000
