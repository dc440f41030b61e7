import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What loading leaves in the cache is each test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DIFFEXP_CACHE", str(folder))
    return folder
