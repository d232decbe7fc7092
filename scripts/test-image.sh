#!/bin/bash
# Build docker/Dockerfile without a registry of images, start what it gives with avr-infra's environment, and look at it.
#   test-image.sh HARK        HARK: a built program, which stands in for the compilation inside of the image
# Exit codes: 0 all is well, 1 it is not, 77 it cannot be tested here (with the reason).
# The builder is buildah, without a daemon; the base is made of Debian packages (mmdebstrap) and kept in ~/.cache/hark. The Dockerfile is
# the one that users build; where its first stage runs cargo, a stand-in hands out HARK. tests/it/image.rs runs this.
set -euo pipefail
hark=$(realpath "${1:?the program}")
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hark

skip() { echo "image: NOT TESTED: $*" >&2; exit 77; }
fail() { echo "image: FAILED: $*" >&2; [ -f "${log:-}" ] && sed 's/^/  | /' "$log" >&2; exit 1; }
ok() { echo "image: ok: $*"; }

# ---- outside: prepare, and go where root is not needed ----
if [ -z "${HARK_IMAGE_WORK:-}" ]; then
  for program in buildah mmdebstrap unshare ip; do
    command -v $program >/dev/null || skip "$program is missing (scripts/setup.sh test installs it where it can)"
  done
  if [ "$(id -u)" -eq 0 ]; then enter=(); else enter=(buildah unshare); fi
  "${enter[@]}" unshare --net --mount --pid --fork true 2>/dev/null || skip "this machine gives no namespaces to run an image in"
  HARK_IMAGE_WORK=$(mktemp -d "${TMPDIR:-/tmp}/hark-image.XXXXXX")
  export HARK_IMAGE_WORK
  # files of other users of the image cannot be removed from outside of the user namespace
  trap '"${enter[@]}" rm -rf "$HARK_IMAGE_WORK"' EXIT
  suite=$(. /etc/os-release; echo "${VERSION_CODENAME:-bookworm}")
  base=$cache/image-base-$suite.tar
  mkdir -p "$cache"
  exec 9>"$base.lock"
  flock 9
  if [ ! -s "$base" ]; then
    echo "image: making a base of $suite's packages (once), $base" >&2
    mmdebstrap --quiet --format=tar --variant=apt "$suite" "$base.part" >"$HARK_IMAGE_WORK/log" 2>&1 ||
      { tail -5 "$HARK_IMAGE_WORK/log" >&2; rm -f "$base.part"; skip "no base could be made: is the package mirror out of reach?"; }
    mv "$base.part" "$base"
  fi
  exec 9>&-
  HARK_IMAGE_MODELS=$cache/models
  [ -d "$HARK_IMAGE_MODELS/moonshine-voice-0.0.73" ] || HARK_IMAGE_MODELS=
  export HARK_IMAGE_MODELS
  # a mount namespace: what is mounted below goes with it
  HARK_IMAGE_BASE=$base "${enter[@]}" unshare --mount --propagation private "$0" "$hark"
  exit
fi

# ---- inside of a user namespace (or root): build ----
work=$HARK_IMAGE_WORK
# The storage driver that needs no rights copies whole file systems, a gigabyte in all: in memory, where there is plenty, that takes
# seconds.
if [ "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)" -gt 4000000 ]; then
  mount -t tmpfs -o size=3g,mode=700 hark-image "$work" || true
fi
buildah() { command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
# --pull-never: whatever happens, no registry is asked. The format is Docker's: OCI's has no health check.
build() { buildah bud --isolation chroot --pull-never --format docker --quiet "$@" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; fail "buildah bud $*"; }; }

mkdir -p "$work"/{base,rust}
cp "$HARK_IMAGE_BASE" "$work/base/base.tar"
printf 'FROM scratch\nADD base.tar /\n' >"$work/base/Dockerfile"
build -t localhost/base "$work/base"
cp "$hark" "$work/rust/hark"
cat >"$work/rust/cargo" <<'STUB'
#!/bin/sh
set -eu
[ "$*" = "build --release --locked --bin hark" ] || { echo "the Dockerfile runs: cargo $*" >&2; exit 1; }
# what cargo would miss, had .dockerignore kept it out
for file in Cargo.toml Cargo.lock src/main.rs src/config/default.toml assets/apology.wav assets/demo/caller.wav; do
  [ -f $file ] || { echo "$file is not in the build context" >&2; exit 1; }
done
for file in $(sed -n 's/^path = "\(.*\)"$/\1/p' Cargo.toml); do
  [ -f "$file" ] || { echo "$file, which Cargo.toml names, is not in the build context" >&2; exit 1; }
done
[ ! -d target ] || { echo "target is in the build context: gigabytes" >&2; exit 1; }
mkdir -p target/release
cp /prebuilt/hark target/release/hark
STUB
chmod +x "$work/rust/cargo"
echo 'of a crate' >"$work/rust/LICENSE-MIT"
printf 'FROM localhost/base\nCOPY cargo /usr/local/bin/cargo\nCOPY hark /prebuilt/hark\nCOPY LICENSE-MIT /usr/local/cargo/registry/src/index/stand-in-1.0.0/\n' >"$work/rust/Dockerfile"
build -t localhost/rust "$work/rust"
build -t localhost/hark --build-arg RUST_IMAGE=localhost/rust --build-arg BASE_IMAGE=localhost/base -f docker/Dockerfile .
ok "docker/Dockerfile builds"

config() { buildah inspect --type image --format "$1" localhost/hark; }
lines() { config "{{range $1}}{{println .}}{{end}}"; }
user=$(config '{{.Docker.Config.User}}')
workdir=$(config '{{.Docker.Config.WorkingDir}}')
stopsignal=$(config '{{.Docker.Config.StopSignal}}')
mapfile -t env < <(lines .Docker.Config.Env | sed '/^$/d')
mapfile -t command < <({ lines .Docker.Config.Entrypoint; lines .Docker.Config.Cmd; } | sed '/^$/d')
mapfile -t health < <(lines .Docker.Config.Healthcheck.Test | sed '/^$/d')
[ "${health[0]:-}" = CMD ] || fail "the health check is no CMD: ${health[*]}"
health=("${health[@]:1}")
[ -n "$user" ] && [ "$user" != root ] && [ "$user" != 0 ] || fail "the image runs as ${user:-root}"
[ "$stopsignal" = SIGTERM ] || fail "it is stopped by $stopsignal"
config '{{.Docker.Config.Volumes}}' | grep -q /var/lib/hark || fail "/var/lib/hark is no volume"
config '{{.Docker.Config.ExposedPorts}}' | grep -q 5001/tcp || fail "port 5001 is not exposed"
container=$(buildah from --pull-never localhost/hark)
root=$(buildah mount "$container")
for text in LICENSE NOTICE LICENSE.silero crates/stand-in-1.0.0/LICENSE-MIT; do
  [ -s "$root/usr/share/doc/hark/$text" ] || fail "the image lacks /usr/share/doc/hark/$text"
done
ok "user $user, stop signal, volume, port, licences"

# ---- run it as a container would: own network, own processes, nothing of this machine's environment ----
# Under a compose file this is a mount; the path of AMBIENT_NOISE_FILE begins at the working directory.
mkdir -p "$root$workdir/ambient_sounds"
head -c 160000 /dev/urandom >"$root$workdir/ambient_sounds/office_background.raw"
mapfile -t avr_infra < <(grep -v '^#' fixtures/config/avr-infra.env)
export root user workdir
declare -p env command health avr_infra >"$work/settings"
log=$work/log
unshare --net --mount --propagation private bash -euo pipefail -s "$work" "$log" <<'INNER' || fail "see above"
work=$1 log=$2
. "$work/settings"
ip link set lo up
mount --rbind /dev "$root/dev"
fail() { echo "image: FAILED: $*" >&2; exit 1; }
ok() { echo "image: ok: $*"; }

# inside VARIABLE=VALUE … -- COMMAND …: as the image's user, in its working directory
inside() {
  local variables=()
  while [ "$1" != -- ]; do variables+=("$1"); shift; done
  shift
  env -i "${env[@]}" "${variables[@]}" chroot --userspec="$user" "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$workdir" "$@"
}
is_healthy() { inside "${variables[@]}" -- "${health[@]}" 2>/dev/null; }

# start VARIABLE=VALUE …: the image's command as process 1, as in a container
start() {
  variables=("$@")
  is_healthy && fail "the health check is content without a gateway"
  started=$SECONDS
  env -i "${env[@]}" "${variables[@]}" unshare --pid --fork --kill-child \
    chroot --userspec="$user" "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$workdir" "${command[@]}" >"$log" 2>&1 &
  runner=$!
  until is_healthy; do
    kill -0 $runner 2>/dev/null || fail "it ended at once"
    [ $((SECONDS - started)) -lt "${patience:-10}" ] || fail "not healthy within ${patience:-10} s"
    sleep 0.1
  done
  pid=$(pgrep -P $runner)
}

# stop SECONDS: SIGTERM, as docker stop sends it
stop() {
  local since=$SECONDS status=0
  kill -TERM "$pid"
  wait $runner || status=$?
  [ $status -eq 0 ] || fail "SIGTERM: exit code $status"
  [ $((SECONDS - since)) -lt "$1" ] || fail "SIGTERM: it took $((SECONDS - since)) s"
  is_healthy && fail "the health check is content after the end"
  return 0
}

start "${avr_infra[@]}"
ok "healthy with avr-infra's environment"
[ "$(inside -- id -u)" != 0 ] || fail "it runs as root"
[ "$(awk '/^Uid:/ { print $2 }' "/proc/$pid/status")" != "$(awk '/^Uid:/ { print $2 }' /proc/self/status)" ] || fail "process 1 is root's"
inside -- test -w /var/lib/hark || fail "HARK_DATA_DIR cannot be written"
inside -- test ! -w /usr/local/bin/hark || fail "its user can change the program"
grep -q 'AVR AudioSocket Server listening on port 5001' "$log" || fail "the line that AVR users look for is missing"
exec 3<>/dev/tcp/127.0.0.1/6001
printf 'GET /health HTTP/1.0\r\n\r\n' >&3
grep -q '{"status":"ok"}' <&3 || fail "/health says something else"
exec 3>&-
ok "process 1 is not root's; /health"
# its services are not there: the call is given back to the dialplan within seconds
timeout 20 env -i "${env[@]}" chroot --userspec="$user" "$root" hark call --seconds 15 127.0.0.1:5001 >"$work/call" 2>&1 || true
grep -qi 'hung up\|ended' "$work/call" || { cat "$work/call" >&2; fail "a call without services is not given back"; }
stop 5
ok "SIGTERM without a call"

start PORT=5001
inside -- hark call --seconds 30 127.0.0.1:5001 >"$work/call" 2>&1 &
caller=$!
for _ in $(seq 100); do grep -q 'call started' "$log" && break; sleep 0.1; done
grep -q 'call started' "$log" || fail "no call came through port 5001"
sleep 2
stop 10
wait $caller || true
grep -q 'reason="\?shutdown\|shutdown' "$log" || fail "the call was not ended by the stop"
cat "$work/call"
ok "SIGTERM in a call: over within docker's 10 s, exit code 0"

# the embedded agent, with models mounted as compose.yaml says
for program in flite espeak-ng; do inside -- sh -c "command -v $program" >/dev/null || fail "$program is not in the image"; done
if [ -z "$HARK_IMAGE_MODELS" ]; then
  echo "image: NOT TESTED: the embedded agent's voice (no models: scripts/get-models.sh)" >&2
  exit 0
fi
inside -- test -w /var/lib/hark/models || fail "models cannot be installed into /var/lib/hark/models"
mount --bind "$HARK_IMAGE_MODELS" "$root/var/lib/hark/models"
mount -o remount,bind,ro "$root/var/lib/hark/models" || true
inside -- hark models verify >"$work/call" 2>&1 || { cat "$work/call" >&2; fail "the models in a mounted directory are not well"; }
patience=60 # opening models is work
start PORT=5001
grep -q 'the embedded agent converses, with Piper as its voice' "$log" || { cat "$log" >&2; fail "it does not converse with mounted models"; }
inside -- hark call --seconds 6 127.0.0.1:5001 >"$work/call" 2>&1 || true
grep -q 'agent *begins to speak' "$work/call" || { cat "$work/call" >&2; fail "the embedded voice is not heard"; }
! grep -q 'cannot say a text' "$log" || fail "flite spoke in the place of the embedded voice"
stop 10
ok "with models mounted the embedded agent converses, in its own voice"
INNER
ok "all"
