"""BER, sockets and the log that all hostile peers share."""

import json
import os
import socket
import sys
import threading
import time

CHUNK = 64 * 1024
_lock = threading.Lock()
_start = time.monotonic()


def say(event, **fields):
    """One JSON line on standard output: what happened, and when, in seconds since the start."""
    line = json.dumps({"event": event, "at": round(time.monotonic() - _start, 3), **fields})
    with _lock:
        try:
            print(line, flush=True)
        except (BrokenPipeError, ValueError):
            os._exit(0)


# --- BER

def length(size):
    if size < 128:
        return bytes([size])
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(octets)]) + octets


def tlv(tag, *parts):
    content = b"".join(parts)
    return bytes([tag]) + length(len(content)) + content


def integer(value, tag=2):
    return tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def field(number, *parts):
    """An explicitly tagged field of a sequence."""
    return tlv(0xA0 | number, *parts)


def octets(value, tag=4):
    return tlv(tag, value if isinstance(value, bytes) else value.encode())


def read(data, at=0):
    """The element at an offset: tag, content, and where it ends."""
    tag, first, at = data[at], data[at + 1], at + 2
    if first & 0x80:
        count = first & 0x7F
        first, at = int.from_bytes(data[at:at + count], "big"), at + count
    if at + first > len(data):
        raise ValueError("it ends too early")
    return tag, data[at:at + first], at + first


def children(content):
    """The elements of a constructed one: (tag, content) each."""
    at, found = 0, []
    while at < len(content):
        tag, inner, at = read(content, at)
        found.append((tag, inner))
    return found


def fields(content):
    """The fields of a sequence whose fields are explicitly tagged: number -> content of the one element inside."""
    return {tag & 0x1F: read(inner)[1] for tag, inner in children(content)}


def number(content):
    return int.from_bytes(content, "big", signed=True)


# --- sockets

def exactly(stream, size):
    data = bytearray()
    while len(data) < size:
        more = stream.recv(size - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return bytes(data)


def element(stream):
    """One BER element from a stream, header and all."""
    head = exactly(stream, 2)
    size = head[1]
    if size & 0x80:
        more = exactly(stream, size & 0x7F)
        head, size = head + more, int.from_bytes(more, "big")
    return head + exactly(stream, size)


def endless(stream, data, what):
    """Sends the same again and again until the other side has had enough; tells how much it took."""
    sent, told = 0, time.monotonic()
    block = data * max(1, CHUNK // len(data))
    try:
        while True:
            stream.sendall(block)
            sent += len(block)
            if time.monotonic() - told > 0.5:
                told = time.monotonic()
                say("sending", what=what, octets=sent)
    finally:
        say("sent", what=what, octets=sent)


def drip(stream, data, pause):
    """One octet at a time."""
    for at in range(len(data)):
        stream.sendall(data[at:at + 1])
        time.sleep(pause)


def silence(stream):
    """Reads, and never says a word."""
    while stream.recv(CHUNK):
        pass


def serve(address, port, handle, wrap=None):
    """Listens; `handle(stream)` has a thread for each connection. Returns the port."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(512)

    def one(stream):
        try:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if wrap:
                stream = wrap(stream)
            handle(stream)
        except (OSError, ValueError, IndexError, KeyError) as error:
            if os.environ.get("HOSTILE_DEBUG"):
                say("ended", port=port, error=repr(error))
        finally:
            stream.close()

    def accept():
        while True:
            stream, _ = listener.accept()
            threading.Thread(target=one, args=(stream,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def until_told():
    """Returns when standard input closes: a test that dies takes its peers along."""
    try:
        while sys.stdin.buffer.read(1):
            pass
    except KeyboardInterrupt:
        pass
