"""Draws the map of Khazad-Dum with three scripted policies at two levels of noise.

python examples/khazad_dum_map.py [--out docs/images/khazad_dum_map.png] [--width 11] [--height 9]
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp

from roml_jax.envs.khazad_dum import KhazadDum
from roml_jax.envs.khazad_dum_figure import plot_map

LEFT, RIGHT, DOWN, UP = range(4)
NOISE, EPISODES = (0.05, 0.3), 60


def narrow(env, position, key):
    """Straight north from the column of the goal."""
    x = position[0]
    return jnp.where(x < 1.5, RIGHT, jnp.where(x >= 2.5, LEFT, UP))


def wide(env, position, key):
    """East along the south bank, north over the wide bridge, west along the north bank."""
    x, y = position
    east, north = env.width - 4.5, env.height - 3.5
    south = jnp.where(x < east, RIGHT, UP)
    return jnp.where(y < north, south, jnp.where(x >= 2.5, LEFT, UP))


def wander(env, position, key):
    """Any move."""
    return jax.random.randint(key, (), 0, 4)


POLICIES = {"straight on": narrow, "the long way": wide, "at random": wander}


def walk(env, policy, tau, key):
    """Positions (H + 1, 2) of an episode."""
    reset_key, act_key = jax.random.split(key)

    def step(state, key):
        state = env.step(state, policy(env, state.physics.position, key))
        return state, state.physics.position

    state = env.reset(reset_key, jnp.array([tau]))
    _, after = jax.lax.scan(step, state, jax.random.split(act_key, env.spec.horizon))
    return jnp.concatenate([state.physics.position[None], after])


def main():
    """Plays and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images/khazad_dum_map.png"))
    parser.add_argument("--width", type=int, default=KhazadDum.width)
    parser.add_argument("--height", type=int, default=KhazadDum.height)
    options = parser.parse_args()
    try:
        env = KhazadDum(width=options.width, height=options.height)
    except ValueError as error:
        parser.error(str(error))
    keys = jax.random.split(jax.random.key(0), EPISODES)
    trajectories = {
        name: jnp.stack([jax.vmap(lambda key, p=p, t=t: walk(env, p, t, key))(keys) for t in NOISE])
        for name, p in POLICIES.items()
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    plot_map(env, trajectories, NOISE).savefig(options.out, dpi=120)
    print(f"drew {options.out}")


if __name__ == "__main__":
    main()
