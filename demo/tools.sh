# tools.sh: what a shown session is made of; sourced, never run.
#
# A node is a cluster with one database, both of the same name, in directory
# $dir; $port has their ports. Nothing waits for a length of time: only for what
# is to happen, and no longer than a minute.
# shellcheck shell=bash

set -u -o pipefail

story=$(basename "$(dirname "$0")")
mkdir "${1:?usage: $0 DIRECTORY, which must not exist}" || exit 1
dir=$(cd "$1" && pwd)
declare -A port
bold='' plain=''
if [ -t 1 ]; then
	bold=$'\e[1m' plain=$'\e[0m'
fi

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

fail()
{
	printf '%s: %s\n' "$story" "$*" >&2
	tail -n 30 "$dir"/*.log >&2 2>/dev/null
	exit 1
}

heading() { printf '\n%s%s\n%s%s\n\n' "$bold" "$*" "${*//?/=}" "$plain"; }
note() { printf -- '-- %s\n' "$@"; }
indent() { sed -e 's/[[:space:]]*$//' -e '/^$/d' -e 's/^/    /'; }

# ------------------------------------------------------------------- nodes

# create NODE PORT [LINE]: initdb, start, createdb. The line comes first in pg_hba.conf.
create()
{
	port[$1]=$2
	initdb -D "$dir/$1" -U postgres -A trust -E UTF8 --locale=C.UTF-8 >"$dir/$1.initdb" 2>&1 ||
		fail "could not create the cluster of $1"
	cat >>"$dir/$1/postgresql.conf" <<-EOC
	shared_preload_libraries = 'dtx'
	max_prepared_transactions = 10
	listen_addresses = ''
	unix_socket_directories = '$dir'
	EOC
	[ -z "${3:-}" ] || sed -i "1i $3" "$dir/$1/pg_hba.conf"
	start "$1" || fail "could not start $1"
	psql -X -q -h "$dir" -p "$2" -U postgres -d postgres -c "CREATE DATABASE $1" || fail "could not create $1"
}

start()
{
	pg_ctl -D "$dir/$1" -l "$dir/$1.log" -w -o "-p ${port[$1]}" start >/dev/null
}

stop() { pg_ctl -D "$dir/$1" -m immediate -w stop >/dev/null; }

# kill_server NODE: all of its processes at once, as if the power went.
kill_server()
{
	local pids

	pids=$(value "$1" "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE pid <> pg_backend_pid()") || fail "$1 does not answer"
	# shellcheck disable=SC2086
	kill -9 "$(head -n 1 "$dir/$1/postmaster.pid")" $pids
}

# start_again NODE: after kill_server, whose processes may still be leaving.
start_again()
{
	local deadline=$((SECONDS + 60))

	until start "$1" 2>/dev/null; do
		[ $SECONDS -lt $deadline ] || fail "$1 does not start"
	done
}

clean_up()
{
	local node

	for node in "${!port[@]}"; do
		[ ! -f "$dir/$node/postmaster.pid" ] || stop "$node" 2>/dev/null
	done
}

# -------------------------------------------------------------- statements

# client NODE ARGUMENT...: psql there, as role $as.
client()
{
	local node=$1

	shift
	psql -X -q -h "$dir" -p "${port[$node]}" -U "${as:-postgres}" -d "$node" -v ON_ERROR_STOP=1 "$@"
}

prompt() { printf '%s=%s ' "$1" "$(if [ "${as:-postgres}" = postgres ]; then echo '#'; else echo '>'; fi)"; }

# value NODE SQL: one value, not shown.
value() { client "$1" -At -c "$2"; }

# show NODE SQL: a statement and what comes back.
show()
{
	printf '%s%s\n' "$(prompt "$1")" "$2"
	client "$1" <<<"$2" 2>&1 | indent
}

# session_open NODE, session SQL, session_close: the same in one session, whose
# transaction stays open in between. What came back is in $reply too.
session_open()
{
	session_prompt=$(prompt "$1")
	coproc SESSION { client "$1" -v ON_ERROR_STOP=0 2>&1; }
	# bash forgets it when the session ends
	# shellcheck disable=SC2153
	session_pid=$SESSION_PID
}

session()
{
	local line

	printf '%s%s\n' "$session_prompt" "$1"
	printf '%s\n\\echo end of reply\n' "$1" >&"${SESSION[1]}" || fail "the session is gone"
	reply=''
	while IFS= read -r -t 60 line <&"${SESSION[0]}" && [ "$line" != 'end of reply' ]; do
		reply+=$line$'\n'
	done
	[ "${line:-}" = 'end of reply' ] || fail "no reply to: $1"
	printf '%s' "$reply" | indent
}

session_close()
{
	local in=${SESSION[1]}

	exec {in}>&-
	wait "$session_pid" 2>/dev/null
	return 0
}

# begin_with SQL: a statement in the open session that says an xid; sets $xid.
begin_with()
{
	session "$1"
	xid=$(printf '%s' "$reply" | grep -oE '[^ ]+\.[0-9a-f]{8}:[0-9]+\.[0-9a-f]{16}') || fail "this was refused: $1"
}

# ------------------------------------------------------------------ checks

# until_true NODE SQL: ask until the answer is t.
until_true()
{
	local deadline=$((SECONDS + 60))

	until [ "$(value "$1" "$2" 2>/dev/null)" = t ]; do
		[ $SECONDS -lt $deadline ] || fail "at $1 this did not come true: $2"
		read -r -t 0.05 <> <(:) || true
	done
}

# settled NODE STATUS: wait until the global transaction has ended as it should.
settled()
{
	show "$1" "SELECT dtx_wait('$xid', '60s');"
	[ "$(value "$1" "SELECT dtx_status('$xid')")" = "$2" ] || fail "$xid is not $2"
}

# nothing_left: no branch, no undo log, no row lock, nothing prepared anywhere.
nothing_left()
{
	local node

	for node in "${!port[@]}"; do
		until_true "$node" "SELECT NOT EXISTS (SELECT FROM dtx_branches) AND NOT EXISTS (SELECT FROM dtx_undo)
			AND NOT EXISTS (SELECT FROM dtx_locks) AND NOT EXISTS (SELECT FROM pg_prepared_xacts)"
	done
}
