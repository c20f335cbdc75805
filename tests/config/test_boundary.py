"""Which observation chooses the first action of a later episode, of the paper's environments and of yours."""

import numpy as np
import pytest
import yaml
from cart import cart
from played import Played

from roml_jax import config, envs
from roml_jax.config import presets

OURS = {"hopper_dynamics", "walker2d_dynamics"}  # with a preset, but not in the paper


@pytest.fixture(scope="module")
def played():
    robot = cart()
    return Played(robot, robot)


def test_an_episode_of_your_robot_begins_with_its_own_observation(played):
    """So its first action depends on what is observed there; with "terminal", it does not."""
    assert played.config.protocol.boundary == "reset"
    first, last = played.rollout.obs[:, 1, 0], played.rollout.obs[:, 0, -1]
    assert first[:, -1].tolist() == [0.0] * len(first)  # the flag of an episode's end
    assert last[:, -1].tolist() == [1.0] * len(last)
    assert np.abs(first[:, :3]).max() < 0.02  # within 0.01 of the model's start
    policy, memory, actions = played.policy, None, []
    for k, t, obs, _, reward, after, _ in played.steps():
        memory = policy.begin(len(obs)) if memory is None else memory
        if (k, t) == (1, 0):
            actions = [policy.act(memory, obs + more)[0] for more in (0.0, 0.5)]
            break
        memory = policy.observe(policy.act(memory, obs)[1], reward, after)
    assert np.abs(actions[0] - actions[1]).max() > 1e-3


def test_environments_without_a_preset_begin_with_their_own_observation():
    envs.register("boundary_cart", lambda: cart())
    for env in ("boundary_cart", cart()):
        assert config.make(env).protocol.boundary == "reset"


@pytest.mark.parametrize("agent", ["varibad", "rl2", "maml", "multitask", "oracle"])
def test_the_papers_environments_keep_the_last_observation(agent):
    """Every environment of the package but OURS; ``sine`` has no episodes, PEARL has its own protocol."""
    for env in envs.names():
        if presets.preset(env) and env != "sine":
            expected = "reset" if env in OURS else "terminal"
            assert config.make(env, agent=agent).protocol.boundary == expected, env
            assert config.make(env, agent="pearl").protocol.boundary == "reset"


@pytest.mark.parametrize("boundary", ["terminal", "reset"])
def test_a_saved_run_keeps_what_it_was_trained_with(tmp_path, boundary):
    env = cart()
    saved = config.to_mapping(config.make(env, **{"protocol.boundary": boundary}))
    assert saved["protocol.boundary"] == boundary
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    assert config.read(tmp_path / "config.yaml", env).protocol.boundary == boundary
