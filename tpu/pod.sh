#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Cloud TPUs from your own machine: create, set up, check, run, look, stop, delete; `pod.sh --help`.
#
# A pod is one slice, or several that a queued resource ties together (nodes NAME-0, NAME-1, …). A
# run goes on when the connection breaks: on each worker tpu/worker.sh keeps its log and exit code.
#
# Exit codes: 0 done; 1 the machine refused (quota, capacity) or a check failed; 2 a mistake in
# usage (zone, project, name); 75 a run is going on there; 124 --wait is over; 130 Ctrl-C; 143
# preempted or stopped; else the worst of the run's.
set -euo pipefail
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "pod: this is bash $BASH_VERSION, and 4.4 or newer is needed" >&2
    exit 2
fi
shopt -s inherit_errexit

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(dirname "$here")

MAX_CONNECTIONS=6       # attempts in a row to follow a worker's log
IS_RUNNING=75           # exit code of tpu/worker.sh where a run is going on
LAST_LINES=20           # of the other workers, where a run fails
GRACE_SECONDS=150       # for a run that is told to stop to save (a step, then the checkpoint)
MAX_PAUSE_SECONDS=300   # between two starts
MAX_SETUPS=6            # failures of a slice's setup in a row: SSH comes up after the slice does

usage() {
    cat <<'TEXT'
tpu/pod.sh COMMAND NAME [FLAGS] [-- WORDS OF THE RUN]

  create     a slice, at once or not at all; with --queued or --slices N as a queued resource
  setup      this clone and its libraries on all workers
  check      topology, code, libraries, config, bucket, disk, clocks, left-over processes (tpu/check.py)
  run        start the words on all workers; shows worker 0's log, ends with the worst exit code
  logs       follow the run that is going on
  stop       tell the run to save and end (exit code 143)
  delete     the slices and their queued resource
  supervise  create, setup, run; again after a preemption or a crash
  jobset     a manifest for GKE from tpu/jobset.yaml; --apply hands it to kubectl

  --type TYPE          v5litepod-16 (v5e-16), v6e-8, v5p-128, v4-32, tpu7x-8, or by topology v5e:4x4
  --zone ZONE  --project ID           default: those of `gcloud config`
  --slices N           how many slices (1)
  --spot               may be preempted; costs less
  --queued             wait in the queue in place of failing where there is no room
  --wait SECONDS       give up waiting in the queue (0: never)
  --version VERSION    of the runtime; default: the one that goes with the type
  --bucket gs://NAME   of `run`: keeps compiled programs there; of `check`: is written and read
  --nfs SERVER:/SHARE  of `setup`, `supervise` and `jobset`: mounted as /mnt/itx on all workers
  --config FILE        of `check`: must be the same on all workers; also --lock FILE
  --restarts N         of `supervise` and `jobset`: crashes in a row after which to give up (3)
  --preemptions N      of `supervise`: after so many give up (50)
  --retries N          of `supervise`, and in a queue: refusals and lost connections of Google's in a
                       row, such as no capacity, after which to give up (50)
  --pause SECONDS      before a new start, doubled each time (10); between looks at a queue
  --image IMAGE  --queue QUEUE  --apply     of `jobset`; XPK's queue is multislice-queue
  --dry-run            print the exact commands and change nothing
TEXT
}

fail() {  # CODE WORDS: end with a line
    local code=$1
    shift
    echo "pod: $*" >&2
    exit "$code"
}

# ---- gcloud, and what its refusals mean

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

explain() {  # FILE TOOL: what gcloud said there, in words and with its exit code on the first line
    [[ $2 == gcloud ]] || { echo "1 $2 failed"; return; }
    local no_tpu="there is no TPU called $name${zone:+ in $zone}: look at gcloud compute tpus tpu-vm list"
    case $(<"$1") in
    # a name holds what it lies in, projects/P/locations/ZONE/nodes/NAME: from the longest on
    *cceleratorType*"not found"* | *cceleratorType*"not available"* | *"ccelerator type"*"not"*)
        echo "2 that zone${zone:+ ($zone)} has no ${type:-such type}: look at gcloud compute tpus accelerator-types list --zone ZONE" ;;
    */runtimeVersions/*"not found"*)
        echo "2 that zone${zone:+ ($zone)} has no runtime ${version:-of that version}: look at gcloud compute tpus tpu-vm versions list --zone ZONE" ;;
    *"'projects/"*/locations/*/*"' was not found"*)
        echo "2 $no_tpu" ;;
    *"property [project]"* | *"roject property must be set"* | *"[project]"*"not properly specified"*)
        echo "2 no project is set: give --project ID, or say once: gcloud config set project ID" ;;
    *"property [compute/zone]"* | *"[zone]"*"not properly specified"*)
        echo "2 no zone is set: give --zone ZONE, or say once: gcloud config set compute/zone ZONE" ;;
    *ocation*" is not found"* | *"'projects/"*/locations/*"' was not found"* | *"nknown zone"* | *"nvalid zone"* | *"nvalid location"* | *"on 'locations/"*)
        echo "2 there are no TPUs in that zone${zone:+ ($zone)}: look at gcloud compute tpus locations list" ;;
    *[Pp]"roject "*"not found"* | *"'projects/"*"' was not found"* | *[Pp]"roject "*"does not exist"* | *CONSUMER_INVALID*)
        echo "2 there is no such project, or you may not use it: look at gcloud projects list" ;;
    *ALREADY_EXISTS* | *"already exists"*)
        echo "2 the name $name is taken: pod.sh delete $name, or choose another" ;;
    *[Qq]uota*)
        echo "1 your quota does not allow it: ask for more under IAM & Admin, Quotas (TPU API); spot has a quota of its own" ;;
    *"no more capacity"* | *capacity* | *STOCKOUT* | *RESOURCE_EXHAUSTED*)
        echo "1 the zone has no room now: try --queued, --spot, or another zone" ;;
    *PREEMPTED* | *preempted*)
        echo "143 $name was preempted: pod.sh delete $name and create it anew, as supervise does" ;;
    *NOT_FOUND* | *"was not found"*)
        echo "2 $no_tpu" ;;
    *"auth login"* | *UNAUTHENTICATED* | *eauthentication*)
        echo "2 you are not logged in: gcloud auth login" ;;
    *PERMISSION_DENIED* | *"does not have"*permission*)
        echo "2 your account may not do that: it needs the role TPU Admin in the project" ;;
    *) echo "1 gcloud failed" ;;
    esac
}

shown() {  # WORDS: one command as it would be typed
    local words
    printf -v words '%q ' "$@"
    echo "${words% }"
}

call() {  # WORDS: a command that changes something; ends with words where it fails
    if ((dry)); then
        shown "$@"
    elif ! "$@" 2>"$scratch/said"; then
        local code words
        read -r code words < <(explain "$scratch/said" "$1")
        fail "$code" "$words ($1: $(grep -v '^ *$' "$scratch/said" | tail -1))"
    fi
}

asked() {  # ASSUMED WORDS: what a command answers that only reads, "" where nothing is there
    local assumed=$1
    shift
    if ((dry)); then
        echo "$(shown "$@")   # assumed: $assumed" >&2
        echo "$assumed"
    elif ! "$@" 2>"$scratch/asked"; then
        grep -q "NOT_FOUND\|was not found" "$scratch/asked" && return 0
        local code words
        read -r code words < <(explain "$scratch/asked" "$1")
        fail "$code" "$words ($1: $(tail -1 "$scratch/asked"))"
    fi
}

tpus() { call gcloud compute tpus "$@" "${where[@]}"; }

nodes() {  # the names of the slices
    if ((slices == 1)); then echo "$name"; else
        for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
    fi
}

state() {  # READY where all slices are; else the state of the first that is not, ABSENT without one
    local node answer
    for node in $(nodes); do
        # `set -e` has no say in what is called with || behind it
        answer=$(asked READY gcloud compute tpus tpu-vm describe "$node" "${where[@]}" --format='value(state)') || return
        [[ $answer == READY ]] || { echo "${answer:-ABSENT}"; return; }
    done
    echo READY
}

workers() {  # "NODE WORKER" lines: every worker of every slice
    local node count
    for node in $(nodes); do
        count=$(asked "${hosts:-1}" gcloud compute tpus tpu-vm describe "$node" "${where[@]}" --format='value(networkEndpoints.len())')
        [[ $count =~ ^[0-9]+$ ]] || fail 2 "there is no TPU called $node${zone:+ in $zone}: pod.sh create $name"
        for ((i = 0; i < count; i++)); do echo "$node $i"; done
    done
}

on_worker() {  # NODE WORKER WORDS: run them there, as a login user of the machine would
    local node=$1 worker=$2
    shift 2
    local ssh=(gcloud compute tpus tpu-vm ssh "$node" --worker="$worker" "${where[@]}" --command="$(shown "$@")")
    # a connection in the background that reads the terminal would be stopped by Enter (SIGTTIN)
    if ((dry)); then shown "${ssh[@]}"; else "${ssh[@]}" </dev/null; fi
}

on_all() {  # WORDS: run them on all workers at once; each one's output and exit code in $scratch
    local i pids=()
    for ((i = 0; i < ${#all[@]}; i++)); do
        # shellcheck disable=SC2086  # "NODE WORKER" is two words
        if ((dry)); then on_worker ${all[i]} "$@"; else
            {
                local code=0
                on_worker ${all[i]} "$@" >"$scratch/$i.out" 2>"$scratch/$i.err" || code=$?
                echo "$code" >"$scratch/$i.code"
            } &
            pids+=($!)
        fi
    done
    ((dry)) || wait "${pids[@]}"
}

find_workers() {  # fills `all`
    local found
    found=$(workers)
    mapfile -t all <<<"$found"
}

check_all() {  # WHAT: end where a worker failed in it, with the last lines of each that did
    local i code worst=0
    ((dry)) && return
    for ((i = 0; i < ${#all[@]}; i++)); do
        code=$(<"$scratch/$i.code")
        ((code == 0)) && continue
        echo "--- ${all[i]/ / worker }: $1 failed (exit $code)" >&2
        cat "$scratch/$i.out" "$scratch/$i.err" | tail -n "$LAST_LINES" >&2
        worst=$(worse "$worst" "$code")
    done
    ((worst == 0)) || fail "$worst" "$1 failed, see above"
}

worse() {  # of two exit codes: a crash is worse than a stop, and a stop than none
    local a=$1 b=$2
    case "$a" in 0) echo "$b"; return ;; 130 | 143) ((b)) && echo "$b" || echo "$a"; return ;; esac
    case "$b" in 0 | 130 | 143) echo "$a" ;; *) echo $((a > b ? a : b)) ;; esac
}

# ---- commands

create() {
    [[ $type ]] || fail 2 "create needs --type, as in --type v5litepod-16"
    [[ $family != tpu7x ]] || fail 2 "tpu7x comes through GKE alone: pod.sh jobset $name --type $type …"
    local flags=(--accelerator-type="$accelerator") spot_flag=()
    ((spot)) && spot_flag=(--spot)
    if ((slices == 1 && !queued)); then
        echo "pod: creating $name ($accelerator), which takes minutes" >&2
        tpus tpu-vm create "$name" "${flags[@]}" --version="$version" "${spot_flag[@]}"
        return
    fi
    if ((slices == 1)); then flags+=(--node-id="$name"); else
        flags+=(--node-count="$slices" --node-prefix="$name")
    fi
    tpus queued-resources create "$name" "${flags[@]}" --runtime-version="$version" "${spot_flag[@]}"
    await_queue
}

queue_state() {
    asked ACTIVE gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
}

doubled() {  # COUNT: the seconds to wait after that many failures in a row
    local rest=$((pause << ($1 > 16 ? 15 : $1 - 1)))
    echo $((rest > MAX_PAUSE_SECONDS ? MAX_PAUSE_SECONDS : rest))
}

try_later() {  # CODE COUNT LIMIT WHAT: say that it failed COUNT times in a row, and wait or give up
    local rest
    (($2 <= $3)) || fail "$1" "$4 failed $2 times in a row, the last with exit code $1"
    rest=$(doubled "$2")
    echo "pod: $4 failed (exit $1), $2 of $3; another attempt in $rest s" >&2
    sleep "$rest"
}

patiently() {  # FUNCTION: what it answers, asked again where that fails, but for a mistake (2)
    local answer code failures=0
    while true; do
        code=0
        answer=$("$1") || code=$?
        ((code)) || { echo "$answer"; return; }
        ((code != 2)) || exit 2
        try_later "$code" "$((++failures))" "$retries" "the look at $name"
    done
}

await_queue() {
    local now before="" began=$SECONDS
    while true; do
        now=$(patiently queue_state) || exit $?
        case $now in
        ACTIVE) break ;;
        FAILED) fail 1 "the request $name failed in the queue: gcloud compute tpus queued-resources describe $name tells why; pod.sh delete $name removes it" ;;
        SUSPENDING | SUSPENDED) fail 143 "$name was preempted: pod.sh delete $name, then create it anew" ;;
        "") fail 1 "the request $name is no longer in the queue" ;;
        esac
        [[ $now == "$before" ]] || echo "pod: $name is $now" >&2
        before=$now
        if ((wait_seconds && SECONDS - began >= wait_seconds)); then
            fail 124 "$name is still $now after $wait_seconds s (--wait); it stays in the queue until pod.sh delete $name"
        fi
        sleep "$pause"
    done
    echo "pod: $name is there" >&2
}

setup() {
    find_workers
    local archive="$scratch/itx.tar.gz" node i
    # the files of this clone as they are, changed and new ones too, but for what git ignores
    ((dry)) || (cd "$repository" && git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do [[ ! -e $file ]] || printf '%s\0' "$file"; done |
        tar --create --gzip --null --files-from=- --file="$archive")
    for node in $(nodes); do
        tpus tpu-vm scp "$archive" "$node:itx.tar.gz" --worker=all
    done
    # the archive's worker.sh: the workers have none yet, or an older one; a file, not a pipe, for an
    # archive that cannot be read to be a failure
    # shellcheck disable=SC2016
    local worker_sh='set -e; tar xzOf itx.tar.gz tpu/worker.sh >itx-worker.sh; exec bash itx-worker.sh "$@"'
    on_all bash -c "$worker_sh" setup idle  # all of them, before anything is replaced on one
    check_all setup
    on_all bash -c "$worker_sh" setup install "$nfs"
    check_all setup
    ((dry)) && return
    for ((i = 0; i < ${#all[@]}; i++)); do
        sed -n "s/^worker: /pod: ${all[i]/ / worker }: /p" "$scratch/$i.out" >&2
    done
    echo "pod: $name is set up (${#all[@]} workers)" >&2
}

check() {
    find_workers
    local i words=(bash itx/tpu/worker.sh check)
    [[ -z $bucket ]] || words+=(--bucket "$bucket")
    [[ -z $config ]] || words+=(--file "$config")
    [[ -z $lock ]] || words+=(--file "$lock")
    on_all "${words[@]}"
    ((dry)) && return
    for ((i = 0; i < ${#all[@]}; i++)); do
        # without an answer the worker's own last words are the finding
        grep '^{' "$scratch/$i.out" | tail -1 >"$scratch/${all[i]/ /.}.facts" || true
        [[ -s "$scratch/${all[i]/ /.}.facts" ]] || tail -n 3 "$scratch/$i.err" >"$scratch/${all[i]/ /.}.facts"
    done
    python3 "$here/check.py" compare "$scratch"/*.facts
}

run() {
    ((${#words[@]})) || fail 2 "run needs the words of the run: pod.sh run $name -- itx train …"
    find_workers
    stays_when_left
    local environment=()
    # programs that a restart would compile again are read from there
    [[ -z $bucket ]] || environment=(env "JAX_COMPILATION_CACHE_DIR=$bucket/compiled")
    on_all bash itx/tpu/worker.sh start "${environment[@]}" "${words[@]}"
    if ! ((dry)) && grep -qvx 0 "$scratch"/*.code; then
        local i begun=()
        for ((i = 0; i < ${#all[@]}; i++)); do (($(<"$scratch/$i.code"))) || begun+=("$i"); done
        for i in "${begun[@]}"; do  # no worker waits for one that did not begin
            # shellcheck disable=SC2086
            on_worker ${all[i]} bash itx/tpu/worker.sh stop "$GRACE_SECONDS" >/dev/null 2>&1 &
        done
        wait
        check_all "the start"
    fi
    follow_all 0
}

logs() {
    find_workers
    stays_when_left
    follow_all 1
}

follow_all() {  # RESUMED: show worker 0's log until the run ends; exit with the worst code
    local i code worst=0 folder="runs/pod-$name"
    if ((dry)); then
        on_all bash itx/tpu/worker.sh follow 0
        return
    fi
    mkdir -p "$folder"
    for ((i = ${#all[@]} - 1; i > 0; i--)); do
        follow "$i" "$folder" >/dev/null &
    done
    follow 0 "$folder" | show "$1" &
    wait
    for ((i = 0; i < ${#all[@]}; i++)); do
        code=$(<"$scratch/$i.code")
        worst=$(worse "$worst" "$code")
        if ((code)) && ((i)); then
            echo "--- ${all[i]/ / worker } (exit $code), last lines of $folder/${all[i]/ /.}.txt:" >&2
            tail -n "$LAST_LINES" "$folder/${all[i]/ /.}.txt" | cleaned >&2
        fi
    done
    echo "pod: exit codes of the workers: $(for ((i = 0; i < ${#all[@]}; i++)); do printf '%s ' "$(<"$scratch/$i.code")"; done)" >&2
    return "$worst"
}

stays_when_left() {  # from here on Ctrl-C and SIGTERM end this script, and not the run
    set -m  # each connection is a group of processes, which Ctrl-C does not reach by itself
    trap 'leave 130' INT
    trap 'leave 143' TERM
}

leave() {  # CODE
    local group
    for group in $(jobs -p); do kill -TERM -- "-$group" 2>/dev/null || true; done
    fail "$1" "what was started goes on: pod.sh logs $name shows it, pod.sh stop $name ends it"
}

follow() {  # INDEX FOLDER: a worker's log on stdout and in a file; its exit code in $scratch
    local i=$1 file="$2/${all[$1]/ /.}.txt" attempt=0 before code
    : >"$file"
    echo 255 >"$scratch/$i.code"
    while ((attempt++ < MAX_CONNECTIONS)); do
        before=$(wc -c <"$file")
        # shellcheck disable=SC2086
        on_worker ${all[i]} bash itx/tpu/worker.sh follow "$before" 2>"$scratch/$i.err" | tee -a "$file" || true
        if code=$(tail -n 1 "$file" | sed -n 's/^worker: the run ended with exit code \([0-9]*\).*/\1/p') && [[ $code ]]; then
            echo "$code" >"$scratch/$i.code"
            return
        fi
        (($(wc -c <"$file") == before)) || attempt=0
        sleep "$((attempt > 1 ? pause : 0))"
    done
    echo "pod: the connection to ${all[i]/ / worker } is lost ($(tail -n 1 "$scratch/$i.err"))" | tee -a "$file"
}

show() {  # RESUMED: lines of a log, and how long the first step took
    local line began=$SECONDS is_first=$((!$1))
    while IFS= read -r line || [[ $line ]]; do
        printf '%s\n' "${line//[[:cntrl:]]/ }"
        if ((is_first)) && [[ $line =~ ^train\ [0-9] ]]; then
            is_first=0
            echo "pod: the first log line of training came $((SECONDS - began)) s after the start" >&2
        fi
    done
}

cleaned() { tr -d '\000-\010\013-\037'; }

stop() {
    find_workers
    on_all bash itx/tpu/worker.sh stop "$GRACE_SECONDS"
    check_all stop
    ((dry)) || cat "$scratch"/*.out
}

delete() {
    local queue
    queue=$(queue_state)
    if [[ $queue ]]; then
        tpus queued-resources delete "$name" --force --quiet
        ((dry)) || echo "pod: $name and its queued resource are deleted" >&2
    else
        tpus tpu-vm delete "$name" --quiet
        ((dry)) || echo "pod: $name is deleted" >&2
    fi
}

step() {  # COMMAND: of this script, with the same flags
    bash "${BASH_SOURCE[0]}" "$1" "$name" "${given[@]}" -- "${words[@]}"
}

provide() {  # NOW, the state of the slices: make them where they are not READY, and set them up
    # needs_setup is supervise's: a slice that was READY from the start is set up already
    local now=$1 code failures=0 failed_setups=0
    while true; do
        code=0
        if [[ $now != READY ]] || ((dry)); then
            renew "$now" || code=$?
            case $code in 2 | 124 | 130) exit "$code" ;; esac  # a mistake, --wait, Ctrl-C
            if ((code)); then
                try_later "$code" "$((++failures))" "$retries" "making $name"
                now=$(patiently state) || exit $?
                continue
            fi
            failures=0 needs_setup=1
        fi
        ((needs_setup)) || return 0
        step setup || code=$?
        case $code in
        0 | "$IS_RUNNING") needs_setup=0; return 0 ;;
        130) exit 130 ;;
        *) try_later "$code" "$((++failed_setups))" "$MAX_SETUPS" "the setup of $name" ;;
        esac
        now=$(patiently state) || exit $?
    done
}

renew() {  # NOW: a slice in place of what is left of the last one, which has its name
    local queue
    queue=$(queue_state) || return
    case $queue in
    "" | ACTIVE | FAILED | SUSPEND*) ;;
    *) (await_queue); return ;;  # of an attempt that ended; its place in the queue is kept
    esac
    # it was there a moment ago: that it cannot be deleted now is no mistake of yours (2)
    if [[ $1 != ABSENT || $queue ]]; then step delete || return 1; fi
    step create
}

supervise() {
    [[ $type ]] || fail 2 "supervise needs --type: it creates what a preemption took"
    ((${#words[@]})) || fail 2 "supervise needs the words of the run: pod.sh supervise $name --type T -- itx train …"
    local code now crashes=0 lost=0 needs_setup=0 rest
    while true; do
        now=$(patiently state) || exit $?
        provide "$now"
        code=0
        step run || code=$?
        ((dry)) && return
        if ((code == IS_RUNNING)); then  # of an earlier call, or behind a connection that was lost
            code=0
            step logs || code=$?
        fi
        case $code in 0 | 130) return "$code" ;; esac  # done; Ctrl-C
        now=$(patiently state) || exit $?
        # a mistake, which a new start repeats
        if [[ $code == 2 && $now == READY ]]; then return 2; fi
        if ((code == 143)) && grep -qs "stopped by hand" "runs/pod-$name"/*.txt; then
            fail 143 "the run was stopped; the same command goes on with it"
        fi
        if [[ $now != READY || $code == 143 ]]; then
            crashes=0 rest=$pause
            ((++lost <= preemptions)) || fail 143 "preempted $lost times (--preemptions $preemptions)"
            echo "pod: preempted ($name is $now, exit $code), $lost of $preemptions; a new start in $rest s" >&2
        else
            ((++crashes <= restarts)) || fail "$code" "$crashes crashes in a row (--restarts $restarts), the last with exit code $code"
            rest=$(doubled "$crashes")
            echo "pod: a crash (exit $code), $crashes of $restarts; a new start in $rest s" >&2
            ((code != 127)) || needs_setup=1  # no such command: nothing may be installed there
        fi
        sleep "$rest"
    done
}

quoted() {  # WORDS: a list of JSON, which YAML reads
    local word list=""
    for word in "$@"; do
        [[ $word != *[[:cntrl:]]* ]] || fail 2 "a word of the run has a line break or a control character"
        word=${word//\\/\\\\}
        list+="${list:+, }\"${word//\"/\\\"}\""
    done
    echo "[$list]"
}

jobset() {
    [[ $type && $image ]] || fail 2 "jobset needs --type and --image: an image of .docker/ with the extra tpu"
    ((${#words[@]})) || fail 2 "jobset needs the words of the run: pod.sh jobset $name … -- itx train …"
    [[ $image =~ ^[A-Za-z0-9./:@_-]+$ ]] || fail 2 "--image $image is no image's name"
    [[ $queue =~ ^[a-z0-9-]*$ ]] || fail 2 "--queue $queue is no queue's name"
    local text key variables="[]" list
    list=$(quoted "${words[@]}") || exit $?
    [[ -z $bucket ]] || variables="[{name: JAX_COMPILATION_CACHE_DIR, value: \"$bucket/compiled\"}]"
    local -A values=(
        [NAME]=$name [SLICES]=$slices [HOSTS]=$hosts [CHIPS]=$chips_per_host [ACCELERATOR]=$gke
        [TOPOLOGY]=$topology [IMAGE]=$image [COMMAND]=$list [ENVIRONMENT]=$variables
        [RESTARTS]=$restarts [GRACE]=$GRACE_SECONDS
        [SPOT]=$( ((spot)) && echo 'cloud.google.com/gke-spot: "true"' || true)
        [VOLUMES]=${nfs:+"[{name: shared, nfs: {server: ${nfs%%:*}, path: ${nfs#*:}}}]"}
        [MOUNTS]=${nfs:+"[{name: shared, mountPath: /mnt/itx}]"}
        [QUEUE]=${queue:+kueue.x-k8s.io/queue-name: $queue}
    )
    values[VOLUMES]=${values[VOLUMES]:-[]} values[MOUNTS]=${values[MOUNTS]:-[]}
    text=$(grep -v '^ *#' "$here/jobset.yaml")
    # the command last: what looks like a key in it is a word of it
    for key in NAME SLICES HOSTS CHIPS ACCELERATOR TOPOLOGY IMAGE ENVIRONMENT RESTARTS GRACE SPOT QUEUE VOLUMES MOUNTS COMMAND; do
        text=${text//"@$key@"/"${values[$key]}"}
    done
    text=$(grep -v '^ *$' <<<"$text")
    if ((apply)); then
        if ((dry)); then echo "$text"; shown kubectl apply --filename=-; else
            call kubectl apply --filename=- <<<"$text"
        fi
    else
        echo "$text"
    fi
}

# ---- what was typed

read_type() {  # from --type: family, topology, hosts, chips_per_host, and what gcloud and GKE call them
    [[ $type ]] || return 0
    local size chips cores=1
    family=${type%%[-:]*}
    family=${family/v5litepod/v5e}
    case $family in
    v5e) gke=tpu-v5-lite-podslice version=${version:-v2-alpha-tpuv5-lite} ;;
    v6e) gke=tpu-v6e-slice version=${version:-v2-alpha-tpuv6e} ;;
    v5p) gke=tpu-v5p-slice version=${version:-v2-alpha-tpuv5} cores=2 ;;
    v4) gke=tpu-v4-podslice version=${version:-tpu-ubuntu2204-base} cores=2 ;;
    tpu7x) gke=tpu7x cores=2 ;;
    *) fail 2 "--type $type: the families are v4, v5e (v5litepod), v5p, v6e and tpu7x" ;;
    esac
    if [[ $type =~ ^[a-z0-9]+:([0-9]+(x[0-9]+){1,2})$ ]]; then
        topology=${BASH_REMATCH[1]}
        chips=$((${topology//x/*}))
    elif [[ $type =~ ^[a-z0-9]+-([0-9]+)$ ]]; then
        size=${BASH_REMATCH[1]}
        chips=$((size / cores))
        case $cores:$chips in  # cloud.google.com/tpu/docs: those of one core lie in a plane
        1:1) topology=1x1 ;; 1:4) topology=2x2 ;; 1:8) topology=2x4 ;; 1:16) topology=4x4 ;; 1:32) topology=4x8 ;;
        1:64) topology=8x8 ;; 1:128) topology=8x16 ;; 1:256) topology=16x16 ;;
        2:4) topology=2x2x1 ;; 2:8) topology=2x2x2 ;; 2:16) topology=2x2x4 ;; 2:32) topology=2x4x4 ;;
        2:64) topology=4x4x4 ;; 2:128) topology=4x4x8 ;; 2:256) topology=4x8x8 ;; 2:512) topology=8x8x8 ;;
        *) fail 2 "--type $type: no such size is known; name it by its topology, as in $family:4x4" ;;
        esac
    else
        fail 2 "--type $type: give FAMILY-SIZE (v5litepod-16) or FAMILY:TOPOLOGY (v5e:4x4)"
    fi
    chips_per_host=$((chips < 4 ? chips : 4))
    if ((chips == 8)) && [[ $family == v[56]e ]]; then chips_per_host=8; fi  # one host has all eight
    hosts=$((chips / chips_per_host))
    accelerator=${family/v5e/v5litepod}-$((chips * cores))
}

main() {
    case ${1:-} in
    create | setup | check | run | logs | stop | delete | supervise | jobset) ;;
    -h | --help | "") usage; exit $(($# == 0 ? 2 : 0)) ;;
    *) fail 2 "no command ${1}; pod.sh --help lists them" ;;
    esac
    local command=$1
    name=${2:-}
    [[ $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]] ||
        fail 2 "$command needs a NAME of small letters, digits and dashes that begins with a letter (at most 40), not '$name'"
    shift 2
    given=()
    type="" zone="" project="" version="" bucket="" config="" lock="" image="" queue="" family="" nfs=""
    slices=1 spot=0 queued=0 wait_seconds=0 restarts=3 preemptions=50 retries=50 pause=10 apply=0 dry=0
    hosts="" words=() all=()
    while (($#)); do
        case $1 in
        --) shift; words=("$@"); break ;;
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
        --spot) spot=1 ;;
        --queued) queued=1 ;;
        --apply) apply=1 ;;
        --dry-run) dry=1 ;;
        --type | --zone | --project | --version | --bucket | --config | --lock | --image | --queue | --nfs) ;;
        --slices | --wait | --restarts | --preemptions | --retries | --pause)
            [[ ${2:-} =~ ^[0-9]+$ ]] || fail 2 "$1 takes a whole number, not '${2:-}'" ;;
        *) fail 2 "no flag $1 (the run's own words stand behind --); pod.sh --help lists them" ;;
        esac
        given+=("$1")
        case $1 in --spot | --queued | --apply | --dry-run) shift; continue ;; esac
        (($# > 1)) || fail 2 "$1 needs a value"
        local variable=${1#--}
        [[ $variable == wait ]] && variable=wait_seconds
        printf -v "$variable" '%s' "$2"
        given+=("$2")
        shift 2
    done
    ((slices)) || fail 2 "--slices counts from 1"
    [[ -z $bucket || $bucket =~ ^gs://[a-z0-9._/-]+$ ]] || fail 2 "--bucket $bucket: give gs://NAME"
    bucket=${bucket%/}
    [[ -z $nfs || $nfs =~ ^[A-Za-z0-9.-]+:/[A-Za-z0-9._/-]*$ ]] || fail 2 "--nfs $nfs: give SERVER:/SHARE"
    where=(${zone:+--zone="$zone"} ${project:+--project="$project"})
    read_type
    local tool=gcloud
    [[ $command == jobset ]] && tool=kubectl
    if ! ((dry)) && [[ $command != jobset || $apply == 1 ]] && ! command -v "$tool" >/dev/null; then
        fail 2 "$tool is not installed here: see https://cloud.google.com/sdk/docs/install"
    fi
    "$command"
}

main "$@"
