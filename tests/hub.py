"""A stand-in for the model hub: folders of this machine, served on loopback as huggingface_hub expects them."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlparse

COMMIT = "0" * 40  # the one version of everything


def _blob(path: Path) -> str:
    """The name of a file's content, as git makes it."""
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """Answers of the hub about the folder `root`/models/OWNER/NAME or `root`/datasets/OWNER/NAME."""

    protocol_version = "HTTP/1.1"
    root: Path
    unknown: list[str]  # requests that nothing here answers

    def log_message(self, *values: object) -> None:
        """Keep quiet."""

    def _send(self, content: bytes, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: object, status: int = 200) -> None:
        self._send(json.dumps(value).encode(), status)

    def _missing(self, code: str = "RepoNotFound") -> None:
        self._send(b"{}", 404, X_Error_Code=code, X_Error_Message=code)

    def _entries(self, folder: Path, under: str = "", recursive: bool = True) -> list[dict]:
        found = []
        for path in sorted((folder / under).rglob("*") if recursive else (folder / under).glob("*")):
            entry = dict(type="file" if path.is_file() else "directory", path=path.relative_to(folder).as_posix())
            known = dict(size=path.stat().st_size, oid=_blob(path)) if path.is_file() else dict(size=0, oid=COMMIT)
            found.append(entry | known)
        return found

    def _info(self, folder: Path, name: str) -> None:
        siblings = [dict(rfilename=entry["path"]) for entry in self._entries(folder) if entry["type"] == "file"]
        self._json(dict(id=name, modelId=name, sha=COMMIT, siblings=siblings, private=False, gated=False, tags=[],
                        downloads=0, likes=0, disabled=False, lastModified="2026-01-01T00:00:00.000Z"))

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._missing("EntryNotFound")
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start, _, end = wanted[6:].partition("-")
            first, last = int(start or 0), int(end or last)
        more = dict(ETag=f'"{_blob(path)}"', X_Repo_Commit=COMMIT, Accept_Ranges="bytes")
        if wanted:
            more["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(content[first:last + 1], 206 if wanted else 200, "application/octet-stream", **more)

    def do_GET(self) -> None:
        asked = urlparse(self.path)
        parts = [unquote(part) for part in asked.path.strip("/").split("/")]
        if parts[:2] == ["api", "whoami-v2"]:
            return self._json(dict(name="somebody", type="user", auth=dict(accessToken=dict(role="write"))))
        if parts[0] == "api" and len(parts) >= 4:
            folder, rest, name = self.root / parts[1] / parts[2] / parts[3], parts[4:], "/".join(parts[2:4])
            if not folder.is_dir():
                return self._missing()
            if rest[:1] == ["tree"]:
                recursive = parse_qs(asked.query).get("recursive", [""])[0].lower() in ("true", "1")
                return self._json(self._entries(folder, "/".join(rest[2:]), recursive))
            if not rest or rest[0] == "revision":
                return self._info(folder, name)
        kind, place = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
        if len(place) >= 5 and place[2] == "resolve":
            folder = self.root / kind / place[0] / place[1]
            return self._file(folder.joinpath(*place[4:])) if folder.is_dir() else self._missing()
        self.unknown.append(f"{self.command} {self.path}")
        self._missing("EntryNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            (self.root / f"{asked.get('type', 'model')}s" / name).mkdir(parents=True, exist_ok=True)
            return self._json(dict(url=f"http://{self.headers['Host']}/{name}", name=name))
        if parts == ["api", "validate-yaml"]:
            return self._json(dict(errors=[], warnings=[]))
        if parts[0] == "api" and len(parts) > 4:
            folder, rest = self.root / parts[1] / parts[2] / parts[3], parts[4:]
            if rest[0] == "paths-info":
                form = parse_qs(body.decode()) if b"=" in body[:30] else json.loads(body)
                found = {entry["path"]: entry for entry in self._entries(folder)}
                return self._json([found[path] for path in form["paths"] if path in found])
            if rest[0] == "preupload":
                files = json.loads(body)["files"]
                return self._json(dict(files=[dict(path=f["path"], uploadMode="regular", shouldIgnore=False)
                                              for f in files]))
            if rest[0] == "commit":
                for line in body.splitlines():
                    change = json.loads(line)
                    if change["key"] == "file":
                        path = folder / change["value"]["path"]
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(base64.b64decode(change["value"]["content"]))
                return self._json(dict(success=True, commitOid=COMMIT, commitUrl=f"http://{self.headers['Host']}/{parts[2]}/{parts[3]}/commit/{COMMIT}"))
        self.unknown.append(f"POST {self.path}")
        self._missing("EntryNotFound")


@contextmanager
def serve(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a stand-in hub over a folder, and the list of requests that it could not answer."""
    handler = type("Handler", (_Handler,), dict(root=root, unknown=[]))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.unknown
    finally:
        server.shutdown()
        server.server_close()
