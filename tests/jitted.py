"""A sampler whose functions are one program each, where their operations by themselves would be tens."""

import jax


def jitted(sampler):
    """The sampler with each function jitted."""
    init, update, weights, phi = map(jax.jit, (sampler.init, sampler.update, sampler.weights, sampler.phi))
    sample = jax.jit(sampler.sample, static_argnums=2)
    scoring = sampler.scoring
    if scoring is not None:
        scoring = scoring._replace(propose=jax.jit(scoring.propose), scored=jax.jit(scoring.scored))
    return sampler._replace(
        init=init, sample=sample, update=update, weights=weights, phi=phi, scoring=scoring
    )
