"""The page in a real browser: Chromium without a screen."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dev.inspector.conftest import Development

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


class Seen:
    """A page, and what its console said."""

    def __init__(self, browser: Any, development: Development, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1300, "height": 850}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15000)
        self.complaints: list[str] = []
        self.page.on("console", lambda line: line.type in ("error", "warning") and self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.development = development
        self.page.goto(development.page)
        self.page.wait_for_selector(".state.live")

    def open(self, number: int) -> None:
        self.page.goto(f"{self.development.page}#/calls/{number}")
        self.page.wait_for_selector(f'article[aria-label="Call {number}"]')

    def focused(self) -> str:
        return str(self.page.evaluate("document.activeElement.getAttribute('role') || document.activeElement.tagName"))


def _shown(browser: Any, development: Development) -> Iterator[Seen]:
    shown = Seen(browser, development, permissions=["clipboard-read", "clipboard-write"])
    yield shown
    shown.context.close()
    assert shown.complaints == []


@pytest.fixture
def seen(browser: Any, development: Development) -> Iterator[Seen]:
    """The page of each gateway, for what differs."""
    yield from _shown(browser, development)


@pytest.fixture
def page_seen(browser: Any, as_apisix: Development) -> Iterator[Seen]:
    """The page, for what is the same whichever gateway is before it."""
    yield from _shown(browser, as_apisix)


def test_calls_appear_as_they_come_with_their_plugins_and_marks(page_seen: Seen) -> None:
    development, page = page_seen.development, page_seen.page
    development.ask("GET", "/live-one")
    page.wait_for_selector('.row:has-text("/live-one")')
    development.ask("GET", "/live-two", {"x-break": "it"})
    row = page.locator('.row:has-text("/live-two")')
    row.wait_for()
    page.wait_for_selector('.row:has-text("/live-two") .tag.failed')
    assert page.locator(".row").first.text_content() == row.text_content()
    assert "keep" in row.text_content()


@pytest.mark.long
def test_one_call_shows_changes_questions_lines_and_what_was_sent(seen: Seen) -> None:
    record = seen.development.recorded("POST", "/shown?b=c", {"X-User": "ada"}, b"hi")
    seen.open(record["id"])
    greet = seen.page.locator("details.plugin", has_text="greet").first
    assert "x-greeting" in greet.text_content()
    assert greet.locator("del", has_text="ada").count() == 1
    assert [each.text_content() for each in greet.locator("tr:has-text('x-user') ins").all()] == ["one", "two"]
    assert "greeting ada" in greet.locator(".log").text_content()
    assert "request_uri" in greet.locator(".asked").text_content()
    assert "kept: hi" in seen.page.locator("details.plugin", has_text="keep").first.text_content()
    assert seen.page.locator(".waterfall li").count() >= 5
    assert "What went upstream" in seen.page.text_content("main")
    if seen.development.gateway == "apisix":
        assert "APISIX joins repeated headers" in seen.page.text_content(".happened")
        assert "What APISIX made of it" in seen.page.text_content("main")


def test_a_failure_shows_the_author_s_line(page_seen: Seen) -> None:
    record = page_seen.development.recorded("GET", "/fails", {"x-break": "it"})
    page_seen.open(record["id"])
    assert "ValueError" in page_seen.page.text_content(".happened")
    assert "raise ValueError" in page_seen.page.locator(".frame.own .here").last.text_content()
    assert "hunter2" not in page_seen.page.content()


def test_all_of_it_can_be_done_with_keys(page_seen: Seen) -> None:
    development, page = page_seen.development, page_seen.page
    for path in ("/first", "/second", "/third"):
        development.ask("GET", path)
    page.wait_for_selector('.row:has-text("/third")')
    page.keyboard.press("/")
    page.keyboard.type("method:get /second")
    playwright.expect(page.locator(".row")).to_have_count(1)
    page.keyboard.press("Escape")
    assert page_seen.focused() == "listbox"
    page.keyboard.press("j")
    page.wait_for_selector('h2:has-text("/second")')
    page.keyboard.press("r")
    page.wait_for_selector('.facts:has-text("replay of")')
    page.keyboard.press("c")
    page.wait_for_selector("dialog pre.export")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    page.keyboard.press("?")
    page.wait_for_selector('dialog[aria-label="Keys"]')
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.wait_for_selector("form.try")
    page.keyboard.press("1")
    page.wait_for_selector(".list")


def test_replay_with_edits(page_seen: Seen) -> None:
    record = page_seen.development.recorded("GET", "/edit-me", {"Authorization": "Bearer abcdefghijkl"})
    page = page_seen.page
    page_seen.open(record["id"])
    page.keyboard.press("e")
    page.get_by_label("Target").fill("/was-edited")
    headers = page.get_by_label("Headers, one a line")
    assert "[redacted]" in headers.input_value()
    headers.fill(headers.input_value() + "\nX-User: eve")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector('h2:has-text("/was-edited")')
    page.wait_for_selector("details.plugin:has-text('greeting eve')")
    assert "abcdefghijkl" not in page.content()
    page.keyboard.press("s")
    page.get_by_text("Bearer abcdefghijkl").first.wait_for(state="attached")


@pytest.mark.long
def test_exported_tests_pass_when_run(
    browser: Any, as_apisix: Development, as_kong: Development, tmp_path: Path
) -> None:
    for development in (as_apisix, as_kong):
        shown = Seen(browser, development)
        for record in (
            development.recorded(
                "POST", "/exported?b=c", {"X-User": "ada", "x-secretly": "1", "x-upstream": "1"}, b"hi"
            ),
            development.recorded("GET", "/exported/stop", {"x-stop": "yes"}),
            development.recorded("GET", "/exported/stop", {"x-stop": "silently"}),
            development.recorded("GET", "/exported/fails", {"x-break": "yes"}),
        ):
            shown.open(record["id"])
            shown.page.keyboard.press("t")
            text = shown.page.locator("dialog pre.export").text_content()
            (tmp_path / f"test_{development.gateway}_{record['id']}.py").write_text(text)
            assert "assert answer.status == " in text
            shown.page.keyboard.press("Escape")
        shown.context.close()
        assert shown.complaints == []
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path,
    )  # fmt: skip
    assert "8 passed" in run.stdout, run.stdout


def test_a_copied_curl_command_sends_the_same_request(page_seen: Seen) -> None:
    record = page_seen.development.recorded(
        "POST", "/curled?a[]=%20b&c={1,2}", {"X-Odd": 'it\'s "odd"'}, b"@line\nnext"
    )
    page_seen.open(record["id"])
    page_seen.page.keyboard.press("c")
    command = page_seen.page.locator("dialog pre.export").text_content()
    page_seen.page.get_by_role("button", name="Copy").click()
    assert page_seen.page.evaluate("navigator.clipboard.readText()") == command
    before = len(page_seen.development.records())
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=20)
    page_seen.development.wait_for(lambda: len(page_seen.development.records()) > before)
    again = page_seen.development.records()[-1]
    plain = [{**each["request"], "headers": sorted(map(tuple, each["request"]["headers"]))} for each in (record, again)]
    assert json.dumps(plain[0]) == json.dumps(plain[1])


@pytest.mark.long
def test_plugins_are_told_of_and_a_configuration_is_tried_on(seen: Seen) -> None:
    page = seen.page
    page.goto(f"{seen.development.page}#/plugins/greet")
    page.wait_for_selector('h2:has-text("greet")')
    assert "plugins.py" in page.text_content(".callhead")
    page.get_by_label(re.compile("^greeting")).fill("howdy")
    page.get_by_role("button", name="Try it on").click()
    page.wait_for_selector("text=It fits.")
    page.get_by_label("As JSON").fill('{"greting": "x"}')
    page.get_by_role("button", name="Try it on").click()
    page.wait_for_selector('.try .error:has-text("greting")')
    page.get_by_label("As JSON").fill('{"greeting": 5}')
    page.get_by_role("button", name="Try it on").click()
    page.wait_for_selector('.try .error:has-text("greeting")')


@pytest.mark.long
def test_a_plugin_that_is_saved_is_seen_at_once(page_seen: Seen) -> None:
    page, place = page_seen.page, page_seen.development.place
    page.goto(f"{page_seen.development.page}#/plugins/greet")
    page.wait_for_selector("ul.names")
    (place / "more.py").write_text(
        "from gatewright import Plugin\n\n\nclass Late(Plugin):\n    def on_request(self, request):\n        pass\n"
    )
    try:
        page.wait_for_selector('ul.names a:has-text("late")', timeout=30_000)
    finally:
        (place / "more.py").unlink()
    page.wait_for_selector('ul.names a:has-text("late")', state="detached", timeout=30_000)


@pytest.mark.long
def test_a_long_body_of_bytes_is_shown_and_a_record_that_cannot_be_takes_nothing_with_it(
    page_seen: Seen, browser: Any, tmp_path: Path
) -> None:
    record = page_seen.development.recorded("POST", "/bytes", body=bytes(range(256)) * 300)
    page_seen.open(record["id"])
    page_seen.page.wait_for_selector('pre.body:has-text("000000  00 01 02 03")')
    file = tmp_path / "edited.jsonl"
    file.write_text(json.dumps({**record, "upstream": 7}) + "\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "gatewright", "inspect", str(file), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        page = browser.new_page()
        page.goto(re.search(r"http://\S+", process.stdout.readline())[0] + f"#/calls/{record['id']}")  # type: ignore[index]
        page.wait_for_selector('article:has-text("This call can\'t be shown")')
        page.wait_for_selector(".row")
        page.close()
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize(("width", "scheme"), [(1300, "light"), (390, "dark")])
@pytest.mark.long
def test_axe_finds_no_serious_fault(browser: Any, as_apisix: Development, scheme: str, width: int) -> None:
    development = as_apisix
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    record = development.recorded("POST", "/axe?a=b", {"x-break": "it"}, b'{"a": 1}')
    shown = Seen(browser, development, color_scheme=scheme)
    shown.page.set_viewport_size({"width": width, "height": 800})
    faults = []
    for place in ("#/calls", f"#/calls/{record['id']}", "#/plugins/greet"):
        shown.page.goto(development.page + place)
        shown.page.wait_for_selector(".row" if place == "#/calls" else ".callhead h2")
        result = axe.Axe().run(shown.page)
        faults += [
            (place, fault["id"], fault["impact"], [node["target"] for node in fault["nodes"]][:4])
            for fault in result.response["violations"]
            if fault["impact"] != "minor"
        ]
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width
    shown.context.close()
    assert faults == []
    assert shown.complaints == []


@pytest.mark.long
def test_the_oldest_call_can_be_read_though_each_new_one_takes_the_place_of_one(
    browser: Any, tmp_path: Path, as_apisix: Development
) -> None:
    file = tmp_path / "one.json"
    file.write_text(json.dumps(as_apisix.recorded("GET", "/endless")))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.dev.inspector.endless", str(file), "2000", "100"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        page = browser.new_page(viewport={"width": 1300, "height": 850})
        page.goto(process.stdout.readline().strip())
        page.wait_for_selector('.count:has-text("2000 calls")')
        page.locator(".list").focus()
        for _ in range(5):
            page.keyboard.press("End")
            page.keyboard.press("Enter")
            number = int(page.evaluate("location.hash").rpartition("/")[2])
            page.wait_for_selector(f'article[aria-label="Call {number}"]')
        page.wait_for_selector('.row[aria-selected="true"]', state="detached")  # its place was taken
        page.wait_for_timeout(200)
        assert page.locator(f'article[aria-label="Call {number}"]').count() == 1  # what is read stays
        page.keyboard.press("ArrowUp")  # from where it was
        page.wait_for_selector(f'article[aria-label="Call {number}"]', state="detached")
        chosen = int(page.evaluate("location.hash").rpartition("/")[2])
        assert number < chosen < number + 1000
        page.close()
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.long
def test_ten_thousand_calls_are_as_quick_as_ten(browser: Any, tmp_path: Path, as_apisix: Development) -> None:
    record = as_apisix.recorded("GET", "/many")
    file = tmp_path / "many.jsonl"
    with file.open("w") as lines:
        for number in range(1, 12001):
            record["request"]["target"] = f"/orders/{number}"
            lines.write(json.dumps({**record, "id": number}) + "\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "gatewright", "inspect", str(file), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = process.stdout.readline()
        assert "10000 requests" in told
        page = browser.new_page(viewport={"width": 1300, "height": 850})
        page.goto(re.search(r"http://\S+", told)[0])  # type: ignore[index]
        page.wait_for_selector('.count:has-text("10000 calls")')
        assert page.locator(".row").count() < 60  # those in sight, and a few
        began = page.evaluate("performance.now()")
        page.locator(".list").focus()
        for _ in range(30):
            page.keyboard.press("PageDown")
        page.keyboard.press("End")
        page.wait_for_selector('.row[aria-selected="true"]:has-text("/orders/2001")')
        page.get_by_label("Filter calls").fill("orders/777")
        playwright.expect(page.locator(".count")).to_have_text("10 of 10000 calls")
        assert page.evaluate("performance.now()") - began < 10_000
        page.wait_for_selector('h2:has-text("/orders/2001")')
        page.close()
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()
