"""One policy on several engines. The command ``python -m roml_jax.sim2sim RUN`` compares its returns."""
