#!/usr/bin/python3
"""Makes the accounts of the stand-in for SQL Server and its keytab (lab/up runs it).

svc-sql runs db.example.com; svc-sql-trusted runs trusted.example.com at the same address, and the directory trusts it for
delegation; svc-front runs HTTP/front.example.com and may act for its clients at db.example.com only (constrained
delegation). Their keytabs are $LAB_SQL/sql.keytab (the first two) and $LAB_SQL/front.keytab.
"""

import os
import struct
import sys
from os import environ as env
from pathlib import Path

from directory import AES, Directory

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from gmsa import AES128, AES256, aes_key  # noqa: E402

NORMAL, TRUSTED_FOR_DELEGATION = 0x200, 0x80000
DB, TRUSTED, FRONT = env["LAB_DB"], env["LAB_DB_TRUSTED"], env["LAB_FRONT"]
ACCOUNTS = {
    "svc-sql": [f"MSSQLSvc/{DB}", f"MSSQLSvc/{DB}:1433", f"MSSQLSvc/{DB}:PROD", f"MSSQLSvc/{DB}:14330"],
    "svc-sql-trusted": [f"MSSQLSvc/{TRUSTED}", f"MSSQLSvc/{TRUSTED}:1433"],
    "svc-front": [f"HTTP/{FRONT}"],
}
directory = Directory()


def password(account):
    return f"{account}-Passw0rd"


def make(account, spns):
    if directory.find(account):
        return
    dn = directory.user(account, password(account))
    directory.set(dn, msDS_SupportedEncryptionTypes=AES)
    directory.spn(account, *spns)
    if account == "svc-sql-trusted":
        directory.set(dn, userAccountControl=NORMAL | TRUSTED_FOR_DELEGATION)
    if account == "svc-front":
        directory.set(dn, msDS_AllowedToDelegateTo=[f"MSSQLSvc/{DB}", f"MSSQLSvc/{DB}:1433"])


def entries(account, names):
    """Keytab entries for the account's keys under each name (MIT's file format, version 2)."""
    def counted(data):
        return struct.pack(">H", len(data)) + data

    dn, realm = directory.find(account).dn, env["LAB_REALM"]
    kvno = int(directory.db.search(dn, 0, attrs=["msDS-KeyVersionNumber"])[0]["msDS-KeyVersionNumber"][0])
    out = b""
    for enctype, size in ((AES256, 32), (AES128, 16)):
        key = aes_key(password(account).encode("utf-16-le"), realm + account, size)
        for name in names:
            parts = name.split("/")
            entry = struct.pack(">H", len(parts)) + counted(realm.encode()) + b"".join(counted(part.encode()) for part in parts)
            entry += struct.pack(">IIBH", 1, 0, kvno & 255, enctype) + counted(key) + struct.pack(">I", kvno)
            out += struct.pack(">i", len(entry)) + entry
    return out


def write(name, *accounts):
    path = Path(env["LAB_SQL"], name)
    path.touch(mode=0o600)
    path.write_bytes(b"\5\2" + b"".join(entries(account, [account, *ACCOUNTS[account]]) for account in accounts))


os.makedirs(env["LAB_SQL"], exist_ok=True)
for account, spns in ACCOUNTS.items():
    make(account, spns)
write("sql.keytab", "svc-sql", "svc-sql-trusted")
write("front.keytab", "svc-front")
