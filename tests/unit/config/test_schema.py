"""The schema: shipped files load, every field is told, sections do not contradict themselves."""

import pytest

from tinyclip_edge.config import RunConfig, config_names, configs_path, dump_config, load_config
from tinyclip_edge.config.loss import LossConfig
from tinyclip_edge.config.section import is_section
from tinyclip_edge.errors import ConfigError

SHIPPED = sorted((configs_path() / "runs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_run_loads(path):
    config = load_config(path)
    assert config.name == path.stem
    assert load_config(path.stem) == config


def test_the_starter_runs_are_shipped():
    assert {"starter", "starter-15"} <= set(config_names())


def test_starter_is_as_documented():
    config = load_config("starter")
    assert (config.teacher.model, config.student.model) == ("starter-teacher", "starter-50")
    assert config.inherit.method == "uniform"
    assert (config.loss.affinity, config.loss.feature) == (1.0, 16000.0)
    assert (config.optim.batch_size, config.optim.lr, config.optim.weight_decay) == (128, 2e-3, 0.1)
    assert config.optim.warmup_steps == 24
    assert (config.optim.final_lr_ratio, config.optim.grad_clip) == (0.02, 1.0)
    assert config.data.batch_distinct
    assert config.data.cache_teacher


def fields(model):
    for name, field in model.model_fields.items():
        yield f"{model.__name__}.{name}", field
        if is_section(field.annotation):
            yield from fields(field.annotation)


def test_lists_and_unions_are_no_sections():
    assert is_section(LossConfig)
    assert not any(map(is_section, (str, None, list[str], dict[str, int], LossConfig | None)))


@pytest.mark.parametrize("field", [pytest.param(f, id=n) for n, f in fields(RunConfig)])
def test_every_field_says_what_it_is(field):
    assert field.description
    assert field.description.endswith(".")


def test_a_written_configuration_reads_back_the_same(tmp_path):
    config = load_config("starter", ["student.model={embed_dim: 64}", "optim.betas=[0.8, 0.9]"])
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"), [("0.125", 200, 25), ("40", 200, 40), ("0", 200, 0)]
)
def test_warmup_is_a_share_below_one_and_a_number_of_steps_above(warmup, steps, expected):
    config = load_config("starter", [f"optim.warmup={warmup}", f"optim.steps={steps}"])
    assert config.optim.warmup_steps == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss={feature: 0, affinity: 0}", "feature, sigmoid and interactive are all 0"),
        ("optim.warmup=400", "warmup (400 steps) must be below steps (400)"),
        ("optim.betas=[0.9, 1.5]", "betas must lie in [0, 1)"),
        ("loss.student_logit_scale=-3", "student_logit_scale must be above 0"),
    ],
)
def test_contradictions_are_refused(override, message):
    with pytest.raises(ConfigError) as caught:
        load_config("starter", [override])
    assert message in str(caught.value)
