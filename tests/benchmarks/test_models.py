"""Robots out of public packages: those that are installed pass the check, the others are named."""

import json

from benchmarks import models


def test_a_robot_of_gymnasium_passes_and_a_missing_package_is_named(tmp_path, monkeypatch, capsys):
    missing = models.Model("no_such_package", "robot.xml")
    monkeypatch.setattr(models, "MODELS", {"swimmer": models.MODELS["swimmer"], "missing": missing})
    out = tmp_path / "models.json"
    assert models.main(["--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "mujoco swimmer: passed" in printed
    assert "mujoco missing: not installed" in printed
    assert "no-such-package" in printed
    assert json.loads(out.read_text())["results"] == {
        "swimmer": {"mujoco": {"outcome": "passed", "lines": []}}
    }
