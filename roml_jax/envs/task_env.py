"""Any MuJoCo model as an environment whose tasks are edits of the model or numbers in its reward."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax import users_code
from roml_jax.envs import door, edits, physics
from roml_jax.envs.base import EnvState, Parts, all_finite, part_slices, split_parts
from roml_jax.envs.physics import Derived, EngineName, ModelLeaves, Physics, PhysicsState, compiled_flags
from roml_jax.envs.starts import Start, TaskModel, begin, noisy_start
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Continuous, EnvSpec

# Limit of positions (m) and velocities (m/s, rad/s); a simulation beyond it has blown up.
_BLOWN_UP = 1e4


class View(NamedTuple):
    """The inputs of observation, reward and termination functions, at one time of one environment.

    Attributes:
        qpos: (nq,) positions.
        qvel: (nv,) velocities.
        readings: the fields of MuJoCo's data that the environment declared.
        task: (d,).
        leaves: the model fields that the task replaced.
        base: the unedited model.
        field: (name) -> the value of a model field under this task.
    """

    qpos: Array
    qvel: Array
    readings: Mapping[str, Array]
    task: Array
    leaves: ModelLeaves
    base: mujoco.MjModel
    field: Callable[[str], Array]


class Motion(NamedTuple):
    """One control step.

    Attributes:
        before: the view at its start.
        after: the view at its end.
        action: (nu,) the environment's action.
        ctrl: (nu,) the action clamped to the actuators' ranges, as MuJoCo does.
        dt: seconds of the control step.
    """

    before: View
    after: View
    action: Array
    ctrl: Array
    dt: float


Observation = Parts
Reward = Callable[[Motion], Mapping[str, Array]]


def load(source: str | Path | mujoco.MjSpec | mujoco.MjModel, edited: Collection[str] = ()) -> mujoco.MjModel:
    """A compiled model of one's own, from a file's path, MJCF text, a spec or a model, which is copied.

    Args:
        source: where the model comes from.
        edited: fields that tasks edit; a source that is compiled here is compiled with room for them.

    Raises:
        ValueError: if MuJoCo cannot read it; one line.
    """
    if isinstance(source, mujoco.MjModel):
        return copy.copy(source)
    try:
        if isinstance(source, mujoco.MjSpec):
            return compiled_flags.compile_for(source, edited)
        text = str(source)
        is_text = text.lstrip().startswith("<")
        read = mujoco.MjSpec.from_string if is_text else mujoco.MjSpec.from_file
        return compiled_flags.compile_for(read(text), edited)
    except ValueError as error:
        raise ValueError(f"MuJoCo cannot read the model: {' '.join(str(error).split())}") from None


def _read(parts: Observation, view: View) -> dict[str, Array]:
    """The named parts of a view as vectors."""
    return {name: users_code.part(name, part, view) for name, part in parts.items()}


def default_observation(model: mujoco.MjModel) -> Observation:
    """All positions, except a free root's x and y, and all velocities."""
    free = model.njnt > 0 and model.jnt_type[0] == mujoco.mjtJoint.mjJNT_FREE
    return {"position": lambda view: view.qpos[2 if free else 0 :], "velocity": lambda view: view.qvel}


def _at_least_one(**numbers: int) -> None:
    for what, number in numbers.items():
        if number < 1:
            raise ValueError(f"{what} must be at least 1, got {number}")


@dataclass(frozen=True, eq=False)
class TaskEnv:
    """An environment on a physics engine (an ``Env``): pure and unbatched; callers vmap it.

    A simulation has blown up if a position or velocity is not finite or is above 1e4, or if the observation
    or the reward is not finite. From that step on its state and observation are frozen, its steps are not
    valid and ``diverged`` is set. ``diverged`` is set at the reset if the first observation is not finite.

    Attributes:
        name: of the environment.
        physics: the engine.
        family: the tasks and their prior.
        apply_task: (task (d,)) -> the model fields that the task replaces.
        observation: named parts, in order, each (View) -> (k,).
        reward: (Motion) -> named terms (), whose sum is the reward.
        start: initial states: (key) or (key, ``TaskModel``) -> (qpos, qvel) or (qpos, qvel, act), or the
            name of a keyframe.
        horizon: H, steps per episode.
        episodes: K, episodes per task.
        terminate: (View) -> () bool, whether the episode ends early; None for never.
        dimensions: the task dimensions with their edits, for the check; empty if not known.
        privileged: named parts that only a critic sees, each (View) -> (k,); empty for none.
    """

    name: str
    physics: Physics
    family: TaskFamily
    apply_task: Callable[[Array], ModelLeaves]
    observation: Observation
    reward: Reward
    start: Start
    horizon: int
    episodes: int = 2
    terminate: Callable[[View], Array] | None = None
    dimensions: tuple[edits.TaskDimension, ...] = ()
    privileged: Observation = field(default_factory=dict)

    @classmethod
    def from_mjcf(
        cls,
        source: str | Path | mujoco.MjSpec | mujoco.MjModel,
        *,
        tasks: Sequence[edits.TaskDimension],
        reward: Reward,
        observation: Observation | None = None,
        privileged: Observation | Sequence[str] = (),
        frame_skip: int = 1,
        horizon: int = 200,
        episodes: int = 2,
        start: Start | None = None,
        terminate: Callable[[View], Array] | None = None,
        readings: Sequence[str] = (),
        engine: EngineName = "auto",
        derived: Derived = "consistent",
        name: str = "robot",
        check: bool = True,
    ) -> TaskEnv:
        """An environment from a MuJoCo model.

        Args:
            source: a path, MJCF text, an ``MjSpec`` or an ``MjModel``.
            tasks: the task dimensions.
            reward: named terms of one control step.
            observation: named parts; by default positions and velocities.
            privileged: what only a critic sees: further named parts, or names of parts of ``observation``.
            frame_skip: physics steps per control step.
            horizon: H.
            episodes: K.
            start: initial states, a function or the name of a keyframe; by default ``noisy_start`` with 0.01.
            terminate: ends an episode early.
            readings: fields of MuJoCo's data that these functions read, besides qpos and qvel.
            engine: "auto", "mjx" or "mujoco".
            derived: "consistent" recomputes inertia and solver constants from the edited fields.
            name: of the environment.
            check: whether to try the ends of the tasks now, as ``envs.check`` does.

        Raises:
            ValueError: for an invalid model, field or name, or what the check finds; one line.
        """
        _at_least_one(frame_skip=frame_skip, horizon=horizon, episodes=episodes)
        model = load(source, {edit.field for dimension in tasks for edit in dimension.edits})
        if not model.nu:
            raise ValueError("the model has no actuators, so there is nothing to learn")
        observation, privileged = split_parts(observation or default_observation(model), privileged)
        env = cls(
            name=name,
            physics=physics.make(engine, model, frame_skip, tuple(readings), derived),
            family=edits.family(tasks),
            apply_task=edits.make_apply_task(model, tasks),
            observation=observation, privileged=privileged, reward=reward, terminate=terminate,
            start=start or noisy_start(model, 0.01, 0.01),
            horizon=horizon,
            episodes=episodes,
            dimensions=tuple(tasks),
        )  # fmt: skip
        return env._made(check)

    def _made(self, check: bool) -> TaskEnv:
        """The environment itself; errors of the engine or of the user's functions are raised here."""
        with users_code.in_one_line(inside=True):
            self._first_state()
            if check:
                door.at_the_door(self)
        return self

    def on(self, engine: EngineName) -> TaskEnv:
        """The same environment on another engine.

        Raises:
            ValueError: for an engine that cannot simulate the model; one line.
        """
        own, readings = self.physics, tuple(self._first_state().physics.readings)
        made = physics.make(engine, own.model, own.frame_skip, readings, own.derived, own.contacts)
        return replace(self, physics=made)

    @cached_property
    def spec(self) -> EnvSpec:
        """Sizes and names; the bounds of the actions are the widest control ranges of all tasks."""
        low, high = self._ctrl_range(edits.widest(self.apply_task, self.family, "actuator_ctrlrange"))
        action = Continuous(self.physics.model.nu, float(low.min()), float(high.max()))
        parts, privileged = (
            part_slices(functools.partial(self._blank, of)) if of else {}
            for of in (self.observation, self.privileged)
        )
        return EnvSpec(self.name, parts, action, self.horizon, self.episodes, privileged_slices=privileged)

    def _first_state(self) -> EnvState:
        """The shapes of the state after a reset, which is only traced."""
        task = jax.ShapeDtypeStruct((len(self.family.names),), jnp.float32)
        return jax.eval_shape(self.reset, jax.random.key(0), task)

    def _ctrl_range(self, leaves: ModelLeaves) -> tuple[Array, Array]:
        """The bounds (low (nu,), high (nu,)) to which MuJoCo clamps the controls; infinite if unlimited."""
        model = self.physics.model
        ranges = leaves.get("actuator_ctrlrange", model.actuator_ctrlrange)
        limited = model.actuator_ctrllimited.astype(bool)
        if model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL:
            limited = np.zeros_like(limited)
        where = np.where if isinstance(ranges, np.ndarray) else jnp.where
        return where(limited, ranges[:, 0], -np.inf), where(limited, ranges[:, 1], np.inf)

    def _blank(self, parts: Observation) -> Mapping[str, Array]:
        """The named parts of an example state, for their shapes."""
        task = self.family.decode(jnp.full(self.family.proposal.dims, 0.5))
        leaves = self.physics.prepare(self.apply_task(task))
        return _read(parts, self._view(self._begin(jax.random.key(0), task, leaves), task, leaves))

    def _begin(self, key: Array, task: Array, leaves: ModelLeaves) -> PhysicsState:
        field = functools.partial(self._field, task, leaves)
        begun = begin(self.start, key, TaskModel(task, leaves, self.physics.model, field))
        return self.physics.reset(begun.qpos, begun.qvel, leaves, begun.others)

    def _view(self, state: PhysicsState, task: Array, leaves: ModelLeaves) -> View:
        field = functools.partial(self._field, task, leaves)
        return View(state.qpos, state.qvel, state.readings, task, leaves, self.physics.model, field)

    def _field(self, task: Array, leaves: ModelLeaves, name: str) -> Array:
        """The value of a model field under a task, also of one without effect on the simulation."""
        if name in leaves:
            return leaves[name]
        edited = self.apply_task(task)
        return jnp.asarray(edited[name]) if name in edited else self.physics.field(name, leaves)

    def _parts(self, view: View) -> dict[str, Array]:
        """All named parts, the privileged ones included."""
        return _read({**self.observation, **self.privileged}, view)

    def _observe(self, view: View) -> tuple[Array, Array | None]:
        """What the policy sees, (D,), and what only a critic sees, (P,) or None if there is nothing."""
        obs = jnp.concatenate(list(_read(self.observation, view).values()))
        if not self.privileged:
            return obs, None
        privileged = jnp.concatenate(list(_read(self.privileged, view).values()))
        return obs, privileged.astype(jnp.result_type(float))

    def _motion(self, before: View, after: View, action: Array) -> Motion:
        low, high = self._ctrl_range(before.leaves)
        return Motion(before, after, action, jnp.clip(action, low, high), self.physics.dt)

    def _terms(self, motion: Motion) -> dict[str, Array]:
        """The reward's terms.

        Raises:
            ValueError: if they are not named scalars.
        """
        return users_code.terms(self.reward, motion, self.name)

    def _ends(self, view: View) -> Array | bool:
        """Whether ``terminate`` ends the episode."""
        if self.terminate is None:
            return False
        return users_code.flag(self.terminate, view, self.name)

    def render(self, task: np.ndarray, states: Sequence[EnvState]) -> Iterator[np.ndarray]:
        """Yields an image (height, width, 3), uint8, of each state of a task (d,); needs offscreen OpenGL."""
        from roml_jax.envs import pictures

        model = pictures.edited(self.physics.model, self.apply_task(jnp.asarray(task, jnp.float32)))
        return pictures.images(model, np.stack([np.asarray(state.physics.qpos) for state in states]))

    def reset(self, key: Array, task: Array) -> EnvState:
        """Starts an episode of a task (d,); computes the task's model fields, once per episode."""
        key, start_key = jax.random.split(key)
        leaves = self.physics.prepare(self.apply_task(task))
        state = self._begin(start_key, task, leaves)
        view = self._view(state, task, leaves)
        terms = self._terms(self._motion(view, view, jnp.zeros(self.physics.model.nu)))
        obs, privileged = self._observe(view)
        self._ends(view)  # traced here, too, so that its errors are raised when the environment is made
        sound = all_finite(obs, privileged)
        obs, privileged = jax.tree.map(lambda x: jnp.where(sound, x, 0.0), (obs, privileged))
        return EnvState.start(obs, key, task, state, leaves, privileged)._replace(
            terms={name: jnp.zeros((), obs.dtype) for name in terms}, done=~sound, diverged=~sound
        )

    def step(self, state: EnvState, action: Array) -> EnvState:
        """One control step with an action (nu,)."""
        before = self._view(state.physics, state.task, state.model)
        motion = self._motion(before, before, action)
        moved = self.physics.step(state.physics, motion.ctrl, state.model, state.done)
        after = self._view(moved, state.task, state.model)
        obs, privileged = self._observe(after)
        terms = self._terms(motion._replace(after=after))
        reward = sum(terms.values(), jnp.zeros_like(state.reward))
        sound = (
            (jnp.abs(moved.qpos) < _BLOWN_UP).all() & (jnp.abs(moved.qvel) < _BLOWN_UP).all()
            & all_finite(obs, privileged) & jnp.isfinite(reward)
        )  # fmt: skip
        live = sound & ~state.done
        ends = ~sound if self.terminate is None else ~sound | self._ends(after)

        def if_live(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda n, o: jnp.where(live, n, o).astype(o.dtype), new, old)

        return state._replace(
            obs=if_live(obs, state.obs),
            reward=if_live(reward, jnp.zeros_like(state.reward)),
            done=state.done | ends,
            valid=live,
            diverged=state.diverged | (~sound & ~state.done),
            terms=if_live(terms, {name: jnp.zeros_like(state.reward) for name in terms}),
            physics=if_live(moved, state.physics),
            privileged=if_live(privileged, state.privileged),
        )


def gymnasium_model(
    name: str, iterations: int | None = None, ls_iterations: int | None = None
) -> mujoco.MjModel:
    """A model from the MJCF files of the installed gymnasium, with Newton's solver.

    Args:
        name: of the file, without its extension.
        iterations: maximum constraint-solver iterations; None for the file's value.
        ls_iterations: maximum line-search iterations; None for MuJoCo's default.
    """
    spec = mujoco.MjSpec.from_file(str(resources.files("gymnasium") / f"envs/mujoco/assets/{name}.xml"))
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON  # MJX lacks PGS, the solver in the humanoid's file
    spec.option.iterations = iterations or spec.option.iterations
    spec.option.ls_iterations = ls_iterations or spec.option.ls_iterations
    # The cheetah's file sets this deprecated attribute. It is applied below instead, since MuJoCo would write
    # a warning into a log file in the working directory.
    total_mass, spec.compiler.settotalmass = spec.compiler.settotalmass, -1
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
        model.stat.meaninertia = model.dof_M0.mean()  # mj_setConst does not update it
    # MuJoCo up to 3.3, including the reference's, uses the larger of two geoms' margins; later versions add
    # the two. All geoms of these files have the same margin.
    model.geom_margin *= 0.5
    return model
