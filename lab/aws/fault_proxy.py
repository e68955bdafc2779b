#!/usr/bin/python3
"""An HTTP proxy that misbehaves on request.

In front of one server (--upstream) it is a reverse proxy; for requests in absolute form and for CONNECT it is a
forward proxy, as HTTP_PROXY and HTTPS_PROXY want one. Prints `listening on ADDRESS:PORT` once it listens (port 0:
any free one). Ends on SIGTERM, or when its standard input is a pipe and that closes. One request a connection.

Rules are a JSON array, from --rules FILE (read at every request) or set by `PUT /__rules`, which wins from then on
and starts every count anew. The first rule that fits is used; without one the request goes through.

  method, host, path, target   what it fits: shell patterns; host and path as sent (path without or with its query;
                               for CONNECT both are host:port), target is the header X-Amz-Target
  skip, times                  leave out that many of the requests it fits, then act on so many (default: all)
  delay                        seconds to wait first
  action                       pass     go through after all
                               status   answer with "status", "headers" {..} and "body" (text, or JSON to be encoded)
                               slow     let the true answer (or, with "status", that one) trickle: "rate" bytes a second
                               hang     never answer        } with "after": N once N bytes of
                               reset    reset the connection} the true answer are through
                               garbage  answer with bytes that are not HTTP

Each request is one line in --log, fields separated by tabs: time, method, host, path, target or -, what was done:
`passed STATUS`, `tunnel`, `unreachable`, or the action.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import ssl
import stat
import struct
import sys
from collections import Counter
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from http import HTTPStatus
from urllib.parse import urlsplit

NOT_PASSED_ON = {"connection", "proxy-connection", "keep-alive", "proxy-authorization", "expect", "transfer-encoding"}
GARBAGE = b"\x16\x03\x01\x00\xffthis is not HTTP\r\n\x00\xfe" * 16


class Request:
    def __init__(self, head, body):
        line, *headers = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        self.method, self.target, _ = line.split(" ", 2)
        self.headers = [(name, value.strip()) for name, value in (header.split(":", 1) for header in headers)]
        self.body = body
        if self.method == "CONNECT":
            self.host = self.path = self.target
        elif self.target.startswith("/"):
            self.host, self.path = self.header("host"), self.target
        else:
            url = urlsplit(self.target)
            self.host, self.path = url.netloc, url._replace(scheme="", netloc="").geturl() or "/"
        self.absolute = not self.target.startswith("/")
        self.amz_target = self.header("x-amz-target")

    def header(self, name):
        return next((value for key, value in self.headers if key.lower() == name), "")

    def encode(self):
        kept = [f"{name}: {value}" for name, value in self.headers if name.lower() not in NOT_PASSED_ON]
        if self.body and not self.header("content-length"):
            kept.append(f"Content-Length: {len(self.body)}")
        head = "\r\n".join([f"{self.method} {self.path} HTTP/1.1", *kept, "Connection: close", "", ""])
        return head.encode("latin-1") + self.body

    def fits(self, rule):
        path, host = rule.get("path", "*"), rule.get("host", "*")
        return (
            fnmatchcase(self.method, rule.get("method", "*"))
            and fnmatchcase(self.host, host)
            and (fnmatchcase(self.path, path) or fnmatchcase(self.path.split("?")[0], path))
            and fnmatchcase(self.amz_target, rule.get("target", "*"))
        )


async def read_request(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    request = Request(head, b"")
    if request.header("expect").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if request.header("transfer-encoding").lower() == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            request.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    else:
        request.body = await reader.readexactly(int(request.header("content-length") or 0))
    return request


def canned(rule):
    """The answer that a rule with "status" gives."""
    body = rule.get("body", "")
    body = (body if isinstance(body, str) else json.dumps(body)).encode()
    status = rule.get("status", 500)
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Lab"
    headers = {"Content-Length": len(body), "Connection": "close", **rule.get("headers", {})}
    head = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def split(address, port):
    host, _, own = address.rpartition(":")
    return (host.strip("[]"), int(own)) if host and own.isdigit() else (address.strip("[]"), port)


def reset(writer):
    """Close so that the other side sees a reset, not an end."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Proxy:
    def __init__(self, options):
        self.options = options
        self.own_rules = None
        self.counts = Counter()

    def rules(self):
        if self.own_rules is not None:
            return self.own_rules
        try:
            with open(self.options.rules) as file:
                return json.load(file)
        except (FileNotFoundError, TypeError):
            return []

    def rule_for(self, request):
        for rule in self.rules():
            if not request.fits(rule):
                continue
            key = json.dumps(rule, sort_keys=True)
            self.counts[key] += 1
            number = self.counts[key] - rule.get("skip", 0)
            if 0 < number <= rule.get("times", number):
                return rule
        return {"action": "pass"}

    def log(self, request, done):
        if self.options.log:
            time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            with open(self.options.log, "a") as file:
                file.write("\t".join([time, request.method, request.host, request.path, request.amz_target or "-", done]) + "\n")

    async def serve(self, reader, writer):
        try:
            await self.answer(await read_request(reader, writer), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        except (ValueError, asyncio.LimitOverrunError) as error:
            writer.write(canned({"status": 400, "body": f"fault_proxy: {error}\n"}))
        finally:
            writer.close()

    async def answer(self, request, reader, writer):
        if request.path == "/__rules" and not request.absolute:
            if request.method == "PUT":
                self.own_rules = json.loads(request.body)
                self.counts.clear()
            writer.write(canned({"status": 200, "body": self.rules()}))
            return await writer.drain()
        rule = self.rule_for(request)
        action = rule["action"]
        await asyncio.sleep(rule.get("delay", 0))
        if action in ("hang", "reset", "garbage", "status"):
            self.log(request, action)
        if action == "status":
            writer.write(canned(rule))
        elif action == "garbage":
            writer.write(GARBAGE)
        elif action in ("hang", "reset"):
            if "after" in rule:
                writer.write((await self.fetch(request))[:rule["after"]])
                await writer.drain()
            if action == "reset":
                return reset(writer)
            await reader.read()  # until the other side gives up
        elif request.method == "CONNECT":
            await self.tunnel(request, reader, writer)
        elif action == "slow":
            self.log(request, action)
            await trickle(writer, canned(rule) if "status" in rule else await self.fetch(request), rule.get("rate", 10))
        elif action == "pass":
            response = await self.fetch(request)
            self.log(request, "passed " + response.split(b" ", 2)[1].decode() if response else "unreachable")
            writer.write(response or canned({"status": 502, "body": "fault_proxy: upstream is unreachable\n"}))
        else:
            raise ValueError(f"unknown action {action}")
        await writer.drain()

    def destination(self, request):
        if not request.absolute:
            return split(self.options.upstream or request.host, 80)
        return split(self.options.connect_to or request.host, 443 if request.method == "CONNECT" else 80)

    async def fetch(self, request):
        """The whole answer of the true server, or nothing."""
        try:
            reader, writer = await asyncio.open_connection(*self.destination(request))
        except OSError:
            return b""
        writer.write(request.encode())
        response = await reader.read(-1)
        writer.close()
        head, end, body = response.partition(b"\r\n\r\n")
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        return b"\r\n".join([*kept, b"Connection: close"]) + end + body if end else b""

    async def tunnel(self, request, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.destination(request))
        except OSError:
            self.log(request, "unreachable")
            return writer.write(canned({"status": 502}))
        self.log(request, "tunnel")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer), return_exceptions=True)


async def trickle(writer, data, rate):
    for byte in range(len(data)):
        writer.write(data[byte:byte + 1])
        await writer.drain()
        await asyncio.sleep(1 / rate)


async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main(options):
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    loop.add_signal_handler(signal.SIGINT, done.set)
    kind = os.fstat(0).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        watched = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(watched), sys.stdin)
        loop.create_task(watched.read()).add_done_callback(lambda _: done.set())
    tls = None
    if options.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
    address, port = split(options.listen, 0)
    server = await asyncio.start_server(Proxy(options).serve, address, port, ssl=tls, backlog=128)
    print("listening on {}:{}".format(*server.sockets[0].getsockname()[:2]), flush=True)
    await done.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--upstream", metavar="ADDRESS:PORT", help="plain HTTP server to stand in front of")
    parser.add_argument("--connect-to", metavar="ADDRESS:PORT", help="as forward proxy go there, whatever was asked for")
    parser.add_argument("--rules", metavar="FILE")
    parser.add_argument("--log", metavar="FILE")
    parser.add_argument("--tls-cert", metavar="PEM", help="listen with TLS")
    parser.add_argument("--tls-key", metavar="PEM")
    asyncio.run(main(parser.parse_args()))
