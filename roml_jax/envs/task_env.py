"""Any MuJoCo model as an environment whose tasks are edits of the model or numbers in its reward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jax.typing import ArrayLike

from roml_jax import users_code
from roml_jax.envs import actions, amounts, door, edits, physics
from roml_jax.envs import carry as carried
from roml_jax.envs.base import BLOWN_UP, EnvState, all_finite, choose, part_slices, split_parts
from roml_jax.envs.physics import Derived, EngineName, ModelLeaves, Physics, PhysicsState
from roml_jax.envs.sources import load
from roml_jax.envs.starts import Start, TaskModel, begin, noisy_start
from roml_jax.envs.view import Motion, Observation, Reward, View, default_observation, read
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, Continuous, EnvSpec


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
        actuation: from actions to controls; None for actions that are the controls.
        carry: what an episode carries besides the simulation, by name; None for nothing, not even the last
            action.
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
    actuation: actions.Actuation | None = None
    carry: carried.Entries | None = None
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
        action: actions.Actions | str | None = None,
        carry: carried.Entries | None = None,
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
            action: "ctrlrange" or ``Actions``, from actions to controls; by default they are the controls.
            carry: what an episode carries besides the simulation, and forces on bodies, by name.
            engine: "auto", "mjx" or "mujoco".
            derived: "consistent" recomputes inertia and solver constants from the edited fields.
            name: of the environment.
            check: whether to try the ends of the tasks now, as ``envs.check`` does.

        Raises:
            ValueError: for an invalid model, field or name, or what the check finds; one line.
        """
        _at_least_one(frame_skip=frame_skip, horizon=horizon, episodes=episodes)
        model = load(source, {edit.field for dimension in tasks for edit in dimension.edits})
        observation, privileged = split_parts(observation or default_observation(model), privileged)
        env = cls(
            name=name,
            physics=physics.make(engine, model, frame_skip, tuple(readings), derived),
            family=edits.family(tasks),
            apply_task=edits.make_apply_task(model, tasks, derived),
            observation=observation, privileged=privileged, reward=reward, terminate=terminate,
            start=start or noisy_start(model, 0.01, 0.01),
            horizon=horizon, episodes=episodes, dimensions=tuple(tasks),
            actuation=actions.bind(action, model, edits.family(tasks), frame_skip * model.opt.timestep),
            carry=carried.check(carry or {}),
        )  # fmt: skip
        return env._made(check)

    def _made(self, check: bool) -> TaskEnv:
        """The environment itself; errors of the engine or of the user's functions are raised here."""
        if not self._actuated + carried.size(self.carry):
            raise ValueError("the model has no actuators, so there is nothing to learn")
        with users_code.in_one_line(inside=True):
            state = self._first_state()
            if self.carry:
                jax.eval_shape(self.step, state, jnp.zeros(self.spec.action.size))
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
        if self.actuation is None:
            ends = self._ctrl_range(edits.widest(self.apply_task, self.family, "actuator_ctrlrange"))
        else:
            ends = -np.ones(self.actuation.size), np.ones(self.actuation.size)
        moving = np.ones(carried.size(self.carry))
        action = Continuous.within(*map(np.append, ends, (-moving, moving)))
        parts, privileged = (
            part_slices(functools.partial(self._blank, of)) if of else {}
            for of in (self.observation, self.privileged)
        )
        return EnvSpec(self.name, parts, action, self.horizon, self.episodes, privileged_slices=privileged)

    def _first_state(self) -> EnvState:
        """The shapes of the state after a reset, which is only traced."""
        task = jax.ShapeDtypeStruct((len(self.family.names),), jnp.float32)
        return jax.eval_shape(self.reset, jax.random.key(0), task)

    def _ctrl_range(self, leaves: Mapping[str, Array | np.ndarray]) -> tuple[ArrayLike, ArrayLike]:
        """The bounds (low (nu,), high (nu,)) to which MuJoCo clamps the controls; infinite if unlimited."""
        model = self.physics.model
        ranges = leaves.get("actuator_ctrlrange", model.actuator_ctrlrange)
        limited = model.actuator_ctrllimited.astype(bool)
        if model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL:
            limited = np.zeros_like(limited)
        where = np.where if isinstance(ranges, np.ndarray) else jnp.where
        return where(limited, ranges[:, 0], -np.inf), where(limited, ranges[:, 1], np.inf)

    @property
    def dt(self) -> float:
        """Seconds per control step."""
        return self.physics.dt

    @property
    def _actuated(self) -> int:
        """Numbers of an action that go to the actuators."""
        return self.physics.model.nu if self.actuation is None else self.actuation.size

    def _blank(self, parts: Observation) -> Mapping[str, Array]:
        """The named parts of an example state, for their shapes."""
        task = self.family.decode(jnp.full(self.family.proposal.dims, 0.5))
        leaves = self.physics.prepare(self.apply_task(task))
        view = self._view(self._begin(jax.random.key(0), task, leaves), task, leaves, self._still({}))
        held = carried.start(self.carry or {}, jax.random.key(0), view)
        return read(parts, view._replace(carry=held))

    def _begin(self, key: Array, task: Array, leaves: ModelLeaves, **poses: Array) -> PhysicsState:
        """The first state of an episode, with poses of mocap bodies that are carried."""
        field = functools.partial(self._field, task, leaves)
        begun = begin(self.start, key, TaskModel(task, leaves, self.physics.model, field))
        return self.physics.reset(begun.qpos, begun.qvel, leaves, {**begun.others, **poses})

    def _still(self, values: Mapping[str, Any]) -> carried.Carried | tuple[()]:
        """What is carried at the start of an episode."""
        if self.carry is None:
            return ()
        ctrl = np.zeros(self.physics.model.nu) if self.actuation is None else self.actuation.start
        action = jnp.zeros(self._actuated + carried.size(self.carry))
        return carried.Carried(action, jnp.asarray(ctrl, action.dtype), values)

    def _view(
        self, state: PhysicsState, task: Array, leaves: ModelLeaves, held: carried.Carried | tuple[()]
    ) -> View:
        action, values = (held.action, held.values) if isinstance(held, carried.Carried) else (None, {})
        return View(
            state.qpos, state.qvel, state.readings, task, leaves, self.physics.model,
            functools.partial(self._field, task, leaves),
            functools.partial(amounts.number, self.family, task),
            state, self.physics.dt, action, values,
        )  # fmt: skip

    def _field(self, task: Array, leaves: ModelLeaves, name: str) -> Array:
        """The value of a model field under a task, also of one without effect on the simulation."""
        if name in leaves:
            return leaves[name]
        edited = self.apply_task(task)
        return jnp.asarray(edited[name]) if name in edited else self.physics.field(name, leaves)

    def _parts(self, view: View) -> dict[str, Array]:
        """All named parts, the privileged ones included."""
        return read({**self.observation, **self.privileged}, view)

    def _observe(self, view: View) -> tuple[Array, Array | None]:
        """What the policy sees, (D,), and what only a critic sees, (P,) or None if there is nothing."""
        obs = jnp.concatenate(list(read(self.observation, view).values()))
        if not self.privileged:
            return obs, None
        privileged = jnp.concatenate(list(read(self.privileged, view).values()))
        return obs, privileged.astype(jnp.result_type(float))

    def _motion(self, before: View, action: Array, ctrl: Array) -> Motion:
        low, high = self._ctrl_range(before.leaves)
        return Motion(before, before, action, jnp.clip(ctrl, low, high), self.physics.dt)

    def _move(
        self, state: EnvState, action: Array, ctrl: Array | None, told: Array | None = None
    ) -> tuple[Motion, PhysicsState, Array, Any]:
        """One control step: its motion, and the simulation, the key and what is carried after it."""
        before, given = self._view(state.physics, state.task, state.model, state.carry), {}
        if ctrl is None:
            ctrl = action[: self._actuated] if carried.size(self.carry) else action
            if self.actuation is not None:
                ctrl = self.actuation.control(ctrl, state.carry.ctrl, state.task)
            given = carried.applied(self.carry or {}, before, action[self._actuated :])
        motion = self._motion(before, action, ctrl)
        held = (given,) if given else ()
        moved = self.physics.step(state.physics, motion.ctrl, state.model, state.done, *held)
        if self.carry is None:
            return motion._replace(after=self._view(moved, state.task, state.model, ())), moved, state.key, ()
        own = jnp.asarray(action if told is None else told)
        key, carry = state.key, state.carry._replace(action=own, ctrl=ctrl)
        motion = motion._replace(after=self._view(moved, state.task, state.model, carry))
        if self.carry:
            key, own_key = jax.random.split(key)
            carry = carry._replace(values=carried.step(self.carry, own_key, motion))
        after = self._view(moved, state.task, state.model, carry)
        return motion._replace(after=after), moved, key, carry

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
        return pictures.images(model, np.stack([np.asarray(pictures.pose_of(one.physics)) for one in states]))

    def reset(self, key: Array, task: Array) -> EnvState:
        """Starts an episode of a task (d,); computes the task's model fields, once per episode."""
        key, start_key = jax.random.split(key)
        leaves = self.physics.prepare(self.apply_task(task))
        state = self._begin(start_key, task, leaves)
        held = self._still({})
        if self.carry:
            key, own_key = jax.random.split(key)
            view = self._view(state, task, leaves, held)
            assert isinstance(held, carried.Carried)
            held = held._replace(values=carried.start(self.carry, own_key, view))
            poses = carried.poses(self.carry, self._view(state, task, leaves, held))
            if poses:
                state = self._begin(start_key, task, leaves, **poses)
        view = self._view(state, task, leaves, held)
        nothing = jnp.zeros(self._actuated + carried.size(self.carry))
        terms = self._terms(self._motion(view, nothing, jnp.zeros(self.physics.model.nu)))
        obs, privileged = self._observe(view)
        self._ends(view)  # traced here, too, so that its errors are raised when the environment is made
        sound = all_finite(obs, privileged)
        obs, privileged = jax.tree.map(lambda x: jnp.where(sound, x, 0.0), (obs, privileged))
        return EnvState.start(obs, key, task, state, leaves, privileged)._replace(
            terms={name: jnp.zeros((), obs.dtype) for name in terms},
            done=~sound,
            diverged=~sound,
            carry=held,
        )

    def step(self, state: EnvState, action: Array, ctrl: Array | None = None) -> EnvState:
        """One control step with an action (A,).

        With ``ctrl`` (nu,), these are the controls, and nothing that is carried acts; for checks.
        """
        return self._after(state, *self._move(state, action, ctrl))

    def step_told(self, state: EnvState, action: Array, told: Array) -> EnvState:
        """A step with an action that wrappers made of the policy's own, ``told`` (``View.action``)."""
        return self._after(state, *self._move(state, action, None, told))

    def _after(self, state: EnvState, motion: Motion, moved: PhysicsState, key: Array, held: Any) -> EnvState:
        obs, privileged = self._observe(motion.after)
        terms = self._terms(motion)
        reward = sum(terms.values(), jnp.zeros_like(state.reward))
        sound = (
            (jnp.abs(moved.qpos) < BLOWN_UP).all() & (jnp.abs(moved.qvel) < BLOWN_UP).all()
            & all_finite(obs, privileged) & jnp.isfinite(reward)
        )  # fmt: skip
        live = sound & ~state.done
        ends = ~sound if self.terminate is None else ~sound | self._ends(motion.after)

        if_live = functools.partial(choose, live)
        return state._replace(
            obs=if_live(obs, state.obs),
            reward=if_live(reward, jnp.zeros_like(state.reward)),
            done=state.done | ends,
            key=key,
            valid=live,
            diverged=state.diverged | (~sound & ~state.done),
            terms=if_live(terms, {name: jnp.zeros_like(state.reward) for name in terms}),
            physics=if_live(moved, state.physics),
            carry=if_live(held, state.carry),
            privileged=if_live(privileged, state.privileged),
        )


def gymnasium_model(
    name: str,
    iterations: int | None = None,
    ls_iterations: int | None = None,
    *,
    halve_margins: bool = True,
) -> mujoco.MjModel:
    """A model from the MJCF files of the installed gymnasium, with Newton's solver.

    Args:
        name: of the file, without its extension.
        iterations: maximum constraint-solver iterations; None for the file's value.
        ls_iterations: maximum line-search iterations; None for MuJoCo's default.
        halve_margins: halve the contact margins. MuJoCo up to 3.3, including the reference's, uses the larger
            of two geoms' margins; later versions add the two. All geoms of these files have the same margin.
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
    if halve_margins:
        model.geom_margin *= 0.5
    return model
