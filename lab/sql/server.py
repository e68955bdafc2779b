#!/usr/bin/python3
"""A stand-in for SQL Server's login: TDS 7.x, in clear or with TLS inside, and TDS 8 (TLS first); Windows Authentication
only. It answers the few queries that drivers make by themselves, and these two:

    SELECT SUSER_SNAME()    the principal that logged in, WebApp01$@EXAMPLE.COM
    SELECT SEEN()           what the server saw of the login: principal, SPN, what was delegated, mechanism, TDS, TLS

One JSON line for each connection goes to the log, with the error where the login failed.
Sections are those of MS-TDS. Known differences from SQL Server: it has no NTLM, and where SQL Server puts the last token
of GSSAPI could not be seen; every driver tried works without one (`--final none`).
"""

import argparse
import json
import os
import socket
import socketserver
import ssl
import struct
import threading
import time

# Packet types, 2.2.3.1.1
SQL_BATCH, RPC, REPLY, ATTENTION, TRANSACTION, LOGIN7, SSPI, PRELOGIN = 1, 3, 4, 6, 0x0E, 0x10, 0x11, 0x12
# PRELOGIN's encryption, 2.2.6.5
OFF, ON, NOT_SUPPORTED, REQUIRED = 0, 1, 2, 3
MODES = {"on": REQUIRED, "off": OFF, "notsup": NOT_SUPPORTED}
MECHANISMS = {
    "1.3.6.1.5.5.2": "spnego",
    "1.2.840.113554.1.2.2": "krb5",
    "1.3.6.1.4.1.311.2.2.10": "ntlm",
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", action="append", required=True, metavar="ADDRESS:PORT[:MODE]",
                        help="more than once for more ports; MODE is encryption: on (the default), off or notsup")
    parser.add_argument("--keytab", required=True, help="the keys of the service's account, under each SPN")
    parser.add_argument("--cert", required=True, help="the certificate, PEM")
    parser.add_argument("--key", required=True, help="its key, PEM")
    parser.add_argument("--log", required=True, help="where the JSON lines go")
    parser.add_argument("--final", choices=["none", "ack", "split"], default="none",
                        help="the last token of GSSAPI: not sent, with the answer to the login, or before it")
    parser.add_argument("--browser", metavar="ADDRESS=INSTANCE:PORT", help="SQL Server Browser, UDP 1434, for one instance")
    return parser.parse_args()


def mechanism(token):
    """The mechanism of an initial token (RFC 2743 3.1)."""
    if token[:7] == b"NTLMSSP":
        return "ntlm"
    try:
        at = 2 + (token[1] & 0x7F if token[1] & 0x80 else 0)
        oid, text, number = token[at + 2:at + 2 + token[at + 1]], [], 0
        text = [str(oid[0] // 40), str(oid[0] % 40)]
        for byte in oid[1:]:
            number = number << 7 | byte & 0x7F
            if not byte & 0x80:
                text.append(str(number))
                number = 0
        return MECHANISMS.get(".".join(text), ".".join(text))
    except IndexError:
        return "unknown"


def asked_for(token):
    """The service that the ticket in an initial token names: in clear, in the AP-REQ (RFC 4120 5.3, 5.5.1). What GSSAPI
    says is the keytab's entry that fitted."""
    def value(data):
        length = data[1] & 0x7F
        return data[2 + length:2 + length + int.from_bytes(data[2:2 + length])] if data[1] & 0x80 else data[2:2 + length]

    def parts(data):
        while data:
            inner = value(data)
            yield inner
            data = data[data.index(inner, 2) + len(inner):]

    start = token.find(b"\x61\x82")  # Ticket, [APPLICATION 1]; its sname is the third field
    if start < 0:
        return "unknown"
    sname = list(parts(value(value(token[start:]))))[2]
    return "/".join(part.decode() for part in parts(value(list(parts(value(sname)))[1])))


class Closed(Exception):
    pass


class Connection:
    """Packets (2.2.3) over a socket, through TLS where it is on."""

    def __init__(self, stream):
        self.stream, self.tls, self.buffer = stream, None, b""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    def receive(self):
        data = self.stream.recv(65536)
        if not data:
            raise Closed
        return data

    def read(self, count):
        while len(self.buffer) < count:
            if self.tls is None:
                self.buffer += self.receive()
                continue
            try:
                data = self.tls.read(65536)
                if not data:
                    raise Closed
                self.buffer += data
            except ssl.SSLWantReadError:
                self.incoming.write(self.receive())
        out, self.buffer = self.buffer[:count], self.buffer[count:]
        return out

    def write(self, data):
        if self.tls is None:
            self.stream.sendall(data)
        else:
            self.tls.write(data)
            self.stream.sendall(self.outgoing.read())

    def message(self):
        """A whole message: the type of its packets, and their data."""
        body = b""
        while True:
            kind, status, length = struct.unpack(">BBH", self.read(8)[:4])
            body += self.read(length - 8)
            if status & 1:
                return kind, body

    def reply(self, data, kind=REPLY, size=4096):
        chunks = [data[at:at + size - 8] for at in range(0, len(data), size - 8)] or [b""]
        out = b""
        for number, chunk in enumerate(chunks, 1):
            last = number == len(chunks)
            out += struct.pack(">BBHHBB", kind, last, len(chunk) + 8, 0, number & 255, 0) + chunk
        self.write(out)

    def start_tls(self, options, strict):
        """With `strict` TLS comes first (TDS 8); otherwise its handshake travels in PRELOGIN packets."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key)
        if strict:
            context.set_alpn_protocols(["tds/8.0"])
        else:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        done = False
        while not done:
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            out = self.outgoing.read()
            if out and strict:
                self.stream.sendall(out)
            elif out:
                self.reply(out, kind=PRELOGIN, size=32768)
            if done:
                break
            if strict:
                self.incoming.write(self.receive())
            else:
                kind, body = self.message()
                if kind != PRELOGIN:
                    raise ValueError(f"packet {kind:#x} in the TLS handshake")
                self.incoming.write(body)
        self.tls = tls
        return tls.version()


def us_varchar(text):
    return struct.pack("<H", len(text)) + text.encode("utf-16-le")


def b_varchar(text):
    return bytes([len(text)]) + text.encode("utf-16-le")


def counted(token, body):
    return bytes([token]) + struct.pack("<H", len(body)) + body


class Session:
    """One login, and what is asked after it."""

    def __init__(self, connection, mode, options, seen):
        self.connection, self.mode, self.options, self.seen = connection, mode, options, seen
        self.version, self.size = 0x74000004, 4096

    # Tokens, 2.2.7

    @property
    def is_72(self):
        return self.version >= 0x72000000

    def done(self, status=0, command=0, rows=0, token=0xFD):
        return struct.pack("<BHHQ" if self.is_72 else "<BHHI", token, status, command, rows)

    def change(self, kind, new, old):
        return counted(0xE3, bytes([kind]) + b_varchar(new) + b_varchar(old))

    def error(self, number, text):
        line = struct.pack("<I", 1) if self.is_72 else struct.pack("<H", 1)
        return counted(0xAA, struct.pack("<IBB", number, 1, 14) + us_varchar(text) + b_varchar("STANDIN") + b_varchar("") + line)

    def column(self, name, value):
        head = (struct.pack("<I", 0) if self.is_72 else struct.pack("<H", 0)) + struct.pack("<H", 9)
        if isinstance(value, int):
            return head + b"\x26\x04" + b_varchar(name), b"\x04" + struct.pack("<i", value)
        text = value.encode("utf-16-le")
        collation = b"\x09\x04\xd0\x00\x34"
        return head + b"\xe7" + struct.pack("<H", 512) + collation + b_varchar(name), struct.pack("<H", len(text)) + text

    def row(self, columns, procedure=False):
        heads, values = zip(*(self.column(name, value) for name, value in columns))
        out = b"\x81" + struct.pack("<H", len(columns)) + b"".join(heads) + b"\xd1" + b"".join(values)
        if procedure:
            return out + self.done(0x11, 0xC1, 1, 0xFF) + self.end_of_procedure()
        return out + self.done(0x10, 0xC1, 1)

    def end_of_procedure(self):
        return b"\x79" + struct.pack("<i", 0) + self.done(0, 0xE0, 0, 0xFE)

    # The login

    def prelogin(self):
        """2.2.6.5: options, of which only the encryption matters; then perhaps TLS. Returns LOGIN7."""
        kind, body = self.connection.message()
        if kind == LOGIN7:  # TDS 7.0
            return body
        if kind != PRELOGIN:
            raise ValueError(f"first packet {kind:#x}")
        at, asked = 0, NOT_SUPPORTED
        while body[at] != 0xFF:
            option, offset, length = struct.unpack(">BHH", body[at:at + 5])
            if option == 1:
                asked = body[offset] & 3
            at += 5
        answer = self.encryption(asked)
        values = [(0, bytes([16, 0, 0x10, 0, 0, 0])), (1, bytes([answer])), (2, b"\0"), (3, b""), (4, b"\0")]
        head, data, start = b"", b"", 5 * len(values) + 1
        for option, value in values:
            head += struct.pack(">BHH", option, start + len(data), len(value))
            data += value
        self.connection.reply(head + b"\xff" + data)
        if self.connection.tls is None and answer != NOT_SUPPORTED:
            self.seen["tls"] = self.connection.start_tls(self.options, strict=False)
        kind, body = self.connection.message()
        if kind != LOGIN7:
            raise ValueError(f"packet {kind:#x} instead of LOGIN7")
        if answer == OFF and not self.seen.get("strict"):
            self.connection.tls = None  # only the login was encrypted
            self.seen["tls"] = "login only"
        return body

    def encryption(self, asked):
        if self.connection.tls is not None:
            return asked
        if self.mode == NOT_SUPPORTED or (asked == NOT_SUPPORTED and self.mode == OFF):
            return NOT_SUPPORTED
        if self.mode == OFF:
            return ON if asked in (ON, REQUIRED) else OFF
        return REQUIRED if asked == NOT_SUPPORTED else ON

    def login7(self, body):
        """2.2.6.4. Returns the first token of GSSAPI."""
        self.version = struct.unpack("<I", body[4:8])[0]
        self.size = struct.unpack("<I", body[8:12])[0] or 4096
        self.seen["tds"] = f"{self.version >> 28}.{self.version >> 24 & 15}"
        for number, name in ((3, "app"), (4, "server"), (6, "library")):
            offset, length = struct.unpack("<HH", body[36 + 4 * number:40 + 4 * number])
            self.seen[name] = body[offset:offset + 2 * length].decode("utf-16-le")
        offset, length = struct.unpack("<HH", body[78:82])
        if length == 0xFFFF:
            length = struct.unpack("<I", body[90:94])[0] or length
        return body[offset:offset + length]

    def authenticate(self, token):
        import gssapi  # after the environment is set

        if not token:
            raise PermissionError("no token: not Windows Authentication")
        self.seen["mechanism"], self.seen["spn"] = mechanism(token), asked_for(token)
        context = gssapi.SecurityContext(usage="accept", creds=gssapi.Credentials(usage="accept"))
        while True:
            out = context.step(token)
            if context.complete:
                break
            self.connection.reply(counted(0xED, out or b""))
            kind, token = self.connection.message()
            if kind != SSPI:
                raise ValueError(f"packet {kind:#x} instead of SSPI")
        delegated = context.delegated_creds
        self.seen.update(
            principal=str(context.initiator_name),
            delegated=str(delegated.name) if delegated else "nothing",
        )
        return out

    def run(self):
        if self.connection.stream.recv(1, socket.MSG_PEEK) == b"\x16":
            self.seen["tls"] = self.connection.start_tls(self.options, strict=True)
            self.seen["strict"] = True
        start = time.monotonic()
        token = self.login7(self.prelogin())
        try:
            final = self.authenticate(token)
        except Exception as error:  # whatever GSSAPI says, the client is refused
            self.seen["error"] = f"{type(error).__name__}: {error}".replace("\n", " ")
            text = "Login failed. The login is from an untrusted domain and cannot be used with Integrated authentication."
            self.connection.reply(self.error(18452, text) + self.done(2))
            return
        self.seen["login_ms"] = round((time.monotonic() - start) * 1000, 1)
        out = b""
        if final and self.options.final == "split":
            self.connection.reply(counted(0xED, final))
        elif final and self.options.final == "ack":
            out = counted(0xED, final)
        out += self.change(1, "master", "master") + b"\xe3" + struct.pack("<HB", 8, 7) + b"\5\x09\x04\xd0\x00\x34" + b"\0"
        out += self.change(2, "us_english", "")
        acknowledged = struct.pack(">BI", 1, self.version) + b_varchar("Microsoft SQL Server") + bytes([16, 0, 0x10, 0])
        out += counted(0xAD, acknowledged) + self.change(4, str(self.size), str(self.size)) + self.done()
        self.connection.reply(out)
        log(self.seen)
        while True:
            self.connection.reply(self.answer(*self.connection.message()))

    # What is asked

    def answer(self, kind, body):
        if kind == ATTENTION:
            return self.done(0x20)
        if kind == TRANSACTION:  # 2.2.6.9: only that it began, or ended
            at = struct.unpack("<I", body[:4])[0]
            request, number = struct.unpack("<H", body[at:at + 2])[0], b"\x08\1\0\0\0\0\0\0\0"
            env = bytes([8]) + number + b"\0" if request == 5 else bytes([9 if request == 7 else 10]) + b"\0" + number
            return counted(0xE3, env) + self.done(0, 0xD4)
        text = body.decode("utf-16-le", "replace") + body[1:].decode("utf-16-le", "replace")  # an RPC's may be unaligned
        procedure = kind == RPC
        if "SUSER_SNAME" in text.upper():
            return self.row([("", self.seen["principal"])], procedure)
        if "SEEN()" in text.upper():
            names = ("principal", "spn", "delegated", "mechanism", "tds", "tls")
            return self.row([("", " ".join(f"{name}={self.seen.get(name, 'none')}" for name in names))], procedure)
        # What sqltoolsservice asks before it says that it is connected.
        if "SERVERPROPERTY('EngineEdition')" in text:
            return self.row([("", "3"), ("", "16.0.1000.6"), ("", "RTM"), ("", "Developer Edition (64-bit)"), ("", "DB"), ("SXI_PRESENT", 1)])
        if "host_release" in text or "OSVersion" in text:
            return self.row([("OSVersion", "Linux"), ("", "1")])
        for word, value in (("@@MAX_PRECISION", 38), ("@@SPID", 51)):
            if word in text.upper() and not procedure:
                return self.row([("", value)])
        return self.end_of_procedure() if procedure else self.done()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, where, options):
        host, port, *mode = where.split(":")
        self.mode, self.options = MODES[mode[0] if mode else "on"], options
        super().__init__((host, int(port)), Handler)


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request.settimeout(300)
        seen = {"time": round(time.time(), 3), "port": self.request.getsockname()[1]}
        try:
            Session(Connection(self.request), self.server.mode, self.server.options, seen).run()
        except (Closed, OSError):
            pass
        except Exception as error:
            seen["error"] = f"{type(error).__name__}: {error}".replace("\n", " ")
        if "error" in seen:
            log(seen)


LOCK, LOG = threading.Lock(), []


def log(seen):
    with LOCK:
        LOG[0].write(json.dumps(seen) + "\n")


def browse(address, instance, port):
    """SQL Server Browser (MC-SQLR 2.2.5): any question is answered with the one instance."""
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind((address, 1434))
    text = f"ServerName;DB;InstanceName;{instance};IsClustered;No;Version;16.0.1000.6;tcp;{port};;".encode()
    while True:
        _, peer = udp.recvfrom(1024)
        udp.sendto(b"\5" + struct.pack("<H", len(text)) + text, peer)


def main():
    options = arguments()
    os.environ["KRB5_KTNAME"] = options.keytab
    os.environ["KRB5RCACHENAME"] = "none:"
    LOG.append(open(options.log, "a", buffering=1))
    servers = [Server(where, options) for where in options.listen]
    if options.browser:
        address, _, instance = options.browser.partition("=")
        threading.Thread(target=browse, args=(address, *instance.split(":")), daemon=True).start()
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening", flush=True)
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
