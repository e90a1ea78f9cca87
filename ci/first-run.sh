#!/usr/bin/env bash
# The first minutes of a newcomer: `boxrig run` prints what a process in an isolated instance
# printed, gives its exit status, and the instance is not the host.
#
#   ci/first-run.sh PROGRAM
#
# Runs as whoever calls it and, when that is root, as uid 1000 too.
set -uo pipefail
program=$(realpath "$1")
passed=0
failed=0

check() { # NAME, then the words of a test
  local name=$1
  shift
  if "$@"; then passed=$((passed + 1)); echo "ok     $name"; else failed=$((failed + 1)); echo "FAILED $name"; fi
}

# Two texts that are there and differ.
differ() { test -n "$1" && test -n "$2" && test "$1" != "$2"; }

as_user() { # WHO, then a prefix of commands
  local who=$1 home
  shift
  home=$(mktemp -d)
  chmod 0755 "$home"
  cp "$program" "$home/boxrig"
  echo "canary-$RANDOM$RANDOM" >"$home/canary"
  local canary prefix=("$@")
  canary=$(cat "$home/canary")
  [ ${#prefix[@]} -eq 0 ] || chown -R 1000:1000 "$home"
  box() { "${prefix[@]}" env -i PATH="$PATH" HOME="$home" "$home/boxrig" "$@"; }
  run() { box run -- "$@"; }

  check "$who: uname -a" test -n "$(run uname -a)"
  run sh -c 'exit 7'
  check "$who: the command's exit status" test $? -eq 7
  local kind
  for kind in pid mnt user net uts ipc; do
    check "$who: another $kind namespace" \
      differ "$(run readlink /proc/self/ns/$kind)" "$(readlink /proc/self/ns/$kind)"
  done
  check "$who: another host name" differ "$(run hostname)" "$(hostname)"
  check "$who: a file of the host is not readable" differ "$(run sh -c "cat $home/canary 2>&1; echo tried")" "$canary
tried"
  check "$who: it is not found by looking either" \
    test -z "$(run sh -c 'find / -name canary -not -path "/proc/*" 2>/dev/null')"
  check "$who: stdout and stderr are kept apart" test "$(run sh -c 'echo out; echo err >&2' 2>/dev/null)" = out
  run /no/such/thing 2>/dev/null
  check "$who: a missing command is 127" test $? -eq 127
  check "$who: nothing is left" test "$(box ls -o name && echo listed)" = listed
  box down >/dev/null 2>&1
  rm -rf "$home"
}

as_user "$(id -un)"
if [ "$(id -u)" -eq 0 ]; then
  as_user "uid 1000" setpriv --reuid=1000 --regid=1000 --clear-groups --
fi
echo "first-run.sh: $passed passed, $failed failed"
[ $failed -eq 0 ]
