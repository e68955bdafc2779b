#!/usr/bin/python3
"""measure.py BINARY RUNS [BEFORE]: what scripts/bench runs inside the lab. BEFORE is the binary of another version.

Wall and CPU time are medians over RUNS, every command in turn. Everything else is counted from a system call trace of
one more run: what a client does after it has read an answer is one round trip further on than what that answer was to.
(A packet capture cannot tell that here: on a loopback device even connects made side by side are answered one by one.)
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

if {"-h", "--help"} & set(sys.argv) or len(sys.argv) not in {3, 4}:
    sys.exit(__doc__)

LAB = {name: value for name, value in os.environ.items() if name.startswith("LAB_")}
BINARY, RUNS = os.path.abspath(sys.argv[1]), int(sys.argv[2])
BEFORE = [os.path.abspath(path) for path in sys.argv[3:]]
ACCOUNT, REALM, DC = LAB["LAB_GMSA"], LAB["LAB_REALM"], LAB["LAB_DC1"]
INHERITED = {"PATH", "KRB5_CONFIG", "LDAPCONF"}
SIDECAR = {
    "GMSA_CREDENTIAL_SPECS": f"arn:aws:s3:::{LAB['LAB_BUCKET']}/webapp01.json",
    "AWS_ENDPOINT_URL": LAB["LAB_AWS_ENDPOINT"],
    "AWS_REGION": LAB["LAB_AWS_REGION"],
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",  # what the image has; a machine has the same twice
}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name in INHERITED | LAB.keys()} | SIDECAR
LOGIN = 'kinit -c login "$LAB_USER" <<<"$LAB_USER_PW"'
READ = f'KRB5CCNAME=login ldapsearch -LLL -Q -Y GSSAPI -H ldap://{DC} -b "CN={ACCOUNT},$LAB_GMSA_OU" -s base msDS-ManagedPassword'
DECODE = f'"$LAB_ROOT/gmsa.py" keytab ldif "{ACCOUNT}\\$@{REALM}" keytab'
TICKET = f'kinit -c krb5cc -kt keytab "{ACCOUNT}\\$"'
SAMBA = f"""samba-tool user get-kerberos-ticket "{ACCOUNT}\\$" --output-krb5-ccache=krb5cc -H ldap://{DC} \
-U "$LAB_USER%$LAB_USER_PW" --realm={REALM} --use-kerberos=required --configfile=/dev/null"""


def bash(*lines):
    return ["bash", "-ec", "\n".join(lines)]


def ad_only():
    """The CredSpec in a file and the login's keys in a keytab: AWS is not asked, as the other rows do not ask it."""
    folder = tempfile.mkdtemp()
    with open(f"{folder}/spec.json", "w") as spec:
        json.dump({
            "DomainJoinConfig": {"DnsName": LAB["LAB_DOMAIN"], "NetBiosName": LAB["LAB_NETBIOS"], "MachineAccountName": ACCOUNT},
            "ActiveDirectoryConfig": {"GroupManagedServiceAccounts": [{"Name": ACCOUNT, "Scope": LAB["LAB_DOMAIN"]}]},
        }, spec)
    export = ["samba-tool", "domain", "exportkeytab", f"{folder}/login.keytab", f"--principal={LAB['LAB_USER']}", "-s", LAB["LAB_SMB_CONF"]]
    subprocess.run(export, check=True, capture_output=True)
    return ["--credential-specs", f"file://{folder}/spec.json", "--login-keytab", f"{folder}/login.keytab"]


COMMANDS = {
    "`gmsa-sidecar init`, S3 and Secrets Manager included": [BINARY, "init"],
    "`gmsa-sidecar init`, AD only: the CredSpec in a file, the login in a keytab": [BINARY, "init", *ad_only()],
    "`kinit`, `ldapsearch`, `kinit -kt`, the password decoded in no time": bash(LOGIN, READ + " >ldif", TICKET),
    "the same, decoded by `lab/gmsa.py`": bash(LOGIN, READ + " >ldif", DECODE, TICKET),
    "`samba-tool user get-kerberos-ticket`": bash("exec " + SAMBA),
} | {f"`init` of {path}": [path, "init"] for path in BEFORE}
INIT = next(iter(COMMANDS))
LIMIT = 70  # million instructions


class Run:
    """One run of a command, in a folder of its own."""

    def __init__(self, command, wrapper=()):
        self.folder = tempfile.mkdtemp()
        shutil.copy(KEYTAB, self.folder)
        environment = ENVIRONMENT | {"GMSA_DIR": self.folder}
        with open(f"{self.folder}/output", "w+") as output:
            start = time.monotonic()
            process = subprocess.Popen([*wrapper, *command], cwd=self.folder, env=environment, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)
            self.wall = time.monotonic() - start
            output.seek(0)
            self.output = output.read()
        process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu = usage.ru_utime + usage.ru_stime
        held = subprocess.run(["klist", "-c", f"{self.folder}/krb5cc"], capture_output=True, text=True).stdout
        shutil.rmtree(self.folder)
        if process.returncode or f"Default principal: {ACCOUNT}$@{REALM}" not in held:
            sys.exit(f"no ticket by {command}:\n{self.output}")


class Trips:
    """Round trips to servers on some ports, as the client must have waited for them one after the other."""

    def __init__(self, ports):
        self.ports, self.sent, self.read, self.last = ports, {}, 0, {}
        self.trips = self.messages = self.bytes = 0

    def send(self, socket, messages=1, size=0):
        self.read = max(self.read, self.last.pop((socket, "connect"), 0))  # it speaks, so it is connected
        self.last[socket] = self.read + 1
        self.trips = max(self.trips, self.read + 1)
        self.messages += messages
        self.bytes += size

    def connect(self, socket):
        self.last[socket, "connect"] = self.read + 1
        self.trips = max(self.trips, self.read + 1)

    def receive(self, socket, size):
        self.read = max(self.read, self.last.get(socket, 0))
        self.bytes += size


SENDS = {"sendto", "sendmsg", "sendmmsg", "write", "writev"}
RECEIVES = {"recvfrom", "recvmsg", "recvmmsg", "read", "readv"}
FORKS = {"fork", "vfork", "clone", "clone3"}


def counted(command):
    """Round trips, DNS queries, bytes and child processes of one run."""
    directory, dns = Trips({88, 389, 636, 3268}), Trips({53})
    children, ports, streams, unfinished = 0, {}, set(), {}
    with tempfile.NamedTemporaryFile("r", errors="replace") as trace:
        calls = ",".join(SENDS | RECEIVES | FORKS | {"socket", "connect"})
        Run(command, ["strace", "-f", "-y", "-qq", "-s0", "-e", f"trace={calls}", "-o", trace.name])
        lines = trace.readlines()
    for line in lines:
        process, line = line.split(None, 1)
        if line.endswith("<unfinished ...>\n"):
            unfinished[process] = line.removesuffix("<unfinished ...>\n")
            continue
        if resumed := re.match(r"<\.\.\. \w+ resumed>", line):
            line = unfinished.pop(process) + line[resumed.end():]
        parts = re.match(r"(\w+)\((.*)\)\s+= (-?\d+)(.*)", line)
        if not parts:
            continue
        call, arguments, result, rest = parts[1], parts[2], int(parts[3]), parts[4]
        if call in FORKS:
            children += result > 0 and "CLONE_THREAD" not in arguments
            continue
        socket = re.search(r"<socket:\[(\d+)\]>", rest if call == "socket" else arguments.split(",")[0])
        if not socket:
            continue
        socket = socket[1]
        if call == "socket" and "SOCK_STREAM" in arguments:
            streams.add(socket)
        if port := re.search(r"port=htons\((\d+)\)", arguments):
            if call not in RECEIVES:
                ports[socket] = int(port[1])
        for trips in (directory, dns):
            if ports.get(socket) not in trips.ports:
                continue
            if call == "connect" and socket in streams:
                trips.connect(socket)
            elif call in SENDS and result > 0:
                sizes = [int(size) for size in re.findall(r"msg_len=(\d+)", arguments)] if call == "sendmmsg" else [result]
                trips.send(socket, len(sizes), sum(sizes))
            elif call in RECEIVES and result > 0:
                trips.receive(socket, result)
    return directory, dns, children


def keytab():
    """The account's keys, for the row in which decoding them takes no time."""
    folder = tempfile.mkdtemp()
    subprocess.run(bash(LOGIN, READ + " >ldif", DECODE), cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return f"{folder}/keytab"


KEYTAB = keytab()
runs = {name: [] for name in COMMANDS}
for _ in range(RUNS):
    for name, command in COMMANDS.items():
        runs[name].append(Run(command))
wall = {name: statistics.median(run.wall for run in of) for name, of in runs.items()}
cpu = {name: statistics.median(run.cpu for run in of) for name, of in runs.items()}

print("| | wall | CPU | round trips to the DC | bytes to and from it | DNS queries | child processes |")
print("| --- | --- | --- | --- | --- | --- | --- |")
for name, command in COMMANDS.items():
    directory, dns, children = counted(command)
    counts = [directory.trips, directory.bytes, dns.messages, children]
    cells = [f"{wall[name] / wall[INIT]:.1f}", f"{cpu[name] / cpu[INIT]:.1f}", *counts]
    print(f"| {name} | " + " | ".join(map(str, cells)) + " |")

def instructions(command):
    callgrind = Run(command, ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"])
    return int(re.search(r"Collected : (\d+)", callgrind.output)[1]) / 1e6


whole, ad = (instructions(command) for command in list(COMMANDS.values())[:2])
print(f"\n`init` takes {whole:.0f} million instructions (callgrind), {ad:.0f} million with AD only.")
for path in [BINARY, *BEFORE] if BEFORE else []:
    print(f"{path}: {os.path.getsize(path):,} bytes, {instructions([path, 'init']):.0f} million instructions")
if whole > LIMIT:
    sys.exit(f"`init` may take {LIMIT} million instructions")
times = "; ".join(f"{wall[name] * 1e3:.0f} ms wall, {cpu[name] * 1e3:.0f} ms CPU: {name}" for name in COMMANDS)
print(f"Medians of {RUNS} on this machine: {times}", file=sys.stderr)
shutil.rmtree(os.path.dirname(KEYTAB))
