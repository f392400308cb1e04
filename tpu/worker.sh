#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a TPU's worker, called by pod.sh: one run at a time, which goes on without the connection.
#
#     worker.sh idle                 fails with 75 where a run is going on
#     worker.sh install [NFS]        ~/itx.tar.gz over ~/itx, the libraries; SERVER:/SHARE as /mnt/itx
#     worker.sh start WORDS…         begins the words in ~/itx; its log and exit code in ~/itx-run
#     worker.sh follow BYTES         the log behind that many bytes, until the run ends
#     worker.sh stop SECONDS         SIGTERM, and so long to save
#     worker.sh check …              tpu/check.py here
set -euo pipefail

state=$HOME/itx-run
export PATH=$HOME/itx/.venv/bin:$HOME/.local/bin:$PATH

running() {  # the process id of the run that is going on; fails where there is none
    local pid
    pid=$(cat "$state/pid" 2>/dev/null) && [[ $pid ]] || return 1
    # a number may be another process's after a reboot
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q "itx-run" && echo "$pid"
}

idle() {
    local pid
    if pid=$(running); then
        echo "worker: a run is going on here (process $pid): pod.sh logs shows it, pod.sh stop ends it"
        exit 75
    fi
}

unpack() {  # over ~/itx; of what lies there (runs, checkpoints) only what earlier archives brought goes
    cd "$HOME"
    rm -rf itx.new && mkdir itx.new && tar xzf itx.tar.gz -C itx.new
    (cd itx.new && find . ! -type d -print0) >itx-files.new
    if [[ -d itx && ! -e itx-files ]]; then
        echo "worker: there is no list of what an earlier setup brought (~/itx-files): no old file is removed from ~/itx"
    fi
    mkdir -p itx
    # the files of both archives: a setup that is killed from here on is made good by the next
    cat itx-files.new >>itx-files
    (cd itx && xargs -0 rm -f --) <itx-files
    cp -a itx.new/. itx/
    mv itx-files.new itx-files
    rm -rf itx.new
}

install() {
    idle
    unpack
    cd "$HOME/itx"
    command -v uv >/dev/null || python3 -m pip install --quiet --user uv
    uv sync --quiet --no-dev --extra tpu --extra cloud
    itx --version
    if [[ ${1:-} ]] && ! mountpoint -q /mnt/itx; then
        command -v mount.nfs >/dev/null || sudo apt-get install -qq -y nfs-common
        sudo mkdir -p /mnt/itx
        sudo mount -t nfs "$1" /mnt/itx
    fi
}

start() {
    idle
    [[ -d $HOME/itx ]] || { echo "worker: nothing is installed here: pod.sh setup"; exit 2; }
    mkdir -p "$state"
    rm -f "$state"/{pid,exit,stopped}
    cd "$HOME/itx"
    # in a session of its own, so that a signal to it reaches all of its processes; the shell around
    # the run waits for its end, and writes how it ended
    # shellcheck disable=SC2016
    setsid nohup bash -c 'trap : TERM INT
folder=$1; shift
code=0; "$@" || code=$?
echo "$code" >"$folder/exit.part"; mv "$folder/exit.part" "$folder/exit"' itx-run "$state" "$@" \
        >"$state/log" 2>&1 </dev/null &
    echo $! >"$state/pid"
    until running >/dev/null || [[ -e $state/exit ]]; do sleep 0.05; done
}

follow() {
    local pid code
    [[ -e $state/log ]] || { echo "worker: nothing was started here"; exit 2; }
    pid=$(running) || pid=""
    # without a process the rest of the log is all there is
    if [[ $pid ]]; then tail -c "+$(($1 + 1))" -f -s 0.2 --pid="$pid" "$state/log"; else
        tail -c "+$(($1 + 1))" "$state/log"
    fi
    for _ in 1 2 3 4 5; do [[ -e $state/exit ]] || sleep 0.2; done
    code=$(cat "$state/exit" 2>/dev/null) || code=137
    echo
    if [[ -e $state/stopped ]]; then echo "worker: the run ended with exit code $code, stopped by hand"; else
        echo "worker: the run ended with exit code $code"
    fi
}

stop() {
    local pid began=$SECONDS
    pid=$(running) || { echo "worker: no run is going on here"; return; }
    touch "$state/stopped"
    kill -TERM -- "-$pid"
    while running >/dev/null; do
        if ((SECONDS - began >= $1)); then
            echo "worker: the run (process $pid) did not end within $1 s of SIGTERM; kill -9 -- -$pid on this worker ends it, and loses what was not saved"
            exit 1
        fi
        sleep 0.2
    done
    echo "worker: the run ended after $((SECONDS - began)) s"
}

check() {
    cd "$HOME/itx"
    python tpu/check.py here "$@"
}

command=${1:?idle, install, start, follow, stop or check}
shift
"$command" "$@"
