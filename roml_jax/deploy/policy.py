"""A trained policy for deployment: NumPy in, NumPy out, for one robot or a batch; can be exported to a file.

    policy = roml_jax.load("runs/my-run", which="best_cvar")
    memory = policy.begin()
    while running:
        action, memory = policy.act(memory, obs)
        obs, reward = robot.step(action)
        memory = policy.observe(memory, reward, obs)

The policy applies the multi-episode protocol of training: the end-of-episode flag, the observation for the
first action of a later episode, the action map, and the adaptation of an agent such as MAML after each
episode. Actions are those of evaluations: greedy, except in the first episodes of an agent that explores in
them. As in training, the policy does not clip actions to the limits of the actuators; the environment or the
robot must do so, or ``load(..., clamp=True)``.

``load`` compiles the policy for one robot and calls it once, so that the first step of a robot is as fast as
the others. ``warm_up(n)`` does so for n robots.

Inputs are checked: an observation or a reward that is not finite raises ValueError, and the memory that was
passed in can still be used. ``load(..., check=False)`` leaves out the checks of values.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from numpy.typing import ArrayLike

from roml_jax.deploy import inputs
from roml_jax.deploy.acting import Compiled, Functions, Memory, compiled, make_functions, skipping
from roml_jax.deploy.predict import predict
from roml_jax.errors import ConfigError
from roml_jax.rollout import EpisodeProtocol
from roml_jax.run import files
from roml_jax.types import Array, Continuous, Discrete

if TYPE_CHECKING:
    from roml_jax.config import Which
    from roml_jax.experiment import Experiment

FORMAT = "roml_jax policy 1"
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Policy:
    """A trained policy: NumPy arrays in and out. The object is immutable.

    The arrays of a memory stay on JAX's device between two calls, since copies would take as long as the
    policy itself. NumPy arrays in their place work, too.

    Attributes:
        parameters: the acting parameters of the learner.
        functions: the policy as pure functions of the parameters.
        env: the environment's name.
        action: the action space.
        obs_slices: slices of the observation, by name of its parts.
        horizon: H, the maximum number of steps of an episode. The policy ends an episode after H steps.
        episodes: K, episodes per task in training.
        check: whether observations, rewards and actions must be finite.
        clamp: whether actions are clamped to the limits in ``action``.
        sampled: the functions with actions sampled as in training, for ``predict``.
    """

    parameters: Any
    functions: Functions
    env: str
    action: Discrete | Continuous
    obs_slices: dict[str, slice]
    horizon: int
    episodes: int
    check: bool = True
    clamp: bool = False
    sampled: Functions | None = None

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {part.stop - part.start}" for name, part in self.obs_slices.items())
        action = self.action
        acts = f"{action.n} actions" if isinstance(action, Discrete) else f"{action.size} action(s)"
        return (
            f"Policy({self.env}: observation {self.obs_size} ({parts}), {acts}, {self.episodes} episodes of "
            f"{self.horizon} steps, check={self.check}, clamp={self.clamp})"
        )

    @property
    def obs_size(self) -> int:
        """The size D of an observation."""
        return max(part.stop for part in self.obs_slices.values())

    @cached_property
    def _compiled(self) -> Compiled:
        return compiled(self.functions, self.parameters)

    def warm_up(self, n: int = 1) -> Policy:
        """Compiles the policy for n robots and calls each function once; returns the policy.

        Another number of robots is compiled when it is first used, which takes seconds.
        """
        obs = np.zeros((n, self.obs_size), self._dtype)
        for _ in range(2):  # the second time with a memory that ``observe`` returned
            memory = self.begin(n)
            for _ in range(2):
                memory = self.observe(self.act(memory, obs)[1], np.zeros(n), obs)
        return self

    @cached_property
    def _dtype(self) -> np.dtype:
        """The type of observations."""
        return np.dtype(jnp.result_type(float))

    def begin(self, n: int = 1, seed: int = 0) -> Memory:
        """Initial memory for n robots.

        Args:
            n: number of robots.
            seed: random seed of the first robot, for agents that explore; robot i has ``seed + i``.
        """
        return self._compiled.begin(seed + np.arange(n, dtype=np.int32))

    def act(self, memory: Memory, obs: ArrayLike) -> tuple[np.ndarray, Memory]:
        """Chooses actions.

        At the start of a later episode, pass its first observation. With the protocol option
        ``boundary="terminal"``, the action is chosen from the last observation of the previous episode, as in
        training.

        Args:
            memory: the memory of n robots.
            obs: (n, D), or (D,) for one robot.

        Returns:
            (actions (n, A), or (n,) integers for discrete actions; memory). For ``obs`` of shape (D,) the
            actions have no axis n.

        Raises:
            ValueError: if ``obs`` has another shape or holds no numbers; with ``check``, if ``obs`` or the
                action is not finite; one line.
        """
        obs, one = self._checked(memory, obs)
        action, memory = self._compiled.act(memory, obs)
        action = np.asarray(action)
        if self.check:
            inputs.check_outcome("the action is", action, obs)
        return (action[0] if one else action), memory

    def observe(
        self,
        memory: Memory,
        reward: ArrayLike,
        obs: ArrayLike,
        end: ArrayLike = False,
        valid: ArrayLike = True,
    ) -> Memory:
        """Updates the memory with the result of the latest action.

        Args:
            memory: the memory that ``act`` returned.
            reward: (n,), or () for one robot.
            obs: (n, D), or (D,) for one robot: the observation after the step.
            end: (n,) or () bool, whether the episode ended with this step, before H steps.
            valid: (n,) or () bool, False for a robot whose episode is over and that waits for the others
                of its batch. The agent learns nothing from such a step.

        Raises:
            ValueError: if ``reward`` or ``obs`` has another shape or holds no numbers; with ``check``, if one
                of them or what the policy remembers is not finite; one line.
        """
        obs, one = self._checked(memory, obs)
        reward = inputs.numbers("reward", reward, obs.dtype)
        if reward.shape != (() if one else obs.shape[:1]):
            raise ValueError(f"reward must be {'one number' if one else obs.shape[:1]}, got {reward.shape}")
        if self.check:
            inputs.check_finite("reward", reward.reshape(len(obs), 1), {})
        ended, counts = (np.broadcast_to(np.asarray(x, bool), len(obs)) for x in (end, valid))
        after = self._compiled.observe(memory, reward.reshape(len(obs)), obs, ended, counts)
        if self.check:
            inputs.check_outcome("what the policy remembers is", after.belief, obs)
        return after

    @cached_property
    def _sampling(self) -> Policy:
        """The policy with sampled actions."""
        if self.sampled is None:
            raise ValueError("this policy has no sampled actions: call predict with deterministic=True")
        return dataclasses.replace(self, functions=self.sampled)

    def predict(
        self,
        observation: ArrayLike | Mapping[str, ArrayLike],
        state: Memory | None = None,
        episode_start: ArrayLike | None = None,
        deterministic: bool = True,
        *,
        episodes: int | None = None,
    ) -> tuple[np.ndarray, Memory]:
        """Chooses actions, with the interface of stable-baselines3; ``act`` and ``observe`` in one call.

        Args:
            observation: (n, D), or (D,) for one robot. A policy that remembers needs a dict that also has the
                outcome of the latest step, as ``envs.gym.GymEnv(..., recall=True)`` gives it.
            state: None for the first call of a task, then what the call before returned.
            episode_start: (n,) or () bool, whether the observation is the first of an episode.
            deterministic: False for actions sampled as in training.
            episodes: episodes of a task, after which a robot's memory starts anew; None for where the
                observation says that the task is new or, if it does not, K of training.

        Returns:
            (actions as ``act`` gives them, state).

        Raises:
            ValueError: as ``act`` and ``observe``, or if the outcome of the latest step is missing; one line.
        """
        chosen = self if deterministic else self._sampling
        return predict(chosen, observation, state, episode_start, episodes, self.episodes)

    def _checked(self, memory: Memory, obs: ArrayLike) -> tuple[np.ndarray, bool]:
        """Checks observations; returns them as (n, D), and whether they had no axis n."""
        obs, n = inputs.numbers("observations", obs, self._dtype), len(memory.obs)
        one = obs.ndim == 1 and n == 1
        if obs.shape != ((self.obs_size,) if one else (n, self.obs_size)):
            shapes = f"({n}, {self.obs_size})" + (f" or ({self.obs_size},)" if n == 1 else "")
            raise ValueError(f"observations must be of shape {shapes}, got {obs.shape}")
        obs = obs[None] if one else obs
        if self.check:
            inputs.check_finite("observation", obs, self.obs_slices)
        return obs, one

    def export(self, path: Path | str) -> Path:
        """Writes the policy, for any number of robots, to a new file that needs only JAX.

        The file is a zip with ``signature.json``, which describes how to call the policy, and three functions
        for ``jax.export.deserialize``. Their memory is a tuple of arrays::

            begin(seeds (n,) int32) -> memory
            act(memory, obs (n, D)) -> (action, memory)
            observe(memory, reward (n,), obs (n, D), end (n,) bool) -> memory

        With ``check``, the functions skip robots whose observation or reward is not finite: the action is NaN
        (discrete: -1), and the memory learns nothing from the step. ``examples/deploy.py`` raises an error.

        Raises:
            ConfigError: if the file exists or cannot be written; one line.
        """
        functions = {name: bytes(function.serialize()) for name, function in exported(self).items()}
        with files.new(Path(path)) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("signature.json", json.dumps(signature(self), indent=1, allow_nan=False))
            for name, content in functions.items():
                file.writestr(name, content)
        return Path(path)


def signature(policy: Policy) -> dict[str, Any]:
    """The signature of an exported policy, for JSON: observation, action, functions and memory arrays."""
    action = policy.action
    kind = "discrete" if isinstance(action, Discrete) else "continuous"
    leaves = jax.tree.leaves(policy.begin())
    return {
        "format": FORMAT,
        "jax": jax.__version__,
        "platforms": PLATFORMS,
        "env": policy.env,
        "observation": {
            "size": policy.obs_size,
            "dtype": str(policy.begin().obs.dtype),
            "parts": {name: [part.start, part.stop] for name, part in policy.obs_slices.items()},
        },
        "action": {"kind": kind, **inputs.limits(action)},
        "horizon": policy.horizon,
        "episodes": policy.episodes,
        "functions": {
            "begin": "(seeds (n,) int32) -> memory",
            "act": "(memory, obs (n, D)) -> (action, memory)",
            "observe": "(memory, reward (n,), obs (n, D), end (n,) bool) -> memory",
        },
        "check": policy.check,
        "clamp": policy.clamp,
        "not_finite": "skipped: the action is NaN (discrete: -1), and the memory learns nothing"
        if policy.check
        else "not checked: actions are NaN from then on",
        "memory": [{"shape": ["n", *leaf.shape[1:]], "dtype": str(leaf.dtype)} for leaf in leaves],
    }


def exported(policy: Policy) -> dict[str, jax_export.Exported]:
    """The three functions with their parameters, exported for all ``PLATFORMS`` and any number of robots."""
    begin, act, observe = skipping(policy.functions) if policy.check else policy.functions
    one = jax.eval_shape(lambda: begin(policy.parameters, jnp.zeros(1, jnp.int32)))
    tree = jax.tree.structure(one)
    flat = lambda memory: tuple(jax.tree.leaves(memory))  # noqa: E731

    def flat_begin(seeds: Array) -> tuple[Array, ...]:
        return flat(begin(policy.parameters, seeds))

    def flat_act(memory: tuple[Array, ...], obs: Array) -> tuple[Array, tuple[Array, ...]]:
        action, after = act(policy.parameters, jax.tree.unflatten(tree, memory), obs)
        return action, flat(after)

    def flat_observe(memory: tuple[Array, ...], reward: Array, obs: Array, end: Array) -> tuple[Array, ...]:
        valid = jnp.ones_like(end)
        return flat(observe(policy.parameters, jax.tree.unflatten(tree, memory), reward, obs, end, valid))

    (n,) = jax_export.symbolic_shape("n")
    dtype = jnp.result_type(float)

    def array(*shape: Any, dtype: Any = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    memory = tuple(array(n, *leaf.shape[1:], dtype=leaf.dtype) for leaf in flat(one))
    obs, reward, end = array(n, policy.obs_size), array(n), array(n, dtype=bool)
    arguments = {
        "begin": (flat_begin, (array(n, dtype=jnp.int32),)),
        "act": (flat_act, (memory, obs)),
        "observe": (flat_observe, (memory, reward, obs, end)),
    }
    return {
        name: jax_export.export(jax.jit(function), platforms=PLATFORMS)(*args)
        for name, (function, args) in arguments.items()
    }


def make(
    parts: Experiment, protocol: EpisodeProtocol, learner: Any, *, check: bool = True, clamp: bool = False
) -> Policy:
    """Builds the policy of a learner.

    Args:
        parts: the parts of the experiment that the learner was trained with.
        protocol: the multi-episode protocol of training.
        learner: the learner's state, or its acting parameters.
        check: whether inputs must be finite; see ``Policy``.
        clamp: whether actions are clamped to the limits of the environment's spec.

    Raises:
        ConfigError: if the learner has no deployable policy; one line.
    """
    if parts.agent is None or parts.agent.inform is not None:
        raise ConfigError("no deployable policy: a regression learner, or an agent given the task as input")
    spec = protocol.agent_spec(parts.env.spec)
    return Policy(
        parameters=jax.device_get(parts.learner.acting(learner)),
        functions=make_functions(parts.agent, protocol, parts.env.spec, clamp),
        env=spec.name,
        action=spec.action,
        obs_slices=dict(parts.env.spec.obs_slices),
        horizon=spec.horizon,
        episodes=spec.episodes,
        check=check,
        clamp=clamp,
        sampled=make_functions(parts.agent, protocol, parts.env.spec, clamp, greedy=False),
    )


def load(
    run: Path | str,
    which: Which = "last",
    seed: int | str | None = None,
    *,
    check: bool = True,
    clamp: bool = False,
    robots: int | None = 1,
) -> Policy:
    """Loads the policy of a run. The optimiser, replay and other training state are not read.

    Args:
        run: the run's folder.
        which: "last", or the best on the validation tasks: "best_mean", "best_cvar".
        seed: the run's seed, or after a sweep the seed's label ("0, ppo.lr=0.0003"). By default: the first.
        check: whether observations, rewards and actions must be finite; if not, they raise ValueError.
        clamp: whether actions are clamped to the limits of the environment's spec.
        robots: number of robots for which the policy is compiled and called once here; None to compile it
            when it is first used.

    Raises:
        ConfigError: if the run or the learner does not exist, or has no deployable policy; one line.
    """
    # imported here, because orbax takes as long to import as the rest of the package
    from roml_jax.run import saved

    run_saved = saved.load(run, which)
    learner = run_saved.one(run_saved.place(seed))
    policy = make(run_saved.parts, run_saved.config.protocol, learner, check=check, clamp=clamp)
    return policy if robots is None else policy.warm_up(robots)
