"""Adapters for Brax and MuJoCo Playground environments, with tasks as edits of their models.

Both libraries hold the model in an attribute that every method of the environment reads. A task is applied
to a shallow copy of the environment, made for each call. The original is never changed, and a new task at
every reset needs no compilation.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs import brax_parts, door, edits
from roml_jax.envs.base import BLOWN_UP, EnvState, all_finite, part_slices, simulation
from roml_jax.envs.physics import Derived, ModelLeaves, compiled_flags, is_inert, mjx_limits
from roml_jax.envs.physics import derived as derived_fields
from roml_jax.envs.physics.base import write_field
from roml_jax.envs.physics.mjx import is_traced
from roml_jax.errors import suggestion
from roml_jax.quiet import mjx
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Continuous, EnvSpec


def _with_model(env: Any, attribute: str, model: mjx.Model) -> Any:
    """A shallow copy of an environment with another model.

    Bound methods among the environment's attributes would still use the old model, so they are bound to the
    copy.
    """
    twin = copy.copy(env)
    for name, value in vars(env).items():
        if isinstance(value, types.MethodType) and value.__self__ is env:
            object.__setattr__(twin, name, types.MethodType(value.__func__, twin))
    object.__setattr__(twin, attribute, model)
    return twin


def _named(obs: Any) -> Mapping[str, Array]:
    """The parts of an observation; one without names is one part, "observation"."""
    return obs if isinstance(obs, Mapping) else {"observation": obs}


def _check_names(names: Sequence[str], parts: Collection[str]) -> None:
    """Raises ValueError for a part that an observation does not have; one line."""
    for name in names:
        if name not in parts:
            raise ValueError(
                f"the observation has no part {name!r}{suggestion(name, parts)} (it has {', '.join(parts)})"
            )


def _chosen(obs: Any, names: Sequence[str]) -> dict[str, Array]:
    """The named parts of an observation as vectors, in the order of the names.

    Raises:
        ValueError: if a part is missing; one line.
    """
    parts = _named(obs)
    _check_names(names, parts)
    return {name: jnp.ravel(parts[name]) for name in names}


@dataclasses.dataclass(frozen=True, eq=False)
class AdaptedEnv:
    """An environment of another library as an ``Env``.

    The library's state is in ``EnvState.physics``. From a step on whose observation or reward is not finite,
    or a position or velocity beyond 1e4, the state is frozen and marked as diverged, as in ``TaskEnv``.

    Attributes:
        name: of the environment.
        env: the other library's environment; never changed.
        attribute: name of its attribute that holds the MJX model.
        action_range: (low, high) of its actions.
        family: the tasks and their prior.
        apply_task: (task (d,)) -> the model fields that the task replaces.
        observation: the parts of the library's observation that the policy sees, in this order.
        privileged: the parts that only a critic sees, of the library's observation or of ``reads``.
        reads: further parts, each (the library's state, task (d,)) -> (k,). Those that are not privileged are
            appended to the observation.
        derived: "consistent" recomputes the quantities that depend on the edited fields; "stale" does not.
        horizon: H.
        episodes: K.
        mj_model: the unedited model as MuJoCo has it, with the values that the environment runs with.
        dimensions: the task dimensions with their edits, for the check.
    """

    name: str
    env: Any
    attribute: str
    action_range: tuple[float, float]
    family: TaskFamily
    apply_task: Callable[[Array], ModelLeaves]
    observation: tuple[str, ...]
    privileged: tuple[str, ...]
    reads: Mapping[str, Callable[[Any, Array], Array]]
    derived: Derived
    horizon: int
    episodes: int
    mj_model: mujoco.MjModel
    dimensions: tuple[edits.TaskDimension, ...]

    @cached_property
    def spec(self) -> EnvSpec:
        """Sizes and names. The observation is what the policy sees: ``observation``, then ``reads``."""
        task = jnp.zeros(len(self.family.names))

        def parts(of: int) -> dict[str, slice]:
            return part_slices(
                lambda key, task: self._parts(self._begin(key, self._leaves(task)), task)[of],
                jax.random.key(0), task,
            )  # fmt: skip

        action = Continuous(self.env.action_size, *self.action_range)
        return EnvSpec(self.name, parts(0), action, self.horizon, self.episodes, privileged_slices=parts(1))

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return float(self.env.dt)

    @property
    def model(self) -> mjx.Model:
        """The unedited model."""
        return getattr(self.env, self.attribute)

    def _leaves(self, task: Array) -> ModelLeaves:
        leaves = self.apply_task(task).items()
        # a NumPy array has the unedited values, whatever the task is
        changed = {n: leaf for n, leaf in leaves if not is_inert(n) and not isinstance(leaf, np.ndarray)}
        edited = mjx_limits.above_zero(changed)
        if self.derived == "stale" or not edited:
            return edited
        return {**edited, **derived_fields.consistent(self.model, edited)}

    def _task_env(self, leaves: ModelLeaves) -> Any:
        model = self.model.tree_replace(dict(leaves))
        if self.attribute == "sys":
            model = brax_parts.mirrored(model, leaves)
        return _with_model(self.env, self.attribute, model)

    def _parts(self, state: Any, task: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """The parts that the policy sees, and those that only a critic sees."""
        read = {name: jnp.ravel(part(state, task)) for name, part in self.reads.items()}
        seen = {name: part for name, part in read.items() if name not in self.privileged}
        known = {**_named(state.obs), **read}
        return _chosen(state.obs, self.observation) | seen, _chosen(known, self.privileged)

    def _observe(self, state: Any, task: Array) -> tuple[Array, Array | None]:
        """What the policy sees, (D,), and what only a critic sees, (P,) or None if there is nothing."""
        obs, privileged = (
            [part.astype(jnp.float32) for part in parts.values()] for parts in self._parts(state, task)
        )
        return jnp.concatenate(obs), jnp.concatenate(privileged) if privileged else None

    def _begin(self, key: Array, leaves: ModelLeaves) -> Any:
        """The library's state at the start of an episode."""
        # the libraries use legacy uint32 keys, and some environments read their bits
        return self._task_env(leaves).reset(jax.random.key_data(key))

    def reset(self, key: Array, task: Array) -> EnvState:
        """Starts an episode of a task (d,); computes the task's model fields, once per episode."""
        key, start_key = jax.random.split(key)
        leaves = self._leaves(task)
        state = self._begin(start_key, leaves)
        obs, privileged = self._observe(state, task)
        sound = all_finite(obs, privileged)
        obs, privileged = jax.tree.map(lambda x: jnp.where(sound, x, 0.0), (obs, privileged))
        return EnvState.start(obs, key, task, state, leaves, privileged)._replace(
            done=~sound | (state.done > 0), diverged=~sound
        )

    def step(self, state: EnvState, action: Array) -> EnvState:
        """One control step with an action (A,), clamped to the library's range."""
        # copied, since brax writes metrics into the dictionary of the state that it gets
        before = jax.tree.map(lambda x: x, state.physics)
        action = jnp.clip(action, *self.action_range)
        after = self._task_env(state.model).step(before, action)
        obs, privileged = self._observe(after, state.task)
        reward = jnp.asarray(after.reward, state.reward.dtype)
        moved = simulation(after)
        within = [(jnp.abs(getattr(moved, part, 0.0)) < BLOWN_UP).all() for part in ("qpos", "qvel")]
        sound = all_finite(obs, privileged) & jnp.isfinite(reward) & jnp.array(within).all()
        live = sound & ~state.done

        def if_live(new: Array, old: Array) -> Array:
            return jnp.where(live, new, old).astype(old.dtype)

        return state._replace(
            obs=if_live(obs, state.obs),
            reward=if_live(reward, jnp.zeros_like(state.reward)),
            done=state.done | ~sound | (after.done > 0),
            valid=live,
            diverged=state.diverged | (~sound & ~state.done),
            physics=jax.tree.map(if_live, after, state.physics),
            privileged=jax.tree.map(if_live, privileged, state.privileged),
        )


def _make(
    env: Any,
    model: mjx.Model,
    mj_model: mujoco.MjModel,
    tasks: Sequence[edits.TaskDimension],
    observation: Sequence[str] | None,
    privileged: Sequence[str] | None,
    check: bool,
    **rest: Any,
) -> AdaptedEnv:
    """Builds the environment; checks the tasks against the model and traces a reset to find other errors."""
    fields = {edit.field for dimension in tasks for edit in dimension.edits}
    named = copy.copy(mj_model)
    for field in sorted(fields):
        if is_traced(model, field):
            # edits start from the values that the environment runs with, not from those in its file
            write_field(named, field, np.asarray(operator.attrgetter(field)(model)))
        elif hasattr(mj_model, field) and not is_inert(field):
            raise ValueError(f"{field} is constant or missing in MJX: a task cannot edit it")
    apply_task = edits.make_apply_task(named, tasks, rest["derived"])
    compiled_flags.refuse_edits(named, (field for field in fields if not is_inert(field)), rest["derived"])
    edited = edits.edited_entries(named, tasks)
    mjx_limits.refuse_dead(model, edited)
    mjx_limits.refuse_edits(named, edited, "jax", cure="a robot of one's own may be on the C engine")
    if rest["attribute"] == "sys":
        brax_parts.check(model, fields)
    blind = AdaptedEnv(
        env=env, family=edits.family(tasks), apply_task=apply_task, observation=(), privileged=(),
        mj_model=named, dimensions=tuple(tasks), **rest,
    )  # fmt: skip
    task = jax.ShapeDtypeStruct((len(tasks),), jnp.float32)
    state = jax.eval_shape(lambda key, task: blind._begin(key, blind._leaves(task)), jax.random.key(0), task)
    seen, unseen = _eyes(state.obs, observation, privileged, blind.reads)
    adapted = dataclasses.replace(blind, observation=seen, privileged=unseen)
    jax.eval_shape(adapted._observe, state, task)
    if check:
        door.at_the_door(adapted)
    return adapted


def _eyes(
    obs: Any,
    observation: Sequence[str] | None,
    privileged: Sequence[str] | None,
    reads: Mapping[str, Any],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts of an observation that the policy sees, and those that only a critic sees.

    Raises:
        ValueError: for a part that does not exist, or if parts must be named; one line.
    """
    parts = list(_named(obs))
    clash = set(reads) & set(parts)
    if clash:
        raise ValueError(f"reads: {min(clash)!r} is a part of the observation already; choose another name")
    if observation is None:
        observation = ("state",) if isinstance(obs, Mapping) else tuple(parts)
        if not set(observation) <= set(parts):
            raise ValueError(
                f"the observation has the parts {', '.join(parts)} and none named 'state': name those that "
                f"the policy sees, as in observation=({parts[0]!r},)"
            )
    if isinstance(observation, str) or isinstance(privileged, str):
        raise ValueError("observation and privileged are tuples of names, such as ('state',)")
    if privileged is None:
        privileged = [name for name in parts if name not in observation]
    for names, known in ((observation, parts), (privileged, [*parts, *reads])):
        if len(set(names)) < len(names):
            raise ValueError(f"a part of the observation is named twice: {', '.join(names)}")
        _check_names(names, known)
    return tuple(observation), tuple(privileged)


def _refuse_wrapped(env: Any) -> None:
    if getattr(env, "unwrapped", env) is not env:
        raise ValueError(
            f"{type(env).__name__} wraps an environment: pass the bare one (env.unwrapped); episodes, "
            "resets and batches are handled by roml_jax"
        )


def from_brax(
    env: Any,
    tasks: Sequence[edits.TaskDimension],
    *,
    observation: Sequence[str] | None = None,
    privileged: Sequence[str] | None = None,
    reads: Mapping[str, Callable[[Any, Array], Array]] | None = None,
    horizon: int = 200,
    episodes: int = 2,
    derived: Derived = "consistent",
    name: str | None = None,
    check: bool = True,
) -> AdaptedEnv:
    """A Brax environment on its mjx backend, with tasks.

    brax's own copies of model fields (``sys.link``, ``sys.dof``, ``sys.actuator``, ``sys.init_q``) follow the
    task's edits. Values that the environment itself computed from its model when it was built do not.

    Args:
        env: a ``brax.envs.PipelineEnv``, not wrapped.
        tasks: the task dimensions.
        observation: the parts of an observation with named parts that the policy sees, in this order; by
            default "state" alone.
        privileged: names of the parts that only a critic sees, of this observation or of ``reads``; by
            default all parts of the observation that the policy does not see.
        reads: further parts, (Brax's state, task (d,)) -> (k,); appended to the observation, unless they are
            privileged.
        horizon: H.
        episodes: K.
        derived: "consistent" recomputes inertia and solver constants from the edited fields.
        name: of the environment; by default the name of its class.
        check: whether to try the tasks' edits now, in plain MuJoCo; ``envs.check`` also runs the environment.

    Raises:
        ValueError: for a wrapped environment, another backend, an invalid edit, a part of the observation
            that does not exist, or an edit of a field that the environment keeps its own copy of; one line.
    """
    _refuse_wrapped(env)
    system = getattr(env, "sys", None)
    if not isinstance(system, mjx.Model):
        raise ValueError(f"{type(env).__name__} is not a brax environment: it has no MJX model env.sys")
    if env.backend != "mjx":
        raise ValueError(
            f"brax's backend {env.backend!r} has no MuJoCo model; build the environment with backend='mjx'"
        )
    return _make(
        env, system, system.mj_model, tasks, name=name or type(env).__name__, attribute="sys",
        action_range=(-1.0, 1.0), reads=reads or {}, derived=derived, horizon=horizon, episodes=episodes,
        observation=observation, privileged=privileged, check=check,
    )  # fmt: skip


def from_playground(
    env: Any,
    tasks: Sequence[edits.TaskDimension],
    *,
    observation: Sequence[str] | None = None,
    privileged: Sequence[str] | None = None,
    reads: Mapping[str, Callable[[Any, Array], Array]] | None = None,
    horizon: int | None = None,
    episodes: int = 2,
    derived: Derived = "consistent",
    name: str | None = None,
    check: bool = True,
) -> AdaptedEnv:
    """A MuJoCo Playground environment with tasks.

    The environment must hold its model in ``_mjx_model``, as all Playground environments do.

    Args:
        env: a ``mujoco_playground.MjxEnv``, not wrapped, built with ``impl="jax"``.
        tasks: the task dimensions.
        observation: the parts of an observation with named parts that the policy sees, in this order; by
            default "state" alone.
        privileged: names of the parts that only a critic sees, of this observation or of ``reads``; by
            default all parts of the observation that the policy does not see.
        reads: further parts, (Playground's state, task (d,)) -> (k,); appended to the observation, unless
            they are privileged.
        horizon: H; None for 200.
        episodes: K.
        derived: "consistent" recomputes inertia and solver constants from the edited fields.
        name: of the environment; by default the name of its class.
        check: whether to try the tasks' edits now, in plain MuJoCo; ``envs.check`` also runs the environment.

    Raises:
        ValueError: for a wrapped environment, another implementation, an invalid edit, or a part of the
            observation that does not exist; one line.
    """
    _refuse_wrapped(env)
    model = vars(env).get("_mjx_model")
    if not isinstance(model, mjx.Model):
        kind = type(env).__name__
        raise ValueError(f"{kind} is not a Playground environment: it has no MJX model _mjx_model")
    if model.impl != mjx.Impl.JAX:
        raise ValueError(
            f"tasks need MJX's jax implementation, not {model.impl.value}: "
            "build the environment with config_overrides={'impl': 'jax'}"
        )
    return _make(
        env, model, env.mj_model, tasks, name=name or type(env).__name__, attribute="_mjx_model",
        action_range=(-1.0, 1.0), reads=reads or {}, derived=derived, horizon=horizon or 200,
        episodes=episodes, observation=observation, privileged=privileged, check=check,
    )  # fmt: skip
