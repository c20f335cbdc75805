"""Errors in a user's own functions: one line with the file and line, and checks of what they return.

A user's code is any file outside of this package, the installed packages and Python's library, and every
module that ``--import`` names. An error is the user's in two cases: if the innermost frame that is the user's
or this package's is the user's, or if this package raised it on purpose (a line ``raise ...``). All other
errors are faults of this package and keep their traceback.

Set ``ROML_JAX_TRACEBACK=1`` to see the traceback of every error.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from roml_jax.errors import ConfigError

ORIGINS = "imports.json"
"""The file of a run's folder that says where imported modules were, by name; only messages use it."""
TRACEBACK = "ROML_JAX_TRACEBACK"
_PACKAGE = str(Path(__file__).parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_named: set[str] = set()  # files and folders of the modules that --import names

_HINTS = (
    (jax.errors.TracerBoolConversionError, "a Python if, and, or, not on an array: use jnp.where, &, |, ~"),
    (jax.errors.TracerArrayConversionError, "a NumPy function or conversion of an array: use jax.numpy"),
    (jax.errors.TracerIntegerConversionError, "an array as a Python index or size"),
    (jax.errors.ConcretizationTypeError, "float(), int() or bool() of an array: leave it an array"),
)


class UsersError(ConfigError):
    """An error in a user's function; the message is one line, the original error is its ``__cause__``."""


def named(module: str) -> None:
    """Marks an imported module as the user's, also if it is in an installed package."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file:
        path = Path(file)
        _named.add(str(path.parent) + os.sep if path.name == "__init__.py" else str(path))


def origins(modules: Iterable[str]) -> dict[str, str]:
    """The files of imported modules, by name."""
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return {name: str(Path(file).resolve()) for name, file in files.items() if file}


def check_findable(modules: Iterable[str], run: Path) -> None:
    """Checks that the modules that a run imported can be imported here; imports nothing.

    Nothing is put on the import path, and no module in the run's own folder is imported: a folder from
    someone else must not run code.

    Args:
        modules: names of modules.
        run: the run's folder. Its file ``ORIGINS``, if there is one, says where the modules were.

    Raises:
        ConfigError: one line.
    """
    for name in modules:
        if name in sys.modules:
            continue
        spec = importlib.util.find_spec(name.split(".")[0])
        places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
        if any(place and run.resolve() in Path(place).resolve().parents for place in places):
            raise ConfigError(
                f"{run}: the module {name} is in the run's folder, from where nothing is imported; if you "
                "trust it, move it to another folder and put that on PYTHONPATH"
            )
        if spec is None:
            raise ConfigError(f"{run} needs the module {name}{_was_in(name, run)}")


def _was_in(name: str, run: Path) -> str:
    """Text that says where a run's module was and what to do."""
    try:
        file = Path(json.loads((run / ORIGINS).read_text())[name])
    except (OSError, ValueError, KeyError, TypeError):
        return ", which is not on the import path: put its folder on PYTHONPATH"
    folder = file.parents[name.count(".") + (file.name == "__init__.py")]
    return (
        f", which was imported from {file}: if you trust it, run this in {folder}, or put that folder on "
        "PYTHONPATH"
    )


def is_ours(named: type | Callable[..., Any]) -> bool:
    """Whether a class or a constructor is the package's own, and not one of a user's module."""
    return named.__module__.split(".")[0] == "roml_jax"


def _is_ours(file: str) -> bool:
    return file.startswith(_PACKAGE + os.sep)


def _is_users(file: str) -> bool:
    if any(file.startswith(name) for name in _named):
        return True
    return os.path.isabs(file) and not _is_ours(file) and not file.startswith(_LIBRARIES)


def _short(file: str) -> str:
    """A path as short as it can be said: relative to the current folder where it lies in it."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


def one_line(error: BaseException) -> str:
    """The kind and the message of an error in one line of at most 300 characters, with a hint for JAX's."""
    for kind, hint in _HINTS:
        if isinstance(error, kind):
            return f"{type(error).__name__}: {hint}"
    message = str(error).strip().split("\n\n")[0]
    text = " ".join(message.split())[:300]
    speaks = type(error) is ValueError or isinstance(error, ConfigError)
    return text if speaks and text else f"{type(error).__name__}: {text}".removesuffix(": ")


def _users_frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]


def explained(error: BaseException) -> str | None:
    """One line for an error of the user's, with the file and line of the user's code.

    Returns:
        None for an error that is not the user's.
    """
    frames = traceback.extract_tb(error.__traceback__)
    users = _users_frames(error)
    relevant = [frame for frame in frames if _is_ours(frame.filename) or _is_users(frame.filename)]
    if not relevant:
        return None
    last = relevant[-1]
    on_purpose = isinstance(error, ValueError) and frames[-1] is last and _raises(last)
    if not (_is_users(last.filename) or on_purpose):
        return None
    if not users:
        return one_line(error)
    at = users[-1]
    inside = "" if at.name.startswith("<module") else f", in {at.name}"
    return f"{_short(at.filename)}:{at.lineno}{inside}: {one_line(error)}"


def _raises(frame: traceback.FrameSummary) -> bool:
    return linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise ")


@contextlib.contextmanager
def in_one_line(*, inside: bool = False) -> Generator[None]:
    """Context for a command: an error of the user's becomes a ``UsersError``, which is one line.

    With ``inside``, only an error raised in the user's own frames does. The user's frames that called this
    package are not in its traceback yet.

    Raises:
        UsersError: from the original error.
    """
    try:
        yield
    except Exception as error:
        unsaid = is_ours(type(error)) or (inside and not _users_frames(error))
        line = None if unsaid else explained(error)
        if line is None or os.environ.get(TRACEBACK, "0") not in ("", "0"):
            raise
        raise UsersError(line) from error


def _place(function: Callable[..., Any]) -> str:
    """The name of a user's function and where it is defined."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__name__", type(function).__name__)
    return name if code is None else f"{name} ({_short(code.co_filename)}:{code.co_firstlineno})"


def call(what: str, function: Callable[..., Any], *arguments: Any, takes: str = "one argument") -> Any:
    """Calls a user's function.

    Args:
        what: its name in messages.
        function: any.
        arguments: what it is called with.
        takes: the arguments in messages.

    Raises:
        ValueError: if it is not a function of these arguments; one line.
    """
    if not callable(function):
        raise ValueError(f"{what} must be a function of {takes}, got {told(function)}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some built-in functions have none
        return function(*arguments)
    try:
        signature.bind(*arguments)
    except TypeError:
        raise ValueError(
            f"{what} must be a function of {takes}, got {_place(function)} with {signature}"
        ) from None
    return function(*arguments)


def terms(function: Callable[..., Any], motion: Any, env: str) -> dict[str, Any]:
    """The terms of a reward.

    Args:
        function: the reward.
        motion: its argument.
        env: name of the environment, for messages.

    Raises:
        ValueError: if it does not return named real scalars; one line with the place of the function.
    """
    value = call(f"the reward of {env!r}", function, motion)
    if not isinstance(value, Mapping):
        got = told(value)
    else:
        wrong = [name for name, term in value.items() if not _is_number(term, ())]
        if not wrong:
            return dict(value)
        got = f"{wrong[0]!r}: {told(value[wrong[0]])}"
    raise ValueError(
        f"the reward of {env!r} must be a dict of scalars by name, got {got}, from {_place(function)}"
    )


def flag(function: Callable[..., Any], view: Any, env: str) -> Any:
    """What ``terminate`` returns, as a bool ().

    Raises:
        ValueError: if it is not a single bool; one line with the place of the function.
    """
    value = call(f"terminate of {env!r}", function, view)
    if _is_number(value, ()) and jnp.result_type(value) == jnp.bool_:
        return value
    raise ValueError(
        f"terminate of {env!r} must return one bool (), such as view.qpos[0] > 1, got {told(value)}, "
        f"from {_place(function)}"
    )


def part(name: str, function: Callable[..., Any], view: Any) -> jax.Array:
    """A part of the observation as a vector.

    Raises:
        ValueError: if it is no array of real numbers; one line with the place of the function.
    """
    value = call(f"the observation's part {name!r}", function, view)
    if _is_number(value):
        return jnp.ravel(value)
    raise ValueError(
        f"the observation's part {name!r} must be an array of real numbers, got {told(value)}, "
        f"from {_place(function)}"
    )


def _is_number(value: Any, shape: tuple[int, ...] | None = None) -> bool:
    """Whether a value is an array of real numbers, of the given shape if there is one."""
    try:
        return jnp.result_type(value).kind in "biuf" and shape in (None, jnp.shape(value))
    except (TypeError, ValueError):
        return False


def told(value: Any) -> str:
    """A value's type, and its dtype and shape if it is an array."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    length = f" of {len(value)}" if isinstance(value, Sequence) and not isinstance(value, str) else ""
    return f"a {type(value).__name__}{length}"
