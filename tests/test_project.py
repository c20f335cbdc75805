"""What surrounds the package: tutorial, site, locks, workflows and forms agree with the code."""

import importlib.util
import json
import os
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from roml_jax._version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
LOCKS = {"constraints.txt": "3.11", "constraints-3.14.txt": "3.14"}


def tool(name):
    """The module ``docs/tools/NAME.py``."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f"docs/tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NOTEBOOK, SITE = tool("notebook"), tool("site")


def test_the_notebook_is_the_tutorials():
    page = NOTEBOOK.PAGE.read_text()
    assert NOTEBOOK.NOTEBOOK.read_text() == NOTEBOOK.notebook(page), "run python docs/tools/notebook.py"
    assert "".join(text for _, text in NOTEBOOK.cells(page)).count("```python") == 0


def test_cells_keep_a_pages_order_and_text():
    page = "# One\n\n```python\nx = 1\n\n\ny = 2\n```\n\n```text\n3\n```\n\n```python\nx + y\n```\n"
    assert NOTEBOOK.cells(page) == [
        ("markdown", "# One"),
        ("code", "x = 1\n\n\ny = 2"),
        ("markdown", "```text\n3\n```"),
        ("code", "x + y"),
    ]
    assert (
        NOTEBOOK.run(NOTEBOOK.notebook("```python\na = 3\n```\n\ntext\n\n```python\na += 4\n```\n"))["a"] == 7
    )


def test_the_notebook_runs(tmp_path, monkeypatch):
    """Its tiny version: every cell, and every file that the tutorial says it writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROML_TUTORIAL_SMALL", "1")
    names = NOTEBOOK.run(NOTEBOOK.NOTEBOOK.read_text())
    assert names["SMALL"]
    assert [names[run].config.sampler for run in ("varibad", "robust")] == ["uniform", "cem"]
    # the narrow bridge is better on average, the wide one in the worst tasks
    assert names["by_hand"]["narrow"].mean() > names["by_hand"]["wide"].mean()
    assert names["by_hand"]["narrow"].min() < names["by_hand"]["wide"].min()
    page = NOTEBOOK.PAGE.read_text()
    pictures = {Path(picture).name for picture in re.findall(r"\]\(images/(tutorial_\w+\.png)\)", page)}
    assert pictures == {path.name for path in tmp_path.glob("*.png")}
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "policy.zip").is_file()


@pytest.mark.parametrize(
    ("page", "written", "on_site"),
    [
        ("README.md", "[a](docs/cem.md#options)", "[a](cem.md#options)"),
        ("docs/cem.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/cem.md", "[a](../examples/own_robot.py)", "[a](source/examples/own_robot.py.md)"),
        ("docs/api/cem.md", "![a](../images/growth.png)", "![a](../images/growth.png)"),
        ("benchmarks/README.md", "[a](../configs)", "[a](source/configs.md)"),
        ("README.md", "[a](benchmarks/results/sine.json)", "[a](source/benchmarks/results/sine.json)"),
        ("README.md", "[a](docs/no_such.md) and [b](https://x.org/a) [c](#d)", None),
        ("README.md", "```\n[a](docs/cem.md)\n```", None),
    ],
)
def test_links_on_the_site(page, written, on_site):
    path = ROOT / page
    assert SITE.mended(written, path, SITE.place(path)) == (on_site or written)


def test_every_file_that_pages_link_to_is_on_the_site():
    found = SITE.collect()
    assert {ROOT / "README.md", ROOT / "benchmarks/README.md", ROOT / "configs/khazad_dum.yaml"} <= set(found)
    assert "](source/roml_jax/meta.py.md)" in found[ROOT / "README.md"]
    assert found[ROOT / "benchmarks/results/sine.json"] is None
    assert len({SITE.place(path) for path in found}) == len(found)


def test_api_pages_name_modules_that_exist():
    pages = sorted((ROOT / "docs/api").glob("*.md"))
    names = [name for page in pages for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]
    assert len(names) == len(set(names)) > 30
    for name in names:
        assert importlib.util.find_spec(name) is not None, name


def locked(lock):
    """The versions of a lock by canonical name."""
    rows = [row for row in (ROOT / lock).read_text().splitlines() if not row.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", row) for row in rows), f"{lock}: only NAME==VERSION"
    return {canonicalize_name(row.partition("==")[0]): row.partition("==")[2] for row in rows}


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_what_the_project_needs(lock):
    versions = locked(lock)
    extras = PROJECT["optional-dependencies"]
    for text in [*PROJECT["dependencies"], *extras["test"], *extras["docs"]]:
        needed = Requirement(text)
        version = versions[canonicalize_name(needed.name)]
        assert needed.specifier.contains(version, prereleases=True), f"{lock}: {version} for {text}"
    assert f"Python {LOCKS[lock]}" in (ROOT / lock).read_text().splitlines()[0]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_exists(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[\w./-]+", step["uses"]) for step in steps if "uses" in step)
    for word in [word for step in steps for word in shlex.split(step.get("run", ""))]:
        if re.match(r"(\.ci|docs|roml_jax)/|constraints", word):
            assert (ROOT / word).is_file(), f"{path.name}: {word}"
        extras = re.fullmatch(r"\.\[([\w,]+)\]", word)
        if extras:
            assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    for job in workflow["jobs"].values():
        for python in job.get("strategy", {}).get("matrix", {}).get("python", []):
            assert python in LOCKS.values(), f"{path.name}: no lock for Python {python}"


@pytest.mark.parametrize("script", ["run", "wheel"])
def test_scripts_are_executable_and_name_files_that_exist(script):
    path = ROOT / ".ci" / script
    assert os.access(path, os.X_OK)
    assert set(re.findall(r"--constraint (constraints\S*)", path.read_text())) <= set(LOCKS)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_ask_for_something(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 1
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    ruff = {need for hook in hooks for need in hook.get("additional_dependencies", [])}
    assert ruff == {f"ruff=={locked(lock)['ruff']}" for lock in LOCKS}


def test_the_navigation_has_every_page():
    # mkdocs.yml has no tags of its own, so that plain YAML reads it
    pages = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    own = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert set(pages) == own | set(SITE.PAGES.values())
    assert json.loads(NOTEBOOK.NOTEBOOK.read_text())["nbformat"] == 4


def test_every_benchmark_has_a_row():
    folder = ROOT / "benchmarks"
    alone = [path.stem for path in folder.glob("*.py") if '__name__ == "__main__"' in path.read_text()]
    packages = [path.parent.name for path in folder.glob("*/__main__.py")]
    page = (folder / "README.md").read_text()
    assert len(packages) >= 3
    assert [name for name in alone + packages if f"python -m benchmarks.{name}" not in page] == []
