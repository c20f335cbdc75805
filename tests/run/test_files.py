"""New files are whole, and never written over others."""

import errno
import os

import pytest

from roml_jax.errors import ConfigError
from roml_jax.run import cli, files, folder


def without_links(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_file_is_new_and_whole(tmp_path, links, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", without_links)
    path = tmp_path / "made" / "page.html"
    with files.new(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(ConfigError, match="exists; nothing is overwritten"), files.new(path) as part:
        part.write_text("other")
    assert path.read_text() == "whole"
    with pytest.raises(ConfigError, match="cannot write"), files.new(tmp_path / "none.html"):
        pass  # nothing is written
    assert [one.name for one in tmp_path.rglob("*")] == ["made", "page.html"]


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "page.html"
    with pytest.raises(ConfigError, match=r"^cannot write .*page.html: .*file is not a folder"):
        files.check_new(path, (".html",))
    assert files.check_new(tmp_path / "a" / "b" / "page.html", (".html",)).parent.name == "b"
    assert not (tmp_path / "a").exists()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="is not a folder that can be written to"):
        files.check_new(tmp_path / "page.html", (".html",))


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, capsys):
    run, user = tmp_path / "run", os.geteuid()
    run.mkdir(mode=0)
    if not user:  # for whom nothing is forbidden
        os.seteuid(65534)
    try:
        code = cli.run(lambda argv: folder.check(run), [])
    finally:
        os.seteuid(user)
    assert code == 2
    assert capsys.readouterr().err == f"error: {run / 'config.yaml'}: Permission denied\n"
