# shellcheck shell=bash
# The domain controllers. Sourced by lab/up, after common.sh.

make_ca() {
  local dir="$LAB_STATE/ca" name names
  mkdir -p "$dir"
  certify() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "$@" 2>/dev/null; }
  for name in ca other-ca; do
    [ -e "$dir/$name.pem" ] || certify -x509 -days 3650 -subj "/CN=Lab $name" \
      -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign \
      -keyout "$dir/$name.key" -out "$dir/$name.pem"
  done
  for name in dc1 dc2 rodc db aws; do
    [ ! -e "$dir/$name.pem" ] || continue
    case $name in
      dc1) names="DNS:$LAB_DC1,DNS:$LAB_DOMAIN,IP:$LAB_DC1_IP" ;;
      dc2) names="DNS:$LAB_DC2,DNS:$LAB_DOMAIN,IP:$LAB_DC2_IP" ;;
      db) names="DNS:$LAB_DB,DNS:$LAB_DB_TRUSTED,DNS:$LAB_DB_ALIAS" ;;
      rodc) names="DNS:$LAB_RODC,IP:$LAB_RODC_IP" ;;
      aws) names="DNS:localhost,IP:127.0.0.1,IP:$LAB_AWS_IP,DNS:*.amazonaws.com,DNS:*.$LAB_AWS_REGION.amazonaws.com,DNS:*.s3.$LAB_AWS_REGION.amazonaws.com" ;;
    esac
    certify -subj "/CN=$name" -keyout "$dir/$name.key" -out "$dir/$name.csr"
    openssl x509 -req -in "$dir/$name.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 3650 \
      -out "$dir/$name.pem" -extfile <(printf '%s\n' basicConstraints=critical,CA:FALSE \
        keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth "subjectAltName=$names") 2>/dev/null
    chmod 600 "$dir/$name.key" # samba refuses a key that others can read
  done
}

make_client() {
  mkdir -p "$LAB_CLIENT"
  cat >"$LAB_CLIENT/krb5.conf" <<END
[libdefaults]
	default_realm = $LAB_REALM
	dns_lookup_realm = false
	dns_lookup_kdc = true
	dns_canonicalize_hostname = false
	rdns = false
	default_ccache_name = FILE:/tmp/krb5cc_${LAB_NETNS}_%{uid}
END
  printf '%s\n' "TLS_CACERT $LAB_CA" 'TLS_REQCERT demand' 'SASL_NOCANON on' >"$LAB_CLIENT/ldap.conf"
}

write_smb_conf() { # name ip
  local dir="$LAB_STATE/$1"
  mkdir -p "$dir"/{etc,run,log,share}
  chmod 1777 "$dir/share"
  cat >"$dir/etc/smb.conf" <<END
[global]
	netbios name = ${1^^}
	workgroup = $LAB_NETBIOS
	realm = $LAB_REALM
	server role = active directory domain controller
	ad dc functional level = 2016
	interfaces = $2/8
	bind interfaces only = yes
	dns forwarder =
	dns update command = /usr/sbin/samba_dnsupdate --all-interfaces
	server services = s3fs, rpc, ldap, cldap, kdc, drepl, winbindd, kcc, dnsupdate, dns
	prefork children = 1
	private dir = $dir/private
	lock directory = $dir/lock
	state directory = $dir/state
	cache directory = $dir/cache
	binddns dir = $dir/bind-dns
	pid directory = $dir/run
	ncalrpc dir = $dir/run/ncalrpc
	ntp signd socket directory = $dir/run/ntp_signd
	log file = $dir/log/samba.log
	logging = file
	max log size = 0
	log level = 1
	tls enabled = yes
	tls keyfile = $LAB_STATE/ca/$1.key
	tls certfile = $LAB_STATE/ca/$1.pem
	tls cafile = $LAB_STATE/ca/ca.pem
	load printers = no
	printing = bsd
	printcap name = /dev/null
	disable spoolss = yes
	usershare max shares = 0
	include = $dir/etc/extra.conf

[sysvol]
	path = $dir/state/sysvol
	read only = No

[netlogon]
	path = $dir/state/sysvol/$LAB_DOMAIN/scripts
	read only = No

[app]
	path = /run/samba/share
	read only = No
END
  [ -e "$dir/etc/extra.conf" ] || : >"$dir/etc/extra.conf" # overrides, such as `kdc:user ticket lifetime = 1`
}

# Passwords roll on a fixed 10 h grid and WebApp02's every day: tests count on a young domain.
domain_is_old() {
  local born
  born=$(stat -c %Y "$LAB_STATE/dc1/.provisioned" 2>/dev/null) && [ $(($(date +%s) - born)) -gt $((12 * 3600)) ]
}

provision() {
  local dir="$LAB_STATE/dc1"
  [ ! -e "$dir/.provisioned" ] || return 0
  log "making the domain $LAB_DOMAIN"
  rm -rf "$dir" "$LAB_STATE"/{dc2,rodc,pg}
  write_smb_conf dc1 "$LAB_DC1_IP"
  in_netns samba-tool domain provision -s "$LAB_SMB_CONF" --realm="$LAB_REALM" --domain="$LAB_NETBIOS" --server-role=dc \
    --dns-backend=SAMBA_INTERNAL --host-name=dc1 --host-ip="$LAB_DC1_IP" --adminpass="$LAB_ADMIN_PW" \
    --function-level=2016 >"$dir/log/provision.log" 2>&1 || { tail -n 20 "$dir/log/provision.log" >&2; die "no domain"; }
  log "making the accounts"
  /usr/bin/python3 -B "$LAB_ROOT/parts/populate.py"
  touch "$dir/.provisioned"
}

dc_answers() { # name ip
  in_netns ldapsearch -LLL -x -o nettimeout=1 -H "ldap://$2" -s base -b '' defaultNamingContext 2>/dev/null | grep -q DC= &&
    in_netns dig +time=1 +tries=1 +short "@$2" "_ldap._tcp.dc._msdcs.$LAB_DOMAIN" SRV 2>/dev/null | grep -q "$1\|dc1" &&
    in_netns kinit -c MEMORY: "$LAB_USER@$LAB_REALM" <<<"$LAB_USER_PW" >/dev/null 2>&1
}

# LAB_FAKETIME=+31d shifts the DC's clock; LAB_FAKETIME_FILE names a file with such a shift, read at every look at
# the clock, so that it can change while the DC runs. For a lab of one's own: copy the state first.
start_dc() { # name ip
  local name=$1 ip=$2 dir="$LAB_STATE/$1" clock=()
  if pid_of "$dir/run/samba.pid" samba >/dev/null; then return; fi
  log "starting $name"
  rm -f "$dir"/run/*.pid
  if [ -n "${LAB_FAKETIME:-}${LAB_FAKETIME_FILE:-}" ]; then
    clock=(env LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME_DONT_FAKE_MONOTONIC=1)
    if [ -n "${LAB_FAKETIME:-}" ]; then clock+=(FAKETIME="$LAB_FAKETIME" FAKETIME_DONT_RESET=1); else
      clock+=(FAKETIME_TIMESTAMP_FILE="$LAB_FAKETIME_FILE" FAKETIME_NO_CACHE=1); fi
  fi
  # smbd asks winbindd for unix ids at a compiled-in path, /run/samba/winbindd: every DC gets a /run/samba of its own.
  # The share lies there too: smbd enters it as another user, who may not be let into the state folder.
  # shellcheck disable=SC2016 # for the inner shell
  KRB5_CONFIG="$dir/private/krb5.conf" setsid "$LAB_ROOT/run" unshare -m --propagation private bash -c '
      mkdir -p /run/samba && mount -t tmpfs -o mode=755 tmpfs /run/samba && mkdir /run/samba/share &&
      mount --bind "$0" /run/samba/share && exec "$@"' "$dir/share" \
    "${clock[@]}" samba -s "$dir/etc/smb.conf" -F --no-process-group >"$dir/log/stdout" 2>&1 </dev/null 9>&- &
  disown
  wait_for "$name" 60 dc_answers "$name" "$ip"
  log "$name is ready"
}

add_db_record() {
  [ -z "$(in_netns dig +short "@$LAB_DC1_IP" "$LAB_DB" A)" ] || return 0
  in_netns samba-tool dns add "$LAB_DC1_IP" "$LAB_DOMAIN" db A "$LAB_DB_IP" -U "$LAB_ADMIN%$LAB_ADMIN_PW" \
    -s "$LAB_SMB_CONF" >/dev/null
}

join() { # name ip kind
  local dir="$LAB_STATE/$1"
  if [ ! -e "$dir/.provisioned" ]; then
    log "joining $1"
    rm -rf "$dir"
    write_smb_conf "$1" "$2"
    in_netns samba-tool domain join "$LAB_DOMAIN" "$3" -s "$dir/etc/smb.conf" --server="$LAB_DC1" --dns-backend=SAMBA_INTERNAL \
      -U "$LAB_ADMIN%$LAB_ADMIN_PW" >"$dir/log/join.log" 2>&1 || { tail -n 20 "$dir/log/join.log" >&2; die "$1 cannot join"; }
    touch "$dir/.provisioned"
  fi
  write_smb_conf "$1" "$2"
  start_dc "$1" "$2"
}

# It serves tickets for whom dc1 lets it, and refuses managed passwords. DNS names it for sites only: others do not meet it.
start_rodc() { join rodc "$LAB_RODC_IP" RODC; }

start_dc2() {
  local part
  join dc2 "$LAB_DC2_IP" DC
  # dc2 writes its SPNs and DNS records into its own copy: bring them to dc1 now, not minutes later
  if ! ldbsearch -H "$LAB_SAMDB" '(sAMAccountName=DC2$)' servicePrincipalName 2>/dev/null | grep -q "ldap/$LAB_DC2\$"; then
    for part in "$LAB_BASEDN" "CN=Configuration,$LAB_BASEDN" "DC=DomainDnsZones,$LAB_BASEDN" "DC=ForestDnsZones,$LAB_BASEDN"; do
      for _ in 1 2 3; do
        if in_netns samba-tool drs replicate "$LAB_DC1" "$LAB_DC2" "$part" -U "$LAB_ADMIN%$LAB_ADMIN_PW" -s "$LAB_SMB_CONF" \
          >/dev/null 2>&1; then break; fi
        sleep 1
      done
    done
  fi
  wait_for 'dc2 in DNS' 90 make_dc2_known
}

# What an app's Kerberos library and the sidecar ask DNS for when dc1 is gone: zone, name, type, data, its partition.
dc2_records() {
  local zone=_msdcs.$LAB_DOMAIN
  echo "$LAB_DOMAIN dc2 A $LAB_DC2_IP DomainDnsZones"
  echo "$LAB_DOMAIN _ldap._tcp SRV $LAB_DC2:389:0:100 DomainDnsZones"
  echo "$LAB_DOMAIN _kerberos._tcp SRV $LAB_DC2:88:0:100 DomainDnsZones"
  echo "$LAB_DOMAIN _kerberos._udp SRV $LAB_DC2:88:0:100 DomainDnsZones"
  echo "$zone _ldap._tcp.dc SRV $LAB_DC2:389:0:100 ForestDnsZones"
  echo "$zone _kerberos._tcp.dc SRV $LAB_DC2:88:0:100 ForestDnsZones"
}

dns_has() { # server zone name type data
  in_netns dig +short +time=1 +tries=1 "@$1" "$3.$2" "$4" | grep -q "${5%%:*}"
}

# dc2 registers itself some seconds after its start, in its own copy; if dc1 stops before that, nobody finds dc2. Both DNS
# servers must have all of its records, since each must do when the other one is gone.
make_dc2_known() {
  local zone name type data part missing=''
  while read -r zone name type data part; do
    if ! dns_has "$LAB_DC1_IP" "$zone" "$name" "$type" "$data"; then
      in_netns samba-tool dns add "$LAB_DC1_IP" "$zone" "$name" "$type" "${data//:/ }" -U "$LAB_ADMIN%$LAB_ADMIN_PW" \
        -s "$LAB_SMB_CONF" >/dev/null 2>&1 </dev/null || true # it may come to be there meanwhile
      missing=yes
    elif ! dns_has "$LAB_DC2_IP" "$zone" "$name" "$type" "$data"; then
      in_netns samba-tool drs replicate "$LAB_DC2" "$LAB_DC1" "DC=$part,$LAB_BASEDN" -U "$LAB_ADMIN%$LAB_ADMIN_PW" \
        -s "$LAB_SMB_CONF" >/dev/null 2>&1 </dev/null || true
      missing=yes
    fi
  done < <(dc2_records)
  [ -z "$missing" ]
}

stop_dc() { # name
  local run="$LAB_STATE/$1/run"
  stop "$run/samba.pid" samba
  stop "$run/smbd.pid" smbd # these two have PID files of their own
  stop "$run/winbindd.pid" winbindd
  rm -f "$run"/*.pid
}
