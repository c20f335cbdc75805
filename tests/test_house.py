"""How the package is built: rooms, what may import what, and what importing it costs."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import roml_jax

PACKAGE = Path(__file__).parent.parent / "roml_jax"
# A module imports what stands in its own line or above it, never below.
ORDER = (
    ("_version", "console", "errors", "garbage", "quickly", "quiet", "types"),
    ("checks", "registry", "stacked", "users_code"),
    ("risk", "proposals"),
    ("tasks",),
    ("cem_state", "cem"),
    ("samplers", "networks", "envs"),
    ("agents",),
    ("rollout",),
    ("guard", "held_out", "meta"),
    ("config",),
    ("experiment",),
    ("run",),
    ("deploy",),
    ("evaluate", "api"),
    ("report", "render", "export", "sim2sim", "train"),
    ("demo",),
    ("testing", "__main__", "__init__"),
)
RANK = {name: rank for rank, line in enumerate(ORDER) for name in line}
# Rooms that know nothing of each other although one stands above the other.
WALLS = {("agents", "envs"), ("agents", "samplers"), ("samplers", "agents"), ("envs", "agents")}
# Commands that stand in a room of lower things.
COMMANDS = {"envs/__main__.py": "train"}
# Imports inside a function, of a room above: what is imported when it is used is no circle.
LATE = {("deploy/policy.py", "experiment")}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py"))


def room(path):
    relative = path.relative_to(PACKAGE)
    return COMMANDS.get(str(relative), relative.parts[0].removesuffix(".py"))


def imported(path):
    """(room, full name) of every import of this package in a module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "roml_jax":
            assert node.level == 0
            for alias in node.names:
                full = f"{node.module}.{alias.name}".split(".")
                yield full[1], ".".join(full[:3])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.split(".")[0] != "roml_jax", f"{path} imports the package itself"


def test_every_module_has_its_place_in_the_order():
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.glob("*.py")}
    rooms |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_upward(path):
    own = room(path)
    for other, full in imported(path):
        if own == "__init__" or (str(path.relative_to(PACKAGE)), other) in LATE:
            continue
        assert RANK[other] <= RANK[own], f"{path.relative_to(PACKAGE)} imports {full}, which stands above it"
        assert (own, other) not in WALLS, f"{path.relative_to(PACKAGE)} imports {full} through a wall"


def test_no_modules_import_each_other_in_a_circle():
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in modules()}
    graph = {}
    for name, path in names.items():
        froms = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        full = [(node.module, alias.name) for node in froms for alias in node.names if node.module]
        graph[name] = {
            f"{module}.{part}" if f"{module}.{part}" in names else module
            for module, part in full
            if {module, f"{module}.{part}"} & names.keys()
        }
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_type_checkers_see_the_lazy_names_where_they_are():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and node.test.id == "TYPE_CHECKING")
    seen = {one.asname or one.name: (node.module, one.name) for node in block.body for one in node.names}
    lazy = {name: ("roml_jax", name) for name in roml_jax._MODULES} | roml_jax._NAMES
    # a command's module that can be called, which no type checker knows
    assert seen == lazy | {"train": ("roml_jax.api", "train")}


def test_files_and_functions_fit_a_reader():
    long = []
    for path in modules():
        text = path.read_text()
        if text.count("\n") > 400:
            long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 60:
                long.append(f"{path.name}: {node.name}")
    assert not long


LOADS = """
import sys, time
import jax
began = time.perf_counter()
import roml_jax
from roml_jax import cem, samplers, tasks
print(time.perf_counter() - began)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""
HEAVY = {
    "mujoco",
    "brax",
    "flax",
    "tyro",
    "tensorflow_probability",
    "distrax",
    "orbax",
    "optax",
    "matplotlib",
}


def test_importing_the_cross_entropy_method_loads_jax_and_nothing_else():
    run = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=True)
    seconds, names = run.stdout.strip().splitlines()
    assert not HEAVY & set(names.split())
    assert float(seconds) < 0.5
