"""ONNX graphs: their nodes, and JAX's primitives as nodes. Shapes are static."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from roml_jax.errors import ConfigError


class Tensor(NamedTuple):
    """A value that is known only when the graph runs: its name in the graph, shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


Value = Any
"""A ``Tensor``, or an array that is known before the graph runs."""


class Graph:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[bytes, str] = {}
        self._count = 0

    def fresh(self) -> str:
        """A name that nothing else has."""
        self._count += 1
        return f"v{self._count}"

    def name(self, value: Value) -> str:
        """The name of a value; one that is known becomes a constant of the graph, once."""
        if isinstance(value, Tensor):
            return value.name
        array = np.ascontiguousarray(value)
        key = repr((array.shape, array.dtype)).encode() + array.tobytes()
        if key not in self._known:
            self._known[key] = self.fresh()
            self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), self._known[key]))
        return self._known[key]

    def add(
        self, op: str, inputs: Sequence[Value], shape: Sequence[int], dtype: Any, **options: Any
    ) -> Tensor:
        """Adds a node with one output."""
        out = Tensor(self.fresh(), tuple(shape), np.dtype(dtype))
        self.nodes.append(helper.make_node(op, [self.name(x) for x in inputs], [out.name], **options))
        return out

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """The value in another shape."""
        if not isinstance(value, Tensor):
            return np.reshape(value, shape)
        if -1 in shape:
            shape = np.broadcast_to(0, value.shape).reshape(shape).shape
        if value.shape == tuple(shape):
            return value
        return self.add("Reshape", [value, np.array(shape, np.int64)], shape, value.dtype)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """The value with its axes in another order."""
        if not isinstance(value, Tensor):
            return np.transpose(value, order)
        if tuple(order) == tuple(range(len(order))):
            return value
        shape = [value.shape[axis] for axis in order]
        return self.add("Transpose", [value], shape, value.dtype, perm=list(order))

    def cast(self, value: Tensor, dtype: Any) -> Tensor:
        """The value in another type."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", [value], value.shape, dtype, to=kind)


Handler = Callable[[Graph, Any, Sequence[Value]], list[Value]]
"""(graph, equation, inputs, of which one at least is a ``Tensor``) -> outputs."""


def _out(eqn: Any, place: int = 0) -> tuple[tuple[int, ...], Any]:
    """Shape and type of an equation's output."""
    aval = eqn.outvars[place].aval
    return aval.shape, aval.dtype


def _node(op: str, **options: Any) -> Handler:
    """A primitive that is one node."""

    def handle(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
        return [graph.add(op, inputs, *_out(eqn), **options)]

    return handle


def _same(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    del graph, eqn
    return list(inputs)


def _reshape(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    return [graph.reshape(inputs[0], eqn.outvars[0].aval.shape)]


def _transpose(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    return [graph.transpose(inputs[0], eqn.params["permutation"])]


def _broadcast(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    shape, dtype = _out(eqn)
    aligned = [1] * len(shape)
    for axis, place in enumerate(eqn.params["broadcast_dimensions"]):
        aligned[place] = inputs[0].shape[axis]
    value = graph.reshape(inputs[0], aligned)
    if tuple(aligned) == tuple(shape):
        return [value]
    return [graph.add("Expand", [value, np.array(shape, np.int64)], shape, dtype)]


def _concatenate(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    parts = [x for x in inputs if np.prod(x.shape)]
    return [graph.add("Concat", parts, *_out(eqn), axis=eqn.params["dimension"])]


def _slice(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    starts, ends = (np.array(eqn.params[name], np.int64) for name in ("start_indices", "limit_indices"))
    axes, strides = np.arange(len(starts)), eqn.params["strides"] or [1] * len(starts)
    return [graph.add("Slice", [inputs[0], starts, ends, axes, np.array(strides, np.int64)], *_out(eqn))]


def _split(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    axis, begin, outputs = eqn.params["axis"], 0, []
    for place, size in enumerate(eqn.params["sizes"]):
        bounds = (np.array([x], np.int64) for x in (begin, begin + size, axis))
        outputs.append(graph.add("Slice", [inputs[0], *bounds], *_out(eqn, place)))
        begin += size
    return outputs


def _convert_type(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    return [graph.cast(inputs[0], eqn.params["new_dtype"])]


def _select(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    which, *cases = inputs
    shape, dtype = _out(eqn)
    if len(cases) != 2 or which.dtype.kind != "b":
        raise ConfigError("no ONNX export: the policy chooses between more than two values")
    if len(which.shape) < len(shape):
        which = graph.reshape(which, (1,) * len(shape))
    if dtype.kind != "b":
        return [graph.add("Where", [which, cases[1], cases[0]], shape, dtype)]
    # a runtime need not have Where for bool
    chosen = graph.add("And", [which, cases[1]], shape, bool)
    other = graph.add("And", [graph.add("Not", [which], which.shape, bool), cases[0]], shape, bool)
    return [graph.add("Or", [chosen, other], shape, bool)]


def _not_equal(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    equal = graph.add("Equal", inputs, *_out(eqn))
    return [graph.add("Not", [equal], *_out(eqn))]


def _is_finite(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    infinite, missing = (graph.add(op, inputs, *_out(eqn)) for op in ("IsInf", "IsNaN"))
    return [graph.add("Not", [graph.add("Or", [infinite, missing], *_out(eqn))], *_out(eqn))]


def _integer_pow(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    shape, dtype = _out(eqn)
    return [graph.add("Pow", [inputs[0], np.array(eqn.params["y"], dtype)], shape, dtype)]


def _square(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    return [graph.add("Mul", [inputs[0], inputs[0]], *_out(eqn))]


def _rsqrt(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    return [graph.add("Reciprocal", [graph.add("Sqrt", inputs, *_out(eqn))], *_out(eqn))]


def _log1p(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    shape, dtype = _out(eqn)
    return [graph.add("Log", [graph.add("Add", [inputs[0], np.ones((), dtype)], shape, dtype)], shape, dtype)]


def _tile(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    return [graph.add("Tile", [inputs[0], np.array(eqn.params["reps"], np.int64)], *_out(eqn))]


def _clamp(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    low, value, high = inputs
    return [graph.add("Min", [graph.add("Max", [value, low], *_out(eqn)), high], *_out(eqn))]


def _arg_max(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    shape, dtype = _out(eqn)
    (axis,) = eqn.params["axes"]
    found = graph.add("ArgMax", inputs, shape, np.int64, axis=axis, keepdims=0)
    return [graph.cast(found, dtype)]


def _reduce(op: str) -> Handler:
    """A reduction over axes; those of bool run over 0 and 1."""

    def handle(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
        shape, dtype = _out(eqn)
        value, axes = inputs[0], eqn.params["axes"]
        logical = dtype.kind == "b"
        if logical:
            value = graph.cast(value, np.int32)
        kept = np.int32 if logical else dtype
        if op == "ReduceSum":  # whose axes are an input since opset 13
            done = graph.add(op, [value, np.array(axes, np.int64)], shape, kept, keepdims=0)
        else:
            done = graph.add(op, [value], shape, kept, axes=list(axes), keepdims=0)
        return [graph.cast(done, bool) if logical else done]

    return handle


def _dot(graph: Graph, eqn: Any, inputs: Sequence[Value]) -> list[Value]:
    """Products over one axis of each side, without batch axes: (..., K) times (K, ...)."""
    ((of_left, of_right), batched) = eqn.params["dimension_numbers"]
    if any(batched) or len(of_left) != 1:
        raise ConfigError("no ONNX export: the policy has a product of arrays over several axes")
    shape, dtype = _out(eqn)
    left, right = inputs
    left_order = [axis for axis in range(len(left.shape)) if axis != of_left[0]] + [of_left[0]]
    right_order = [of_right[0]] + [axis for axis in range(len(right.shape)) if axis != of_right[0]]
    left, right = graph.transpose(left, left_order), graph.transpose(right, right_order)
    size = left.shape[-1]
    rows, columns = graph.reshape(left, (-1, size)), graph.reshape(right, (size, -1))
    flat = (int(np.prod(left.shape[:-1])), int(np.prod(right.shape[1:])))
    return [graph.reshape(graph.add("MatMul", [rows, columns], flat, dtype), shape)]


HANDLERS: dict[str, Handler] = {
    "add": _node("Add"), "add_any": _node("Add"), "sub": _node("Sub"), "mul": _node("Mul"),
    "div": _node("Div"), "max": _node("Max"), "min": _node("Min"), "pow": _node("Pow"), "neg": _node("Neg"),
    "abs": _node("Abs"), "sign": _node("Sign"), "exp": _node("Exp"), "log": _node("Log"),
    "sqrt": _node("Sqrt"), "tanh": _node("Tanh"), "logistic": _node("Sigmoid"), "floor": _node("Floor"),
    "erf": _node("Erf"), "sin": _node("Sin"), "cos": _node("Cos"), "and": _node("And"), "or": _node("Or"),
    "not": _node("Not"), "eq": _node("Equal"), "lt": _node("Less"), "gt": _node("Greater"),
    "le": _node("LessOrEqual"), "ge": _node("GreaterOrEqual"), "ne": _not_equal, "is_finite": _is_finite,
    "integer_pow": _integer_pow, "square": _square, "rsqrt": _rsqrt, "log1p": _log1p,
    "tile": _tile, "clamp": _clamp, "select_n": _select,
    "convert_element_type": _convert_type, "stop_gradient": _same, "copy": _same, "copy_p": _same,
    "reshape": _reshape, "squeeze": _reshape, "expand_dims": _reshape, "transpose": _transpose,
    "broadcast_in_dim": _broadcast, "concatenate": _concatenate, "slice": _slice, "split": _split,
    "dot_general": _dot, "argmax": _arg_max, "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"), "reduce_min": _reduce("ReduceMin"),
    "reduce_and": _reduce("ReduceMin"), "reduce_or": _reduce("ReduceMax"),
}  # fmt: skip
"""By the primitive's name. Bitwise operations are those of bool."""
