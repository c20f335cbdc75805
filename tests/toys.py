"""A tiny VariBAD and experience out of thin air, for the tests of its pieces.

Arrays are NumPy's: each operation of JAX on another shape would be compiled by itself.
"""

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.agents import common, on_policy, ppo, vae, varibad
from roml_jax.types import Continuous, EnvSpec, Outcome, Rollout, TaskWeights

N, K, H, D, A = 3, 2, 4, 3, 2
T = K * H
SQUASHED = Continuous(A, squash=True)
SIZES = {"latent": 2, "hidden": 5, "obs_embedding": 4, "action_embedding": 3, "reward_embedding": 3,
         "decoder_layers": (7, 5), "latents": None, "decodes": None, "tbptt": None}  # fmt: skip
LAYERS = {"layers": (6, 5), "obs_embedding": 4, "latent_embedding": 3, "epochs": 1, "minibatches": 1}


def spec(action=SQUASHED):
    return EnvSpec("toy", {"all": slice(0, D)}, action, horizon=H, episodes=K)


def config(of_ppo=None, **of_vae):
    """Options of a VariBAD that learns from its second iteration on."""
    policy = ppo.PpoConfig(**(LAYERS | (of_ppo or {})))
    belief = {"batch_trajectories": 4, "buffer_trajectories": 4 * N} | of_vae
    return varibad.VaribadConfig(policy, vae.VaeConfig(**(SIZES | belief)), learning_starts=0)


def number(value):
    return np.asarray(value, jnp.result_type(float))


def random(rng, shapes):
    """Numbers of these shapes."""
    return jax.tree.map(lambda x: number(rng.normal(size=x.shape)), shapes)


def state(rng, agent, config):
    """Before the first iteration, with any weights; initialisers would take long to compile."""
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    obs, latent = (part.mean.size for part in shapes.statistics[:2])
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    start = zeros._replace(
        policy=random(rng, shapes.policy),
        belief=random(rng, shapes.belief),
        statistics=on_policy.init_statistics(obs, latent),
        rates=common.init_rates(config),
    )
    return jax.tree.map(lambda x, like: np.asarray(x, like.dtype), start, shapes)


def rollout(rng, reward=None, valid=None):
    """Whole tasks of arbitrary numbers, the latents that a toy's actions were chosen with among them."""
    numbers = lambda *shape: number(rng.normal(size=shape))  # noqa: E731
    return Rollout(
        obs=numbers(N, K, H + 1, D),
        action=numbers(N, K, H, A),
        reward=numbers(N, K, H) if reward is None else number(reward),
        valid=np.ones((N, K, H), bool) if valid is None else valid,
        extras=numbers(N, K, H, 2 * SIZES["latent"]),
        outcome=Outcome(np.zeros((N, K)), np.zeros((N, K), bool), {}),
        task=np.zeros((N, 1)),
    )


def weights(keep=(1,) * N):
    return TaskWeights(keep=number(keep), loss=number(keep))
