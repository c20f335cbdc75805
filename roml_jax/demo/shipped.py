"""The trained policies in the package: one file for each.

A file is a NumPy archive (``.npz``). Its ``about`` is JSON: the run's options and the policy's origin. The
other arrays are the acting parameters of the learner, by their path. Loading builds the agent from the
options, as for a run's folder. A file therefore works with every version of JAX that the package supports; an
exported program (``python -m roml_jax.export``) works with those in the window of its calling convention.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from roml_jax import config as configs
from roml_jax import envs, experiment
from roml_jax.envs import door
from roml_jax.errors import ConfigError
from roml_jax.run import files
from roml_jax.run.saved import Saved

FOLDER = Path(__file__).parent / "policies"
METHODS = {"roml": ("RoML", "cem"), "varibad": ("VariBAD", "uniform")}
"""The methods that a demo compares: the name in text and the sampler, by the name in paths."""
_ABOUT = "about"


class Demo(NamedTuple):
    """An environment for which both policies are in the package.

    Attributes:
        shows: what one sees, in a few words.
        task: the words of ``--task`` for the task that is shown by default.
        example: name of the example that registers the environment; "" for one of the package.
    """

    shows: str
    task: tuple[str, ...]
    example: str = ""


DEMOS = {
    "khazad_dum": Demo("64 walks where the narrow bridge is slippery", ("noise=0.3",)),
    "cheetah_mass": Demo("a half-cheetah of twice its mass", ("mass=2",)),
    "robust_hopper": Demo(
        "a hopper whose strong motors act late",
        ("mass=1", "friction=0.7", "motor=1.4", "latency_ms=30"),
        example="robust_hopper",
    ),
}


def path_of(demo: str, method: str, folder: Path = FOLDER) -> Path:
    """The file of a policy, of a name in ``DEMOS`` and one in ``METHODS``."""
    return folder / f"{demo}-{method}.npz"


def examples_folder() -> Path:
    """The folder of the examples: in the installed package, or beside the package in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "examples"
    return installed if installed.is_dir() else package.parent / "examples"


def register_env(demo: str) -> None:
    """Registers the environment of a demo, if it is an example's and not registered yet."""
    example = DEMOS[demo].example
    if not example or demo in envs.names():
        return
    # the name under which a checkout imports the example, so that it is not registered twice
    name, file = f"examples.{example}", examples_folder() / f"{example}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


def about(path: Path) -> dict[str, Any]:
    """What is known of a policy: its options, history and held-out returns; see ``write``."""
    with np.load(path) as archive:
        return json.loads(str(archive[_ABOUT]))


def _config(known: Mapping[str, Any]) -> configs.Config:
    options = dict(known["options"])
    env, sampler, agent = (options.pop(name) for name in ("env", "sampler", "agent"))
    return configs.make(env, sampler, agent, **options, mesh="none")


def _learner(path: Path, shapes: Any) -> Any:
    """The parameters in a file, leaves (1, ...), in the structure and shapes of ``shapes``.

    Raises:
        ConfigError: if the file has others; one line.
    """
    with np.load(path) as archive:
        arrays = {name: archive[name][None] for name in archive.files if name != _ABOUT}
    places, tree = jax.tree_util.tree_flatten_with_path(shapes)
    wanted = {jax.tree_util.keystr(place): ((1, *leaf.shape), leaf.dtype) for place, leaf in places}
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if wanted != found:
        name = next(name for name in [*wanted, *found] if wanted.get(name) != found.get(name))
        raise ConfigError(
            f"{path} was made by roml_jax {about(path)['roml_jax']}, whose agent has other parameters: {name}"
        )
    return jax.tree.unflatten(tree, [arrays[name] for name in wanted])


def make_env(demo: str, folder: Path = FOLDER) -> envs.Env:
    """The environment of a demo, with the options of its policies.

    Args:
        demo: a name in ``DEMOS``.
        folder: where the files are.
    """
    register_env(demo)
    with door.unchecked():  # the tests have checked it, and that takes seconds
        return experiment.make_env(_config(about(path_of(demo, next(iter(METHODS)), folder))))


def load(demo: str, env: envs.Env, folder: Path = FOLDER) -> list[Saved]:
    """The policies of a demo, as runs with one seed, in the order of ``METHODS``.

    Args:
        demo: a name in ``DEMOS``.
        env: the environment, as ``make_env`` makes it.
        folder: where the files are.

    Raises:
        ConfigError: if this version's agents have other parameters than those in the files; one line.
    """
    return [_load(path_of(demo, method, folder), env) for method in METHODS]


def _load(path: Path, env: envs.Env) -> Saved:
    known = about(path)
    config = _config(known)
    parts = experiment.make(config, env)
    shapes = jax.eval_shape(lambda key: parts.learner.acting(parts.learner.init(key)), jax.random.key(0))
    return Saved(
        path, config, parts, known["which"], np.array([known["iteration"]]), _learner(path, shapes)
    )  # fmt: skip


def write(path: Path, run: Saved, place: int, history: Mapping[str, Any]) -> Path:
    """Writes the policy of one seed of a run to a new file.

    Args:
        path: the new file.
        run: the run.
        place: position of the seed in ``config.plan``.
        history: what else to write down, for JSON: where the policy comes from and how it performs.

    Raises:
        ConfigError: if the file exists or cannot be written; one line.
    """
    seed = run.config.plan[place]
    # imports are left out: a demo's environment is in the package
    options = configs.to_mapping(run.config) | {"seeds": [seed.seed], "sweep": [], "imports": []}
    options |= seed.settings
    known = {"options": options, "which": run.which, "iteration": int(run.iterations[place]), **history}
    leaves, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(run.one(place)))
    arrays = {jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves}
    with files.new(path) as part, part.open("wb") as file:
        arrays[_ABOUT] = np.array(json.dumps(known))
        # a checker cannot know that no array is named like an option of this function
        np.savez_compressed(file, **arrays)  # ty: ignore[invalid-argument-type]
    return path
