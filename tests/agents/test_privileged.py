"""Parts of the observation that only a critic sees: who learns from them, and who never gets them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cart import MASS, cart
from played import N, Played

from roml_jax import config, experiment, tasks, testing
from roml_jax.deploy import policy as policies
from roml_jax.envs.base import EnvState
from roml_jax.types import Continuous, EnvSpec, TaskWeights


@dataclass(frozen=True)
class Coin:
    """Every step pays the coin, +1 or -1, that was thrown after the step before; actions change nothing.

    The observation is constant. The value, with a discount of 0, is the coin: a critic that sees it predicts
    every reward, another one can do no better than 0.
    """

    shown: bool = True

    @property
    def spec(self):
        privileged = {"coin": slice(0, 1)} if self.shown else {}
        return EnvSpec("coin", {"constant": slice(0, 1)}, Continuous(1), 4, 2, privileged_slices=privileged)

    @property
    def family(self):
        return tasks.beta("ignored", 0.0, 1.0)

    def _throw(self, key):
        return 2.0 * jax.random.bernoulli(key, shape=(1,)).astype(float) - 1.0

    def reset(self, key, task):
        key, coin_key = jax.random.split(key)
        coin = self._throw(coin_key)
        return EnvState.start(jnp.ones(1), key, task, coin, privileged=coin if self.shown else None)

    def step(self, state, action):
        key, coin_key = jax.random.split(state.key)
        coin = self._throw(coin_key)
        return state._replace(
            reward=state.physics[0], key=key, physics=coin, privileged=coin if self.shown else None
        )


SMALL = {"num_tasks": 16, "frames": 1e5, "protocol.end_flag": False}
PPO = {
    "ppo.gamma": 0.0, "ppo.layers": [8], "ppo.obs_embedding": None, "ppo.minibatches": 4, "ppo.epochs": 8,
    "ppo.lr": 1e-2, "ppo.clip": 1.0, "ppo.credit": "task",
}  # fmt: skip
AGENTS = {
    "multitask": PPO,
    "oracle": PPO,
    "rl2": PPO | {"memory.hidden": 4},
    "maml": PPO | {"exploration_counts": True},
    "varibad": PPO | {
        "vae.hidden": 4, "vae.latents": 2, "vae.decodes": 2, "vae.buffer_trajectories": 16,
        "vae.batch_trajectories": 4, "vae.tbptt": None, "learning_starts": 0,
    },
    "pearl": {
        "sac.gamma": 0.0, "sac.layers": [16], "sac.lr": 1e-2, "sac.updates": 50, "sac.meta_batch": 8,
        "sac.batch": 16, "sac.reward_scale": 1.0, "context.layers": [8], "context.size": 4,
        "context.prior_episodes": 1, "buffer_visits": 64, "learning_starts": 0, "protocol.episodes": 2,
        "protocol.test_episodes": 2,
    },
}  # fmt: skip


def options(agent):
    return SMALL | AGENTS[agent]


def last_loss(agent, env, iterations=40):
    """The critic's loss after training on an environment."""
    learner = experiment.make(config.make(env, "uniform", agent, **options(agent)), env).learner
    drawn, ones = jnp.full((16, 1), 0.5), TaskWeights(jnp.ones(16), jnp.ones(16))

    def iterate(state, key):
        state, experience, _ = learner.collect(state, drawn, key)
        state, metrics = learner.update(state, experience, ones, key, jnp.zeros(()))
        return state, metrics["sac/q_loss" if agent == "pearl" else "ppo/value_loss"]

    @jax.jit
    def run(key):
        return jax.lax.scan(iterate, learner.init(key), jax.random.split(key, iterations))[1]

    return float(run(jax.random.key(0))[-5:].mean())


SLOW = [pytest.param(agent, marks=pytest.mark.slow) for agent in ("oracle", "rl2", "maml", "varibad")]
PEARL = pytest.param("pearl", marks=pytest.mark.slow)
ONE_FAST = ["multitask", *SLOW, PEARL]


@pytest.mark.parametrize("agent", ["multitask", PEARL, *SLOW])
def test_a_critic_that_sees_the_coin_predicts_what_it_pays(agent):
    """PPO's loss is half a Huber loss of rewards +-1 (in units of the returns' deviation); SAC's the squares
    of two critics' errors."""
    floor = 2.0 if agent == "pearl" else 0.25
    assert last_loss(agent, Coin()) < 0.04 * floor


@pytest.mark.parametrize("agent", ["multitask", PEARL])
def test_a_critic_that_does_not_see_it_cannot(agent):
    expected = 2.0 if agent == "pearl" else 0.25
    assert last_loss(agent, Coin(shown=False)) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("agent", ONE_FAST)
def test_agents_keep_their_contract_on_it(agent):
    made = config.make(Coin(), "uniform", agent, **options(agent))
    parts = experiment.make(made, Coin())
    testing.check_agent(parts.agent, Coin(), made.protocol, 16)


def test_the_environment_keeps_its_contract():
    testing.check_env(Coin(), 4)


def hinged(**given):
    """The cart, whose critic sees the task's masses, and the velocities that the policy does not."""
    observation = {"position": lambda view: view.qpos[1:3], "velocity": lambda view: view.qvel}
    return cart((MASS,), observation=observation, **given)


MASSES = {"masses": lambda view: view.field("body_mass")[1:3]}


@pytest.fixture(scope="module")
def played():
    return Played("cheetah_mass", hinged(privileged=MASSES), "multitask")


def test_rollouts_carry_what_only_the_critic_sees(played):
    """The masses of the task's model at every state, in first steps and last ones."""
    rollout, model = played.rollout, played.parts.env.physics.model
    assert rollout.privileged.shape == (N, 2, 6, 2)
    expected = rollout.task[:, None, None] * model.body_mass[1:3]
    np.testing.assert_allclose(rollout.privileged, np.broadcast_to(expected, (N, 2, 6, 2)), rtol=1e-6)
    assert rollout.critic_obs.shape[-1] == rollout.obs.shape[-1] + 2


def test_a_policys_input_is_the_actors_alone(played):
    """Its actions are those of the evaluation, from an observation without the masses."""
    policy, memory = played.policy, played.policy.begin(N)
    assert policy.obs_size == 8 == played.parts.env.spec.obs_size
    signature = policies.signature(policy)["observation"]
    assert signature["parts"] == {"position": [0, 2], "velocity": [2, 8]}
    act = policies.exported(policy)["act"].in_avals
    assert act[-1].shape[1] == 8
    for _, _, obs, wanted, reward, after, _ in played.steps():
        action, memory = policy.act(memory, obs)
        np.testing.assert_allclose(action, wanted, rtol=1e-5, atol=1e-6)
        memory = policy.observe(memory, reward, after)


def test_names_take_parts_from_the_policy():
    env = hinged(privileged=("velocity",))
    assert dict(env.spec.obs_slices) == {"position": slice(0, 2)}
    assert dict(env.spec.privileged_slices) == {"velocity": slice(0, 6)}
    assert hinged().spec.privileged_size == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (("velocit",), r"^privileged: unknown part of the observation 'velocit'; did you mean 'velocity'\?"),
        ("velocity", r"^privileged is a tuple of names"),
        (("position", "velocity"), r"the policy would see nothing"),
        ({"position": lambda view: view.qpos}, r"'position' is a part of the observation"),
        ({"masses": lambda view: "heavy"}, r"part 'masses' must be an array of real numbers"),
    ],
    ids=["misspelt", "text", "nothing_left", "twice", "no_number"],
)
def test_wrong_parts_are_one_line(wrong, said):
    with pytest.raises(ValueError, match=said) as told:
        hinged(privileged=wrong)
    assert "\n" not in str(told.value)


def test_a_privileged_part_that_is_not_finite_diverges():
    env = hinged(privileged={"root": lambda view: jnp.sqrt(view.task - 1.0)})
    state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0)), jnp.array([[0.6], [1.4]]))
    np.testing.assert_array_equal(state.diverged, [True, False])
    assert np.isfinite(np.asarray(state.privileged)).all()
