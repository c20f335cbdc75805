"""RoML in a training loop of your own, once in NumPy and once compiled: robust to the hardest 5 % of tasks.

The learner chooses a strength x, at cost x. A task is a load in [0, 7]. A load above x costs the square of
the difference. The best x is 4.35 for the mean, and 6.33 for the worst 5 % of loads.

    python examples/own_learner.py
"""

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import samplers, tasks
from roml_jax.samplers.stateful import CrossEntropyMethod

FAMILY, ALPHA, RATE, STEPS = tasks.beta("load", 0.0, 7.0), 0.05, 0.01, 4000


def numpy_loop() -> float:
    """A plain loop: two lines more than without robustness."""
    x, sampler = 0.0, CrossEntropyMethod(FAMILY, ALPHA)
    for _ in range(STEPS):
        (load,), _ = sampler.sample()  # instead of a draw from the prior
        missing = max(load - x, 0.0)
        sampler.update(-(missing**2) - x)
        x += RATE * (2 * missing - 1)
    return x


def compiled_loop() -> float:
    """The same, 16 tasks at a time, as one program."""
    sampler = samplers.cem(FAMILY, ALPHA)

    def step(carry, key):
        x, state = carry
        state, draw = sampler.sample(state, key, 16)
        missing = jnp.maximum(draw.task[:, 0] - x, 0.0)
        state, _ = sampler.update(state, draw, -jnp.square(missing) - x, key)
        return (x + RATE * (2 * missing - 1).mean(), state), None

    start = (jnp.zeros(()), sampler.init(jax.random.key(0)))
    (x, _), _ = jax.jit(lambda c, k: jax.lax.scan(step, c, k))(
        start, jax.random.split(jax.random.key(1), STEPS)
    )
    return float(x)


def report(name: str, x: float) -> None:
    """Mean and CVaR of a strength over all loads."""
    returns = np.sort(-(np.maximum(np.linspace(0, 7, 10_001) - x, 0) ** 2) - x)
    print(f"{name:9s} x = {x:.2f}  mean {returns.mean():6.2f}  CVaR {returns[:500].mean():6.2f}")


if __name__ == "__main__":
    report("plain", 7 - 7**0.5)  # the best on average, in closed form
    report("NumPy", numpy_loop())
    report("compiled", compiled_loop())
