"""The scoring pass: its frames, when it runs, that no learner learns from it, and runs that have one."""

import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config, experiment, meta, samplers, tasks, train
from roml_jax.agents.base import MetaLearner
from roml_jax.config import seed_plan
from roml_jax.experiment import Frames
from roml_jax.run import checkpoint, progress
from roml_jax.types import Feedback

FAMILY = tasks.beta("x", 0.0, 1.0)
SFL = {"sampler.candidates": 8, "sampler.rollouts": 3, "sampler.every": 4, "sampler.top": 4}


@pytest.mark.parametrize(
    "frames", [Frames(7), Frames(7, 100, 3), Frames(7, 5, 1), Frames(7, 10, 50), Frames(1, 1, 2)]
)
def test_frames_are_those_of_iterations_and_passes_counted_one_by_one(frames):
    total, counted = 0, [0]
    for iteration in range(200):
        total += frames.iteration + (frames.scoring if iteration % frames.every == 0 else 0)
        counted.append(total)
    assert [frames.after(i) for i in range(201)] == counted
    for limit in range(counted[150]):
        assert frames.iterations(limit) == np.searchsorted(counted, limit, side="right") - 1


def learner_that_counts(calls):
    """Returns are minus the task; the calls of ``collect`` that really run are counted by number of tasks."""

    def collect(state, tasks, key):
        jax.debug.callback(lambda x: calls.append(x.shape[0]), tasks)
        return state, tasks, Feedback(-tasks[:, 0] + jax.random.normal(key, tasks.shape[:1]))

    def update(state, experience, weights, key, progress):
        return state + experience.mean(), {"loss": jnp.zeros(())}

    return MetaLearner(lambda key: jnp.zeros(()), collect, update, None)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_a_pass_runs_only_in_the_iterations_that_have_one(num_seeds):
    """Ten iterations with a pass before every fourth: three passes per seed, also where seeds are vmapped."""
    calls = []
    options = samplers.SflConfig(candidates=8, rollouts=3, every=4, top=4)
    sampler = samplers.make("sfl", FAMILY, 0.2, options)
    made = meta.make_train(
        learner_that_counts(calls), sampler, num_tasks=5, num_iterations=10, num_seeds=num_seeds
    )
    keys = jax.random.split(jax.random.key(0), num_seeds)
    state, metrics = jax.jit(made.chunk)(jax.jit(made.init)(keys), jnp.int32(10))
    jax.effects_barrier()
    assert calls.count(24) == 3 * num_seeds
    assert calls.count(5) == 10 * num_seeds
    assert len(calls) == 13 * num_seeds
    passes = np.asarray(metrics["sampler/passes"])
    np.testing.assert_array_equal(passes, np.repeat([1, 2, 3], [4, 4, 2])[:, None].repeat(num_seeds, axis=1))
    # ten means of five tasks in [0, 1] were learned from, and nothing of the pass
    assert (np.asarray(state.learner) > 0).all()
    assert (np.asarray(state.learner) < 10).all()


def _small(agent, env="probe_target", **options):
    small = {"num_tasks": 4, "frames": 1e4, "chunk": 6} | SFL | options
    return experiment.make(config.make(env, "sfl", agent, **small))


AGENTS = {
    "multitask": {},
    "maml": {"ppo.minibatches": 2},
    "pearl": {"buffer_visits": 16, "learning_starts": 0, "sac.updates": 1, "sac.layers": 8},
    "rl2": {"ppo.minibatches": 2},
    "varibad": {"vae.buffer_trajectories": 16, "vae.batch_trajectories": 4},
}


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_collects_on_another_number_of_tasks(agent):
    """24 rollouts where an iteration has 4 tasks: building the run traces the pass."""
    parts = _small(agent, **AGENTS[agent])
    assert parts.frames == Frames(4 * 16, 24 * 16, 4)
    assert (
        parts.num_iterations == 60
    )  # 15 periods of 640 frames; 400 are left, a pass of 384 and no iteration


def test_a_pass_does_not_touch_the_replay():
    """The stored experience is no operand of the branch, which might copy it."""
    parts = _small("pearl", **AGENTS["pearl"])
    state = jax.eval_shape(parts.train.init, jax.random.split(jax.random.key(0), 1))
    iteration = meta.make_iteration(parts.learner, parts.sampler, 4, 10)
    jaxpr = jax.make_jaxpr(iteration)(state)
    branch = next(eqn for eqn in jaxpr.eqns if eqn.primitive.name == "cond")
    operands = [var.aval.shape for var in branch.invars]
    assert all(shape[:1] != (16,) for shape in operands)
    assert any(leaf.shape[:1] == (16,) for leaf in jax.tree.leaves(state.learner.replay))


def test_regression_learns_with_a_pass():
    parts = _small("maml", "sine", frames=2e4, layers=(8,))
    assert parts.frames == Frames(4 * 20, 24 * 20, 4)
    state = jax.jit(parts.train.init)(jnp.stack([jax.random.key(0)]))
    state, metrics = jax.jit(parts.train.chunk)(state, jnp.int32(6))
    assert np.isfinite(metrics["maml/meta_loss"]).all()
    assert int(state.sampler.state.passes) == 2
    assert int(state.sampler.state.count) == 4


def test_too_few_frames_for_a_pass_are_one_line():
    with pytest.raises(
        config.ConfigError, match=r"and a scoring pass of 384 frames \(8 candidates x 3"
    ) as error:
        _small("multitask", frames=400)
    assert "\n" not in str(error.value)


RUN = """
    --env probe_memory --agent multitask --num-tasks 8 --chunk 3 --ppo.layers 8 --ppo.minibatches 2
    --eval.interval 0 --eval.test-tasks 8 --seeds 3 4 --frames 4000
""".split()  # noqa: SIM905
OPTIONS = {
    "sfl": "--sampler.candidates 8 --sampler.rollouts 2 --sampler.every 4 --sampler.top 4".split(),  # noqa: SIM905
    "plr": "--sampler.buffer 24".split(),  # noqa: SIM905
    "accel": "--sampler.buffer 24".split(),  # noqa: SIM905
}
TIMES = {"seconds", "train/frames_per_second"}


def _rows(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def _state_of(folder):
    made = config.parse(["--config", str(folder / "config.yaml")])
    shapes = jax.eval_shape(experiment.make(made).train.init, *seed_plan.leaves(made.plan))
    state = checkpoint.restore(checkpoint.latest(folder / "checkpoint"), "state", shapes)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(checkpoint.plain(state))]


@pytest.mark.parametrize(
    "sampler", ["sfl", *(pytest.param(name, marks=pytest.mark.slow) for name in ("accel", "plr"))]
)
def test_a_run_is_resumed_bit_for_bit_and_counts_every_frame(sampler, tmp_path):
    """Stopped after 3 iterations by a signal, in the middle of a period of the scoring passes."""
    arguments = [*RUN, "--sampler", sampler, *OPTIONS[sampler]]
    assert train.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    advance, advanced = progress.ConsoleProgress.advance, []

    def and_send(self, frames, *more):
        advance(self, frames, *more)
        advanced.append(frames)
        if len(advanced) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress.ConsoleProgress, "advance", and_send)
        stopped = train.main([*arguments, "--out", str(tmp_path / "run")])
        assert stopped == 128 + signal.SIGTERM
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        assert train.main(["--resume", str(tmp_path / "copy")]) == 0
    assert _rows(tmp_path / "copy") == _rows(tmp_path / "whole")
    for mine, wanted in zip(_state_of(tmp_path / "copy"), _state_of(tmp_path / "whole"), strict=True):
        np.testing.assert_array_equal(mine, wanted)
    frames = Frames(128, 256, 4) if sampler == "sfl" else Frames(128)
    rows = _rows(tmp_path / "whole")
    assert all(row["frames"] == frames.after(row["iteration"]) for row in rows)
    assert rows[-1]["iteration"] == frames.iterations(4000)
    assert sum(advanced) == rows[-1]["frames"]  # per seed
