"""Environments of a hand-written model on both engines: options, episodes, containment."""

import re

import chex
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from cart import CART, ENGINES, MASS, MODEL, cart, speed, start

from roml_jax import rollout
from roml_jax.agents.base import Agent
from roml_jax.envs import Edit, TaskDimension, TaskEnv


def changed(array, row, value):
    """A copy with one row of another value; NumPy compiles nothing."""
    array = np.array(array)
    array[row] = value
    return array


@pytest.mark.parametrize("engine", ["mujoco", pytest.param("mjx", marks=pytest.mark.slow)])
def test_gravity_and_options_of_one_number(engine):
    tasks = (
        TaskDimension("gravity", 0.1, 2.0, (Edit("opt.gravity", rows=2),)),
        TaskDimension("density", 0.0, 2.0, (Edit("opt.density"),)),
    )
    env = cart(tasks, engine=engine, frame_skip=1)
    state = start(env, [0.5, 1.0], qpos=changed(np.float32(MODEL.qpos0), 1, 1.0))
    after = jax.jit(env.step)(state, np.zeros(1, np.float32))
    before, falling = (np.asarray(s.physics.qvel)[1] for s in (state, after))
    fall = (falling - before) / MODEL.opt.timestep
    assert float(fall) == pytest.approx(-9.81 / 2, rel=0.05)


OPTIONS = {
    "engine": ({"engine": "mjc"}, "unknown engine 'mjc'; did you mean 'mujoco'?"),
    "derived": ({"derived": "consistant"}, "unknown choice of derived 'consistant'; did you mean"),
    "readings": ({"readings": ("xpo",)}, "MuJoCo's data has no field 'xpo'; did you mean 'xpos'?"),
    "horizon": ({"horizon": 0}, "horizon must be at least 1, got 0"),
    "reward": ({"reward": lambda motion: motion.after.qvel}, "must be a dict of scalars by name"),
    "terms": ({"reward": lambda motion: {"all": motion.after.qvel}}, "must be a dict of scalars by name"),
    "static": (
        {"tasks": (TaskDimension("t", 0, 1, (Edit("geom_fluid"),)),), "engine": "mjx"},
        "geom_fluid is constant or missing in MJX: a task cannot edit it; the engine 'mujoco' may",
    ),
    "absent": (
        {"tasks": (TaskDimension("t", 0, 1, (Edit("dof_length"),)),), "engine": "mjx"},
        "dof_length is constant or missing in MJX: a task cannot edit it; the engine 'mujoco' may",
    ),
    "shared": (
        {"tasks": (TaskDimension("t", 0, 1, (Edit("stat.extent"),)),)},
        "stat.extent is shared by all simulations of a MuJoCo batch",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be_are_one_line(case):
    options, line = OPTIONS[case]
    with pytest.raises(ValueError, match=re.escape(line)) as error:
        cart(**options)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_models_that_cannot_be_read_or_run():
    with pytest.raises(ValueError, match=r"MuJoCo cannot read the model: .*") as error:
        TaskEnv.from_mjcf("<mujoco><wrong/></mujoco>", tasks=(MASS,), reward=speed)
    assert "\n" not in str(error.value)
    passive = '<mujoco><worldbody><body><joint/><geom size="0.1"/></body></worldbody></mujoco>'
    with pytest.raises(ValueError, match="the model has no actuators, so there is nothing to learn"):
        TaskEnv.from_mjcf(passive, tasks=(MASS,), reward=speed)
    with pytest.raises(ValueError, match=r"MuJoCo cannot read the model: .*absent"):
        TaskEnv.from_mjcf("absent.xml", tasks=(MASS,), reward=speed)
    implicit = CART.replace("<option", '<option integrator="implicit"')
    with pytest.raises(ValueError, match=r"MJX cannot simulate this model .*; the engine 'mujoco' may"):
        TaskEnv.from_mjcf(implicit, tasks=(MASS,), reward=speed, engine="mjx")


def test_a_model_comes_as_path_text_spec_or_itself(tmp_path):
    path = tmp_path / "cart.xml"
    path.write_text(CART)
    for source in (path, str(path), CART, mujoco.MjSpec.from_string(CART), MODEL):
        made = TaskEnv.from_mjcf(source, tasks=(MASS,), reward=speed, engine="mujoco")
        assert made.physics.model.nbody == MODEL.nbody


def test_the_observation_is_positions_and_velocities_unless_said_otherwise():
    env = cart()
    assert dict(env.spec.obs_slices) == {"position": slice(0, 7), "velocity": slice(7, 13)}
    state = jax.jit(env.reset)(jax.random.key(0), jnp.ones(1))
    np.testing.assert_array_equal(state.obs, np.concatenate([state.physics.qpos, state.physics.qvel]))
    free = (
        '<mujoco><worldbody><body><freejoint name="root"/><geom size="0.1"/></body></worldbody>'
        '<actuator><motor joint="root" gear="1 0 0 0 0 0"/></actuator></mujoco>'
    )
    loose = TaskEnv.from_mjcf(free, tasks=(MASS,), reward=lambda _: {}, engine="mujoco")
    assert dict(loose.spec.obs_slices) == {"position": slice(0, 5), "velocity": slice(5, 11)}
    state = jax.jit(loose.reset)(jax.random.key(0), jnp.ones(1))
    obs, qpos = np.asarray(state.obs), np.asarray(state.physics.qpos)
    np.testing.assert_array_equal(obs[:5], qpos[2:])  # not where it is in the plane


class Compiled:
    """A cart with everything on, its functions compiled once for all tests; six tasks at a time."""

    def __init__(self, engine):
        self.env = cart(
            engine=engine,
            readings=("cvel",),
            observation={"position": lambda view: view.qpos, "moving": lambda view: view.readings["cvel"]},
            terminate=lambda view: view.qpos[0] > 5.0,
        )
        self.traces = 0
        self.reset, self._step = jax.jit(jax.vmap(self.env.reset)), jax.jit(jax.vmap(self._traced))

    def _traced(self, state, action):
        self.traces += 1
        return self.env.step(state, action)

    def start(self, tasks=(1.0,) * 6):
        return self.reset(jax.random.split(jax.random.key(0), 6), np.array(tasks, np.float32)[:, None])

    def run(self, state, actions):
        """States after each of the actions, a number for all or one each."""
        seen = []
        for action in actions:
            action = np.broadcast_to(np.asarray(action, np.float32), (6,))[:, None]
            state = self._step(state, action)
            seen.append(state)
        return seen


@pytest.fixture(scope="module", params=ENGINES)
def compiled(request):
    return Compiled(request.param)


def on_host(state):
    """Its numbers as NumPy's arrays, without the key."""
    return jax.tree.map(np.asarray, state._replace(key=()))


def with_physics(state, row, **fields):
    """A batch's state with some of one row's physics given."""
    new = {
        name: jnp.asarray(changed(getattr(state.physics, name), row, value)) for name, value in fields.items()
    }
    return state._replace(physics=state.physics._replace(**new))


def test_an_episode_ends_early(compiled):
    """A cart at 2 m/s is 4 cm before the end: it passes it in the second step, which still counts."""
    state = with_physics(
        compiled.start(), 2, qpos=changed(MODEL.qpos0, 0, 4.96), qvel=changed(np.zeros(6), 0, 2.0),
    )  # fmt: skip
    seen = [on_host(s) for s in compiled.run(state, [1.0] * 4)]
    assert [bool(s.done[2]) for s in seen] == [False, True, True, True]
    assert [bool(s.valid[2]) for s in seen] == [True, True, False, False]
    assert [float(s.reward[2]) > 0.5 for s in seen] == [True, True, False, False]
    assert float(seen[3].reward[2]) == 0
    np.testing.assert_array_equal(seen[3].obs[2], seen[1].obs[2])
    assert not any(bool(s.diverged.any()) for s in seen)
    assert not any(bool(s.done[[0, 1, 3, 4, 5]].any()) for s in seen)


def test_activations_survive_between_steps(compiled):
    """The filter's answer to a constant control is 1 - (1 - dt / tau)^n over all steps of an episode."""
    for n, state in enumerate(compiled.run(compiled.start(), [1.0] * 4), start=1):
        act = np.asarray(state.physics.act)[:, 0]
        np.testing.assert_allclose(act, 1 - (1 - 0.01 / 0.5) ** (2 * n), rtol=1e-5)


def test_the_reward_is_the_sum_of_its_terms(compiled):
    (state,) = compiled.run(compiled.start(), [3.0])
    np.testing.assert_allclose(state.reward, sum(map(np.asarray, state.terms.values())), rtol=1e-6)
    np.testing.assert_allclose(state.terms["control"], -0.9, rtol=1e-6)  # of the action as it was given
    (clamped,) = compiled.run(compiled.start(), [1.0])
    np.testing.assert_array_equal(clamped.obs, state.obs)


def test_other_tasks_need_no_compilation(compiled):
    ends = [
        np.asarray(compiled.run(compiled.start(tasks), [1.0] * 5)[-1].physics.qvel)[:, 0]
        for tasks in ((1.0,) * 6, (0.5, 1.0, 2.0, 0.7, 1.4, 1.0), (2.0,) * 6)
    ]
    assert compiled.traces == 1
    assert compiled.reset._cache_size() == compiled._step._cache_size() == 1
    assert ends[1][0] > ends[0][0] > ends[2][0]  # the lighter, the faster
    assert ends[0][1] == ends[1][1]
    assert ends[1][2] == ends[2][2]


POISONS = {
    "nan": {"qvel": changed(np.zeros(6), 1, np.nan)},
    "everything": {"qpos": np.inf, "qvel": np.nan, "act": np.nan, "qacc_warmstart": np.nan},
    "absurd": {"qvel": changed(np.zeros(6), 0, 1e7)},
    "huge": {"qvel": changed(np.zeros(6), 0, 1e30)},
    "activation": {"act": np.nan},
    "force": {"act": 1e13},  # whose acceleration makes MuJoCo start again in the first physics step
}


@pytest.mark.parametrize("case", POISONS)
def test_a_poisoned_task_harms_no_other(case, compiled):
    others, actions = [0, 1, 3, 4, 5], np.asarray(jax.random.normal(jax.random.key(1), (4, 6)))
    state = compiled.run(compiled.start((0.5, 0.8, 1.0, 1.3, 1.7, 2.0)), actions[:1])[0]
    clean = [on_host(s) for s in compiled.run(state, actions[1:])]
    assert not any(bool(s.diverged.any() | ~s.valid.all()) for s in clean)
    poisoned = compiled.run(with_physics(state, 2, **POISONS[case]), actions[1:])
    for s, undisturbed in zip(map(on_host, poisoned), clean, strict=True):
        assert np.asarray(s.diverged).tolist() == [False, False, True, False, False, False]
        assert bool(s.done[2])
        assert not s.valid[2]
        assert float(s.reward[2]) == 0
        np.testing.assert_array_equal(s.obs[2], np.asarray(state.obs)[2])  # the last one that could be
        chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[others], one) for one in (s, undisturbed)))


@pytest.mark.parametrize("mass", [np.nan, np.inf, -1.0])
def test_a_model_that_cannot_be_is_contained(mass, compiled):
    """A task may ask for a robot that no physics can simulate."""
    others = [0, 1, 3, 4, 5]
    tasks = (0.5, 0.8, 1.0, 1.3, 1.7, 2.0)
    good = on_host(compiled.run(compiled.start(tasks), [1.0] * 3)[-1])
    bad = on_host(compiled.run(compiled.start((*tasks[:2], mass, *tasks[3:])), [1.0] * 3)[-1])
    assert np.isfinite(bad.obs).all()
    assert np.isfinite(bad.reward).all()
    chex.assert_trees_all_equal(bad.obs[others], good.obs[others])
    assert not bad.diverged[others].any()
    if mass != -1.0:
        assert bool(bad.diverged[2])
        assert not bad.valid[2]


@pytest.mark.parametrize("engine", ENGINES)
def test_derived_constants_follow_the_task_or_stay(engine):
    """Against the same robot written down with a heavier pole, where MuJoCo derives all from the file."""
    load = TaskDimension("load", 0.0, 5.0, (Edit("body_mass", "add", "pole"),))
    heavy = mujoco.MjModel.from_xml_string(CART.replace('mass="0.3"', 'mass="4.3"'))
    data = mujoco.MjData(heavy)
    data.qpos[2], data.qvel[[0, 2]], data.ctrl[0] = 0.3, (0.5, 1.0), 1.0
    qpos, qvel = jnp.asarray(data.qpos, jnp.float32), jnp.asarray(data.qvel, jnp.float32)
    mujoco.mj_step(heavy, data, 20)
    truth = np.concatenate([data.qpos, data.qvel])

    def error(derived):
        env = cart((load,), engine=engine, derived=derived, frame_skip=20, start=lambda key: (qpos, qvel))
        run = jax.jit(lambda task: env.step(env.reset(jax.random.key(0), task), jnp.ones(1)))
        return abs(np.asarray(run(jnp.array([4.0])).obs) - truth).max()

    assert error("consistent") < 1e-4
    if engine == "mujoco":  # MJX's would take another half a minute to compile
        assert error("stale") > 0.01


def still():
    """An agent that does nothing."""

    def act(state, belief, obs, key, greedy):
        return jnp.zeros((obs.shape[0], 1)), ()

    return Agent(
        init=lambda key: (),
        begin=lambda state, n, key: (),
        act=act,
        observe=lambda state, belief, transition: belief,
        adapt=None,
        update=None,
    )


class Dangerous(TaskEnv):
    """Tasks above 1.5 start at a speed that no physics can survive."""

    def reset(self, key, task):
        state = super().reset(key, task)
        fast = jnp.where(task[0] > 1.5, 1e7, state.physics.qvel)
        return state._replace(physics=state.physics._replace(qvel=fast))


@pytest.mark.parametrize("engine", ["mujoco", pytest.param("mjx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_diverged_episode_counts_as_the_worst(engine, sign):
    """A step earns the task, or costs it."""
    plain = cart(
        (TaskDimension("danger", 0.0, 2.0),), engine=engine,
        reward=lambda motion: {"task": sign * motion.after.task[0]},
    )  # fmt: skip
    env = Dangerous(**{name: getattr(plain, name) for name in plain.__dataclass_fields__})

    @jax.jit
    def play(tasks):
        greedy = jnp.zeros(2, bool)
        protocol = rollout.EpisodeProtocol(episodes=2)
        return rollout.run_episodes(still(), env, protocol, (), tasks, jax.random.key(0), greedy=greedy)

    seen, outcome = play(np.array([0.5, 1.0, 1.8, 1.2], np.float32)[:, None])
    np.testing.assert_array_equal(outcome.diverged, [[False] * 2, [False] * 2, [True] * 2, [False] * 2])
    # its own, up to where it diverged, is the worst where steps earn; else the costliest other's
    worst = 0.0 if sign > 0 else -6.0
    expected = [2.5 * sign, 5.0 * sign, worst, 6.0 * sign]
    np.testing.assert_allclose(outcome.returns, np.stack([expected] * 2, axis=1), rtol=1e-6)
    assert not np.asarray(seen.valid)[2].any()
    assert np.isfinite(np.asarray(seen.obs)).all()
