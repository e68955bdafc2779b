#!/usr/bin/python3
"""A stand-in for the ECS agent's endpoints: task metadata version 4 and the task role's credentials.

GET /v4/<id>              DOCS/<id>/container.json
GET /v4/<id>/task         DOCS/<id>/task.json
GET /v2/credentials/<id>  DOCS/<id>/credentials.json; without that file credentials that moto accepts

The files are read at every request, so a test makes a folder of its own and changes it at will. What is not there
is answered as the agent does: 404 for metadata, 400 for credentials. Each request is one line in LOG:
time, method, path, status, user agent, separated by tabs.
"""

import argparse
import json
import re
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FILES = {"": "container.json", "/task": "task.json"}


def now(**later):
    return datetime.now(timezone.utc) + timedelta(**later)


def credentials():
    return json.dumps({
        "RoleArn": "arn:aws:iam::123456789012:role/gmsa-task",
        "AccessKeyId": "ASIALABLABLABLABLABL",
        "SecretAccessKey": "lab-secret-access-key-of-the-task-role",
        "Token": "lab-session-token",
        "Expiration": now(hours=6).strftime("%Y-%m-%dT%H:%M:%SZ"),
    })


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    docs = log = None

    def do_GET(self):
        status, body = self.answer(self.path.split("?")[0])
        with self.log.open("a") as log:
            agent = self.headers.get("User-Agent", "-")
            log.write(f"{now().isoformat(timespec='milliseconds')}\t{self.command}\t{self.path}\t{status}\t{agent}\n")
        body = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self, path):
        if found := re.fullmatch(r"/v4/([\w-]+)(|/task)/?", path):
            try:
                return 200, (self.docs / found[1] / FILES[found[2]]).read_text()
            except FileNotFoundError:
                kind = "task" if found[2] else "container"
                return 404, json.dumps(f"V4 {kind} metadata handler: unable to get container ID from request: {found[1]}")
        if found := re.fullmatch(r"/v2/credentials/([\w-]+)", path):
            folder = self.docs / found[1]
            if folder.is_dir():
                own = folder / "credentials.json"
                return 200, own.read_text() if own.exists() else credentials()
            return 400, json.dumps({
                "code": "InvalidIdInRequest",
                "message": "CredentialsV2Request: Credentials not found",
                "HTTPErrorCode": 400,
            })
        return 404, "404 page not found\n"

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--listen", default="169.254.170.2:80", metavar="ADDRESS:PORT")
    options.add_argument("--docs", required=True, type=Path, metavar="DIR")
    options.add_argument("--log", required=True, type=Path, metavar="FILE")
    options = options.parse_args()
    options.docs.mkdir(parents=True, exist_ok=True)
    options.log.parent.mkdir(parents=True, exist_ok=True)
    Handler.docs, Handler.log = options.docs, options.log
    address, port = options.listen.rsplit(":", 1)
    Server((address, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
