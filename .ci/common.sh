# common.sh: what the scripts of this directory share; sourced, never run.
#
# A run happens in a directory of its own, $DTX_WORK, under an account that may
# run a server (servers refuse root):
#
#	src/	a copy of this tree, built there, so that nothing is written here
#	pg/		a copy of the PostgreSQL programs with the extension installed in
#			it: they find their files relative to themselves. The machine's own
#			PostgreSQL is not touched, and two runs know nothing of each other.
#	...		clusters and logs
#
# The directory goes away with the run, and with it the servers started in it.
# KEEP=1 leaves the directory behind.
# shellcheck shell=bash

set -u -o pipefail

unset CDPATH
TARGET=$(basename "$0")
REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\n== %s\n' "$*"; }

die()
{
	printf '%s: %s\n' "$TARGET" "$*" >&2
	exit 1
}

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
	die "this bash is $BASH_VERSION: version 4.4 or newer is needed"
fi
[ "$(uname -s)" = Linux ] ||
	die "this runs on Linux only. With PostgreSQL's server headers and libcurl (brew install postgresql@17 curl) dtx is built by
make PG_CONFIG=/path/of/pg_config && make install PG_CONFIG=/path/of/pg_config"

# what is installed is for everybody, whatever the caller's umask; and what programs say is read here
umask 022
export LC_ALL=C.UTF-8

# shellcheck source=.ci/needs.sh
. "$REPO/.ci/needs.sh"

# --------------------------------------------------------------- workspace

# perl -e "$BECOME" UID GID COMMAND...: run it as that account. Every machine that has PostgreSQL's
# tests has perl; programs that change accounts differ.
# shellcheck disable=SC2016
BECOME='
	my ($uid, $gid) = splice @ARGV, 0, 2;
	($(, $)) = ($gid, "$gid $gid");
	($<, $>) = ($uid, $uid);
	exit 126 unless $< == $uid && $> == $uid && $( == $gid && $) == $gid;
	exec { $ARGV[0] } @ARGV or exit 127;'

# work_base [COMMAND...]: a directory where the account of the command may write programs, and run
# them. A path of a socket in it has at most 107 characters, and make cannot do with blanks.
work_base()
{
	local base

	for base in "${TMPDIR:-/tmp}" /tmp /var/tmp ~; do
		[[ $base =~ ^/[A-Za-z0-9._/+-]{1,40}$ ]] || continue
		# shellcheck disable=SC2016
		"$@" bash -c '
			directory=$(mktemp -d "$1/dtx.XXXXXX") || exit
			printf "#!/bin/sh\n" >"$directory/program" && chmod +x "$directory/program" && "$directory/program"
			status=$?
			rm -rf "$directory"
			exit $status' bash "${base%/}" 2>/dev/null && echo "${base%/}" && return
	done
	return 1
}

# Copy the tree to a new directory, and go on there as an ordinary user.
# Called first; returns in the copy. When RESULTS names a directory of the tree,
# what the run leaves in it is copied back.
enter_workspace()
{
	if [ -n "${DTX_WORK:-}" ]; then
		cd "$DTX_WORK/src" || exit 1
		trap clean_up EXIT
		trap 'exit 129' HUP
		trap 'exit 130' INT
		trap 'exit 143' TERM
		return
	fi

	local user='' base as=() variable

	export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
	install_packages
	(WISHES=1 install_packages) || say "Going on without these"
	if [ "$(id -u)" = 0 ]; then
		user=postgres
		id -u "$user" >/dev/null 2>&1 || user=nobody
		as=(perl -e "$BECOME" "$(id -u "$user")" "$(id -g "$user")")
		"${as[@]}" true || die "could not become $user, as who servers run: root may not do so here. Run this as an ordinary user"
		if ! "${as[@]}" "$PG_CONFIG" --version >/dev/null 2>&1 || ! "${as[@]}" test -r "$("$PG_CONFIG" --pgxs)"; then
			die "$user, as who servers run, may not read what PG_CONFIG=$PG_CONFIG is of"
		fi
	fi
	base=$(work_base "${as[@]}") || die "there is no directory to work in: one where programs can be written and run, with a short name
without blanks. /tmp and /var/tmp are not; let TMPDIR name one"

	DTX_WORK=$(mktemp -d "$base/dtx.XXXXXX") || die "could not make a temporary directory"
	trap 'rm -rf "$DTX_WORK"' EXIT
	mkdir "$DTX_WORK/src"
	# 1: a file changed while it was read, as files do that are worked on
	tar -C "$REPO" --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
		--exclude=./tmp_check --exclude=./results --exclude=./output_iso --exclude=./log \
		--exclude=./bench/out -cf "$DTX_WORK/src.tar" . || [ $? -eq 1 ] || die "could not copy $REPO"
	tar -C "$DTX_WORK/src" --no-same-owner -xf "$DTX_WORK/src.tar" || die "could not copy $REPO"
	rm "$DTX_WORK/src.tar"
	if [ -n "$user" ]; then
		chown -R "$user:" "$DTX_WORK"
	fi

	# what the caller's shell says about servers and languages is not for these
	for variable in $(compgen -e | grep -E '^(PG[A-Z]+|LC_[A-Z]+|LANG|LANGUAGE|MAKEFLAGS|MFLAGS|MAKELEVEL|MAKEOVERRIDES)$'); do
		unset "$variable"
	done
	# an empty setting is none
	[ -n "${SEED:-}" ] || unset SEED
	[ -n "${DURATION:-}" ] || unset DURATION
	mkdir "$DTX_WORK/tmp"
	if [ -n "$user" ]; then
		chown "$user:" "$DTX_WORK/tmp"
	fi
	export DTX_WORK DTX_REPO="$REPO" HOME="$DTX_WORK" TMPDIR="$DTX_WORK/tmp" LC_ALL=C.UTF-8
	cd "$DTX_WORK" || exit 1
	if [ -z "${RESULTS:-}" ]; then
		trap - EXIT
		exec "${as[@]}" bash "$DTX_WORK/src/.ci/$TARGET" "$@" </dev/null
	fi

	# only this account may write in the tree: it brings the results back
	local pid status
	DTX_KEEP=1 "${as[@]}" bash "$DTX_WORK/src/.ci/$TARGET" "$@" </dev/null &
	pid=$!
	trap 'kill -TERM $pid; wait $pid; exit 143' HUP INT TERM
	wait $pid
	status=$?
	if [ -d "$DTX_WORK/src/$RESULTS" ]; then
		mkdir -p "$REPO/$RESULTS"
		cp -r "$DTX_WORK/src/$RESULTS/." "$REPO/$RESULTS/"
	fi
	exit $status
}

# Run a command in a process group of its own, so that all of it can be ended.
CHILD=''
run()
{
	local status

	set -m
	"$@" &
	CHILD=$!
	set +m
	wait "$CHILD"
	status=$?
	CHILD=''
	return $status
}

# run_logged LOG COMMAND...: the same, and what it prints is in a file too, all of it when this
# returns: who counts there would miss the end else.
run_logged()
{
	local log=$1 out tee status i

	shift
	exec {out}> >(exec tee "$log")
	tee=$!
	run "$@" >&"$out" 2>&1 {out}>&-
	status=$?
	exec {out}>&-
	# but not for ever, should the command have left something running that has it open
	for ((i = 0; i < 100; i++)); do
		kill -0 "$tee" 2>/dev/null || break
		sleep 0.1
	done
	return $status
}

# Stop at once the servers whose data is in the workspace, and no others: a pid
# file may be older than the process that has the pid now.
stop_servers()
{
	local file pid

	while IFS= read -r file; do
		pid=$(head -n 1 "$file" 2>/dev/null)
		case $pid in '' | *[!0-9]*) continue ;; esac
		[ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$file")" ] || continue
		kill -QUIT "$pid" 2>/dev/null || continue
		for ((i = 0; i < 300; i++)); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
	done < <(find "$DTX_WORK" -name postmaster.pid 2>/dev/null)
}

clean_up()
{
	local group

	trap '' HUP INT TERM
	for group in $CHILD ${FETCHER:-}; do
		kill -TERM -- "-$group" 2>/dev/null
		wait "$group" 2>/dev/null
	done
	stop_servers
	if [ -n "${DTX_KEEP:-}" ]; then
		return
	elif [ -n "${KEEP:-}" ]; then
		printf '%s: %s is kept\n' "$TARGET" "$DTX_WORK"
	else
		cd / && rm -rf "$DTX_WORK"
	fi
}

# -------------------------------------------------------- build and servers

# Build with warnings as errors; install beside a copy of PostgreSQL's
# programs. Puts these first in the path.
build_and_install()
{
	local config=${PG_CONFIG:-pg_config} bindir libdir sharedir

	bindir=$($config --bindir)
	libdir=$($config --pkglibdir)
	sharedir=$($config --sharedir)
	PGXS=$($config --pgxs)
	say "Building for $($config --version)"
	if [ -n "${DTX_SANITIZE:-}" ]; then
		# what a sanitizer adds confuses the compiler's warnings
		run make -s -j"$(nproc)" PG_CONFIG="$config" COPT="-O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" ||
			die "the build failed"
	else
		run make -s -j"$(nproc)" PG_CONFIG="$config" COPT=-Werror || die "the build failed"
	fi

	mkdir -p "$DTX_WORK/pg$bindir" "$DTX_WORK/pg$libdir" "$DTX_WORK/pg$sharedir"
	# programs find the rest relative to where they are: these are copied
	if ! { cp "$bindir"/* "$DTX_WORK/pg$bindir/" &&
		cp -rs "$libdir"/. "$DTX_WORK/pg$libdir/" &&
		cp -rs "$sharedir"/. "$DTX_WORK/pg$sharedir/"; }; then
		die "could not copy PostgreSQL"
	fi
	rm -f "$DTX_WORK/pg$libdir"/dtx.so "$DTX_WORK/pg$sharedir"/extension/dtx{.control,--*.sql}
	make -s install PG_CONFIG="$config" DESTDIR="$DTX_WORK/pg" >/dev/null || die "the installation failed"

	BINDIR=$DTX_WORK/pg$bindir
	if [ -n "${DTX_SANITIZE:-}" ]; then
		preload_sanitizers "$BINDIR/postgres"
	fi
	export PATH="$BINDIR:$PATH"
	if [ -x "$BINDIR/pg_config" ]; then
		export PG_CONFIG="$BINDIR/pg_config"
	fi
	[ "$(postgres --version)" = "$("$bindir/postgres" --version)" ] || die "the copy of PostgreSQL does not run"
}

# Let a server be started with the sanitizers' libraries, which come before all others. A report
# ends its process.
preload_sanitizers()
{
	mv "$1" "$1.real"
	cat >"$1" <<-EON
	#!/bin/bash
	export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
	export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0 UBSAN_OPTIONS=print_stacktrace=1
	exec -a "\$0" "\$0.real" "\$@"
	EON
	chmod +x "$1"
}

# start_cluster NAME [SETTING ...]: a cluster in $DTX_WORK/NAME that listens on
# a socket in $DTX_WORK/s, port $PGPORT.
start_cluster()
{
	local name=$1 data=$DTX_WORK/$1 setting

	shift
	mkdir -p "$DTX_WORK/s"
	initdb -D "$data" -U postgres -A trust -N -E UTF8 --locale=C.UTF-8 >"$data.log" 2>&1 ||
		{ cat "$data.log"; die "could not create cluster $name"; }
	for setting in "listen_addresses = ''" "unix_socket_directories = '$DTX_WORK/s'" \
		"shared_preload_libraries = 'dtx'" "max_prepared_transactions = 10" "$@"; do
		printf '%s\n' "$setting"
	done >>"$data/postgresql.conf"
	pg_ctl -D "$data" -l "$data.log" -w -o "-p $PGPORT" start >/dev/null ||
		{ cat "$data.log"; die "could not start cluster $name"; }
}

# Set what PostgreSQL's Perl modules for tests want to know.
prove_environment()
{
	local test
	test=$(dirname "$PGXS")/../test

	[ -d "$test/perl/PostgreSQL/Test" ] || die "PostgreSQL's Perl modules for tests are not in $test/perl"
	export PERL5LIB="$test/perl:$DTX_WORK/src/t"
	export PG_REGRESS="$test/regress/pg_regress"
	# the first is what version 15's look for, the others later ones'
	export TESTDIR="$DTX_WORK/tap" TESTDATADIR="$DTX_WORK/tap/tmp_check" TESTLOGDIR="$DTX_WORK/tap/tmp_check/log" top_builddir="$DTX_WORK"
	mkdir -p "$TESTLOGDIR"
}
