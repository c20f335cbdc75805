"""Environments of this package as gymnasium environments: one (``GymEnv``) or a batch (``GymVectorEnv``).

    env = GymEnv(envs.make("cheetah_mass"))
    obs, info = env.reset(seed=0)  # a task from the prior: info["task"]
    obs, reward, terminated, truncated, info = env.step(env.action_space.sample())

A task is kept for K consecutive episodes, by default the environment's number; then a reset draws a new one.
With ``recall=True``, an observation is a dict that also has the outcome of the latest step. A policy that
remembers needs it: ``Policy.predict`` then acts as in evaluations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from roml_jax.envs.base import Env, EnvState, Rendered
from roml_jax.envs.wrappers import inside
from roml_jax.types import Array, Discrete

OBSERVATION, LAST_OBSERVATION, LAST_REWARD = "observation", "last_observation", "last_reward"
NEW_TASK = "new_task"
_SEEDS = 2**31


def spaces(env: Env, recall: bool) -> tuple[gymnasium.Space[Any], gymnasium.Space[Any]]:
    """The spaces (observation, action) of one environment."""
    space = env.spec.action
    if isinstance(space, Discrete):
        action: gymnasium.Space[Any] = gymnasium.spaces.Discrete(space.n)
    else:
        low, high = (np.full(space.size, bound, np.float32) for bound in (space.low, space.high))
        action = gymnasium.spaces.Box(low, high)
    vector = gymnasium.spaces.Box(-np.inf, np.inf, (env.spec.obs_size,))
    if not recall:
        return vector, action
    reward, flag = gymnasium.spaces.Box(-np.inf, np.inf, (1,)), gymnasium.spaces.Box(0.0, 1.0, (1,))
    told: dict[str, gymnasium.Space[Any]] = {
        OBSERVATION: vector, LAST_OBSERVATION: vector, LAST_REWARD: reward, NEW_TASK: flag,
    }  # fmt: skip
    return gymnasium.spaces.Dict(told), action


class _Batch:
    """n environments as one program: their states, tasks and counters.

    Attributes:
        state: of all n environments.
        task: (n, d).
        episode: (n,) the index of the current episode of the task.
        elapsed: (n,) steps in the current episode.
        over: (n,) bool, whether the episode is over.
        last_obs: (n, D) the observation after the latest step; 0 before the first step of a task.
        last_reward: (n,) its reward.
    """

    def __init__(self, env: Env, n: int, episodes: int | None, horizon: int | None) -> None:
        spec = env.spec
        self.env, self.n = env, n
        self.episodes, self.horizon = episodes or spec.episodes, horizon or spec.horizon
        for what, number in (("num_envs", n), ("episodes", self.episodes), ("horizon", self.horizon)):
            if number < 1:
                raise ValueError(f"{what} must be at least 1, got {number}")
        self.discrete = isinstance(spec.action, Discrete)
        self.action_shape = (n,) if self.discrete else (n, spec.action.size)
        self.state: EnvState | None = None
        self.task = np.zeros((n, len(env.family.names)), np.float32)
        self.episode, self.elapsed = np.zeros(n, int), np.zeros(n, int)
        self.over = np.ones(n, bool)
        self.last_obs, self.last_reward = np.zeros((n, spec.obs_size), np.float32), np.zeros(n, np.float32)

        def start(seed: Array, task: Array) -> EnvState:
            return env.reset(jax.random.key(seed), task)

        def restart(old: EnvState, which: Array, seeds: Array, tasks: Array) -> EnvState:
            def choose(new: Array, old: Array) -> Array:
                return jnp.where(which.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

            return jax.tree.map(choose, jax.vmap(start)(seeds, tasks), old)

        self._start, self._restart = jax.jit(jax.vmap(start)), jax.jit(restart)
        self._step = jax.jit(jax.vmap(env.step))
        self._draw = jax.jit(lambda seed: env.family.sample_prior(jax.random.key(seed), 1)[0])

    @property
    def _now(self) -> EnvState:
        assert self.state is not None, "begin makes the first state"
        return self.state

    @property
    def obs(self) -> np.ndarray:
        """(n, D) of the current states."""
        return np.array(self._now.obs, np.float32)

    def begin(
        self, which: np.ndarray, random: Sequence[np.random.Generator], tasks: np.ndarray | None, fresh: bool
    ) -> None:
        """Starts episodes.

        Args:
            which: (n,) bool, the environments.
            random: a generator for each environment.
            tasks: (n, d) their tasks; None for those of the episodes before, or new ones after K episodes.
            fresh: whether the tasks are new in any case.
        """
        seeds = np.zeros(self.n, np.int32)
        for i in np.flatnonzero(which):
            is_new = fresh or tasks is not None or self.state is None or self.episode[i] + 1 >= self.episodes
            task_seed, seeds[i] = random[i].integers(_SEEDS, size=2)
            self.episode[i] = 0 if is_new else self.episode[i] + 1
            if is_new:
                self.task[i] = self._draw(task_seed) if tasks is None else tasks[i]
                self.last_obs[i], self.last_reward[i] = 0.0, 0.0
        if self.state is None:
            self.state = self._start(seeds, self.task)
        else:
            self.state = self._restart(self.state, which, seeds, self.task)
        self.elapsed[which], self.over[which] = 0, False

    def step(self, action: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """One step with actions (n,) or (n, A); returns (rewards, terminated, truncated), (n,) each.

        Raises:
            ResetNeeded: if an episode is over or none has begun.
            ValueError: if the actions have another shape.
        """
        if self.over.any():
            raise gymnasium.error.ResetNeeded("no episode is running: call reset before step")
        action = np.asarray(action, np.int32 if self.discrete else np.float32)
        if action.shape != self.action_shape:
            raise ValueError(f"actions must be of shape {self.action_shape}, got {action.shape}")
        self.state = self._step(self.state, action)
        self.elapsed += 1
        terminated, truncated = np.array(self.state.done), self.elapsed >= self.horizon
        self.over = terminated | truncated
        self.last_obs, self.last_reward = self.obs, np.array(self.state.reward, np.float32)
        return self.last_reward.copy(), terminated, truncated

    def seen(self, recall: bool) -> Any:
        """The observations of all environments, as their space has them."""
        if not recall:
            return self.obs
        return {
            OBSERVATION: self.obs,
            LAST_OBSERVATION: self.last_obs.copy(),
            LAST_REWARD: self.last_reward[:, None].copy(),
            NEW_TASK: (self.episode == 0)[:, None].astype(np.float32),
        }

    def info(self, stepped: bool) -> dict[str, np.ndarray]:
        """Arrays (n, ...) by name: the task, the privileged parts, and what a step told."""
        found = {"task": self.task.copy()}
        if self._now.privileged is not None:
            found["privileged"] = np.array(self._now.privileged, np.float32)
        if stepped:
            found["diverged"] = np.array(self._now.diverged)
            found |= {f"reward/{name}": np.array(term) for name, term in self._now.terms.items()}
        return found


def _one(tree: Any, index: int = 0) -> Any:
    """One environment's part of arrays or of dicts of arrays; a single number is Python's."""
    if isinstance(tree, Mapping):
        return {name: _one(x, index) for name, x in tree.items()}
    return tree[index] if tree.ndim > 1 else tree[index].item()


def _given_tasks(env: Env, options: Mapping[str, Any] | None, n: int) -> np.ndarray | None:
    """The tasks (n, d) in a reset's options, or None.

    Raises:
        ValueError: for another option or another shape; one line.
    """
    unknown = set(options or {}) - {"task"}
    if unknown:
        raise ValueError(f"reset has no option {min(unknown)!r}; it has 'task'")
    if not options:
        return None
    names = env.family.names
    task = np.asarray(options["task"], np.float32)
    if task.shape not in ((len(names),), (n, len(names))):
        raise ValueError(f"task must be {len(names)} number(s) ({', '.join(names)}), got shape {task.shape}")
    return np.broadcast_to(task, (n, len(names)))


class GymEnv(gymnasium.Env):
    """An environment with tasks as a ``gymnasium.Env``.

    ``reset(seed=...)`` draws a new task from the prior, ``reset(options={"task": ...})`` sets it, and
    ``reset()`` starts the task's next episode, or the first one of a new task after K episodes. ``info`` has
    the task, the privileged parts (``privileged``), the reward's terms (``reward/NAME``) and ``diverged``.
    """

    def __init__(
        self,
        env: Env,
        *,
        episodes: int | None = None,
        horizon: int | None = None,
        recall: bool = False,
        render_mode: str | None = None,
    ) -> None:
        """Compiles nothing yet.

        Args:
            env: any environment with steps.
            episodes: K, consecutive episodes of a task; None for the environment's.
            horizon: H, steps after which an episode is truncated; None for the environment's.
            recall: whether observations are dicts {"observation" (D,), "last_observation" (D,), "last_reward"
                (1,), "new_task" (1,)}, with the outcome of the latest step. The outcome is 0 before the first
                step of a task; ``new_task`` is 1 in its first episode, else 0.
            render_mode: None, or "rgb_array" for an environment that has ``render``.

        Raises:
            ValueError: for a number below 1, or a render mode that the environment does not have.
        """
        modes = ["rgb_array"] if hasattr(env, "render") else []
        if render_mode not in (None, *modes):
            raise ValueError(f"render_mode must be one of {[None, *modes]}, got {render_mode!r}")
        self.metadata = {"render_modes": modes, "render_fps": 30}
        self.env, self.render_mode, self._recall = env, render_mode, recall
        self._batch = _Batch(env, 1, episodes, horizon)
        self.observation_space, self.action_space = spaces(env, recall)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode; returns (observation, info)."""
        super().reset(seed=seed)
        tasks = _given_tasks(self.env, options, 1)
        self._batch.begin(np.ones(1, bool), [self.np_random], tasks, seed is not None)
        return _one(self._batch.seen(self._recall)), _one(self._batch.info(stepped=False))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; returns (observation, reward, terminated, truncated, info)."""
        reward, terminated, truncated = self._batch.step(np.asarray(action)[None])
        obs, info = _one(self._batch.seen(self._recall)), _one(self._batch.info(stepped=True))
        return obs, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> np.ndarray | None:
        """An image (height, width, 3), uint8, of the current state; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._batch.state is None:
            raise gymnasium.error.ResetNeeded("no episode is running: call reset before render")
        shown, state = inside(self.env, jax.tree.map(lambda x: x[0], self._batch.state))
        return next(iter(cast(Rendered, shown).render(self._batch.task[0], [state])))


class GymVectorEnv(gymnasium.vector.VectorEnv):
    """n environments with tasks as one compiled program, as a ``gymnasium.vector.VectorEnv``.

    Environment i is a ``GymEnv`` whose seed is ``seed + i``. An environment whose episode is over is reset in
    the same step (``AutoresetMode.SAME_STEP``): the observation is the first of its next episode,
    ``final_obs`` and ``final_info`` are those of the last step.
    """

    def __init__(
        self,
        env: Env,
        num_envs: int,
        *,
        episodes: int | None = None,
        horizon: int | None = None,
        recall: bool = False,
    ) -> None:
        """Compiles nothing yet; the arguments are those of ``GymEnv``, and the number of environments.

        Raises:
            ValueError: for a number below 1.
        """
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}
        self.env, self.num_envs, self._recall = env, num_envs, recall
        self._batch = _Batch(env, num_envs, episodes, horizon)
        self.single_observation_space, self.single_action_space = spaces(env, recall)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._random = [seeding.np_random()[0] for _ in range(num_envs)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts an episode in every environment; ``options={"task": ...}`` may be (d,) or (n, d)."""
        super().reset(seed=seed)
        if seed is not None:
            self._random = [seeding.np_random(seed + i)[0] for i in range(self.num_envs)]
        tasks, everyone = _given_tasks(self.env, options, self.num_envs), np.ones(self.num_envs, bool)
        self._batch.begin(everyone, self._random, tasks, seed is not None)
        return self._batch.seen(self._recall), self._infos(False, everyone)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """One step of every environment, actions (n,) or (n, A)."""
        batch = self._batch
        reward, terminated, truncated = batch.step(actions)
        over = batch.over.copy()
        infos = self._infos(True, ~over)
        if over.any():
            obs, info = batch.seen(self._recall), batch.info(stepped=True)
            for i in np.flatnonzero(over):
                final = {"final_obs": _one(obs, i), "final_info": _one(info, i)}
                infos = self._add_info(infos, final, i)
            batch.begin(over, self._random, None, False)
            infos |= self._infos(False, np.ones(self.num_envs, bool))
        return batch.seen(self._recall), reward, terminated, truncated, infos

    def _infos(self, stepped: bool, which: np.ndarray) -> dict[str, Any]:
        """The info of the environments ``which`` (n,), with gymnasium's masks; 0 for the others."""
        infos: dict[str, Any] = {}
        for name, array in self._batch.info(stepped).items():
            array[~which] = 0
            infos |= {name: array, f"_{name}": which.copy()}
        return infos
