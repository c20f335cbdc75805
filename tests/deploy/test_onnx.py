"""ONNX models act as the policy does, in onnxruntime."""

import dataclasses
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from played import N, Played

from roml_jax.config.presets import ConfigError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from benchmarks import deploy  # noqa: E402 - needs onnxruntime
from roml_jax.deploy import onnx_policy  # noqa: E402 - needs onnx

AGENTS = {
    "varibad": {},
    "rl2": {"protocol.boundary": "reset", "ppo.minibatches": 4},
    "multitask": {"protocol.action_map": "tanh", "protocol.end_flag": False},
}


class Exported:
    """An exported policy as a robot's computer runs it: onnxruntime and NumPy."""

    def __init__(self, path):
        with zipfile.ZipFile(path) as file:
            self.signature = json.loads(file.read("signature.json"))
            self._run = {
                name: onnxruntime.InferenceSession(
                    file.read(f"{name}.onnx"), providers=["CPUExecutionProvider"]
                )
                for name in ("begin", "act", "observe")
            }

    def call(self, name, memory, **given):
        session = self._run[name]
        named = {f"memory.{key}": value for key, value in memory.items()} | given
        wanted = {x.name for x in session.get_inputs()}
        outputs = session.run(None, {name: value for name, value in named.items() if name in wanted})
        by_name = dict(zip((x.name for x in session.get_outputs()), outputs, strict=True))
        after = {
            key.removeprefix("memory_out."): x for key, x in by_name.items() if key.startswith("memory_out.")
        }
        return by_name.get("action"), after


@pytest.fixture(scope="module", params=AGENTS)
def played(request):
    # smaller weights than elsewhere: those would amplify the rounding of either side
    return Played(
        "cheetah_mass", agent=request.param, spread=0.1, **{"protocol.horizon": 50}, **AGENTS[request.param]
    )


def test_actions_are_the_policys_over_whole_episodes(played, tmp_path):
    """Both episodes with the boundary between them, three robots."""
    exported = Exported(onnx_policy.write(played.policy, tmp_path / "policy.zip", robots=N))
    memory = exported.call("begin", {})[1]
    ours = played.policy.begin(N)
    acted = []
    for _, _, obs, _, reward, after, _ in played.steps():
        wanted, ours = played.policy.act(ours, obs)
        ours = played.policy.observe(ours, reward, after)
        action, memory = exported.call("act", memory, obs=obs)
        np.testing.assert_allclose(action, wanted, rtol=1e-5, atol=1e-5)
        memory = exported.call("observe", memory, reward=reward, obs=after, end=np.zeros(N, bool))[1]
        acted.append(action)
    assert np.std(acted) > 1e-3
    assert exported.signature["robots"] == N
    named = jax.tree_util.tree_flatten_with_path(ours._replace(key=()))[0]
    for path, leaf in named:
        if leaf.size:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            np.testing.assert_allclose(memory[name], leaf, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def discrete():
    return Played("khazad_dum", **{"protocol.episodes": 2}).policy


def test_a_discrete_policy_and_its_early_ends(discrete, tmp_path):
    """Integers, random observations, and the memory of a robot whose episode ends before the others'."""
    exported, random = Exported(onnx_policy.write(discrete, tmp_path / "p.zip", 2)), np.random.default_rng(0)
    memory, ours = exported.call("begin", {})[1], discrete.begin(2)
    chosen = set()
    for step in range(60):
        obs = random.integers(0, 2, (2, 99)).astype(np.float32)
        action, memory = exported.call("act", memory, obs=obs)
        wanted, ours = discrete.act(ours, obs)
        assert action.dtype == np.int32
        np.testing.assert_array_equal(action, wanted)
        reward, end = random.normal(size=2).astype(np.float32), np.array([step == 7, step % 20 == 3])
        memory = exported.call("observe", memory, reward=reward, obs=obs, end=end)[1]
        ours = discrete.observe(ours, reward, obs, end=end)
        for name in ("step", "episode", "ended"):
            np.testing.assert_array_equal(memory[name], getattr(ours, name))
        chosen.update(action.tolist())
    assert len(chosen) > 1


def test_what_is_not_finite_is_skipped(discrete, tmp_path):
    """The robot with a NaN gets -1 and keeps its memory, as in the export for JAX; unless checks are off."""
    obs = np.zeros((2, 99), np.float32)
    obs[0, 5] = np.nan
    exported = Exported(onnx_policy.write(discrete, tmp_path / "checked.zip", 2))
    memory = exported.call("begin", {})[1]
    action, after = exported.call("act", memory, obs=obs)
    assert action[0] == -1
    assert action[1] >= 0
    np.testing.assert_array_equal(after["obs"][0], memory["obs"][0])
    after = exported.call("observe", after, reward=np.zeros(2, np.float32), obs=obs, end=np.zeros(2, bool))[1]
    np.testing.assert_array_equal(after["belief.hidden"][0], memory["belief.hidden"][0])
    assert np.abs(after["belief.hidden"][1]).max() > 0
    loose = dataclasses.replace(discrete, check=False)
    exported = Exported(onnx_policy.write(loose, tmp_path / "loose.zip", 2))
    assert exported.call("act", memory, obs=obs)[0][0] >= 0
    assert "not checked" in exported.signature["not_finite"]


def test_the_signature_names_inputs_and_outputs(discrete, tmp_path):
    exported = Exported(onnx_policy.write(discrete, tmp_path / "policy.zip"))
    act = exported.signature["functions"]["act"]
    assert act["inputs"]["obs"] == {"shape": [1, 99], "dtype": "float32"}
    assert act["outputs"]["action"] == {"shape": [1], "dtype": "int32"}
    assert act["inputs"]["memory.belief.hidden"] == act["outputs"]["memory_out.belief.hidden"]
    assert not [name for name in act["inputs"] if "key" in name]
    with pytest.raises(ConfigError, match="exists; nothing is overwritten"):
        onnx_policy.write(discrete, tmp_path / "policy.zip")


@pytest.mark.parametrize(
    ("agent", "said"),
    [("maml", "no ONNX export: this agent adapts between episodes; use --format jax")],
)
def test_an_agent_that_a_graph_cannot_hold_is_one_line(agent, said, tmp_path):
    policy = Played("probe_observation", agent=agent).policy
    with pytest.raises(ConfigError) as error:
        onnx_policy.write(policy, tmp_path / "policy.zip")
    assert str(error.value) == said
    assert not list(tmp_path.iterdir())


def test_what_a_graph_cannot_compute_is_one_line(discrete, tmp_path):
    def by_chance(function):
        def act(parameters, memory, obs):
            action, after = function(parameters, memory, obs)
            return jnp.where(memory.key[:, 0] % 2 == 0, action, 0), after

        return act

    drawn = discrete.functions._replace(act=by_chance(discrete.functions.act))
    with pytest.raises(ConfigError, match=r"^no ONNX export: this agent acts by chance; use --format jax$"):
        onnx_policy.write(dataclasses.replace(discrete, functions=drawn), tmp_path / "policy.zip")
    like = jax.ShapeDtypeStruct((3,), np.float32)
    with pytest.raises(ConfigError, match=r"^no ONNX export: the policy computes 'sort', which is not conv"):
        onnx_policy.convert(lambda x: [jnp.sort(x)], [("x", like)], ["y"])


PIECES = {
    "reductions": lambda x, y: [x.sum(0), x.max(1), (x > 0).all(1), (x > 9).any(0), x.argmax(1)],
    "arithmetic": lambda x, y: [
        x / (2 + jnp.abs(y)),
        x**3,
        jnp.sqrt(jnp.abs(x)),
        jax.lax.rsqrt(1 + x * x),
        -x,
    ],
    "choices": lambda x, y: [jnp.where(x > 0, x, 2.0), jnp.where(x > 0, y > 0, x < -1), jnp.clip(x, -1, 0.5)],
    "comparisons": lambda x, y: [x != y, x <= 0, x >= y, ~(x < y), jnp.isfinite(x / jnp.maximum(y, 0))],
    "shapes": lambda x, y: [x.T @ y, jnp.concatenate([x, y[:, ::2]], 1), x[1:, None], jnp.tile(x[0], (2, 1))],
    "products": lambda x, y: [
        jnp.einsum("ij,kj->ik", x, y),
        jnp.tensordot(x, np.ones((3, 2, 2), np.float32), 1),
    ],
    "functions": lambda x, y: [
        jax.nn.relu(x),
        jax.nn.sigmoid(x),
        jnp.tanh(x),
        jax.nn.softplus(x),
        jnp.exp(x),
    ],
    "splits": lambda x, y: jnp.split(x, [1, 2], axis=1),
}


@pytest.mark.parametrize("piece", PIECES)
def test_primitives_are_jaxs(piece):
    """Each conversion alone, in an order that any node of it would show."""
    function, random = PIECES[piece], np.random.default_rng(0)
    x, y = (random.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    wanted = jax.jit(function)(x, y)
    names = [f"out{i}" for i in range(len(wanted))]
    like = jax.ShapeDtypeStruct((4, 3), np.float32)
    model = onnx_policy.convert(function, [("x", like), ("y", like)], names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {x.name for x in session.get_inputs()}
    got = session.run(names, {name: value for name, value in {"x": x, "y": y}.items() if name in given})
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_benchmark_times_every_way_to_run_a_policy():
    rows = deploy.measure("probe_memory", "multitask", 2, rounds=1, steps=2)
    assert len({row["way"] for row in rows}) == 5
    assert all(0 < row["ms"]["minimum"] <= row["ms"]["median"] <= row["ms"]["p99"] for row in rows)
