"""Adapters pushed and pulled through a store that fails in every way: what comes of it is exact, or an error.

Each run has a seed, which is its number; run one alone with
`ADAPTERCTL_SOAK=1 python -m pytest 'tests/faults/test_transfers.py::test_what_comes_through_is_exact[17]'`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest
from faults.places import BASE, Place, is_exact, leavings, make_adapter
from faults.plans import Fault, Head, Plan, Script, Strike
from support.fixtures import Limits
from support.soak import scale

from sdk.client import Client
from sdk.errors import AdapterctlError, NotFound
from sdk.objects import Version
from sdk.pulling import streams
from sdk.pulling.folder import verify_folder
from sdk.pushing import upload
from sdk.stack.seaweed import SeaweedServer

KINDS = ("seaweed", "folder")


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    """Let clients try again as often as ever, but at once: what they wait for is no matter here."""
    limits(streams, FIRST_WAIT_S=0.01, LONGEST_WAIT_S=0.05)
    monkeypatch.setattr(upload, "time", SimpleNamespace(sleep=lambda s: time.sleep(min(s, 0.05))))


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found


def visible(client: Client, name: str) -> list[Version]:
    """The versions that people see."""
    try:
        return client.versions(name)
    except NotFound:
        return []


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(scale(500)))
def test_what_comes_through_is_exact(seed: int, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place: Place = request.getfixturevalue(KINDS[seed % len(KINDS)])
    plans = [Plan(f"{seed} {what}") for what in ("push", "pull", "again")]
    try:
        Run(place, seed, tmp_path).go(*plans)
    except BaseException as error:
        dealt = "\n".join(line for plan in plans for line in [*plan.dealt, "-"])
        error.add_note(f"seed {seed} over {KINDS[seed % len(KINDS)]}; what was dealt:\n{dealt}")
        raise


@dataclass
class Run:
    """One adapter on its way in and out."""

    place: Place
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Of the adapter, which no other run has."""
        return f"run-{self.seed}"

    def go(self, on_push: Plan, on_pull: Plan, on_replace: Plan) -> None:
        """Push, pull into a new folder, push again, replace; each first with faults, then without."""
        user = self.folder / "user" / "adapter"
        for number, (push, pull) in enumerate([(on_push, on_pull), (Plan("calm", most=0), on_replace)], start=1):
            if number == 2 and self.seed % 3:
                # One run in three also replaces a folder.
                return
            source = make_adapter(self.folder / f"source-{number}", f"{self.seed} {number}", self.place.ranks)
            version = self._push(source, push, number)
            self._pull(source, version, user, pull, number)

    def _push(self, source: Path, plan: Plan, number: int) -> Version:
        client = self.place.client(self.folder / "cache-push")
        try:
            with self.place.spoiled(plan):
                failed(lambda: client.push(source, self.name, base=BASE))
            seen = visible(client, self.name)
            assert len(seen) in {number - 1, number}
            for at, version in enumerate(seen):
                # Whatever can be seen is whole for somebody who has nothing of it yet.
                other = self.place.client(self.folder / f"cache-look-{number}-{at}")
                try:
                    assert verify_folder(other.pull(version.ref, self.folder / f"look-{number}-{at}"))
                finally:
                    other.close()
            version = client.push(source, self.name, base=BASE)
            assert version.number == number
            return version
        finally:
            client.close()

    def _pull(self, source: Path, version: Version, user: Path, plan: Plan, number: int) -> None:
        before = verify_folder(user).digest if user.exists() else None
        client = self.place.client(self.folder / f"cache-pull-{number}")
        try:
            with self.place.spoiled(plan):
                error = failed(lambda: client.pull(version.ref, user))
            if error is None:
                assert is_exact(user, source, version.digest)
            elif before is None:
                assert not user.exists()
            else:
                assert verify_folder(user).digest == before
            assert leavings(user.parent) == []
            # What was left in the cache by the one that failed is no hindrance, and no poison, to the next.
            assert client.pull(version.ref, user) == user
            assert is_exact(user, source, version.digest)
            assert leavings(user.parent) == []
            client.versions.verify(version.ref)
        finally:
            client.close()


def failed(attempt: Callable[[], object]) -> AdapterctlError | None:
    """Return the error of an attempt, which must be one of ours and show no credential, or None."""
    try:
        attempt()
    except AdapterctlError as error:
        caught = error
    else:
        return None
    assert not any(mark in caught.message for mark in ("X-Amz-", "sig=")), caught
    return caught


# By hand: what a seed would seldom find.


def test_a_transfer_goes_on_where_it_broke_off(place: Place, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "source", "resumed")
    client = place.client(tmp_path / "cache")
    try:
        version = client.push(source, f"resumed-{place.proxy.address[1]}", base=BASE)
        place.proxy.forget()
        cuts = Script([Strike(Fault.CUT_RESPONSE, at=0.9), Strike(Fault.CUT_RESPONSE, at=0.9)])
        with place.spoiled(cuts), contextlib.suppress(AdapterctlError):
            client.pull(version.ref, tmp_path / "adapter")
        client.pull(version.ref, tmp_path / "adapter")
        assert is_exact(tmp_path / "adapter", source, version.digest)
        resumed = [head for head in place.proxy.requests if "range" in head.headers and "if-match" in head.headers]
        assert resumed, "after a cut, nothing was asked for by Range and If-Match"
    finally:
        client.close()


def test_what_stays_corrupt_is_an_error_that_names_file_and_digests(place: Place, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "source", "corrupt")
    client = place.client(tmp_path / "cache")
    try:
        version = client.push(source, f"corrupt-{place.proxy.address[1]}", base=BASE)
        always = Script([Strike(Fault.CORRUPT_RESPONSE, at=0.5)] * 200)
        with place.spoiled(always), pytest.raises(AdapterctlError) as caught:
            client.pull(version.ref, tmp_path / "adapter")
        assert caught.value.exit_code == 7
        named = [file for file in version.info.manifest.files if file.path in caught.value.message]
        assert named
        assert named[0].sha256 in caught.value.message
        assert not (tmp_path / "adapter").exists()
        client.pull(version.ref, tmp_path / "adapter")
        assert is_exact(tmp_path / "adapter", source, version.digest)
    finally:
        client.close()


def test_an_object_that_is_replaced_between_two_ranges_is_no_download(seaweed: Place, tmp_path: Path) -> None:
    """Whoever has the store's keys writes other bytes of the same length over it, while it is fetched."""
    assert seaweed.server is not None
    source = make_adapter(tmp_path / "source", "replaced")
    client, s3 = seaweed.client(tmp_path / "cache"), _with_keys(seaweed.server)
    kept: dict[str, bytes] = {}

    def replace(head: Head) -> None:
        if head.method != "GET" or "range" not in head.headers or "if-match" not in head.headers:
            return
        bucket, _, key = head.path.lstrip("/").partition("/")
        if key not in kept:
            kept[key] = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
            s3.put_object(Bucket=bucket, Key=key, Body=bytes(byte ^ 1 for byte in kept[key]))

    try:
        version = client.push(source, "replaced", base=BASE)
        cuts = Script([Strike(Fault.CUT_RESPONSE, at=0.5)] * 4)
        seaweed.proxy.before = replace
        with seaweed.spoiled(cuts), pytest.raises(AdapterctlError):
            client.pull(version.ref, tmp_path / "adapter")
        assert kept, "nothing was asked for by Range and If-Match"
        assert not (tmp_path / "adapter").exists()
        seaweed.proxy.before = None
        # Once the right bytes are back, so is the version.
        for key, content in kept.items():
            s3.put_object(Bucket="adapterctl", Key=key, Body=content)
        client.pull(version.ref, tmp_path / "adapter")
        assert is_exact(tmp_path / "adapter", source, version.digest)
    finally:
        seaweed.proxy.before = None
        client.close()
        s3.close()


def _with_keys(server: SeaweedServer) -> boto3.client:
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


def test_a_put_whose_answer_was_lost_is_no_failure(place: Place, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "source", "swallowed")
    client = place.client(tmp_path / "cache")
    try:
        plan = Script([Strike(Fault.SWALLOWED)] * 2, method="PUT")
        with place.spoiled(plan):
            version = client.push(source, f"swallowed-{place.proxy.address[1]}", base=BASE)
        assert version.number == 1
        client.pull(version.ref, tmp_path / "adapter")
        assert is_exact(tmp_path / "adapter", source, version.digest)
    finally:
        client.close()


def test_an_interrupted_upload_sends_only_what_is_missing(place: Place, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "source", "parts", place.ranks[-1:])
    size_bytes = (source / "adapter_model.safetensors").stat().st_size
    assert size_bytes > 2 * place.part_bytes
    client = place.client(tmp_path / "cache")
    name = f"parts-{place.proxy.address[1]}"
    try:
        place.proxy.forget()
        # Two requests come through; afterwards the store is gone for longer than anybody waits.
        gone = Script([None, None, *[Strike(Fault.UNAVAILABLE)] * 500], method="PUT")
        with place.spoiled(gone), pytest.raises(AdapterctlError):
            client.push(source, name, base=BASE)
        place.proxy.forget()
        version = client.push(source, name, base=BASE)
        sent = sum(head.length_bytes or 0 for head in place.proxy.requests if head.method == "PUT")
        assert 0 < sent < size_bytes
        client.pull(version.ref, tmp_path / "adapter")
        assert is_exact(tmp_path / "adapter", source, version.digest)
    finally:
        client.close()
