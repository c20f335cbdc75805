"""Errors in a user's own functions: one line with the file and the line on the command line, exit code 2."""

import jax.numpy as jnp
import pytest
from cart import cart

from roml_jax import envs, train, users_code
from roml_jax.envs import __main__ as listing
from roml_jax.envs.why import why
from roml_jax.run import cli

# the user's module: what differs, and what the one line says (file:line is that of the mark #!)
WRONG = {
    "tuple": (
        "reward = lambda m: (m.after.qpos[0], 1.0)  #!",
        "the reward of 'robot' must be a dict of scalars by name, got a tuple of 2",
    ),
    "vector": (
        "reward = lambda m: {'up': m.after.qpos}  #!",
        "the reward of 'robot' must be a dict of scalars by name, got 'up': float32 of shape (1,)",
    ),
    "terminate_shape": (
        "terminate = lambda view: view.qpos > 1  #!",
        "terminate of 'robot' must return one bool (), such as view.qpos[0] > 1, got bool of shape (1,)",
    ),
    "terminate_number": (
        "terminate = lambda view: view.qpos[0]  #!",
        "terminate of 'robot' must return one bool (), such as view.qpos[0] > 1, got float32 of shape ()",
    ),
    "terminate_if": (
        "def terminate(view):\n    if view.qpos[0] > 1:  #!\n        return True\n    return False",
        ", in terminate: TracerBoolConversionError: a Python if, and, or, not on an array: use jnp.where",
    ),
    "float": (
        "def reward(m):\n    return {'up': float(m.after.qpos[0])}  #!",
        ", in reward: ConcretizationTypeError: float(), int() or bool() of an array: leave it an array",
    ),
    "numpy": (
        "import numpy\ndef reward(m):\n    return {'up': numpy.cos(m.after.qpos[0])}  #!",
        ", in reward: TracerArrayConversionError: a NumPy function or conversion of an array: use jax.numpy",
    ),
    "no_arguments": (
        "reward = lambda: {'up': 1.0}  #!",
        "the reward of 'robot' must be a function of one argument, got <lambda> (",
    ),
    "no_function": ("reward = 3.0", "the reward of 'robot' must be a function of one argument, got a float"),
    "part": (
        "observation = {'x': lambda view: (view.qpos, view.qvel[0])}  #!",
        "the observation's part 'x' must be an array of real numbers, got a tuple of 2, from <lambda> (",
    ),
    "misspelt": (
        "def reward(m):\n    return {'up': m.after.qpoz[0]}  #!",
        ", in reward: AttributeError: 'View' object has no attribute 'qpoz'",
    ),
    "body": ("rows = 'pol'", "the model has no body named 'pol'; did you mean 'pole'? (it has world, pole)"),
    "field": ("field = 'body_mas'", "a model has no field 'body_mas'; did you mean 'body_mass'?"),
    "range": ("low = 3.0", "task 'mass' needs a finite range with low < high, got [3.0, 2.0]"),
    "file": (
        "model = 'missing.xml'",
        "MuJoCo cannot read the model: ParseXML: Error opening file 'missing.xml'",
    ),
    "module": ("1 / 0  #!", "ZeroDivisionError: division by zero"),
}
MODULE = '''
import jax.numpy as jnp
from roml_jax import envs
model = """<mujoco><worldbody><body name="pole"><joint axis="0 1 0" name="hinge"/>
<geom type="capsule" fromto="0 0 0 0 0 0.6" size="0.03"/></body></worldbody>
<actuator><motor joint="hinge"/></actuator></mujoco>"""
field, rows, low, terminate, observation = "body_mass", "pole", 0.5, None, None
reward = lambda m: {"up": jnp.cos(m.after.qpos[0])}
WRONG
def bad():
    tasks = (envs.TaskDimension("mass", low, 2.0, (envs.Edit(field, rows=rows),)),)
    return envs.TaskEnv.from_mjcf(
        model, tasks=tasks, reward=reward, terminate=terminate, observation=observation, engine="mujoco"
    )
envs.register(__name__, bad)
'''


@pytest.fixture
def users(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def write(name, wrong):
        text = MODULE.replace("WRONG", wrong)
        (tmp_path / f"{name}.py").write_text(text)
        marked = [i for i, line in enumerate(text.splitlines(), 1) if "#!" in line]
        return marked[0] if marked else None

    return write


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_function_is_one_line_on_the_command_line(name, users, capsys):
    wrong, said = WRONG[name]
    module = f"{name}_bad"
    line = users(module, wrong)
    assert listing.main(["--import", module, module]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert f"{module}.py:{line}" in error if line else f"{module}.py:" in error


def test_training_tells_the_same_and_leaves_no_folder(users, tmp_path, capsys):
    line = users("train_bad", WRONG["float"][0])
    assert train.main(["--import", "train_bad", "--env", "train_bad", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"error: train_bad.py:{line}, in reward: Concretization")
    assert not (tmp_path / "run").exists()


def test_the_traceback_can_be_seen(users, monkeypatch):
    users("shown_bad", WRONG["misspelt"][0])
    monkeypatch.setenv(users_code.TRACEBACK, "1")
    with pytest.raises(AttributeError, match="qpoz"):
        listing.main(["--import", "shown_bad", "shown_bad"])


def test_in_python_the_error_is_one_line_and_keeps_its_cause():
    with pytest.raises(
        ValueError, match=r"^\S*test_users_code.py:\d+, in <lambda>: AttributeError: "
    ) as error:
        cart(reward=lambda motion: {"x": motion.after.qpoz})
    assert isinstance(error.value.__cause__, AttributeError)
    assert "\n" not in str(error.value)


def test_a_fault_of_this_package_is_never_hidden():
    """An error inside this package that it did not raise on purpose keeps its kind and its traceback."""
    with pytest.raises(IndexError):
        cli.run(lambda argv: envs.base.part_slices(lambda: {"x": 3}), [])


CHANGES = {
    "reward": (
        {"reward": lambda m: {"x": m.after.qpos[0], "y": jnp.log(-1.0 - m.after.qpos[0] ** 2)}},
        "the reward's term 'y' is nan in step 1",
    ),
    "infinite": (
        {"reward": lambda m: {"x": 1e39 * jnp.cos(m.after.qpos[0])}},
        "the reward's term 'x' is inf in step 1",
    ),
    "large": (
        {"reward": lambda m: {"x": 1e30 * jnp.cos(m.after.qpos[0])}},
        "rewards reach 1e+30 in one step: scale them down",
    ),
    "observation": (
        {"observation": {"z": lambda view: view.qpos / 0.0}},
        "the first observation is not finite (part 'z')",
    ),
    "sound": ({}, None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_reason_of_a_divergence_is_found(name):
    changed, said = CHANGES[name]
    assert why(cart(**changed)) == said
