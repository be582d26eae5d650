"""A small Hub on loopback: the part of its HTTP interface that uploads and downloads of models use."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote

TOKEN = "hf_secretTokenOfTheTests"


class Hub:
    """What the server holds and has seen."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.commits: list[str] = []
        self.requests: list[str] = []
        self.refuse_commits = False
        self.token = TOKEN
        self.address = ""
        self.sha = "c" * 40
        # Repositories as they were at earlier commits.
        self.history: dict[tuple[str, str], dict[str, bytes]] = {}

    def forget(self) -> None:
        """Be as new, at the same address."""
        address = self.address
        self.__init__()  # type: ignore[misc]
        self.address = address

    def move_on(self, sha: str) -> None:
        """From now on all repositories are at another commit; what they held before is asked for by its own."""
        self.history |= {(name, self.sha): dict(files) for name, files in self.repositories.items()}
        self.sha = sha

    def files_of(self, name: str, revision: str) -> tuple[dict[str, bytes] | None, str]:
        """What a repository held at a revision, and the commit."""
        if (name, revision) in self.history:
            return self.history[name, revision], revision
        return self.repositories.get(name), self.sha

    @property
    def environment(self) -> dict[str, str]:
        """Variables that point the real client here."""
        return {
            "HF_ENDPOINT": self.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1",
        }  # fmt: skip


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as the Hub lists it."""
    return {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        self.state.requests.append(f"{self.command} {self.path}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, code: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {self.state.token}" and "/lfs/" not in self.path:
            return self._send(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'tester'}/{asked['name'].split('/')[-1]}"
            known = name in self.state.repositories
            self.state.repositories.setdefault(name, {})
            return self._send(409 if known else 200, {"url": f"{self.state.address}/{name}", "name": name, "id": name})
        if self.path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/datasets/(.+)/paths-info/([^/]+)", unquote(self.path)):
            files, _ = self.state.files_of(f"datasets/{match[1]}", match[2])
            asked = parse_qs(body.decode()).get("paths") or json.loads(body)["paths"]
            return self._send(200, [entry(path, (files or {})[path]) for path in asked if path in (files or {})])
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path):
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            return self._send(200, {"files": [
                {"path": f["path"], "uploadMode": mode[f["path"].endswith(".safetensors")], "shouldIgnore": False}
                for f in files
            ]})  # fmt: skip
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return self._send(200, {"transfer": "basic", "objects": [
                {**o, "actions": {"upload": {"href": f"{self.state.address}/blob/{o['oid']}", "header": {}}}}
                for o in objects
            ]})  # fmt: skip
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            if self.state.refuse_commits:
                return self._send(503, {"error": "The Hub is being repaired."})
            return self._commit(match[1], body)
        return self._send(404, {"error": f"POST {self.path}"})

    def _commit(self, name: str, body: bytes) -> None:
        files = self.state.repositories[name]
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
        oid = hashlib.sha1(body).hexdigest()
        self.state.commits.append(name)
        self._send(200, {"commitUrl": f"{self.state.address}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    def do_PUT(self) -> None:
        data = self._body()
        self.state.blobs[self.path.rsplit("/", 1)[-1]] = data
        self._send(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/api/whoami"):
            return self._send(200, {"name": "tester", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        path = unquote(self.path)
        if match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            files, commit = self.state.files_of(match[1], match[2])
            data = (files or {}).get(match[3])
            if data is None:
                return self._send(
                    404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit
                )
            etag = hashlib.sha256(data).hexdigest()
            return self._send(200, data, ETag=f'"{etag}"', X_Repo_Commit=commit)
        if match := re.match(r"/api/(models|datasets)/([^/]+/[^/?]+)(?:/(?:revision|tree)/([^/?]+))?", path):
            name = match[2] if match[1] == "models" else f"datasets/{match[2]}"
            files, commit = self.state.files_of(name, match[3] or "main")
            if files is None:
                return self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            if "/tree/" in path:
                return self._send(200, [entry(name, data) for name, data in files.items()])
            return self._send(200, {
                "id": match[2], "sha": commit, "tags": [], "private": False, "gated": False, "disabled": False,
                "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in files],
            })  # fmt: skip
        return self._send(404, {"error": f"GET {self.path}"})
