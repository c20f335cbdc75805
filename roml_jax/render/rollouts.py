"""Episodes of a trained policy on one task, with the simulation's positions at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.deploy import inputs
from roml_jax.deploy import policy as policies
from roml_jax.deploy.policy import Policy
from roml_jax.envs import Env, EnvState, inside, pictures
from roml_jax.envs.door import programs
from roml_jax.errors import ConfigError, unknown
from roml_jax.tasks import TaskFamily

if TYPE_CHECKING:
    from roml_jax.run.saved import Saved


class Played(NamedTuple):
    """Episodes of n robots on one task. Axes: K episodes, H steps, n robots.

    Attributes:
        label: name of the policy.
        task: (d,) the task.
        reward: (K, H, n); 0 after an early end of the episode.
        valid: (K, H, n) bool, False after an early end of the episode.
        poses: (K, H + 1, n, p) positions in the simulation: qpos and poses of mocap bodies, or x and y of a
            walker; p = 0 in other environments.
        states: K lists of H + 1 states of the first robot inside all wrappers, for the environment's own
            ``render``.
    """

    label: str
    task: np.ndarray
    reward: np.ndarray
    valid: np.ndarray
    poses: np.ndarray
    states: Sequence[Sequence[EnvState]] = ()

    @property
    def returns(self) -> np.ndarray:
        """Return of each episode and robot, (K, n)."""
        return self.reward.sum(axis=1)

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode and robot before its early end, (K, n); H without one."""
        return self.valid.sum(axis=1)


def prior_draws(family: TaskFamily) -> np.ndarray:
    """10,000 draws from the prior (10000, d), always the same."""
    return programs.run(lambda: family.sample_prior(jax.random.key(0), 10_000))


def parse_task(family: TaskFamily, given: Sequence[str], drawn: np.ndarray | None = None) -> np.ndarray:
    """Parses a task (d,).

    Args:
        family: the task family.
        given: ``NAME=VALUE`` for some dimensions, or one value for each dimension in order; commas may stand
            between them. Dimensions that are not named have the prior's median.
        drawn: ``prior_draws(family)``; None to make them here, if a dimension is not named.

    Raises:
        ConfigError: for an unknown name, or a value that is not a number or out of range; one line.
    """
    given = [text for word in given for text in word.split(",") if text]
    named = [text.partition("=") for text in given]
    if given and not any(equals for _, equals, _ in named):
        if len(given) != len(family.names):
            names = ", ".join(family.names)
            raise ConfigError(
                f"--task must be NAME=VALUE, or a value for each of {names}; got {' '.join(given)}"
            )
        named = [(name, "=", text) for name, text in zip(family.names, given, strict=True)]
    values: dict[str, float] = {}
    for name, _, text in named:
        if name not in family.names:
            raise ConfigError(f"--task: {unknown('dimension', name, family.names)}")
        try:
            values[name] = float(text)
        except ValueError:
            raise ConfigError(f"--task: {name} must be a number, got {text!r}") from None
        low, high = family.ranges[family.names.index(name)]
        if not low <= values[name] <= high:
            raise ConfigError(f"--task: {name} must be in [{low:g}, {high:g}], got {values[name]:g}")
    if len(values) < len(family.names):
        drawn = prior_draws(family) if drawn is None else drawn
        median = np.median(drawn, axis=0)
        values = dict(zip(family.names, median, strict=True)) | values
    return np.array([values[name] for name in family.names], np.float32)


def describe(names: Sequence[str], task: np.ndarray) -> str:
    """A task as text, such as ``mass 1.7, damping 1``."""
    return ", ".join(f"{name} {value:.3g}" for name, value in zip(names, task, strict=True))


def labelled(names: Sequence[str], played: Sequence[Played]) -> list[Played]:
    """The same with the task in each label, if the tasks differ."""
    if all(np.array_equal(one.task, played[0].task) for one in played):
        return list(played)
    return [one._replace(label=f"{one.label}: {describe(names, one.task)}") for one in played]


def _pose(state: Any) -> jax.Array:
    """The positions in an environment's state: a robot's (``pictures.pose_of``), or x and y of a walker.

    brax has the simulation's state in ``pipeline_state``, Playground in ``data``.
    """
    inner = state.physics
    for holder in (inner, getattr(inner, "pipeline_state", None), getattr(inner, "data", None)):
        if hasattr(holder, "qpos"):
            return pictures.pose_of(holder)
        if hasattr(holder, "position"):
            return holder.position
    return jnp.zeros((state.obs.shape[0], 0))


class Look(NamedTuple):
    """What pictures need of the states of n robots.

    Attributes:
        pose: (n, p); see ``Played.poses``.
        first: the state of the first robot inside all wrappers.
    """

    pose: jax.Array
    first: EnvState


class Simulator(NamedTuple):
    """An environment's compiled functions for n robots. One object serves all policies that are compared.

    Attributes:
        reset: (keys (n,), tasks (n, d)) -> (EnvState, Look).
        step: (EnvState, actions (n, A) or (n,)) -> (EnvState, Look).
    """

    reset: Callable[[jax.Array, jax.Array], tuple[EnvState, Look]]
    step: Callable[[EnvState, np.ndarray], tuple[EnvState, Look]]


def simulator(env: Env) -> Simulator:
    """The functions of an environment, which are compiled when they are first called."""

    def looked(state: EnvState) -> tuple[EnvState, Look]:
        return state, Look(_pose(state), inside(env, jax.tree.map(lambda x: x[0], state))[1])

    return Simulator(
        jax.jit(lambda keys, tasks: looked(jax.vmap(env.reset)(keys, tasks))),
        jax.jit(lambda state, action: looked(jax.vmap(env.step)(state, action))),
    )


def play(
    policy: Policy, simulator: Simulator, label: str, task: np.ndarray, n: int = 1, seed: int = 0
) -> Played:
    """Runs a policy on a task for all its episodes.

    Args:
        policy: the policy.
        simulator: of the environment that the policy was trained on.
        label: name of the policy.
        task: (d,) the task.
        n: number of robots; they have different random keys.
        seed: random seed of the environment. Use the same seed to compare two policies.

    Raises:
        ValueError: if an observation or an action is not finite; one line.
    """
    # jit knows functions that it has compiled before: policies of one agent share these programs
    begin, act, observe = (jax.jit(function) for function in policy.functions)
    parameters, going = jax.device_put(policy.parameters), np.zeros(n, bool)
    tasks = jnp.tile(jnp.asarray(task, jnp.float32), (n, 1))
    memory = begin(parameters, np.arange(n, dtype=np.int32))
    keys = jax.random.split(jax.random.key(seed), (policy.episodes, n))
    episodes, states = [], []
    for k in range(policy.episodes):
        state, look = simulator.reset(keys[k], tasks)
        looks, rewards, valids = [look], [], []
        for _ in range(policy.horizon):
            obs = np.asarray(state.obs)
            inputs.check_finite("observation", obs, policy.obs_slices)
            action, memory = act(parameters, memory, obs)
            inputs.check_outcome("the action is", action, obs)
            state, look = simulator.step(state, action)
            reward, valid = np.asarray(state.reward), np.asarray(state.valid)
            memory = observe(parameters, memory, reward, state.obs, going, valid)
            looks.append(look)
            rewards.append(np.where(valid, reward, 0.0))
            valids.append(valid)
        states.append([look.first for look in looks])
        poses = np.stack([np.asarray(look.pose) for look in looks])
        episodes.append((np.stack(rewards), np.stack(valids), poses))
    reward, valid, poses = (np.stack(part) for part in zip(*episodes, strict=True))
    return Played(label, np.asarray(task), reward, valid, poses, states)


def of_run(run: Saved, place: int, name: str | None = None) -> tuple[Policy, str]:
    """The policy of one seed of a run, and its label.

    Args:
        run: the run.
        place: position of the seed in ``config.plan``.
        name: of the run; by default its folder's.
    """
    config = run.config
    policy = policies.make(run.parts, config.protocol, run.one(place))
    label = f"{name or run.folder.resolve().name}, seed {config.plan[place].label}"
    return policy, label if run.which == "last" else f"{label}, {run.which}"


def of_runs(runs: Sequence[Saved], places: Sequence[int]) -> list[tuple[Policy, str]]:
    """The policies of several runs on one environment, and their labels.

    Runs of the same agent and protocol have the same functions, which are compiled once.

    Args:
        runs: the runs.
        places: position of the seed in each run's ``config.plan``.
    """
    made: list[tuple[Policy, str]] = []
    folders = [run.folder for run in runs]
    for run, place in zip(runs, places, strict=True):
        is_alone = sum(folder.resolve().name == run.folder.resolve().name for folder in folders) == 1
        policy, label = of_run(run, place, None if is_alone else str(run.folder))
        alike = (other for known, (other, _) in zip(runs, made, strict=False) if _acts_like(known, run))
        made.append((dataclasses.replace(next(alike, policy), parameters=policy.parameters), label))
    return made


def _acts_like(first: Saved, second: Saved) -> bool:
    """Whether the policies of two runs on one environment are the same functions of their parameters."""
    names = ("agent", "agent_options", "protocol", "num_tasks")
    return all(getattr(first.config, name) == getattr(second.config, name) for name in names)
