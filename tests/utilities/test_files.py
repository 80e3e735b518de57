"""Files that are written whole or not at all."""

import errno

import pytest

from lit_cascade import CascadeError, UsageError
from lit_cascade.utilities.files import open_atomically, remove_temporary_files


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(error):
        with open_atomically(path, tmp_path) as file:
            file.write(b"half")
            assert path.read_bytes() == b"old"
            if error is not None:
                raise error

    for error, kind in (
        (OSError(errno.ENOSPC, "No space"), CascadeError),
        (OSError(errno.EACCES, "Denied"), UsageError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):
        with pytest.raises(kind):
            write(error)
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]
    write(None)
    assert path.read_bytes() == b"half"
    mine = [tmp_path / name for name in (".file.abcd_123", ".files.abcd_123", ".file.abc")]
    for one in mine:
        one.write_bytes(b"")
    remove_temporary_files(tmp_path, ["file"])
    assert sorted(tmp_path.iterdir()) == sorted([path, *mine[1:]])
