"""Stateful wrapper around ``roml_jax.cem``: an object with ``sample`` and ``update``.

The methods are those of the ``cross-entropy-method`` package; the computation is ``roml_jax.cem``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import cem
from roml_jax.tasks import TaskFamily
from roml_jax.types import Array, TaskDraw


class CrossEntropyMethod:
    """The cross-entropy method with one task and one score per call.

    Attributes:
        state: the functional state, a pytree. Save it only when every drawn task has its score; the
            object does not save tasks that wait for one.
    """

    def __init__(
        self, family: TaskFamily, alpha: float, config: cem.CemConfig | None = None, seed: int = 0
    ) -> None:
        """Starts at the prior.

        Args:
            family: the tasks.
            alpha: risk level in (0, 1].
            config: options; ``CemConfig()`` if None.
            seed: seed of all draws.

        Raises:
            ValueError: for alpha outside (0, 1].
        """
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha must be in (0, 1], got {alpha}")
        self._config = config or cem.CemConfig()
        self._proposal, self._alpha = family.proposal, alpha
        key, self._key = jax.random.split(jax.random.key(seed))
        # one program each, where their operations by themselves are thirty
        self.state = jax.jit(lambda key: cem.init(self._config, self._proposal, key))(key)
        self._set_reference = jax.jit(lambda state, scores: cem.set_reference(state, scores, self._alpha))
        self._waiting: list[TaskDraw] = []

        def draw(state: cem.CemState, key: Array) -> Any:
            state, drawn = cem.sample(self._config, self._proposal, state, key, 1)
            weight = cem.weights_of(self._config, drawn.log_w)
            return state, drawn, family.decode(drawn.u)[0], weight[0]

        def learn(state: cem.CemState, drawn: Any, score: Array, key: Array) -> cem.CemState:
            return cem.update(self._config, self._proposal, state, drawn, score[None], key, alpha)[0]

        self._draw, self._learn = jax.jit(draw), jax.jit(learn)

    @property
    def phi(self) -> np.ndarray:
        """Parameters of the current distribution, (p,)."""
        return np.asarray(self.state.phi)

    def _next_key(self) -> Array:
        self._key, key = jax.random.split(self._key)
        return key

    def sample(self) -> tuple[np.ndarray, float]:
        """Returns the next task (d,) and its weight, prior density divided by current density."""
        self.state, drawn, task, weight = self._draw(self.state, self._next_key())
        self._waiting.append(drawn)
        return np.asarray(task), float(weight)

    def update(self, score: float) -> None:
        """Sets the score of the earliest task without one; higher is better, NaN leaves the task out.

        Raises:
            ValueError: if every drawn task has its score.
        """
        if not self._waiting:
            raise ValueError("no task waits for a score: call sample() once before each update()")
        drawn = self._waiting.pop(0)
        self.state = self._learn(
            self.state, drawn, jnp.asarray(score, self.state.phi.dtype), self._next_key()
        )

    def update_ref_scores(self, scores: np.ndarray) -> None:
        """Sets the threshold of ``ref_mode="valid"`` from scores (n,) of tasks from the prior."""
        self.state = self._set_reference(self.state, jnp.asarray(scores))
