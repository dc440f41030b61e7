"""Two small runs with scores and grids at two steps, one of them with a table of samplers × steps."""

import shutil

import pytest

from tests.helpers.needs import require
from tests.helpers.small import diffexp, fit

SCORED = [
    "score={every: 4, count: 64, samplers: {ddim-50: null, ddpm: {name: ddpm}, ddim-5: {name: ddim, steps: 5}}}",
]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    fit(folder / "one", *SCORED)
    fit(folder / "two", *SCORED, "model.timesteps=30", "optim.lr=2e-3")
    cache = {"DIFFEXP_CACHE": str(folder / "cache")}
    diffexp("evaluate", "one", "steps=[5,10]", "count=40", "repeats=2", "samplers.ddpm=null", cwd=folder, **cache)
    return folder


@pytest.fixture(scope="session")
def browser():
    chromium = shutil.which("chromium")
    require(chromium, "`apt install chromium`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Opened:
    """A page in the browser, with all that it says to the console and asks for."""

    def __init__(self, browser, path, **options):
        self.page = browser.new_page(**options)
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())


@pytest.fixture
def opened(browser):
    pages = []

    def open_page(path, **options):
        pages.append(Opened(browser, path, **options))
        return pages[-1]

    yield open_page
    for each in pages:
        each.page.close()
