"""The benchmarks run: at the smallest size, so that a figure can be had when one is wanted."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import accelerator, cem, gaits, growth, sine, throughput
from roml_jax import config, experiment, rollout
from roml_jax.run import saved


@pytest.mark.slow
def test_throughput_times_every_layer(tmp_path):
    options = {
        "num_tasks": 8,
        "frames": 1280,
        "chunk": 2,
        "vae.buffer_trajectories": 32,
        "learning_starts": 0,
        "sampler.batch_size": 16,
    }
    result = json.loads(json.dumps(throughput.measure("probe_memory", 1, options)))
    assert set(result["layers"]) == {"env", "rollout", "ppo", "vae", "cem", "whole iteration"}
    assert all(row["frames_per_s"] > 0 and row["run_ms"] > 0 for row in result["layers"].values())
    assert result["frames_per_iteration"] == 8 * 2 * 8
    assert result["peak_memory_gib"] > 0
    assert throughput.table(result).row_count == 6


@pytest.mark.slow
def test_throughput_of_any_agent():
    options = {"num_tasks": 8, "frames": 1280, "chunk": 2, "sampler.batch_size": 16}
    result = throughput.measure("probe_memory", 1, options, agent="multitask")
    assert result["agent"] == "multitask"
    assert set(result["layers"]) == {"env", "rollout", "update", "cem", "whole iteration"}
    assert all(row["run_ms"] > 0 for row in result["layers"].values())


@pytest.mark.slow
def test_every_planned_measurement_is_a_run_that_can_be_made():
    """On the C engine, where the benchmark names another: a rented GPU's minutes are not for finding out."""
    planned = [
        (job.env, job.options, job.engine) for small in (True, False) for job in accelerator.jobs(small)
    ]
    planned += [(series.env, series.options(size), None) for series in growth.SERIES for size in series.sizes]
    for env, options, engine in planned:
        physics = {"env.physics": "mujoco"} if engine else {}
        without_mesh = {name: value for name, value in options.items() if name != "mesh"}
        parts = experiment.make(config.make(env, "cem", **without_mesh, **physics))
        assert parts.frames_per_iteration > 0


@pytest.mark.slow
def test_sine_regression_is_compared_with_the_papers_figures(tmp_path, capsys):
    small = ["frames=8000", "chunk=10", "eval.interval=10", "eval.test_tasks=40", "sampler.batch_size=40"]
    out = tmp_path / "sine.json"
    assert sine.main(["--seeds", "2", "--methods", "RoML-MAML", "--option", *small, "--out", str(out)]) == 0
    result = json.loads(out.read_text())["results"]["RoML-MAML"]
    assert result["iterations"] == 20
    assert len(result["final"]) == len(result["best"]) == 2
    assert 0 < result["summary"]["best"]["mean_1"]["mean"] < result["summary"]["best"]["cvar_1"]["mean"]
    assert result["paper"]["cvar_4"] == 11.05
    assert "paper" in capsys.readouterr().out


def test_the_method_is_timed_against_the_package_and_as_it_grows(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cem.against_package, "__defaults__", (16, 3))
    monkeypatch.setattr(cem.growth, "__defaults__", (((16, 1), (32, 2)),))
    assert cem.main(["--repeats", "1", "--out", str(tmp_path / "cem.json")]) == 0
    result = json.loads((tmp_path / "cem.json").read_text())
    assert all(value > 0 for value in result["against_package"].values())
    assert [(row["tasks"], row["dims"]) for row in result["growth"]] == [(16, 1), (32, 2)]
    assert all(row["ms"] > 0 for row in result["growth"])
    assert "batch of 128" in capsys.readouterr().out


def _saved(env):
    made = config.make(env, "uniform", "multitask", seeds=(3, 4))
    learner = {"return": jnp.array([10.0, 20.0]), "pitch": jnp.array([4 * jnp.pi, -jnp.pi])}
    return saved.Saved(Path("run"), made, experiment.make(made), "last", np.zeros(2, int), learner)


def test_gaits_count_the_turns_of_the_torso(monkeypatch, capsys):
    """Rollouts whose pitch goes to a known angle at the end of both episodes, by learner.

    As with ``boundary="terminal"``, the second episode's first observation is the first episode's last.
    """

    def run_test(agent, env, protocol, learner, tasks, key, record):
        assert record
        n = tasks.shape[0]
        obs = jnp.full((n, 2, 5, 21), 0.1).at[:, :, -1, 1].add(learner["pitch"])
        obs = obs.at[:, 1, 0].set(obs[:, 0, -1])
        return SimpleNamespace(obs=obs), SimpleNamespace(returns=jnp.full((n, 2), learner["return"]))

    monkeypatch.setattr(rollout, "run_test", run_test)
    returns, turned = gaits.turns(_saved("cheetah_mass"), 6)
    np.testing.assert_allclose(returns, [[10.0] * 6, [20.0] * 6])
    np.testing.assert_allclose(turned, [[2.0] * 6, [0.5] * 6], rtol=1e-5)
    monkeypatch.setattr(saved, "load", lambda folder: _saved(folder.name))
    gaits.command(["cheetah_mass"])
    assert "0.50" in capsys.readouterr().out
    with pytest.raises(config.ConfigError, match="for half-cheetahs only, but run is a run on khazad_dum"):
        gaits.command(["khazad_dum"])
