#!/usr/bin/env bash
# Where the sandbox cannot run, `boxrig run` creates nothing, says which step failed and what to
# do, and exits 125; and the workspace's tests pass there, saying what they could not run.
#
#   ci/refusals.sh PROGRAM [--no-tests]
#
# Three hosts are imitated by ci/confine.py. The texts are compared with ci/golden/refusal-*.txt;
# BOXRIG_BLESS=1 writes them.
set -uo pipefail
cd "$(dirname "$0")/.."
program=$(realpath "$1")
tests=${2:-}
unset BOXRIG_REQUIRE
export PYTHONDONTWRITEBYTECODE=1
passed=0
failed=0

ok() { passed=$((passed + 1)); echo "ok     $*"; }
bad() { failed=$((failed + 1)); echo "FAILED $*"; }

# One refused run in MODE, by WHO: the text, the status, nothing left behind.
refused_run() {
  local mode=$1 who=$2 home golden=ci/golden/refusal-$1-$2.txt
  shift 2
  home=$(mktemp -d)
  chmod 0755 "$home"
  cp "$program" "$home/boxrig" && cp ci/confine.py "$home/"
  [ "$#" -eq 0 ] || chown -R 1000:1000 "$home"
  "$@" env -i PATH="$PATH" HOME="$home" XDG_RUNTIME_DIR= \
    python3 "$home/confine.py" "$mode" -- "$home/boxrig" run -- true >"$home/out" 2>"$home/err"
  local status=$?
  # The path of the program differs from run to run; whether this is a container, from host to host.
  sed -i -e "s#$home#HOME#g" -e '/^hint: this is a container/d' "$home/err"
  if [ "${BOXRIG_BLESS:-}" = 1 ]; then
    mkdir -p ci/golden
    cp "$home/err" "$golden"
  fi
  if [ $status -ne 125 ]; then
    bad "$mode as $who: status $status, wanted 125"
    cat "$home/err"
  elif [ -s "$home/out" ] || ! diff -u "$golden" "$home/err"; then
    bad "$mode as $who: the text differs from $golden"
  elif find "$home" -path '*/instances/*' | grep -q .; then
    bad "$mode as $who: an instance was created"
    find "$home" -path '*/instances/*' | head
  else
    ok "$mode as $who: 125 and the golden text"
  fi
  "$@" env -i PATH="$PATH" HOME="$home" "$home/boxrig" down >/dev/null 2>&1 || true
  rm -rf "$home"
}

# The tests of the workspace, already built, in MODE.
whole_tests() {
  local mode=$1 log
  log=$(mktemp)
  if python3 ci/confine.py "$mode" -- cargo test --workspace --quiet -- --nocapture >"$log" 2>&1; then
    local skipped
    skipped=$(grep -c 'skipped: ' "$log")
    if [ "$skipped" -gt 0 ]; then
      ok "$mode: cargo test --workspace; $skipped times it said what it could not run:"
      grep -o 'skipped: .*' "$log" | sort | uniq -c | sort -rn | head -5
    else
      bad "$mode: the tests passed without a word about what they left out"
    fi
  else
    bad "$mode: cargo test --workspace"
    grep -E '^(test .*FAILED|error|failures:|---- )|panicked at' "$log" | head -40
  fi
  rm -f "$log"
}

for mode in no-namespaces no-userns no-mount; do
  refused_run $mode root
  refused_run $mode user setpriv --reuid=1000 --regid=1000 --clear-groups --
done
if [ "$tests" != --no-tests ]; then
  cargo test --workspace --no-run --quiet || bad "building the tests"
  for mode in no-namespaces no-userns no-mount; do
    whole_tests $mode
  done
fi
echo "refusals.sh: $passed passed, $failed failed"
[ $failed -eq 0 ]
