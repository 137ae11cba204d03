"""Adapters from a model hub: what names one, what is fetched, and what is said where there is no hub."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import processes
from support.adapters import save_adapter
from support.answering import Handler, answering

from sdk.errors import InvalidInput, Unavailable
from sdk.pushing import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "means"),
        [
            ("hf://org/name", ("org/name", None)),
            ("hf://org/name@main", ("org/name", "main")),
            ("hf://Org-1/na.me_2@v1.0", ("Org-1/na.me_2", "v1.0")),
            (f"hf://org/name@{COMMIT}", ("org/name", COMMIT)),
        ],
    )
    def test_what_names_an_adapter(self, url: str, means: tuple[str, str | None]) -> None:
        assert hub.is_url(url)
        assert hub.parse_url(url) == means

    @pytest.mark.parametrize(
        "url",
        [
            "hf://",
            "hf://name",
            "hf://org/",
            "hf:///name",
            "hf://org/name/more",
            "hf://org/name@",
            "hf://org/name@a@b",
            "hf://org/name@..",
            "hf://org/name@a..b",
            "hf://org/name@refs/pr/1",
            "hf://../name",
            "hf://org/..",
            "hf://org/na..me",
            "hf://org/name?token=x",
            "hf://org/name#x",
            "hf://org/na me",
            "hf://org/name\n",
            "hf://org/name@main\n",
            "hf://org/name\0",
            "hf://org%2fname/x",
            "hf://user:secret@host/name",
            "hf://-org/name",
            "hf://org/é",
            "HF://org/name",
            "hf://" + "o" * 60 + "/" + "n" * 60,
            "https://huggingface.co/org/name",
        ],
    )
    def test_what_names_none(self, url: str) -> None:
        assert hub.is_url(url)
        with pytest.raises(
            InvalidInput, match="doesn't name anything on a model hub; write hf://org/name@revision"
        ) as caught:
            hub.parse_url(url)
        assert "\n" not in caught.value.message
        assert "\0" not in caught.value.message

    @given(st.text(max_size=60))
    def test_whatever_is_written(self, text: str) -> None:
        try:
            repo, revision = hub.parse_url(f"hf://{text}")
        except InvalidInput:
            return
        assert f"{repo}@{revision}" == text or (revision is None and repo == text)
        assert ".." not in text
        assert text.isascii()

    def test_folders_are_none(self) -> None:
        assert not hub.is_url("./hf:")
        assert not hub.is_url("org/name")
        assert not hub.is_url(Path("hf://org/name"))


def fetch(url: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Fetch in a process of its own, since huggingface_hub reads the environment when it is imported."""
    script = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from sdk.pushing import hub
from sdk.errors import AdapterctlError
try:
    print(hub.fetch_adapter(sys.argv[1], Path(sys.argv[2])))
except AdapterctlError as error:
    print(type(error).__name__, error.message)
"""
    known = {
        "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": str(folder.parent / "hf-home"),
    }
    return processes.finished(
        sys.executable,
        "-c",
        script,
        url,
        str(folder),
        env=processes.environment(**{**known, **env}),
        timeout_s=60,
        check=True,
    )


class TestWhereThereIsNoHub:
    @pytest.mark.parametrize(
        ("is_there", "told"),
        [(False, "add a folder with: adapterctl base add FOLDER"), (True, r"write \./org/name for the folder")],
    )
    def test_a_folder_of_that_name_is_said_how_to_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, *, is_there: bool
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        if is_there:
            (tmp_path / "org" / "name").mkdir(parents=True)
        with pytest.raises(Unavailable, match=f"forbids asking the model hub; {told}$"):
            hub.resolve_commit("org/name", None)

    def test_offline(self, tmp_path: Path) -> None:
        said = fetch("hf://org/name", tmp_path / "out", HF_HUB_OFFLINE="1").stdout
        assert said.startswith("Unavailable hf://org/name can't be fetched from the model hub")
        assert said.endswith("try again later, or push a folder\n")

    def test_not_reached(self, tmp_path: Path) -> None:
        said = fetch("hf://org/name", tmp_path / "out", HF_ENDPOINT="http://127.0.0.1:9").stdout
        assert said.startswith("Unavailable hf://org/name can't be fetched from the model hub")

    def test_without_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(Unavailable, match="pip install huggingface_hub"):
            hub.fetch_adapter("hf://org/name", tmp_path)


class _Hub(Handler):
    """As much of a model hub as a download asks: a repository's commit, its files, and their bytes."""

    files: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        type(self).asked.append(path)
        if path in (f"/api/models/org/name/revision/{known}" for known in ("main", COMMIT)) or path.endswith("/name"):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer(200, json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/api/models/org/name/tree/{COMMIT}"):
            tree = [{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in self.files.items()]
            self.answer(200, json.dumps(tree).encode())
        elif path.startswith(f"/org/name/resolve/{COMMIT}/") and (name := path.rpartition("/")[2]) in self.files:
            body = self.files[name]
            self.answer(200, body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit=COMMIT)
        else:
            self.answer(404, X_Error_Code="RevisionNotFound" if "org/name" in path else "RepoNotFound")

    do_HEAD = do_GET


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[str]:
    folder = save_adapter(tmp_path / "there", 5)
    _Hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    _Hub.files |= {"training_args.bin": b"pickle", "modeling.py": b"import os", "README.md": b"read"}
    _Hub.asked = []
    with answering(_Hub) as server:
        yield server.url


class TestFromAHub:
    @pytest.mark.parametrize("url", ["hf://org/name", "hf://org/name@main", f"hf://org/name@{COMMIT}"])
    def test_two_files_of_one_commit(self, url: str, endpoint: str, tmp_path: Path) -> None:
        done = fetch(url, tmp_path / "out", HF_ENDPOINT=endpoint)
        assert done.stdout == f"org/name@{COMMIT}\n", done.stderr
        found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
        assert found == {name: _Hub.files[name] for name in ("adapter_config.json", "adapter_model.safetensors")}
        assert not any(path.endswith((".bin", ".py", ".md")) for path in _Hub.asked)

    @pytest.mark.parametrize("url", ["hf://org/other", "hf://org/name@gone"])
    def test_what_is_not_there(self, url: str, endpoint: str, tmp_path: Path) -> None:
        said = fetch(url, tmp_path / "out", HF_ENDPOINT=endpoint).stdout
        assert said.startswith("NotFound the model hub has no org/"), said
