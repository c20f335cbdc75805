"""What a meta-learner and a reinforcement learner must offer, and the registry of both.

``rollout`` makes a meta-learner of an agent and an environment; a learner from examples is one by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

from roml_jax.registry import NoOptions, Registry, options_class
from roml_jax.types import Array, EnvSpec, Metrics, Outcome, Rollout, TaskWeights, Transition


class Storage(NamedTuple):
    """The experience that a learner keeps, and the options that size it.

    Attributes:
        take: (L) -> the experience, a pytree with leaves (rows, ...).
        put: (L, experience) -> L.
        rows: dotted name of the option that says how many rows it has.
        multiple: its rows come in multiples of this.
        halved_by: dotted name and value of an option that halves it; None where there is none.
    """

    take: Callable[[Any], Any]
    put: Callable[[Any, Any], Any]
    rows: str
    multiple: int = 1
    halved_by: tuple[str, str] | None = None


def replay_field(rows: str, multiple: int = 1, halved_by: tuple[str, str] | None = None) -> Storage:
    """Experience in the field ``replay`` of a learner's state; arguments as those of ``Storage``."""
    return Storage(
        lambda state: state.replay, lambda state, replay: state._replace(replay=replay), rows, multiple,
        halved_by,
    )  # fmt: skip


class Init(Protocol):
    """The state before any learning."""

    def __call__(self, key: Array) -> Any:
        """Returns L (A), a pytree."""


class Collect(Protocol):
    """Meets tasks and gathers experience."""

    def __call__(self, state: Any, tasks: Array, key: Array) -> tuple[Any, Any, Array]:
        """Returns (L, experience, returns (N,)) of tasks (N, d); a return is the score the sampler gets."""


class Update(Protocol):
    """Learns from experience."""

    def __call__(
        self, state: Any, experience: Any, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[Any, Metrics]:
        """Returns (L, metrics); weights (N,) are the sampler's, progress () is the share of the run done."""


class Test(Protocol):
    """Does what evaluations measure, and learns nothing."""

    def __call__(self, state: Any, tasks: Array, key: Array) -> Outcome:
        """Returns the outcome, leaves (M, K), of greedy behaviour on tasks (M, d)."""


class Acting(Protocol):
    """What is kept of a learner to act with."""

    def __call__(self, state: Any) -> Any:
        """Returns L without what ``test`` does not need: fields left empty, nothing computed."""


def keep_all(state: Any) -> Any:
    """All of the state acts."""
    return state


class MetaLearner(NamedTuple):
    """Anything that can be made robust: it learns to do well on the tasks it is given.

    Its options that seeds may differ in are in its state's ``rates`` (``registry.leaf``).

    Attributes:
        init: (key) -> L.
        collect: (L, tasks (N, d), key) -> (L, experience, returns (N,)).
        update: (L, experience, TaskWeights (N,), key, progress) -> (L, metrics).
        test: (L, tasks (M, d), key) -> Outcome, leaves (M, K).
        acting: (L) -> L without what ``test`` does not need.
        storage: where L keeps experience; None for none.
    """

    init: Init
    collect: Collect
    update: Update
    test: Test
    acting: Acting = keep_all
    storage: Storage | None = None


class Begin(Protocol):
    """The belief before a task's first episode."""

    def __call__(self, state: Any, key: Array, n: int) -> Any:
        """Returns the belief about n tasks, leaves (n, ...)."""


class Act(Protocol):
    """Chooses actions."""

    def __call__(self, state: Any, belief: Any, obs: Array, key: Array, greedy: Array) -> tuple[Array, Any]:
        """Returns (action (N, A), extras).

        Args:
            state: A.
            belief: of N tasks.
            obs: (N, D), the protocol's flag included.
            key: randomness.
            greedy: () bool, whether to take the likeliest action.

        Extras are a pytree (N, ...) that ``update`` finds in ``Rollout.extras``.
        """


class Observe(Protocol):
    """Updates the belief after a step."""

    def __call__(self, state: Any, belief: Any, step: Transition) -> Any:
        """Returns the belief."""


class Adapt(Protocol):
    """Updates the belief between two episodes."""

    def __call__(self, state: Any, belief: Any, episode: tuple[Transition, Any], key: Array) -> Any:
        """Returns the belief, from a whole episode: (transitions, extras) with leaves (H, N, ...)."""


class Learn(Protocol):
    """Learns from whole episodes."""

    def __call__(
        self, state: Any, rollout: Rollout, weights: TaskWeights, key: Array, progress: Array
    ) -> tuple[Any, Metrics]:
        """Returns (A, metrics); weights (N,) are the sampler's, progress () is the share of the run done."""


class Inform(Protocol):
    """Tells the agent its tasks."""

    def __call__(self, state: Any, belief: Any, tasks: Array) -> Any:
        """Returns the belief, given the tasks (N, d)."""


class Agent(NamedTuple):
    """A reinforcement learner that adapts to a task while it acts in it. Functions are batched over N tasks.

    Attributes:
        init: (key) -> A, everything that learning changes.
        begin: (A, key, n) -> belief about n tasks before their first episode.
        act: (A, belief, obs (N, D), key, greedy ()) -> (action (N, A), extras).
        observe: (A, belief, Transition) -> belief, after each step.
        adapt: (A, belief, (Transition, extras), key) -> belief, between episodes; None for agents that only
            observe.
        update: (A, Rollout, TaskWeights (N,), key, progress) -> (A, metrics).
        acting: (A) -> A without what ``begin``, ``act``, ``observe`` and ``adapt`` do not need. It is what is
            kept of the best learner so far.
        inform: (A, belief, tasks (N, d)) -> belief, after ``begin``, for an agent that is given the task as
            input (an upper bound on what others can reach); None for agents that must find out.
        exploring: number of initial test episodes that act stochastically.
        storage: where A keeps experience; None for none.
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
    storage: Storage | None = None


Problem = Literal["episodes", "examples"]
"""What a learner of a name learns from: an environment's episodes, or a problem's examples."""

_registries: dict[str, Registry[Any]] = {"episodes": Registry("agent"), "examples": Registry("learner")}


def register(name: str, constructor: Callable[..., Any] | None = None, problem: Problem = "episodes") -> Any:
    """Adds an agent, ``register(name, constructor)`` or ``@register(name)`` above its definition.

    Args:
        name: on the command line, ``--agent name``.
        constructor: (spec, num_tasks, config) -> Agent. With ``problem="examples"`` it is (problem, spec,
            config) -> MetaLearner, in place of the agent of its name where an environment has examples.
        problem: what it learns from.
    """
    if constructor is None:
        return lambda decorated: register(name, decorated, problem)
    return _registries[problem].register(name, constructor)


def names() -> tuple[str, ...]:
    """The names of all agents, sorted."""
    return _registries["episodes"].names()


def get(name: str, env: Any = None) -> Callable[..., Any]:
    """The constructor of that name for an environment (or for what makes one).

    Raises:
        UnknownNameError: if there is none; its message lists the valid names.
    """
    from_examples = _registries["examples"]
    if hasattr(env, "examples") and name in from_examples.names():
        return from_examples.get(name)
    return _registries["episodes"].get(name)


def make(
    name: str, spec: EnvSpec, num_tasks: int, config: Any = None, env: Any = None
) -> Agent | MetaLearner:
    """Builds an agent by name, or a meta-learner where the environment is a problem with examples.

    Args:
        name: a registered name.
        spec: what the agent sees of the environment, the protocol's flag included.
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
