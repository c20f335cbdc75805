"""The benchmarks run: at the smallest size, so that a figure can be had when one is wanted."""

import json

from benchmarks import throughput


def test_throughput_times_every_layer(tmp_path):
    options = {
        "num_tasks": 8,
        "frames": 1280,
        "chunk": 2,
        "vae.buffer_trajectories": 32,
        "learning_starts": 0,
    }
    result = json.loads(json.dumps(throughput.measure("probe_memory", 1, options)))
    assert set(result["layers"]) == {"env", "rollout", "ppo", "vae", "cem", "whole iteration"}
    assert all(row["frames_per_s"] > 0 and row["run_ms"] > 0 for row in result["layers"].values())
    assert result["frames_per_iteration"] == 8 * 2 * 8
    assert result["peak_memory_gib"] > 0
    assert throughput.table(result).row_count == 6
