"""roml_jax: robust meta-reinforcement learning as one compiled program."""

from roml_jax import agents, cem, envs, evaluate, experiment, meta, risk, rollout, samplers, tasks
from roml_jax.config import Config, ConfigError
from roml_jax.config import make as make_config
from roml_jax.meta import MetaLearner, MetaState, make_iteration, make_train
from roml_jax.policy import Policy, load
from roml_jax.rollout import Protocol, make_learner
from roml_jax.types import EnvSpec, Rollout, TaskDraw, Transition

__version__ = "0.1.0"

__all__ = [
    "Config",
    "ConfigError",
    "EnvSpec",
    "MetaLearner",
    "MetaState",
    "Policy",
    "Protocol",
    "Rollout",
    "TaskDraw",
    "Transition",
    "agents",
    "cem",
    "envs",
    "evaluate",
    "experiment",
    "load",
    "make_config",
    "make_iteration",
    "make_learner",
    "make_train",
    "meta",
    "risk",
    "rollout",
    "samplers",
    "tasks",
]
