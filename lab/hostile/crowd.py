"""Neighbours of the same task: many connections to the sidecar's HTTP port, and a mess on its volume."""

import os
import resource
import socket
import time

from wire import say

KINDS = {
    "idle": "connects and says nothing",
    "slow": "sends a request, one octet in a second",
    "half": "sends half of a request and the end of the stream",
    "unread": "sends requests and reads no answer",
}


def connect(target):
    stream = socket.socket()
    stream.setblocking(False)
    try:
        stream.connect(target)
    except BlockingIOError:
        pass
    return stream


def crowd(target, held, rate, seconds, kinds):
    """Holds `held` connections, in turn of each kind, and opens `rate` more each second, each held for a second."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
    request = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
    streams, young, start, opened, at = [], [], time.monotonic(), 0, 0

    def hello(stream, kind):
        try:
            if kind == "slow":
                stream.send(request[:1])
            elif kind == "half":
                stream.send(request[:20])
                stream.shutdown(socket.SHUT_WR)
            elif kind == "unread":
                stream.send(request * 50)
        except OSError:
            pass

    for number in range(held):
        streams.append([connect(target), kinds[number % len(kinds)], 0])
    time.sleep(0.05)
    for stream, kind, _ in streams:
        hello(stream, kind)
    say("crowd", held=len(streams))
    while (now := time.monotonic() - start) < seconds:
        while opened < now * rate:
            opened += 1
            kind = kinds[opened % len(kinds)]
            stream = connect(target)
            young.append((now, stream, kind))
        young, old = [entry for entry in young if now - entry[0] < 1], [entry for entry in young if now - entry[0] >= 1]
        for _, stream, _ in old:
            stream.close()
        # Whatever was closed on us is opened again: a neighbour does not give up.
        at += 1
        for entry in streams:
            stream, kind, sent = entry
            try:
                if kind == "slow" and at % 50 == 0:
                    entry[2] = sent + 1
                    stream.send(request[sent % len(request):][:1])
                elif stream.recv(4096, socket.MSG_DONTWAIT) == b"" and kind != "half":
                    raise ConnectionError
            except BlockingIOError:
                pass
            except OSError:
                stream.close()
                entry[0] = connect(target)
        time.sleep(0.02)
    say("crowd-over", opened=opened)


def mess(folder, links, folders):
    """Symbolic links to large trees, and empty folders."""
    for at, target in enumerate(links):
        os.symlink(target, os.path.join(folder, f"link-{at}"))
    deep = os.path.join(folder, "many")
    os.makedirs(deep, exist_ok=True)
    for at in range(folders):
        os.mkdir(os.path.join(deep, str(at)))
    say("mess", links=len(links), folders=folders)
