"""What a user reads when a configuration is wrong: file or override, key, value, cure; one line."""

import pytest

from tinyclip_edge.config import flatten, load_config
from tinyclip_edge.errors import ConfigError

MINIMAL = "teacher: {model: t}\nstudent: {model: s}\ndata: {train: x.tar}\n"


def refused(name, *overrides):
    with pytest.raises(ConfigError) as caught:
        load_config(name, overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected_message"),
    [
        ("optim.step=10", "unknown key 'optim.step'; did you mean 'optim.steps'?"),
        ("lr=1", "unknown key 'lr'; did you mean 'optim.lr'?"),
        ("optm.lr=3", "unknown key 'optm'; did you mean 'optim'?"),
        ("optim.learning_rate=3", "unknown key 'optim.learning_rate'"),
        ("optim.lr=fast", "optim.lr is 'fast' (text); expected a valid number"),
        ("optim.lr=-1", "optim.lr is -1 (a whole number); expected greater than 0"),
        ("optim.lr=.inf", "optim.lr is inf (a number); expected a finite number"),
        ("optim.steps=1.5", "optim.steps is 1.5 (a number); expected a valid integer"),
        ("seed=true", "seed is True (true or false); expected a valid integer"),
        ("data.batch_distinct=1", "expected a valid boolean"),
        (
            "data.train=3",
            "data.train is 3 (a whole number); expected a valid string or a valid list",
        ),
        ("loss.student_logit_scale=big", "expected a valid number or 'teacher' or 'learned'"),
        (
            "inherit.method=mask",
            "inherit.method is 'mask' (text); expected 'uniform', 'masks' or 'none'",
        ),
        ("optim.betas=[0.9]", "optim.betas is [0.9] (a list); expected another item"),
        ("teacher=3", "teacher is 3 (a whole number); expected a section"),
        ("teacher.model=", "teacher.model is None (nothing); expected a valid string"),
        ("name=../x", "name is '../x' (text); expected text that matches"),
        ("student.model.width=3", "'model' is a value, not a section"),
        ("optim.lr", "expected key=value, such as optim.steps=500"),
        ("optim.steps=1" + "0" * 400, "an integer with too many digits"),
        ("optim.steps=1" + "0" * 13, "expected less than or equal to 1000000000000"),
        ("optim.betas=[1", "the value is not YAML"),
        ('seed=!!int ""', "the value is not YAML (line 1: '' cannot be read as int; quote it)"),
        ("seed=!!bool x", "'x' cannot be read as bool"),
        ("seed=!!timestamp x", "'x' cannot be read as timestamp"),
        ("seed=!!map x", "a value is marked as a section"),
        ("name={{ run_name }}", "the value is not YAML"),
        ("name=2026-13-45", "the value is not YAML"),
    ],
)
def test_a_wrong_override_is_named_with_its_cure(override, expected_message):
    message = refused("starter", override)
    assert message.startswith(f"override '{override[:100]}")
    assert expected_message in message


@pytest.mark.parametrize(
    ("text", "expected_message"),
    [
        ("optim: {step: 1}", "unknown key 'optim.step'; did you mean 'optim.steps'?"),
        ("optim: {steps: many}", "optim.steps is 'many' (text); expected a valid integer"),
        ("optim: {lr: 1}\noptim: {lr: 2}", "line 5: key 'optim' appears twice"),
        ("optim: ]", "line 4: "),
        ("name: {{ run_name }}", "line 4: a section cannot be a key; quote text with braces"),
        ("? [a, b]\n: 1", "line 4: a list cannot be a key"),
        ("name: 2026-13-45", "line 4: '2026-13-45' cannot be read as timestamp; quote it"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, text, expected_message):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL + text)
    message = refused(path)
    assert message.startswith(f"{path}: ")
    assert expected_message in message


def test_a_missing_section_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("teacher: {model: t}\nstudent: {model: s}\n")
    assert refused(path) == f"{path}: key 'data' is missing"
    path.write_text("- a\n")
    assert "expected sections such as 'teacher:', found a list" in refused(path)
    path.write_bytes(b"\xff\xfe\x00")
    assert f"{path}: " in refused(path)


def test_names_and_paths_that_do_not_exist(tmp_path):
    assert "did you mean 'starter'?" in refused("startr")
    assert refused(tmp_path / "no.yaml") == f"configuration {tmp_path / 'no.yaml'}: no such file"


def test_the_override_is_blamed_only_for_its_own_key(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL + "optim: {steps: many}")
    assert refused(path, "optim.lr=1e-3").startswith(f"{path}: optim.steps")


def test_overrides_win_and_plain_exponents_are_numbers(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL + "optim: {lr: 5e-4, steps: 7}\n")
    config = load_config(path, ["optim.steps=9", "data.val=[a.tar, b.tar]", "run.device=cpu"])
    assert (config.optim.lr, config.optim.steps) == (0.0005, 9)
    assert config.data.val == ["a.tar", "b.tar"]
    assert flatten(config)["run.device"] == "cpu"
    assert flatten(config)["seed"] == 0
