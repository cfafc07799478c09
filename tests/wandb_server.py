"""A W&B server on the loopback: speaks as much as the client asks, and keeps what arrives.

It answers what a run, its resumption, its artifacts, `wandb sync`, and a sweep with its agents ask.
What it does not know it refuses, as the real one would, and notes in `unknown`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

from tests import wandb_sweeps
from tests.wandb_sweeps import StoredSweep

KEY = "0123456789" * 4
ENTITY = "team"


@dataclass
class StoredRun:
    """A run as the server has it."""

    fields: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)
    preempted: int = 0
    resumed: int = 0
    """How often a sweep's agent was told to go on with it."""

    def steps(self, kind: str = "train") -> list[int]:
        """The steps of the rows of a kind, as they arrived."""
        return [row[f"{kind}/step"] for row in self.history if f"{kind}/step" in row]


class WandbServer:
    """Serves on a free port of the loopback while it is entered."""

    def __init__(self) -> None:
        self.status = 200
        """What every request is answered with; beside 200, it is refused."""
        self.key = KEY
        self.goes_on = Event()
        """While it is not set, every request waits."""
        self.goes_on.set()
        self.runs: dict[str, StoredRun] = {}
        self.refused: set[str] = set()
        """Operations that are answered with an error."""
        self.deleted: set[str] = set()
        """Ids of runs that somebody has deleted in the browser."""
        self.files: dict[str, bytes] = {}
        self.artifacts: list[dict[str, Any]] = []
        self.alerts: list[dict[str, Any]] = []
        self.projects = ["lenet-dist"]
        self.reports: dict[str, dict[str, Any]] = {}
        self.sweeps: dict[str, StoredSweep] = {}
        self.asked: list[str] = []
        self.unknown: list[str] = []
        self._is_gone = False
        self._lock = Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def run(self) -> StoredRun:
        """The only run there is."""
        (run,) = self.runs.values()
        return run

    def environment(self) -> dict[str, str]:
        """Variables by which a client finds it."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def __enter__(self) -> WandbServer:
        Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Be gone: connections are refused from now on, and those that stand say nothing more."""
        self._is_gone = True
        self.goes_on.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, method: str, path: str, key: str, body: bytes) -> tuple[int, Any]:
        """The status and the JSON that answer a request. Raises ConnectionError when gone."""
        self.goes_on.wait()
        with self._lock:
            if self._is_gone:
                raise ConnectionError
            if self.status != 200:
                return self.status, {"error": "as the test wishes"}
            if path.startswith("/storage/"):
                self.files[path.removeprefix("/storage/")] = body
                return 200, {}
            if key != self.key:
                return 401, {"error": "wrong key"}
            if path == "/graphql":
                query = json.loads(body)
                name = (query.get("variables") or {}).get("name")
                if name in self.deleted and "UpsertBucket" in query["query"]:
                    self.asked.append("UpsertBucket")
                    text = "run was previously created and deleted; try a new run name"
                    return 409, {"errors": [{"message": text}]}
                return 200, self._answer_query(query)
            if stream := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", path):
                return 200, self._take_rows(stream[1], json.loads(body))
            self.unknown.append(f"{method} {path}")
            return 404, {}

    def _answer_query(self, request: dict[str, Any]) -> dict[str, Any]:
        name = re.search(r"(?:query|mutation) (\w+)", request["query"])
        operation = name[1] if name else request["query"]
        self.asked.append(operation)
        answer = _ANSWERS.get(operation)
        if operation in self.refused:
            return {"data": None, "errors": [{"message": f"{operation}: as the test wishes"}]}
        if operation in _ALWAYS:
            return {"data": _ALWAYS[operation]}
        if answer is None:
            self.unknown.append(f"{operation} {json.dumps(request)}")
            return {"data": None, "errors": [{"message": f"{operation} is not known here"}]}
        return {"data": answer(self, request.get("variables") or {})}

    def _take_rows(self, identity: str, sent: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[identity]
        for name, part in sent.get("files", {}).items():
            rows = [json.loads(text) for text in part["content"]] if name != "output.log" else []
            first = part["offset"]
            if name == "wandb-history.jsonl":
                run.history[first : first + len(rows)] = rows
            elif name == "wandb-events.jsonl":
                run.events[first : first + len(rows)] = rows
            elif name == "wandb-summary.json":
                run.summary = rows[-1]
        run.preempted += bool(sent.get("preempting"))
        if sent.get("complete"):
            run.exit_codes.append(sent["exitcode"])
            was_preempted = sent["exitcode"] and run.preempted > run.resumed
            if was_preempted and (sweep := run.fields.get("sweep")):
                run.resumed += 1
                self.sweeps[sweep].give_again(identity)
        return {"limits": {}}


def _handler_for(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            """Not on the terminal."""

        def respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = self.headers.get("Authorization", "")
            status, answer = server.answer(self.command, self.path, _key_in(given), body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = respond  # noqa: N815 (http.server's names)

    return Handler


def _key_in(authorization: str) -> str:
    kind, _, value = authorization.partition(" ")
    return base64.b64decode(value).decode().partition(":")[2] if kind == "Basic" else value


def _project(name: str) -> dict[str, Any]:
    return {"id": "p", "name": name, "entity": {"id": "e", "name": ENTITY}}


def _facts(run: StoredRun, name: str) -> dict[str, Any]:
    """What every answer about a run has."""
    return {
        "id": name, "name": name, "displayName": run.fields.get("displayName"), "tags": [],
        "summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config),
        "historyLineCount": len(run.history), "notes": None,
    }  # fmt: skip


def _resume_status(server: WandbServer, asked: dict[str, Any]) -> Any:
    run = server.runs.get(asked["name"])
    bucket = run and {
        **_facts(run, asked["name"]),
        "eventsLineCount": len(run.events),
        "logLineCount": 0,
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        "eventsTail": json.dumps([json.dumps(row) for row in run.events[-1:]]),
        # By this the client sees that the run has begun.
        "wandbConfig": json.dumps({"t": run.config["_wandb"]["value"]["t"]}),
    }
    return {"model": {**_project(asked["project"]), "bucket": bucket}}


def _public_run(server: WandbServer, asked: dict[str, Any]) -> Any:
    run = server.runs[asked["name"]]
    last = run.history[-1]["_step"] if run.history else -1
    more = {
        "projectId": "7", "sweepName": None, "state": "finished", "group": None, "jobType": None,
        "commit": None, "readOnly": False, "createdAt": "2026-01-01T00:00:00", "heartbeatAt": None,
        "description": None, "systemMetrics": "{}", "historyKeys": {"lastStep": last},
        "user": {"name": "Someone", "username": "someone"},
    }  # fmt: skip
    return {"project": {"run": _facts(run, asked["name"]) | more}}


def _upsert_run(server: WandbServer, asked: dict[str, Any]) -> Any:
    inserted = asked["name"] not in server.runs
    run = server.runs.setdefault(asked["name"], StoredRun())
    run.fields |= {name: value for name, value in asked.items() if value is not None}
    if asked.get("config"):
        run.config = json.loads(asked["config"])
    bucket = _facts(run, asked["name"]) | {"project": _project(asked["project"])}
    return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}


def _run_files(server: WandbServer, asked: dict[str, Any]) -> Any:
    files = [
        {"name": name, "uploadUrl": f"{server.url}/storage/{asked['run']}/{name}"}
        for name in asked["files"]
    ]
    made = {"runID": asked["run"], "uploadHeaders": [], "files": files}
    return {"createRunFiles": made}


def _create_artifact(server: WandbServer, asked: dict[str, Any]) -> Any:
    server.artifacts.append(asked["input"])
    artifact = {"id": str(len(server.artifacts)), "state": "PENDING", "artifactSequence": {}}
    return {"createArtifact": {"artifact": artifact}}


def _create_manifest(server: WandbServer, asked: dict[str, Any]) -> Any:
    place = f"{server.url}/storage/artifacts/{asked['artifactID']}/{asked['name']}"
    file = {"id": "f", "uploadUrl": place, "uploadHeaders": []}
    return {
        "createArtifactManifest": {"artifactManifest": {"id": asked["artifactID"], "file": file}}
    }


def _artifact_files(server: WandbServer, asked: dict[str, Any]) -> Any:
    nodes = []
    for file in asked["input"]["artifactFiles"]:
        place = f"artifacts/{file['artifactID']}/{file['name']}"
        node = {"storagePath": place, "uploadUrl": f"{server.url}/storage/{place}"}
        artifact = {"id": file["artifactID"]}
        nodes.append({"node": node | {"uploadHeaders": [], "artifact": artifact}})
    return {"createArtifactFiles": {"files": {"edges": nodes}}}


def _commit_artifact(server: WandbServer, asked: dict[str, Any]) -> Any:
    server.artifacts[int(asked["artifactID"]) - 1]["is_committed"] = True
    return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": ""}}}


def _alert(server: WandbServer, asked: dict[str, Any]) -> Any:
    server.alerts.append(asked)
    return {"notifyScriptableRunAlert": {"success": True}}


def _projects(server: WandbServer, asked: dict[str, Any]) -> Any:
    facts = {"id": "p", "entityName": ENTITY, "createdAt": "", "isBenchmark": False, "user": None}
    edges = [{"cursor": "c", "node": {"name": name, **facts}} for name in server.projects]
    return {"models": {"edges": edges, "pageInfo": {"endCursor": "c", "hasNextPage": False}}}


def _upsert_report(server: WandbServer, asked: dict[str, Any]) -> Any:
    identity = asked["id"] or f"report{len(server.reports)}"
    inserted = identity not in server.reports
    server.reports[identity] = asked
    kept = {name: asked[name] for name in ("type", "name", "displayName", "description", "spec")}
    project = {"id": "p", "name": asked["projectName"], "entityName": asked["entityName"]}
    view = {"id": identity, "project": project, "updatedAt": "2026-01-01T00:00:00", **kept}
    return {"upsertView": {"view": view, "inserted": inserted}}


_VIEWER = {"viewer": {"id": "u", "entity": ENTITY, "username": "someone", "flags": "{}"}}

_ALWAYS: dict[str, dict[str, Any]] = {
    "Viewer": _VIEWER,
    "GetDefaultEntity": _VIEWER,
    "ServerFeaturesQuery": {"serverInfo": {"features": []}},
    "OrganizationCoreWeaveOrganizationID": {
        "entity": {"organization": {"coreWeaveOrganizationId": None}}
    },
    "ProjectInternalId": {"project": {"id": "p", "internalId": "7"}},
    "ArtifactType": {"project": {"artifact": None}},
}
"""Answers that do not depend on what the server has."""

_ANSWERS: dict[str, Callable[[WandbServer, dict[str, Any]], Any]] = {
    "RunResumeStatus": _resume_status,
    "Run": _public_run,
    "RunHistoryKeys": _public_run,
    "UpsertBucket": _upsert_run,
    "CreateRunFiles": _run_files,
    "CreateArtifact": _create_artifact,
    "CreateArtifactManifest": _create_manifest,
    "UpdateArtifactManifest": _create_manifest,
    "CreateArtifactFiles": _artifact_files,
    "CommitArtifact": _commit_artifact,
    "NotifyScriptableRunAlert": _alert,
    "GetProjects": _projects,
    "upsertView": _upsert_report,
    **wandb_sweeps.ANSWERS,
}
