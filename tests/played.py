"""An untrained policy and its rollouts, for the tests of what uses policies."""

import jax
import jax.numpy as jnp

import roml_jax
from roml_jax import rollout
from roml_jax.deploy import policy as policies

N = 3


def varied(learner, spread=0.5):
    """The same with large weights in its policy, which without training does the same everywhere."""
    name = "policy" if hasattr(learner, "policy") else "params"

    def changed(params):
        if isinstance(params, dict) and "memory" in params:  # which stays as it is, or it would be chaotic
            return params | {"policy": changed(params["policy"])}
        return jax.tree.map(lambda x: x + spread * jax.random.normal(jax.random.key(x.size), x.shape), params)

    return learner._replace(**{name: changed(getattr(learner, name))})


class Played:
    """An untrained policy and what the package's own evaluation did with it."""

    def __init__(
        self, env="khazad_dum", own=None, agent="varibad", changed=lambda agent: agent, spread=0.5, **options
    ):
        self.config = roml_jax.make_config(env, "uniform", agent, num_tasks=4, frames=1e5, **options)
        self.parts = roml_jax.experiment.make(self.config, own)
        self.parts = self.parts._replace(agent=changed(self.parts.agent))
        self.learner = jax.jit(lambda key: varied(self.parts.agent.init(key), spread))(jax.random.key(3))
        self.policy = policies.make(self.parts, self.config.protocol, self.learner)
        tasks = jax.jit(self.parts.env.family.sample_prior, static_argnums=1)(jax.random.key(1), N)

        @jax.jit
        def play(learner):
            return rollout.run_episodes(
                self.parts.agent, self.parts.env, self.config.protocol, learner, tasks, jax.random.key(2),
                greedy=jnp.ones(self.policy.episodes, bool),
            )[0]  # fmt: skip

        self.rollout = jax.device_get(play(self.learner))

    def steps(self):
        """(episode, step, observation, wanted output, reward, observation after, valid) of each."""
        seen = self.rollout
        obs = seen.obs[..., : self.policy.obs_size]  # without the flag, which the policy adds itself
        for k in range(self.policy.episodes):
            for t in range(self.policy.horizon):
                place = (slice(None), k, t)
                yield (
                    k,
                    t,
                    obs[place],
                    seen.action[place],
                    seen.reward[place],
                    obs[:, k, t + 1],
                    seen.valid[place],
                )
