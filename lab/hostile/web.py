"""An HTTP server that answers as no server should: in the place of S3, Secrets Manager, SSM, ECS or the ECS agent."""

import gzip
import json
import os
import ssl
import time

from wire import drip, endless, say, serve, silence

MODES = {
    "body": "a body without an end",
    "error-body": "the same, with status 400",
    "large=N": "a body of N octets, as Content-Length says",
    "chunks": "chunks without an end",
    "chunk-size": "a chunk that is said to have 2^64 octets",
    "chunk-drip": "chunks of one octet, one in a tenth of a second",
    "drip": "a body of one octet in a tenth of a second",
    "head-drip": "a head of one octet in a tenth of a second",
    "headers": "headers without an end",
    "line": "one header without an end",
    "status-line": "a status line without an end",
    "continue": "100 Continue, without an end",
    "redirect": "to another path of its own, again and again",
    "gzip": "100 MB of zeros, compressed to 100 KB",
    "garbage": "random octets",
    "text=N": "an AWS error with a message of N octets",
    "nested=N": "N octets of JSON arrays within arrays",
    "elements=N": "N octets of JSON: an array of numbers",
    "maps=N": "N octets of JSON: an array of objects with one member each",
    "records=N": "N octets of XML: a list of S3 with empty entries",
    "attributes=N": "N octets of XML: one tag with attributes",
    "labels=N": "task metadata in which a label names CredSpecs in N octets, at every container",
    "task=N": "task metadata in which one label names N CredSpecs, and never a word to all that asks for them",
    "task-refused=N": "the same, and an error of S3 to all that asks for them",
    "task-many=N": "task metadata that names a list; the list names N objects, of which each is a CredSpec with 60 gMSAs",
    "silence": "never a word",
    "file=PATH": "what is in the file, with status 200",
    "close": "closes the connection",
}
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


class Web:
    def __init__(self, mode, certificate=None):
        self.mode, _, self.value = mode.partition("=")
        self.tls, self.count = None, 0
        if certificate:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(*certificate)

    def start(self, address, port=0):
        wrap = self.tls and (lambda stream: self.tls.wrap_socket(stream, server_side=True))
        return serve(address, port, self.connection, wrap)

    def request(self, stream):
        data = b""
        while b"\r\n\r\n" not in data:
            more = stream.recv(65536)
            if not more:
                raise ConnectionError("closed")
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        sizes = [line.split(":")[1] for line in lines if line.lower().startswith("content-length:")]
        while len(body) < int(sizes[0] if sizes else 0):
            body += stream.recv(65536)
        target = next((line.split(": ")[1] for line in lines if line.lower().startswith("x-amz-target:")), None)
        say("http", request=lines[0], target=target)
        return lines[0]

    @staticmethod
    def many_accounts(request):
        """A CredSpec with sixty gMSAs of its own."""
        number = request.split(" ")[1].rpartition("/")[2].partition(".")[0]
        accounts = [{"Name": f"a{number}-{at}", "Scope": "example.com"} for at in range(60)]
        secret = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:gmsa/login"
        return json.dumps({
            "DomainJoinConfig": {"DnsName": "example.com"},
            "ActiveDirectoryConfig": {
                "GroupManagedServiceAccounts": accounts,
                "HostAccountConfig": {"PluginInput": {"CredentialArn": f"{secret}-{number}"}},
            },
        }).encode()

    def connection(self, stream):
        request = self.request(stream)
        mode, value = self.mode, self.value
        text = lambda body: OK + b"Content-Length: %d\r\n\r\n" % len(body) + body
        if mode in ("body", "error-body"):
            stream.sendall((OK if mode == "body" else OK.replace(b"200 OK", b"400 Bad Request")) + b"\r\n")
            endless(stream, b"[" * 1024, "http")
        elif mode == "large":
            stream.sendall(OK + b"Content-Length: %d\r\n\r\n" % int(value))
            for _ in range(int(value) // 65536 + 1):
                stream.sendall(b" " * 65536)
        elif mode == "chunks":
            stream.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            endless(stream, b"400\r\n" + b" " * 1024 + b"\r\n", "http")
        elif mode == "chunk-size":
            stream.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffff0\r\n")
            endless(stream, b" " * 1024, "http")
        elif mode == "chunk-drip":
            stream.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            while True:
                stream.sendall(b"1\r\n \r\n")
                time.sleep(0.1)
        elif mode == "drip":
            stream.sendall(OK + b"Content-Length: 1000\r\n\r\n")
            drip(stream, b" " * 1000, 0.1)
        elif mode == "head-drip":
            drip(stream, OK + b"\r\n", 0.1)
        elif mode == "headers":
            stream.sendall(OK)
            endless(stream, b"X-Header-Of-Many: " + b"x" * 100 + b"\r\n", "http")
        elif mode == "line":
            stream.sendall(OK + b"X-Header: ")
            endless(stream, b"x" * 1024, "http")
        elif mode == "status-line":
            stream.sendall(b"HTTP/1.1 200 ")
            endless(stream, b"x" * 1024, "http")
        elif mode == "continue":
            endless(stream, b"HTTP/1.1 100 Continue\r\n\r\n", "http")
        elif mode == "redirect":
            self.count += 1
            stream.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /%d\r\nContent-Length: 0\r\n\r\n" % self.count)
        elif mode == "gzip":
            body = gzip.compress(bytes(100_000_000), 9)
            stream.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        elif mode == "garbage":
            stream.sendall(os.urandom(65536))
        elif mode == "text":
            body = b'{"__type":"AccessDeniedException","message":"' + b"m" * int(value) + b'"}'
            stream.sendall(text(body).replace(b"200 OK", b"400 Bad Request", 1))
        elif mode == "nested":
            stream.sendall(text(b"[" * int(value)))
        elif mode == "elements":
            stream.sendall(text(b"[" + b"1," * (int(value) // 2) + b"1]"))
        elif mode == "maps":
            stream.sendall(text(b"[" + b'{"":0},' * (int(value) // 7) + b"1]"))
        elif mode == "records":
            listed = b"<ListBucketResult>" + b"<Contents/>" * (int(value) // 11) + b"</ListBucketResult>"
            stream.sendall(text(listed).replace(b"application/json", b"application/xml", 1))
        elif mode == "attributes":
            listed = b"<ListBucketResult" + b" a=''" * (int(value) // 5) + b"/>"
            stream.sendall(text(listed).replace(b"application/json", b"application/xml", 1))
        elif mode == "labels":
            names = b" ".join(b"arn:aws:s3:::bkt/%d" % at for at in range(int(value) // 20))
            label = b'{"Name":"app","Labels":{"gmsa-sidecar.credential-specs":"' + names + b'"}}'
            count = max(1, 900_000 // len(label))
            stream.sendall(text(b'{"Containers":[' + b",".join([label] * count) + b"]}"))
        elif mode in ("task", "task-refused", "task-many"):
            names = " ".join(f"arn:aws:s3:::bkt/{at}" for at in range(int(value)))
            label = {"gmsa-sidecar.credential-specs": "s3://many/" if mode == "task-many" else names}
            if "/v4/" in request:
                stream.sendall(text(json.dumps({"Name": "app", "Labels": label}).encode()))
            elif mode == "task":
                silence(stream)
            elif mode == "task-refused":
                refusal = text(b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
                stream.sendall(refusal.replace(b"200 OK", b"403 Forbidden", 1))
            elif "list-type" in request:
                keys = "".join(f"<Contents><Key>{at}.json</Key></Contents>" for at in range(int(value)))
                listed = f"<ListBucketResult><KeyCount>{value}</KeyCount>{keys}</ListBucketResult>"
                stream.sendall(text(listed.encode()).replace(b"application/json", b"application/xml", 1))
            else:
                stream.sendall(text(self.many_accounts(request)))
        elif mode == "silence":
            silence(stream)
        elif mode == "file":
            with open(value, "rb") as file:
                stream.sendall(text(file.read()))
        elif mode != "close":
            raise ValueError(mode)
