"""A trained policy for use: NumPy in, NumPy out, for one robot or a batch, and as a file of its own.

    policy = roml_jax.load("runs/my-run", which="best_cvar")
    memory = policy.begin()
    while running:
        action, memory = policy.act(memory, obs)
        obs, reward = robot.step(action)
        memory = policy.observe(memory, reward, obs)

The multi-episode protocol of training is kept inside: the flag at an episode's end, what the first
action of a later episode sees, the action map. Actions are greedy. As in training, clamping actions to
what the actuators take is the environment's business.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from numpy.typing import ArrayLike

from roml_jax import files
from roml_jax.agents.base import Agent
from roml_jax.presets import ConfigError
from roml_jax.rollout import Protocol
from roml_jax.types import Array, Continuous, Discrete, EnvSpec, Transition

if TYPE_CHECKING:
    from roml_jax.experiment import Experiment
    from roml_jax.saved import Which

FORMAT = "roml_jax policy 1"
PLATFORMS = ("cpu", "cuda", "tpu")


class Memory(NamedTuple):
    """What a policy knows between two steps; leaves (n, ...) for n robots.

    Attributes:
        belief: the agent's, of the task.
        obs: (n, D) what the latest action was chosen from or, before it is chosen, the last observation; the
            protocol's flag included.
        action: (n, A) the policy's own latest output, before the action map.
        step: (n,) steps made in the episode.
        ended: (n,) bool, whether an episode has ended since.
    """

    belief: Any
    obs: Array
    action: Array
    step: Array
    ended: Array


class Functions(NamedTuple):
    """A policy as pure functions of its parameters, for n robots at once.

    Attributes:
        begin: (parameters, n) -> Memory, before the first episode of a task.
        act: (parameters, Memory, obs (n, D)) -> (action (n, A), or (n,) integers, Memory).
        observe: (parameters, Memory, reward (n,), obs (n, D), end (n,) bool) -> Memory after a step.
    """

    begin: Callable[[Any, int], Memory]
    act: Callable[[Any, Memory, Array], tuple[Array, Memory]]
    observe: Callable[[Any, Memory, Array, Array, Array], Memory]


def make_functions(agent: Agent, protocol: Protocol, env_spec: EnvSpec) -> Functions:
    """An agent that acts greedily under a protocol: ``rollout.run_episodes``, step by step.

    Raises:
        ConfigError: for an agent that learns from whole episodes between them.
    """
    if agent.adapt is not None:
        raise ConfigError(
            "this agent adapts to whole episodes between them, which a loaded policy cannot yet"
        )
    spec = protocol.agent_spec(env_spec)

    def flagged(obs: Array, flag: Array) -> Array:
        if not protocol.end_flag:
            return obs
        return jnp.concatenate([obs, flag[:, None].astype(obs.dtype)], axis=-1)

    def begin(parameters: Any, n: int) -> Memory:
        belief = agent.begin(parameters, n, jax.random.key(0))
        action = jnp.zeros((n, spec.action.size))
        step, ended = jnp.zeros(n, jnp.int32), jnp.zeros(n, bool)
        return Memory(belief, jnp.zeros((n, spec.obs_size)), action, step, ended)

    def act(parameters: Any, memory: Memory, obs: Array) -> tuple[Array, Memory]:
        now = flagged(obs, jnp.zeros(obs.shape[0]))
        if protocol.boundary == "terminal":
            now = jnp.where(memory.ended[:, None], memory.obs, now)
        greedy = jnp.ones((), bool)  # which draws nothing: the key does not matter
        action, _ = agent.act(parameters, memory.belief, now, jax.random.key(0), greedy)
        executed = (
            action[:, 0].astype(jnp.int32)
            if isinstance(spec.action, Discrete)
            else spec.action.executed(action)
        )
        return executed, memory._replace(obs=now, action=action, ended=jnp.zeros_like(memory.ended))

    def observe(parameters: Any, memory: Memory, reward: Array, obs: Array, end: Array) -> Memory:
        step = memory.step + 1
        in_time = step >= spec.horizon
        seen = Transition(memory.obs, memory.action, reward, flagged(obs, in_time), jnp.ones_like(in_time))
        belief = agent.observe(parameters, memory.belief, seen)
        # after an early end training goes on with the last observation, and flags it at the horizon
        ended = in_time | end
        return Memory(belief, flagged(obs, ended), memory.action, jnp.where(ended, 0, step), ended)

    return Functions(begin, act, observe)


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A trained policy. All arrays are NumPy's; no method changes anything.

    Attributes:
        parameters: what acts of the learner.
        functions: pure.
        env: the environment's name.
        action: the action space.
        obs_slices: the parts of the observation by name.
        horizon: H, steps of an episode: after as many an episode ends by itself.
        episodes: K, episodes per task in training.
    """

    parameters: Any
    functions: Functions
    env: str
    action: Discrete | Continuous
    obs_slices: dict[str, slice]
    horizon: int
    episodes: int

    @property
    def obs_size(self) -> int:
        """D."""
        return max(part.stop for part in self.obs_slices.values())

    @cached_property
    def _compiled(self) -> Functions:
        begin, act, observe = self.functions
        return Functions(jax.jit(begin, static_argnums=1), jax.jit(act), jax.jit(observe))

    @cached_property
    def _placed(self) -> Any:
        return jax.device_put(self.parameters)  # once, not at every step

    def begin(self, n: int = 1) -> Memory:
        """Knows nothing yet of the tasks of n robots."""
        return jax.device_get(self._compiled.begin(self._placed, n))

    def act(self, memory: Memory, obs: ArrayLike) -> tuple[np.ndarray, Memory]:
        """Chooses actions.

        At the start of a later episode pass its first observation; with the protocol's
        ``boundary="terminal"`` the action is nevertheless chosen from the last of the episode before.

        Args:
            memory: of n robots.
            obs: (n, D), or (D,) for one robot.

        Returns:
            (actions (n, A), or (n,) integers where they are discrete; memory). Obs (D,) gives no axis n.

        Raises:
            ValueError: for another shape; one line.
        """
        obs, one = self._checked(memory, obs)
        action, memory = jax.device_get(self._compiled.act(self._placed, memory, obs))
        return (action[0] if one else action), memory

    def observe(self, memory: Memory, reward: ArrayLike, obs: ArrayLike, end: ArrayLike = False) -> Memory:
        """Takes what came of the latest action.

        Args:
            memory: as ``act`` returned it.
            reward: (n,), or () for one robot.
            obs: (n, D), or (D,) for one robot: after the step.
            end: (n,) or () bool, whether the episode ended with this step before its H steps were over.

        Raises:
            ValueError: for another shape; one line.
        """
        obs, one = self._checked(memory, obs)
        reward = np.asarray(reward, obs.dtype)
        if reward.shape != (() if one else obs.shape[:1]):
            raise ValueError(f"reward must be {'one number' if one else obs.shape[:1]}, got {reward.shape}")
        end = np.broadcast_to(np.asarray(end, bool), len(obs))
        return jax.device_get(
            self._compiled.observe(self._placed, memory, reward.reshape(len(obs)), obs, end)
        )

    def _checked(self, memory: Memory, obs: ArrayLike) -> tuple[np.ndarray, bool]:
        """Observations (n, D), and whether they came without their first axis."""
        obs, n = np.asarray(obs, np.asarray(memory.obs).dtype), len(memory.obs)
        one = obs.ndim == 1 and n == 1
        if obs.shape != ((self.obs_size,) if one else (n, self.obs_size)):
            wanted = f"({n}, {self.obs_size})" + (f" or ({self.obs_size},)" if n == 1 else "")
            raise ValueError(f"observations must be of shape {wanted}, got {obs.shape}")
        return (obs[None] if one else obs), one

    def export(self, path: Path | str) -> Path:
        """Writes the policy, compiled for any number of robots, to a new file that runs with JAX alone.

        The file is a zip of ``signature.json``, which says how to call it, and of three functions for
        ``jax.export.deserialize``. Memory is a tuple of arrays there::

            begin(zeros (n,)) -> memory
            act(memory, obs (n, D)) -> (action, memory)
            observe(memory, reward (n,), obs (n, D), end (n,) bool) -> memory

        Raises:
            ConfigError: if the file exists or cannot be written; one line.
        """
        functions = {name: bytes(made.serialize()) for name, made in exported(self).items()}
        with files.new(Path(path)) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("signature.json", json.dumps(signature(self), indent=1))
            for name, content in functions.items():
                file.writestr(name, content)
        return Path(path)


def signature(policy: Policy) -> dict[str, Any]:
    """How to call an exported policy, as JSON: what it observes, how it acts, what its memory holds."""
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
        "action": {"kind": kind, **{k: v for k, v in dataclasses.asdict(action).items() if k != "squash"}},
        "horizon": policy.horizon,
        "episodes": policy.episodes,
        "functions": {
            "begin": "(zeros (n,)) -> memory",
            "act": "(memory, obs (n, D)) -> (action, memory)",
            "observe": "(memory, reward (n,), obs (n, D), end (n,) bool) -> memory",
        },
        "memory": [{"shape": ["n", *leaf.shape[1:]], "dtype": str(leaf.dtype)} for leaf in leaves],
    }


def exported(policy: Policy) -> dict[str, jax_export.Exported]:
    """The three functions with their parameters inside, for n robots on any of the platforms."""
    begin, act, observe = policy.functions
    tree = jax.tree.structure(jax.eval_shape(lambda: begin(policy.parameters, 1)))
    flat = lambda memory: tuple(jax.tree.leaves(memory))  # noqa: E731

    def flat_begin(like: Array) -> tuple[Array, ...]:
        return flat(begin(policy.parameters, like.shape[0]))

    def flat_act(memory: tuple[Array, ...], obs: Array) -> tuple[Array, tuple[Array, ...]]:
        action, after = act(policy.parameters, jax.tree.unflatten(tree, memory), obs)
        return action, flat(after)

    def flat_observe(memory: tuple[Array, ...], reward: Array, obs: Array, end: Array) -> tuple[Array, ...]:
        return flat(observe(policy.parameters, jax.tree.unflatten(tree, memory), reward, obs, end))

    (n,) = jax_export.symbolic_shape("n")
    dtype = jnp.result_type(float)

    def array(*shape: Any, dtype: Any = dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    one = jax.eval_shape(lambda: flat(begin(policy.parameters, 1)))
    memory = tuple(array(n, *leaf.shape[1:], dtype=leaf.dtype) for leaf in one)
    obs, reward, end = array(n, policy.obs_size), array(n), array(n, dtype=bool)
    arguments = {
        "begin": (flat_begin, (array(n),)),
        "act": (flat_act, (memory, obs)),
        "observe": (flat_observe, (memory, reward, obs, end)),
    }
    return {
        name: jax_export.export(jax.jit(function), platforms=PLATFORMS)(*args)
        for name, (function, args) in arguments.items()
    }


def make(parts: Experiment, protocol: Protocol, learner: Any) -> Policy:
    """The policy of a learner that is at hand, with the experiment's parts that it was trained with.

    Raises:
        ConfigError: if nothing acts in it by itself; one line.
    """
    if parts.agent is None or parts.agent.inform is not None:
        raise ConfigError("there is no policy to load: nothing acts here, or it acts on the task itself")
    spec = protocol.agent_spec(parts.env.spec)
    return Policy(
        parameters=jax.device_get(parts.learner.acting(learner)),
        functions=make_functions(parts.agent, protocol, parts.env.spec),
        env=spec.name,
        action=spec.action,
        obs_slices=dict(parts.env.spec.obs_slices),
        horizon=spec.horizon,
        episodes=spec.episodes,
    )


def load(run: Path | str, which: Which = "last", seed: int | str | None = None) -> Policy:
    """The policy of a run's folder; no optimiser, replay or other state of training is read.

    Args:
        run: the folder.
        which: "last", or the best on the validation tasks: "best_mean", "best_cvar".
        seed: of which of its runs, or with swept settings its label ("0, ppo.lr=0.0003"); by default the
            first.

    Raises:
        ConfigError: if there is no such learner; one line.
    """
    # orbax, which reads it, takes as long to import as all that the package needs otherwise
    from roml_jax import saved

    read = saved.load(run, which)
    return make(read.parts, read.config.protocol, read.one(read.place(seed)))
