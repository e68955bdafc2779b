# shellcheck shell=bash
# A stand-in for SQL Server at db.example.com:1433. Sourced by lab/up and lab/down, after common.sh and ad.sh.

add_sql_records() {
  local have
  have=$(in_netns dig +short "@$LAB_DC1_IP" "$LAB_DB_TRUSTED" A)
  if [ -z "$have" ]; then dns_add "${LAB_DB_TRUSTED%%.*}" A "$LAB_DB_IP"; fi
  have=$(in_netns dig +short "@$LAB_DC1_IP" "$LAB_DB_ALIAS" CNAME)
  if [ -z "$have" ]; then dns_add "${LAB_DB_ALIAS%%.*}" CNAME "$LAB_DB"; fi
}

dns_add() { # name type value
  in_netns samba-tool dns add "$LAB_DC1_IP" "$LAB_DOMAIN" "$1" "$2" "$3" -U "$LAB_ADMIN%$LAB_ADMIN_PW" -s "$LAB_SMB_CONF" >/dev/null
}

# The domain may be made again while the keytab stays: its accounts are the measure.
make_sql() {
  [ ! "$LAB_SQL/.made" -nt "$LAB_STATE/dc1/.provisioned" ] || return 0
  log "making the accounts of SQL Server"
  /usr/bin/python3 -B "$LAB_ROOT/parts/sql.py"
  add_sql_records
  touch "$LAB_SQL/.made"
}

start_sql() {
  make_sql
  if pid_of "$LAB_STATE/run/sql.pid" python3 >/dev/null; then return; fi
  log "starting the stand-in for SQL Server"
  : >"$LAB_STATE/log/sql.log"
  daemon sql /usr/bin/python3 -B "$LAB_ROOT/sql/server.py" --listen "$LAB_DB_IP:1433" --listen "$LAB_DB_IP:14330" \
    --listen "$LAB_DB_IP:14331:off" \
    --browser "$LAB_DB_IP=PROD:14330" --keytab "$LAB_SQL/sql.keytab" --cert "$LAB_STATE/ca/db.pem" \
    --key "$LAB_STATE/ca/db.key" --log "$LAB_SQL_LOG"
  wait_for 'the stand-in for SQL Server' 20 grep -q listening "$LAB_STATE/log/sql.log"
}

stop_sql() { stop "$LAB_STATE/run/sql.pid" python3; }
