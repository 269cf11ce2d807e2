"""A page of 20,000 tokens in a headless Chromium: soon there, never stuck, and every token can be reached."""

import base64
import re
import shutil
import subprocess
import time

import pytest

from eft_ext.analysis.report import report_html
from python_tests.analysis.browsing import ActionChains, By, Keys, Select, WebDriverWait, panel
from python_tests.analysis.pages import long

pytestmark = pytest.mark.slow

COUNT, TRIES = 20_000, 10  # other work on the machine may delay a task: the best of these tries counts
WATCH = """window.tasks = [];
new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((task) => task.duration)))
  .observe({ type: "longtask", buffered: true });"""


@pytest.fixture(scope="module")
def record():
    return long(COUNT)


@pytest.fixture(scope="module")
def path(record, tmp_path_factory):
    since = time.process_time()
    html = report_html([record])
    print(f"report_html: {time.process_time() - since:.1f} s of a core, {len(html.encode()) / 1e6:.2f} MB")
    found = tmp_path_factory.mktemp("long") / "report.html"
    found.write_text(html, encoding="utf-8")
    assert found.stat().st_size < 10e6
    return found


@pytest.fixture(scope="module")
def watched(browser):
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": WATCH})
    size = {"width": 1200, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return browser


def open_table(page, which):
    """A piece of the table, the outer one first if need be; returns the text of its last row."""
    page.execute_script("document.querySelector('details').open = true")
    pieces = WebDriverWait(page, 10).until(lambda _: page.find_elements(By.CSS_SELECTOR, "details details"))
    page.execute_script("arguments[0].open = true", pieces[which])
    # Counts and one row only: the driver's reading counts as a task of the page.
    first, last = page.execute_script("return arguments[0].firstChild.textContent", pieces[which]).split()[1:4:2]
    rows = "arguments[0].querySelectorAll('tbody tr')"
    count = int(last) - int(first) + 1
    WebDriverWait(page, 20).until(lambda _: page.execute_script(f"return {rows}.length", pieces[which]) == count)
    return page.execute_script(f"return [...{rows}].at(-1).textContent", pieces[which])


def longest(page):
    """Milliseconds of the longest task since the last call; 0 if none took 50."""
    time.sleep(1)
    return max(page.execute_script("return window.tasks.splice(0)"), default=0)


@pytest.mark.alone
def test_it_is_soon_there_and_never_stuck(watched, path):
    def shade(key):
        Select(watched.find_element(By.ID, "measure")).select_by_value(key)

    def first():
        watched.execute_script("scrollTo(0, 0)")
        ActionChains(watched).move_to_element(watched.find_element(By.CSS_SELECTOR, ".token")).perform()
        assert "token 1 of" in panel(watched)

    def last():
        watched.find_element(By.ID, "measure").send_keys(Keys.TAB)
        ActionChains(watched).send_keys(Keys.END, Keys.ARROW_LEFT, Keys.ARROW_RIGHT).perform()
        assert f"token {COUNT} of" in panel(watched)

    uses = {
        "pointing": first,
        "another measure": lambda: shade("entropy"),
        "keys at the end": last,
        "the table": lambda: open_table(watched, 0),
        "its end": lambda: open_table(watched, -1),
        "the end of the page": lambda: watched.execute_script("scrollTo(0, document.body.scrollHeight)"),
        "pointing beside the table": first,
        "another measure beside the table": lambda: shade("kl"),
    }
    paint = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
    best = dict.fromkeys(["first paint", "loading", *uses], float("inf"))
    for _ in range(TRIES):
        watched.get(path.as_uri())
        took = {"loading": longest(watched), "first paint": watched.execute_script(paint)}
        for name, use in uses.items():
            use()
            took[name] = longest(watched)
        best = {name: min(ms, took[name]) for name, ms in best.items()}
        slow = {name: ms for name, ms in best.items() if ms >= (1000 if name == "first paint" else 200)}
        if not slow:
            break
    print("ms:", ", ".join(f"{name} {ms:.0f}" for name, ms in best.items()))
    assert not slow


def test_every_token_is_reached(watched, path, record):
    watched.get(path.as_uri())
    text = "".join(token.text.replace("\n", "↵") for token in record.tokens)
    said = watched.execute_script("return document.body.innerText")
    assert "".join(text.split()) in "".join(said.split())
    found = """getSelection().removeAllRanges();
      const last = [...document.querySelectorAll(".token")].at(-1);
      return window.find("finis") && getSelection().anchorNode.parentNode === last;"""
    assert watched.execute_script(found), "find in page"
    assert "finis" in open_table(watched, -1)


def test_screen_readers_reach_every_token(watched, path, record):
    watched.get(path.as_uri())
    group = watched.execute_cdp_cmd("Runtime.evaluate", {"expression": "document.querySelector('.text')"})
    query = {"objectId": group["result"]["objectId"], "role": "StaticText"}
    nodes = watched.execute_cdp_cmd("Accessibility.queryAXTree", query)["nodes"]
    said = [node["name"]["value"].strip() for node in nodes]
    assert said == [token.text.replace("\n", "↵\n").strip() for token in record.tokens]


def test_it_is_printed_whole(watched, path, record, tmp_path):
    watched.get(path.as_uri())
    printed = base64.b64decode(watched.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) > 25, "about 700 tokens a page"
    if not shutil.which("pdftotext"):
        pytest.skip("needs pdftotext to read the pages (Debian: poppler-utils)")
    (tmp_path / "report.pdf").write_bytes(printed)
    read = subprocess.run(["pdftotext", tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True)
    words = read.stdout.split()
    assert words.count("finis") == 1
    assert len("".join(words)) > sum(len(token.text.strip()) for token in record.tokens)
