"""The benchmark in the page: counted calls, known recall, files that can be read back."""

import csv
import io
import json
import threading
import time

import pytest
from angle_model import BLUE, GREEN, RED, last, square

from tinyclip_demo.figures import MeasureReport, MeasureSettings
from tinyclip_demo.gallery import Gallery
from tinyclip_demo.host import host_facts
from tinyclip_demo.measure import MeasureProgress
from tinyclip_edge.errors import ConfigError
from tinyclip_edge.evaluation.latency import WARM_UP
from tinyclip_edge.runtime.cpu import core_count

ONE_ROUND_OF_TEN = MeasureSettings(threads=1, batch=4, rounds=10)


def test_every_model_has_its_calls_and_the_report_its_figures(service, models, gallery):
    steps = list(service.measure((0, 1), ONE_ROUND_OF_TEN, gallery))
    report = steps[-1]
    assert isinstance(report, MeasureReport)
    assert all(isinstance(step, MeasureProgress) for step in steps[:-1])
    shares = [step.share for step in steps[:-1]]
    assert shares == sorted(shares) and shares[-1] <= 1
    for model in models:
        assert model.image_calls.count(4) == WARM_UP + 10
        assert sum(len(texts) == 4 for texts in model.text_calls) == WARM_UP + 10
    first, other = report.rows
    # "red" finds 0, 30, 100 degrees; "green" at 60 finds green; "blue" at 180 finds blue
    assert (first.name, first.recall_at_1, first.recall_at_5) == ("first", 1.0, 1.0)
    # red lies at 50 and green at 10: both are taken for the other
    assert other.recall_at_1 == pytest.approx(1 / 3)
    assert report.pairs == "3 pairs of three"
    assert first.images_per_second == pytest.approx(4e3 / first.latency.image.median_ms)


def test_the_files_say_what_the_table_says(service):
    report = last(service.measure((1,), ONE_ROUND_OF_TEN, None))
    content = json.loads(report.as_json())
    assert content["settings"] == {"threads": 1, "batch": 4, "rounds": 10}
    assert content["host"]["cores"] == str(core_count())
    assert content["accuracy_on"] is None
    (line,) = csv.DictReader(io.StringIO(report.as_csv()))
    (model,) = content["models"]
    assert (line["model"], line["threads"], line["batch"]) == ("other", "1", "4")
    assert float(line["image_median_ms"]) == model["image_median_ms"]
    assert line["bytes_on_disk"] == "4000"


def test_accuracy_samples_a_large_gallery(service, models):
    pictures, names = (square(RED), square(GREEN), square(BLUE)) * 200, ("red", "green", "blue")
    gallery = Gallery("large", pictures, names * 200)
    report = last(service.measure((0,), MeasureSettings(), gallery))
    assert report.pairs == "400 pairs of large"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": 0}, "0 threads"),
        ({"threads": 10_000}, "10000 threads"),
        ({"batch": 3}, "batch 3"),
        ({"rounds": 10**9}, "choose from the lists"),
    ],
)
def test_settings_that_the_page_does_not_offer(settings, message):
    with pytest.raises(ConfigError, match=message):
        MeasureSettings(**settings)


def test_an_error_of_a_model_reaches_the_page_and_frees_the_others(service, models):
    models[1].encode_text = lambda texts: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(service.measure((0, 1), MeasureSettings(), None))
    assert service.lock.acquire(timeout=1)
    service.lock.release()


def test_a_measurement_that_nobody_waits_for_ends(service, models):
    slow = models[0]
    encode = slow.encode_image
    slow.encode_image = lambda images: (time.sleep(0.05), encode(images))[1]
    steps = service.measure((0,), MeasureSettings(rounds=50), None)
    next(steps)
    steps.close()
    free = threading.Event()

    def wait():
        with service.lock:
            free.set()

    threading.Thread(target=wait, daemon=True).start()
    # fifty rounds would take 2.75 s
    assert free.wait(1.5)


def test_the_machine_is_described():
    facts = host_facts()
    assert {"processor", "instructions", "cores", "system", "python", "onnxruntime"} <= set(facts)
    assert all(facts.values())


def test_the_last_record_of_the_same_models_is_kept_but_not_of_a_visitors_pictures(service):
    assert service.last_measurement((0, 1)) is None
    report = last(service.measure((0, 1), ONE_ROUND_OF_TEN, service.galleries.default))
    assert service.last_measurement((0, 1)) is report
    assert service.last_measurement((0,)) is None
    visitors = Gallery("private", (square(RED), square(GREEN)), ("red", "green"))
    last(service.measure((0, 1), ONE_ROUND_OF_TEN, visitors))
    assert service.last_measurement((0, 1)) is report
