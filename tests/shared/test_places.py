"""Patterns of a job as files: found once in a fixed order, never outside the roots, never without an end."""

import os
from pathlib import Path

import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from shared.errors import BadData
from shared.samples import places
from shared.samples.files import open_files, read_group
from shared.samples.places import ANYWHERE, Place, Roots, find, parse_place
from tests.data.rows import math_row, write

SUFFIXES = (".parquet", ".jsonl")


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return str(path)


def found(pattern: Path | str, roots: Roots = ANYWHERE) -> list[str]:
    return [str(place) for place in find(str(pattern), roots=roots, suffixes=SUFFIXES)]


def test_files_folders_and_patterns_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    b, a = touch(tmp_path / "d/b.parquet"), touch(tmp_path / "d/sub/a.parquet")
    touch(tmp_path / "d/.hidden.parquet")
    assert found(b) == [b]
    assert found(tmp_path / "d/*.parquet") == [b]
    assert found(tmp_path / "d/**/*.parquet") == [b, a]
    assert found(tmp_path / "[dx]/s?b/*") == [a]
    assert found(tmp_path.as_uri() + "/d/*.parquet") == [b]


def test_of_a_folder_those_with_the_first_suffix_count(tmp_path: Path) -> None:
    row, group = touch(tmp_path / "d/rows.jsonl"), touch(tmp_path / "e/deep/a.parquet")
    touch(tmp_path / "e/rows.jsonl")
    touch(tmp_path / "d/cache-1.jsonl")
    assert found(tmp_path / "d") == [row]
    assert found(tmp_path / "e") == [group]


def test_relative_paths_begin_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "d/a.parquet")
    monkeypatch.chdir(tmp_path)
    assert found("d") == found("./d/*") == found("**/*.parquet") == ["d/a.parquet"]


@pytest.mark.parametrize("pattern", ["rows.jsonl", "./rows.jsonl", "d/../rows.jsonl"])
def test_what_lies_beside_a_file_of_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    touch(tmp_path / "rows.jsonl")
    (tmp_path / "a.png").write_bytes(b"image")
    monkeypatch.chdir(tmp_path)
    (file,) = find(pattern, roots=ANYWHERE, suffixes=SUFFIXES)
    with parse_place("a.png", base=file.folder).open() as image:
        assert image.read() == b"image"
    assert str(Place("/rows.jsonl").folder) == "/"


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "an empty path"),
        ("\0", "null byte"),
        ("none.parquet", "no such file or folder"),
        ("no*.parquet", "nothing matches"),
        ("x" * 5000, "cannot be read|no such file"),
        ("e", "no data file; expected names that end in .parquet, .jsonl"),
        ("nothing://bucket/a", "nothing:// opens no file system; expected s3://"),
    ],
)
def test_what_names_no_file_is_one_sentence(tmp_path: Path, pattern: str, reason: str) -> None:
    (tmp_path / "e").mkdir()
    text = pattern if "://" in pattern or not pattern else f"{tmp_path}/{pattern}"
    with pytest.raises(BadData, match=reason) as raised:
        find(text, suffixes=SUFFIXES)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("pattern", ["out", "out/*", "in/../out/*", "**/b*", "in/link.parquet", "in/folder/*", "in"])
def test_nothing_outside_the_roots_is_named(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path / "in/a.parquet")
    outside = touch(tmp_path / "out/b.parquet")
    (tmp_path / "in/link.parquet").symlink_to(outside)
    (tmp_path / "in/folder").symlink_to(tmp_path / "out")
    with pytest.raises(BadData, match="outside the data roots") as raised:
        find(f"{tmp_path}/{pattern}", roots=Roots.of([str(tmp_path / "in")]), suffixes=SUFFIXES)
    assert "b.parquet" not in str(raised.value)


def test_no_folder_outside_the_roots_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "in/a.parquet")
    read: list[str] = []
    list_ = places._Walk._list
    monkeypatch.setattr(places._Walk, "_list", lambda walk, folder: read.append(folder.path) or list_(walk, folder))
    roots = Roots.of([str(tmp_path / "in")])
    for pattern in ("/**", "/*/*", f"{tmp_path}/**/*.parquet"):
        with pytest.raises(BadData, match="outside"):
            find(pattern, roots=roots)
    assert read == []
    assert found(tmp_path / "in/*", roots) == [str(tmp_path / "in/a.parquet")]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    one = touch(tmp_path / "d/a.parquet")
    (tmp_path / "d/again").symlink_to(tmp_path / "d")
    assert found(tmp_path / "d") == found(tmp_path / "d/**/*.parquet") == [one]


def test_a_pattern_with_too_many_matches_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_FILES", 2)
    for name in "abc":
        touch(tmp_path / f"{name}.parquet")
    with pytest.raises(BadData, match="more than 2 files"):
        find(f"{tmp_path}/*.parquet")


@pytest.mark.parametrize(
    ("text", "place", "shown"),
    [
        (
            "s3://key:secret@bucket/a/b?region=x",
            Place("bucket/a/b", "s3://key:secret@bucket?region=x"),
            "s3://bucket/a/b",
        ),
        ("hf://datasets/o/n@main/x", Place("datasets/o/n@main/x", "hf://"), "hf://datasets/o/n@main/x"),
        ("file:///tmp/a%20b", Place("/tmp/a b"), "/tmp/a b"),
        ("/a/./b/../c", Place("/a/c"), "/a/c"),
        ("../a", Place("../a"), "../a"),
    ],
)
def test_a_uri_is_a_path_inside_a_file_system_and_shows_no_secret(text: str, place: Place, shown: str) -> None:
    assert parse_place(text) == place and str(place) == shown


def test_a_path_in_a_file_begins_in_its_folder() -> None:
    here, there = Place("/data/train"), Place("bucket/train", "s3://bucket")
    assert parse_place("images/a.png", base=here) == Place("/data/train/images/a.png")
    assert parse_place("/x/a.png", base=here) == Place("/x/a.png")
    assert parse_place("../a.png", base=there) == Place("bucket/a.png", "s3://bucket")
    assert parse_place("s3://other/a.png", base=here) == Place("other/a.png", "s3://other")
    with pytest.raises(BadData, match=r"absolute path /etc/a\.png in a file of s3://"):
        parse_place("/etc/a.png", base=there)


def test_roots_may_be_uris() -> None:
    roots = Roots.of(["/data", "s3://bucket/mine"])
    assert roots.allow(parse_place("s3://bucket/mine/a")) and not roots.allow(parse_place("s3://bucket/minerals/a"))
    assert not roots.allow(parse_place("s3://bucket/mine/../a"))
    assert roots.allow(Place("/data")) and not roots.allow(Place("/database"))
    assert Roots().allow(Place("/anywhere"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    touch(tmp_path / "d/a.parquet")
    (tmp_path / "d").chmod(0)
    with pytest.raises(BadData, match="cannot be read"):
        found(tmp_path / "d")
    (tmp_path / "d").chmod(0o755)


def test_a_hub_name_is_read_through_the_hubs_own_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is replaced by a folder that is laid out as the hub's tree: nothing is reached from here."""
    write(tmp_path / "datasets/owner/name/data/train.parquet", [math_row(i) for i in range(3)])
    touch(tmp_path / "datasets/owner/name/README.md")
    monkeypatch.setattr("huggingface_hub.HfFileSystem", lambda: DirFileSystem(str(tmp_path), LocalFileSystem()))
    places._file_system.cache_clear()
    (file,) = open_files(["hf://datasets/owner/name"])
    assert (str(file.place), file.rows) == ("hf://datasets/owner/name/data/train.parquet", 3)
    assert [row["extra_info"]["id"] for row in read_group(file, 0)] == ["numbers/0", "numbers/1", "numbers/2"]
    assert [str(place) for place in find("hf://datasets/owner/*/data/*.parquet")] == [str(file.place)]
    places._file_system.cache_clear()
