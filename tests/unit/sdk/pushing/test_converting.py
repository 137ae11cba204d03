"""Pickled weights become safetensors in a child that runs nothing of what is in them, or nothing becomes of them."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support.fixtures import Limits
from support.processes import environment, run
from support.small import write_adapter

import sdk.pushing.convert
from sdk.errors import AdapterctlError, Conflict, InvalidInput, NotFound, TimedOut, Unavailable, VerificationFailed
from sdk.pushing.convert import convert_adapter
from sdk.pushing.pack import pack_adapter
from workers.pipelines.model.convert import RefusedError, convert

#: Each child loads torch.
pytestmark = pytest.mark.slow


def pickled(folder: Path, content: Any, *, name: str = "adapter_model.bin", **options: Any) -> Path:
    """Write an adapter whose weights are what torch pickles of `content`; return the folder."""
    import torch

    (write_adapter(folder) / "adapter_model.safetensors").unlink()
    torch.save(content, folder / name, **options)
    return folder


def tensors() -> dict[str, Any]:
    """Return tensors of several types, two of which share their memory."""
    import torch

    tied = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    return {"a": tied, "b": tied, "turned": tied.T, "half": torch.ones(3, dtype=torch.bfloat16)}


def torch_zeros(count: int) -> Any:
    """Return as many zeros in float32."""
    import torch

    return torch.zeros(count)


class Runs:
    """What a pickle calls when it is read without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_tensors_come_out_as_they_went_in(zipped: bool, name: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = pickled(tmp_path / "old", tensors(), name=name, _use_new_zipfile_serialization=zipped)
    converted = convert_adapter(folder, tmp_path / "new")
    assert sorted(path.name for path in converted.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert (converted.folder / "adapter_config.json").read_bytes() == (folder / "adapter_config.json").read_bytes()
    found = load_file(converted.folder / "adapter_model.safetensors")
    assert converted.tensors == len(found) == 4
    for key, tensor in tensors().items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]
    (tmp_path / "staging").mkdir()
    pack_adapter(
        converted.folder, base_id="b", base_revision=None, base_fingerprint="f" * 64, staging=tmp_path / "staging"
    )


def test_a_pickle_that_runs_something_runs_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for zipped in (True, False):
        folder = pickled(tmp_path / f"evil-{zipped}", {"a": Runs(marker)}, _use_new_zipfile_serialization=zipped)
        with pytest.raises(VerificationFailed, match=r"would call \w+\.system when loaded; don't load it"):
            convert_adapter(folder)
    assert not marker.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil-False", "evil-True"]


def test_what_is_more_or_less_than_tensors_is_refused(tmp_path: Path) -> None:
    import torch

    contents: dict[str, Any] = {
        "list": [torch.ones(1)],
        "nested": {"state_dict": {"a": torch.ones(1)}},
        "nothing": {},
        "numbers": {"a": 1},
        "unnamed": {1: torch.ones(1)},
        "sparse": {"a": torch.ones(3).to_sparse()},
        "expanded": {"a": torch.zeros(1).expand(10**12)},
    }
    # In this process, which is as good here and many times faster.
    for name, content in contents.items():
        folder = pickled(tmp_path / name, content)
        with pytest.raises(RefusedError, match=r"adapter_model\.bin (is|holds|describes)"):
            convert(folder / "adapter_model.bin", tmp_path / "new")
    for number, raw in enumerate((b"", b"no pickle", b"PK\3\4" + b"x" * 100, b"\x80\x02" + b"(" * 10_000)):
        source = tmp_path / f"raw-{number}"
        source.write_bytes(raw)
        with pytest.raises(RefusedError, match="damaged"):
            convert(source, tmp_path / "new")
    with pytest.raises(VerificationFailed, match=r"adapter_model\.bin is not a dictionary.*don't load it"):
        convert_adapter(tmp_path / "list", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how large a process is")
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "bomb", {"a": torch_zeros(1 << 20)})
    source = folder / "adapter_model.bin"
    with (
        zipfile.ZipFile(source) as plain,
        zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for item in plain.infolist():
            content = plain.read(item)
            with packed.open(item.filename, "w", force_zip64=True) as member:
                member.write(content)
                if "/data/" in item.filename:
                    for _ in range(2048):
                        member.write(bytes(1 << 20))
    (tmp_path / "bomb.zip").replace(source)
    with pytest.raises(VerificationFailed):
        convert_adapter(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_folder_is_never_half_there(tmp_path: Path) -> None:
    folder = pickled(tmp_path / "old", tensors())
    (tmp_path / "new").mkdir()
    with pytest.raises(Conflict, match="already exists"):
        convert_adapter(folder, tmp_path / "new")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(NotFound, match=r"adapter_config\.json"):
        convert_adapter(folder)
    for missing, said in ((tmp_path / "none", "there is no folder"), (tmp_path / "new", "has no pickled weights")):
        with pytest.raises(NotFound, match=said):
            convert_adapter(missing)
    (folder / "adapter_config.json").write_text("x" * 1_000_000)
    with pytest.raises(InvalidInput, match="longer than any"):
        convert_adapter(folder)


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pickled(tmp_path / "old", tensors())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Unavailable, match=r"needs torch and safetensors.*pip install 'adapterctl\[worker\]'"):
        convert_adapter(folder)


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limits(sdk.pushing.convert, _CHILD="hangs", _TIMEOUT_S=0.5)
    folder = pickled(tmp_path / "old", tensors())
    started = time.monotonic()
    with pytest.raises(TimedOut):
        convert_adapter(folder)
    assert time.monotonic() - started < 20
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("said", ["", "no json", "[]", '{"tensors": 1}'])
def test_a_child_that_says_nothing_made_nothing(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    (tmp_path / "mute.py").write_text(f"print({said!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limits(sdk.pushing.convert, _CHILD="mute")
    with pytest.raises(VerificationFailed):
        convert_adapter(pickled(tmp_path / "old", tensors()))


def test_the_child_gets_no_token_and_imports_nothing_from_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    folder = pickled(tmp_path / "old", tensors())
    (tmp_path / "torch.py").write_text("open('imported', 'w')\n")
    (tmp_path / "tells.py").write_text(
        "import json, os\nprint(json.dumps({'refused': ' '.join(sorted(os.environ))}))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADAPTERCTL_TOKEN", "secret")
    convert_adapter(folder, tmp_path / "new")
    assert not (tmp_path / "imported").exists()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limits(sdk.pushing.convert, _CHILD="tells")
    with pytest.raises(AdapterctlError) as caught:
        convert_adapter(folder)
    assert "PATH" in caught.value.message
    assert "TOKEN" not in caught.value.message


#: What takes the place of the reader where a pickle has found a hole in it: it tries to reach this machine's own port.
ESCAPED = """
import socket
import workers.pipelines.model.convert as child
port = {port}
if not {allowed}:
    import workers.pipelines.sandbox as sandbox
    sandbox._CLONE_NEWUSER = sandbox._CLONE_NEWNET = 0x7FFFFFFF
def convert(source, target):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError as error:
        said = error.strerror
    else:
        said = "connected"
    target.write_bytes(said.encode())
    return {{"tensors": 1, "size_bytes": len(said)}}
child.convert = convert
child.main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has namespaces")
@pytest.mark.parametrize("allowed", [True, False])
def test_a_reader_that_is_broken_into_reaches_no_network(
    allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        escaped = ESCAPED.format(port=listener.getsockname()[1], allowed=allowed)
        (tmp_path / "escaped.py").write_text(escaped)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        limits(sdk.pushing.convert, _CHILD="escaped")
        converted = convert_adapter(pickled(tmp_path / "old", tensors()), tmp_path / "new")
        said = (tmp_path / "new/adapter_model.safetensors").read_text()
        if allowed and not converted.offline:
            pytest.skip("this system gives no namespaces")
        assert (converted.offline, said) == ((True, "Network is unreachable") if allowed else (False, "connected"))
        if allowed:
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_the_command_says_where_the_folder_is(tmp_path: Path) -> None:
    pickled(tmp_path / "old", tensors())
    done = run("adapterctl", "convert", "old", "--format", "json", cwd=tmp_path, env=environment())
    assert json.loads(done.stdout)["path"] == str(tmp_path / "old-safetensors")
    again = run("adapterctl", "convert", "old", cwd=tmp_path, env=environment())
    assert (again.returncode, again.stdout) == (4, "")
