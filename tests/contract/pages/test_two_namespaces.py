"""Whoever may read two namespaces sees both of them on one page, and nothing of a third."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path

from contract.pages.conftest import ONE_DATABASE
from support.merging_desk import MergingDesk
from support.page_readers import signed_in
from support.people import submit, training
from support.registries import World, named_anew

from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.schemas.catalog import BaseView

pytestmark = ONE_DATABASE

#: How long the stream is read for what has to come, in seconds.
_PATIENCE_S = 60.0
_LIVE = re.compile(r'data-live="([^"]+)"')


def test_reader_of_two_namespaces_sees_both_and_nothing_else(
    people: World,
    acting: Callable[..., Client],
    common_base: tuple[BaseView, Path],
    rows: Path,
    space: str,
    tmp_path: Path,
) -> None:
    spaces = [f"{space}-{which}" for which in ("one", "two", "other")]
    writer = acting(**dict.fromkeys(spaces, Role.WRITER))
    data = {each: writer.datasets.add(rows, namespace=each).digest for each in spaces}
    refs = [MergingDesk(writer, writer, each, tmp_path, *common_base).push() for each in spaces]
    token = named_anew(people.services.tokens, "both", dict.fromkeys(spaces[:2], Role.READER), who=LOCAL).secret
    with signed_in(people.url, token) as reader:
        catalogue = reader.get("/ui/adapters").text
        assert [f"{each}/a" in catalogue for each in spaces] == [True, True, False]

        page = reader.get("/ui/jobs").text
        live = _LIVE.search(page)
        assert live is not None
        jobs = [submit(writer, training(f"{each}/a", data[each])).id for each in reversed(spaces)]
        sent, until = "", time.monotonic() + _PATIENCE_S
        with reader.stream("GET", unescape(live[1])) as stream:
            # The one that the reader may not see is the oldest.
            for part in stream.iter_text():
                assert time.monotonic() < until, "they do not come"
                sent += part
                if all(job in sent for job in jobs[1:]):
                    break
        assert jobs[0] not in sent
        listed = reader.get("/ui/jobs").text
        assert [job in listed for job in jobs] == [False, True, True]

        both = reader.get("/ui/compare", params={"refs": refs[:2]})
        assert (both.status_code, [ref in both.text for ref in refs]) == (200, [True, True, False])
        # What isn't for this reader is answered as what isn't there.
        hidden, missing = (
            reader.get("/ui/compare", params={"refs": [refs[0], ref]}) for ref in (refs[2], f"{spaces[2]}/b@v1")
        )
        assert hidden.status_code == missing.status_code
        assert _plain(hidden.text).replace(f"{spaces[2]}/a", f"{spaces[2]}/b") == _plain(missing.text)


def _plain(page: str) -> str:
    return re.sub(r'name="csrf" value="[^"]*"|%2F', "/", page)
