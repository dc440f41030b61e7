"""The files of a training that was scored."""

import json

from diffexp.runs.influences import write_influences

NAME = "fd_digits_v1_100"


def scored_run(path, value, seed=0, lr=1e-3, step=8, influence=None, protocol="p"):
    """Write the files of a training that was scored at a step."""
    (path / "scores").mkdir(parents=True, exist_ok=True)
    config = f"name: {path.name}\ndata: {{name: digits}}\nseed: {seed}\noptim: {{lr: {lr}}}\n"
    (path / "config.yaml").write_text(config)
    (path / "status.json").write_text(json.dumps({"state": "finished", "step": step, "steps": step}))
    row = {"step": step, f"score/ddim-5-eta0-ema/{NAME}": value, f"score/{NAME}_best": value, "train/loss": value / 10}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    scores = {"count": 100, "fd": {"value": value, "error": None if influence is None else influence.error}}
    scored = {"label": "ddim-5-eta0", "network_calls": 5, "seconds": 1.0, "scores": scores}
    content = {"step": step, "weights": "ema", "seed": 0, "protocol": protocol, "scores": {"ddim-5": scored}}
    (path / "scores" / f"step-{step:08d}.json").write_text(json.dumps(content))
    if influence is not None:
        write_influences(path / "scores" / f"step-{step:08d}.npz", {"ddim-5/fd": influence})
