"""Drive the system's headless Chromium, as a reader of a page does."""

import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def opened(address, *, dark=False, width=1200, height=900):
    """Open an address in a page that keeps what its console said in `page.said`, or skip where no Chromium is."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
        page.said = []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(address)
        yield page
        browser.close()
