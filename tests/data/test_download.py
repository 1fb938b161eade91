import io
import zipfile

import pytest
from file_server import CONTENT

from vcrast.data.download import fetch
from vcrast.data.sources.esc50_download import content_fault, download_esc50


def get(server, path, **options):
    return fetch(server.url, path, pause_s=0.0, timeout_s=5.0, **options)


def test_whole_file(server, tmp_path):
    assert get(server, tmp_path / "new" / "a.zip").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.zip"]
    assert server.seen == [None]


def test_no_declared_length(server, tmp_path):
    server.length = False
    assert get(server, tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("declared", [True, False])
def test_no_more_than_was_allowed_is_fetched(server, tmp_path, declared):
    server.length = declared
    assert get(server, tmp_path / "a.zip", max_bytes=len(CONTENT)).read_bytes() == CONTENT
    with pytest.raises(ValueError, match=r"a\.zip: .*more than the 1 MB that are fetched"):
        get(server, tmp_path / "b.zip", max_bytes=1_000_000)
    assert not (tmp_path / "b.zip").exists()


def test_what_is_not_kept_is_not_left(server, tmp_path):
    server.cut_after = 1000
    with pytest.raises(ConnectionError, match=r"after 1 attempts$"):
        get(server, tmp_path / "a.zip", attempts=1, keep_part=False)
    assert not (tmp_path / "a.zip.part").exists()


def test_broken_connections_are_continued(server, tmp_path):
    server.cut_after = 300_000
    assert get(server, tmp_path / "a.zip", attempts=2).read_bytes() == CONTENT
    assert server.seen == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_second_call_goes_on(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    assert get(server, tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.seen == ["bytes=1000-"]


def test_server_without_ranges_starts_again(server, tmp_path):
    server.ranges = False
    (tmp_path / "a.zip.part").write_bytes(b"x" * 5000)
    assert get(server, tmp_path / "a.zip").read_bytes() == CONTENT


def test_halves_of_two_versions_are_not_joined(server, tmp_path):
    server.cut_after = 1000
    with pytest.raises(ConnectionError):
        get(server, tmp_path / "a.zip", attempts=1)
    server.cut_after, server.content, server.etag = None, CONTENT[::-1], '"two"'
    assert get(server, tmp_path / "a.zip").read_bytes() == CONTENT[::-1]


def test_part_longer_than_the_file_is_dropped(server, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path / "a.zip").read_bytes() == CONTENT


def test_server_trouble_is_retried_but_a_refusal_is_not(server, tmp_path):
    server.codes = [503, 500, 429]
    assert get(server, tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(server.seen) == 4
    server.codes = [404]
    with pytest.raises(ConnectionError, match="the server answers 404"):
        get(server, tmp_path / "b.zip")
    assert len(server.seen) == 5


def test_giving_up_keeps_the_part_and_says_so(server, tmp_path):
    server.cut_after = 0
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:1000])
    with pytest.raises(ConnectionError, match=r"gave up after 3 attempts, 1000 bytes are kept in .*a\.zip\.part"):
        get(server, tmp_path / "a.zip", attempts=3)
    assert len(server.seen) == 3


def test_nobody_listens_and_wrong_address(server, tmp_path):
    server.server_close()
    with pytest.raises(ConnectionError, match="gave up after 2"):
        get(server, tmp_path / "a.zip", attempts=2)
    with pytest.raises(ValueError, match="must begin with http"):
        fetch("file:///etc/passwd", tmp_path / "a.zip")


# ESC-50


def esc50_zip(*, clips=2000, empty=()):
    """An archive with ESC-50's layout; a clip is four bytes."""
    names = [f"{1 + i // 400}-{i}-A-{i % 50}.wav" for i in range(clips)]
    rows = [f"{name},{1 + i // 400},{i % 50},sound{i % 50},False,{i},A" for i, name in enumerate(names)]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("ESC-50-master/README.md", "ESC-50")
        head = "filename,fold,target,category,esc10,src_file,take"
        file.writestr("ESC-50-master/meta/esc50.csv", "\n".join([head, *rows]) + "\n")
        for i, name in enumerate(names):
            file.writestr(f"ESC-50-master/audio/{name}", b"" if i in empty else b"RIFF")
    return buffer.getvalue()


GOOD = esc50_zip()


def esc50(server, root):
    return download_esc50(root, url=server.url, pause_s=0.0)


def test_esc50_is_fetched_unpacked_and_checked_once(server, tmp_path):
    server.content = GOOD
    folder = esc50(server, tmp_path)
    assert folder == tmp_path / "ESC-50-master"
    assert content_fault(folder) == ""
    assert len(list((folder / "audio").iterdir())) == 2000
    assert [path.name for path in tmp_path.iterdir()] == ["ESC-50-master"]
    assert esc50(server, tmp_path) == folder
    assert len(server.seen) == 1


def test_incomplete_folder_is_replaced(server, tmp_path):
    server.content = GOOD
    folder = esc50(server, tmp_path)
    next((folder / "audio").iterdir()).unlink()
    assert "missing or empty" in content_fault(folder)
    assert content_fault(esc50(server, tmp_path)) == ""
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (esc50_zip(clips=1999), "1999 clips in .*expected 2000"),
        (esc50_zip(empty=[77]), "1-77-A-27.wav is missing or empty"),
        (GOOD[:-5000], "damaged zip"),
    ],
    ids=["a clip missing", "a clip empty", "cut off"],
)
def test_wrong_archive_is_deleted(server, tmp_path, content, said):
    server.content = content
    with pytest.raises(ValueError, match=said):
        esc50(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_altered_bytes_are_noticed(server, tmp_path):
    altered = bytearray(GOOD)
    altered[GOOD.index(b"filename,fold")] ^= 1
    server.content = bytes(altered)
    with pytest.raises(ValueError, match="damaged zip"):
        esc50(server, tmp_path)


def test_resumed_download_of_a_changed_file_is_fetched_anew(server, tmp_path):
    server.content, server.etag = GOOD, None
    (tmp_path / "esc50.zip.part").write_bytes(b"x" * 1000)
    assert content_fault(esc50(server, tmp_path)) == ""
    assert server.seen == ["bytes=1000-", None]


def test_wrong_folds(server, tmp_path):
    folder = tmp_path / "ESC-50-master"
    server.content = GOOD
    esc50(server, tmp_path)
    csv = folder / "meta" / "esc50.csv"
    csv.write_text(csv.read_text().replace(".wav,5,", ".wav,4,"))
    assert "folds of" in content_fault(folder)
