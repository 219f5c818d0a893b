#!/bin/sh
# Stands in for the agent where only processes matter: `up` and `join` leave an
# agent, and beside it a supervisor with a task in namespaces of its own.
if [ "$1" = agent ]; then
    echo $$ >"$STARLING_DATA/pid"
    echo up >"$STARLING_DATA/ready"
    while :; do sleep 1000; done
fi
if [ "$1" = supervisor ]; then
    # The task has nothing left that names its host, except its parent.
    if unshare -n true 2>/dev/null; then
        env -i unshare -n sleep 1000 &
    else
        env -i sleep 1000 &
    fi
    echo $! >"$STARLING_DATA/task"
    wait
fi
[ "$1" = --socket ] && [ "$2" = "$STARLING_SOCKET" ] || exit 2
verb=$3
echo "$@" >>"$STARLING_DATA.calls"
case $verb in
up | join)
    mkdir -p "$STARLING_DATA"
    rm -f "$STARLING_DATA/ready"
    mkfifo "$STARLING_DATA/ready"
    cd /
    kill -0 "$(cat "$STARLING_DATA/supervisor" 2>/dev/null)" 2>/dev/null || {
        setsid "$0" supervisor </dev/null >/dev/null 2>&1 &
        echo $! >"$STARLING_DATA/supervisor"
    }
    setsid "$0" agent </dev/null >/dev/null 2>&1 &
    read -r _ <"$STARLING_DATA/ready"
    ;;
invite) echo "starling join token-of-$5" ;;
down) kill "$(cat "$STARLING_DATA/pid")" ;;
*) exit 2 ;;
esac
