# shellcheck shell=bash
# PostgreSQL at db.example.com:5432, GSSAPI only. Sourced by lab/up and lab/down, after common.sh.

pg_bin() { find /usr/lib/postgresql/*/bin -maxdepth 0 | sort -V | tail -n 1; }

# as the user postgres, who may not be let into the state folder: it sees $LAB_PG at its home
as_postgres() {
  # shellcheck disable=SC2016 # for the inner shell
  in_netns unshare -m --propagation private bash -c 'mount --bind "$0" /var/lib/postgresql && exec "$@"' "$LAB_PG" \
    setpriv --reuid=postgres --regid=postgres --init-groups \
    env -C / HOME=/var/lib/postgresql KRB5_CONFIG=/var/lib/postgresql/krb5.conf "$@"
}

# as the database's administrator, over the socket
pg_admin() { in_netns psql -h "$LAB_PG" -U postgres -d "${PGDATABASE:-postgres}" -v ON_ERROR_STOP=1 -qtA "$@"; }

make_pg() {
  [ ! -e "$LAB_PG/.made" ] || return 0
  rm -rf "$LAB_PG"
  mkdir -p "$LAB_PG"
  chown postgres:postgres "$LAB_PG"
  as_postgres "$(pg_bin)/initdb" -D /var/lib/postgresql/data -A reject --auth-local=peer --no-sync -U postgres >/dev/null
  in_netns samba-tool domain exportkeytab "$LAB_PG/krb5.keytab" --principal="postgres/$LAB_DB" -s "$LAB_SMB_CONF" >/dev/null 2>&1
  chown postgres "$LAB_PG/krb5.keytab"
  chmod 600 "$LAB_PG/krb5.keytab"
  cat >>"$LAB_PG/data/postgresql.conf" <<END
listen_addresses = '$LAB_DB_IP'
unix_socket_directories = '/var/lib/postgresql'
krb_server_keyfile = '/var/lib/postgresql/krb5.keytab'
fsync = off
END
  printf '%s\n' 'local all postgres peer map=admin' \
    "host all all 0.0.0.0/0 gss include_realm=1 krb_realm=$LAB_REALM" >"$LAB_PG/data/pg_hba.conf"
  printf '%s\n' 'admin root postgres' 'admin postgres postgres' >"$LAB_PG/data/pg_ident.conf"
  touch "$LAB_PG/.made"
}

start_pg() {
  local account role
  make_pg
  cp "$LAB_CLIENT/krb5.conf" "$LAB_PG/"
  if ! pid_of "$LAB_PG/data/postmaster.pid" postgres >/dev/null; then
    log "starting PostgreSQL"
    rm -f "$LAB_PG/data/postmaster.pid"
    as_postgres "$(pg_bin)/pg_ctl" -w -D /var/lib/postgresql/data -l /var/lib/postgresql/log start >/dev/null 9>&-
  fi
  [ "$(pg_admin -c "SELECT 1 FROM pg_database WHERE datname = 'app'")" != 1 ] || return 0
  for account in "$LAB_GMSA" "$LAB_GMSA2"; do
    role="$account\$@$LAB_REALM"
    pg_admin -c "CREATE ROLE \"$role\" LOGIN"
  done
  pg_admin -c "CREATE DATABASE app OWNER \"$LAB_GMSA\$@$LAB_REALM\""
}

stop_pg() {
  if pid_of "$LAB_PG/data/postmaster.pid" postgres >/dev/null; then
    as_postgres "$(pg_bin)/pg_ctl" -D /var/lib/postgresql/data -m fast stop >/dev/null
  fi
}
