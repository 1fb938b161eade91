"""Check that the hint of a stopped run goes into a shell as it stands."""

import shlex

import pytest

from launch.arguments import parse, resumed_folder
from vcrast.cli.start import start
from vcrast.config.resume import resolve
from vcrast.config.saved import save_config
from vcrast.runs.stage import Interrupted


@pytest.mark.parametrize("name", ["plain", "a b, k=it's", 'über "$HOME" (1)[2]{3}\\x'])
def test_the_hint_to_go_on_is_quoted_and_names_the_run(tmp_path, monkeypatch, capsys, name):
    folder = tmp_path / name

    def stop(config, _):
        folder.mkdir()
        save_config(config, folder / "config.yaml")
        raise Interrupted("SIGTERM", "after step 3 of 9")

    monkeypatch.setattr("vcrast.cli.start.run", stop)
    assert start(["recipe=demo", f"run.dir={folder}"], command="vcrast run") == 143
    hint = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(hint)
    assert words[:2] == ["vcrast", "run"]
    overrides = parse(words[2:]).overrides
    assert resumed_folder(overrides) == str(folder)
    assert resolve(overrides).run.dir == str(folder)
