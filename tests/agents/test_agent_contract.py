"""What every registered agent must keep to, with samplers and on environments; its name is its test.

Programs are compiled once per agent and environment, and once per sampler and environment, and put
together by the loop itself (``meta.make_iteration``), so that a pair costs little. Agents and samplers meet
through returns and weights alone: every agent meets a sampler that filters and one that does not, every
sampler meets one agent; the full product runs nightly.
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import own_agent
from roml_jax import agents, config, envs, experiment, meta, registry, samplers, testing
from roml_jax.registry import options_class
from roml_jax.run import checkpoint
from roml_jax.types import Transition

ENVS = {
    "probe_memory": lambda: envs.make("probe_memory"),
    "khazad_dum": lambda: envs.make("khazad_dum"),
    "cheetah_vel": lambda: envs.make("cheetah_vel", physics="mujoco"),
}
SHORT = {"protocol.horizon": 4, "protocol.episodes": 2, "protocol.test_episodes": 2}
AGENTS, SAMPLERS = agents.names(), samplers.names()  # the example's among them
assert agents.get("evolution") is own_agent.make
TASKS, ITERATIONS = 8, 2
# what makes each agent small; an agent that is not named is small already
PPO = {
    "ppo.layers": 8,
    "ppo.obs_embedding": 4,
    "ppo.latent_embedding": 4,
    "ppo.minibatches": 2,
    "ppo.epochs": 1,
}
SMALL = {
    "varibad": PPO | {
        "vae.hidden": 8, "vae.latents": 2, "vae.decodes": 2, "vae.buffer_trajectories": 16, "vae.tbptt": None,
        "vae.batch_trajectories": 4, "learning_starts": 0,
    },
    "rl2": PPO | {"memory.hidden": 8},
    "maml": PPO,
    "pearl": {
        "sac.layers": 8, "sac.updates": 2, "sac.meta_batch": 2, "sac.batch": 4, "context.layers": 8,
        "context.size": 4, "context.prior_episodes": 1, "buffer_visits": 16, "slots": 4, "learning_starts": 0,
    },
    "multitask": PPO,
    "oracle": PPO,
}  # fmt: skip
BATCH = 8  # scored tasks until a sampler moves: it has moved when the second iteration draws
OF_SAMPLERS = {
    "plr": {"buffer": BATCH, "score": "negative_return"},
    "accel": {"buffer": BATCH, "score": "negative_return"},
    "sfl": {"candidates": BATCH, "rollouts": 2, "top": 4},
}
ALL = [(agent, sampler, env) for agent in AGENTS for sampler in SAMPLERS for env in ENVS]
MEETS_ALL = "multitask"  # the smallest agent
ROBOTS = ("oracle", "sfl")  # it knows the robot's hardest tasks; a scoring pass on the C engine
PAIRS = [
    *(
        (agent, sampler, tuple(ENVS)[i % len(ENVS)])
        for i, agent in enumerate(AGENTS)
        for sampler in ("uniform", "tail")
    ),
    *((MEETS_ALL, sampler, "cheetah_vel" if sampler in ROBOTS else "probe_memory") for sampler in SAMPLERS),
]
PAIRS = list(dict.fromkeys(PAIRS))
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def compiled(function, *static):
    """Jitted for a quick compilation: the programs run for milliseconds."""
    return jax.jit(function, static_argnums=static, compiler_options=FAST)


@functools.cache
def options_of(agent):
    options = {"num_tasks": TASKS, "frames": 1e4} | SHORT | SMALL.get(agent, {})
    return config.make("probe_memory", "uniform", agent, **options)


@functools.cache
def learner_of(agent, env):
    options, made = options_of(agent), ENVS[env]()
    learner = experiment.make(options, made).learner
    return learner._replace(
        init=compiled(learner.init), collect=compiled(learner.collect), update=compiled(learner.update),
        test=compiled(learner.test),
    )  # fmt: skip


def sampler_made(sampler, env):
    kind = options_class(samplers.get(sampler))
    batch = {"batch_size": BATCH} if "batch_size" in kind.__dataclass_fields__ else {}
    return testing.make_sampler(sampler, ENVS[env]().family, 0.2, **batch, **OF_SAMPLERS.get(sampler, {}))


@functools.cache
def sampler_of(sampler, env):
    made = sampler_made(sampler, env)
    return made._replace(
        init=compiled(made.init), sample=compiled(made.sample, 2), update=compiled(made.update),
        weights=compiled(made.weights), phi=compiled(made.phi),
    )  # fmt: skip


@functools.cache
def iteration_of(agent, sampler, env):
    learner, chosen = learner_of(agent, env), sampler_of(sampler, env)
    if chosen.scoring is None:
        return meta.make_iteration(learner, chosen, TASKS, 10)
    # a pass is a branch of the iteration, and functions that are compiled with options cannot stand in one
    whole = learner._replace(collect=learner.collect.__wrapped__, update=learner.update.__wrapped__)
    return compiled(meta.make_iteration(whole, sampler_made(sampler, env), TASKS, 10))


def run(agent, sampler, env, seed):
    learner, chosen = learner_of(agent, env), sampler_of(sampler, env)
    iteration = iteration_of(agent, sampler, env)
    learner_key, sampler_key, key = jax.random.split(jax.random.key(seed), 3)
    state = meta.MetaState(
        learner.init(learner_key), chosen.init(sampler_key), key, jnp.full((), -1, jnp.int32),
        jnp.zeros((), jnp.int32),
    )  # fmt: skip
    for _ in range(ITERATIONS):
        state, metrics = iteration(state)
    return state, metrics


def plain(tree):
    return jax.tree.map(np.asarray, checkpoint.plain(tree))


def check_iterations(agent, sampler, env):
    if sampler == "oracle" and ENVS[env]().family.hardest is None:
        with pytest.raises(ValueError, match="sampler=oracle needs"):
            sampler_made(sampler, env)
        return
    state, metrics = run(agent, sampler, env, 0)
    again, metrics_again = run(agent, sampler, env, 0)
    chex.assert_trees_all_equal(plain(state), plain(again))
    chex.assert_trees_all_equal(metrics, metrics_again)
    assert int(state.stopped) == -1
    assert int(state.iteration) == ITERATIONS
    chex.assert_tree_all_finite(plain(state.learner))
    losses = [name for name in metrics if name.endswith("loss")]
    assert losses
    for name in ("train/return", *losses):
        assert np.isfinite(metrics[name]), name
    # it has learned something: what acts is no longer what it was
    before = learner_of(agent, env).init(jax.random.split(jax.random.key(0), 3)[0])
    acting = learner_of(agent, env).acting
    changed = [
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(jax.tree.leaves(acting(before)), jax.tree.leaves(acting(state.learner)), strict=True)
    ]
    assert any(changed)


@pytest.mark.parametrize(("agent", "sampler", "env"), PAIRS)
def test_every_agent_meets_every_sampler(agent, sampler, env):
    check_iterations(agent, sampler, env)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "sampler", "env"), [combination for combination in ALL if combination not in PAIRS]
)
def test_every_agent_meets_every_sampler_and_environment(agent, sampler, env):
    check_iterations(agent, sampler, env)


@pytest.mark.parametrize("agent", AGENTS)
def test_held_out_returns_are_finite_and_need_only_what_acts(agent):
    """(M, K) for any M; optimisers and replay are not needed; greedy behaviour is decided by the key."""
    learner = learner_of(agent, "probe_memory")
    state = learner.init(jax.random.key(0))
    tasks = jnp.linspace(0, 1, 5)[:, None]
    returns = learner.test(learner.acting(state), tasks, jax.random.key(1)).returns
    assert returns.shape == (5, 2)
    assert np.isfinite(returns).all()
    for kept in (learner.acting(state), state):
        np.testing.assert_array_equal(returns, learner.test(kept, tasks, jax.random.key(1)).returns)


@pytest.mark.parametrize("agent", AGENTS)
def test_what_a_rollout_prepares_changes_nothing(agent):
    """Acting with the state as it is, as a deployed policy does, is acting with the prepared one."""
    parts = experiment.make(options_of(agent), ENVS["probe_memory"]())
    act, spec = parts.agent, options_of(agent).protocol.agent_spec(parts.env.spec)
    rng = np.random.default_rng(5)

    def varied(x):  # statistics and biases are zeros or ones at first
        floats = jnp.issubdtype(x.dtype, jnp.floating)
        return x + 0.3 * rng.uniform(size=x.shape).astype(x.dtype) if floats else x

    state = act.acting(jax.tree.map(varied, jax.jit(act.init)(jax.random.key(0))))
    obs, after = (jnp.asarray(rng.normal(size=(3, spec.obs_size)), jnp.float32) for _ in range(2))

    @jax.jit
    def one_step(state):
        belief = act.begin(state, jax.random.key(1), 3)
        belief = jax.tree.map(lambda x: x + 0.5 if jnp.issubdtype(x.dtype, jnp.floating) else x, belief)
        action, extras = act.act(state, belief, obs, jax.random.key(2), jnp.zeros((), bool))
        step = Transition(obs, action, jnp.arange(3.0), after, jnp.array([True, True, False]))
        return action, extras, act.observe(state, belief, step)

    raw, prepared = one_step(state), one_step(act.prepare(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), raw, prepared)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_checkpoint_holds_all_of_it(agent, tmp_path):
    learner = learner_of(agent, "probe_memory")
    state = learner.init(jax.random.key(0))
    items, told = {"state": state, "last": learner.acting(state)}, []
    writer = checkpoint.Checkpoints(tmp_path / "checkpoint", told.append)
    writer.save(1, items, {})
    writer.close()
    assert told == []
    for name, item in items.items():
        back = checkpoint.restore(tmp_path / "checkpoint" / "1", name, jax.eval_shape(lambda x: x, item))
        chex.assert_trees_all_equal(plain(back), plain(item))
        chex.assert_trees_all_equal_shapes_and_dtypes(back, item)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_option_that_is_a_leaf_is_one_of_the_state(agent):
    learner = learner_of(agent, "probe_memory")
    state = learner.init(jax.random.key(0))
    declared = registry.leaves(options_of(agent).agent_options)
    assert {name: float(value) for name, value in getattr(state, "rates", {}).items()} == pytest.approx(
        declared
    )
    for name in registry.tunable(state):
        tuned = registry.tune(state, {name: jnp.asarray(0.125)})
        chex.assert_trees_all_equal_structs(state, tuned)
        different = [
            (np.asarray(a) != np.asarray(b)).any()
            for a, b in zip(jax.tree.leaves(plain(state)), jax.tree.leaves(plain(tuned)), strict=True)
        ]
        assert sum(different) == 1, name


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_passes_the_check_that_users_run(agent):
    """``testing.check_agent``: shapes, argument order, determinism, and a test that needs only what acts."""
    options, env = options_of(agent), ENVS["probe_memory"]()
    spec = dataclasses.replace(options.protocol.agent_spec(env.spec), task_size=len(env.family.names))
    built = agents.make(agent, spec, TASKS, options.agent_options)
    if agent == MEETS_ALL:
        testing.check_agent(built, env, options.protocol, TASKS)
    else:  # its two halves, with the programs that this module has compiled
        testing.check_signatures(built)
        tasks = env.family.sample_prior(jax.random.key(7), TASKS)
        testing.check_learner(learner_of(agent, "probe_memory"), tasks)


@pytest.mark.parametrize("agent", AGENTS)
def test_experience_that_an_agent_keeps_is_declared_with_the_option_that_sizes_it(agent):
    learner = learner_of(agent, "probe_memory")
    state = jax.eval_shape(learner.init, jax.random.key(0))
    if learner.storage is None:
        assert not hasattr(state, "replay")
        return
    rows = config.to_mapping(options_of(agent))[learner.storage.rows]
    kept = learner.storage.take(state)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(kept) if leaf.ndim} == {rows}
    assert not jax.tree.leaves(learner.storage.take(learner.storage.put(state, ())))


@pytest.mark.parametrize("agent", AGENTS)
def test_presets_of_every_environment_parse_for_every_agent(agent):
    """An environment's preset speaks of another agent: what this one does not know is left out."""
    for env in ("khazad_dum", "humanoid_mass"):
        assert config.parse(["--env", env, "--agent", agent]).agent == agent
