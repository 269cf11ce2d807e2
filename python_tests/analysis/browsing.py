"""A headless Chromium, and what a reader does with the report in it."""

import shutil

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra test-all")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

__all__ = ["ActionChains", "By", "Keys", "Select", "click", "panel", "settled_panel", "start", "table", "tokens"]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


def start():
    if not (BROWSER and DRIVER):
        pytest.skip("needs chromium and chromedriver on PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def tokens(page):
    return page.find_elements(By.CSS_SELECTOR, "section .token")


def click(page, token):
    page.execute_script("arguments[0].scrollIntoView({block: 'start'})", token)  # not under a phone's panel
    token.click()


def settled_panel(page):
    """The panel as an element, once it shows the token that was asked for last."""
    found = page.find_element(By.ID, "panel")
    WebDriverWait(page, 60).until(lambda _: found.get_attribute("aria-busy") is None)
    return found


def panel(page):
    """The text of the panel."""
    return settled_panel(page).text


def table(page):
    """Opens the first table; returns the text of its cells, row by row, once all rows are there."""
    page.find_element(By.TAG_NAME, "summary").click()
    count = page.execute_script("return document.querySelector('.text').querySelectorAll('.token').length")
    rows = "document.querySelector('details').querySelectorAll('tbody tr')"
    WebDriverWait(page, 60).until(lambda _: page.execute_script(f"return {rows}.length") == count)
    return page.execute_script(f"return [...{rows}].map((row) => [...row.cells].map((cell) => cell.textContent))")
