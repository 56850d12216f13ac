"""What an operator changes in a file of keys: all of it or nothing, and never into a ring that cannot seal."""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.crypto.keys import key, text

from sojourn.crypto.key import State, parse_time
from sojourn.crypto.keyfile import KeyFile
from sojourn.errors import ConfigurationError

NOW = parse_time("2026-05-01T00:00:00Z")
DAY = 86400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def file(path: Path) -> KeyFile:
    file = KeyFile(path)
    file.add(text(1), NOW, NOW)
    return file


def states(file: KeyFile, now: float) -> dict[str, State]:
    return {info.name: info.state for info in file.ring().describe(now)}


def test_a_key_goes_through_its_states(file: KeyFile) -> None:
    one, two = key(1).name, key(2).name
    file.add(text(2), NOW + DAY, NOW)
    assert states(file, NOW) == {one: State.ACTIVE, two: State.DISTRIBUTED}
    assert states(file, NOW + DAY) == {one: State.OPEN_ONLY, two: State.ACTIVE}
    file.retire(one, NOW + DAY, NOW)
    assert states(file, NOW + DAY) == {one: State.OPEN_ONLY, two: State.ACTIVE}
    file.revoke(one, NOW + DAY)
    assert states(file, NOW + DAY) == {one: State.REVOKED, two: State.ACTIVE}
    file.remove(one, NOW + DAY)
    assert states(file, NOW + DAY) == {two: State.ACTIVE}


def test_the_file_is_its_owners_alone_from_the_first_moment_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0)
    modes = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda new, to: (modes.append(os.stat(new).st_mode), replace(new, to)))
    try:
        KeyFile(path).add(text(1), NOW, NOW)
    finally:
        os.umask(old)
    assert [stat.S_IMODE(mode) for mode in (*modes, path.stat().st_mode)] == [0o600, 0o600]


def test_comments_order_and_other_keys_are_kept(path: Path, file: KeyFile) -> None:
    path.write_text(f"# the shop's\n\n{text(1)}   active=2026-04-01T00:00:00Z # April\n{text(2)}\n# end\n")
    file.retire(key(2).name, NOW, NOW)
    file.retire(key(2).name, NOW + DAY, NOW)
    assert path.read_text() == (
        f"# the shop's\n\n{text(1)}   active=2026-04-01T00:00:00Z # April\n"
        f"{text(2)} retired=2026-05-02T00:00:00Z\n# end\n"
    )
    file.add(text(3), NOW, NOW)
    file.revoke(key(1).name, NOW)
    assert f"{text(1)} active=2026-04-01T00:00:00Z revoked  # April\n" in path.read_text()
    assert path.read_text().endswith(f"# end\n{text(3)} active=2026-05-01T00:00:00Z\n")


REFUSED: dict[str, Callable[[KeyFile], None]] = {
    "retire the only key": lambda file: file.retire(key(1).name, NOW + DAY, NOW),
    "revoke the only key": lambda file: file.revoke(key(1).name, NOW),
    "remove the only key": lambda file: file.remove(key(1).name, NOW),
    "add it again": lambda file: file.add(text(1), NOW, NOW),
    "add what is no key": lambda file: file.add("changeme", NOW, NOW),
    "retire a key that is not there": lambda file: file.retire(key(9).name, NOW, NOW),
    "revoke a key that is not there": lambda file: file.revoke("", NOW),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_a_change_that_would_leave_no_key_or_finds_none_changes_nothing(
    path: Path, file: KeyFile, change: Callable[[KeyFile], None]
) -> None:
    before = path.read_bytes()
    with pytest.raises(ConfigurationError) as refused:
        change(file)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert text(1)[20:] not in str(refused.value)


def test_revoking_the_active_key_waits_for_one_that_is_active_now(path: Path, file: KeyFile) -> None:
    """A successor that becomes active tomorrow would be an outage until then."""
    file.add(text(2), NOW + DAY, NOW)
    with pytest.raises(ConfigurationError, match="no key is active"):
        file.revoke(key(1).name, NOW)
    file.add(text(3), NOW, NOW)
    file.revoke(key(1).name, NOW)
    assert file.ring().writing_key(NOW).id == key(3).id


def test_a_first_key_that_is_not_active_yet_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="active already"):
        KeyFile(path).add(text(1), NOW + DAY, NOW)
    assert not path.exists()


def test_a_file_that_others_may_read_is_not_changed(path: Path, file: KeyFile) -> None:
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        file.add(text(2), NOW, NOW)


def test_a_file_without_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere"):
        KeyFile(tmp_path / "nowhere" / "keys").add(text(1), NOW, NOW)


def test_a_full_disk_leaves_the_old_file(path: Path, file: KeyFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        file.add(text(2), NOW, NOW)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_link_to_the_file_stays_a_link(path: Path, file: KeyFile) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    KeyFile(link).add(text(2), NOW, NOW)
    assert link.is_symlink()
    assert len(KeyFile(path).ring().describe(NOW)) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes the files of others")
def test_what_root_changes_the_application_can_still_read(path: Path, file: KeyFile) -> None:
    os.chown(path, 1234, 1235)
    file.add(text(2), NOW, NOW)
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 1235, 0o600)


def add_keys(path: Path, first: int) -> None:
    for number in range(first, first + 10):
        KeyFile(path).add(text(number), NOW, NOW)


def test_changes_of_several_operators_at_one_time_are_all_made(path: Path, file: KeyFile) -> None:
    context = multiprocessing.get_context("spawn")
    operators = [context.Process(target=add_keys, args=(path, first)) for first in (100, 200, 300)]
    for operator in operators:
        operator.start()
    for operator in operators:
        operator.join()
    assert [operator.exitcode for operator in operators] == [0, 0, 0]
    assert len(file.ring().describe(NOW)) == 31
