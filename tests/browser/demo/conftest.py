"""The demo page of two toy models, in a real browser."""

import pytest
from hue_page import CHROMIUM, open_page, recorded_hosts, served


@pytest.fixture(scope="module")
def peers():
    """Hosts that this process, and so the server, connects to or looks up."""
    with recorded_hosts() as hosts:
        yield hosts


@pytest.fixture(scope="module")
def address(peers, tmp_path_factory):
    with served(tmp_path_factory.mktemp("indexes")) as url:
        yield url


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    """An open page; at the end it must have been silent and have asked nobody else."""
    with open_page(browser, address) as tab:
        yield tab
