"""Plans of runs, against published sizes and costs and against counts by hand."""

import json

import pytest
import torch

from tinyclip_edge.config import load_config
from tinyclip_edge.config.load import config_names
from tinyclip_edge.errors import ConfigError, InheritanceError
from tinyclip_edge.models import create_student, load_clip
from tinyclip_edge.models.student import plan_student
from tinyclip_edge.train.preflight import machine_rate
from tinyclip_edge.train.preflight.dry_run import device_hours, plan_run

# Millions of parameters, image and text, of the last stage: names of arXiv 2309.12314, table 3.
PUBLISHED = {
    "tinyclip-vit-39m-16": [(39, 19)],
    "tinyclip-vit-8m-16": [(8, 3)],
    "tinyclip-vit-40m-32": [(61, 29), (40, 19)],
    "tinyclip-resnet-19m": [(30, 29), (19, 19)],
    "tinyclip-auto-63m-32": [(63, 31)],
    "tinyclip-auto-45m-32": [(63, 31), (45, 18)],
    "tinyclip-auto-22m-32": [(63, 31), (45, 18), (22, 10)],
}
# GFLOP of a pair, both towers, as open_clip's model profile states them.
PROFILED = {"16": 41.09, "32": 14.78, "19m": 18.18}
PAIRS = {"16": 25 * 15e6, "32": 6 * 400e6, "19m": 6 * 400e6}


def test_every_shipped_run_has_a_plan_here_or_below():
    starter = {"starter", "starter-15", "starter-masks", "starter-stages"}
    assert set(config_names()) == starter | set(PUBLISHED)


SLOW = (
    "tinyclip-vit-39m-16",
    "tinyclip-vit-40m-32",
    "tinyclip-auto-63m-32",
    "tinyclip-auto-45m-32",
    "tinyclip-auto-22m-32",
    "tinyclip-resnet-19m",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PUBLISHED],
)
def test_a_published_recipe(name):
    plan = plan_run(load_config(name, []), processes=32)
    kind = name.rpartition("-")[2]
    sizes = [(s.image_parameters / 1e6, s.text_parameters / 1e6) for s in plan.stages]
    for size, expected in zip(sizes, PUBLISHED[name], strict=True):
        # Where masks take from is learnt; how much they leave in all is asked for.
        assert sum(size) == pytest.approx(sum(expected), rel=0.06 if "auto" in name else 0.02)
        assert size == pytest.approx(expected, abs=4 if "auto" in name else 0.6)
    assert plan.held == 1024
    for stage in plan.stages:
        assert stage.samples == pytest.approx(PAIRS[kind], rel=1e-3)
        gflop = stage.teacher_pflop * 1e6 / stage.samples
        assert gflop == pytest.approx(PROFILED[kind], rel=0.01)
        assert 1e9 < stage.activation_bytes < 100e9


@pytest.mark.parametrize("name", ["starter", "starter-15", "starter-masks", "starter-stages"])
def test_a_starter_run(name):
    config = load_config(name, [])
    plan = plan_run(config)
    assert plan.teacher_parameters == 7_445_760
    assert sum(stage.steps for stage in plan.stages) == 800 if "stages" in name else 400
    assert plan.held == config.optim.batch_size


def test_masks_cost_their_full_student_up_to_the_prune():
    stage = plan_run(load_config("starter-masks", ["masks.prune=0.8"])).stages[0]
    half = plan_run(load_config("starter-masks", ["masks.prune=0.4"])).stages[0]
    teacher = stage.teacher_pflop * 3  # forward and backward of a student as large
    assert half.pflop < stage.pflop < teacher
    # 0.8 + 0.2 * 0.444 and 0.4 + 0.6 * 0.444 of it, the unprunable counted in
    assert stage.pflop / half.pflop == pytest.approx(0.8888 / 0.6664, rel=1e-6)


def test_parts_of_a_batch_and_checkpointing_spare_memory():
    def activations(*overrides):
        return plan_run(load_config("starter", [*overrides])).stages[0].activation_bytes

    full = activations()
    assert activations("run.micro_batch=32") == pytest.approx(full / 4, rel=1e-3)
    assert activations("run.precision=bf16") == pytest.approx(full / 2, rel=1e-3)
    assert activations("run.grad_checkpointing=true") < 0.5 * full


def test_a_mapping_is_counted_while_it_is_learnt():
    """The teacher's weights, its factors with moments, and the student's weights made of them."""
    shape = {
        "vision_cfg": {"width": 128, "layers": 4},
        "text_cfg": {"width": 128, "heads": 2, "layers": 2},
    }
    given = f"student.model={json.dumps(shape)}"
    plain, mapped = (
        plan_run(load_config("starter", [given, f"inherit.plan={plan}"])).stages[0].student_bytes
        for plan in ("evenly", "mapped")
    )
    teacher = load_clip("starter-teacher")
    student = create_student(shape, teacher)
    inheritance = plan_student(teacher, student, plan="evenly")
    mapping = inheritance.mapping(student.model.state_dict())
    weights = sum(weight.numel() for weight in mapping().values())
    factors = sum(factor.numel() for factor in mapping.parameters())
    held = sum(buffer.nbytes for buffer in mapping.buffers())
    # The weights made are there twice, in the student without moments: 4 + 4 - 8 bytes.
    at_least = held + 16 * factors - 4 * weights
    assert held > 4 * 7_000_000  # the encoders of the teacher
    assert at_least < mapped - plain < at_least + 8 * (held + 4 * weights)


def test_hours_are_operations_over_rate():
    assert device_hours(1440.0, 400.0) == pytest.approx(1.0)


def test_what_cannot_begin_is_refused():
    with pytest.raises(
        ConfigError, match="batch_size 128 cannot be divided evenly among 3 processes"
    ):
        plan_run(load_config("starter", []), processes=3)
    with pytest.raises(InheritanceError):
        plan_run(load_config("starter", ["student.model={vision_cfg: {layers: 40}}"]))


def test_the_command_trains_nothing(command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rate = ("--dry-run", "--tflops", "114")
    code, out, err = command_line("distill", "tinyclip-vit-8m-16", *rate)
    assert code == 2  # the pairs that the recipe names are the reader's to bring
    assert "8.28 M" in out and "11,444" in out
    assert "nothing was trained" in err
    assert err.splitlines()[-1].startswith("error: data.train: nothing matches 'data/")
    override = "data.train=starter:train"
    code, again, err = command_line("distill", "tinyclip-vit-8m-16", override, *rate)
    assert (code, again) == (0, out)
    code, out, _ = command_line("distill", "starter", "--dry-run", "--json", "--tflops", "1")
    printed = json.loads(out)
    assert printed["device_hours"] == pytest.approx(printed["pflop"] / 3.6)
    assert not list(tmp_path.iterdir())
    code, _, err = command_line("distill", "starter", "--json")
    assert code == 2
    assert "--json requires --dry-run" in err


def test_without_a_rate_the_machine_is_measured(command_line, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "tinyclip_edge.train.preflight.machine_rate.training_tflops",
        lambda device, precision: calls.append((device.type, precision)) or 0.05,
    )
    code, _, err = command_line("distill", "starter", "--dry-run", "run.device=cpu")
    assert code == 0 and calls == [("cpu", "fp32")]
    line = next(line for line in err.splitlines() if line.startswith("total"))
    assert "at 50.0 GFLOP/s per device, measured here" in line
    printed = json.loads(command_line("distill", "starter", "--dry-run", "--json")[1])
    assert printed["tflops"] == 0.05


def test_the_rate_counts_each_product_of_a_layer(monkeypatch):
    times = iter([0.0, 0.3, 0.6])
    monkeypatch.setattr(machine_rate, "_now", lambda device: next(times))
    products = 3 * 2 * 64 * 50 * 12 * 256**2  # forward and backward, one pass
    # Those of attention, whose backward pass computes its scores again. torch counts them for
    # CPUs since 2.15; they are 4 % of the others here.
    attention = 3.5 * 4 * 64 * 50**2 * 256
    rate = machine_rate.training_tflops(torch.device("cpu"), "fp32") * 1e12 * 0.6
    assert rate in (pytest.approx(products), pytest.approx(products + attention))
