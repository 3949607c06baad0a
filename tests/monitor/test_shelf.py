"""Records that wait for their step lie in files of their batch."""

from pathlib import Path

from services.monitor.history.shelf import FOLDER, Shelf, Spot, read_spot


def test_records_are_found_again_and_files_go_when_nothing_in_them_waits(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first, second = shelf.put([b"one", b"", b"three"]), shelf.put([b"four"])
    assert [read_spot(tmp_path, spot) for spot in first + second] == [b"one", b"", b"three", b"four"]
    shelf.keep({second[0].file})
    assert read_spot(tmp_path, first[0]) is None
    assert read_spot(tmp_path, second[0]) == b"four"
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_a_new_writer_overwrites_nothing(tmp_path: Path) -> None:
    (old,) = Shelf(tmp_path).put([b"old"])
    (new,) = Shelf(tmp_path).put([b"new"])
    assert (read_spot(tmp_path, old), read_spot(tmp_path, new)) == (b"old", b"new")
    assert Shelf(tmp_path / "none").put([]) == []
    assert read_spot(tmp_path, Spot(99, 0, 1)) is None
