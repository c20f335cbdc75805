"""The live page: what it serves, and how it follows a run's checkpoints."""

import json
import shutil
import urllib.error
import urllib.request

import pytest
from small_runs import trained

from roml_jax.errors import ConfigError
from roml_jax.render import live
from roml_jax.run import saved


def get(server, path):
    with urllib.request.urlopen(f"http://{live.HOST}:{server.server_port}{path}") as answer:
        return answer.status, answer.read()


@pytest.fixture
def served():
    page = live.Live("<p>page</p>")
    server = live.serve(page, 0)
    yield page, server
    server.shutdown()
    server.server_close()


def test_the_page_is_sent_only_what_is_new(served):
    page, server = served
    assert get(server, "/") == (200, b"<p>page</p>")
    assert get(server, "/data?after=0") == (204, b"")
    page.publish("one", {"scenes": [1]})
    status, content = get(server, "/data?after=0")
    assert (status, json.loads(content)) == (200, {"version": 1, "note": "one", "data": {"scenes": [1]}})
    assert get(server, "/data?after=1")[0] == 204
    page.publish("broken")  # the data of the last good checkpoint stay
    assert json.loads(get(server, "/data?after=1")[1]) == {
        "version": 2, "note": "broken", "data": {"scenes": [1]},
    }  # fmt: skip
    assert get(server, "/data?after=none")[0] == 200
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(server, "/config.yaml")


def test_a_port_in_use_is_one_line(served):
    with pytest.raises(ConfigError, match=r"^--port \d+ cannot be used: ") as error:
        live.serve(served[0], served[1].server_port)
    assert "\n" not in str(error.value)


def test_every_new_checkpoint_is_shown_once_and_a_broken_one_is_told(tmp_path):
    """The run's folder changes while it is followed: no checkpoint, one, a broken one, another."""
    run = trained(tmp_path / "run", "--seeds", "1", "2")
    checkpoints, page, lines, states = run / "checkpoint", live.Live(""), [], []
    last = tmp_path / "last"
    shutil.move(checkpoints / "15", last)

    def appear(number):
        shutil.copytree(last, checkpoints / str(number))

    def broken():
        appear(17)
        shutil.rmtree(checkpoints / "17" / "last")

    changes = [lambda: None, lambda: appear(15), lambda: None, broken, lambda: appear(18)]

    def wait(seconds):
        states.append(json.loads(page.after(-1)))
        if not changes:
            return True
        changes.pop(0)()
        return False

    def data_of():
        found = saved.load(run)
        return f"iteration {found.iterations[0]}", {"loaded": len(lines)}

    live.follow(run, page, data_of, lines.append, 2, wait)
    assert [line for line in lines if "iteration 15" in line] == ["iteration 15"] * 2  # of 15 and of 18
    assert any("complete" in line for line in lines)
    assert any("17" in line and "has no last" in line for line in lines)
    assert [state["version"] for state in states] == [0, 1, 2, 2, 3, 4]
    assert states[1]["note"] == "waiting for the first checkpoint"
    assert states[4]["data"] == states[2]["data"]
    assert states[5]["data"] != states[2]["data"]
