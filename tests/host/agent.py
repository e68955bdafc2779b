"""A stand-in for the ECS agent on the daemon's socket: agent.py [--deadline S] SOCKET < CALLS > ANSWERS

A line of CALLS is {"method": .., "request": {..}}, with "cancel_after": seconds for a caller that goes away, and "mount":
folder for what the agent does with the answer, a bind mount in this process's mount namespace. {"at_once": [calls]} makes
them side by side. An answer is {"code", "text", "attempts", "seconds", "reply"}.

Like the agent it looks for the socket first, opens a connection for each call, gives 20 s to each of three attempts, and
tries only these codes again.
"""

import concurrent.futures
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time

import grpc
from google.protobuf import json_format
from grpc_tools import protoc

AGAIN = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "INTERNAL"}
ATTEMPTS = 3


def load():
    """The messages and the stub, compiled from the .proto beside this file."""
    here = os.path.dirname(os.path.abspath(__file__))
    folder = tempfile.mkdtemp()
    arguments = ["", f"-I{here}", f"--python_out={folder}", f"--grpc_python_out={folder}", f"{here}/agent.proto"]
    if protoc.main(arguments) != 0:
        sys.exit("agent.proto does not compile")
    sys.path.insert(0, folder)
    return importlib.import_module("agent_pb2"), importlib.import_module("agent_pb2_grpc")


class Agent:
    def __init__(self, socket, deadline):
        self.socket, self.deadline = socket, deadline
        self.messages, self.stubs = load()
        service = self.messages.DESCRIPTOR.services_by_name["CredentialsFetcherService"]
        self.inputs = {method.name: method.input_type.name for method in service.methods}

    def attempt(self, call):
        os.stat(self.socket)
        options = [("grpc.enable_retries", 0), ("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"unix:{self.socket}", options=options) as channel:
            method = getattr(self.stubs.CredentialsFetcherServiceStub(channel), call["method"])
            request = getattr(self.messages, self.inputs[call["method"]])()
            json_format.ParseDict(call.get("request", {}), request)
            future = method.future(request, timeout=call.get("deadline", self.deadline))
            if "cancel_after" in call:
                time.sleep(call["cancel_after"])
                future.cancel()
            try:
                return "OK", "", future.result()
            except grpc.FutureCancelledError:
                return "CANCELLED", "", None
            except grpc.RpcError as error:
                return error.code().name, error.details(), None

    def call(self, call):
        begun = time.monotonic()
        for attempts in range(1, ATTEMPTS + 1):
            code, text, reply = self.attempt(call)
            if code not in AGAIN or attempts == ATTEMPTS or "cancel_after" in call:
                break
            time.sleep(call.get("back_off", 1) * random.uniform(0.8, 1.2))
        answer = {"code": code, "text": text, "attempts": attempts, "seconds": time.monotonic() - begun, "reply": None}
        if reply is not None:
            answer["reply"] = json_format.MessageToDict(reply, preserving_proto_field_name=True)
        if code == "OK" and call["method"].startswith("Add") and "Arn" not in call["method"]:
            folder = answer["reply"]["created_kerberos_file_paths"][0]  # the agent does not look at the length
            if "mount" in call:
                subprocess.run(["mount", "--bind", folder, call["mount"]], check=True)
                subprocess.run(["mount", "-o", "remount,bind,ro", call["mount"]], check=True)
        return answer


def main():
    arguments = sys.argv[1:]
    deadline = 20.0
    if arguments[:1] == ["--deadline"]:
        deadline, arguments = float(arguments[1]), arguments[2:]
    agent = Agent(arguments[0], deadline)
    for line in sys.stdin:
        call = json.loads(line)
        if "at_once" in call:
            with concurrent.futures.ThreadPoolExecutor(len(call["at_once"])) as pool:
                answer = list(pool.map(agent.call, call["at_once"]))
        else:
            answer = agent.call(call)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
