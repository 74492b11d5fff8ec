"""Two models and three pictures that the tests of the demo share."""

import pytest
from angle_model import BLUE, GREEN, RED, AngleModel, square

from tinyclip_demo.gallery import Gallery
from tinyclip_demo.model_registry import ModelRegistry
from tinyclip_demo.service import DemoService

WORDS = {"red": 0, "green": 60, "blue": 180, "a red thing": 60}


@pytest.fixture
def gallery():
    return Gallery("three", (square(RED), square(GREEN), square(BLUE)), ("red", "green", "blue"))


@pytest.fixture
def models():
    first = AngleModel("first", {RED: 0, GREEN: 30, BLUE: 100}, WORDS)
    other = AngleModel("other", {RED: 50, GREEN: 10, BLUE: 100}, WORDS)
    return [first, other]


@pytest.fixture
def service(models, gallery):
    return DemoService(ModelRegistry(models), gallery)
