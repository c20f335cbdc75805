"""The presets of the paper's twelve environments are its table of hyperparameters."""

import pytest

from roml_jax import config

# of every environment alike
ALIKE = {
    "agent": "varibad", "ppo.gae_lambda": 0.9, "ppo.value_coef": 0.5, "ppo.max_grad_norm": 0.5,
    "ppo.credit": "episode", "ppo_reaches_belief": False, "learning_starts": 5000, "vae.hidden": 128,
    "vae.action_embedding": 16, "vae.obs_embedding": 32, "vae.reward_embedding": 16,
    "vae.decoder_layers": [64, 32], "vae.lr": 1e-3, "vae.batch_trajectories": 10,
    "vae.buffer_trajectories": 10_000, "vae.kl_weight": 1.0, "vae.max_grad_norm": 1.0,
    "vae.reward_weight": 1.0, "vae.state_weight": 0.0, "vae.task_weight": 0.0,
    "protocol.boundary": "terminal", "protocol.end_flag": True, "protocol.action_map": "raw",
}  # fmt: skip

# columns of the table; tasks per iteration are processes times tasks per process
COLUMNS = (
    "num_tasks", "alpha", "ppo.gamma", "ppo.lr", "ppo.anneal_lr", "ppo.epochs", "ppo.minibatches", "ppo.clip",
    "ppo.entropy_coef", "ppo.layers", "ppo.obs_embedding", "ppo.latent_embedding", "ppo.init",
    "ppo.normalise_latent", "vae.latent", "vae.tbptt", "vae.latents", "vae.decodes", "vae.updates",
)  # fmt: skip
KHAZAD_DUM = (
    32,
    0.01,
    0.999,
    7e-4,
    False,
    2,
    8,
    0.1,
    0.05,
    [64, 64],
    64,
    64,
    "normc",
    True,
    5,
    50,
    50,
    50,
    1,
)
CHEETAH = (16, 0.05, 0.97, 7e-4, False, 2, 8, 0.1, 0.01, [128, 128], 64, 64, "normc", True, 5, 50, 50, 50, 1)
HUMANOID = (32, 0.05, 0.99, 7e-4, True, 4, 2, 0.1, 0.001, [512, 256], None, None, "orthogonal", False, 10,
            None, 100, 100, 10)  # fmt: skip
ANT = (8, 0.05, 0.97, 1e-3, True, 2, 1, 0.05, 0.01, [128, 128], 64, 64, "orthogonal", False, 10, None, None,
       None, 5)  # fmt: skip
SUBSAMPLED = {"vae.latents": 100, "vae.decodes": 100}
TANH = {"protocol.action_map": "tanh"}
# frames, columns, what the environment has of its own
TABLE = {
    "khazad_dum": (8e6, KHAZAD_DUM, {}),
    "cheetah_vel": (3e7, CHEETAH, {}),
    "cheetah_mass": (3e7, CHEETAH, {}),
    "cheetah_body": (6e7, CHEETAH, {}),
    "cheetah_multi": (8e7, CHEETAH, {}),
    "humanoid_vel": (3e7, HUMANOID, TANH),
    "humanoid_mass": (3e7, HUMANOID, TANH),
    "humanoid_body": (6e7, HUMANOID, TANH),
    "ant_goal": (1e8, ANT, {}),
    "ant_mass": (1e8, ANT, SUBSAMPLED),
    "ant_vel": (7e7, ANT, {}),
    "ant_body": (7e7, ANT, {}),
}


@pytest.mark.parametrize("env", TABLE)
def test_every_preset_is_its_column_of_the_papers_table(env):
    frames, column, own = TABLE[env]
    expected = ALIKE | {"frames": frames} | dict(zip(COLUMNS, column, strict=True)) | own
    got = config.to_mapping(config.make(env))
    assert {name: got[name] for name in expected} == expected
