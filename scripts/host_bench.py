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
SAMBA = ("samba", "smbd", "winbindd")


def logins():
    database = ["-H", LAB["LAB_SAMDB"], "-s", LAB["LAB_SMB_CONF"]]
    for name in LOGINS:
        subprocess.run(["samba-tool", "user", "create", name, PASSWORD, *database], capture_output=True)
        subprocess.run(["samba-tool", "group", "addmembers", LAB["LAB_GROUP"], name, *database], capture_output=True)


def set_password(name, password):
    command = ["samba-tool", "user", "setpassword", name, f"--newpassword={password}", "-H", LAB["LAB_SAMDB"], "-s", LAB["LAB_SMB_CONF"]]
    subprocess.run(command, check=True, capture_output=True)


class Relay(threading.Thread):
    """Stands before dc1 and counts what a client asks."""

    def __init__(self):
        super().__init__(daemon=True)
        self.counts, self.ready, self.down = {}, threading.Event(), False
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
        if self.down:
            writer.close()
            return
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


    def quiet(self):
        """Waits until nobody has asked anything for a second."""
        before = None
        while before != self.counts:
            before = dict(self.counts)
            time.sleep(1)


def ticks(process):
    """The processor time of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15]))


def controllers():
    """The processor time of the lab's domain controllers: all processes of Samba in this network namespace."""
    total, here = 0, os.readlink("/proc/self/ns/net")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.path.basename(os.readlink(folder / "exe")) in SAMBA and os.readlink(folder / "ns/net") == here:
                total += ticks(folder.name)
        except OSError:
            pass  # it has ended
    return total


class Daemon:
    def __init__(self, binary, controller=None, lifetime=None):
        self.folder = tempfile.mkdtemp()
        self.socket = f"{self.folder}/socket/cf.sock"
        environment = {
            "GMSA_DIR": f"{self.folder}/krbdir", "GMSA_HOST_SOCKET": self.socket, "GMSA_LISTEN": "127.72.0.2:8488",
            "GMSA_LOG": "warn", "AWS_REGION": LAB["LAB_AWS_REGION"], "GMSA_SITE": "off",
        }  # fmt: skip
        environment["GMSA_DOMAIN_CONTROLLERS"] = controller or LAB["LAB_DC1"]
        if lifetime:
            environment["GMSA_TICKET_LIFETIME"] = lifetime
        self.process = subprocess.Popen([binary, "host"], env=environment, stderr=subprocess.DEVNULL)
        while not os.path.exists(self.socket):
            time.sleep(0.01)
        self.agent = Agent(self.socket, 20.0)

    def cpu(self):
        """Of the daemon, of the domain controllers, and of the caller, which share the machine."""
        return [count / os.sysconf("SC_CLK_TCK") for count in (ticks(self.process.pid), controllers(), ticks("self"))]

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
        took = time.monotonic() - begun
        return times, took, [after - before for before, after in zip(cpu, self.cpu(), strict=True)]

    def one_by_one(self, calls):
        begun, cpu = time.monotonic(), self.cpu()
        times = []
        for call in calls:
            answer = self.agent.call(call)
            if answer["code"] != "OK":
                sys.exit(f"host_bench.py: {answer}")
            times.append(answer["seconds"])
        took = time.monotonic() - begun
        return sorted(times), took, [after - before for before, after in zip(cpu, self.cpu(), strict=True)]

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


def renew(login, password=PASSWORD):
    request = {"username": login, "password": password, "domain": LAB["LAB_DOMAIN"]}
    return {"method": "RenewNonDomainJoinedKerberosLease", "request": request}


HUNDRED = [add(gmsa, LOGINS[number % 10]) for number, gmsa in enumerate(GMSAS)]
# A hundred tasks of ten services that share one secret.
TASKS = [add(GMSAS[number % 10], LOGINS[0]) for number in range(100)]
RENEWALS = [renew(LOGINS[0])] * 100
HEALTH = [{"method": "HealthCheck", "request": {"service": "x"}}] * 100
# The shortest that there is. Half of it is over after a minute and a half.
LIFETIME, HALF = "3m", 90


def row(name, measured, asked="", later=""):
    times, total, cpu = measured
    figures = [statistics.median(times) * 1000, times[int(len(times) * 0.99)] * 1000, total * 1000, *(part * 1000 for part in cpu)]
    print(f"| {name} | " + " | ".join(f"{figure:.0f}" for figure in figures) + f" | {asked} | {later} |", flush=True)


def told(counts):
    kinds = ("AS-REQ", "TGS-REQ", "LDAP messages")
    return ", ".join(f"{counts[kind]} {kind}" for kind in kinds if counts.get(kind)) or "nothing"


def counted(relay, calls):
    """What is asked until all have their answers, and what after that."""
    relay.quiet()
    relay.counts = {}
    measured = calls()
    asked = dict(relay.counts)
    relay.quiet()
    later = {kind: count - asked.get(kind, 0) for kind, count in relay.counts.items()}
    return measured, told(asked), told(later)


def due(relay, binary):
    """A hundred tasks of one secret whose tickets have less than half of their life, since the domain controller was away."""
    daemon = Daemon(binary, RELAY, LIFETIME)
    daemon.at_once(TASKS)
    half = time.monotonic() + HALF
    relay.quiet()
    relay.down = True
    time.sleep(max(0, half - time.monotonic()) + 1)
    relay.down = False
    return daemon


def main():
    binary = sys.argv[1]
    logins()
    relay = Relay()
    print("| a hundred calls | median | p99 | all | CPU: daemon | controllers | caller | asked meanwhile | and later |")
    print("| --- | --: | --: | --: | --: | --: | --: | --- | --- |")
    daemon = Daemon(binary)
    daemon.at_once(HEALTH[:1])
    empty = daemon.resident()
    row("HealthCheck, at once", daemon.at_once(HEALTH))
    daemon.end()
    behind = Daemon(binary, RELAY)
    _, *asked = counted(relay, lambda: behind.at_once(HUNDRED))
    behind.end()
    full = []
    for _ in range(3):
        daemon = Daemon(binary)
        row("Add, at once, 10 logins, 100 gMSAs", daemon.at_once(HUNDRED), *asked)
        time.sleep(15)
        full.append(daemon.resident())
        daemon.end()
    behind = Daemon(binary, RELAY)
    measured, *asked = counted(relay, lambda: behind.at_once(TASKS))
    row("Add, at once, 1 login, 10 gMSAs", measured, *asked)
    for name, calls in [("at once", behind.at_once), ("one by one", behind.one_by_one)]:
        measured, *asked = counted(relay, lambda calls=calls: calls(RENEWALS))
        row(f"Renew, {name}, tickets fresh", measured, *asked)
    behind.end()
    behind = due(relay, binary)
    measured, *asked = counted(relay, lambda: behind.at_once(RENEWALS))
    row("Renew, at once, tickets due", measured, *asked)
    behind.end()
    behind = due(relay, binary)
    other = f"{PASSWORD}-new"
    set_password(LOGINS[0], other)
    try:
        measured, *asked = counted(relay, lambda: behind.at_once([renew(LOGINS[0], other)] * 100))
    finally:
        set_password(LOGINS[0], PASSWORD)
    row("Renew, at once, tickets due, password new", measured, *asked)
    behind.end()
    most = max(full)
    print(f"\nResident: {empty} KiB without leases, {most} KiB with 100, 15 s later. The bound is {12 * 1024 + 3200} KiB.")


if __name__ == "__main__":
    main()
