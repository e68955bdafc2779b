#!/usr/bin/python3
"""Makes the lab's accounts in a fresh domain (lab/up runs it, once for each domain)."""

import json
import os
from os import environ as env

from directory import AES, RC4, Directory

d = Directory()
d.age_root_key(days=400)
d.set(d.base, maxPwdAge=-(1 << 63), minPwdAge=0)

with d.all_or_nothing():
    login = d.user(env["LAB_USER"], env["LAB_USER_PW"])
    d.db.newgroup(env["LAB_GROUP"])
    d.db.add_remove_group_members(env["LAB_GROUP"], [env["LAB_USER"]])
    d.user(env["LAB_OUTSIDER"], env["LAB_OUTSIDER_PW"])
    d.user(env["LAB_MUSTCHANGE"], env["LAB_MUSTCHANGE_PW"], must_change=True)
    d.set(d.user(env["LAB_DISABLED"], env["LAB_DISABLED_PW"]), userAccountControl=514)
    d.set(d.user(env["LAB_EXPIRED"], env["LAB_EXPIRED_PW"]), accountExpires=116444736000000000)  # 1970
    d.user(env["LAB_LOCKED"], env["LAB_LOCKED_PW"])
    d.lock_after(3, env["LAB_LOCKED"])

    readers = env["LAB_GROUP"]
    d.gmsa(env["LAB_GMSA"], readers)
    d.gmsa(env["LAB_GMSA2"], env["LAB_USER"], days=1)
    d.gmsa(env["LAB_GMSA_RC4"], readers, enctypes=RC4)
    d.gmsa(env["LAB_GMSA_OFF"], readers, enabled=False)
    d.gmsa(env["LAB_GMSA_SHORT"], readers)
    d.gmsa(env["LAB_GMSA_LONG"], readers)
    d.spn("WebApp01$", "HTTP/webapp01.example.com")
    d.spn("WebApp02$", "HTTP/webapp02.example.com")

    # the account of PostgreSQL
    d.set(d.user("svc-postgres", "P0stgres-Passw0rd"), msDS_SupportedEncryptionTypes=AES)
    d.spn("svc-postgres", f"postgres/{env['LAB_DB']}")

# for the CredSpecs
domain = {"sid": d.db.get_domain_sid(), "guid": d.db.schema_format_value("objectGUID", d.db.search(d.base, 0, attrs=["objectGUID"])[0]["objectGUID"][0]).decode()}
with open(os.path.join(env["LAB_STATE"], "domain.json"), "w") as file:
    json.dump(domain, file)
