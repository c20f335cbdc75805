"""A user's script, which `ty check` checks and nothing runs: the types that the lazy public names have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np

import roml_jax as roml
from roml_jax.deploy.acting import Memory

Array = jax.Array
Worst = tuple[Array, Array]


@dataclass(frozen=True)
class LakeOptions:
    thin: float = 1 / 12


class Lake:
    spec = roml.types.EnvSpec("lake", {"wet": slice(0, 1)}, roml.types.Discrete(2), horizon=10, episodes=2)
    family = roml.tasks.beta("thickness", 0.0, 1.0)

    def __init__(self, config: LakeOptions) -> None:
        self.thin = config.thin

    def reset(self, key: Array, task: Array) -> roml.envs.EnvState:
        return roml.envs.EnvState.start(jnp.zeros(1), key, task, physics=jnp.zeros((), bool))

    def step(self, state: roml.envs.EnvState, action: Array) -> roml.envs.EnvState:
        wet = state.physics | ((action == 1) & (state.task[0] < self.thin))
        return state._replace(obs=wet[None].astype(float), reward=1.0 - wet, physics=wet)


@roml.envs.register("lake")
def lake(config: LakeOptions) -> Lake:
    return Lake(config)


@roml.samplers.register("near_worst")
def near_worst(family: roml.tasks.TaskFamily, alpha: float) -> roml.samplers.TaskSampler:
    prior = family.proposal

    def init(key: Array) -> Worst:
        return prior.sample(prior.phi0, key, 1)[0], jnp.float32(jnp.inf)

    def sample(state: Worst, key: Array, n: int) -> tuple[Worst, roml.types.TaskDraw]:
        again = jnp.arange(n) % 2 == 1
        u = jnp.where(again[:, None], state[0], prior.sample(prior.phi0, key, n))
        return state, roml.types.TaskDraw(u, family.decode(u), jnp.zeros(n), ~again)

    def update(
        state: Worst,
        draw: roml.types.TaskDraw,
        feedback: roml.types.Feedback | Array,
        key: Array,
        progress: Array | float = 1.0,
    ) -> tuple[Worst, roml.types.Metrics]:
        returns = roml.types.Feedback.of(feedback).returns
        worst = jnp.nanargmin(returns)
        return (draw.u[worst], returns[worst]), {"worst": returns[worst]}

    return roml.samplers.TaskSampler(init, sample, update)


def own_functions_keep_their_types() -> None:
    assert_type(lake(LakeOptions()), Lake)
    family = roml.tasks.beta("load", 0.0, 7.0)
    assert_type(near_worst(family, 0.05), roml.samplers.TaskSampler)
    env: roml.envs.Env = Lake(LakeOptions())
    roml.testing.check_env(env)
    roml.testing.check_sampler(roml.samplers.make("near_worst", family, 0.05), family)


def train_and_open(options: dict[str, Any]) -> None:
    run = roml.train(Lake(LakeOptions()), sampler="cem", alpha=0.05, frames=5e5, seeds=range(3), **options)
    again = roml.open(Path("runs/lake"), which="best_cvar", env=Lake(LakeOptions()))
    assert_type(again.returns([[0.1], [0.9]]), np.ndarray)
    assert_type(again.summary(), list[dict[str, float]])
    assert_type(run.policy(seed=1), roml.Policy)
    assert_type(run.save("runs/copy"), Path)
    assert_type(run.config, roml.Config)


def deploy() -> None:
    policy = roml.load("runs/lake", clamp=True)
    assert_type(policy, roml.Policy)
    memory = policy.begin()
    action, memory = policy.act(memory, [0.0])
    assert_type(action, np.ndarray)
    assert_type(policy.observe(memory, 1.0, np.zeros(1)), Memory)


def own_loop(key: Array) -> None:
    config, family = roml.cem.CemConfig(batch_size=32), roml.tasks.beta("load", 0.0, 7.0)
    state = roml.cem.init(config, family.proposal, key)
    assert_type(state, roml.cem.CemState)
    state, draw = roml.cem.sample(config, family.proposal, state, key, 32)
    score = -family.decode(draw.u)[:, 0]
    state, figures = roml.cem.update(config, family.proposal, state, draw, score, key, alpha=0.05)
    assert_type(figures, roml.cem.CemMetrics)
    sampler = roml.samplers.cem(family, alpha=0.05)
    inner = sampler.init(key)
    inner, more = sampler.sample(inner, key, 16)
    assert_type(more, roml.types.TaskDraw)
    assert_type(sampler.update(inner, more, score[:16], key)[1], roml.types.Metrics)
    assert_type(roml.risk.cvar(score, 0.05), Array)


def configure() -> None:
    try:
        assert_type(roml.make_config("khazad_dum", "cem", "varibad", frames=1e5), roml.Config)
    except roml.ConfigError as error:
        assert_type(roml.devices(2), int)
        assert_type(str(error), str)
    version: str = roml.__version__
    assert version.count(".") == 2
