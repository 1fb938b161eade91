"""The user's own options beside those of `configs/`."""

import pytest

from vcrast.cli.main import main
from vcrast.config.compose import compose
from vcrast.config.files import options


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with a space in its name, as users have them."""
    folder = tmp_path / "my options"
    (folder / "attention").mkdir(parents=True)
    (folder / "attention" / "mine.yaml").write_text("# Mine\nname: softmax\n")
    monkeypatch.setenv("VCRAST_CONFIGS", str(folder))
    return folder


def test_an_own_option_is_composed_listed_and_suggested(own, capsys):
    assert compose(["attention=mine"]).attention == {"name": "softmax"}
    assert dict(options("attention"))["mine"] == "Mine"
    assert main(["list", "attention"]) == 0
    assert "mine " in capsys.readouterr().out
    with pytest.raises(ValueError, match="did you mean mine"):
        compose(["attention=min"])


def test_a_file_that_would_never_be_read_is_refused(own):
    (own / "attention" / "softmax.yaml").write_text("name: other\n")
    with pytest.raises(ValueError, match=r"softmax\.yaml has the name of a file of vcrast"):
        compose()


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VCRAST_CONFIGS", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"VCRAST_CONFIGS=.*nowhere: no such folder"):
        compose()


def test_two_folders_are_joined_as_in_path(own, tmp_path, monkeypatch):
    (tmp_path / "more" / "attention").mkdir(parents=True)
    (tmp_path / "more" / "attention" / "other.yaml").write_text("name: rfa\n")
    monkeypatch.setenv("VCRAST_CONFIGS", f"{own}:{tmp_path / 'more'}")
    assert [compose([f"attention={name}"]).attention["name"] for name in ("mine", "other")] == ["softmax", "rfa"]
