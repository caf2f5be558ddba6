"""Where compiled programs are kept between commands, how much of them, and when not."""

import os
from pathlib import Path

import jax
import pytest

from case_jax.cli import compilations
from case_jax.cli.compilations import keep_compilations, remove_oldest


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """What the command has told JAX: settings by name, in an environment that says nothing of it."""
    told = {}
    monkeypatch.setattr(jax.config, "update", told.__setitem__)
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    monkeypatch.setattr(compilations, "cache_folder", lambda: tmp_path / "case_jax")
    for name in ("JAX_COMPILATION_CACHE_DIR", compilations.LEVEL):
        monkeypatch.delenv(name, raising=False)
    return told


def folder(told):
    return told.get("jax_compilation_cache_dir")


def test_programs_are_kept_for_this_user_and_processor(kept, monkeypatch, tmp_path):
    keep_compilations()
    first = folder(kept)
    assert Path(first).stat().st_mode & 0o777 == 0o700
    assert first.startswith(str(tmp_path / "case_jax" / "xla"))
    monkeypatch.setattr(compilations, "processor", lambda: "another")
    keep_compilations()
    assert folder(kept) != first


def test_another_folder_is_the_users_own(kept, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    keep_compilations()
    assert folder(kept) is None
    assert not (tmp_path / "case_jax").exists()


@pytest.mark.parametrize(("level", "keeps"), [(None, False), ("2", False), ("3", True)])
def test_versions_that_log_errors_keep_programs_only_when_silent(kept, monkeypatch, level, keeps):
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 1))
    if level is not None:
        monkeypatch.setenv(compilations.LEVEL, level)
    keep_compilations()
    assert (folder(kept) is not None) == keeps


def test_nothing_is_kept_where_others_may_write_or_nobody_can(kept, monkeypatch, tmp_path):
    keep_compilations()
    Path(kept.pop("jax_compilation_cache_dir")).chmod(0o770)
    keep_compilations()
    assert folder(kept) is None
    (tmp_path / "file").touch()
    monkeypatch.setattr(compilations, "cache_folder", lambda: tmp_path / "file")
    keep_compilations()
    assert folder(kept) is None


def test_a_link_in_place_of_the_folder_keeps_and_removes_nothing(kept, monkeypatch, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_bytes(bytes(100))
    (tmp_path / "case_jax").mkdir()
    (tmp_path / "case_jax" / "xla").symlink_to(tmp_path / "own")
    monkeypatch.setattr(compilations, "LARGEST", 10)
    keep_compilations()
    assert folder(kept) is None
    assert [file.name for file in (tmp_path / "own").iterdir()] == ["thesis.txt"]


def test_the_oldest_programs_go_first(tmp_path):
    for age, name in enumerate(["new", "middle", "old/oldest"]):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(100))
        os.utime(file, (1_000_000 - age,) * 2)
    remove_oldest(tmp_path, 300)
    assert (tmp_path / "old" / "oldest").exists()
    remove_oldest(tmp_path, 299)
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["middle", "new"]
    remove_oldest(tmp_path, 100)
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["new"]
