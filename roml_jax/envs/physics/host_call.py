"""Calls of host functions from compiled programs, by name.

A program with a JAX callback contains a Python object, so it cannot be stored in the compile cache, and
every start compiles it again. A target of XLA's foreign function interface (FFI) is a name, which a cached
program finds again in the next process. The interface is in C (``jaxlib/include/xla/ffi/api/c_api.h``) and
needs no compiler: ``ctypes`` makes the function pointer.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from roml_jax.types import Array

HostFunction = Callable[..., None]
"""(out, *args): writes into ``out``; all are NumPy views of the program's memory."""

_API_VERSION = (0, 3)  # of jaxlib 0.10; later versions of jaxlib promise to support it
_METADATA, _EXECUTE, _INTERNAL = 1, 3, 13
_DTYPES = {4: np.dtype(np.int32), 11: np.dtype(np.float32), 12: np.dtype(np.float64)}


class _Struct(ctypes.Structure):
    """The first fields of every struct of the interface."""

    _fields_ = (("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p))


class _Buffer(_Struct):
    _fields_ = (
        ("dtype", ctypes.c_int), ("data", ctypes.c_void_p), ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    )  # fmt: skip


class _Buffers(_Struct):
    _fields_ = (
        ("size", ctypes.c_int64), ("types", ctypes.c_void_p),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    )  # fmt: skip


class _Version(_Struct):
    _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int))


class _ErrorArgs(_Struct):
    _fields_ = (("message", ctypes.c_char_p), ("code", ctypes.c_int))


class _Api(_Struct):
    _fields_ = (
        ("version", _Version), ("internal", ctypes.c_void_p),
        ("create_error", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_ErrorArgs))),
    )  # fmt: skip


class _Extension(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", ctypes.c_void_p),
        ("metadata", ctypes.c_void_p),
    )  # fmt: skip


class _Metadata(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_size_t), ("version", _Version), ("traits", ctypes.c_uint32),
        ("state_type_id", ctypes.c_int64),
    )  # fmt: skip


class _Frame(_Struct):
    _fields_ = (
        ("api", ctypes.POINTER(_Api)), ("context", ctypes.c_void_p), ("stage", ctypes.c_int),
        ("args", _Buffers), ("rets", _Buffers),
    )  # fmt: skip


_Handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Frame))


@functools.lru_cache(maxsize=256)
def _bytes(size: int) -> Any:
    return ctypes.c_char * size


def _view(buffer: _Buffer) -> np.ndarray:
    """A NumPy view of a buffer of the program."""
    shape, dtype = buffer.dims[: buffer.rank], _DTYPES[buffer.dtype]
    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return np.empty(shape, dtype)
    return np.ndarray(shape, dtype, _bytes(size).from_address(buffer.data))


def _views(buffers: _Buffers) -> list[np.ndarray]:
    return [_view(buffers.buffers[i].contents) for i in range(buffers.size)]


def _answer_metadata(frame: _Frame) -> bool:
    """If XLA requests metadata instead of a call, writes the interface version and returns True."""
    if not frame.extension:
        return False
    extension = ctypes.cast(frame.extension, ctypes.POINTER(_Extension)).contents
    if extension.type != _METADATA:
        return False
    metadata = ctypes.cast(extension.metadata, ctypes.POINTER(_Metadata)).contents
    metadata.version.major, metadata.version.minor = _API_VERSION
    metadata.traits, metadata.state_type_id = 0, 0
    return True


def _handler(function: HostFunction) -> Any:
    def handle(call: Any) -> int | None:
        frame = call.contents
        try:
            if not _answer_metadata(frame) and frame.stage == _EXECUTE:
                function(*_views(frame.rets), *_views(frame.args))
        except BaseException as error:  # ctypes would print the error and continue
            message = f"{type(error).__name__}: {error}".encode()
            args = _ErrorArgs(ctypes.sizeof(_ErrorArgs), None, message, _INTERNAL)
            return frame.api.contents.create_error(ctypes.byref(args))
        return None

    return _Handler(handle)


_TARGETS: dict[str, tuple[HostFunction, Any]] = {}
"""Functions and their C pointers, which are never removed; neither are targets from XLA's own table."""


def call(name: str, make: Callable[[], HostFunction], output: jax.ShapeDtypeStruct, *args: Array) -> Array:
    """Calls a function on the host, once for a whole vmapped batch.

    On a CPU the function's arguments are views of the program's memory; other backends use the slower
    ``pure_callback``.

    Args:
        name: must identify everything that the function depends on, since cached programs of later processes
            call it by this name.
        make: returns the function; called once per process and name. The leading axes of the function's
            arguments are those of the batch.
        output: shape and dtype for one example.
        args: of one example.
    """
    if name not in _TARGETS:
        function = make()
        handler = _handler(function)
        address = ctypes.cast(handler, ctypes.c_void_p).value
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(address), platform="cpu")
        _TARGETS[name] = function, handler
    if jax.default_backend() != "cpu":
        return _through_jax(_TARGETS[name][0], output, *args)
    return jax.ffi.ffi_call(name, output, vmap_method="broadcast_all")(*args)


def _through_jax(function: HostFunction, output: jax.ShapeDtypeStruct, *args: Array) -> Array:
    def returning(*args: Any) -> np.ndarray:
        args = tuple(np.asarray(arg) for arg in args)
        out = np.empty((*args[0].shape[: args[0].ndim - rank], *output.shape), output.dtype)
        function(out, *args)
        return out

    rank = jnp.ndim(args[0])
    return jax.pure_callback(returning, output, *args, vmap_method="broadcast_all")
