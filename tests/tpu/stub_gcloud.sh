#!/usr/bin/env bash
# In place of gcloud and kubectl: writes down each call in $STUB/calls, and plays a TPU whose workers
# are folders of this machine: $STUB/nodes/NAME/I is the home of worker I. $STUB/refusals holds
# "WORDS<tab>CODE<tab>WHAT IT SAYS" lines: a call with these words is refused so, once.
set -eu
mkdir -p "$STUB/nodes" "$STUB/queue"
words="${0##*/} $*"
echo "${words//$'\n'/ }" >>"$STUB/calls"
if [[ -e $STUB/refusals ]]; then
    mapfile -t refusals <"$STUB/refusals"
    for i in "${!refusals[@]}"; do
        IFS=$'\t' read -r part code said <<<"${refusals[i]}"
        if [[ $words == *"$part"* ]]; then
            sed -i "$((i + 1))d" "$STUB/refusals"
            echo "ERROR: $said" >&2
            exit "$code"
        fi
    done
fi
flag() { local w; for w in "${all[@]}"; do [[ $w == "--$1="* ]] && { echo "${w#*=}"; return; }; done; true; }
missing() { echo "ERROR: (gcloud) NOT_FOUND: Resource 'projects/p/locations/z/${2:-nodes}/$1' was not found" >&2; exit 1; }
make() { local i; for ((i = 0; i < ${STUB_WORKERS:-2}; i++)); do mkdir -p "$STUB/nodes/$1/$i"; done; echo READY >"$STUB/nodes/$1/state"; }
all=("$@")
case "$*" in
"compute tpus tpu-vm create "*) make "$5" ;;
"compute tpus tpu-vm delete "*) [[ -d $STUB/nodes/$5 ]] || missing "$5"; rm -r "$STUB/nodes/$5" ;;
"compute tpus tpu-vm describe "*)
    [[ -d $STUB/nodes/$5 ]] || missing "$5"
    case $(flag format) in
    "value(state)") cat "$STUB/nodes/$5/state" ;;
    "value(networkEndpoints.len())") find "$STUB/nodes/$5" -mindepth 1 -maxdepth 1 -type d | wc -l ;;
    esac ;;
"compute tpus tpu-vm scp "*)
    for home in "$STUB/nodes/${6%%:*}"/*/; do cp "$5" "$home/${6#*:}"; done ;;
"compute tpus tpu-vm ssh "*)
    home=$STUB/nodes/$5/$(flag worker)
    [[ $(cat "$STUB/nodes/$5/state") == READY ]] || { echo "ERROR: ssh: connection refused" >&2; exit 255; }
    cd "$home" && HOME=$home exec bash -c "$(flag command)" ;;
"compute tpus queued-resources create "*)
    if count=$(flag node-count) && [[ $count ]]; then
        for ((n = 0; n < count; n++)); do make "$(flag node-prefix)-$n"; done
    else make "$(flag node-id)"; fi
    printf 'WAITING_FOR_RESOURCES\nACTIVE\n' >"$STUB/queue/$5" ;;
"compute tpus queued-resources describe "*)
    [[ -e $STUB/queue/$5 ]] || missing "$5" queuedResources
    head -1 "$STUB/queue/$5"
    if (($(wc -l <"$STUB/queue/$5") > 1)); then sed -i 1d "$STUB/queue/$5"; fi ;;
"compute tpus queued-resources delete "*) rm -r "$STUB/queue/$5" "$STUB/nodes/$5"*  ;;
"storage cp - "*) mkdir -p "$STUB/bucket"; cat >"$STUB/bucket/${4//\//_}" ;;
"storage cat "*) cat "$STUB/bucket/${3//\//_}" ;;
"storage rm "*) rm "$STUB/bucket/${3//\//_}" ;;
"storage buckets describe "*) echo "${STUB_LOCATION:-US-EAST5}" ;;
"apply --filename=-") cat >"$STUB/applied" ;;
*) echo "stub: unknown call: $*" >&2; exit 9 ;;
esac
