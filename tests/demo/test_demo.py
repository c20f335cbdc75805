"""The policies in the package: each loads, is what its file says, and is shown beside the other method's."""

import json
import re
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import TINY_VARIBAD, trained

from benchmarks import demo_policies
from roml_jax import held_out, risk
from roml_jax.demo import __main__ as demo
from roml_jax.demo import shipped
from roml_jax.errors import ConfigError
from roml_jax.run import saved

FILES = [(name, method) for name in shipped.DEMOS for method in shipped.METHODS]


@pytest.mark.parametrize(("name", "method"), FILES)
def test_a_file_is_small_and_says_where_it_comes_from(name, method):
    path = shipped.path_of(name, method)
    assert path.stat().st_size < 1_000_000
    known = shipped.about(path)
    assert (known["env"], known["sampler"], known["agent"]) == (name, shipped.METHODS[method][1], "varibad")
    assert (known["options"]["env"], known["options"]["sampler"]) == (name, known["sampler"])
    assert known["which"] == "best_cvar"
    assert re.fullmatch("[0-9a-f]{40}", known["commit"])
    assert known["cvar"] <= known["mean"]
    assert 0 < known["frames"] <= known["options"]["frames"]
    assert not re.search(r"/(root|home|work|tmp)/", json.dumps(known))


def test_there_is_no_other_file():
    assert {path.name for path in shipped.FOLDER.iterdir()} == {shipped.path_of(*one).name for one in FILES}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), FILES)
def test_the_returns_in_a_file_are_the_policys(name, method):
    """On the held-out tasks; other machines round differently, and an episode may go another way."""
    env = shipped.make_env(name)
    run = dict(zip(shipped.METHODS, shipped.load(name, env), strict=True))[method]
    known, options = shipped.about(run.folder), run.config.eval
    tasks, key = held_out.draw(env.family, options.test_tasks, options.seed, "test")
    returns = jax.jit(run.parts.learner.test)(run.one(0), tasks, key).returns
    found = held_out.summarise(returns, known["alpha"])
    assert float(found["return_mean"]) == pytest.approx(known["mean"], rel=0.02)
    assert float(found["cvar"]) == pytest.approx(known["cvar"], rel=0.1)


def test_robots_are_a_page_with_both_policies(tmp_path, capsys):
    out = tmp_path / "page.html"
    assert demo.main(["cheetah_mass", "--task", "mass=1.5", "--no-open", "--out", str(out)]) == 0
    data = json.loads(re.search(r"const PAGE = (.*);\n", out.read_text())[1])
    assert (data["title"], data["subtitle"]) == ("cheetah_mass", "mass 1.5")
    assert [one["label"] for one in data["scenes"]] == ["RoML", "VariBAD"]
    assert data["scenes"][0]["frames"] != data["scenes"][1]["frames"]
    said = capsys.readouterr().out
    assert re.search(r"RoML: returns by episode .*\nVariBAD: returns by episode", said)
    assert said.splitlines()[-1] == f"wrote {out}"


def test_khazad_dum_is_a_map_under_a_name_that_is_free(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "khazad_dum-noise=0.3.png").write_text("kept")
    monkeypatch.setattr(demo, "open_in_browser", lambda path: path.suffix == ".png")
    assert demo.main(["khazad_dum"]) == 0
    out = tmp_path / "khazad_dum-noise=0.3-2.png"
    assert capsys.readouterr().out.splitlines()[-1] == f"opened {out}"
    with Image.open(out) as image:
        assert image.width > 1.5 * image.height  # two maps side by side
    assert (tmp_path / "khazad_dum-noise=0.3.png").read_text() == "kept"


def test_the_hopper_is_the_examples():
    env = shipped.make_env("robust_hopper")
    assert env.family.names == ("mass", "friction", "motor", "latency_ms")
    runs = shipped.load("robust_hopper", env)
    assert [run.config.sampler for run in runs] == ["cem", "uniform"]
    assert all(run.parts.env is env for run in runs)
    # both have the same networks with other weights
    first, second = (jax.tree.leaves(run.learner) for run in runs)
    assert [leaf.shape for leaf in first] == [leaf.shape for leaf in second]
    assert any(np.abs(np.asarray(a) - np.asarray(b)).max() > 0.1 for a, b in zip(first, second, strict=True))


def test_the_list_names_demos_and_methods(capsys):
    assert demo.main([]) == 0
    said = capsys.readouterr().out
    for name, one in shipped.DEMOS.items():
        assert re.search(rf"^{name}: {re.escape(one.shows)}", said, re.MULTILINE)
    assert len(re.findall(r"^  (?:RoML|VariBAD) .* frames; .* mean .*, CVaR", said, re.MULTILINE)) == len(
        FILES
    )
    assert max(map(len, said.splitlines())) <= 110


@pytest.fixture
def as_demo(monkeypatch):
    """The environment of tiny runs as if it were a demo's."""
    monkeypatch.setitem(shipped.DEMOS, "probe_memory", shipped.Demo("nothing", ()))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "run", "--seeds", "1", "2", tiny=TINY_VARIBAD)


def test_a_run_becomes_a_file_and_a_run_again(as_demo, run, tmp_path):
    path = shipped.path_of("probe_memory", "roml", tmp_path)
    path.write_text("an old one, which is replaced")
    words = [str(run), "--folder", str(tmp_path), "--commit", "a" * 40, "--seed", "2"]
    assert demo_policies.main(words) == 0
    assert [*tmp_path.iterdir()] == [path]
    env, original = shipped.make_env("probe_memory", tmp_path), saved.load(run, "best_cvar")
    copy, known = shipped._load(path, env), shipped.about(path)
    jax.tree.map(np.testing.assert_array_equal, copy.one(0), original.one(1))
    assert copy.config.seeds == (2,)
    assert copy.which == "best_cvar"
    assert copy.iterations[0] == original.iterations[1]
    returns = np.asarray(jax.jit(original.parts.test)(original.learner).returns)[1].mean(axis=1)
    assert known["mean"] == pytest.approx(returns.mean(), abs=1e-6)
    assert known["cvar"] == pytest.approx(float(risk.cvar(returns, 0.1)), abs=1e-6)
    assert (known["commit"], known["seed"]) == ("a" * 40, "2")


def test_the_usual_seed_is_the_one_of_median_cvar(run):
    values = [(1, 1.0), (2, 2.0), (1, 3.0)]
    rows = [{"seed": seed, "eval/cvar": value} for seed, value in values]
    # the lower of the bests, which are 3 and 2; a row without an evaluation does not count
    assert demo_policies.median_place(saved.load(run, "best_cvar"), [*rows, {"seed": 2}]) == 1


def test_a_file_of_another_agent_is_one_line(as_demo, run, tmp_path):
    path = shipped.path_of("probe_memory", "roml", tmp_path)
    shipped.write(path, saved.load(run, "best_cvar"), 0, {"roml_jax": "0.0.1"})
    known = shipped.about(path)
    with np.load(path) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "about"}
    known["options"]["vae.latent"] += 1
    np.savez(path, about=np.array(json.dumps(known)), **arrays)
    with pytest.raises(
        ConfigError, match=r"roml\.npz was made by roml_jax 0\.0\.1, whose agent has other parameters: \."
    ) as error:
        shipped._load(path, shipped.make_env("probe_memory", tmp_path))
    assert "\n" not in str(error.value)


def test_other_runs_are_refused_and_nothing_is_written(run, tmp_path, capsys):
    assert demo_policies.main([str(run), "--folder", str(tmp_path / "made")]) == 2
    assert "is a run of probe_memory x cem x varibad: demos are of khazad_dum, " in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_no_display_no_browser(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("BROWSER", "lynx")  # it would take over the terminal
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(demo.subprocess, "Popen", None)
    assert not demo.open_in_browser(tmp_path / "page.html")


@pytest.mark.parametrize(("rest", "opened"), [("", True), ("; exit 1", False), ("; /bin/sleep 2", True)])
def test_a_browser_gets_the_file_and_is_not_waited_for(rest, opened, monkeypatch, tmp_path):
    """One that succeeds, one that fails and one that stays; the page's name has what an address escapes."""
    browser, seen = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\necho "$1" > {seen}{rest}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    monkeypatch.setenv("DISPLAY", ":9")
    monkeypatch.setenv("PATH", "/nowhere")  # this machine's own browsers would be tried next
    monkeypatch.setattr(demo, "_SECONDS", 1.0 if "sleep" in rest else 20.0)
    assert demo.open_in_browser(tmp_path / "mass=2 #1.html") == opened
    assert seen.read_text() == f"file://{tmp_path}/mass%3D2%20%231.html\n"
