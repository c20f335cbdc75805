"""Runs on a mesh of devices: the same results on every mesh, and one line for a mesh that cannot be."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import roml_jax
from roml_jax import config, experiment
from roml_jax.run import devices, sharding

HERE = Path(__file__).parents[1]
MESHES = ("seed=8", "seed=4,task=2", "task=8")
BOTH_AXES = MESHES[1]
# Devices meet in collectives; on a busy machine one thread of eight may be late by more than XLA's 40 s.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_cpu_collective_call_terminate_timeout_seconds=600"
COLLECTIVE = re.compile(r"= (\S+|\([^=]*\)) (all-gather|all-reduce|all-to-all|collective-permute)\(")


def on_eight_devices(tmp_path_factory, env, iterations, x64, meshes=MESHES):
    """Values of the same run on one device and on meshes."""
    out = tmp_path_factory.mktemp("sharded") / f"{env}.npz"
    settings = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": str(int(x64)),
    }
    # the fewer optimisations, the quicker the compilation
    settings |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, str(HERE / "sharded_run.py"), str(out), env, str(iterations), "none", *meshes]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(out)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return on_eight_devices(tmp_path_factory, "multitask", 5, x64=True, meshes=[BOTH_AXES])


@pytest.fixture(scope="module")
def probe_on_all(tmp_path_factory):
    return on_eight_devices(tmp_path_factory, "probe", 5, x64=True)


def assert_same(values, mesh, least, **tolerance):
    """Every leaf of the state, every metric and the held-out returns."""
    names = [name.removeprefix("none:") for name in values if name.startswith("none:")]
    assert len(names) > least
    for name in set(names) - {"program"}:
        alone, cut = values[f"none:{name}"], values[f"{mesh}:{name}"]
        assert alone.dtype == cut.dtype
        np.testing.assert_allclose(cut, alone, err_msg=name, **tolerance)


def test_five_iterations_on_a_mesh_are_those_of_one_device(probe):
    assert probe["none:train/return"].dtype == np.float64
    assert np.isfinite(probe["none:ppo/policy_loss"]).all()
    assert_same(probe, BOTH_AXES, 60, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_so_they_are_on_every_mesh(probe_on_all, mesh):
    assert_same(probe_on_all, mesh, 110, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_seeds_do_not_talk_while_they_train_and_no_replay_ever_moves(probe_on_all):
    """With a device per seed nothing but loop ends (and afterwards the metrics) crosses devices."""
    probe = probe_on_all
    moved = {mesh: COLLECTIVE.findall(str(probe[f"{mesh}:program"])) for mesh in MESHES}
    assert all(moved.values())
    chunk = 10
    metrics = re.compile(rf"f64\[{chunk},8,\d+\]")  # of all names, in one array
    shapes = {re.sub(r"\{.*", "", shape) for shape, _ in moved["seed=8"]}
    assert {shape for shape in shapes if not metrics.fullmatch(shape)} <= {"pred[]"}
    rows = re.compile(r"\b37\b")  # the replay's capacity
    assert all(not rows.search(shape) for one in moved.values() for shape, _ in one)


def test_a_device_holds_its_share_of_the_rollouts(probe):
    temporary, result = probe["bytes:task=8"] / probe["bytes:none"]
    assert result < 0.15
    assert temporary < 0.3


def test_the_c_engine_steps_each_devices_seeds_with_the_same_results(probe):
    alone, apart = probe["c:none"], probe["c:seed=8"]
    assert alone.shape[:3] == (8, 3, 30)
    assert np.isfinite(alone).all()
    assert len(np.unique(alone[:, :, -1, 0])) == 24  # every body moves in its own way
    np.testing.assert_array_equal(apart, alone)


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory):
    return on_eight_devices(tmp_path_factory, "cheetah", 1, x64=False)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_cheetah_iteration_on_a_mesh_is_that_of_one_device(cheetah, mesh):
    assert_same(cheetah, mesh, 110, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("devices", "seeds", "tasks", "chosen"),
    [
        (1, 5, 16, (1, 1)),
        (8, 8, 16, (8, 1)),
        (8, 30, 16, (2, 4)),  # of eight devices, two divide thirty seeds
        (8, 1, 16, (1, 8)),
        (6, 4, 9, (2, 3)),
        (256, 32, 16, (32, 8)),
    ],
)
def test_auto_takes_seeds_first(devices, seeds, tasks, chosen):
    assert sharding.choose("auto", devices, seeds, tasks) == chosen


@pytest.mark.parametrize("text", ["seed=2,task=4", "task=4,seed=2", "seed=2, task=4"])
def test_sizes_as_written(text):
    assert sharding.choose(text, 8, 4, 16) == (2, 4)


@pytest.mark.parametrize(
    ("text", "devices", "seeds", "tasks", "expected"),
    [
        ("seed=4,task=4", 8, 4, 16, "has 16 device(s) instead of 8; valid: seed=4,task=2 or seed=2,task=4"),
        ("seed=8", 8, 4, 16, "does not divide 4 seed(s); valid: seed=4,task=2"),
        ("task=8", 8, 2, 4, "does not divide num_tasks=4; valid: seed=2,task=4"),
        ("auto", 8, 3, 20, "no mesh of 8 devices divides 3 seed(s) and num_tasks=20; change"),
        ("seed=0,task=8", 8, 3, 20, "has 0 device(s) instead of 8"),
        ("seed=2,seed=4", 8, 8, 16, "must be auto, none or sizes such as seed=4,task=2"),
        ("8x1", 8, 8, 16, "must be auto, none or sizes such as seed=4,task=2"),
    ],
)
def test_a_mesh_that_cannot_be_is_one_line(text, devices, seeds, tasks, expected):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        sharding.choose(text, devices, seeds, tasks)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_device_has_no_mesh_and_the_wrong_one_is_a_configuration_error():
    assert sharding.placement(config.make("probe_memory")) is experiment.ONE_DEVICE
    with pytest.raises(config.ConfigError, match="has 8 device"):
        sharding.placement(config.make("probe_memory", mesh="task=8"))


def test_the_c_engine_refuses_a_mesh_that_divides_the_tasks():
    made = config.make("cheetah_mass", num_tasks=8)
    divided = experiment.ONE_DEVICE._replace(devices=2, task_devices=2)
    with pytest.raises(config.ConfigError, match="among 2: use --physics mjx, a mesh of seeds alone, or"):
        experiment.make(made, placement=divided)


@pytest.mark.parametrize(
    ("options", "cores", "started"),
    [
        ({"seeds": [0, 1, 2, 3]}, 2, 2),
        ({"seeds": [0, 1, 2, 3]}, 8, 4),
        ({"seeds": [0, 1, 2]}, 2, None),  # two cores do not divide three seeds
        ({"seeds": [0]}, 8, None),
        ({"seeds": [0, 1, 2], "mesh": "none"}, 3, None),
        ({"seeds": [0, 1], "mesh": "seed=2,task=2"}, 2, 4),
        ({"seeds": [0, 1], "mesh": "2x2"}, 2, None),
        ({"seeds": [0, 1], "distributed.auto": True}, 2, None),
    ],
)
def test_a_command_starts_as_many_host_devices_as_cores_that_divide_the_seeds(
    monkeypatch, options, cores, started
):
    said = []
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(devices, "cores", lambda: cores)
    monkeypatch.setattr(devices, "_started", said.append)
    devices.for_run(config.make("probe_memory", **options))
    assert said == ([] if started is None else [started])


def test_an_environment_with_a_number_of_devices_is_left_alone(monkeypatch):
    said = []
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    monkeypatch.setattr(devices, "_started", said.append)
    devices.for_run(config.make("probe_memory", seeds=[0, 1]))
    assert said == []


def test_devices_after_jax_has_started_are_refused_in_one_line():
    there = jax.device_count()
    assert roml_jax.devices(there) == there
    with pytest.raises(config.ConfigError, match=f"started with {there} host device.*before anything else"):
        roml_jax.devices(there + 1)
    with pytest.raises(config.ConfigError, match="at least 1, got 0"):
        roml_jax.devices(0)
