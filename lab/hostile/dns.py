"""A DNS server that names hosts of its own as the domain controllers, or worse (RFC 1035, RFC 2782)."""

import os
import socket
import struct
import threading
import time

from wire import drip, exactly, say, serve

A, CNAME, TXT, AAAA, SRV = 1, 5, 16, 28, 33
SERVICE = "_ldap._tcp.dc._msdcs."
MODES = {
    "honest": "names the hosts as the only domain controllers",
    "srv=N": "names N domain controllers, by TCP as many as a message holds",
    "addresses=N": "gives each host N addresses where nobody listens, then the true one",
    "crowd=N": "names N domain controllers, all of them with the first host's address",
    "repent": "once the LDAP impostor has refused a bind, gives the hosts the true controller's address",
    "long-names": "names 255 controllers with names of 250 characters",
    "cname-loop": "answers each question with an alias that leads back to itself",
    "cname-chain": "answers each question with an alias of another name, without an end",
    "txt": "adds 60 KiB of TXT records to each answer",
    "slow=SECONDS": "answers late",
    "silence": "never answers",
    "garbage": "answers with random octets",
    "questions": "answers with heads that claim 65,535 questions, again and again, by UDP and TCP",
    "tcp-endless": "says that the answer is too long for UDP, and never ends it by TCP",
    "tcp-drip": "the same, with one octet in a tenth of a second",
}


def labels(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".") if part) + b"\0"


def record(kind, data, owner=b"\xc0\x0c", ttl=1):
    return owner + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


def target(host, priority=0, weight=100):
    return record(SRV, struct.pack(">HHH", priority, weight, 389) + labels(host))


class Dns:
    def __init__(self, hosts, domain, mode, upstream=None):
        """`hosts`: name -> address, in order of preference; `upstream`: the true controller's address."""
        self.hosts, self.domain, self.upstream, self.repents = hosts, domain, upstream, False
        self.mode, _, self.value = mode.partition("=")
        self.aliases = 0

    def start(self, address, port=53):
        datagrams = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        datagrams.bind((address, port))
        threading.Thread(target=self.datagrams, args=(datagrams,), daemon=True).start()
        serve(address, port, self.stream)

    def datagrams(self, server):
        while True:
            question, peer = server.recvfrom(4096)
            threading.Thread(target=self.datagram, args=(server, question, peer), daemon=True).start()

    def datagram(self, server, question, peer):
        try:
            answer = self.answer(question)
        except (ValueError, IndexError):
            return
        if answer is None:
            return
        if self.mode == "questions":
            for _ in range(50):
                server.sendto(question[:2] + b"\x81\x80" + b"\xff" * 8 + self.question(question) * 20, peer)
            return
        if len(answer) > 1232 or self.mode.startswith("tcp-"):
            answer = question[:2] + b"\x83\x80\0\1\0\0\0\0\0\0" + self.question(question)
        server.sendto(answer, peer)

    def stream(self, stream):
        while True:
            question = exactly(stream, int.from_bytes(exactly(stream, 2), "big"))
            if self.mode == "tcp-endless":
                say("dns", tcp=True)
                while True:
                    # Whole messages and parts of messages, to another question each.
                    stream.sendall(struct.pack(">H", 0xFFFF) + os.urandom(0xFFFF))
            answer = self.answer(question)
            if answer is None:
                return stream.recv(1)
            if self.mode == "questions":
                answer = question[:2] + b"\x81\x80" + b"\xff" * 8 + self.question(question) * 20
            framed = struct.pack(">H", len(answer)) + answer
            drip(stream, framed, 0.1) if self.mode == "tcp-drip" else stream.sendall(framed)

    @staticmethod
    def question(data):
        at = 12
        while data[at]:
            at += 1 + data[at]
        return data[12:at + 5]

    def answer(self, data):
        question = self.question(data)
        parts, at = [], 0
        while question[at]:
            parts.append(question[at + 1:at + 1 + question[at]].decode("latin-1").lower())
            at += 1 + question[at]
        name, kind = ".".join(parts), struct.unpack_from(">H", question, at + 1)[0]
        say("dns", name=name, type=kind)
        if self.mode == "silence":
            return None
        if self.mode == "garbage":
            return data[:2] + os.urandom(500)
        if self.mode == "slow":
            time.sleep(float(self.value))
        records = self.records(name, kind)
        size, kept = 12 + len(question), []
        for entry in records:
            if size + len(entry) > 0xFFFF:
                break
            size += len(entry)
            kept.append(entry)
        code = 0 if records is not None else 3
        return data[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(kept), 0, 0) + question + b"".join(kept)

    def records(self, name, kind):
        if self.mode == "cname-loop":
            return [record(CNAME, labels("loop." + self.domain)), record(CNAME, labels(name), labels("loop." + self.domain))]
        if self.mode == "cname-chain":
            self.aliases += 1
            return [record(CNAME, labels(f"alias-{self.aliases}.{self.domain}"))]
        found = []
        if kind == SRV and name == SERVICE + self.domain:
            # A host twice, the second time as another one: so that there is a choice, and with it a site ping.
            found = [target(host, at) for at, host in enumerate(self.hosts)]
            if self.mode in ("srv", "crowd"):
                # The names end in a pointer to the domain in the question.
                at = 12 + len(labels(SERVICE)) - 1
                pointer = struct.pack(">H", 0xC000 | at)
                name = lambda i: f"dc{i:05}".encode()
                found = [record(SRV, struct.pack(">HHH", 0, 100, 389) + bytes([7]) + name(i) + pointer)
                         for i in range(int(self.value))]
            if self.mode == "long-names":
                label = "a" * 60
                found = [target(f"{i:03}{label[3:]}.{label}.{label}.{label[:48]}.{self.domain}") for i in range(255)]
        elif kind == A and (name in self.hosts or self.mode in ("srv", "crowd", "long-names")):
            nowhere = next(iter(self.hosts.values())) if self.mode == "crowd" else "127.255.255.254"
            address = self.upstream if self.repents else self.hosts.get(name, nowhere)
            found = [record(A, socket.inet_aton(address))]
            if self.mode == "addresses":
                dead = (record(A, bytes([127, 255, i >> 8, i & 255])) for i in range(int(self.value)))
                found = [*dead, *found]
        if self.mode == "txt":
            found += [record(TXT, (b"\xff" + b"x" * 255) * 8) for _ in range(29)]
        return found
