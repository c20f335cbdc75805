"""Runs an agent for several episodes per task, and makes a meta-learner from an agent and an environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from roml_jax import checks, stacked
from roml_jax.agents.base import Agent, MetaLearner
from roml_jax.envs.base import Env, EnvState
from roml_jax.types import (
    Array,
    Continuous,
    Discrete,
    EnvSpec,
    Feedback,
    Metrics,
    Outcome,
    Rollout,
    TaskWeights,
    Transition,
)

Boundary = Literal["terminal", "reset"]
ActionMap = Literal["raw", "tanh"]
Constrain = Callable[[Any], Any]
"""(pytree with leaves (N, ...)) -> the same pytree, with a sharding constraint on the task axis."""


def anywhere(tree: Any) -> Any:
    """Returns the pytree unchanged: no sharding constraint."""
    return tree


@dataclass(frozen=True)
class EpisodeProtocol:
    """Episodes and steps per task, and the observations at episode boundaries."""

    episodes: int | None = None
    """Episodes per task, K; None for the environment's default."""
    test_episodes: int | None = None
    """Episodes per task in evaluations and tests; None for K."""
    horizon: int | None = None
    """Steps per episode, H; None for the environment's default."""
    boundary: Boundary = "reset"
    """Observation for the first action of a later episode: 'reset', the first observation of the new episode;
    'terminal', the last observation of the previous episode (the reference, and the presets of the paper's
    environments)."""
    end_flag: bool = True
    """Append a flag to the observation: 1 for that after the last step of an episode's horizon, else 0. An
    episode that ends early has none."""
    action_map: ActionMap = "raw"
    """Action that the environment gets from a continuous policy: 'raw', the policy's output (environments
    clamp it); 'tanh', tanh of the output."""

    def __post_init__(self) -> None:
        checks.at_least(self, "protocol", 1, "episodes", "test_episodes", "horizon")

    def agent_spec(self, spec: EnvSpec) -> EnvSpec:
        """The environment's spec for an agent: with the end flag and this protocol's K and H."""
        slices = dict(spec.obs_slices)
        if self.end_flag:
            slices["episode_end"] = slice(spec.obs_size, spec.obs_size + 1)
        action = spec.action
        if isinstance(action, Continuous):
            action = replace(action, squash=self.action_map == "tanh")
        return EnvSpec(
            spec.name, slices, action, self.horizon or spec.horizon, self.episodes or spec.episodes,
            privileged_slices=spec.privileged_slices,
        )  # fmt: skip

    def tested(self, spec: EnvSpec) -> int:
        """Number of episodes of a held-out task, in an environment with this spec."""
        return self.test_episodes or self.agent_spec(spec).episodes


class _Carry(NamedTuple):
    env: EnvState
    obs: Array
    belief: Any


class _Seen(NamedTuple):
    """What a rollout keeps of a step: what was before it, and the action.

    The next observation is that of the following step, so it is stored once.
    """

    obs: Array
    privileged: Array | None
    action: Array
    extras: Any


class _Step(NamedTuple):
    """Results of a step, (N, ...). ``seen`` is None if it is not recorded."""

    reward: Array
    valid: Array
    terms: Mapping[str, Array]
    seen: _Seen | None


class _Recorded(NamedTuple):
    """The steps of an episode, packed, (H, N, ...), and the last (observation, privileged part), (N, ...)."""

    steps: stacked.Packed
    last: tuple[Array, Array | None]


class _Episode(NamedTuple):
    """Results of an episode, (N, ...); ``recorded`` is None if its steps are not recorded."""

    total: Array
    terms: Mapping[str, Array]
    length: Array
    diverged: Array
    recorded: _Recorded | None


def env_action(spec: EnvSpec, action: Array) -> Array:
    """The environment's input for actions (N, A): (N, A), or (N,) integers for a discrete action space."""
    return (
        action[..., 0].astype(jnp.int32)
        if isinstance(spec.action, Discrete)
        else spec.action.executed(action)
    )


def flagged(protocol: EpisodeProtocol, obs: Array, ended: Array) -> Array:
    """Observations (N, D), with the end-of-episode flag appended if the protocol has one."""
    if not protocol.end_flag:
        return obs
    flag = jnp.broadcast_to(ended, (obs.shape[0], 1)).astype(obs.dtype)
    return jnp.concatenate([obs, flag], axis=-1)


def _run_steps(
    agent: Agent, env: Env, protocol: EpisodeProtocol, agent_state: Any, start: _Carry, key: Array,
    greedy: Array, record: bool,
) -> tuple[_Carry, stacked.Packed]:  # fmt: skip
    """Runs the H steps of an episode from its first observation and belief; the ``_Step``s are packed."""
    spec = protocol.agent_spec(env.spec)
    last = jnp.arange(spec.horizon) == spec.horizon - 1

    def step(carry: _Carry, now: tuple[Array, Array]) -> tuple[_Carry, stacked.Packed]:
        key, last = now
        action, extras = agent.act(agent_state, carry.belief, carry.obs, key, greedy)
        state = jax.vmap(env.step)(carry.env, env_action(spec, action))
        next_obs = flagged(protocol, state.obs, last)
        seen = Transition(carry.obs, action, state.reward, next_obs, state.valid)
        belief = agent.observe(agent_state, carry.belief, seen)
        kept = _Seen(carry.obs, carry.env.privileged, action, extras) if record else None
        result = _Step(state.reward, state.valid, state.terms, kept)
        return _Carry(state, next_obs, belief), stacked.pack(result)

    return jax.lax.scan(step, start, (jax.random.split(key, spec.horizon), last))


def _outcome(total: Array, diverged: Array, terms: Mapping[str, Array], length: Array) -> Outcome:
    """The outcome; a diverged episode gets the lowest return of all N tasks in that episode."""
    return Outcome(jnp.where(diverged, total.min(axis=0), total), diverged, terms, length)


def _with_last(axis: int, before: Any, last: Any) -> Any:
    """Observations before each step and the last one, joined along the steps' axis: H + 1."""
    join = lambda x, end: jnp.concatenate([x, jnp.expand_dims(end, axis)], axis)  # noqa: E731
    return jax.tree.map(join, before, last)


def _rollout(recorded: _Recorded, outcome: Outcome, tasks: Array) -> Rollout:
    """The rollout of recorded episodes, whose steps have axes (K, H, N, ...)."""
    steps: _Step = stacked.unpack(recorded.steps)
    seen = steps.seen
    assert seen is not None
    obs, privileged = _with_last(1, (seen.obs, seen.privileged), recorded.last)
    kept = (obs, seen.action, steps.reward, steps.valid, seen.extras, privileged)
    *of_steps, privileged = jax.tree.map(lambda x: jnp.moveaxis(x, 2, 0), kept)
    return Rollout(*of_steps, outcome, tasks, privileged)


def _adapted(agent: Agent, agent_state: Any, belief: Any, steps: _Step, last_obs: Array, key: Array) -> Any:
    """The belief after an episode: as it is, for an agent that does not adapt between episodes."""
    if agent.adapt is None:
        return belief
    seen = steps.seen
    assert seen is not None
    obs = _with_last(0, seen.obs, last_obs)
    done = Transition(obs[:-1], seen.action, steps.reward, obs[1:], steps.valid)
    return agent.adapt(agent_state, belief, (done, seen.extras), key)


def _first_belief(agent: Agent, agent_state: Any, tasks: Array, key: Array) -> Any:
    """The belief before the first episode; that of an agent that is told the tasks knows them."""
    belief = agent.begin(agent_state, key, tasks.shape[0])
    return belief if agent.inform is None else agent.inform(agent_state, belief, tasks)


def _sums(steps: _Step) -> tuple[Array, Mapping[str, Array], Array]:
    """(returns, sums of the reward terms, lengths) of an episode's valid steps, (N,)."""
    total, terms = jax.tree.map(
        lambda x: jnp.where(steps.valid, x, 0).sum(axis=0), (steps.reward, dict(steps.terms))
    )
    return total, terms, steps.valid.sum(axis=0, dtype=jnp.int32)


def _of_places(key: Array, n: int, index: Array | None) -> Array:
    """A random key (N,) for each of N tasks; for the places 0 to N - 1, those of JAX's default split."""
    return jax.random.split(key, n) if index is None else jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def _of_batch(key: Array, index: Array | None) -> Array:
    """The key of an agent's randomness, which differs between batches; the first has that of a whole test."""
    return key if index is None else jnp.where(index[0] == 0, key, jax.random.fold_in(key, index[0]))


def run_episodes(
    agent: Agent, env: Env, protocol: EpisodeProtocol, agent_state: Any, tasks: Array, key: Array, *,
    greedy: Array | None = None, record: bool = True, index: Array | None = None,
    constrain: Constrain = anywhere,
) -> tuple[Rollout | None, Outcome]:  # fmt: skip
    """Runs K episodes of H steps on each of N tasks.

    A scan over steps is nested in a scan over episodes, so that resets run K times, not K * H times.

    Args:
        agent: the agent.
        env: unbatched; this function vmaps it over tasks.
        protocol: K, H and the boundary.
        agent_state: A, the agent's state.
        tasks: (N, d).
        key: randomness of resets, environments and actions.
        greedy: (K,) bool, the episodes in which the agent takes its most likely action; None for none.
        record: whether to return the rollout; otherwise only the outcome.
        index: (N,), the tasks' places among all tasks, of which these are a batch; None for 0 to N - 1. The
            randomness of a task's environment depends on the key and on its place alone.
        constrain: sharding constraint on the task axis.

    Returns:
        (Rollout with leaves (N, K, H, ...) or None, Outcome with leaves (N, K)).
    """
    spec, n = protocol.agent_spec(env.spec), tasks.shape[0]

    def episode(
        carry: tuple[Array, Any], now: tuple[Array, Array, Array | None]
    ) -> tuple[tuple[Array, Any], _Episode]:
        terminal_obs, belief = carry
        key, first, greedy = now
        greedy = jnp.zeros((), bool) if greedy is None else greedy  # a constant: no mode is computed
        reset_key, *of_agent = jax.random.split(key, 3)
        act_key, adapt_key = (_of_batch(one, index) for one in of_agent)
        state = jax.vmap(env.reset)(*constrain((_of_places(reset_key, n, index), tasks)))
        obs = flagged(protocol, state.obs, jnp.zeros((), bool))
        if protocol.boundary == "terminal":
            obs = jnp.where(first, obs, terminal_obs)
        start = constrain(_Carry(state, obs, belief))
        needs_steps = record or agent.adapt is not None
        end, packed = _run_steps(agent, env, protocol, agent_state, start, act_key, greedy, needs_steps)
        steps: _Step = stacked.unpack(packed)
        belief = _adapted(agent, agent_state, end.belief, steps, end.obs, adapt_key)
        total, terms, length = _sums(steps)
        recorded = _Recorded(packed, (end.obs, end.env.privileged)) if record else None
        return (end.obs, belief), _Episode(total, terms, length, end.env.diverged, recorded)

    begin_key, key = jax.random.split(key)
    agent_state = agent.prepare(agent_state)
    belief = _first_belief(agent, agent_state, tasks, _of_batch(begin_key, index))
    start = (jnp.zeros((n, spec.obs_size)), belief)
    first = jnp.arange(spec.episodes) == 0
    _, episodes = jax.lax.scan(episode, start, (jax.random.split(key, spec.episodes), first, greedy))
    by_task = (episodes.total, episodes.diverged, episodes.terms, episodes.length)
    outcome = _outcome(*jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), by_task))
    if episodes.recorded is None:
        return None, outcome
    return constrain(_rollout(episodes.recorded, outcome, tasks)), outcome


def run_test(
    agent: Agent, env: Env, protocol: EpisodeProtocol, agent_state: Any, tasks: Array, key: Array, *,
    record: bool = False, index: Array | None = None, constrain: Constrain = anywhere,
) -> tuple[Rollout | None, Outcome]:  # fmt: skip
    """Runs the episodes of an evaluation or test.

    There are ``protocol.test_episodes`` episodes per task. All are greedy except the first
    ``agent.exploring`` ones. Arguments and results are those of ``run_episodes``.
    """
    episodes = protocol.tested(env.spec)
    return run_episodes(
        agent, env, replace(protocol, episodes=episodes), agent_state, tasks, key,
        greedy=jnp.arange(episodes) >= agent.exploring, record=record, index=index, constrain=constrain,
    )  # fmt: skip


def make_learner(
    agent: Agent, env: Env, protocol: EpisodeProtocol, constrain: Constrain = anywhere
) -> MetaLearner:
    """Makes a meta-learner from an agent and an environment.

    A task's score for the sampler is the sum of its returns over all episodes.

    Args:
        agent: the agent.
        env: unbatched.
        protocol: K, H and the boundary.
        constrain: sharding constraint on the task axis, for several devices.

    Raises:
        ValueError: if a test would end before the agent has adapted; one line.
    """
    if protocol.test_episodes is not None and protocol.test_episodes <= agent.unadapted:
        raise ValueError(
            f"protocol.test_episodes={protocol.test_episodes} is too few: the agent uses what it has seen of "
            f"a task after {agent.unadapted} episodes"
        )

    def collect(state: Any, tasks: Array, key: Array) -> tuple[Any, Rollout, Feedback]:
        experience, outcome = run_episodes(agent, env, protocol, state, tasks, key, constrain=constrain)
        assert experience is not None
        value_score = None if agent.value_score is None else agent.value_score(state, experience)
        return (
            state,
            experience,
            Feedback(
                outcome.returns.sum(axis=-1), outcome.returns, value_score, outcome.diverged.any(axis=-1)
            ),
        )

    def update(
        state: Any, experience: Rollout, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[Any, Metrics]:
        state, metrics = agent.update(state, experience, weights, key, progress)
        outcome = experience.outcome
        collected = {f"reward/{name}": total.mean() for name, total in outcome.terms.items()}
        collected["train/diverged"] = outcome.diverged.any(axis=1).sum().astype(outcome.returns.dtype)
        return state, metrics | collected

    def test(state: Any, tasks: Array, key: Array, index: Array | None = None) -> Outcome:
        return run_test(agent, env, protocol, state, tasks, key, index=index, constrain=constrain)[1]

    reports = ("episode_returns", "diverged") + (("value_score",) if agent.value_score else ())
    return MetaLearner(
        agent.init, collect, update, test, agent.acting, agent.storage, reports, agent.counters
    )
