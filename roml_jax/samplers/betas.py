"""Independent Beta(a, b) over the unit box, as an exponential family.

Parameters phi (2 d,) hold a of every dimension, then b. The sufficient statistics T(v) are log v, then
log(1 - v), and the logarithm of the normaliser is A(phi) = sum of log B(a, b). So with delta = phi' - phi

    log f_phi'(v) - log f_phi(v) = delta . (T(v) - E_phi T) - KL(phi | phi')
    KL(phi | phi') = A(phi') - A(phi) - grad A(phi) . delta

Differences of log-gamma functions are computed as differences: log gamma(200) is 858, so in float32 it is
rounded by up to 3e-5, as are all of its kind in a sum, and a trust region is 5e-3 wide.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, digamma

from roml_jax.samplers import box
from roml_jax.types import Array

_SHIFT = 8  # Stirling's series is used from here on; its error is below 1e-9


def _halves(phi: Array) -> tuple[Array, Array]:
    """Parameters a and b, (d,) each."""
    a, b = jnp.split(phi, 2)
    return a, b


def _with_sum(phi: Array) -> Array:
    """Parameters a, b and a + b, (3 d,)."""
    return jnp.concatenate([phi, sum(_halves(phi))])


def _correction(x: Array) -> Array:
    """Log gamma(x) less (x - 1/2) log x - x + log(2 pi) / 2, for large x."""
    return 1 / (12 * x) - 1 / (360 * x**3) + 1 / (1260 * x**5)


def _gap(x: Array, delta: Array) -> Array:
    """Log gamma(x + delta) - log gamma(x) - digamma(x) delta, at least 0, for x and x + delta above 0."""
    small = delta[None] / (x[None] + jnp.arange(_SHIFT, dtype=x.dtype)[:, None])
    recurrence = (small - jnp.log1p(small)).sum(axis=0)
    y = x + _SHIFT
    slope = -1 / (12 * y**2) + 1 / (120 * y**4) - 1 / (252 * y**6)
    rest = _correction(y + delta) - _correction(y) - slope * delta
    return recurrence + (y + delta - 0.5) * jnp.log1p(delta / y) - delta + delta / (2 * y) + rest


def _trigamma(x: Array) -> Array:
    """The second derivative of log gamma, for x above 0."""
    y = x + _SHIFT
    recurrence = (1 / (x[None] + jnp.arange(_SHIFT, dtype=x.dtype)[:, None]) ** 2).sum(axis=0)
    return recurrence + 1 / y + 1 / (2 * y**2) + 1 / (6 * y**3) - 1 / (30 * y**5) + 1 / (42 * y**7)


def kl(phi: Array, delta: Array) -> Array:
    """KL(phi | phi + delta), ()."""
    of_a, of_b, of_sum = jnp.split(_gap(_with_sum(phi), _with_sum(delta)), 3)
    return (of_a + of_b - of_sum).sum()


def statistics(phi: Array, v: Array) -> Array:
    """T(v) - E_phi T, (n, 2 d), for v (n, d) in the unit box."""
    of_a, of_b, of_sum = jnp.split(digamma(_with_sum(phi)), 3)
    mean = jnp.concatenate([of_a - of_sum, of_b - of_sum])
    return jnp.concatenate([jnp.log(v), jnp.log1p(-v)], axis=1) - mean[None]


def log_prob(phi: Array, v: Array) -> Array:
    """The log density (n,) at v (n, d)."""
    a, b = _halves(phi)
    terms = (a[None] - 1) * jnp.log(v) + (b[None] - 1) * jnp.log1p(-v) - betaln(a, b)[None]
    return terms.sum(axis=1)


def whitened(phi: Array, z: Array) -> Array:
    """The change delta (2 d,) for which KL(phi | phi + delta) is about |z|^2 / 2, for small z (2 d,).

    Each dimension's Fisher information is a matrix of two rows, L L' by Cholesky, and delta is L'^-1 z.
    """
    of_a, of_b, of_sum = jnp.split(_trigamma(_with_sum(phi)), 3)
    first = jnp.sqrt(of_a - of_sum)
    below = -of_sum / first
    second = jnp.sqrt(of_b - of_sum - below**2)
    za, zb = _halves(z)
    change_b = zb / second
    return jnp.concatenate([(za - below * change_b) / first, change_b])


@partial(jax.jit, static_argnames="n")
def sample(phi: Array, key: Array, n: int) -> Array:
    """Draws v (n, d), kept off the ends of the box.

    Beta draws are ratios of gamma draws, by Marsaglia and Tsang's rejection (2000) for all of them at once:
    the general sampler runs a loop with a random key for every element.
    """
    boosted = phi < 1
    shape = jnp.where(boosted, phi + 1, phi)[None] - 1 / 3
    scale = 1 / jnp.sqrt(9 * shape)
    key, boost_key = jax.random.split(key)

    def try_again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        drawn, missing, key = carry
        key, normal_key, accept_key = jax.random.split(key, 3)
        x = jax.random.normal(normal_key, drawn.shape, phi.dtype)
        cube = (1 + scale * x) ** 3
        positive = jnp.maximum(cube, jnp.finfo(phi.dtype).tiny)
        log_accept = jnp.log(jax.random.uniform(accept_key, drawn.shape, phi.dtype))
        accepted = (cube > 0) & (log_accept < x**2 / 2 + shape * (1 - positive + jnp.log(positive)))
        return jnp.where(missing & accepted, shape * positive, drawn), missing & ~accepted, key

    size = (n, phi.shape[0])
    start = (jnp.ones(size, phi.dtype), jnp.ones(size, bool), key)
    gammas, _, _ = jax.lax.while_loop(lambda carry: carry[1].any(), try_again, start)
    # a gamma draw with parameter a is one with a + 1, times a uniform draw to the power 1 / a
    boost = jax.random.uniform(boost_key, size, phi.dtype) ** (1 / phi[None])
    first, second = jnp.split(jnp.where(boosted[None], gammas * boost, gammas), 2, axis=1)
    return box.inside(first / (first + second))
