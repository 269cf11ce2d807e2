"""The token report in a headless Chromium: it renders, pointing and keys work, nothing of a model runs."""

import shutil

import pytest

from eft_ext.analysis.report import report_html
from python_tests.analysis.pages import NASTY, nasty, plain

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra test-all")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BROWSER and DRIVER), reason="needs chromium and chromedriver on PATH (Debian: chromium, chromium-driver)"
    ),
]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, tmp_path):
    """Opens records as a page at a width, light or dark; returns the driver."""

    def open_page(records, width=1200, dark=False):
        path = tmp_path / "report.html"
        path.write_text(report_html(records), encoding="utf-8")
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get_log("browser")
        browser.get(path.as_uri())
        return browser

    return open_page


def tokens(page):
    return page.find_elements(By.CSS_SELECTOR, "section .token")


def panel(page):
    return page.find_element(By.ID, "panel").text


def test_it_renders_and_nothing_of_a_model_runs(page):
    got = page([nasty()])
    assert got.get_log("browser") == []
    assert got.execute_script("return window.hacked") is None
    assert len(tokens(got)) == len(NASTY)
    assert tokens(got)[1].get_attribute("textContent") == NASTY[1]
    assert all(t.size["width"] > 0 for t in tokens(got)), "each can be pointed at"
    for token in tokens(got):
        ActionChains(got).move_to_element(token).perform()
    assert got.execute_script("return window.hacked") is None
    assert got.get_log("browser") == []
    assert got.execute_script("return document.scripts.length") == 2
    darkness = [t.value_of_css_property("background-color") for t in tokens(got)]
    assert len(set(darkness)) == len(NASTY), "each its own shade of total variation"


def test_pointing_shows_what_all_models_thought(page):
    got = page([nasty()])
    ActionChains(got).move_to_element(tokens(got)[1]).perform()
    said = panel(got)
    for word in (NASTY[1].strip(), "token 2 of 15", "rejected", "large", "tuned", "base", "mixture", "entropy", "0.25"):
        assert word in said, word
    assert "↑ ×6.7" in said, "exp(1.9) more likely than under tuned"
    assert "large 0.250" in said, "attribution"
    assert "</bdi><script>" in said
    assert got.execute_script("return getComputedStyle(document.querySelector('#panel')).position") == "sticky"


def test_clicking_keeps_and_escape_lets_go(page):
    got = page([plain("one two three four")])
    first, second, third = tokens(got)[:3]
    second.click()
    ActionChains(got).move_to_element(third).perform()
    assert "token 2 of 4" in panel(got)
    ActionChains(got).send_keys(Keys.ESCAPE).move_to_element(first).perform()
    assert "token 1 of 4" in panel(got)


def test_keys_alone_suffice(page):
    got = page([plain("one two three four"), plain("five six")])
    got.find_element(By.ID, "measure").send_keys(Keys.TAB)
    assert "token 1 of 4" in panel(got)
    ActionChains(got).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
    assert "token 3 of 4" in panel(got)
    ActionChains(got).send_keys(Keys.END).perform()
    assert "token 4 of 4" in panel(got)
    outline = got.switch_to.active_element.value_of_css_property("outline-style")
    assert outline == "solid", "where the keys are can be seen"
    ActionChains(got).send_keys(Keys.TAB, Keys.TAB, Keys.TAB).perform()
    assert "token 1 of 2" in panel(got), "one stop for each text; its table is another"


def test_right_to_left_text_runs_right_to_left(page):
    words = plain("x")
    arabic = [NASTY[6].strip(), NASTY[7]]
    tokens_of = [type(words.tokens[0])(id=i, text=text, logprobs=[-1.0] * 4, tv=0.5) for i, text in enumerate(arabic)]
    got = page([type(words)(tokens_of)])
    first, second = tokens(got)
    assert first.location["x"] > second.location["x"]
    first.click()
    ActionChains(got).send_keys(Keys.ARROW_LEFT).perform()
    assert "token 2 of 2" in panel(got), "left is onwards"


def test_other_shades(page):
    got = page([nasty()])
    before = tokens(got)[0].get_attribute("style")
    Select(got.find_element(By.ID, "measure")).select_by_value("surprise")
    assert tokens(got)[0].get_attribute("style") != before
    assert "surprise 0.1" in tokens(got)[0].get_attribute("aria-label")
    assert "surprise" in got.find_element(By.CSS_SELECTOR, ".axis-name").text


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1200])
def test_light_dark_and_narrow(page, dark, width):
    got = page([nasty()], width, dark)
    tokens(got)[3].click()
    body = got.find_element(By.TAG_NAME, "body")

    def brightness(css):
        return sum(int(x) for x in css[css.index("(") + 1 : -1].replace(" ", "").split(",")[:3]) / 3

    back, front = (brightness(body.value_of_css_property(p)) for p in ("background-color", "color"))
    assert (back < 60 and front > 200) if dark else (back > 240 and front < 60)
    assert got.execute_script("return document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling"
    place = got.execute_script("return getComputedStyle(document.querySelector('#panel')).position")
    assert place == ("fixed" if width == 390 else "sticky")
    box, token = got.find_element(By.ID, "panel").rect, tokens(got)[3]
    bottom = got.execute_script("return arguments[0].getBoundingClientRect().bottom", token)
    top = got.execute_script("return document.querySelector('#panel').getBoundingClientRect().top")
    assert box["height"] > 50
    assert width == 1200 or bottom <= top + 1, "the panel does not hide the token"
