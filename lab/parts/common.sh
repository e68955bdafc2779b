# shellcheck shell=bash
# Sourced by the scripts of the lab, after env.sh.

log() { printf '%s %s\n' "$(date +%H:%M:%S.%3N)" "$*" >&2; }
die() { printf 'lab: %s\n' "$*" >&2; exit 1; }

# usage_if_asked "$@": --help prints the comment at the head of the script
usage_if_asked() {
  case ${1:-} in --help | -h) awk 'NR > 1 { if (!sub(/^# ?/, "")) exit; print }' "$0"; exit 0 ;; esac
}

must_be_root() { [ "$(id -u)" = 0 ] || die "needs root: it enters a network namespace"; }

in_netns() { "$LAB_ROOT/run" "$@"; }

# pid_of FILE COMM: the process id in FILE, if that process is one of ours: in our namespace, and named COMM...
# (an id from an old file may by now be anybody's)
pid_of() {
  local pid
  pid=$(head -n 1 "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  [ "$(stat -L -c %i "/proc/$pid/ns/net" 2>/dev/null)" = "$(stat -L -c %i "/run/netns/$LAB_NETNS" 2>/dev/null)" ] || return 1
  [[ $(cat "/proc/$pid/comm" 2>/dev/null) == "$2"* ]] || return 1
  echo "$pid"
}

# a zombie is gone too: some first processes take their time to reap
alive() { local stat; read -r stat 2>/dev/null <"/proc/$1/stat" && [[ $stat != *') Z '* ]]; }

# stop FILE COMM: end the process of that PID file and wait for it
stop() {
  local pid
  if pid=$(pid_of "$1" "$2"); then
    kill "$pid"
    for _ in $(seq 400); do alive "$pid" || break; sleep 0.05; done
    ! alive "$pid" || die "$2 (process $pid) does not stop"
  fi
  rm -f "$1"
}

# daemon NAME CMD...: CMD in the lab's network, apart from this shell, log in $LAB_STATE/log/NAME.log,
# its PID file is $LAB_STATE/run/NAME.pid
daemon() {
  local name=$1; shift
  mkdir -p "$LAB_STATE/run" "$LAB_STATE/log"
  # $$ survives the exec, so the file names the daemon itself
  # shellcheck disable=SC2016 # for the inner shell
  setsid "$LAB_ROOT/run" bash -c 'echo $$ >"$0"; exec "$@"' "$LAB_STATE/run/$name.pid" "$@" \
    >>"$LAB_STATE/log/$name.log" 2>&1 </dev/null 9>&- &
  disown
}

# wait_for WHAT SECONDS CMD...: until CMD succeeds
wait_for() {
  local what=$1 end=$((SECONDS + $2)); shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || die "$what did not become ready; see $LAB_STATE/log"
    sleep 0.05
  done
}
