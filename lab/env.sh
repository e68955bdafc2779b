#!/bin/bash
# usage: . lab/env.sh     (in bash: sets and exports every LAB_ variable, nothing else)
#        lab/env.sh       (elsewhere: prints them, one NAME=VALUE a line)
# Names, addresses and passwords of the lab. No side effects.

# shellcheck disable=SC2034
LAB_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAB_BUILD=$(dirname "$LAB_ROOT")/build
LAB_STATE=${LAB_STATE:-$LAB_BUILD/lab}
LAB_NETNS=${LAB_NETNS:-gmsa-lab}
LAB_VENV=$LAB_BUILD/venv

# the domain
LAB_REALM=EXAMPLE.COM LAB_DOMAIN=example.com LAB_NETBIOS=EXAMPLE LAB_BASEDN=DC=example,DC=com
LAB_DC1=dc1.example.com LAB_DC1_IP=127.0.10.1
LAB_DC2=dc2.example.com LAB_DC2_IP=127.0.10.2
LAB_RODC=rodc.example.com LAB_RODC_IP=127.0.10.4   # read-only
LAB_ADMIN=Administrator LAB_ADMIN_PW=Adm1n-Passw0rd
LAB_SMB_CONF=$LAB_STATE/dc1/etc/smb.conf      # samba-tool ... -s
LAB_SAMDB=$LAB_STATE/dc1/private/sam.ldb      # samba-tool ... -H, ldbsearch -H, ldbmodify -H
LAB_CA=$LAB_STATE/ca/ca.pem                   # signed the certificates of the DCs and aws.pem
LAB_OTHER_CA=$LAB_STATE/ca/other-ca.pem       # signed nothing

# logins: an allowed one, one that may read no gMSA, and one for each way a login can fail
LAB_GROUP=WebAppPrincipals
LAB_USER=svc-fetcher LAB_USER_PW=Fetch3r-Passw0rd
LAB_OUTSIDER=svc-outsider LAB_OUTSIDER_PW=Outs1der-Passw0rd
LAB_DISABLED=svc-disabled LAB_DISABLED_PW=D1sabled-Passw0rd
LAB_MUSTCHANGE=svc-mustchange LAB_MUSTCHANGE_PW=MustChange-Passw0rd
LAB_EXPIRED=svc-expired LAB_EXPIRED_PW=Exp1red-Passw0rd
LAB_LOCKED=svc-locked LAB_LOCKED_PW=L0cked-Passw0rd   # not locked yet: three wrong passwords lock it

# group managed service accounts
LAB_GMSA_OU="CN=Managed Service Accounts,$LAB_BASEDN"
LAB_GMSA=WebApp01           # readers: the group; 30 days
LAB_GMSA2=WebApp02          # reader: svc-fetcher; 1 day
LAB_GMSA_RC4=WebApp-RC4     # msDS-SupportedEncryptionTypes 4
LAB_GMSA_OFF=WebAppOff      # disabled
LAB_GMSA_SHORT=W            # sAMAccountName W$
LAB_GMSA_LONG=WebApp-15-chars

# a second domain, which lab/trust makes
LAB_OTHER_REALM=OTHER.TEST LAB_OTHER_DOMAIN=other.test
LAB_OTHER_DC=dc3.other.test LAB_OTHER_DC_IP=127.0.10.3
LAB_FOREIGN=svc-foreign LAB_FOREIGN_PW=F0reign-Passw0rd
LAB_GMSA_FAR=WebAppFar      # of the first domain; reader: svc-foreign

# services that tickets are used against
LAB_DB=db.example.com LAB_DB_IP=127.0.10.5
LAB_DB_ALIAS=sql.example.com LAB_DB_TRUSTED=trusted.example.com   # a CNAME of it; the same address, trusted for delegation
LAB_SQL=$LAB_STATE/sql LAB_SQL_LOG=$LAB_STATE/log/sql.jsonl        # one line a login
LAB_FRONT=front.example.com                   # an account that may act for its clients at LAB_DB
LAB_DRIVERS=$LAB_BUILD/drivers                # what lab/install unpacked of SQL drivers
LAB_PG="$LAB_STATE/pg"      # psql -h "$LAB_PG" -U postgres: the database's administrator, as root
LAB_SMB="//$LAB_DC1/app"

# AWS stand-ins
LAB_AWS_IP=127.0.10.20 LAB_AWS_ENDPOINT=http://127.0.10.20:5000
LAB_AWS_REGION=eu-central-1 LAB_AWS_ACCOUNT=123456789012
LAB_ECS_IP=169.254.170.2 LAB_ECS_ENDPOINT=http://169.254.170.2
LAB_ECS_DOCS=$LAB_STATE/ecs                   # <id>/container.json, <id>/task.json
LAB_ECS_LOG=$LAB_STATE/log/ecs-agent.requests # one line a request
LAB_BUCKET=gmsa-specs LAB_FAMILY=webapp
LAB_ARNS=$LAB_STATE/aws/arns.json             # ARNs of what seed.py made, by name

LAB_CLIENT=$LAB_STATE/client                  # krb5.conf, ldap.conf
export "${!LAB_@}"

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  if [ "${1:-}" = --help ]; then awk 'NR > 1 { if (!sub(/^# ?/, "")) exit; print }' "$0"; exit; fi
  for name in "${!LAB_@}"; do printf '%s=%s\n' "$name" "${!name}"; done
fi
