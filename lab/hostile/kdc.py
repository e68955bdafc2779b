"""A KDC: the true one behind a relay that listens and lies, or one that only wants to hurt."""

import os
import struct
import threading
import time

import krb
from wire import drip, endless, exactly, length, say, serve, silence, tlv

MODES = {
    "relay": "passes everything on to the true KDC",
    "forge": "the same, but answers the gMSA's AS-REQ with a ticket made with the LDAP impostor's password",
    "forge-refuse=N": "the same, and refuses tickets to the gMSA itself with error N",
    "refuse-gmsa=N": "passes everything on, but refuses tickets to the gMSA itself with error N",
    "skew=SECONDS": "says once for each client that its clock is ahead by so much (KRB_AP_ERR_SKEW), then relays",
    "skew-first=SECONDS": "the same, in the answer that asks for a proof (PREAUTH_REQUIRED)",
    "proof-delay=SECONDS": "relays, but holds answers to proofs of the login back",
    "proof-hang": "relays all but proofs of the login, which it never answers",
    "proof-swallow": "the same, but passes the proof on: the KDC counts it, and nobody hears of it",
    "proof-drop": "closes the connection on a proof of the login",
    "proof-error=N": "answers a proof of the login with error N",
    "no-preauth-error=N": "answers the login's request without a proof with error N",
    "error=N": "answers everything with error N",
    "length": "says that 4 GiB follow, and sends without an end",
    "garbage": "answers with 128 KiB of random octets",
    "nested": "answers with 120 KiB of sequences within sequences",
    "padata=N": "asks for a proof, with N pieces of pre-authentication data",
    "etypes=N": "asks for a proof, with N entries of how to derive the key",
    "rounds=N": "asks for a proof whose key takes N rounds to derive, again and again",
    "salt=N": "asks for a proof whose key has a salt of N octets",
    "text=N": "refuses with a text of N octets",
    "flood": "asks for a proof a thousand times, in answer to each request",
    "drip": "one octet in a tenth of a second",
    "silence": "never answers",
}


class Kdc:
    def __init__(self, mode, upstream, domain, gmsa_password=None):
        self.mode, _, self.value = mode.partition("=")
        self.upstream, self.domain, self.realm = upstream, domain, domain.upper()
        self.password = gmsa_password
        self.connections, self.lock, self.told = 0, threading.Lock(), set()

    def start(self, address, host):
        def handle(stream):
            with self.lock:
                self.connections += 1
                connection = self.connections
            self.connection(stream, host, connection)

        return serve(address, 88, handle)

    def connection(self, stream, host, connection):
        while True:
            request = exactly(stream, int.from_bytes(exactly(stream, 4), "big"))
            asked = krb.Request(request)
            say("kdc", host=host, connection=connection, kind="as" if asked.is_as else "tgs", client=asked.client,
                server=asked.server, proof=asked.proof, options=asked.options, nonce=asked.nonce)
            if not self.attack(stream, asked):
                answer = self.answer(asked)
                stream.sendall(struct.pack(">I", len(answer)) + answer)
                if answer[0] == 0x7E:
                    code = krb.number(krb.fields(krb.read(krb.read(answer)[1])[1])[6])
                    say("kdc-error", host=host, connection=connection, client=asked.client, code=code, proof=asked.proof)
                elif asked.proof:
                    say("kdc-ticket", host=host, connection=connection, client=asked.client, server=asked.server)

    def relay(self, asked):
        import socket
        with socket.create_connection((self.upstream, 88), 10) as stream:
            stream.sendall(struct.pack(">I", len(asked.data)) + asked.data)
            return exactly(stream, int.from_bytes(exactly(stream, 4), "big"))

    def salt_of(self, client):
        if client.endswith("$"):
            return krb.salt(client, self.realm)
        return self.realm + client

    def forged(self, asked):
        salted = self.salt_of(asked.client)
        return krb.as_rep(asked, krb.aes_key(self.password, salted, 32), salted)

    def is_login(self, asked):
        return asked.is_as and not asked.client.endswith("$")

    def attack(self, stream, asked):
        """Answers with what is no message; True where it did."""
        if self.mode == "length":
            stream.sendall(b"\xff\xff\xff\xff")
            endless(stream, bytes(1024), "kdc")
        elif self.mode == "garbage":
            stream.sendall(struct.pack(">I", 128 * 1024) + os.urandom(128 * 1024))
        elif self.mode == "nested":
            inner = b""
            while len(inner) < 120 * 1024:
                inner = b"\x30" + length(len(inner)) + inner
            stream.sendall(struct.pack(">I", len(inner)) + inner)
        elif self.mode == "flood":
            answer = krb.preauth_required(self.salt_of(asked.client))
            stream.sendall((struct.pack(">I", len(answer)) + answer) * 1000)
        elif self.mode == "drip":
            answer = self.relay(asked)
            drip(stream, struct.pack(">I", len(answer)) + answer, 0.1)
        elif self.mode == "silence" or self.mode == "proof-hang" and self.is_login(asked) and asked.proof:
            silence(stream)
        elif self.mode == "proof-swallow" and self.is_login(asked) and asked.proof:
            self.relay(asked)
            silence(stream)
        elif self.mode == "proof-drop" and self.is_login(asked) and asked.proof:
            raise ConnectionError("dropped")
        else:
            return False
        return True

    def answer(self, asked):
        mode, value = self.mode, self.value
        login, salted = self.is_login(asked), self.salt_of(asked.client)
        if mode.startswith("forge") and asked.is_as and not login:
            return self.forged(asked)
        if mode in ("forge-refuse", "refuse-gmsa") and asked.server.lower().rstrip("$").endswith("webapp01"):
            return krb.krb_error(int(value), self.realm)
        if mode == "skew" and asked.client not in self.told:
            self.told.add(asked.client)
            return krb.krb_error(krb.SKEW, self.realm, at=time.time() + int(value))
        if mode == "skew-first" and asked.is_as and not asked.proof:
            return krb.krb_error(krb.PREAUTH_REQUIRED, self.realm, at=time.time() + int(value), data=krb.tlv(
                0x30, krb.etype_info2(salted), krb.pa_data(krb.PA_ENC_TIMESTAMP, b"")))
        if mode == "proof-delay" and login and asked.proof:
            answer = self.relay(asked)
            time.sleep(float(value))
            return answer
        if mode == "proof-error" and login and asked.proof or mode == "error" \
                or mode == "no-preauth-error" and login and not asked.proof:
            return krb.krb_error(int(value), self.realm)
        if mode == "padata":
            return krb.preauth_required(salted, more=tlv(0x30, b"\xa1\x03\x02\x01\x00", b"\xa2\x02\x04\x00") * int(value))
        if mode == "etypes":
            return krb.preauth_required(salted, count=int(value))
        if mode == "rounds":
            return krb.preauth_required(salted, rounds=int(value))
        if mode == "salt":
            return krb.preauth_required("s" * int(value))
        if mode == "text":
            return krb.krb_error(60, self.realm, text="m" * int(value))
        return self.relay(asked)
