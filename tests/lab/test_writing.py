"""What a full disk, or another error, leaves of files that are written."""

import shutil
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from lab.errors import UserError, is_full_disk, run_command
from lab.writing import beside, new_file, new_files, new_folder, write_atomically

FULL = Path("/dev/full")  # every write to it fails as on a full disk
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")


def write_text(path: Path):
    FULL.write_text("new", encoding="utf-8")


def write_weights(path: Path):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def copy_folder(path: Path):
    (path.parent / "from").mkdir()
    for name in ("c", "d"):
        (path.parent / "from" / name).write_text("new")
    shutil.copytree(path.parent / "from", path.parent / "to", copy_function=lambda *names: write_text(path))


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("write", [write_text, write_weights, copy_folder])
@pytest.mark.parametrize("kind", ["file", "files", "folder"])
def test_what_was_there_stays_where_new_files_cannot_be_written(tmp_path, write, kind):
    (tmp_path / "a.json").write_text("old")
    opened = {"file": new_file(tmp_path / "a.json"), "files": new_files(tmp_path), "folder": new_folder(tmp_path / "b")}
    message = r"cannot be written \(.*\): make room there, or name another"
    with pytest.raises(UserError, match=message) as caught, opened[kind] as unfinished:
        folder = unfinished if unfinished.is_dir() else unfinished.parent
        (folder / "a.json").write_text("new")
        write(folder / "b.json")
    assert "\n" not in str(caught.value) and str(caught.value).count("No space left on device") == 1
    assert contents(tmp_path) == {"a.json": "old"} and len(list(tmp_path.iterdir())) == 1


def test_new_files_replace_those_of_their_names(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("old")
    with new_files(tmp_path, stale=("b", "none")) as unfinished:
        (unfinished / "a").write_text("new")
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "d").write_text("new")
        assert contents(tmp_path)["a"] == "old"
    assert contents(tmp_path) == {"a": "new", "c": "old", "deep/d": "new"}
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "c").stat().st_mode


def test_a_new_file_follows_links_and_leaves_devices(tmp_path, capfd):
    (tmp_path / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with new_file(tmp_path / "link") as unfinished:
        unfinished.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_text() == "new"
    with new_file(Path("/dev/null")) as unfinished:
        unfinished.write_text("new")
    assert Path("/dev/null").is_char_device()


def test_a_new_folder_is_open_to_others(tmp_path):
    (tmp_path / "other").mkdir()
    with new_folder(tmp_path / "deep" / "new") as unfinished:
        (unfinished / "a").write_text("new")
        assert not (tmp_path / "deep" / "new").exists()
    assert contents(tmp_path) == {"deep/new/a": "new"} and len(list((tmp_path / "deep").iterdir())) == 1
    assert (tmp_path / "deep" / "new").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("writing", [beside, new_files])
def test_other_errors_are_what_they_were(tmp_path, writing):
    with pytest.raises(ValueError, match="odd"), writing(tmp_path) as unfinished:
        (unfinished / "a").write_text("new")
        raise ValueError("odd")
    assert not list(tmp_path.iterdir())


def test_a_text_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", "old")
    monkeypatch.setattr(Path, "write_text", lambda path, *arguments, **options: write_bytes(path))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", "new")
    assert contents(tmp_path) == {"a": "old"}


def write_bytes(path: Path):
    path.touch()
    FULL.write_bytes(b"new")


def test_a_full_disk_ends_any_command_with_one_line():
    with pytest.raises(SystemExit, match=r"^error: the disk is full \(\[Errno 28\] .*\): make room, then repeat"):
        run_command(lambda: FULL.write_bytes(b"new"))
    with pytest.raises(FileNotFoundError):
        run_command(lambda: Path("/none").read_bytes())
    assert is_full_disk(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
