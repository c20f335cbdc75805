"""A run starts from another run's learner, and then needs that run no more."""

import concurrent.futures
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from small_runs import TINY_VARIBAD, trained

import roml_jax as roml
from roml_jax import config, experiment, train
from roml_jax.config import seed_plan
from roml_jax.run import checkpoint, init_from, loop, progress, saved, start

SMALL = [*TINY_VARIBAD, "--sampler.batch-size", "16", "--seeds", "1", "2"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of two seeds."""
    return trained(tmp_path_factory.mktemp("from") / "source", "--seeds", "1", "2", tiny=TINY_VARIBAD)


def begun(*options):
    """What a run takes over, and its first state; nothing is trained."""
    made = config.parse([*SMALL, *map(str, options)])
    parts = experiment.make(made)
    plan = start.Plan(made, config.to_mapping(made), True)
    shapes = start.shapes_of(parts, plan)
    taken = start.inherited(parts, plan, shapes)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return taken, start.started(parts, plan, shapes, pool, taken)()


def leaves(state, *parts):
    return [np.asarray(leaf) for part in parts for leaf in jax.tree.leaves(getattr(state, part))]


@pytest.mark.parametrize("which", ["last", "best_cvar"])
def test_parameters_and_statistics_are_taken_over_and_nothing_else(which, source):
    taken, state = begun(
        "--init-from", source, "--which", which, "--seeds", "2,1", "--ppo.lr", "0.5", "--sampler", "cem_soft"
    )
    there, kept = saved.load(source, which), ("policy", "belief", "statistics")
    mine, theirs = leaves(state.meta.learner, *kept), leaves(there.learner, *kept)
    for new, old in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(new, old[::-1])  # by seed, in this run's order
    assert not any(leaf.any() for leaf in leaves(state.meta.learner, "policy_opt", "belief_opt", "frames"))
    assert not np.asarray(state.meta.learner.replay.size).any()
    np.testing.assert_array_equal(state.meta.learner.rates["ppo.lr"], np.float32([0.5, 0.5]))
    assert (state.done, int(state.meta.iteration)) == (0, 0)
    after = ", ".join(map(str, sorted({*there.iterations.tolist()})))
    assert taken.line == (
        f"starts from the learner {which} of {source} (iteration {after}): its parameters and statistics; "
        "new are optimisers, experience, sampler"
    )


def test_it_goes_on_without_the_other_run(source, tmp_path, monkeypatch, capfd):
    """Stopped, and with the other run gone; its first checkpoint is of its start."""
    elsewhere, folder, calls = shutil.copytree(source, tmp_path / "source"), tmp_path / "run", []
    advance, save = progress.ConsoleProgress.advance, checkpoint.Checkpoints.save

    def and_stop(self, *arguments):
        advance(self, *arguments)
        os.kill(os.getpid(), signal.SIGTERM)

    def and_note(self, iteration, items, about):
        calls.append(iteration)
        save(self, iteration, items, about)

    monkeypatch.setattr(checkpoint.Checkpoints, "save", and_note)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(progress.ConsoleProgress, "advance", and_stop)
        assert train.main([*SMALL, "--init-from", "source", "--out", str(folder)]) == 128 + signal.SIGTERM
    assert calls == [0, 1]
    said = " ".join(capfd.readouterr().out.split())
    assert f"starts from the learner last of {elsewhere} (iteration 15)" in said
    options = yaml.safe_load((folder / "config.yaml").read_text())
    assert (options["init_from"], options["which"]) == (str(elsewhere), None)
    shutil.rmtree(elsewhere)
    monkeypatch.chdir(source)

    def goes_on(parts, config, shapes, pool, begin):
        raise loop.RunError(f"from iteration {begin(pool, shapes)().done}")

    monkeypatch.setattr(loop, "compiled", goes_on)
    assert train.main(["--resume", str(folder)]) == 1
    said = capfd.readouterr()
    assert said.err == "error: from iteration 1\n"
    assert "starts from" not in said.out
    shutil.rmtree(folder / "checkpoint")  # only without one of its own does it need the other run
    assert train.main(["--resume", str(folder)]) == 2
    assert f"--init-from: {elsewhere} is not a run's folder" in capfd.readouterr().err


def test_one_seed_starts_many():
    one, three = seed_plan.plan((7,), ()), seed_plan.plan((0, 1, 2), ())
    assert init_from.places(Path("run"), one, three) == [0, 0, 0]
    swept = seed_plan.plan((0, 1), ("alpha=0.1,0.2",))
    assert init_from.places(Path("run"), swept, swept[::-1]) == [3, 2, 1, 0]
    assert init_from.places(Path("run"), three, swept) == [0, 1, 0, 1]


def test_the_best_learners_of_pearl_have_no_critics_to_take_over():
    parts = experiment.make(config.make("probe_target", "uniform", "pearl"))
    shapes = jax.eval_shape(parts.train.init, *seed_plan.leaves(seed_plan.plan((0,), ())))
    last, best = (init_from.part_of(parts, shapes, which) for which in ("last", "best_mean"))
    networks = {name.split(".")[1] for name in init_from.named(last.wanted)}
    assert networks > {"policy", "encoder", "q"}
    assert {name.split(".")[1] for name in init_from.named(best.wanted)} == {"policy", "encoder"}
    assert "frames" not in (last.fields or ())


WRONG = [
    (["--init-from", "nowhere"], "--init-from: {}/nowhere is not a run's folder: it has no config.yaml"),
    (["--init-from", "unsaved"], "--init-from: {}/unsaved has no checkpoint yet"),
    (
        ["--init-from", "source", "--seeds", "1,5"],
        "the seeds of {}/source are 1; 2, and seed 5 of this run is none",
    ),
    (
        ["--init-from", "source", "--ppo.layers", "16"],
        "{}/source has policy.params.actor_0.bias of shape (32,), but this run needs (16,)"
        "; options that differ: ppo.layers [32] there, [16] here",
    ),
    (
        ["--init-from", "source", "--ppo.layers", "32,32"],
        "{}/source has no policy.params.actor_1.bias, which this run's learner has"
        "; options that differ: ppo.layers [32] there, [32, 32] here",
    ),
    (
        ["--init-from", "source", "--protocol.no-end-flag"],
        "but this run needs (1, 32); options that differ: protocol.end_flag True there, False here",
    ),
    (["--init-from", "damaged"], "the checkpoint {}/damaged/checkpoint/15 "),
]


@pytest.mark.parametrize(("options", "said"), WRONG)
def test_what_cannot_be_taken_over_is_one_line(options, said, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(source, "source")
    shutil.copytree(source, "unsaved", ignore=shutil.ignore_patterns("checkpoint"))
    shutil.copytree(source, "damaged")
    for path in Path("damaged/checkpoint/15/state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert train.main([*SMALL, *options, "--out", "new"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --init-from: ")
    assert error.count("\n") == 1
    assert said.format(tmp_path) in error
    assert not Path("new").exists()


def test_another_agent_is_one_line(source):
    options = {"frames": 2e3, "num_tasks": 8, "sampler.batch_size": 16, "seeds": [1, 2]}
    with pytest.raises(roml.ConfigError) as caught:
        roml.train("probe_memory", agent="rl2", init_from=roml.open(source), **options)
    assert str(caught.value) == f"--init-from: the agent of {source} is varibad, that of this run rl2"
