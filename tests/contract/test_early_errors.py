"""A mistake on the command line is answered before torch is imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "open_clip", "transformers", "gradio", "webdataset")
# Words of the command, and a part of the one line that answers them.
MISTAKES = {
    "distill nowhere.yaml": "configuration nowhere.yaml: no such file",
    "distill bad.yaml": "bad.yaml: line 2",
    "distill key.yaml": "did you mean 'optim.steps'?",
    "distill startr": "did you mean 'starter'?",
    "distill starter optim.stpes=3": "did you mean 'optim.steps'?",
    "distill --resume nowhere": "cannot resume nowhere: there is no such folder",
    "distill --resume empty": "cannot resume empty: it has no config.yaml",
    "distill --resume full": "cannot resume full: it has no config.yaml",
    "distill starter --out full": "run folder full is not empty",
    "distill starter --dry-run teacher.model=nowhere": "no model or folder 'nowhere'",
    "distill starter teacher.model=nowhere/x": "no model or folder 'nowhere/x'",
    "distill starter teacher.ensemble=[{model:ViT-B-3}]": "teacher.ensemble[1]",
    "distill starter student.model=starter-5O": "did you mean 'starter-50'?",
    "distill starter student.vocab=nowhere.txt": "no file nowhere.txt",
    "doctor starter student.vocab=tokens.json": "must be a text file with one text per line",
    "distill starter data.train=nowhere.tar": "nothing matches 'nowhere.tar'",
    "distill starter data.val=starter:vla": "did you mean 'val'?",
    "cache starter data.feature_cache=null": "data.feature_cache is null",
    "tailor --images nowhere --labels key.yaml": "no folder nowhere",
    "tailor --images empty --labels nowhere.txt": "no file nowhere.txt",
    "tailor --images empty --labels key.yaml": "no picture in empty",
    "tailor --images empty --labels key.yaml --max-mb 0": "max_mb is 0",
    "doctor key.yaml": "did you mean 'optim.steps'?",
    "inherit starter inherit.method=masks": "inherit.method is masks",
    "inherit starter --out full": "full is not empty",
    "convert nowhere.pt --out new": "no checkpoint file nowhere.pt",
    "convert empty --out new": "empty is neither an open_clip folder nor a run",
    "convert starter-teacher --out full": "full is not empty",
    "convert key.yaml --config ViT-B-3 --out new": "did you mean 'ViT-B-32'?",
    "export": "no finished run under runs",
    "export nowhere": "no model or folder 'nowhere'",
    "export starter-techer": "did you mean 'starter-teacher'?",
    "export starter-15": "starter-15 is a shape without weights",
    "export ViT-B-32": "ViT-B-32 needs a pretrained tag",
    "export ViT-B-32/laion2b": "ViT-B-32 has no pretrained tag or file 'laion2b'",
    "export starter-teacher --target x87": "did you mean 'x86'?",
    "export starter-teacher --precision int9": "did you mean 'int8'?",
    "export starter-teacher --data nowhere.tar": "nothing matches 'nowhere.tar'",
    "export starter-teacher --calibration nowhere.tar": "nothing matches 'nowhere.tar'",
    "export starter-teacher --trim-vocab nowhere.txt": "no file nowhere.txt",
    "export starter-teacher --labels nowhere.txt": "no file nowhere.txt",
    "export starter-teacher --out full": "full has other files in it",
    "check nowhere": "nowhere is not a bundle",
    "eval nowhere": "no model or folder 'nowhere'",
    "eval starter-teacher --data nowhere": "nothing matches 'nowhere'",
    "eval starter-teacher --data starter:vla": "did you mean 'val'?",
    "eval starter-teacher --precision int8": "starter-teacher is not a bundle",
    "eval starter-teacher --device gpu": "did you mean 'cpu'?",
    "compare nowhere": "no model or folder 'nowhere'",
    "compare starter-teacher --data starter:val nowhere": "nothing matches 'nowhere'",
    "compare starter-teacher --plot best.pdf": "plots are written as .png or .html",
    "bench starter-teacher nowhere": "no model or folder 'nowhere'",
    "report nowhere": "nowhere is not a run folder",
    "report nowhere --data starter:val": "--data ranks several runs",
    "demo --teacher nowhere": "no model or folder 'nowhere'",
    "demo --student nowhere": "no model or folder 'nowhere'",
    "demo --images nowhere": "no such folder of images: nowhere",
    "demo --web nowhere": "nowhere is not a bundle",
    "models --jsn": "No such option",
}
QUIET = ["models", "models --json", *(f"{name} --help" for name in (
    "quickstart", "distill", "doctor", "cache", "inherit", "convert", "export", "check", "eval",
    "compare", "bench", "report", "demo", "models",
))]  # fmt: skip

# Every command in one interpreter: what any of them imports would be seen at the next as well,
# so the first that imports too much is the one to fix.
DRIVER = """
import contextlib, io, json, sys
from tinyclip_edge.cli import app
found = {}
for line in json.loads(sys.argv[1]):
    sys.argv = ["tinyclip-edge", *line.split()]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    found[line] = (code, err.getvalue(), [name for name in HEAVY if name in sys.modules])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Exit code, stderr and heavy modules loaded, by command line."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "bad.yaml").write_text("name: [1\n")
    (folder / "key.yaml").write_text(
        "teacher: {model: starter-teacher}\nstudent: {model: starter-15}\n"
        "data: {train: 'starter:train'}\noptim: {stpes: 3}\n"
    )
    for name in ("empty", "full"):
        (folder / name).mkdir()
    (folder / "full" / "notes.txt").write_text("years")
    code = DRIVER.replace("HEAVY", repr(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps([*MISTAKES, *QUIET])],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_without_torch(answers, line):
    code, err, loaded = answers[line]
    assert (code, loaded) == (2, [])
    assert MISTAKES[line] in err
    assert "Traceback" not in err


@pytest.mark.parametrize("line", QUIET)
def test_help_and_the_list_of_models_need_no_torch(answers, line):
    code, err, loaded = answers[line]
    assert (code, err, loaded) == (0, "", [])
