#!/usr/bin/python3
"""fleet.py BINARY MODEL PLOT TASKS: what scripts/bench-fleet runs inside the lab.

Starts TASKS sidecars at once, each with a volume and an address of its own, and notes when each has its ticket and when it
wants to renew; the same with the half and the quarter of them. The model is given two figures of the quarter: the processor
time that the domain controllers took for a start, and how long this machine, which runs all of it, took for one. Its
answers are printed beside what was seen. For other fleets each task has a host of its own.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime
from pathlib import Path

if {"-h", "--help"} & set(sys.argv) or len(sys.argv) != 5:
    sys.exit(__doc__)

LAB = {name: value for name, value in os.environ.items() if name.startswith("LAB_")}
BINARY, MODEL, PLOT, TASKS = os.path.abspath(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
FLEET, PATIENCE, WRONG = Path(LAB["LAB_STATE"], "fleet"), 300, 40
CONTROLLERS = 2


def address(number):
    return f"127.100.{number // 250}.{number % 250 + 1}:8488"


def seconds(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


class Fleet:
    """Sidecars that were started together."""

    def __init__(self, tasks, keytab="login.keytab"):
        self.folder = Path(tempfile.mkdtemp())
        spec = self.folder / "spec.json"
        spec.write_text(json.dumps({
            "DomainJoinConfig": {"DnsName": LAB["LAB_DOMAIN"], "NetBiosName": LAB["LAB_NETBIOS"], "MachineAccountName": LAB["LAB_GMSA"]},
            "ActiveDirectoryConfig": {"GroupManagedServiceAccounts": [{"Name": LAB["LAB_GMSA"], "Scope": LAB["LAB_DOMAIN"]}]},
        }))
        self.processes, self.start = [], time.time()
        for number in range(tasks):
            volume = self.folder / str(number)
            volume.mkdir()
            environment = {
                "GMSA_DIR": str(volume), "GMSA_LISTEN": address(number), "GMSA_LOG_FORMAT": "json",
                "GMSA_CREDENTIAL_SPECS": f"file://{spec}", "GMSA_LOGIN_KEYTAB": str(FLEET / keytab),
            }
            with open(volume / "log", "w") as log:
                self.processes.append(subprocess.Popen([BINARY, "run"], env=environment, stderr=log, stdin=subprocess.DEVNULL))
        self.launched = time.time() - self.start

    def events(self, number):
        for line in (self.folder / str(number) / "log").read_text().splitlines():
            if line.startswith("{"):
                yield json.loads(line)

    def first(self, number, event):
        """Seconds from the start of the fleet to an event of one task."""
        for line in self.events(number):
            if line.get("event") == event:
                return seconds(line["timestamp"]) - self.start
        return None

    def wait(self, event):
        """When each had that event, and how often an attempt failed before."""
        found, waiting = {}, set(range(len(self.processes)))
        while waiting:
            if time.time() - self.start > PATIENCE:
                sys.exit(f"{len(waiting)} tasks have had no {event}: {self.folder}/{waiting.pop()}/log")
            for number in list(waiting):
                if (at := self.first(number, event)) is not None:
                    found[number] = at
                    waiting.remove(number)
            time.sleep(0.2)
        return sorted(found.values())

    def faults(self):
        return [line["code"] for number in range(len(self.processes)) for line in self.events(number) if line.get("level") == "ERROR"]

    def renewals(self):
        """When each wants to renew, in seconds from the start."""
        for number in range(len(self.processes)):
            with urllib.request.urlopen(f"http://{address(number)}/ready", timeout=10) as answer:
                yield seconds(json.load(answer)["leases"][0]["next_renewal_at"]) - self.start

    def end(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder)


def model(*words):
    return subprocess.run([MODEL, *map(str, words)], check=True, capture_output=True, text=True).stdout


def modelled(tasks, controllers, each, host=0.0):
    failed, ready = model("start", tasks, controllers, each, host).split("\n")[:2]
    return [float(at) for at in ready.split()], int(failed)


def controllers_cpu():
    """Seconds of processor time that Samba's processes in this network have had."""
    ours, ticks = os.stat("/proc/self/ns/net").st_ino, 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.stat(process / "ns/net").st_ino == ours and os.readlink(process / "exe").endswith("/samba"):
                stat = (process / "stat").read_text().rpartition(") ")[2].split()
                ticks += sum(map(int, stat[11:15]))  # its ended children's too
        except OSError:
            pass  # it has ended
    return ticks / os.sysconf("SC_CLK_TCK")


def row(*cells):
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def busiest(times, width=1.0):
    """The most of them in any one second."""
    counts = {}
    for at in times:
        counts[int(at / width)] = counts.get(int(at / width), 0) + 1
    return max(counts.values())


def bad_passwords():
    """What either controller has counted: they do not tell each other (MS-SAMR 3.1.1.8.8)."""
    total = 0
    for controller in ("dc1", "dc2"):
        database = f"{LAB['LAB_STATE']}/{controller}/private/sam.ldb"
        found = subprocess.run(["ldbsearch", "-H", database, "(sAMAccountName=svc-fleet)", "badPwdCount"],
                               capture_output=True, text=True, check=True).stdout
        total += sum(int(line.split()[1]) for line in found.splitlines() if line.startswith("badPwdCount:"))
    return total


def plot(lines, minutes):
    """Left: ready tasks over time, seen and modelled. Right: renewals of 10,000 tasks, in each minute of two days."""
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 280" font-family="sans-serif" font-size="12">',
           '<rect width="760" height="280" fill="white"/>']
    end = max(times[-1] for _, _, _, times in lines)
    for place, (name, colour, dash, times) in enumerate(lines):
        points = " ".join(f"{45 + 300 * at / end:.1f},{230 - 200 * (n + 1) / len(times):.1f}" for n, at in enumerate(times))
        out.append(f'<polyline points="45,230 {points}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-dasharray="{dash}"/>')
        if not dash:
            out.append(f'<text x="{45 + 37 * place}" y="18" fill="{colour}">{name}</text>')
    out.append('<path d="M275 14h24" stroke="#444" stroke-width="1.5" stroke-dasharray="4 3"/><text x="304" y="18">model</text>')
    out.append(f'<path d="M45 30V230H345" fill="none" stroke="#888"/><text x="40" y="34" text-anchor="end">all</text>'
               f'<text x="345" y="246" text-anchor="end">{end:.0f} s</text><text x="195" y="266" text-anchor="middle">tasks with a ticket</text>')
    top = max(minutes)
    points = " ".join(f"{430 + 310 * n / len(minutes):.1f},{230 - 200 * count / top:.1f}" for n, count in enumerate(minutes))
    out.append(f'<polyline points="{points}" fill="none" stroke="#1c7c54" stroke-width="1"/>'
               f'<path d="M430 30V230H740" fill="none" stroke="#888"/><text x="425" y="34" text-anchor="end">{top}</text>'
               + "".join(f'<text x="{430 + 310 * hour * 60 / len(minutes):.0f}" y="246" text-anchor="middle">{hour}</text>'
                         for hour in range(0, len(minutes) // 60 + 1, 8)) +
               '<text x="585" y="266" text-anchor="middle">renewals a minute of 10,000 tasks, by the hour</text>')
    Path(PLOT).write_text("\n".join([*out, "</svg>", ""]))


lines, each, host = [], None, None
colours = {TASKS // 4: "#3355aa", TASKS // 2: "#a35a00", TASKS: "#1c7c54"}
row("tasks at once", "half have a ticket", "all have", "model: half", "model: all", "most in a second", "controllers' CPU a start", "attempts that failed", "model")
row(*["--:"] * 9)
for tasks in sorted(colours):
    before = controllers_cpu()
    fleet = Fleet(tasks)
    ready = fleet.wait("lease.renewed")
    cpu = (controllers_cpu() - before) / tasks
    faults, wants = fleet.faults(), list(fleet.renewals())
    fleet.end()
    each, host = each or cpu, host or ready[-1] / tasks
    guess, failed = modelled(tasks, CONTROLLERS, each, host)
    lines += [(f"{tasks} tasks", colours[tasks], "", ready), (f"{tasks} tasks", colours[tasks], "4 3", guess)]
    row(tasks, f"{statistics.median(ready):.1f} s", f"{ready[-1]:.1f} s", f"{statistics.median(guess):.1f} s", f"{guess[-1]:.1f} s",
        busiest(ready), f"{cpu * 1e3:.0f} ms", len(faults), failed)
renewals = [int(count) for count in model("renew", TASKS, 10).split()]
print(f"\nThe first renewals of the {TASKS} tasks: {min(wants) / 3600:.2f} to {max(wants) / 3600:.2f} hours after the start, at most "
      f"{busiest(wants, 60)} in a minute (model: {max(renewals)}).\n")

row("tasks at once", "controllers", "starts a second", "half have a ticket", "all have", "attempts that failed")
row(*["--:"] * 6)
for tasks in (200, 1000, 10_000):
    for controllers, faster in ((2, 1), (2, 10), (4, 10)):
        guess, failed = modelled(tasks, controllers, each / faster)
        done = f"{guess[-1]:.0f} s" if len(guess) == tasks else f"{len(guess):,} in two hours"
        half = f"{guess[tasks // 2]:.0f} s" if len(guess) > tasks // 2 else ""
        row(f"{tasks:,}", controllers, f"{controllers * faster / each:.0f}", half, done, f"{failed:,}")

minutes = [int(count) for count in model("renew", 10_000, 48).split()]
print("\nRenewals of 10,000 tasks that started in one second, the most in a minute: " + ", ".join(
    f"{max(minutes[60 * first:60 * last])} in hours {first} to {last}" for first, last in ((7, 9), (14, 17), (21, 25), (28, 48))) + ".")

before = bad_passwords()
fleet = Fleet(WRONG, "wrong.keytab")
fleet.wait("lease.pending")
deadline = time.time() + 60
while time.time() < deadline and fleet.faults().count("ticket-login-held") < WRONG:
    time.sleep(1)
codes = fleet.faults()
fleet.end()
print(f"\n{WRONG} tasks with a wrong password: {bad_passwords() - before} bad passwords counted at the domain controller in the first "
      f"minute; {codes.count('ticket-login-refused')} refusals, {codes.count('ticket-login-held')} tasks hold the login back.")
plot(lines, minutes)
