#!/usr/bin/python3
"""sqlclient.py SERVICE HOST [NAME=VALUE...]: a pool (see pool.py) by .NET's SqlClient, through sqltoolsservice.

SERVICE is the program; NAME=VALUE are options of its connection, such as encrypt=Strict.
"""

import json
import subprocess
import sys
from itertools import count

from pool import SEEN, serve


class SqlClientError(Exception):
    pass


service = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
options = {
    "server": sys.argv[2], "database": "", "authenticationType": "Integrated", "trustServerCertificate": True,
    "encrypt": True, "connectTimeout": 60, "pooling": False,
} | dict(argument.split("=", 1) for argument in sys.argv[3:])
numbers = count(1)


def send(method, parameters):
    number = str(next(numbers))
    body = json.dumps({"jsonrpc": "2.0", "method": method, "params": parameters, "id": number}).encode()
    service.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    service.stdin.flush()
    return number


def receive():
    length = 0
    while line := service.stdout.readline().strip():
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    if not length:
        raise SqlClientError("sqltoolsservice has ended")
    return json.loads(service.stdout.read(length))


def connect():
    owner = f"connection{next(numbers)}"
    send("connection/connect", {"ownerUri": owner, "connection": {"options": options}})
    while True:
        message = receive()
        if message.get("method") == "connection/complete":
            result = message["params"]
            if not result.get("connectionId"):
                raise SqlClientError(result.get("errorMessage") or result.get("messages"))
            return owner
        if "error" in message:
            raise SqlClientError(message["error"])


def query(owner):
    number = send("query/simpleexecute", {"ownerUri": owner, "queryString": SEEN})
    while True:
        message = receive()
        if message.get("id") == number:
            if "error" in message:
                raise SqlClientError(message["error"])
            return message["result"]["rows"][0][0]["displayValue"]


try:
    serve(connect, query)
finally:
    service.kill()
