"""A stand-in of W&B's server on the loopback, for the real `wandb sweep`, `wandb agent` and online runs.

It hands out the cells of a grid, one at a time, and keeps what runs send: config, history, summary.
"""

import itertools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

ENTITY, PROJECT, SWEEP = "somebody", "diffexp", "swp00001"


class WandbServer:
    """Listens on a free port of 127.0.0.1 from `start` to `stop`.

    Attributes:
        sweeps: the YAML texts of the sweeps that were made.
        views: the variables of the saved views, their "spec" as data.
        runs: by id, what is known of each: "upserts" (variables of UpsertBucket), "history", "summary", "exit".
        handed_out: the parameters of every run that an agent was told to run, by id.
    """

    def __init__(self):
        self.sweeps = []
        self.runs = {}
        self.handed_out = {}
        self.operations = []
        self.views = []
        self._cells = iter(())
        self.failing = None
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def environment(self):
        return {
            "WANDB_BASE_URL": f"http://127.0.0.1:{self._server.server_port}",
            "WANDB_API_KEY": "a" * 40,
            "WANDB_MODE": "online",
            "WANDB_ENTITY": ENTITY,
            "WANDB_PROJECT": PROJECT,
        }

    def start(self):
        self._thread.start()
        return self

    def stop(self):
        self._server.shutdown()
        self._server.server_close()

    def fail(self, how):
        """From now on answer 500, or never, or be gone."""
        self.failing = how
        if how == "gone":
            self.stop()

    def answer(self, query, variables):
        """The data of one GraphQL operation, told by what the query asks for."""
        with self._lock:
            self.operations.append(query.split("(")[0].split("{")[0].strip())
            if "upsertSweep" in query:
                return self._make_sweep(variables)
            if "upsertView" in query:
                self.views.append({**variables, "spec": json.loads(variables["spec"])})
                return {"upsertView": {"view": {"id": "v", "name": variables["name"]}, "inserted": True}}
            if "createAgent" in query:
                return {"createAgent": {"agent": {"id": "agent1"}}}
            if "agentHeartbeat" in query:
                return {"agentHeartbeat": {"agent": {"id": "agent1"}, "commands": json.dumps(self._next(variables))}}
            if "upsertBucket" in query:
                return self._upsert(variables)
            if "sweep(" in query:
                return {"project": {"sweep": self._sweep()}}
            if "createRunFiles" in query:
                return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []}}
            if "serverInfo" in query or "ServerInfo" in query:
                return {"serverInfo": {"cliVersionInfo": {"max_cli_version": "99.0.0"}, "latestLocalVersionInfo": None}}
            if "query Run(" in query or "query RunFullHistory(" in query:
                return {"project": {"run": self._recorded(variables["name"])}}
            if "RunResumeStatus" in query or "bucket(name" in query:
                return {"model": {"bucket": None, "project": {"id": "p", "name": PROJECT}, "entity": {"name": ENTITY}}}
            return {"viewer": _viewer(), "project": None, "__type": None}

    def _make_sweep(self, variables):
        self.sweeps.append(variables["config"])
        content = yaml.safe_load(variables["config"])
        self._cells = iter(list(grid(content["parameters"])))
        made = {"name": SWEEP, "project": {"name": PROJECT, "entity": {"name": ENTITY}}}
        return {"upsertSweep": {"sweep": made, "configValidationWarnings": []}}

    def _sweep(self):
        text = self.sweeps[-1] if self.sweeps else ""
        return {"id": SWEEP, "name": SWEEP, "state": "RUNNING", "config": text, "method": "grid", "runs": {"edges": []}}

    def _next(self, variables):
        """What the agent is to do: nothing while it runs something, else the next cell, else to go."""
        running = variables.get("runState") or "{}"
        if any((json.loads(running) if isinstance(running, str) else running).values()):
            return []
        cell = next(self._cells, None)
        if cell is None:
            return [{"type": "exit"}]
        run_id = f"cell{len(self.handed_out):04d}"
        self.handed_out[run_id] = cell
        return [
            {
                "type": "run",
                "run_id": run_id,
                "program": "diffexp",
                "args": {key: {"value": v} for key, v in cell.items()},
            }
        ]

    def _upsert(self, variables):
        run = self.run(variables["name"])
        run["upserts"].append(variables)
        return {
            "upsertBucket": {
                "bucket": {
                    "id": variables["name"],
                    "name": variables["name"],
                    "displayName": variables.get("displayName") or variables["name"],
                    "description": "",
                    "config": variables.get("config") or "{}",
                    "sweepName": SWEEP if variables["name"] in self.handed_out else None,
                    "project": {"id": "p", "name": PROJECT, "entity": {"id": "e", "name": ENTITY}},
                    "historyLineCount": 0,
                },
                "inserted": len(run["upserts"]) == 1,
            }
        }

    def run(self, run_id):
        """What is known of a run."""
        return self.runs.setdefault(run_id, {"upserts": [], "history": [], "summary": {}, "exit": None, "flags": []})

    def stream(self, run_id, content):
        """Keep what a run streams."""
        with self._lock:
            run = self.run(run_id)
            for name, chunk in (content.get("files") or {}).items():
                lines = [json.loads(line) for line in chunk["content"]] if name != "output.log" else []
                if name == "wandb-history.jsonl":
                    run["history"] += lines
                elif name == "wandb-summary.json" and lines:
                    run["summary"].update(lines[-1])
            if content.get("preempting"):
                run["flags"].append("preempting")
            if content.get("complete"):
                run["exit"] = content.get("exitcode")

    def _recorded(self, run_id):
        """A run as W&B's API reads it; None if there is none."""
        if run_id not in self.runs:
            return None
        config = {key: {"value": value} for key, value in self.config(run_id).items()}
        return {
            "id": run_id,
            "projectId": "1",
            "name": run_id,
            "state": "finished",
            "config": json.dumps(config),
            "summaryMetrics": json.dumps(self.runs[run_id]["summary"]),
            "systemMetrics": "{}",
            "historyKeys": None,
            "history": [json.dumps(row) for row in self.runs[run_id]["history"]],
            "historyLineCount": len(self.runs[run_id]["history"]),
        }

    def config(self, run_id):
        """A run's config as the dashboard shows it."""
        config = {}
        for variables in self.runs[run_id]["upserts"]:
            for key, entry in json.loads(variables.get("config") or "{}").items():
                config[key] = entry["value"] if isinstance(entry, dict) and "value" in entry else entry
        return config

    def latest(self, run_id, key):
        """The last value of an upserted variable: displayName, groupName, jobType, tags, …"""
        values = [variables.get(key) for variables in self.runs[run_id]["upserts"] if variables.get(key)]
        return values[-1] if values else None


def grid(parameters):
    """The cells of a grid, nested."""
    names, choices = list(parameters), []
    for spec in parameters.values():
        if "parameters" in spec:
            choices.append(list(grid(spec["parameters"])))
        else:
            choices.append(spec["values"] if "values" in spec else [spec["value"]])
    return [dict(zip(names, cell, strict=True)) for cell in itertools.product(*choices)]


def _viewer():
    return {
        "id": "viewer",
        "entity": ENTITY,
        "username": ENTITY,
        "email": "somebody@example.com",
        "flags": "{}",
        "teams": {"edges": [{"node": {"name": ENTITY}}]},
    }


def _handler(server):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if server.failing == "never":
                time.sleep(3600)
            if server.failing:
                return self.send_error(500)
            if not self.path.endswith(("/graphql", "/file_stream")):
                return self._send({})  # what the client tells of itself
            content = json.loads(body)
            if self.path.endswith("/graphql"):
                answer = {"data": server.answer(content["query"], content.get("variables") or {})}
            else:
                server.stream(self.path.split("/")[-2], content)
                answer = {"limits": {}}
            return self._send(answer)

        def do_GET(self):
            self._send({})

        def do_PUT(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._send({})

        def _send(self, answer):
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    return Handler
