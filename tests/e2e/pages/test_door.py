"""The door, as a browser tries it: from pages of other sites, and by the command that opens it."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect
from support import pages
from support.browsing import Reader, violations
from support.registries import World

_EVIL = """<!doctype html><title>evil</title>
<iframe src="{url}/ui/adapters" name="held"></iframe>
<form method="post" action="{url}/ui/sign-out" target="answer"><input name="csrf" value="guessed"></form>
<iframe name="answer"></iframe>
<script>
  const send = (path, body) => fetch("{url}" + path, {{
    method: "POST", mode: "no-cors", credentials: "include", body: new URLSearchParams(body),
  }}).catch(() => null);
  const read = () => fetch("{url}/ui/adapters", {{ credentials: "include" }}).then((answer) => answer.text(), () => "refused");
  Promise.all([send("/ui/sign-out", {{ csrf: "guessed" }}), send("/ui/sign-in", {{ token: "mine" }}), read()]).then((all) => {{
    document.querySelector("form").submit();
    document.title = "done: " + all[2];
  }});
</script>"""


@contextmanager
def site_of(page: str) -> Iterator[int]:
    """A web server with one page, on a port of its own."""

    class OnePage(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OnePage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["another-site", "another-port"])
def test_page_of_another_origin_changes_and_reads_nothing(
    reading: Callable[..., Reader], seen: World, host: str
) -> None:
    reader = reading()
    with site_of(_EVIL.format(url=seen.url)) as port:
        evil = reader.context.new_page()
        answers: list[tuple[str, int]] = []
        evil.on("response", lambda answer: answers.append((answer.url.removeprefix(seen.url), answer.status)))
        evil.goto(f"http://{host}:{port}/")
        expect(evil).to_have_title("done: refused")
        evil.wait_for_load_state("networkidle")
        held = evil.frame("held")
        assert held is not None
        assert "Adapters" not in held.content()
        evil.close()
    posted = [(path, status) for path, status in answers if path in ("/ui/sign-out", "/ui/sign-in") and status != 200]
    assert {status for _, status in posted} == {403}
    assert "/ui/sign-out" in dict(posted)
    reader.page.reload()
    expect(reader.page.get_by_role("heading", name="Adapters")).to_be_visible()


@contextmanager
def own_pages(home: Path) -> Iterator[str]:
    """`adapterctl ui` over a folder; yields the address that it prints."""
    environment = {**os.environ, "ADAPTERCTL_URL": f"local:{home}", "SSH_CONNECTION": ""}
    ((program, *words),) = pages.commands("pages.md", "ui")
    command = [Path(sys.executable).parent / program, *words, "--no-browser"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            yield running.stdout.readline().strip()
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(20) == 0


def test_command_opens_the_pages_of_a_folder_for_one_browser(chromium: Browser, tmp_path: Path) -> None:
    with own_pages(tmp_path / "home") as address:
        url = address.partition("/ui/")[0]
        assert httpx.get(f"{url}/ui/adapters", timeout=30).headers["Location"].startswith("/ui/sign-in")
        assert "adapterctl ui" in httpx.get(f"{url}/ui/sign-in").text
        for path in ("/api/v1/bases", "/docs", "/metrics", "/openapi.json"):
            assert httpx.get(url + path).status_code == 404
        assert httpx.post(f"{url}/ui/sign-in", data={"token": "x"}, headers={"Origin": url}).status_code == 401
        # A name that somebody lets mean this machine.
        for path in ("/ui/sign-in", f"/ui/{address.partition('/ui/')[2]}"):
            assert httpx.get(url + path, headers={"Host": "evil.example"}).status_code == 421
        owner, late = Reader(chromium, url), Reader(chromium, url, script=False)
        # A script sends the form of an address that another program has opened.
        owner.page.goto(address)
        owner.page.wait_for_url("**/ui/adapters")
        assert violations(owner.page) == []
        _open_by_hand(late.page, address)
        expect(late.page.get_by_role("alert")).to_contain_text("was used already")
        late.faults.clear()
        late.close()
        owner.page.wait_for_timeout(600)
        owner.page.goto(f"{url}/ui/adapters")
        expect(owner.page.get_by_role("heading", name="Sign in")).to_be_visible()
        owner.close()


def test_server_gives_a_browser_a_code(chromium: Browser, seen: World) -> None:
    environment = {**os.environ, "ADAPTERCTL_URL": seen.url, "ADAPTERCTL_TOKEN": seen.writer.config.token or ""}
    command = [Path(sys.executable).parent / "adapterctl", "ui", "--no-browser"]
    environment["SSH_CONNECTION"] = "10.0.0.9 50022 10.0.0.5 22"
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "ssh -N -L" in made.stderr
    reader = Reader(chromium, seen.url, script=False)
    _open_by_hand(reader.page, made.stdout.strip())
    expect(reader.page.get_by_text("some writer")).to_be_visible()
    reader.close()


def test_page_of_the_api_is_accessible_and_has_no_script_of_others(chromium: Browser, seen: World) -> None:
    # Made while nothing else here is parsed: two threads of Python 3.11 can't do so at once.
    assert httpx.get(f"{seen.url}/docs", timeout=60).status_code == 200
    reader = Reader(chromium, seen.url)
    reader.page.goto("/docs#JobView")
    expect(reader.page.locator("#JobView")).to_be_in_viewport()
    assert violations(reader.page) == []
    reader.close()


def _open_by_hand(page: Page, address: str) -> None:
    page.goto(address)
    page.click("button:text('Open the registry')")
