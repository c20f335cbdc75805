import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from roml_jax import proposals, tasks

FAMILIES = {
    "beta": tasks.beta("v", 0.0, 7.0),
    "log_beta": tasks.log_beta(("mass", "damping", "head")),
    "exponential": tasks.exponential("noise", 0.1),
}


def prior_tasks(family, key, n):
    """Tasks of the prior, drawn by one program."""
    return np.asarray(jax.jit(family.sample_prior, static_argnums=1)(key, n))


@pytest.mark.parametrize("name", FAMILIES)
def test_prior_has_the_stated_distribution(name):
    family = FAMILIES[name]
    drawn = prior_tasks(family, jax.random.key(0), 4000)
    assert drawn.shape == (4000, len(family.names))
    source = {
        "beta": stats.uniform(0, 7).cdf,
        "log_beta": stats.loguniform(0.5, 2).cdf,
        "exponential": stats.expon(scale=0.1).cdf,
    }[name]
    for column in drawn.T:
        assert stats.kstest(column, source).pvalue > 1e-3
    low, high = np.array(family.ranges).T
    assert (drawn >= low).all()
    assert (drawn <= high).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_encode_inverts_decode(name):
    family = FAMILIES[name]

    @jax.jit
    def there_and_back(key):
        u = family.proposal.sample(family.proposal.phi0, key, 50)
        return u, family.encode(family.decode(u))

    u, back = there_and_back(jax.random.key(1))
    np.testing.assert_allclose(back, u, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_fit_recovers_the_mean(name):
    proposal = FAMILIES[name].proposal
    phi = np.asarray(proposal.phi0) * 1.3
    fit = jax.jit(lambda phi, key: proposal.fit(proposal.sample(phi, key, 20_000), jnp.ones(20_000)))
    np.testing.assert_allclose(fit(phi, jax.random.key(2)), phi, rtol=0.03)


BOXES = {
    **FAMILIES,
    "disk": tasks.disk(("x", "y"), 5.0),
    "gaussian": tasks.gaussian(("a", "b"), (0.0, 1.0), (1.0, 2.0)),
    "gaussian_full": tasks.gaussian_full(("a", "b"), (0.0, 3.0), ((1.0, 0.8), (0.8, 2.0))),
    "product": tasks.product({"mass": tasks.log_beta(("mass",)), "noise": tasks.exponential("noise", 1.0)}),
}


@pytest.mark.parametrize("name", BOXES)
def test_the_priors_quantiles(name):
    """Uniform in the box is the prior in u, one dimension like the other and together; and back."""
    proposal = BOXES[name].proposal

    @jax.jit
    def draws(first, second):
        v = jax.random.uniform(first, (5000, proposal.dims), minval=1e-6, maxval=1 - 1e-6)
        u = proposal.box.to_u(v)
        return v, u, proposal.box.from_u(u), proposal.sample(proposal.phi0, second, 5000)

    v, u, back, drawn = jax.device_get(draws(jax.random.key(0), jax.random.key(1)))
    np.testing.assert_allclose(back, v, atol=1e-5)
    for ours, priors in zip(u.T, drawn.T, strict=True):
        assert stats.ks_2samp(ours, priors).pvalue > 1e-3
    if proposal.dims > 1:
        np.testing.assert_allclose(np.corrcoef(u.T), np.corrcoef(drawn.T), atol=0.06)


def test_a_finite_set_of_tasks_has_no_quantiles():
    finite = tasks.categorical(("k",), [[0.0], [1.0]])
    assert finite.proposal.box is None
    assert tasks.product({"k": finite, "v": FAMILIES["beta"]}).proposal.box is None


def test_densities_are_scipys(x64):
    u = np.linspace(0.001, 0.999, 50)[:, None]
    phi = np.array([0.8])
    exact = jax.jit(proposals.beta(1, bound=None).log_prob)(phi, u)
    np.testing.assert_allclose(exact, stats.beta.logpdf(u[:, 0], 1.6, 0.4), rtol=1e-9)
    clipped = jax.jit(proposals.beta(1, bound=0.02).log_prob)(phi, u)
    np.testing.assert_allclose(clipped, stats.beta.logpdf(np.clip(u[:, 0], 0.02, 0.98), 1.6, 0.4), rtol=1e-9)
    got = jax.jit(proposals.exponential(0.1).log_prob)(np.array([0.3]), u)
    np.testing.assert_allclose(got, stats.expon.logpdf(u[:, 0], scale=0.3), rtol=1e-9)


beta_draws = jax.jit(proposals.beta(1).sample, static_argnums=2)


@pytest.mark.parametrize("phi", [0.02, 0.2, 0.5, 0.7, 0.98])
def test_beta_draws_are_betas(phi):
    """Rejection is exact; near the ends float32 and the margin coarsen the last millionth."""
    u = np.asarray(beta_draws(np.array([phi]), jax.random.key(7), 20_000))
    expected = stats.beta(2 * phi, 2 - 2 * phi)
    grid = np.array([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    share = (u <= grid).mean(axis=0)
    np.testing.assert_allclose(share, expected.cdf(grid), atol=4 * 0.5 / 20_000**0.5)
    assert float(u.mean()) == pytest.approx(phi, abs=0.012)


@functools.cache
def log_weights(bound):
    """(phi, key) -> log-weights of draws, in one program."""
    proposal = proposals.beta(1, bound)

    @jax.jit
    def of(phi, key):
        u = proposal.sample(phi, key, 200_000)
        return proposal.log_prob(proposal.phi0, u) - proposal.log_prob(phi, u)

    return of


@pytest.mark.parametrize("phi", [0.8, 0.95, 0.98])
@pytest.mark.parametrize("bound", [0.02, None])
def test_mean_weight_is_what_the_density_makes_it(phi, bound):
    """E[f0/f] is 1 with the exact density; the reference's clip makes it 1.17 at 0.95, 1.48 at 0.98."""
    f = stats.beta(2 * phi, 2 - 2 * phi)
    ends = f.cdf(0.02) / f.pdf(0.02) + f.sf(0.98) / f.pdf(0.98)
    expected = 1.0 if bound is None else ends + 0.96
    log_w = log_weights(bound)(np.array([phi]), jax.random.key(3))
    weights = np.exp(np.asarray(log_w, np.float64))
    assert weights.mean() == pytest.approx(expected, abs=5 * weights.std() / weights.size**0.5 + 1e-3)


def test_draws_stay_off_the_ends():
    u = np.asarray(beta_draws(np.array([0.98]), jax.random.key(4), 10_000))
    assert (u > 0).all()
    assert (u < 1).all()


def test_a_finite_set_needs_a_probability_for_each():
    with pytest.raises(ValueError, match="3 positive numbers"):
        tasks.categorical(("k",), [[0.0], [1.0], [2.0]], [0.5, 0.5])


def test_names_must_be_distinct():
    with pytest.raises(ValueError, match="distinct name"):
        tasks.log_beta(("mass", "mass"))


@pytest.mark.parametrize(
    ("name", "task", "said"),
    [
        ("exponential", [5.1], "noise=5.1 is 50 standard deviations from the prior's mean, 0.1"),
        ("exponential", [0.5], None),  # four deviations off, but one draw in 150 is farther
        ("beta", [7.0], None),
    ],
)
def test_a_task_far_from_the_prior_is_told(name, task, said):
    family = FAMILIES[name]
    line = tasks.far_off(
        family, np.array([task, np.median(prior_tasks(family, jax.random.key(1), 99), axis=0)])
    )
    if said is None:
        assert line is None
    else:
        words = line.split(" is ")
        assert words[0] == said.split(" is ")[0]
        assert abs(int(words[1].split()[0]) - 50) <= 1
        assert line.endswith(": training hardly saw such tasks")


def test_the_farthest_of_several_tasks_is_told():
    family = tasks.gaussian(("a", "b"), (0.0, 1.0), (1.0, 2.0))
    line = tasks.far_off(family, np.array([[8.0, 1.0], [0.0, -101.0], [1.0, 2.0]]))
    assert line.startswith("b=-101 is 5")
    assert line.endswith("such tasks (the farthest of 2)")
