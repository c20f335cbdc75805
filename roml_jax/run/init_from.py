"""The learner of another run that a new run starts from (``--init-from``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax import experiment, meta
from roml_jax.config import Config, seed_plan, to_mapping
from roml_jax.config.presets import read_yaml
from roml_jax.config.values import as_mapping, flatten
from roml_jax.errors import ConfigError
from roml_jax.run import checkpoint
from roml_jax.run import folder as run_folder

_OPTIONS = "rates"  # the field of a learner's state with its options, which are the new run's own


class Inherited(NamedTuple):
    """What a run takes over from another run's learner.

    Attributes:
        arrays: leaves of the learner's state by dotted name, (R, ...), or (...) for a run of one seed.
        line: one line for the user.
    """

    arrays: Mapping[str, np.ndarray]
    line: str


class Part(NamedTuple):
    """The part of a learner's state that is taken over, as shapes.

    Attributes:
        wanted: its leaves.
        whole: the leaves that the last learner of a run would have.
        fields: names of its fields; None for a state without named fields.
    """

    wanted: Any
    whole: Any
    fields: tuple[str, ...] | None


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by dotted name, such as ``policy.params.logits.kernel``."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def load(source: Path, config: Config, parts: experiment.Experiment, shapes: meta.MetaState) -> Inherited:
    """Reads the parameters and statistics that a new run starts from.

    Args:
        source: folder of the other run.
        config: the new run's configuration.
        parts: the new run's functions.
        shapes: shapes of the new run's MetaState.

    Raises:
        ConfigError: if the other run or its learner does not exist or is damaged, or has another agent, other
            shapes or other seeds; one line that names the first difference.
    """
    try:
        return _load(source, config, parts, shapes)
    except (ConfigError, checkpoint.CheckpointError) as error:
        raise ConfigError(f"--init-from: {error}") from None


def _load(source: Path, config: Config, parts: experiment.Experiment, shapes: meta.MetaState) -> Inherited:
    run_folder.check(source)
    options = dict(flatten(read_yaml(source / run_folder.CONFIG)))
    if options.get("agent") != config.agent:
        raise ConfigError(f"the agent of {source} is {options.get('agent')}, that of this run {config.agent}")
    path, which = checkpoint.latest(source / run_folder.CHECKPOINT), config.which or "last"
    if path is None:
        raise ConfigError(f"{source} has no checkpoint yet")
    seeds = seed_plan.plan(seed_plan.expand(options.get("seeds", [])), options.get("sweep") or ())
    chosen = places(source, seeds, config.plan)
    part = part_of(parts, shapes, which)
    item, inside = ("state", "learner") if which == "last" else (which, "acting")
    stored = checkpoint.contents(path, item)
    learner = stored[inside]
    if part.fields is not None:
        learner = {name: learner[name] for name in part.fields if name in learner}
    difference = _difference(named(part.wanted), named(learner), len(config.plan) > 1, len(seeds) > 1)
    if difference:
        raise ConfigError(f"{source} {difference}{_cause(config, options)}")
    more = {name: stored[name] for name in ("score", "iteration") if name in stored and which != "last"}
    read = checkpoint.restore_part(path, item, {inside: learner, **more})
    iterations = np.asarray(read.get("iteration", np.full(len(seeds), int(path.name))))
    scores = np.asarray(read.get("score", np.zeros(len(seeds))))
    if not np.isfinite(scores[chosen]).all():
        raise ConfigError(f"{source} has no {which}: the run was not evaluated yet")
    arrays = {name: _of_seeds(leaf, len(seeds) > 1, chosen) for name, leaf in named(read[inside]).items()}
    return Inherited(arrays, _line(source, which, {int(iterations[place]) for place in chosen}, part))


def places(source: Path, seeds: Sequence[seed_plan.Seed], plan: Sequence[seed_plan.Seed]) -> list[int]:
    """For each seed of a run: the position of the seed that it starts from.

    The seed of a run of one seed starts all. Otherwise it is the one with the same seed and settings, or the
    only one with the same seed.
    """
    if len(seeds) == 1:
        return [0] * len(plan)
    labels, numbers = [one.label for one in seeds], [one.seed for one in seeds]
    found = []
    for one in plan:
        if one.label in labels:
            found.append(labels.index(one.label))
        elif numbers.count(one.seed) == 1:
            found.append(numbers.index(one.seed))
        else:
            raise ConfigError(
                f"the seeds of {source} are {'; '.join(labels)}, and seed {one.label} of this run is none of "
                "them: choose --seeds among them, or start from a run of one seed"
            )
    return found


def part_of(parts: experiment.Experiment, shapes: meta.MetaState, which: str) -> Part:
    """What is taken over: no optimiser (which acting does not need), no experience, no counters, no options.

    A learner that was the best so far has only what acts.
    """
    learner, storage = parts.learner, parts.learner.storage
    state = shapes.learner if storage is None else storage.put(shapes.learner, ())
    state = jax.eval_shape(checkpoint.plain, state)
    acting = learner.acting(state)
    if not hasattr(state, "_fields"):
        return Part(acting, acting, None)
    without = (_OPTIONS, *learner.counters)
    names = [name for name in state._fields if name not in without and jax.tree.leaves(getattr(acting, name))]
    whole = {name: getattr(state, name) for name in names}
    kept = {name: getattr(acting, name) for name in names}
    return Part(whole if which == "last" else kept, whole, tuple(names))


def _difference(
    wanted: Mapping[str, Any], stored: Mapping[str, Any], here_by_seed: bool, there_by_seed: bool
) -> str | None:
    """The first difference between the shapes of a run's leaves and those of another run's learner."""
    for name, leaf in wanted.items():
        if name not in stored:
            return f"has no {name}, which this run's learner has"
        there = stored[name].shape[int(there_by_seed) :]
        if there != checkpoint.solid(leaf.shape[int(here_by_seed) :]):
            return f"has {name} of shape {there}, but this run needs {leaf.shape[int(here_by_seed) :]}"
    more = next((name for name in stored if name not in wanted), None)
    return f"has {more}, which this run's learner has not" if more else None


def _cause(config: Config, options: Mapping[str, Any]) -> str:
    """Those options of the agent, the environment and the protocol that differ and may change shapes."""
    agents = as_mapping(config.agent_options)
    differing = [
        f"{name} {options[name]} there, {value} here"
        for name, value in to_mapping(config).items()
        if (name in agents or name == "env" or name.startswith(("env.", "protocol.")))
        and name in options and options[name] != value and not isinstance(value, float)
    ]  # fmt: skip
    return f"; options that differ: {'; '.join(differing)}" if differing else ""


def _of_seeds(stored: Any, by_seed: bool, places: Sequence[int]) -> np.ndarray:
    """A stored leaf for each seed of this run: (R, ...), or (...) if the run has one seed."""
    leaf = np.asarray(stored)
    of_places = leaf[places] if by_seed else np.stack([leaf] * len(places))
    return of_places if len(places) > 1 else of_places[0]


def _line(source: Path, which: str, iterations: set[int], part: Part) -> str:
    after = ", ".join(map(str, sorted(iterations)))
    left_out = named(part.whole).keys() - named(part.wanted).keys()
    anew = ["optimisers", "experience", "sampler", *sorted({".".join(n.split(".")[:2]) for n in left_out})]
    return (
        f"starts from the learner {which} of {source} (iteration {after}): its parameters and statistics; "
        f"new are {', '.join(anew)}"
    )


def into(inherited: Inherited, learner: Any) -> Any:
    """A learner's state with the inherited leaves in place of its own, on the same devices."""

    def replaced(path: Any, own: jax.Array) -> jax.Array:
        new = inherited.arrays.get(jax.tree_util.keystr(path, simple=True, separator="."))
        if new is None or not own.size:
            return own
        stored = new if jnp.issubdtype(own.dtype, jax.dtypes.prng_key) else new.astype(own.dtype)
        # a copy: the state's buffers are overwritten, which NumPy's must not be
        return jnp.copy(jax.device_put(checkpoint.rebuilt(jnp.asarray(stored), own), own.sharding))

    return jax.tree_util.tree_map_with_path(replaced, learner)
