"""The check of an environment: every edit does something, and the engine simulates what is edited."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from roml_jax.envs import starts
from roml_jax.envs.door import actuators, compare, contacts, engines, oracle, programs, rules, together
from roml_jax.envs.door import subject as subjects
from roml_jax.envs.door.report import Finding, Part, Report, Row, ordered
from roml_jax.envs.door.rules import Change
from roml_jax.envs.door.subject import Subject, Variant
from roml_jax.envs.physics import field_of, mjx_unlike, warned
from roml_jax.envs.wrappers import inside
from roml_jax.types import Array

_STARTS, _STATES, _MORE_STATES = 2, 8, 32
# Fields that act only in a contact, at a limit, or when a force saturates: not seeing them act says little.
_CONDITIONAL = ("geom_", "pair_", "opt.impratio", "opt.o_", "opt.noslip", "jnt_", "tendon_", "actuator_")


class Tried(NamedTuple):
    """The states that everything is stepped from, and the controls of the steps.

    Attributes:
        states: S of them.
        actions: (S, T, nu).
    """

    states: oracle.States
    actions: np.ndarray


def check(env: Any, *, engine: bool = True) -> Report:
    """Tries an environment at the ends and corners of its tasks.

    Args:
        env: an ``Env``.
        engine: whether the environment's own engine runs its steps, which takes as long as it takes to
            compile. Otherwise the C engine runs the environment's functions, and the environment's engine is
            not tried.

    Raises:
        ValueError: from the environment's own functions.
    """
    env = cast(Any, inside(env)[0])
    subject = subjects.of(env)
    where = contextlib.nullcontext() if engine else programs.on_cpu()
    with warned.quiet(), where:
        variants = subjects.variants(subject)
        if subject.model is None:
            return _without_model(env, subject, variants)
        begun = _starts(env, subject)
        tried = _states(subject, begun, variants, _STATES)
        changes = subjects.changes(subject, variants)
        findings = [finding for change in changes for finding in _impossible(subject, change)]
        if not any(finding.level == "error" for finding in findings):
            findings += [
                Finding("error" if is_error else "warning", text)
                for is_error, text in together.impossible(subject, changes)
            ]
        if any(finding.level == "error" for finding in findings):
            return Report(env.name, _engine_of(env), ordered(findings))  # such values are not stepped
        findings += [
            Finding("warning", f"task {change.dimension!r}: {text}")
            for change, text in actuators.surprises(subject.compiled, changes, subject.derived)
        ]
        if hasattr(env, "physics") and env.physics.name == "mjx":
            unlike = mjx_unlike.unlike(subject.compiled)
            findings += [Finding("warning", unlike)] if unlike else []
        models, refused = _models(subject, variants)
        findings += refused
        own, program = _program(env, subject, engine)
        ran, failed = _run(program, subject, variants, tried) if program else (None, [])
        # what the C engine cannot do is no fault of an environment on another engine
        findings += failed if engine else [Finding("note", finding.text) for finding in failed]
        if not refused:
            findings += _edits(subject, begun, changes, variants, ran)
        steps = None
        if ran is not None and ran.state and hasattr(env, "physics"):
            steps = compare.steps(subject, variants, models, tried, ran)
            findings += compare.findings(own.physics.name, subject, variants, steps)
            if program is not None and is_on_c(own):  # the others keep nothing between calls
                findings += _repeats(program, variants, tried, ran, own.physics.name)
    rows, parts = _tables(env, subject, variants, ran, steps)
    findings += _not_finite(parts)
    touching = sum(map(bool, tried.states.touching))
    name = _engine_of(own)
    return Report(env.name, name, ordered(findings), rows, parts, len(tried.states.qpos), touching)


def _engine_of(env: Any) -> str:
    """The engine's name; environments of other libraries are on MJX."""
    return env.physics.name if hasattr(env, "physics") else "mjx"


def is_on_c(env: Any) -> bool:
    """Whether the environment's engine is the C engine, or it has none: its own steps compile quickly."""
    if hasattr(env, "physics"):
        return env.physics.name == "mujoco"
    return subjects.of(env).model is None


_open: ContextVar[bool] = ContextVar("open", default=True)


@contextlib.contextmanager
def unchecked() -> Generator[None]:
    """Environments made in this context are not checked, for a caller that checks them itself."""
    token = _open.set(False)
    try:
        yield
    finally:
        _open.reset(token)


def at_the_door(env: Any) -> None:
    """Checks a new environment: raises for errors, warns of the rest.

    Raises:
        ValueError: one line with the first error.
    """
    if not _open.get():
        return
    report = check(env, engine=is_on_c(env))
    for line in report.of("warning"):
        warnings.warn(f"{env.name}: {line}", stacklevel=4)
    errors = report.of("error")
    if errors:
        more = f" (and {len(errors) - 1} more: envs.check lists them)"
        raise ValueError(f"{env.name}: {errors[0]}{more if len(errors) > 1 else ''}")


def _states(
    subject: Subject, begun: tuple[np.ndarray, np.ndarray], variants: Sequence[Variant], n: int
) -> Tried:
    rng = np.random.default_rng(0)
    states = oracle.states(subject.compiled, begun, n, rng)
    ranges = subjects.widest_controls(subject.compiled, variants)
    actions = oracle.controls(subject.compiled, ranges, n * engines.STEPS, rng)
    return Tried(states, actions.reshape(n, engines.STEPS, -1))


def _starts(env: Any, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Initial states (k, nq), (k, nv) of the environment; the model's where they are not known."""
    model, start = subject.compiled, getattr(env, "start", None)
    if start is None:
        return np.array(model.qpos0)[None], np.zeros((1, model.nv))
    middle, begun, field = jnp.full(subject.family.proposal.dims, 0.5), start, _unedited(model)

    def drawn() -> list[tuple[Array, Array]]:
        task = subject.family.decode(middle)
        leaves = {name: field(name) for name in subject.apply_task(task)}
        robot = starts.TaskModel(task, leaves, model, field)
        return [starts.begin(begun, jax.random.key(seed), robot)[:2] for seed in range(_STARTS)]

    states = programs.run(drawn)
    qpos, qvel = (np.array([state[i] for state in states], float) for i in range(2))
    return qpos, qvel


def _unedited(model: mujoco.MjModel) -> Callable[[str], Array]:
    return lambda name: jnp.asarray(field_of(model, name), float)


def _impossible(subject: Subject, change: Change) -> Iterator[Finding]:
    for is_error, text in rules.impossible(subject.compiled, change):
        yield Finding("error" if is_error else "warning", f"task {change.dimension!r}: {text}")


def _models(
    subject: Subject, variants: Sequence[Variant]
) -> tuple[list[mujoco.MjModel | None], list[Finding]]:
    """The edited model of each variant, and what MuJoCo refuses."""
    models, findings = [], []
    for variant in variants:
        try:
            models.append(oracle.edited(subject.compiled, variant.leaves, subject.derived, subject.contacts))
        except oracle.Invalid as error:
            models.append(None)
            where = f"task {variant.dimension!r} at its {variant.end} end" if variant.dimension else "a task"
            findings.append(Finding("error", f"MuJoCo refuses the model of {where}: {error}"))
    return models, findings


def _program(env: Any, subject: Subject, engine: bool) -> tuple[Any, engines.Program | None]:
    """The environment whose functions run, and its program."""
    if engine:
        return env, engines.Program(env, subject, quick=is_on_c(env))
    if not hasattr(env, "physics"):
        return env, None
    own = env.on("mujoco")
    return own, engines.Program(own, subject, quick=True)


def _run(
    program: engines.Program, subject: Subject, variants: Sequence[Variant], tried: Tried
) -> tuple[engines.Ran | None, list[Finding]]:
    """Runs all variants; if that fails, finds those that fail alone."""
    given = tried.states.qpos, tried.states.qvel, tried.actions
    try:
        return program(variants, *given), []
    except engines.EngineError as error:
        first = str(error)
    guilty = {}
    for variant in variants:
        try:
            program([variant] * len(variants), *given)
        except engines.EngineError as error:
            guilty.setdefault(variant.dimension, (variant, str(error)))
    if not guilty or ("" in guilty and guilty[""][0].end == "unedited"):
        return None, [Finding("error", f"the engine cannot step the unedited model: {first}")]
    lines = [
        f"task {name!r}: the engine cannot step the model with its edit of "
        f"{', '.join(compare.edited_fields(variants, name))}: {error}"
        for name, (_, error) in guilty.items()
        if name
    ]
    return None, [Finding("error", line) for line in lines or [f"the engine cannot step a task: {first}"]]


def _edits(
    subject: Subject,
    begun: tuple[np.ndarray, np.ndarray],
    changes: Sequence[Change],
    variants: Sequence[Variant],
    ran: engines.Ran | None,
) -> list[Finding]:
    """Every edit changes some number, or it is told, with the reason and the cure where they are known."""
    findings, more = [], _states(subject, begun, variants, _MORE_STATES)
    middle = next(v for v in variants if v.end == "middle")
    edited = {change.field for change in changes}
    moved = [bool(change.mask.any()) and _moves(subject, change, middle, more) for change in changes]
    acting = {change.dimension for change, moves in zip(changes, moved, strict=True) if moves}
    for change, moves in zip(changes, moved, strict=True):
        # where another edit of the dimension acts, the environment's numbers say nothing about this one
        seen = change.dimension not in acting and _seen_by_env(variants, change, ran)
        dead = [] if moves else _dead(subject, change, more, seen)
        findings += dead
        if not change.inert and not any(finding.level == "error" for finding in dead):
            findings += _partly_dead(subject.compiled, change, edited)
    return findings


def _moves(subject: Subject, change: Change, middle: Variant, tried: Tried) -> bool:
    """Whether plain MuJoCo gives other numbers at the two ends of an edit, from any state."""
    both = []
    for end in (change.low, change.high):
        value = np.where(change.mask, end, middle.leaves[change.field])
        leaves = {**middle.leaves, change.field: value}
        both.append(oracle.edited(subject.compiled, leaves, subject.derived, subject.contacts))
    for qpos, qvel, actions in zip(*tried.states[:2], tried.actions, strict=True):
        try:
            one, other = (
                oracle.step(model, qpos, qvel, actions[:1], subject.frame_skip, subject.readings)[-1]
                for model in both
            )
        except oracle.Invalid:
            return True  # told where the engine is run
        if oracle.difference(one.numbers, other.numbers) > compare.ROUNDING:
            return True
    return False


def _seen_by_env(variants: Sequence[Variant], change: Change, ran: engines.Ran | None) -> bool:
    """Whether the environment's own observations or rewards tell the ends of the dimension apart."""
    if ran is None:
        return False
    ends = [compare.of_variant(ran, variants, change.dimension, end) for end in ("low", "high")]
    return any((a != b).any() for a, b in zip(*((e.obs, e.reward) for e in ends), strict=True))


def _dead(subject: Subject, change: Change, tried: Tried, seen: bool) -> list[Finding]:
    what = rules.described(subject.compiled, change)
    if change.inert:
        return [Finding("note", f"task {change.dimension!r}: {what} changes nothing, as declared (inert)")]
    reason = rules.why_dead(subject.compiled, change)
    if reason:
        return [Finding("error", f"task {change.dimension!r}: {what} changes nothing: {reason}")]
    if seen:
        return []
    count = len(tried.states.qpos)
    touching = sum(_concerns(subject.compiled, change, pairs) for pairs in tried.states.touching)
    if change.field.startswith(_CONDITIONAL) and not touching:
        line = f"what {what} does was not observed: none of {count} states shows it"
        return [Finding("note", f"task {change.dimension!r}: {line} (no contact, limit or saturation)")]
    line = f"{what} changes nothing in {count} states; if that is intended, declare inert=True"
    return [Finding("warning", f"task {change.dimension!r}: {line}")]


def _concerns(model: mujoco.MjModel, change: Change, pairs: set[tuple[int, int]]) -> bool:
    """Whether an edited geom is in a contact that is not of an explicit pair."""
    if not change.field.startswith("geom_"):
        return False
    explicit = {
        tuple(sorted(pair)) for pair in zip(model.pair_geom1.tolist(), model.pair_geom2.tolist(), strict=True)
    }
    return any(geom in change.rows for pair in pairs - explicit for geom in pair)


def _partly_dead(model: mujoco.MjModel, change: Change, edited: set[str]) -> list[Finding]:
    """Rows that an edit names and does not reach, and explicit pairs that it leaves out."""
    lines, parameter = [], change.field.removeprefix("geom_")
    if change.field.startswith("geom_") and parameter in contacts.PARAMETERS and parameter != "solmix":
        pairs = contacts.unreached_pairs(model, change.field, change.rows)
        if pairs and f"pair_{parameter}" not in edited:
            shown = ", ".join(pairs[:3]) + (f" and {len(pairs) - 3} more" if len(pairs) > 3 else "")
            lines.append(
                f"{change.field} does not reach the explicit pair{'s' if len(pairs) > 1 else ''} {shown}; "
                f"edit pair_{parameter}, too"
            )
    if change.listed and not lines:
        for reason, rows in rules.dead_rows(model, change).items():
            lines.append(f"{rules.described(model, change, rows)} changes nothing: {reason}")
    return [Finding("warning", f"task {change.dimension!r}: {line}") for line in lines]


def _repeats(
    program: engines.Program, variants: Sequence[Variant], tried: Tried, ran: engines.Ran, engine: str
) -> list[Finding]:
    """The same episodes give the same numbers again: nothing is left over from the episodes before."""
    again = program(variants, tried.states.qpos, tried.states.qvel, tried.actions)
    same = all(
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(ran.state.values(), again.state.values(), strict=True)
    )
    if same and np.array_equal(ran.obs, again.obs, equal_nan=True):
        return []
    line = "the same episodes gave other numbers the second time: some state of the physics is left over"
    return [Finding("error", f"engine {engine!r}: {line}")]


def _not_finite(parts: Sequence[Part]) -> list[Finding]:
    return [
        Finding("error", f"observation part {part.name!r} is not finite in some state")
        for part in parts
        if not part.finite
    ]


def _without_model(env: Any, subject: Subject, variants: Sequence[Variant]) -> Report:
    """An environment without a physics model: its own steps only."""
    program = engines.Program(env, subject, quick=True)
    space, blank = env.spec.action, np.zeros((_STATES, 0))
    rng, shape = np.random.default_rng(0), (_STATES, engines.STEPS)
    discrete = hasattr(space, "n")
    actions = rng.integers(space.n, size=shape) if discrete else rng.normal(size=(*shape, space.size))
    ran = program(variants, blank, blank, actions)
    rows, parts = _tables(env, subject, variants, ran, None)
    return Report(env.spec.name, "", ordered(_not_finite(parts)), rows, parts, _STATES)


def _tables(
    env: Any, subject: Subject, variants: Sequence[Variant], ran: engines.Ran | None, steps: Any
) -> tuple[tuple[Row, ...], tuple[Part, ...]]:
    if ran is None:
        return (), ()
    rows = []
    unedited = compare.of_variant(ran, variants, "", "unedited")
    for i, variant in enumerate(variants):
        if variant.end == "unedited" and steps is None:
            continue
        own = compare.rows_of(ran, len(variants), i)
        moved = compare.moved(own, unedited)
        gap = None if steps is None else float(steps.velocity_gap[i])
        at = subject.family.names.index(variant.dimension) if variant.dimension else None
        end = variant.end if at is None else f"{variant.end} {variant.task[at]:.4g}"
        ended, blown = float(own.done[:, -1].mean()), float(own.diverged[:, -1].mean())
        rows.append(Row(variant.dimension or "all", end, moved, gap, ended - blown, blown))
    parts, size = [], env.spec.obs_size
    critic = {
        f"{name} (critic)": slice(part.start + size, part.stop + size)
        for name, part in env.spec.privileged_slices.items()
    }
    for name, where in {**env.spec.obs_slices, **critic}.items():
        values = ran.obs[..., where]
        finite = bool(np.isfinite(values).all()) and not ran.diverged[:, 0].any()
        parts.append(Part(name, float(np.nanmin(values)), float(np.nanmax(values)), finite))
    return tuple(rows), tuple(parts)
