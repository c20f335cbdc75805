"""Pictures show the rollouts of the policy."""

import base64
import functools
import json
import re
import sys
import types

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from brax import envs as brax_envs
from cart import MODEL, cart
from PIL import Image
from played import Played as Trial
from small_runs import trained

import roml_jax
from roml_jax.envs import Edit, TaskDimension, from_brax, pictures
from roml_jax.errors import ConfigError
from roml_jax.render import film, page, robots, rollouts, scene, show, walks
from roml_jax.run import files, saved


@functools.cache
def simulator_of(trial):
    return rollouts.simulator(trial.parts.env)


POLE = TaskDimension("mass", 0.5, 2.0, (Edit("body_mass", rows="pole"),), "log")


@pytest.fixture(scope="module")
def khazad_dum():
    return Trial()


@pytest.fixture(scope="module")
def cheetah():
    return Trial("cheetah_mass")


@pytest.fixture(scope="module")
def run_of_cheetah(cheetah):
    return rollouts.play(cheetah.policy, simulator_of(cheetah), "one", np.array([1.7]))


def test_a_rollout_is_the_environments(run_of_cheetah, cheetah):
    played = run_of_cheetah
    assert played.poses.shape == (2, 201, 1, 9)
    dt = cheetah.parts.env.physics.dt
    speed = np.diff(played.poses[:, :, 0, 0], axis=1) / dt
    height = played.poses[:, 1:, 0, 1]
    # reward = speed + height - control cost, which is never negative
    assert (played.reward[:, :, 0] <= speed + height + 1e-3).all()
    np.testing.assert_allclose(played.returns, played.reward.sum(axis=1))


def test_two_policies_meet_the_same_starts(run_of_cheetah, cheetah):
    again = rollouts.play(cheetah.policy, simulator_of(cheetah), "two", np.array([0.6]))
    np.testing.assert_array_equal(again.poses[:, 0], run_of_cheetah.poses[:, 0])
    assert np.abs(again.poses[:, 50] - run_of_cheetah.poses[:, 50]).max() > 1e-3


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([], [1.0, 1.0, 1.0]),
        (["mass=2"], [2.0, 1.0, 1.0]),
        (["0.5", "1.5", "2"], [0.5, 1.5, 2.0]),
        (["mass=2,damping=0.5"], [2.0, 0.5, 1.0]),
        (["0.5,1.5,", "2"], [0.5, 1.5, 2.0]),
    ],
)
def test_tasks_are_named_or_in_order(given, wanted):
    family = roml_jax.envs.make("cheetah_body").family
    np.testing.assert_allclose(rollouts.parse_task(family, given), wanted, atol=0.03)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["weight=2"], "unknown dimension 'weight'"),
        (["mass=heavy"], "mass must be a number, got 'heavy'"),
        (["mass=nan"], "mass must be in"),
        (["mass=5"], r"mass must be in \[0.5, 2\], got 5"),
        (["1", "2"], "a value for each of mass, damping, head; got 1 2"),
    ],
)
def test_a_task_that_cannot_be_is_one_line(given, said):
    with pytest.raises(ConfigError, match=said) as error:
        rollouts.parse_task(roml_jax.envs.make("cheetah_body").family, given)
    assert "\n" not in str(error.value)


def unpacked(text, *shape):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(shape)


def test_the_page_holds_the_robot_and_its_motion_and_needs_no_network(run_of_cheetah, cheetah):
    env = cheetah.parts.env
    both = [run_of_cheetah, run_of_cheetah._replace(label="</script><b>two")]
    html = page.page(page.data("cheetah", robots.of(env), both))
    assert html.count("</script>") == 1  # a label cannot end the script
    assert not re.search(r"https?://", html)
    assert len(html) < 600_000
    data = json.loads(re.search(r"const PAGE = (.*);\n", html)[1])
    assert data["title"] == "cheetah"
    assert data["subtitle"] == "mass 1.7"
    assert [one["label"] for one in data["scenes"]] == ["one", "</script><b>two"]
    one = data["scenes"][0]
    assert [shape["type"] for shape in one["shapes"]] == ["capsule"] * 8
    np.testing.assert_allclose([shape["size"][0] for shape in one["shapes"]], 0.046 * 1.7, rtol=1e-3)
    frames = unpacked(one["frames"], 402, 8, 7)
    np.testing.assert_allclose(np.linalg.norm(frames[..., 3:], axis=-1), 1.0, rtol=1e-5)
    assert one["floor"] == 0.0
    np.testing.assert_allclose(unpacked(one["reward"], 2, 200), run_of_cheetah.reward[:, :, 0], rtol=1e-6)
    # the torso's capsule moves as far as the root does
    moved = frames[:, 0, 0] - frames[0, 0, 0]
    root = run_of_cheetah.poses[:, :, 0, 0].ravel()
    assert np.abs(moved - (root - root[0])).max() < 0.6


def test_shapes_of_a_model_are_told_with_their_sizes():
    shapes = [scene._shape(MODEL, geom) for geom in scene.drawn_geoms(MODEL)]
    assert [shape["type"] for shape in shapes] == ["sphere", "capsule", "sphere"]
    assert shapes[1]["size"][:2] == [0.02, 0.25]


def test_a_film_without_opengl_is_one_line(monkeypatch):
    def no_renderer(*args):
        raise RuntimeError("an OpenGL platform\nlibrary has not been loaded")

    monkeypatch.setattr(film.mujoco, "Renderer", no_renderer)
    with pytest.raises(ConfigError, match=r"no offscreen OpenGL .*use \.html") as error:
        film.check(".gif")
    assert "\n" not in str(error.value)


def test_a_video_is_written_under_a_name_that_encoders_know(tmp_path, monkeypatch):
    """They go by the suffix, also of the file that is renamed when it is whole."""
    written = []

    class Writer:
        def __init__(self, path, **_):
            assert path.suffix == ".mp4"
            self.path = path

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.path.write_text("video")

        def append_data(self, pixels):
            written.append(pixels.shape)

    monkeypatch.setitem(sys.modules, "imageio", types.ModuleType("imageio"))
    monkeypatch.setitem(sys.modules, "imageio.v2", types.SimpleNamespace(get_writer=Writer))
    monkeypatch.setattr(film, "_images", lambda robot, one: iter([Image.new("RGB", (4, 2))] * 3))
    played = still(None, [(1.0,), (2.0,)], np.zeros(1))
    with files.new(tmp_path / "film.mp4") as part:
        film.of_robot(types.SimpleNamespace(names=("mass",), dt=0.02), played, part, ".mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]
    assert written == [(2, 8, 3)] * 3
    monkeypatch.setattr(film.importlib.util, "find_spec", lambda name: None if name == "imageio" else 1)
    with pytest.raises(ConfigError, match=r"^.mp4 needs imageio: pip install imageio imageio-ffmpeg"):
        film.check(".mp4")


MARKED = """
<mujoco><worldbody>
  <body name="torso"><freejoint/><geom name="trunk" type="box" size=".2 .1 .1" mass="1"/></body>
  <body name="goal" mocap="true" pos="1 0 0"><geom name="flag" size=".05" contype="0" conaffinity="0"/></body>
</worldbody></mujoco>
"""


def test_edits_of_frames_that_the_compiler_found_equal_are_drawn_where_they_are():
    model = mujoco.MjModel.from_xml_string(MARKED)
    pose = np.array([[0.0, 0, 1, 1, 0, 0, 0]])
    trunk = scene.drawn_geoms(model).index(model.geom("trunk").id)

    def place(field, value):
        changed = np.array(getattr(model, field))
        changed[model.body("torso").id if field == "body_ipos" else model.geom("trunk").id] = value
        return scene.frames(pictures.edited(model, {field: changed}), pose)[0][0, trunk, :3]

    np.testing.assert_allclose(place("body_ipos", [0.1, 0, 0]), [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(place("geom_pos", [0.3, 0, 0]), [0.3, 0, 1], atol=1e-9)


@pytest.mark.parametrize("kind", ["ours", "MuJoCo XLA's"])
def test_mocap_bodies_are_drawn_where_the_episode_has_them(kind):
    model = mujoco.MjModel.from_xml_string(MARKED)
    qpos = np.tile([0.0, 0, 1, 1, 0, 0, 0], (2, 1))
    mocap = {
        "mocap_pos": np.array([[[0.0, 2, 0]], [[0, 3, 0]]]), "mocap_quat": np.tile([1.0, 0, 0, 0], (2, 1, 1)),
    }  # fmt: skip
    holder = {"qpos": qpos} | ({"carried": mocap} if kind == "ours" else mocap)
    state = types.SimpleNamespace(physics=types.SimpleNamespace(**holder))
    poses, _ = scene.frames(model, np.asarray(rollouts._pose(state)))
    flag = scene.drawn_geoms(model).index(model.geom("flag").id)
    np.testing.assert_allclose(poses[:, flag, :3], mocap["mocap_pos"][:, 0], atol=1e-6)
    poses, _ = scene.frames(model, qpos)  # without a pose: where the model has them
    np.testing.assert_allclose(poses[:, flag, :3], [[1, 0, 0]] * 2)


def test_runs_in_folders_of_one_name_have_labels_of_their_own(tmp_path):
    for name in ("a", "b"):
        trained(tmp_path / name / "cem")
    runs = [saved.load(tmp_path / name / "cem") for name in ("a", "b")]
    assert [label for _, label in rollouts.of_runs(runs, [0, 0])] == [
        f"{tmp_path / name / 'cem'}, seed 0" for name in ("a", "b")
    ]
    assert [label for _, label in rollouts.of_runs(runs[:1], [0])] == ["cem, seed 0"]


def test_a_page_has_no_more_views_than_browsers_draw(cheetah, tmp_path):
    env, tasks = cheetah.parts.env, [np.array([1.0])] * 9
    show.check_out(tmp_path / "page.html", "cheetah_mass", env, tasks, 1)
    with pytest.raises(ConfigError, match=r"at most 16 views.* 2 run\(s\) on 9 tasks are 18"):
        show.check_out(tmp_path / "page.html", "cheetah_mass", env, tasks, 2)


def test_walks_are_a_map_or_a_film(khazad_dum, tmp_path):
    env = khazad_dum.parts.env
    played = [
        rollouts.play(khazad_dum.policy, simulator_of(khazad_dum), label, np.array([0.2]), n)
        for label, n in (("one", 8), ("two", 8))
    ]
    assert played[0].poses.shape == (4, 33, 8, 2)
    walks.still(env, played, tmp_path / "map")
    with Image.open(tmp_path / "map") as image:
        assert image.format == "PNG"
    single = [one._replace(poses=one.poses[:2, :, :1], reward=one.reward[:2, :, :1]) for one in played]
    walks.film(env, single[:1], tmp_path / "one")
    with Image.open(tmp_path / "one") as one:
        assert one.format == "GIF"
        first, lasts = one.convert("RGB"), 0
        for i in range(one.n_frames):  # equal pictures in a row are one that lasts longer
            one.seek(i)
            lasts += one.info["duration"]
        assert lasts == 110 * 2 * (33 + 10)
        one.seek(one.n_frames - 1)
        last = one.convert("RGB")
    assert np.abs(np.asarray(first, int) - np.asarray(last, int)).max() > 100  # something moved


def test_pictures_side_by_side():
    left, right = Image.new("RGB", (2, 3), "red"), Image.new("RGB", (4, 3), "blue")
    whole = np.asarray(film.beside([left, right], gap=1))
    assert whole.shape == (3, 7, 3)
    assert whole[0].tolist() == [[255, 0, 0]] * 2 + [[255, 255, 255]] + [[0, 0, 255]] * 4


def test_walkers_stay_where_the_environment_puts_them(khazad_dum):
    env = khazad_dum.parts.env
    played = rollouts.play(khazad_dum.policy, simulator_of(khazad_dum), "one", np.array([0.0]), 4, seed=5)
    starts = played.poses[:, 0]
    assert ((starts >= 0.5) & (starts <= 2.5)).all()
    key = jax.random.split(jax.random.key(5), (4, 4))[2, 3]
    np.testing.assert_allclose(starts[2, 3], env.reset(key, jnp.zeros(1)).physics.position, rtol=1e-6)
    assert np.abs(np.diff(played.poses, axis=1)).sum(axis=-1).max() <= 1 + 1e-5  # no noise: one cell a step


def still(env, tasks, qpos, ends=None):
    """A robot that stays at a pose, once per task, for two episodes of four steps."""
    qpos = np.asarray(qpos, float)
    valid = np.ones((2, 4, 1), bool)
    valid[0, ends:] = ends is None
    poses = np.tile(qpos, (2, 5, 1, 1))
    return [rollouts.Played("one", np.array(task), 1.0 * valid, valid, poses) for task in tasks]


def test_tasks_side_by_side_have_their_own_model_and_say_their_task():
    env = cart()
    data = page.data("registered", robots.of(env), still(env, [(0.5,), (2.0,)], np.zeros(MODEL.nq), ends=2))
    assert data["title"] == "registered"
    assert data["subtitle"] == ""
    assert [one["label"] for one in data["scenes"]] == ["one: mass 0.5", "one: mass 2"]
    assert data["scenes"][0]["lengths"] == [2, 4]
    assert [one["floor"] for one in data["scenes"]] == [0.0, 0.0]


SMALL = """
<mujoco>
  <asset><hfield name="hill" nrow="3" ncol="5" size="2 1 0.5 0.1"/></asset>
  <worldbody>
    <geom name="wall" type="plane" size="1 1 0.1" quat="0.7071 0.7071 0 0"/>
    <geom name="hill" type="hfield" hfield="hill"/>
    <geom name="far" type="box" size="9 9 9" pos="100 0 -0.5" group="4"/>
    <body pos="0 0 0.3"><freejoint/>
      <geom type="box" size="0.03 0.02 0.01" pos="0 0 0.05" mass="0.1" group="3"/>
    </body>
  </worldbody>
</mujoco>
"""


def test_the_camera_and_the_floor_fit_a_small_robot_without_a_floor():
    """A hand's breadth of a box, drawn although it is in a hidden group; what is far and fixed is ignored."""
    model = mujoco.MjModel.from_xml_string(SMALL)
    model.hfield_data[:] = np.linspace(0, 1, 15)
    robot = robots.Robot(model, lambda task: {}, 0.02, ("none",))
    upright = [0.0, 0.0, 0.3, 1.0, 0.0, 0.0, 0.0]
    data = page.data("small", robot, still(None, [(1.0,)], upright))
    one = data["scenes"][0]
    np.testing.assert_allclose(one["radius"], np.sqrt(0.03**2 + 0.02**2 + 0.01**2), rtol=1e-6)
    assert data["cell"] == 0.02
    np.testing.assert_allclose(unpacked(one["root"], 10, 3)[0], [0.0, 0.0, 0.35], atol=1e-6)
    assert one["floor"] == pytest.approx(-9.5)  # the lowest point of what is drawn: the wall is no floor
    hill = one["shapes"][0]
    vertices = unpacked(hill["vertices"], 15, 3)
    np.testing.assert_allclose(vertices[0], [-2, -1, 0], atol=1e-6)
    np.testing.assert_allclose(vertices[-1], [2, 1, 0.5], atol=1e-6)
    faces = np.frombuffer(base64.b64decode(hill["faces"]), "<u4").reshape(-1, 3)
    sides = vertices[faces[:, 1:]] - vertices[faces[:, :1]]
    normals = np.cross(sides[:, 0], sides[:, 1])
    assert (normals[:, 2] > 0).all()
    np.testing.assert_allclose(normals[:, 2].sum() / 2, 8.0)  # they cover 4 m x 2 m


def test_the_cells_of_the_floor_are_of_the_robots_size():
    assert [page.cell(radius) for radius in (0.3, 1.0, 3.0)] == [1.0] * 3
    np.testing.assert_allclose([page.cell(r) for r in (0.04, 0.2, 7.0, 60.0)], [0.02, 0.2, 5.0, 50.0])


def test_robots_of_brax_and_playground_are_shown():
    """Both hold the state of the simulation in an attribute of their own."""
    qpos = jnp.arange(6.0).reshape(2, 3)
    inner = type("Data", (), {"qpos": qpos})()
    for name in ("pipeline_state", "data"):
        state = type("State", (), {"physics": type("Physics", (), {name: inner})()})()
        np.testing.assert_array_equal(rollouts._pose(state), qpos)
    env = from_brax(brax_envs.get_environment("inverted_pendulum", backend="mjx"), (POLE,), check=False)
    robot = robots.of(env)
    (shown,) = still(env, [(2.0,)], [0.0, 0.1])
    data = page.data("pendulum", robot, [shown])
    assert data["dt"] == pytest.approx(float(env.env.dt))
    assert data["scenes"][0]["shapes"]
    heavy = robot.edited(np.array([2.0]))
    assert heavy.body("pole").mass == pytest.approx(2 * robot.model.body("pole").mass)
    assert robots.of(roml_jax.envs.make("khazad_dum")) is None
