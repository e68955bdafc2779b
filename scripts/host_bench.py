"""usage: host_bench.py BINARY, in the lab's network: see scripts/bench-host.

Times are taken with nothing between the daemon and the domain controller. The requests are counted in runs of their own,
behind a relay that knows an AS-REQ from a TGS-REQ by the first octet (RFC 4120 section 5.4.1).
"""

import asyncio
import concurrent.futures
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/host"))
from agent import Agent  # noqa: E402

settings = subprocess.run([ROOT / "lab/env.sh"], check=True, capture_output=True, text=True).stdout
LAB = dict(line.split("=", 1) for line in settings.splitlines())
PASSWORD = "Bench-Passw0rd-1"
LOGINS = [f"svc-hostbench{number}" for number in range(10)]
GMSAS = [f"HostBench{number:03}" for number in range(1, 101)]
RELAY = "127.72.0.1"


def logins():
    database = ["-H", LAB["LAB_SAMDB"], "-s", LAB["LAB_SMB_CONF"]]
    for name in LOGINS:
        subprocess.run(["samba-tool", "user", "create", name, PASSWORD, *database], capture_output=True)
        subprocess.run(["samba-tool", "group", "addmembers", LAB["LAB_GROUP"], name, *database], capture_output=True)


class Relay(threading.Thread):
    """Stands before dc1 and counts what a client asks."""

    def __init__(self):
        super().__init__(daemon=True)
        self.counts, self.ready = {}, threading.Event()
        self.start()
        self.ready.wait()

    def run(self):
        asyncio.run(self.serve())

    async def serve(self):
        for port in (88, 389):
            await asyncio.start_server(lambda r, w, port=port: self.relay(r, w, port), RELAY, port)
        self.ready.set()
        await asyncio.Event().wait()

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    async def relay(self, reader, writer, port):
        up, down = await asyncio.open_connection(LAB["LAB_DC1_IP"], port)
        self.count("connections")

        async def pump(source, sink, seen):
            try:
                while data := await source.read(65536):
                    seen(data)
                    sink.write(data)
                    await sink.drain()
            except ConnectionError:
                pass
            finally:
                sink.close()

        def asked(data):
            if port == 88:
                self.count({0x6A: "AS-REQ", 0x6C: "TGS-REQ"}.get(data[4] if len(data) > 4 else 0, "parts"))
            else:
                self.count("LDAP messages")

        await asyncio.gather(pump(reader, down, asked), pump(up, writer, lambda _: None))


class Daemon:
    def __init__(self, binary, controller=None):
        self.folder = tempfile.mkdtemp()
        self.socket = f"{self.folder}/socket/cf.sock"
        environment = {
            "GMSA_DIR": f"{self.folder}/krbdir", "GMSA_HOST_SOCKET": self.socket, "GMSA_LISTEN": "127.72.0.2:8488",
            "GMSA_LOG": "warn", "AWS_REGION": LAB["LAB_AWS_REGION"], "GMSA_SITE": "off",
        }  # fmt: skip
        environment["GMSA_DOMAIN_CONTROLLERS"] = controller or LAB["LAB_DC1"]
        self.process = subprocess.Popen([binary, "host"], env=environment, stderr=subprocess.DEVNULL)
        while not os.path.exists(self.socket):
            time.sleep(0.01)
        self.agent = Agent(self.socket, 20.0)

    def cpu(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self, what="VmRSS"):
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what))

    def at_once(self, calls):
        begun, cpu = time.monotonic(), self.cpu()
        with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
            answers = list(pool.map(self.agent.call, calls))
        bad = [answer for answer in answers if answer["code"] != "OK"]
        if bad:
            sys.exit(f"host_bench.py: {bad[0]}")
        times = sorted(answer["seconds"] for answer in answers)
        return times, time.monotonic() - begun, self.cpu() - cpu

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        shutil.rmtree(self.folder)


def spec(name):
    return json.dumps({
        "DomainJoinConfig": {"MachineAccountName": name, "DnsName": LAB["LAB_DOMAIN"]},
        "ActiveDirectoryConfig": {"GroupManagedServiceAccounts": [{"Name": name, "Scope": LAB["LAB_DOMAIN"]}]},
    })  # fmt: skip


def add(gmsa, login):
    request = {"credspec_contents": [spec(gmsa)], "username": login, "password": PASSWORD, "domain": LAB["LAB_DOMAIN"]}
    return {"method": "AddNonDomainJoinedKerberosLease", "request": request}


def renew(login, lease=None):
    request = {"username": login, "password": PASSWORD, "domain": LAB["LAB_DOMAIN"]}
    return {"method": "RenewNonDomainJoinedKerberosLease", "request": request}


HUNDRED = [add(gmsa, LOGINS[number % 10]) for number, gmsa in enumerate(GMSAS)]
# A hundred tasks of ten services that share one secret.
TASKS = [add(GMSAS[number % 10], LOGINS[0]) for number in range(100)]


def row(name, times, total, cpu, more):
    median, late = statistics.median(times), times[int(len(times) * 0.99)]
    print(f"| {name} | {median * 1000:.0f} ms | {late * 1000:.0f} ms | {total:.2f} s | {cpu * 1000:.0f} ms | {more} |", flush=True)


def counted(relay, daemon, calls):
    relay.counts = {}
    daemon.at_once(calls)
    kinds = ("AS-REQ", "TGS-REQ", "LDAP messages")
    return ", ".join(f"{relay.counts.get(kind, 0)} {kind}" for kind in kinds)


def main():
    binary = sys.argv[1]
    logins()
    relay = Relay()
    print("| calls at once | median | p99 | all | CPU of the daemon | asked of the domain controller |")
    print("| --- | --- | --- | --- | --- | --- |")
    behind = Daemon(binary, RELAY)
    asked = counted(relay, behind, HUNDRED)
    behind.end()
    daemon = Daemon(binary)
    daemon.agent.call({"method": "HealthCheck", "request": {"service": "x"}})
    empty = daemon.resident()
    row("100 Adds, 10 logins, 100 gMSAs", *daemon.at_once(HUNDRED), asked)
    full = daemon.resident()
    daemon.end()
    behind = Daemon(binary, RELAY)
    asked = counted(relay, behind, TASKS)
    fresh = counted(relay, behind, [renew(LOGINS[0])] * 100)
    behind.end()
    daemon = Daemon(binary)
    row("100 Adds, 1 login, 10 gMSAs", *daemon.at_once(TASKS), asked)
    row("100 Renews, all tickets fresh", *daemon.at_once([renew(LOGINS[0])] * 100), fresh)
    daemon.end()
    print(f"\nResident: {empty} KiB without leases, {full} KiB with 100: {(full - empty) / 100:.0f} KiB a lease.")


if __name__ == "__main__":
    main()
