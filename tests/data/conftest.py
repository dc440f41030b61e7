from pathlib import Path

import pytest

from tests.helpers.image_places import Pack, write_folder, write_zip


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What loading leaves in the cache is each test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DIFFEXP_CACHE", str(folder))
    return folder


@pytest.fixture(params=["folder", "zip"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Pack:
    """Writes files to a folder or a zip and returns its path."""
    return (
        (lambda files: write_folder(tmp_path / "images", files))
        if request.param == "folder"
        else (lambda files: write_zip(tmp_path / "images.zip", files))
    )
