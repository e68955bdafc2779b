"""Makes the accounts, straight in the directory's database."""

import sys

import ldb
from samba.auth import system_session
from samba.domain.models import GroupManagedServiceAccount
from samba.nt_time import NT_TICKS_PER_SEC, nt_now
from samba.param import LoadParm
from samba.samdb import SamDB

parameters = LoadParm()
parameters.load(sys.argv[1])
db = SamDB(url=parameters.private_path("sam.ldb"), session_info=system_session(), lp=parameters)


def change(account, **attributes):
    entry = db.search(expression=f"(sAMAccountName={account})", attrs=["objectSid"])[0]
    message = ldb.Message(entry.dn)
    for name, value in attributes.items():
        name = name.replace("_", "-")
        message[name] = ldb.MessageElement(str(value), ldb.FLAG_MOD_REPLACE, name)
    db.modify(message)
    return db.schema_format_value("objectSid", entry["objectSid"][0]).decode()


# Passwords of gMSAs are derived from a root key, which has to be ten hours old before it is used.
keys = f"CN=Master Root Keys,CN=Group Key Distribution Service,CN=Services,CN=Configuration,{db.domain_dn()}"
young = db.search(keys, ldb.SCOPE_ONELEVEL)
long_ago = nt_now() - 30 * 24 * 3600 * NT_TICKS_PER_SEC
db.new_gkdi_root_key(current_time=long_ago, use_start_time=long_ago)
for key in young:
    db.delete(key.dn)

db.newuser("svc-fetcher", "Fetch3r-Passw0rd")
login = change("svc-fetcher", userAccountControl=66048)  # a password that does not expire
db.newuser("svc-postgres", "P0stgres-Passw0rd")
change("svc-postgres", servicePrincipalName="postgres/db.example.com", msDS_SupportedEncryptionTypes=24)

gmsa = GroupManagedServiceAccount(
    name="WebApp01", dns_host_name="webapp01.example.com", managed_password_interval=30,
    group_msa_membership=f"O:BAD:(A;;CCDCLCSWRPWPDTLOCRSDRCWDWO;;;{login})",
)
gmsa.save(db)
change("WebApp01$", userAccountControl=4096, msDS_SupportedEncryptionTypes=24)
