"""An LDAP server that says it is a domain controller (RFC 4511)."""

import os
import ssl
import struct

import gmsa
import krb
from wire import (children, drip, element, endless, exactly, integer, length, number, octets, read, say, serve, silence,
                  tlv)

BIND, SEARCH = 0x60, 0x63
MODES = {
    "impostor": "binds everybody who has a ticket for it, and tells a managed password of its own",
    "relay": "passes everything on to the true LDAP server",
    "entries": "answers everything with search entries, without an end",
    "large-entries": "the same, of 16 KiB each",
    "references": "answers everything with references, without an end",
    "tiny=N": "answers with one message of N octets, made of as many elements as fit",
    "values=N": "answers with one entry of N octets, made of empty values",
    "nested=N": "answers with N octets of sequences within sequences",
    "length": "says that 2 GiB follow, and sends without an end",
    "long-length": "writes the length in 126 octets",
    "garbage": "answers with random octets, without an end",
    "notices": "sends notices that nobody asked for, without an end",
    "text=N": "refuses with a text of N octets",
    "drip": "one octet in a tenth of a second",
    "silence": "never answers",
}
SEALED = {
    "entries": "answers the search with entries, without an end",
    "tiny=N": "answers it with one message of N octets of tiny elements",
    "values=N": "answers it with one entry of N empty values",
    "long=N": "answers it with entries of N octets, as many as were asked for and more",
    "readers=N": "tells no password, but N accounts that may read it",
    "frame": "says that a sealed frame of 4 GiB follows, and sends without an end",
    "frames": "sends sealed frames of one octet each, without an end",
    "blob=N": "tells a managed password of N octets",
    "marker=TEXT": "tells a managed password that is made of TEXT",
    "malformed=TEXT": "answers with a message that cannot be read and has TEXT in it",
    "silence": "never answers",
}
WIDE = "CN=WebApp01,CN=Managed Service Accounts,DC=example,DC=com"


def message(identity, *parts):
    return tlv(0x30, integer(identity), *parts)


def result(tag, code, text="", *more):
    return tlv(tag, tlv(0x0A, bytes([code])), octets(""), octets(text), *more)


def attribute(name, *values):
    return tlv(0x30, octets(name), tlv(0x31, *(octets(value) for value in values)))


def entry(dn, *attributes):
    return tlv(0x64, octets(dn), tlv(0x30, *attributes))


def tiny(size):
    """One element inside others as often as fits: an attribute without values."""
    return entry(WIDE, tlv(0x30, octets("a"), tlv(0x31)) * (size // 7))


def password_blob(password):
    day = 24 * 3600 * gmsa.TICKS
    return gmsa.build(gmsa.Blob(password, None, day, day))


class Ldap:
    def __init__(self, mode, sealed, domain, upstream, password, account=None, account_password=None, ping=None,
                 certificate=None, refused=lambda: None):
        self.refused = refused
        self.mode, _, self.value = mode.partition("=")
        self.sealed, _, self.sealed_value = (sealed or "").partition("=")
        self.domain, self.upstream, self.password, self.ping = domain, upstream, password, ping
        self.key = None
        if account:
            salted = krb.salt(account, domain.upper())
            self.key = krb.key_of(account_password.encode(), salted)
        self.tls = None
        if certificate:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(*certificate)

    def start(self, address, host):
        serve(address, 389, lambda stream: self.connection(stream, host, False))
        if self.tls:
            wrap = lambda stream: self.tls.wrap_socket(stream, server_side=True)
            serve(address, 636, lambda stream: self.connection(stream, host, True), wrap)

    def connection(self, stream, host, tls):
        say("ldap", host=host, tls=tls)
        if self.mode == "relay":
            return self.relay(stream)
        if self.mode == "notices":
            return endless(stream, message(0, result(0x78, 0, "so what")), "ldap")
        acceptor = None
        while True:
            if acceptor and not tls:
                request = acceptor.unwrap(exactly(stream, int.from_bytes(exactly(stream, 4), "big")))
            else:
                request = element(stream)
            parts = children(read(request)[1])
            identity, (tag, content) = number(parts[0][1]), parts[1]
            say("ldap-request", host=host, tag=tag, bound=acceptor is not None)
            if self.mode != "impostor":
                return self.attack(stream, identity)
            if tag == BIND:
                acceptor = self.bind(stream, identity, content, host)
            elif tag == SEARCH:
                seal = acceptor.wrap if acceptor and not tls else lambda data: data
                self.search(stream, identity, content, seal, acceptor is not None)
            else:
                return None

    def relay(self, stream):
        import socket
        import threading
        other = socket.create_connection((self.upstream, 389))

        def copy(a, b):
            try:
                while data := a.recv(65536):
                    b.sendall(data)
                b.shutdown(socket.SHUT_WR)
            except OSError:
                pass

        back = threading.Thread(target=copy, args=(other, stream), daemon=True)
        back.start()
        copy(stream, other)
        back.join()

    def bind(self, stream, identity, content, host):
        acceptor = krb.Acceptor(self.key)
        credentials = children(children(content)[2][1])[1][1]
        try:
            answer = acceptor.accept(credentials)
        except ValueError as error:
            say("bind-refused", host=host, why=str(error))
            self.refused()
            stream.sendall(message(identity, result(0x61, 49, "80090308: AcceptSecurityContext error, data 52e")))
            return None
        say("bound", host=host, client=acceptor.client, service=acceptor.service)
        stream.sendall(message(identity, result(0x61, 0, "", octets(answer, 0x87))))
        return acceptor

    def search(self, stream, identity, content, seal, bound):
        base, wanted = read(content)[1], [name for _, name in children(children(content)[7][1])]
        done = message(identity, result(0x65, 0))
        if not base:  # the LDAP ping
            found = b""
            if self.ping and b"netlogon" in [name.lower() for name in wanted]:
                found = message(identity, entry("", attribute("netlogon", self.netlogon())))
            return stream.sendall(seal(found) + seal(done) if found else seal(done))
        if not bound:
            return stream.sendall(seal(message(identity, result(0x65, 1, "000004DC: bind first"))))
        if self.sealed:
            return self.attack_sealed(stream, identity, seal)
        say("password-told", wanted=[name.decode() for name in wanted])
        stream.sendall(seal(message(identity, self.account(password_blob(self.password)))) + seal(done))

    def account(self, blob):
        # 2020-01-01, so that no previous key is needed any more
        return entry(WIDE, attribute("sAMAccountName", "WebApp01$"), attribute("msDS-ManagedPassword", blob),
                     attribute("msDS-KeyVersionNumber", "1"), attribute("servicePrincipalName", "HTTP/webapp01.example.com"),
                     attribute("pwdLastSet", "132223104000000000"),
                     attribute("objectSid", bytes.fromhex("010500000000000515000000") + bytes(16)))

    def netlogon(self):
        """NETLOGON_SAM_LOGON_RESPONSE_EX (MS-ADTS 6.3.1.9), of whichever controller it says to be."""
        def name(text):
            return b"".join(bytes([len(part)]) + part.encode() for part in text.split(".") if part) + b"\0"
        head = struct.pack("<HHI", 23, 0, 0x1F1FD) + bytes(16)
        site = "Default-First-Site-Name"
        names = [self.domain, self.domain, self.ping, self.domain.split(".")[0].upper(), "EVIL", "", site, site]
        return head + b"".join(map(name, names)) + struct.pack("<IHH", 5, 0xFFFF, 0xFFFF)

    def attack(self, stream, identity):
        mode, value = self.mode, int(self.value or 0)
        if mode == "entries":
            endless(stream, message(identity, entry("", attribute("netlogon", b"x"))), "ldap")
        elif mode == "large-entries":
            endless(stream, message(identity, entry("", attribute("netlogon", bytes(16 * 1024)))), "ldap")
        elif mode == "references":
            endless(stream, message(identity, tlv(0x73, octets("ldap://x"))), "ldap")
        elif mode == "tiny":
            stream.sendall(message(identity, tiny(value)))
            silence(stream)
        elif mode == "values":
            stream.sendall(message(identity, entry("", tlv(0x30, octets("netlogon"), tlv(0x31, octets("") * (value // 2))))))
            silence(stream)
        elif mode == "nested":
            inner = b""
            while len(inner) < value:
                inner = b"\x30" + length(len(inner)) + inner
            stream.sendall(inner)
            silence(stream)
        elif mode == "length":
            stream.sendall(b"\x30\x84\x7f\xff\xff\xff")
            endless(stream, bytes(1024), "ldap")
        elif mode == "long-length":
            stream.sendall(b"\x30\xfe" + b"\xff" * 126)
            endless(stream, bytes(1024), "ldap")
        elif mode == "garbage":
            endless(stream, os.urandom(65536), "ldap")
        elif mode == "text":
            stream.sendall(message(identity, result(0x65, 1, "m" * value)) + message(identity, result(0x61, 1, "m" * value)))
        elif mode == "drip":
            drip(stream, message(identity, entry("", attribute("netlogon", bytes(4096)))), 0.1)
        elif mode == "silence":
            silence(stream)
        else:
            raise ValueError(mode)

    def attack_sealed(self, stream, identity, seal):
        mode, value = self.sealed, self.sealed_value
        say("sealed", mode=mode)
        if mode == "entries":
            while True:
                stream.sendall(seal(message(identity, entry("", attribute("a", b"x"))) * 500))
        elif mode == "tiny":
            stream.sendall(seal(message(identity, tiny(int(value)))))
        elif mode == "values":
            stream.sendall(seal(message(identity, entry("", tlv(0x30, octets("a"), tlv(0x31, octets("") * int(value)))))))
        elif mode == "long":
            long = message(identity, entry("", attribute("sAMAccountName", bytes(int(value)))))
            while True:
                # Frames have no need to be as long as messages.
                for at in range(0, len(long), 500_000):
                    stream.sendall(seal(long[at:at + 500_000]))
        elif mode == "readers":
            allowed = b"".join(struct.pack("<BBHIBB6sI", 0, 0, 20, 0xF01FF, 1, 1, b"\0\0\0\0\0\5", at)
                               for at in range(int(value)))
            descriptor = struct.pack("<BBHIIII", 1, 0, 0x8004, 0, 0, 0, 20) \
                + struct.pack("<BBHHH", 4, 0, 0xFFFF, int(value), 0) + allowed
            told = message(identity, entry(WIDE, attribute("sAMAccountName", "WebApp01$"),
                                           attribute("objectClass", "msDS-GroupManagedServiceAccount"),
                                           attribute("msDS-GroupMSAMembership", descriptor)))
            for at in range(0, len(told), 500_000):
                stream.sendall(seal(told[at:at + 500_000]))
            return stream.sendall(seal(message(identity, result(0x65, 0))))
        elif mode == "frame":
            stream.sendall(b"\xff\xff\xff\xff")
            endless(stream, bytes(1024), "ldap")
        elif mode == "frames":
            while True:
                stream.sendall(seal(b"\x30"))
        elif mode == "blob":
            stream.sendall(seal(message(identity, self.account(bytes([1, 0]) + bytes(int(value) - 2)))))
        elif mode == "marker":
            blob = password_blob((value.encode() * 256)[:256])
            stream.sendall(seal(message(identity, self.account(blob))) + seal(message(identity, result(0x65, 0))))
        elif mode == "malformed":
            # An entry whose inside has a wrong tag where the values are.
            broken = tlv(0x64, octets(WIDE), tlv(0x30, tlv(0x30, octets("msDS-ManagedPassword"), tlv(0x3F, octets(value)))))
            stream.sendall(seal(message(identity, broken)))
        silence(stream)
