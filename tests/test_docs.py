"""The documentation holds: its code runs, its commands parse, its tables and links are complete."""

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from roml_jax import config, envs, samplers, tasks, testing
from roml_jax.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
ALL_PAGES = (*PAGES, "benchmarks/README.md", "CONTRIBUTING.md")
# The notebook of the tutorial is what runs, in test_project.py.
RUN = [page for page in PAGES[1:] if page != "docs/tutorial.md"]

# What the pages call cart.xml.
CART = (ROOT / "examples" / "cart.xml").read_text()
# The code runs as printed, but for these: a small agent, a few tasks and two iterations.
_SMALL = 'num_tasks=4, chunk=1, **{"sampler.batch_size": 4, "eval.tasks": 4, "eval.test_tasks": 4'
TINY = {
    ("README.md", "frames=5e5"): f'agent="multitask", frames=3200, quiet=True, {_SMALL}}}',
    ("docs/your_own_tasks.md", "frames=5e5"): f'agent="multitask", frames=320, quiet=True, {_SMALL}}}',
    ("docs/agents.md", '"khazad_dum", "cem", frames=4e5, **{'): (
        f'"probe_memory", "cem", "multitask", frames=1e3, {_SMALL}, '
    ),
}
# Words that a reader replaces, and what stands for them here; a command with None is not parsed.
PLACEHOLDERS = {"RUN": None, "I": "0"}


class Fence(NamedTuple):
    """A fenced block: its language, the line of its first line of code, and why it is not executed."""

    language: str
    line: int
    code: str
    reason: str | None


def split(page):
    """The fenced blocks of a page, and its text without them."""
    lines, blocks, text = (ROOT / page).read_text().splitlines(), [], []
    start = None
    for i, line in enumerate(lines):
        if start is None and line.startswith("```"):
            start = i
        elif start is None:
            text.append(line)
        elif line == "```":
            marked = re.fullmatch(r"<!-- not executed: (.+) -->", lines[start - 1]) if start else None
            code = "\n".join(lines[start + 1 : i]) + "\n"
            blocks.append(Fence(lines[start][3:].strip(), start + 2, code, marked and marked[1]))
            start = None
    assert start is None, f"{page}: a fence is not closed"
    return blocks, "\n".join(text)


def blocks_of(page, language):
    return [block for block in split(page)[0] if block.language == language]


@contextlib.contextmanager
def workplace(folder):
    """A folder with cart.xml to work in; what is registered meanwhile is forgotten."""
    registries = [envs.base._registry, samplers.base._registry]
    before, here = [dict(registry._constructors) for registry in registries], Path.cwd()
    (folder / "cart.xml").write_text(CART)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)
        sys.modules.pop("my_robot", None)
        for registry, known in zip(registries, before, strict=True):
            registry._constructors.clear()
            registry._constructors.update(known)


def execute(page):
    """Runs a page's blocks, one after the other, in one namespace; returns it."""
    names = {"__name__": page}
    for block in blocks_of(page, "python"):
        code = block.code
        for (where, printed), tiny in TINY.items():
            if where == page:
                code = code.replace(printed, tiny)
        # the lines before it, so that a traceback names the line of the page
        program = compile("\n" * (block.line - 1) + code, str(ROOT / page), "exec")
        if block.reason is None:
            exec(program, names)
    return names


@pytest.fixture(scope="module")
def readme(tmp_path_factory):
    """The folder that README's code worked in, and its names."""
    folder = tmp_path_factory.mktemp("readme")
    with workplace(folder):
        yield folder, execute("README.md")


def test_readmes_code_runs(readme):
    folder, names = readme
    assert names["draw"].task.shape == (16, 1)
    assert {"q_ref", "ess"} <= set(names["info"])
    assert (folder / "runs/cart/metrics.jsonl").is_file()
    assert names["run"].config.sampler == "cem"
    assert names["returns"].shape == (3, 100, 2)
    assert names["tasks"].shape == (100, 1)
    assert (folder / "policy.zip").is_file()


def test_readmes_sampler_is_one(readme):
    family = tasks.beta("load", 0.0, 7.0)
    testing.check_sampler(readme[1]["easy_first"](family, 0.05), family)
    testing.check_sampler(samplers.make("easy_first", family, 0.05), family)


@pytest.mark.parametrize("page", [page for page in RUN if blocks_of(page, "python")])
def test_code_of_a_page_runs(page, readme, tmp_path):
    shutil.copy(readme[0] / "policy.zip", tmp_path)
    with workplace(tmp_path):
        execute(page)


def test_what_is_made_small_is_printed_as_such():
    for page, printed in TINY:
        assert any(printed in block.code for block in blocks_of(page, "python")), f"{page}: {printed}"


def commands(line):
    """The commands of this project in a line of a shell: their words, from the module's name on."""
    words, found = shlex.split(line, comments=True), []
    for i, word in enumerate(words):
        if " -m " in word or "roml-jax " in word:  # a command within another's quotes
            found += commands(word)
        program = word == "roml-jax" or (word == "-m" and i > 0 and "python" in words[i - 1])
        if program and i + 1 < len(words):
            rest = words[i + 1 :]
            end = next((k for k, other in enumerate(rest) if other in ("&&", "|", ";")), len(rest))
            name = f"roml_jax.{rest[0]}" if word == "roml-jax" else rest[0]
            found.append([name, *rest[1:end]])
    return found


def commands_of(page):
    """Those of its bash blocks and of the code within its text."""
    blocks, text = split(page)
    lines = [line for block in blocks if block.language == "bash"
             for line in block.code.replace("\\\n", " ").splitlines()]  # fmt: skip
    lines += [" ".join(span.split()) for span in re.findall(r"`((?:python -m|roml-jax) [^`]+)`", text)]
    return [command for line in lines for command in commands(line)]


def test_commands_in_a_line_of_a_shell():
    line = "A=1 python -m roml_jax.train --seeds 0 1 && .venv/bin/python -m benchmarks.cem # -m none"
    assert commands(line) == [["roml_jax.train", "--seeds", "0", "1"], ["benchmarks.cem"]]
    assert commands("ssh --command='cd x && python -m roml_jax.envs NAME'") == [["roml_jax.envs", "NAME"]]
    assert commands("roml-jax train --env sine") == [["roml_jax.train", "--env", "sine"]]


@pytest.mark.parametrize("page", ALL_PAGES)
def test_commands_exist_and_training_commands_parse(page, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "configs").symlink_to(ROOT / "configs")  # commands are given from the checkout
    if page == "docs/your_own_tasks.md":  # "Save this as my_robot.py"
        (tmp_path / "my_robot.py").write_text(blocks_of(page, "python")[0].code)
    with workplace(tmp_path):
        for name, *words in commands_of(page):
            room, _, command = name.partition(".")
            if room == "roml_jax" and command != "COMMAND":
                assert command in COMMANDS, f"{page}: {name}"
            elif room == "benchmarks":
                assert importlib.util.find_spec(name) is not None, f"{page}: {name}"
            words = [PLACEHOLDERS.get(word, word) for word in words]
            if name == "roml_jax.train" and None not in words:
                config.parse(words)


def cells(row):
    """How many cells a row of a table has; a bar within a cell is written with a backslash, also in code."""
    return len(re.findall(r"(?<!\\)\|", row)) - 1


@pytest.mark.parametrize("page", ALL_PAGES)
def test_rows_have_as_many_cells_as_their_header(page):
    header = None
    for row in split(page)[1].splitlines():
        if not row.startswith("|"):
            header = None
            continue
        assert row.rstrip().endswith("|"), f"{page}: {row}"
        header = header or row
        assert cells(row) == cells(header), f"{page}: {row}"


def anchors(page):
    """The names of a page's headings, as links give them."""
    headings = re.findall(r"^#+ (.+)$", split(page)[1], re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES)
def test_links_lead_somewhere(page):
    folder = (ROOT / page).parent
    for link in re.findall(r"\]\(([^)\s]+)\)", split(page)[1]):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (folder / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(str(target.relative_to(ROOT))), f"{page}: {link}"


@pytest.mark.parametrize("page", ALL_PAGES)
def test_tests_that_are_named_exist(page):
    """As ``test_file.py``, ``test_file.py::test_name``, or a ``test_name`` of the file named before it."""
    file = None
    for span in re.findall(r"`(?:tests/(?:\w+/)?)?(test_\w+(?:\.py(?:::\w+)?)?)`", split(page)[1]):
        head, _, name = span.rpartition("::")
        if span.endswith(".py"):
            head, name = span, ""
        file = head or file
        (path,) = (ROOT / "tests").rglob(file)
        source = path.read_text()
        assert not name or f"def {name}(" in source, f"{page}: {span}"


@pytest.mark.parametrize("page", ALL_PAGES)
def test_lines_fit_a_screen(page):
    """110 columns, but for tables, code, headings and images."""
    text = split(page)[1].splitlines()
    long = [line for line in text if len(line) > 110 and not line.startswith(("|", "#", "!["))]
    assert not long, f"{page}: {long[0]}"
