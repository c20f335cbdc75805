"""The interfaces of meta-learners and agents, and the registry of both.

``rollout`` makes a meta-learner from an agent and an environment. A learner from examples is a
meta-learner by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from roml_jax.registry import NoOptions, Registry, options_class
from roml_jax.types import Array, EnvSpec, Feedback, Metrics, Outcome, Rollout, TaskWeights, Transition


class Halved(NamedTuple):
    """An option that halves a part of the stored experience.

    Attributes:
        name: the option's dotted name.
        value: the value that halves.
        part: (experience) -> what is halved.
    """

    name: str
    value: str
    part: Callable[[Any], Any]


class Storage(NamedTuple):
    """Access to the experience in a learner's state, and the options that determine its size.

    Attributes:
        take: (L) -> the experience, a pytree with leaves (rows, ...).
        put: (L, experience) -> L with this experience.
        rows: dotted name of the option with its number of rows.
        multiple: the number of rows must be a multiple of this.
        halved_by: an option that halves a part of it; None if there is none.
    """

    take: Callable[[Any], Any]
    put: Callable[[Any, Any], Any]
    rows: str
    multiple: int = 1
    halved_by: Halved | None = None


def replay_field(rows: str, multiple: int = 1, halved_by: Halved | None = None) -> Storage:
    """Storage in the field ``replay`` of a learner's state; the arguments are those of ``Storage``."""
    return Storage(
        lambda state: state.replay, lambda state, replay: state._replace(replay=replay), rows, multiple,
        halved_by,
    )  # fmt: skip


class Init(Protocol):
    """Makes the initial state."""

    def __call__(self, key: Array) -> Any:
        """Returns the state L of a meta-learner, or A of an agent: a pytree."""


class Collect(Protocol):
    """Collects experience on tasks."""

    def __call__(self, state: Any, tasks: Array, key: Array) -> tuple[Any, Any, Feedback]:
        """Returns (L, experience, what the sampler is told) for tasks (N, d)."""


class Update(Protocol):
    """Updates the learner from experience."""

    def __call__(
        self, state: Any, experience: Any, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[Any, Metrics]:
        """Returns (L, metrics).

        ``weights`` (N,) come from the sampler; ``progress`` () is the share of the training done.
        """


class Test(Protocol):
    """Evaluates the learner without changing it."""

    def __call__(self, state: Any, tasks: Array, key: Array, index: Array | None = None) -> Outcome:
        """Returns the outcome, leaves (M, K), of greedy behaviour on tasks (M, d).

        ``index`` (M,) are the tasks' places among all tasks of a test that is done in batches; None for 0 to
        M - 1. With the key, a task's place alone decides the randomness of its environment.
        """


class Acting(Protocol):
    """Removes from a learner's state what acting does not need."""

    def __call__(self, state: Any) -> Any:
        """Returns L with the fields that ``test`` does not need left empty; computes nothing."""


class Prepare(Protocol):
    """Computes what all steps of a rollout share."""

    def __call__(self, state: Any) -> Any:
        """Returns A with additions that make steps cheaper."""


def keep_all(state: Any) -> Any:
    """Returns the whole state; the default ``acting`` and ``prepare``."""
    return state


class MetaLearner(NamedTuple):
    """A learner that a sampler can make robust: it learns to do well on the tasks it gets.

    Options that can differ between seeds are in its state's ``rates`` (``registry.leaf``).

    Attributes:
        init: (key) -> L.
        collect: (L, tasks (N, d), key) -> (L, experience, Feedback (N,)).
        update: (L, experience, TaskWeights (N,), key, progress) -> (L, metrics).
        test: (L, tasks (M, d), key, index (M,) or None) -> Outcome, leaves (M, K).
        acting: (L) -> L with the fields that ``test`` does not need left empty.
        storage: where L holds experience; None if it holds none.
        reports: names of the fields of ``Feedback`` that it fills, besides ``returns``.
        counters: names of fields of L that count what the run has done; acting does not depend on them. They
            start anew in a run that starts from another run's learner.
        inner_steps: if the K columns of a test are not episodes but returns after so many gradient steps on
            the task, these K numbers; else ().
    """

    init: Init
    collect: Collect
    update: Update
    test: Test
    acting: Acting = keep_all
    storage: Storage | None = None
    reports: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    inner_steps: tuple[int, ...] = ()


class Begin(Protocol):
    """Makes the belief before a task's first episode."""

    def __call__(self, state: Any, key: Array, n: int) -> Any:
        """Returns the belief about n tasks, leaves (n, ...)."""


class Act(Protocol):
    """Chooses actions."""

    def __call__(self, state: Any, belief: Any, obs: Array, key: Array, greedy: Array) -> tuple[Array, Any]:
        """Returns (action (N, A), extras).

        Args:
            state: A.
            belief: about N tasks.
            obs: (N, D), the protocol's flag included.
            key: randomness.
            greedy: () bool, whether to take the most likely action.

        Extras are a pytree (N, ...); ``update`` gets it in ``Rollout.extras``.
        """


class Observe(Protocol):
    """Updates the belief after a step."""

    def __call__(self, state: Any, belief: Any, step: Transition) -> Any:
        """Returns the new belief."""


class Adapt(Protocol):
    """Updates the belief between two episodes."""

    def __call__(self, state: Any, belief: Any, episode: tuple[Transition, Any], key: Array) -> Any:
        """Returns the new belief; ``episode`` is (transitions, extras) with leaves (H, N, ...)."""


class Learn(Protocol):
    """Updates the agent from whole episodes."""

    def __call__(
        self, state: Any, rollout: Rollout, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[Any, Metrics]:
        """Returns (A, metrics).

        ``weights`` (N,) come from the sampler; ``progress`` () is the share of the training done.
        """


class ValueScore(Protocol):
    """Compares an agent's experience with what its critic expected."""

    def __call__(self, state: Any, rollout: Rollout) -> Array:
        """Returns ``Feedback.value_score`` (N,)."""


class Inform(Protocol):
    """Gives the agent its tasks."""

    def __call__(self, state: Any, belief: Any, tasks: Array) -> Any:
        """Returns the belief that contains the tasks (N, d)."""


class Agent(NamedTuple):
    """A reinforcement learner that adapts to a task while acting in it. Functions are batched over N tasks.

    Attributes:
        init: (key) -> A, everything that learning changes.
        begin: (A, key, n) -> belief about n tasks before their first episode.
        act: (A, belief, obs (N, D), key, greedy ()) -> (action (N, A), extras).
        observe: (A, belief, Transition) -> belief, after each step.
        adapt: (A, belief, (Transition, extras), key) -> belief, between episodes; None for agents that only
            observe.
        update: (A, Rollout, TaskWeights (N,), key, progress) -> (A, metrics).
        acting: (A) -> A with the fields that ``begin``, ``act``, ``observe`` and ``adapt`` do not need left
            empty. The best learner so far is stored in this form.
        inform: (A, belief, tasks (N, d)) -> belief, called after ``begin`` for an agent that gets the task
            as input (an upper bound for the other agents); None for all other agents.
        exploring: number of initial test episodes that act stochastically.
        unadapted: number of initial episodes of a task before the agent uses what it has seen of it.
        storage: where A holds experience; None if it holds none.
        value_score: (A, Rollout) -> (N,), for samplers that use it; None for an agent without a critic of
            its policy's values.
        counters: as those of ``MetaLearner``.
        prepare: (A) -> A, called once per rollout: what every step would compute of the parameters alone.
            ``begin``, ``inform``, ``act``, ``observe`` and ``adapt`` get what it returns there, and A itself
            elsewhere.
    """

    init: Init
    begin: Begin
    act: Act
    observe: Observe
    adapt: Adapt | None
    update: Learn
    acting: Acting = keep_all
    inform: Inform | None = None
    exploring: int = 0
    unadapted: int = 0
    storage: Storage | None = None
    value_score: ValueScore | None = None
    counters: tuple[str, ...] = ()
    prepare: Prepare = keep_all


Problem = Literal["episodes", "examples"]
"""Source of a learner's experience: episodes of an environment, or examples of a problem."""

_registries: dict[str, Registry[Any]] = {"episodes": Registry("agent"), "examples": Registry("learner")}


def register(name: str, constructor: Callable[..., Any] | None = None, problem: Problem = "episodes") -> Any:
    """Adds an agent: ``register(name, constructor)``, or ``@register(name)`` above its definition.

    Args:
        name: on the command line, ``--agent name``.
        constructor: (spec, num_tasks, config) -> Agent. With ``problem="examples"`` it is (problem, spec,
            config) -> MetaLearner and replaces the agent of this name on environments that have examples.
        problem: the source of experience.
    """
    if constructor is None:
        return lambda decorated: register(name, decorated, problem)
    return _registries[problem].register(name, constructor)


def names() -> tuple[str, ...]:
    """The names of all agents, sorted."""
    return _registries["episodes"].names()


def get(name: str, env: Any = None) -> Callable[..., Any]:
    """The constructor registered under a name.

    Args:
        name: a registered name.
        env: the environment, or its constructor; None for one without examples.

    Raises:
        UnknownNameError: if the name is not registered; its message lists the valid names.
    """
    from_examples = _registries["examples"]
    if hasattr(env, "examples") and name in from_examples.names():
        return from_examples.get(name)
    return _registries["episodes"].get(name)


def make(
    name: str, spec: EnvSpec, num_tasks: int, config: Any = None, env: Any = None
) -> Agent | MetaLearner:
    """Builds an agent by name, or a meta-learner if the environment is a problem with examples.

    Args:
        name: a registered name.
        spec: the environment's spec, the protocol's flag included.
        num_tasks: N, tasks per meta-iteration.
        config: that agent's options; its defaults if None.
        env: the environment; None for one without examples.

    Raises:
        UnknownNameError: for a name that is not registered.
    """
    constructor = get(name, env)
    options = options_class(constructor)
    chosen = () if options is NoOptions else (options() if config is None else config,)
    if constructor is get(name):
        return constructor(spec, num_tasks, *chosen)
    return constructor(env, spec, *chosen)
