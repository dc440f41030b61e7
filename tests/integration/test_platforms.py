"""What differs on macOS: worker processes that are spawned, not forked."""

import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.helpers.small import SMALL, diffexp, metrics

SPAWN = "import multiprocessing\n\nmultiprocessing.set_start_method('spawn', force=True)\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["folder", "images.zip"])
def test_spawned_workers_read_the_same_images(name, tmp_path):
    (tmp_path / "spawning.py").write_text(SPAWN)
    source = np.random.default_rng(0)
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for number in range(24):
            file = tmp_path / "folder" / f"{number}.png"
            Image.fromarray(source.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
            archive.write(file, file.name)
    data = f"data={{'name': 'image_folder', 'path': '{name}', 'image_size': 8, 'channels': 1, 'memory_gb': 0}}"
    keys = [*SMALL, data, "model.network.attention_resolutions=[4]", "training.max_steps=4", "sample_grid=null"]
    diffexp("train", "image_folder", *keys, "run_dir=here", cwd=tmp_path)
    spawned = [*keys, "data.num_workers=1", "run_dir=spawned", "--plugin", "spawning"]
    # not forked from another process, whose module the spawned one would import
    command = [sys.executable, "-m", "diffexp", "train", "image_folder", *spawned]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=200)
    losses = [[row.get("train/loss") for row in metrics(tmp_path / run)] for run in ("here", "spawned")]
    assert losses[0] == losses[1]
    assert any(losses[0])
