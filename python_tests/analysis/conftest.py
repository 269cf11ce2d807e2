import pytest

from eft_ext.analysis.report import report_html


@pytest.fixture(scope="module")
def browser():
    from python_tests.analysis.browsing import start

    driver = start()
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
