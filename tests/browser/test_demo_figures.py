"""The figures that the demo promises, on the real command with two bundles of toy size.

They hold for two cores of one's own. Where others compute too, the clock says little: there only
the server's processor time counts, and of the round trips the quickest quarter.
"""

import os

import pytest

from demo_page import measure_hostile, measure_queue, measure_round_trip, measure_start, serving
from tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
USABLE_SECONDS = 6
ADDED_MS = 150
MEMORY_CHANGE = 0.10


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folders = [tmp_path_factory.mktemp("bundles") / name for name in ("teacher", "student")]
    for folder in folders:
        write_tiny_bundle(folder)
    return [str(folder) for folder in folders]


@pytest.fixture(scope="module")
def server(models):
    with serving(models) as running:
        running.wait()
        yield running


def test_the_page_is_usable_within_six_seconds_of_the_command(models):
    alone = os.getloadavg()[0] < 1
    found = measure_start(models)
    assert found["usable_server_cpu_s"] <= USABLE_SECONDS, found
    if alone:
        assert found["usable_s"] <= USABLE_SECONDS, found


def test_a_round_trip_adds_at_most_150_ms(server):
    alone = os.getloadavg()[0] < 1
    found = measure_round_trip(server, repeats=20)
    assert found["quarter_added_ms"] <= ADDED_MS, found
    if alone:
        assert found["median_added_ms"] <= ADDED_MS, found


def test_twenty_requests_of_four_clients_are_all_answered(server):
    found = measure_queue(server, clients=4, requests=20)
    assert found["answered"] == 20, found


def test_two_hundred_hostile_uploads_leave_the_server_as_it_was(server):
    found = measure_hostile(server, count=200)
    assert found["alive"], found
    assert found["told"] + found["opened"] == 200, found
    assert found["told"] >= 50, found
    assert abs(found["memory_change"]) <= MEMORY_CHANGE, found
