"""The benchmark keeps runs apart that differ, and stores the figure quickstart reads."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="module")
def arms():
    import distill_arms

    return distill_arms


def parsed(arms, *more):
    arguments = arms.command_line().parse_args(["--out", "/somewhere/arms-50", *more])
    arguments.teacher = "0123abcd"
    return arguments


def test_runs_that_differ_have_folders_of_their_own(arms):
    other_teacher = parsed(arms)
    other_teacher.teacher = "ffffffff"
    settings = [
        parsed(arms),
        parsed(arms, "--steps", "50"),
        parsed(arms, "--every", "10"),
        parsed(arms, "--student", "starter-15"),
        other_teacher,
    ]
    folders = {arms.run_folder(one, "scratch", 1e-3, 0) for one in settings}
    folders |= {arms.run_folder(settings[0], "scratch", 2e-3, 0)}
    folders |= {arms.run_folder(settings[0], "scratch", 1e-3, 1)}
    assert len(folders) == 7


def test_a_finished_run_is_read_only_for_its_own_steps(arms, tmp_path, monkeypatch):
    arguments = parsed(arms, "--work", str(tmp_path), "--steps", "7")
    folder = arms.run_folder(arguments, "scratch", 1e-3, 0)
    folder.parent.mkdir()
    (folder.parent / f"{folder.name}.json").write_text('{"arm": "kept"}')
    assert arms.train(arguments, "scratch", 1e-3, 0, "unused") == {"arm": "kept"}
    monkeypatch.setattr("tinyclip_edge.train.distill", lambda *_: pytest.fail("asked to train"))
    with pytest.raises(pytest.fail.Exception, match="asked to train"):
        arms.train(parsed(arms, "--work", str(tmp_path)), "scratch", 1e-3, 0, "starter:val")


def test_the_stored_figure_is_what_quickstart_shows(arms, tmp_path, monkeypatch):
    from tinyclip_edge import starter
    from tinyclip_edge.cli.quickstart import from_scratch_note

    parser, arguments = arms.command_line(), parsed(arms, "--seeds", "0", "1")
    records = [{"last": {"t2i_r1": share}} for share in (0.25, 0.5)]
    command = arms.public_command(arguments, parser)
    figure = arms.stored_figure(records, 200, command)
    assert figure == {"steps": 200, "recall_at_1": 0.375, "seeds": 2, "command": command}
    stored = tmp_path / "from_scratch.json"
    stored.write_text(json.dumps(figure))
    monkeypatch.setattr(starter, "from_scratch_path", lambda: stored)
    (note,) = from_scratch_note()
    assert "same 200 steps" in note and "37.5 %" in note and "mean of 2 seeds" in note
    assert command in note


def test_the_shown_command_has_no_path_of_this_machine(arms):
    parser = arms.command_line()
    assert arms.public_command(parsed(arms), parser) == (
        "python benchmarks/distill_arms.py --student starter-50 --steps 400"
        " --out benchmarks/results/arms-50"
    )
    changed = parsed(arms, "--seeds", "3", "--lrs", "1e-3")
    assert "--seeds 3 --lrs 0.001 --out" in arms.public_command(changed, parser)


@pytest.mark.parametrize(
    ("best", "tried"),
    [(4e-4, [2e-4, 4e-4, 1e-3]), (1e-3, [4e-4, 1e-3, 2e-3]), (1e-4, [1e-4, 2e-4, 4e-4, 1e-3])],
)
def test_every_arm_tries_neighbours_until_its_own_rate(arms, best, tried):
    rates = [1e-4, 2e-4, 4e-4, 1e-3, 2e-3, 4e-3]
    result = arms.search_rates(rates, lambda lr: -abs(rates.index(lr) - rates.index(best)))
    assert sorted(result) == tried and max(result, key=lambda lr: result[lr]) == best


def test_rates_tuned_elsewhere_are_shown_and_not_tuned(arms, capsys):
    parser = arms.command_line()
    arguments = parsed(arms, "--rates", "affinity=5e-4", "scratch=1e-3")
    assert arms.fixed_rates(arguments, parser) == {"affinity": 5e-4, "scratch": 1e-3}
    shown = arms.public_command(arguments, parser)
    assert "--rates affinity=5e-4 scratch=1e-3 --out benchmarks/results/arms-50" in shown
    with pytest.raises(SystemExit):
        arms.fixed_rates(parsed(arms, "--rates", "random=1e-3"), parser)
    assert "unknown arm 'random'; choose from inherited, affinity" in capsys.readouterr().err
