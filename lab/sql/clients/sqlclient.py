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
    "database": "", "authenticationType": "Integrated", "trustServerCertificate": True,
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


def connect(server=sys.argv[2]):
    owner = f"connection{next(numbers)}"
    send("connection/connect", {"ownerUri": owner, "connection": {"options": options | {"server": server}}})
    while True:
        message = receive()
        if message.get("method") == "connection/complete":
            result = message["params"]
            if not result.get("connectionId"):
                raise SqlClientError(result.get("errorMessage") or result.get("messages"))
            return owner
        if "error" in message:
            raise SqlClientError(message["error"])


def wait_for(found):
    while not found(message := receive()):
        if "error" in message:
            raise SqlClientError(message["error"])
    return message


def query(owner):
    """On the connection that it keeps for an owner's queries: it opens that with the first of them."""
    send("query/executeString", {"ownerUri": owner, "query": SEEN})
    done = wait_for(lambda message: message.get("method") == "query/complete")["params"]
    if done["batchSummaries"][0]["hasError"]:
        raise SqlClientError(done)
    rows = {"ownerUri": owner, "batchIndex": 0, "resultSetIndex": 0, "rowsStartIndex": 0, "rowsCount": 1}
    number = send("query/subset", rows)
    answer = wait_for(lambda message: message.get("id") == number and "result" in message)["result"]
    return answer["resultSubset"]["rows"][0][0]["displayValue"]


try:
    serve(connect, query)
finally:
    service.kill()
