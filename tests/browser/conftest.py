"""Fixtures of the page that runs a bundle in the browser; the demo page brings its own."""

import shutil

import pytest

from shared_builds import built_once
from web_page import add_pixel_towers, open_page, running_chromium, serving, silent_tab


@pytest.fixture(scope="module")
def bundle(exported, tmp_path_factory):
    """Shared: do not write into it."""
    return built_once(
        tmp_path_factory, "web-bundle", lambda folder: add_pixel_towers(exported, folder)
    )


@pytest.fixture(scope="module")
def browser():
    with running_chromium() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def server(bundle):
    with serving(bundle) as instance:
        yield instance


@pytest.fixture
def tab(browser, server):
    with silent_tab(browser) as page:
        open_page(page, server)
        yield page


@pytest.fixture
def altered(bundle, tmp_path):
    """A copy of the bundle that a test may change."""
    return shutil.copytree(bundle, tmp_path / "altered")
