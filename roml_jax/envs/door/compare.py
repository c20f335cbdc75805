"""Compares an engine's control steps with plain MuJoCo's, with and without edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from roml_jax.envs.door import contacts, explain, oracle
from roml_jax.envs.door.engines import Ran
from roml_jax.envs.door.report import Finding
from roml_jax.envs.door.subject import Subject, Variant

ROUNDING = 1e-9
"""Relative differences of plain MuJoCo's numbers below this are rounding."""
_TOLERANCE = {"mujoco": 2e-5, "mjx": 0.05, "warp": 0.05}
"""Of the change of the velocities in a control step."""
_SLOW = 0.1  # m/s or rad/s, added to that change


def rows_of(ran: Ran, v: int, i: int) -> Ran:
    """The rows of variant i of v."""

    def part(x: np.ndarray) -> np.ndarray:
        return x.reshape(v, len(x) // v, *x.shape[1:])[i]

    return Ran(*map(part, ran[:4]), {name: part(x) for name, x in ran.state.items()})


def of_variant(ran: Ran, variants: Sequence[Variant], dimension: str, end: str) -> Ran:
    """The rows of a variant by its names."""
    i = next(i for i, v in enumerate(variants) if (v.dimension, v.end) == (dimension, end))
    return rows_of(ran, len(variants), i)


def moved(one: Ran, other: Ran) -> dict[str, float]:
    """The largest change of positions, velocities, observations and rewards over the episode."""
    parts = {name: (one.state[name], other.state[name]) for name in ("qpos", "qvel") if name in one.state}
    parts |= {"obs": (one.obs, other.obs), "reward": (one.reward, other.reward)}
    return {name: float(np.nanmax(abs(a - b), initial=0.0)) for name, (a, b) in parts.items()}


class Steps(NamedTuple):
    """One control step of every variant from every state, by the engine and by plain MuJoCo.

    Attributes:
        qpos: (V, S, T, nq) positions before each step.
        before: (V, S, T, nv) velocities before it.
        act: (V, S, T, na) activations before it.
        ctrl: (S, T, nu) controls.
        engine: (V, S, T, nv) velocities after it.
        plain: (V, S, T, nv) the same by plain MuJoCo.
        sound: (V, S, T) whether neither blew up and the episode had not ended.
    """

    qpos: np.ndarray
    before: np.ndarray
    act: np.ndarray
    ctrl: np.ndarray
    engine: np.ndarray
    plain: np.ndarray
    sound: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """(V, S, T) the largest difference of any velocity; 0 where they are not compared."""
        return np.where(self.sound, abs(self.engine - self.plain).max(axis=-1, initial=0.0), 0.0)

    @property
    def velocity_gap(self) -> np.ndarray:
        """(V,) the largest of them."""
        return self.gap.max(axis=(1, 2))


def steps(
    subject: Subject,
    variants: Sequence[Variant],
    models: Sequence[mujoco.MjModel | None],
    tried: Any,
    ran: Ran,
) -> Steps:
    """Steps plain MuJoCo along the engine's own trajectories, so that differences do not grow."""
    v, s, t = len(variants), len(tried.states.qpos), tried.actions.shape[1]
    states = {name: x.reshape(v, s, *x.shape[1:]) for name, x in ran.state.items()}
    plain, sound = np.zeros((v, s, t, subject.compiled.nv)), np.zeros((v, s, t), bool)
    for i, model in enumerate(models):
        if model is None:
            continue
        for j in range(s):
            resets = [{name: x[i, j, k] for name, x in states.items()} for k in range(t)]
            if not np.isfinite(states["qvel"][i, j]).all():
                continue
            given = tried.states.qpos[j], tried.states.qvel[j], tried.actions[j]
            out = oracle.step(model, *given, subject.frame_skip, resets=resets)
            plain[i, j] = [one.numbers["qvel"] for one in out]
            sound[i, j] = [one.sound for one in out]
    # an episode that has ended is frozen
    live = ~ran.done.reshape(v, s, -1)[:, :, :-1] & ~ran.diverged.reshape(v, s, -1)[:, :, 1:]
    qvel, blank = states["qvel"], np.zeros((v, s, t + 1, subject.compiled.na))
    before = (states["qpos"], qvel, states.get("act", blank))
    qpos, velocity, act = (x[:, :, :-1] for x in before)
    return Steps(qpos, velocity, act, tried.actions, qvel[:, :, 1:], plain, sound & live)


def findings(engine: str, subject: Subject, variants: Sequence[Variant], steps: Steps) -> list[Finding]:
    """Differences beyond the tolerance, with the fields that cause them."""
    change = abs(steps.plain - steps.before).max(axis=-1, initial=0.0)
    # the C engine rounds to single precision; the others approximate contacts and the solver as well
    scale = 1 + change if engine == "mujoco" else _SLOW + change
    beyond = (steps.gap > _TOLERANCE[engine] * scale) & steps.sound
    found = []
    if beyond[0].any():
        found.append(_unedited(engine, subject, steps, beyond[0]))
    for name in subject.family.names:
        ends = [i for i, v in enumerate(variants) if v.dimension == name]
        wrong = [i for i in ends if beyond[i].any() and _effect_differs(steps, i)]
        if wrong:
            worst = max(wrong, key=lambda i: steps.gap[i].max())
            fields = ", ".join(edited_fields(variants, name)) or "no field"
            found.append(
                Finding(
                    "error",
                    f"task {name!r}: engine {engine!r} differs from plain MuJoCo by "
                    f"{steps.gap[worst].max():.2g} in qvel after a control step with {fields} edited "
                    f"({variants[worst].end} end)",
                )
            )
    return found


def _effect_differs(steps: Steps, i: int) -> bool:
    """Whether the effect of an edit differs, beyond what the unedited model's steps differ by."""
    both = (steps.sound[i] & steps.sound[0])[:, 0]
    engine, plain = (x[i, :, 0][both] - x[0, :, 0][both] for x in (steps.engine, steps.plain))
    noise = abs(steps.engine[0, :, 0] - steps.plain[0, :, 0])[both].sum()
    return bool(abs(engine - plain).sum() > 0.1 * abs(plain).sum() + 2 * noise)


def edited_fields(variants: Sequence[Variant], dimension: str) -> list[str]:
    """The fields that a dimension changes between its ends."""
    low, high = (v for v in variants if v.dimension == dimension)
    return [name for name in low.leaves if (low.leaves[name] != high.leaves[name]).any()]


def _unedited(engine: str, subject: Subject, steps: Steps, beyond: np.ndarray) -> Finding:
    """A difference without edits: a warning if it is a known approximation of MJX, else an error."""
    model, gap = subject.compiled, steps.gap[0]
    state, step = np.unravel_index(gap.argmax(), gap.shape)
    dof = int(abs(steps.engine[0] - steps.plain[0])[state, step].argmax())
    joint = contacts.name_of(model, mujoco.mjtObj.mjOBJ_JOINT, int(model.dof_jntid[dof]))
    line = (
        f"engine {engine!r} differs from plain MuJoCo by {gap.max():.2g} in qvel of joint {joint} after a "
        f"control step of the unedited model ({int(beyond.any(axis=-1).sum())} of {len(beyond)} states)"
    )
    if engine != "mjx":
        return Finding("error", line)
    situation = explain.Situation(
        *(x[0, state, step] for x in (steps.qpos, steps.before, steps.act)),
        steps.ctrl[state, step], subject.frame_skip,
    )  # fmt: skip
    reason = explain.why(model, situation, tolerance=gap.max() / 4)
    return Finding("warning", f"{line}: {reason}") if reason else Finding("error", line)
