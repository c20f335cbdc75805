"""Exports a policy as ONNX models, for computers without JAX: memory in and out as tensors.

    python -m roml_jax.export RUN --format onnx --out policy.zip

The models are made from the policy's own functions, as JAX traces them, so any agent of supported primitives
works. Only what the outputs need is converted, and what is known before the first call is computed here: a
choice between two values by a known condition is no part of a model, nor is the value that is not chosen.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax.extend import core
from onnx import helper

from roml_jax.deploy.acting import Memory, skipping
from roml_jax.deploy.onnx_graph import HANDLERS, Graph, Tensor, Value
from roml_jax.deploy.policy import Policy, signature
from roml_jax.errors import ConfigError
from roml_jax.run import files
from roml_jax.types import Array

FORMAT = "roml_jax policy 1, onnx"
OPSET, IR = 17, 8  # of 2022; later runtimes read them, too


class Missing(NamedTuple):
    """An argument that no model can have, and the line to raise where the function needs it."""

    line: str
    like: jax.ShapeDtypeStruct


_INNER = {  # primitives that hold a function, and the name of its parameter
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr", "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}  # fmt: skip


class _Scope:
    """A function's variables, converted when they are asked for."""

    def __init__(self, graph: Graph, closed: Any, arguments: Sequence[Callable[[], Value]]) -> None:
        jaxpr, consts = (closed.jaxpr, closed.consts) if hasattr(closed, "consts") else (closed, ())
        self._graph, self._arguments = graph, dict(zip(jaxpr.invars, arguments, strict=True))
        self._values: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        self._made_by = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
        self._inner: dict[int, _Scope] = {}
        self.outputs = jaxpr.outvars

    def get(self, atom: Any) -> Value:
        """The value of a variable or literal."""
        if isinstance(atom, core.Literal):
            return np.asarray(atom.val, atom.aval.dtype)
        if atom not in self._values:
            if not jax.dtypes.issubdtype(atom.aval.dtype, jax.dtypes.extended) and atom.aval.size == 0:
                return np.zeros(atom.aval.shape, atom.aval.dtype)
            if atom in self._arguments:
                self._values[atom] = self._arguments[atom]()
            else:
                self._convert(self._made_by[atom], atom)
        value = self._values[atom]
        if isinstance(value, Missing):
            raise ConfigError(value.line)
        return value

    def _convert(self, eqn: Any, wanted: Any) -> None:
        kind = eqn.primitive.name
        if kind in _INNER:
            if id(eqn) not in self._inner:
                later = [lambda atom=atom: self.get(atom) for atom in eqn.invars]
                self._inner[id(eqn)] = _Scope(self._graph, eqn.params[_INNER[kind]], later)
            inner = self._inner[id(eqn)]
            self._values[wanted] = inner.get(inner.outputs[eqn.outvars.index(wanted)])
            return
        if kind == "select_n":
            which = self.get(eqn.invars[0])
            if not isinstance(which, Tensor) and np.unique(which).size == 1:
                self._values[wanted] = self.get(eqn.invars[1 + int(np.ravel(which)[0])])
                return
        inputs = [self.get(atom) for atom in eqn.invars]
        if not any(isinstance(x, Tensor) for x in inputs):
            found = eqn.primitive.bind(*inputs, **eqn.params)
            outputs = found if eqn.primitive.multiple_results else [found]
        elif kind in HANDLERS:
            outputs = HANDLERS[kind](self._graph, eqn, inputs)
        else:
            raise ConfigError(f"no ONNX export: the policy computes {kind!r}, which is not converted")
        self._values.update(zip(eqn.outvars, outputs, strict=True))


def convert(
    function: Callable[..., Any],
    arguments: Sequence[tuple[str, jax.ShapeDtypeStruct]],
    outputs: Sequence[str],
    missing: Sequence[Missing] = (),
) -> onnx.ModelProto:
    """A function as a model.

    Args:
        function: of the ``arguments`` and the ``missing``; returns a flat sequence of arrays.
        arguments: names and shapes of the inputs; one with no numbers is no input.
        outputs: names of the outputs; one with no numbers is no output.
        missing: further arguments.

    Raises:
        ConfigError: for a primitive that has no conversion, or a missing argument that is needed; one line.
    """
    graph = Graph()
    closed = jax.make_jaxpr(function)(*(like for _, like in arguments), *(one.like for one in missing))
    inputs = [Tensor(name, like.shape, np.dtype(like.dtype)) for name, like in arguments]
    scope = _Scope(graph, closed, [lambda value=value: value for value in (*inputs, *missing)])
    made = []
    for name, atom in zip(outputs, scope.outputs, strict=True):
        if atom.aval.size:
            graph.nodes.append(helper.make_node("Identity", [graph.name(scope.get(atom))], [name]))
            made.append(Tensor(name, atom.aval.shape, np.dtype(atom.aval.dtype)))
    return _model(graph, [x for x in inputs if np.prod(x.shape)], made)


def _model(graph: Graph, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> onnx.ModelProto:
    def described(tensors: Sequence[Tensor]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(x.name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for x in tensors
        ]

    made = helper.make_graph(graph.nodes, "policy", described(inputs), described(outputs), graph.constants)
    model = helper.make_model(
        made, producer_name="roml_jax", ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def models(policy: Policy, robots: int = 1) -> dict[str, onnx.ModelProto]:
    """The models by name: begin, act and observe; arguments and errors are those of ``write``."""
    functions = skipping(policy.functions) if policy.check else policy.functions
    memory = jax.eval_shape(lambda: functions.begin(policy.parameters, jnp.zeros(robots, jnp.int32)))
    if jax.tree.leaves(memory.seen):
        raise ConfigError("no ONNX export: this agent adapts between episodes; use --format jax")
    named, tree = jax.tree_util.tree_flatten_with_path(memory._replace(key=()))
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in named]
    before = [(f"memory.{name}", leaf) for name, (_, leaf) in zip(names, named, strict=True)]
    after = [f"memory_out.{name}" for name in names]
    key = Missing("no ONNX export: this agent acts by chance; use --format jax", memory.key)

    def with_key(leaves: Sequence[Array], key: Array) -> Memory:
        return jax.tree.unflatten(tree, leaves)._replace(key=key)

    def flat(memory: Memory) -> list[Array]:
        without_key: Any = ()
        return jax.tree.leaves(memory._replace(key=without_key))

    def begin(key: Array) -> list[Array]:
        return flat(functions.begin(policy.parameters, jnp.zeros(robots, jnp.int32))._replace(key=key))

    def act(*arguments: Array) -> list[Array]:
        *leaves, obs, key = arguments
        action, after = functions.act(policy.parameters, with_key(leaves, key), obs)
        return [action, *flat(after)]

    def observe(*arguments: Array) -> list[Array]:
        *leaves, reward, obs, end, key = arguments
        valid = jnp.ones(robots, bool)
        return flat(functions.observe(policy.parameters, with_key(leaves, key), reward, obs, end, valid))

    float_type = memory.obs.dtype
    reward = ("reward", jax.ShapeDtypeStruct((robots,), float_type))
    obs = ("obs", jax.ShapeDtypeStruct((robots, policy.obs_size), float_type))
    end = ("end", jax.ShapeDtypeStruct((robots,), np.dtype(bool)))
    return {
        "begin": convert(begin, [], after, [key]),
        "act": convert(act, [*before, obs], ["action", *after], [key]),
        "observe": convert(observe, [*before, reward, obs, end], after, [key]),
    }


def _described(policy: Policy, made: dict[str, onnx.ModelProto], robots: int) -> dict[str, Any]:
    """``signature.json``: that of the JAX export, with the models' inputs and outputs by name."""

    def tensors(values: Any) -> dict[str, Any]:
        kind = helper.tensor_dtype_to_np_dtype
        return {
            x.name: {
                "shape": [d.dim_value for d in x.type.tensor_type.shape.dim],
                "dtype": str(kind(x.type.tensor_type.elem_type)),
            }
            for x in values
        }

    said = {name: value for name, value in signature(policy).items() if name not in ("platforms", "memory")}
    functions = {
        name: {"inputs": tensors(model.graph.input), "outputs": tensors(model.graph.output)}
        for name, model in made.items()
    }
    return {**said, "format": FORMAT, "opset": OPSET, "robots": robots, "functions": functions}


def write(policy: Policy, path: Path | str, robots: int = 1) -> Path:
    """Writes a policy as ONNX models to a new zip file.

    The file holds ``begin.onnx``, ``act.onnx`` and ``observe.onnx`` and ``signature.json``, which lists their
    inputs and outputs. The memory is their inputs ``memory.*`` and outputs ``memory_out.*``.

    Args:
        policy: of an agent that neither adapts between episodes nor acts by chance.
        path: of the file.
        robots: number of robots, which is fixed in the models.

    Raises:
        ConfigError: if the policy cannot be exported, or the file exists or cannot be written; one line.
    """
    made = models(policy, robots)
    with files.new(Path(path)) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(
            "signature.json", json.dumps(_described(policy, made, robots), indent=1, allow_nan=False)
        )
        for name, model in made.items():
            file.writestr(f"{name}.onnx", model.SerializeToString())
    return Path(path)
