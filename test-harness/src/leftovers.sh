# Ends what a process of the harness left behind, as its record (the first argument) lists it, and removes the record.
# A guardian has a pipe as standard input, which its owner holds open: it first waits until the owner has ended.
#
#   boot ID            when the kernel started: after that no process of the record can be left
#   process PID START  a process that started then, by the 22nd field of /proc/PID/stat
#   container NAME
#   gone NAME          that container was removed
#   folder PATH

trap '' HUP INT QUIT TERM
record=$1
read -r _
[ -f "$record" ] || exit 0

# Whether the process with id $1 is the one that started at $2. A zombie is not, once its last thread has ended: until then
# its sockets are open.
lives() {
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  # The second field is the program's name in parentheses, which may hold blanks.
  set -- "$2" ${stat##*) }
  [ "${21}" = "$1" ] && { [ "$2" != Z ] || [ "${19}" -gt 1 ]; }
}

survivors() {
  while read -r kind id start; do
    [ "$kind" = process ] && lives "$id" "$start" && echo "$id"
  done <"$record"
}

if grep -qx "boot $(cat /proc/sys/kernel/random/boot_id)" "$record"; then
  for _ in $(seq 100); do
    left=$(survivors)
    [ "$left" ] || break
    kill -KILL $left 2>/dev/null
    sleep 0.1
  done
fi

# Only now: a client of Docker that runs could still start its container.
while read -r kind what; do
  case $kind in
    container) grep -qxF "gone $what" "$record" || docker rm --force "$what" >/dev/null 2>&1 </dev/null ;;
    folder) case $what in */berth-*) rm -rf -- "$what" ;; esac ;;
  esac
done <"$record"
rm -f -- "$record"
