"""What a user gets wrong ends in one line and its exit code, with nothing half-written."""

import json
import socket

import pytest
import yaml

from pair_shards import toy_samples, write_shard
from tiny_bundle import write_tiny_bundle


@pytest.fixture
def command(tmp_path, monkeypatch, command_line):
    """Run the command line in an empty folder: (exit code, stdout, stderr)."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*words):
        return command_line(*words)

    run.folder = folder
    return run


def refused(command, *words, code=2):
    """Run, check the exit code and that the error is one line; return that line."""
    exit_code, _, err = command(*words)
    assert exit_code == code, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert "Traceback" not in err
    return errors[0]


def leaves_nothing(command):
    return not list(command.folder.rglob("*"))


@pytest.fixture
def run_file(tmp_path, toy_teacher_folder):
    """A valid toy run as a YAML file; keyword arguments replace whole sections."""

    def write(**sections):
        shard = write_shard(tmp_path / "pairs" / "train-00000.tar", toy_samples())
        config = {
            "name": "toy",
            "teacher": {"model": str(toy_teacher_folder)},
            "student": {"model": {"vision_cfg": {"width": 64, "layers": 2},
                                  "text_cfg": {"width": 64, "heads": 1, "layers": 2}}},
            "data": {"train": str(shard)},
            "optim": {"steps": 2, "batch_size": 8},
            **sections,
        }  # fmt: skip
        path = tmp_path / "toy.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def test_unknown_key_is_named_with_the_nearest_valid_one(command):
    line = refused(command, "distill", "starter", "optim.stpes=3")
    assert "stpes" in line and "'steps'" in line.replace("optim.steps", "'steps'")
    assert leaves_nothing(command)


def test_unknown_key_in_a_file(command, run_file):
    line = refused(command, "distill", run_file(lerning_rate=3))
    assert "toy.yaml" in line and "lerning_rate" in line
    assert leaves_nothing(command)


def test_wrong_type(command):
    line = refused(command, "distill", "starter", "optim.steps=many")
    assert "optim.steps" in line and "many" in line
    assert leaves_nothing(command)


def test_unknown_configuration(command):
    line = refused(command, "distill", "startr")
    assert "startr" in line and "starter" in line


def test_missing_configuration_file(command):
    assert "nowhere.yaml" in refused(command, "distill", "nowhere.yaml")


def test_missing_shard(command, run_file):
    line = refused(command, "distill", run_file(data={"train": "nowhere/{000..003}.tar"}))
    assert "nowhere" in line
    assert leaves_nothing(command)


def test_shard_cut_before_its_first_sample(command, run_file, tmp_path):
    shard = write_shard(tmp_path / "cut.tar", toy_samples())
    shard.write_bytes(shard.read_bytes()[:700])
    line = refused(command, "distill", run_file(data={"train": str(shard)}))
    assert line == f"error: shard {shard} is truncated or damaged (unexpected end of data); " \
        "write it again"  # fmt: skip
    assert leaves_nothing(command)


def test_a_file_that_is_no_tar(command, run_file, tmp_path):
    shard = tmp_path / "text.tar"
    shard.write_text("no tar " * 400)
    line = refused(command, "distill", run_file(data={"train": str(shard)}))
    assert line.startswith(f"error: shard {shard} is not a tar but text; ")
    assert leaves_nothing(command)


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_empty_shard(command, run_file, tmp_path, memory_gb):
    shard = write_shard(tmp_path / "empty.tar", [])
    line = refused(command, "distill", run_file(data={"train": str(shard), "memory_gb": memory_gb}))
    assert line == f"error: shard {shard} is empty: no KEY.jpg with KEY.txt in it"


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_batch_above_the_data_set(command, run_file, tmp_path, memory_gb):
    shard = write_shard(tmp_path / "few.tar", toy_samples()[:5])
    what = "distinct concepts" if memory_gb else "pairs"
    line = refused(command, "distill", run_file(data={"train": str(shard), "memory_gb": memory_gb}))
    assert line == f"error: optim.batch_size 8 exceeds the 5 {what} of {shard}; lower it"


@pytest.mark.parametrize("url", ["pipe:touch ran", "pipe:cat {0..1}.tar"])
def test_a_command_is_not_run_unasked(command, run_file, url):
    line = refused(command, "distill", run_file(data={"train": url}))
    message = f"data.train: '{url}' runs a command; set data.allow_pipes=true to allow it"
    assert line == f"error: {message}"
    assert leaves_nothing(command)


@pytest.mark.parametrize("url", ["s3://bucket/a.tar", "gs://bucket/a.tar", "hdfs:x.tar"])
def test_what_other_readers_would_give_to_a_command_is_refused(command, run_file, url):
    line = refused(command, "distill", run_file(data={"train": url}))
    assert url in line and "pipe:" in line
    assert leaves_nothing(command)


def test_too_many_broken_images(command, run_file, tmp_path):
    samples = toy_samples()
    for _, files in samples[:3]:
        files["png"] = b"not a picture"
    shard = write_shard(tmp_path / "bad.tar", samples)
    line = refused(command, "distill", run_file(data={"train": str(shard)}))
    assert samples[0][0] in line
    assert leaves_nothing(command)


@pytest.mark.parametrize(
    ("vision", "named"),
    [
        ({"width": 192, "layers": 2}, "192"),
        ({"width": 64, "layers": 9}, "9"),
        ({"width": 64, "layers": 2, "head_width": 32}, "32"),
    ],
)
def test_student_that_does_not_fit_its_teacher(command, run_file, vision, named):
    text = {"width": 64, "heads": 1, "layers": 2}
    student = {"model": {"vision_cfg": vision, "text_cfg": text}}
    assert named in refused(command, "distill", run_file(student=student))
    assert leaves_nothing(command)


def test_activation_of_the_student_differs(command, run_file):
    text = {"width": 64, "heads": 1, "layers": 2}
    vision = {"width": 64, "layers": 2}
    student = {"model": {"quick_gelu": True, "vision_cfg": vision, "text_cfg": text}}
    assert "gelu" in refused(command, "distill", run_file(student=student)).lower()
    assert leaves_nothing(command)


def test_folder_without_a_model(command, tmp_path):
    assert "open_clip_config.json" in refused(command, "eval", tmp_path)


def test_checkpoint_of_another_architecture(command, toy_teacher_folder, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    for file in toy_teacher_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 5
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    line = refused(command, "export", folder, "--int8")
    assert "resblocks.4" in line
    assert leaves_nothing(command)


def test_bundle_passed_to_export(command, tmp_path):
    write_tiny_bundle(tmp_path / "bundle")
    line = refused(command, "export", tmp_path / "bundle", "--int8")
    assert f"{tmp_path / 'bundle'} is an exported bundle" in line and "run folder" in line
    assert leaves_nothing(command)


def test_untrained_student_is_no_run_to_export(command, run_file):
    code, out, err = command("inherit", run_file(), "--json")
    assert code == 0, err
    assert json.loads(out)["student"] == "runs/toy-step0/student"
    assert "no finished run" in refused(command, "export", "--int8")


def test_inherit_does_not_replace_a_trained_student(command, run_file):
    student = command.folder / "runs" / "quickstart" / "student"
    student.mkdir(parents=True)
    (student / "open_clip_config.json").write_text("{}")
    line = refused(command, "inherit", run_file(), "--out", "runs/quickstart")
    assert "runs/quickstart is not empty" in line and "--out" in line
    assert [p.name for p in student.iterdir()] == ["open_clip_config.json"]


def test_output_folder_below_a_file(command, run_file, toy_teacher_folder, tmp_path):
    below = tmp_path / "file" / "b"
    below.parent.write_text("x")
    line = refused(command, "inherit", run_file(), "--out", below)
    assert "cannot write" in line and str(below) in line and "Not a directory" in line
    for out, cause in ((below, f"{below.parent} is a file"), (below / "c", "Not a directory")):
        line = refused(command, "export", toy_teacher_folder, "--limit", 2, "--out", out)
        assert f"cannot write bundle {out}: {cause}" in line
    assert leaves_nothing(command)


def test_export_before_any_run(command):
    assert "tinyclip-edge distill" in refused(command, "export", "--int8")
    assert leaves_nothing(command)


def test_bundle_with_a_changed_byte(command, tmp_path):
    write_tiny_bundle(tmp_path / "bundle")
    for path in (tmp_path / "bundle" / "onnx").glob("vision*.onnx"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    assert "vision_model" in refused(command, "eval", tmp_path / "bundle")


def test_port_in_use(command, tmp_path):
    write_tiny_bundle(tmp_path / "bundle")
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        bundle = tmp_path / "bundle"
        line = refused(command, "demo", "--teacher", bundle, "--student", bundle, "--port", port)
    assert str(port) in line and "--port" in line


def test_missing_image_folder_of_the_demo(command, tmp_path):
    write_tiny_bundle(tmp_path / "bundle")
    bundle = tmp_path / "bundle"
    line = refused(
        command, "demo", "--teacher", bundle, "--student", bundle, "--images", tmp_path / "none"
    )
    assert "none" in line


def test_usage_errors_end_with_2(command):
    code, _, err = command("distil")
    assert code == 2 and "distil" in err


def test_models_as_json_is_one_object(command):
    code, out, _ = command("models", "--json")
    assert code == 0
    assert any(row["name"] == "starter-50" for row in json.loads(out)["models"])
