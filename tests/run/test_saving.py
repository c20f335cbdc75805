"""What must not be lost: folders that begin together, checkpoints in a power cut, runs that are read."""

import os
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from small_runs import trained

from roml_jax import agents, config, experiment
from roml_jax.config import schema, values
from roml_jax.errors import ConfigError
from roml_jax.registry import options_class
from roml_jax.run import checkpoint, files, folder, loop, memory, saved


def test_runs_that_begin_in_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    """With their own options, and without a race between the look and the making."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folder.time, "strftime", lambda _: "now")
    barrier, made = threading.Barrier(8), {}

    def begin(seed):
        barrier.wait()
        made[seed] = folder.make(None, "cart", {"seeds": [seed]})

    threads = [threading.Thread(target=begin, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made.values())) == 8
    for seed, path in made.items():
        assert f"- {seed}" in (path / "config.yaml").read_text()


def test_a_checkpoint_is_on_the_disk_before_the_one_before_it_is_deleted(tmp_path, monkeypatch):
    events = []
    fsync, rmtree = os.fsync, shutil.rmtree

    def synced(handle):
        events.append(("sync", os.readlink(f"/proc/self/fd/{handle}")))
        fsync(handle)

    def removed(path, *more, **options):
        events.append(("remove", str(path)))
        rmtree(path, *more, **options)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", removed)
    trained(tmp_path / "run", "--checkpoint-minutes", "0.0001", "--seeds", "5")
    gone = [i for i, (what, path) in enumerate(events) if what == "remove" and Path(path).name.isdecimal()]
    assert gone, "the run is to have written more than one checkpoint"
    before = {path for what, path in events[: gone[0]] if what == "sync"}
    assert any(path.endswith("about/metadata") for path in before)
    assert any(Path(path).name == "checkpoint" for path in before)


def test_a_run_that_replaces_its_checkpoint_meanwhile_is_read(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", "--seeds", "1", "2")
    read = checkpoint.about

    def late(path):
        if path.exists() and path.name == "15":
            path.rename(path.with_name("16"))  # the run has gone on
            raise checkpoint.CheckpointError("gone")
        return read(path)

    monkeypatch.setattr(checkpoint, "about", late)
    assert saved.load(run).iterations.shape == (2,)


def test_devices_of_a_cpu_share_its_memory(monkeypatch):
    """Eight seeds on a core each do not have eight memories."""
    made = config.make("probe_memory", seeds=range(8), num_tasks=8)
    parts = experiment.make(made)
    shapes = jax.eval_shape(parts.train.init, *config.seed_plan.leaves(made.plan))
    mesh = SimpleNamespace(shape={"seed": 8, "task": 1})
    on_mesh = parts._replace(placement=SimpleNamespace(mesh=mesh))
    needed = memory.size_of(shapes)
    monkeypatch.setattr(memory, "available", lambda: 0.6 * needed)
    with pytest.raises(ConfigError, match="but"):
        loop._check_memory(made, on_mesh, shapes)
    monkeypatch.setattr(memory, "available", lambda: 2.0 * needed)
    loop._check_memory(made, on_mesh, shapes)


@dataclass(frozen=True)
class Hot:
    alpha: float = 0.2  # a temperature


def test_an_option_of_an_agent_cannot_have_the_name_of_one_of_the_run():
    """In a run's files, one name would stand for both."""
    with pytest.raises(ConfigError, match="agent 'hot' has an option 'alpha', which every run has"):
        schema._refuse_taken("hot", Hot)
    for name in agents.names():
        schema._refuse_taken(name, options_class(agents.get(name)))


def test_whole_numbers_may_be_numpys_and_seeds_have_32_bits():
    assert values.convert(np.int64(3), int, "x") == 3
    assert config.make("probe_memory", seeds=np.arange(3)).seeds == (0, 1, 2)
    with pytest.raises(ConfigError, match=r"eval\.seed must be between 0 and 2\^32 - 1"):
        config.make("probe_memory", **{"eval.seed": 2**32})


def test_a_files_modules_stay_beside_those_of_the_command_line(tmp_path):
    """A run needs both: the file's environment and the command line's sampler."""
    (tmp_path / "options.yaml").write_text("imports: [examples.own_robot]\nenv: own_robot\n")
    got = config.parse(["--config", str(tmp_path / "options.yaml"), "--import", "examples.own_agent"])
    assert got.imports == ("examples.own_robot", "examples.own_agent")
