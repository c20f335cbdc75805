"""A loaded policy acts as in the package's own evaluation, also where the package is not installed."""

import dataclasses
import json
import pickle
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import example_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cart import cart
from played import N, Played

import roml_jax
from roml_jax.config.presets import ConfigError
from roml_jax.deploy import inputs
from roml_jax.deploy import policy as policies
from roml_jax.deploy.policy import exported
from roml_jax.types import Continuous, Discrete

OPTIMISED = True


@pytest.fixture(scope="module")
def khazad_dum():
    return Played()


@pytest.fixture(scope="module")
def cheetah():
    return Played("cheetah_mass")


@pytest.fixture(scope="module")
def maml():
    return Played("probe_observation", agent="maml").policy


def test_actions_are_those_of_the_evaluation(khazad_dum):
    policy, memory = khazad_dum.policy, khazad_dum.policy.begin(N)
    chosen = set()
    for k, t, obs, wanted, reward, after, _ in khazad_dum.steps():
        # under boundary="terminal" the first observation of a later episode decides nothing
        given = np.full_like(obs, 9.0) if k > 0 and t == 0 else obs
        action, memory = policy.act(memory, given)
        assert action.dtype == np.int32
        np.testing.assert_array_equal(action, wanted[:, 0])
        memory = policy.observe(memory, reward, after)
        chosen.update(action.tolist())
    assert len(chosen) > 1  # or nothing was compared


@pytest.mark.parametrize(
    "options",
    [
        {"protocol.boundary": "reset", "protocol.end_flag": False},
        pytest.param({"protocol.action_map": "tanh"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_protocol_is_kept(options):
    played = Played("probe_observation", **options)
    policy, memory = played.policy, played.policy.begin(N)
    outputs = []
    for _, _, obs, wanted, reward, after, _ in played.steps():
        action, memory = policy.act(memory, obs)
        executed = np.tanh(wanted) if "protocol.action_map" in options else wanted
        np.testing.assert_allclose(action, executed, rtol=1e-5, atol=1e-6)
        memory = policy.observe(memory, reward, after)
        outputs.append(action)
    assert np.std(outputs) > 1e-4


def test_an_early_end_is_as_in_training():
    """Training goes on with the last observation; a robot's next episode begins at once."""
    env = cart(horizon=6, terminate=lambda view: jnp.abs(view.qvel[3]) > 0.04)
    played = Played("cheetah_mass", env)
    policy = played.policy
    valid = played.rollout.valid
    assert not valid.all()
    assert valid[:, :, 0].all()
    for robot in range(N):
        memory = policy.begin()
        for k, t, obs, wanted, reward, after, lives in played.steps():
            if not lives[robot]:
                continue
            action, memory = policy.act(memory, obs[robot])
            np.testing.assert_allclose(action, wanted[robot], rtol=1e-5, atol=1e-6)
            last = t + 1 < policy.horizon and not valid[robot, k, t + 1]
            memory = policy.observe(memory, reward[robot], after[robot], end=last)


def test_one_robot_and_a_batch_are_the_same(khazad_dum):
    policy = khazad_dum.policy
    many, one = policy.begin(N), policy.begin()
    for _, _, obs, _, reward, after, _ in list(khazad_dum.steps())[:40]:
        actions, many = policy.act(many, obs)
        action, one = policy.act(one, obs[1])
        assert action.shape == ()
        assert action == actions[1]
        many, one = policy.observe(many, reward, after), policy.observe(one, reward[1], after[1])
    np.testing.assert_allclose(one.belief.hidden[0], many.belief.hidden[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p, m: p.act(m, np.zeros((N, 7))), r"observations must be of shape \(3, 99\), got \(3, 7\)"),
        (lambda p, m: p.act(m, np.zeros(99)), r"\(3, 99\), got \(99,\)"),
        (lambda p, m: p.act(p.begin(), np.zeros(98)), r"\(1, 99\) or \(99,\), got \(98,\)"),
        (lambda p, m: p.observe(m, 0.0, np.zeros((N, 99))), r"reward must be \(3,\), got \(\)"),
        (lambda p, m: p.observe(p.begin(), np.zeros(2), np.zeros(99)), "reward must be one number"),
    ],
)
def test_wrong_shapes_are_one_line(khazad_dum, call, said):
    with pytest.raises(ValueError, match=said) as error:
        call(khazad_dum.policy, khazad_dum.policy.begin(N))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda p, m, obs: p.act(m, obs(1, 30, np.nan)),
            r"^observation of robot 1: part '\w+', number \d+ of ",
        ),
        (lambda p, m, obs: p.act(m, obs(0, 98, np.inf)), r"^observation of robot 0: .* is inf, not a finite"),
        (lambda p, m, obs: p.observe(m, np.zeros(N), obs(2, 0, np.nan)), r"^observation of robot 2: part "),
        (lambda p, m, obs: p.observe(m, [0, np.nan, 0], obs()), r"^reward of robot 1: is nan, not a finite"),
        (
            lambda p, m, obs: p.act(m, obs().astype(str)),
            r"^observations must be an array of real numbers, got ",
        ),
        (lambda p, m, obs: p.act(m, obs() * 1j), r"real numbers, got dtype complex128"),
        (lambda p, m, obs: p.act(m, [[0.0], [0.0, 1.0]]), r"^observations must be an array of real numbers"),
        (lambda p, m, obs: p.act(m, None), r"real numbers, got NoneType"),
        (lambda p, m, obs: p.act(m, obs(0, 0, 1e300)), r"is inf, not a finite float32"),
    ],
)
def test_values_that_are_not_finite_numbers_are_one_line_and_harm_no_memory(khazad_dum, call, said):
    def obs(robot=0, index=0, value=0.0):
        obs = np.zeros((N, 99))
        obs[robot, index] = value
        return obs

    memory = khazad_dum.policy.begin(N)
    with pytest.raises(ValueError, match=said) as error:
        call(khazad_dum.policy, memory, obs)
    assert "\n" not in str(error.value)
    assert np.isfinite(khazad_dum.policy.act(memory, obs())[0]).all()


def test_without_checks_a_nan_stays(cheetah):
    loose = dataclasses.replace(cheetah.policy, check=False)
    bad = np.full(loose.obs_size, np.nan)
    action, memory = loose.act(loose.begin(), bad)
    assert np.isnan(action).all()
    memory = loose.observe(memory, 0.0, bad)
    assert np.isnan(loose.act(memory, np.zeros(loose.obs_size))[0]).all()


def test_an_action_that_is_not_finite_is_told(cheetah):
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), cheetah.policy.parameters)
    policy = dataclasses.replace(cheetah.policy, parameters=broken)
    with pytest.raises(
        ValueError, match=r"^the action is not finite, .* largest number is 1 \(are its units"
    ):
        policy.act(policy.begin(), np.ones(policy.obs_size))


def test_actions_are_clamped_on_request(cheetah):
    """The action is clamped, what the agent remembers of it is not, as in training."""
    parts, protocol = cheetah.parts, cheetah.config.protocol
    clamped = policies.make(parts, protocol, cheetah.learner, clamp=True)
    obs = 10 * np.ones(clamped.obs_size)
    (free, memory), (held, same) = (p.act(p.begin(), obs) for p in (cheetah.policy, clamped))
    assert np.abs(free).max() > 1
    np.testing.assert_array_equal(held, np.clip(free, -1, 1))
    np.testing.assert_array_equal(memory.action, same.action)


def test_a_policy_says_what_it_is_in_one_line(cheetah, khazad_dum):
    said = repr(cheetah.policy)
    assert said == (
        "Policy(cheetah_mass: observation 20 (position 8, velocity 9, torso_xyz 3), 6 action(s), "
        "2 episodes of 200 steps, check=True, clamp=False)"
    )
    assert "4 actions" in repr(khazad_dum.policy)


def test_an_exported_policy_skips_what_is_not_finite(cheetah):
    """The robot with a NaN acts NaN and learns nothing; the other acts as if alone."""
    act, observe = (exported(cheetah.policy)[name].call for name in ("act", "observe"))
    memory = tuple(jax.tree.leaves(cheetah.policy.begin(2)))
    obs = np.ones((2, cheetah.policy.obs_size), np.float32)
    bad, reward, end = obs.copy(), np.zeros(2, np.float32), np.zeros(2, bool)
    bad[0, 3] = np.nan
    # NumPy from here on: to look at a row compiles nothing
    memory = jax.tree.map(np.asarray, memory)
    (wanted, clean), (action, after) = (jax.tree.map(np.asarray, act(memory, x)) for x in (obs, bad))
    assert np.isnan(action[0]).all()
    np.testing.assert_allclose(action[1], wanted[1], rtol=1e-5)
    structure = jax.tree.structure(cheetah.policy.begin(2))
    skipped = jax.tree.unflatten(structure, after)
    assert np.isnan(skipped.action[0]).all()  # so that the step is known not to be the policy's
    same = skipped._replace(action=jax.tree.unflatten(structure, memory).action)
    for x, y in zip(memory, jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(x[0], y[0])
    for y, z in zip(after, clean, strict=True):
        np.testing.assert_allclose(z[1], y[1], rtol=1e-5)
    told = jax.tree.unflatten(structure, observe(after, reward + 1, 2 * obs, end))
    for x, y in zip(jax.tree.leaves(same.belief), jax.tree.leaves(told.belief), strict=True):
        np.testing.assert_array_equal(x[0], y[0])  # nor is it learned from what came of it
        assert (np.asarray(x)[1] != np.asarray(y)[1]).any()
    assert np.isfinite(told.action).all()
    after = observe(clean, np.float32([np.nan, 0]), bad, end)
    expected = cheetah.policy.observe(
        jax.tree.unflatten(structure, clean),
        reward,
        obs,
        valid=[False, True],
    )
    for x, y in zip(jax.tree.leaves(expected.belief), after, strict=False):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    assert np.isfinite(act(after, obs)[0]).all()


def greedy(agent):
    """Without chance, so that two ways to run it compare: MAML explores nothing, PEARL draws nothing."""

    def adapt(state, belief, episode, key):
        belief = agent.adapt(state, belief, episode, key)
        return belief._replace(z=0.1 * belief.weighted) if hasattr(belief, "z") else belief

    def begin(state, key, n):
        belief = agent.begin(state, key, n)
        return belief._replace(z=jnp.zeros_like(belief.z)) if hasattr(belief, "z") else belief

    return agent._replace(exploring=0, adapt=adapt, begin=begin)


@pytest.mark.parametrize(
    ("agent", "changes", "episodes"),
    [("maml", "params", 1), pytest.param("pearl", "z", 5, marks=pytest.mark.slow)],
)
def test_an_agent_that_adapts_between_episodes_does(agent, changes, episodes):
    """MAML makes one step, from its first episode; PEARL learns from all of its five."""
    played = Played("probe_observation", agent=agent, changed=greedy)
    policy, memory = played.policy, played.policy.begin(N)
    for k, t, obs, wanted, reward, after, _ in played.steps():
        action, memory = policy.act(memory, obs)
        np.testing.assert_allclose(action, wanted, rtol=1e-4, atol=1e-5)
        before = getattr(memory.belief, changes)
        memory = policy.observe(memory, reward, after)
        same = jax.tree.map(np.array_equal, before, getattr(memory.belief, changes))
        assert all(jax.tree.leaves(same)) != (k < episodes and t + 1 == policy.horizon)


def test_robots_adapt_each_when_its_own_episode_ends(maml):
    memory, obs, untouched = maml.begin(2), np.ones((2, 1)), []
    for step, reward in enumerate((1, 5, 2, 3, 1)):  # two steps would be their own baseline
        before, (_, memory) = memory.belief.params, maml.act(memory, obs)
        ends = [step == 2, step == 4]
        memory = maml.observe(memory, np.full(2, reward), obs, end=ends)
        same = jax.tree.map(
            lambda x, y: (np.asarray(x) == np.asarray(y)).reshape(2, -1).all(axis=1),
            before, memory.belief.params,
        )  # fmt: skip
        untouched.append(np.all(jax.tree.leaves(same), axis=0).tolist())
    assert untouched == [[True, True]] * 2 + [[False, True], [True, True], [True, False]]
    assert memory.episode.tolist() == [1, 1]


def test_exploration_is_by_chance_and_its_seed(maml):
    """MAML's first episode; its second is greedy."""
    obs = np.ones(maml.obs_size)
    first, same, other = (maml.act(maml.begin(seed=seed), obs)[0] for seed in (1, 1, 2))
    assert first == same
    assert first != other
    memory = maml.begin()._replace(episode=np.ones(1, np.int32))
    assert maml.act(memory, obs)[0] == maml.act(memory._replace(key=memory.key + 1), obs)[0]


ALONE = textwrap.dedent("""
    import json, sys, zipfile
    sys.modules["roml_jax"] = None  # whatever imports it fails
    import numpy as np
    from jax import export
    path, data, out = sys.argv[1:]
    with zipfile.ZipFile(path) as file:
        begin, act, observe = (
            export.deserialize(bytearray(file.read(name))).call for name in ("begin", "act", "observe")
        )
    seen, actions = np.load(data), []
    n = seen["obs"].shape[1]
    memory = begin(np.zeros(n, np.int32))
    for obs, reward, after in zip(seen["obs"], seen["reward"], seen["after"]):
        action, memory = act(memory, obs)
        memory = observe(memory, reward, after, np.zeros(n, bool))
        actions.append(np.asarray(action))
    np.save(out, np.stack(actions))
    assert not [name for name in sys.modules if name.startswith(("flax", "distrax", "mujoco"))]
""")


@pytest.mark.parametrize("robots", [1, N])
def test_an_exported_policy_runs_where_the_package_cannot_be_imported(cheetah, robots, tmp_path):
    steps = list(cheetah.steps())
    seen = {
        name: np.stack([step[place][:robots] for step in steps])
        for name, place in (("obs", 2), ("reward", 4), ("after", 5))
    }
    np.savez(tmp_path / "seen.npz", **seen)
    path = cheetah.policy.export(tmp_path / "policy.zip")
    subprocess.run(
        [sys.executable, "-c", ALONE, path, tmp_path / "seen.npz", tmp_path / "actions.npy"],
        check=True,
        cwd=tmp_path,
    )
    wanted = np.stack([step[3][:robots] for step in steps])
    actions = np.load(tmp_path / "actions.npy")
    assert actions.shape == (400, robots, 6)
    # actions up to 8: some processors add up one row in another order than sixteen, off by 1.6e-5 at most
    np.testing.assert_allclose(actions, wanted, rtol=1e-4, atol=2e-5)
    assert np.std(actions) > 1e-3


def test_the_exported_file_says_how_to_call_it_and_is_never_overwritten(khazad_dum, tmp_path):
    path = khazad_dum.policy.export(tmp_path / "new" / "policy.zip")
    with zipfile.ZipFile(path) as file:
        said = json.loads(file.read("signature.json"))
    assert said["observation"]["size"] == 99
    assert said["action"] == {"kind": "discrete", "n": 4}
    assert (said["horizon"], said["episodes"], said["env"]) == (32, 4, "khazad_dum")
    assert said["memory"][0] == {"shape": ["n", 1, 128], "dtype": "float32"}
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"exists; nothing is overwritten"):
        khazad_dum.policy.export(path)
    assert path.read_bytes() == before
    assert [left.name for left in path.parent.iterdir()] == ["policy.zip"]


@pytest.fixture(scope="module")
def deploy():
    return example_files.load("deploy")


def test_the_example_acts_as_the_package_on_the_same_observations(cheetah, deploy, tmp_path):
    path = cheetah.policy.export(tmp_path / "policy.zip")
    record = []
    returns = deploy.adapt(deploy.Policy(path), deploy.Cheetah(1.7, 0), record)
    assert len(record) == 400
    np.testing.assert_allclose(sum(step[2] for step in record), sum(returns))
    memory = cheetah.policy.begin()
    for obs, acted, reward, after in record:
        action, memory = cheetah.policy.act(memory, obs)
        np.testing.assert_allclose(action, acted, rtol=1e-4, atol=1e-5)
        memory = cheetah.policy.observe(memory, reward, after)


def test_the_examples_robot_is_the_environments(deploy):
    """Plain MuJoCo against the environment with consistent constants, from the same states."""
    env = roml_jax.envs.make("cheetah_mass", physics="mujoco", derived="consistent")
    robot, random = deploy.Cheetah(1.7, 0), np.random.default_rng(0)
    robot.reset()
    state = jax.jit(env.reset)(jax.random.key(0), jnp.array([1.7]))
    physics = jax.jit(env.physics.reset)(robot.data.qpos, robot.data.qvel, state.model)
    state = state._replace(physics=physics)
    step = jax.jit(env.step)
    for _ in range(20):
        action = random.uniform(-1.5, 1.5, 6)
        state = step(state, jnp.asarray(action))
        obs, reward = robot.step(action)
        np.testing.assert_allclose(state.obs, obs, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state.reward, reward, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("policy.zip", "--mass", "-1"), "--mass must be positive"),
        (("text.zip",), "no exported policy"),
        (("missing.zip",), "no exported policy"),
        (("other.zip",), "khazad_dum, not on cheetah_mass"),
    ],
)
def test_the_example_refuses_wrong_input_in_one_line(
    arguments, said, cheetah, khazad_dum, deploy, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    cheetah.policy.export("policy.zip")
    khazad_dum.policy.export("other.zip")
    Path("text.zip").write_text("text")
    monkeypatch.setattr(sys, "argv", ["deploy.py", *arguments])
    assert deploy.main() == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_policy_that_was_warmed_up_compiles_no_more(cheetah):
    """Neither in the first step nor in those after an episode's end, with arrays of any kind."""
    policy = dataclasses.replace(cheetah.policy).warm_up()
    compiled = [function._cache_size() for function in policy._compiled]
    memory, obs = policy.begin(), np.ones(policy.obs_size)
    for end in (False, True, False):
        action, memory = policy.act(memory, obs.tolist())
        assert isinstance(action, np.ndarray)
        memory = policy.observe(memory, 0.5, obs, end=end)
    assert [function._cache_size() for function in policy._compiled] == compiled
    assert compiled[0] == 1


def test_a_memory_may_be_numpys(cheetah):
    """For example one that was saved and loaded."""
    policy, obs = cheetah.policy, np.ones(cheetah.policy.obs_size)
    memory = policy.observe(policy.act(policy.begin(), obs)[1], 0.5, obs)
    saved = pickle.loads(pickle.dumps(jax.device_get(memory)))
    np.testing.assert_array_equal(policy.act(memory, obs)[0], policy.act(saved, obs)[0])


def test_limits_that_are_none_are_null_in_json():
    """JSON has no infinity, and most readers refuse it."""
    some = Continuous(2, (-np.inf, -1.0), (np.inf, 2.0))
    assert inputs.limits(some) == {"size": 2, "low": [None, -1.0], "high": [None, 2.0]}
    assert inputs.limits(Continuous(1, -np.inf, np.inf)) == {"size": 1, "low": None, "high": None}
    assert inputs.limits(Discrete(3)) == {"n": 3}
