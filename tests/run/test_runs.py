"""Several runs in one program: seeds as ranges, swept settings, and memory known before the start."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roml_jax import config as configs
from roml_jax import experiment, train
from roml_jax.config import seed_plan
from roml_jax.run import memory

SMALL = {
    "num_tasks": 8, "frames": 1280, "chunk": 3, "learning_starts": 0, "sampler.batch_size": 8,
    "vae.buffer_trajectories": 16, "vae.batch_trajectories": 4,
}  # fmt: skip


def test_seeds_are_written_as_ranges():
    assert configs.parse(["--seeds", "0..3", "9"]).seeds == (0, 1, 2, 3, 9)
    assert configs.parse(["--seed", "7"]).seeds == (7,)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--seeds", "3..1"], "3..1"),
        (["--sweep", "ppo.lr=x"], "sweep must be NAME=VALUE"),
        (["--sweep", "ppo.lr=1,1"], "distinct finite values"),
        (["--sweep", "ppo.lr=1", "ppo.lr=2"], "twice"),
    ],
)
def test_wrong_runs_are_one_line(argv, said):
    with pytest.raises(configs.ConfigError, match=said) as error:
        configs.parse(argv)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ("ppo.gama=1,2", "did you mean 'ppo.lr'"),
        ("alpha=0.1,2", "alpha must be in"),
        ("ppo.lr=-1", "ppo.lr must"),
    ],
)
def test_what_cannot_be_swept_is_one_line(sweep, said, capsys):
    assert train.main(["--env", "probe_memory", "--sweep", sweep]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_every_setting_meets_every_seed():
    planned = seed_plan.plan((0, 1), ("alpha=0.1,0.2", "ppo.lr=1e-3,1e-4"))
    assert len(planned) == 8
    assert planned[1] == seed_plan.Seed(1, {"alpha": 0.1, "ppo.lr": 1e-3})
    assert planned[-1].label == "1, alpha=0.2, ppo.lr=0.0001"
    assert planned[-1].columns == {"seed": 1, "alpha": 0.2, "ppo.lr": 1e-4}


def _state_after(iterations, **options):
    config = configs.make("probe_memory", "cem", **{**SMALL, **options})
    parts = experiment.make(config)
    state = jax.jit(parts.train.init)(*seed_plan.leaves(config.plan))
    return jax.jit(parts.train.chunk)(state, jnp.int32(iterations))[0]


@pytest.mark.slow
def test_a_swept_run_is_the_run_by_itself(x64):
    """Three iterations of a learning rate and a risk level, in one program and alone."""
    swept = _state_after(3, sweep=["alpha=0.1,0.5", "ppo.lr=1e-3,1e-2"], seeds=[4])
    for index, (alpha, lr) in enumerate([(0.1, 1e-3), (0.1, 1e-2), (0.5, 1e-3), (0.5, 1e-2)]):
        alone = _state_after(3, seeds=[4], alpha=alpha, **{"ppo.lr": lr})
        mine = jax.tree.map(lambda x, i=index: x[i], swept.learner.policy)
        for one, other in zip(jax.tree.leaves(mine), jax.tree.leaves(alone.learner.policy), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(swept.sampler.state.phi[index], alone.sampler.state.phi, rtol=1e-9)
    assert not np.allclose(swept.sampler.state.phi[0], swept.sampler.state.phi[2])


def test_a_replay_of_half_the_width_trains():
    state = _state_after(2, **{"vae.replay_dtype": "bfloat16"})
    assert state.learner.replay.rows.obs.dtype == jnp.bfloat16
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.learner.belief))


def test_what_cannot_fit_is_refused_with_what_would(monkeypatch):
    config = configs.make("probe_memory", "cem", **{**SMALL, "seeds": ["0..9"]})
    parts = experiment.make(config)
    shapes = jax.eval_shape(parts.train.init, *seed_plan.leaves(config.plan))
    needed = memory.size_of(shapes)
    monkeypatch.setattr(memory, "available", lambda: 2 * needed)
    check = functools.partial(memory.check, shapes, 10, storage=parts.learner.storage, rows=64)
    check()
    monkeypatch.setattr(memory, "available", lambda: needed // 2)
    with pytest.raises(configs.ConfigError, match=r"at most 4 seeds") as error:
        check()
    assert "\n" not in str(error.value)
    check(devices=4)


def test_a_replay_that_does_not_fit_is_told_sizes_that_do(monkeypatch):
    def check(**options):
        config = configs.make("probe_memory", "cem", **(SMALL | options))
        parts = experiment.make(config)
        shapes = jax.eval_shape(parts.train.init, *seed_plan.leaves(config.plan))
        rows = options["vae.buffer_trajectories"]
        memory.check(shapes, 1, storage=parts.learner.storage, rows=rows, least_rows=8)
        return memory.size_of(shapes)

    monkeypatch.setattr(memory, "available", lambda: None)  # unknown: nothing is refused
    needed = check(**{"vae.buffer_trajectories": 100_000})
    monkeypatch.setattr(memory, "available", lambda: int(0.75 * needed))
    with pytest.raises(configs.ConfigError, match=r"--vae.buffer-trajectories \d+") as error:
        check(**{"vae.buffer_trajectories": 100_000})
    fitting = int(re.search(r"--vae.buffer-trajectories (\d+)", str(error.value))[1])
    assert 50_000 < fitting < 100_000
    check(**{"vae.buffer_trajectories": fitting})
    assert "bfloat16" not in str(error.value)  # it halves the observations alone, which are small here
    half = check(**{"vae.buffer_trajectories": fitting, "vae.replay_dtype": "bfloat16"})
    monkeypatch.setattr(memory, "available", lambda: int(half / 0.6) + 1000)
    monkeypatch.setattr(memory, "_SHARE", 0.6)
    with pytest.raises(configs.ConfigError, match=r"--vae.replay-dtype bfloat16 \(0.0 GiB less\)"):
        check(**{"vae.buffer_trajectories": fitting})
    check(**{"vae.buffer_trajectories": fitting, "vae.replay_dtype": "bfloat16"})
