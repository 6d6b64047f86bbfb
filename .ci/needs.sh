# needs.sh: which PostgreSQL a run is for, what else it needs, and how a machine gets that;
# sourced by common.sh, never run.
#
# Needs are named by Debian's packages: apt is the only manager that is run. For others there is a
# table of their names, so that who has another machine reads what to install there.
# shellcheck shell=bash

OLDEST=15

# ------------------------------------------------------------ the PostgreSQL

# PG_CONFIG and PG_MAJOR, once choose_postgres has found one; none is there while they are empty.
PG_MAJOR=''

# major_of PG_CONFIG: the major version that it says it is of.
major_of()
{
	"$1" --version 2>/dev/null | sed -nE 's/^PostgreSQL ([0-9]+).*/\1/p'
}

# The parts that an installation has or lacks. A client's pg_config says the same paths as a
# server's, and there is nothing at them.
has_server()
{
	local bindir program

	bindir=$("${1:-$PG_CONFIG}" --bindir 2>/dev/null) || return
	for program in initdb pg_ctl postgres psql pgbench; do
		[ -x "$bindir/$program" ] || return
	done
}

has_headers()
{
	[ -f "$("${1:-$PG_CONFIG}" --pgxs 2>/dev/null)" ] && [ -f "$("${1:-$PG_CONFIG}" --includedir-server)/postgres.h" ]
}

has_libpq_headers()
{
	[ -f "$("$PG_CONFIG" --includedir 2>/dev/null)/libpq-fe.h" ]
}

has_contrib()
{
	[ -f "$("$PG_CONFIG" --sharedir 2>/dev/null)/extension/postgres_fdw.control" ]
}

# What tests are run by; an installation has the Perl modules where it was configured with
# --enable-tap-tests.
has_test_programs()
{
	local test

	test=$(dirname "$("${1:-$PG_CONFIG}" --pgxs 2>/dev/null)")/../test
	[ -x "$test/regress/pg_regress" ] && [ -x "$test/isolation/pg_isolation_regress" ] && [ -f "$test/perl/PostgreSQL/Test/Cluster.pm" ]
}

# The programs of the name pg_config that there are: the one in the path, then those that packages
# put elsewhere, from the newest major to the oldest.
pg_configs()
{
	local file

	command -v pg_config
	# where pg_config is a client's, Fedora calls the server's so
	command -v pg_server_config
	for file in /usr/lib/postgresql/*/bin/pg_config /usr/pgsql-*/bin/pg_config /usr/lib/postgresql[0-9]*/bin/pg_config \
		/usr/libexec/postgresql*/pg_config /usr/local/pgsql*/bin/pg_config; do
		[ ! -x "$file" ] || printf '%s %s\n' "$(major_of "$file")" "$file"
	done | sort -rn | sed 's/^[^ ]* //'
}

# Set PG_CONFIG and PG_MAJOR: to what the caller says, or to the PostgreSQL of this machine that
# lacks least, the first of several. One that is too old is none, and so is a client alone.
choose_postgres()
{
	local config score best=0

	if [ -n "${PG_CONFIG:-}" ] && [ "$PG_CONFIG" != pg_config ]; then
		use_named_postgres
		return
	fi
	PG_CONFIG=''
	PG_MAJOR=''
	while IFS= read -r config; do
		score=0
		[ "$(major_of "$config")" -ge $OLDEST ] 2>/dev/null || continue
		has_test_programs "$config" && score=1
		if has_server "$config"; then score=$((score + 2)); fi
		if has_headers "$config"; then score=$((score + 4)); fi
		if [ $score -gt 1 ] && [ $score -gt $best ]; then
			best=$score
			PG_CONFIG=$config
		fi
	done < <(pg_configs)
	if [ -n "$PG_CONFIG" ]; then
		absolute_pg_config
		PG_MAJOR=$(major_of "$PG_CONFIG")
		export PG_CONFIG
	fi
}

# The path goes on to be used from elsewhere, and by an account that may not walk the way that the
# caller came: without dots.
absolute_pg_config()
{
	local directory

	directory=$(cd "$(dirname "$PG_CONFIG")" 2>/dev/null && pwd -P) || return 0
	PG_CONFIG=${directory%/}/$(basename "$PG_CONFIG")
}

# What the caller names counts, whatever else there is.
use_named_postgres()
{
	local named=$PG_CONFIG

	[[ $PG_CONFIG = */* ]] || PG_CONFIG=$(command -v "$PG_CONFIG")
	absolute_pg_config
	if [[ $PG_CONFIG =~ ^/usr/lib/postgresql/([0-9]+)/bin/pg_config$ ]]; then
		# a package's, be it there yet or not
		PG_MAJOR=${BASH_REMATCH[1]}
	else
		if [ ! -f "$PG_CONFIG" ] || [ ! -x "$PG_CONFIG" ]; then
			die "there is no program PG_CONFIG=$named"
		fi
		PG_MAJOR=$(major_of "$PG_CONFIG")
		[ -n "$PG_MAJOR" ] || die "PG_CONFIG=$named does not say what version it is of"
	fi
	[ "$PG_MAJOR" -ge $OLDEST ] || die "PG_CONFIG=$named is of PostgreSQL $PG_MAJOR: dtx needs $OLDEST or newer"
	[[ $PG_CONFIG != *[[:space:]]* ]] || die "PG_CONFIG=$named: make cannot use a path with a blank in it"
	export PG_CONFIG
}

# Whether apt's packages are what PG_CONFIG is of.
is_packaged()
{
	local bindir

	[ -n "$PG_CONFIG" ] || return 0
	[ -x "$PG_CONFIG" ] || return 0
	bindir=$("$PG_CONFIG" --bindir)
	[[ $bindir =~ ^/usr/lib/postgresql/[0-9]+/bin$ ]]
}

# The major version that apt would install.
distribution_major()
{
	apt-cache show --no-all-versions postgresql 2>/dev/null | sed -nE 's/^Depends:.*\bpostgresql-([0-9]+)\b.*/\1/p' | head -n 1
}

# ------------------------------------------------------------------- needs

# What a server is built from source with.
needs_to_build_postgres()
{
	cat <<-EON
	bison                    command -v bison
	flex                     command -v flex
	libicu-dev               test -f /usr/include/unicode/ucol.h
	libssl-dev               test -f /usr/include/openssl/ssl.h
	libreadline-dev          test -f /usr/include/readline/readline.h
	zlib1g-dev               test -f /usr/include/zlib.h
	pkg-config               command -v pkg-config
	dpkg-dev                 command -v dpkg-source
	EON
}

# Each package, with a command that succeeds where it is not needed any more; with WISHES=1
# those that a run does without where they cannot be had. To be called after choose_postgres.
needs_of()
{
	local server=postgresql headers=postgresql-server-dev-all

	if [ -n "$PG_MAJOR" ]; then
		server=postgresql-$PG_MAJOR
		headers=postgresql-server-dev-$PG_MAJOR
	fi
	case ${WISHES:+wishes of }$TARGET in
		'wishes of bench')
			cat <<-EON
			postgresql-${PG_MAJOR:-$OLDEST}-pgq3 test -f "\$("\$PG_CONFIG" --sharedir)/extension/pgq.control"
			pgqd               command -v pgqd
			nginx-light        command -v nginx
			EON
			;;
		'wishes of check' | 'wishes of asan')
			cat <<-EON
			pgbouncer          command -v pgbouncer
			nodejs             command -v node
			npm                test -n "\${DTX_NODE_MODULES:-}" || command -v npm
			openssl            command -v openssl
			EON
			;;
		'wishes of majors')
			# for those that are WANTED
			cat <<-EON
			nodejs                  command -v node
			npm                     command -v npm
			pgbouncer               command -v pgbouncer
			openssl                 command -v openssl
			mmdebstrap              command -v mmdebstrap
			debian-archive-keyring  test -f /usr/share/keyrings/debian-archive-keyring.gpg
			util-linux              command -v unshare
			EON
			[[ " ${WANTED:-16} " != *' 16 '* ]] || cat <<-EON
			python3-pip             python3 -m pip --version
			patchelf                command -v patchelf
			EON
			[[ ${WANTED:-cassert} != *cassert* ]] || needs_to_build_postgres
			;;
		'wishes of fresh')
			cat <<-EON
			mmdebstrap              command -v mmdebstrap
			debian-archive-keyring  test -f /usr/share/keyrings/debian-archive-keyring.gpg
			util-linux              command -v unshare
			EON
			;;
		wishes* | fresh) return ;;
	esac
	[ -z "${WISHES:-}" ] || return

	cat <<-EON
	tar                      command -v tar
	findutils                command -v find
	perl                     perl -MTime::HiRes -MJSON::PP -MIO::Socket::INET -e 1
	gcc                      command -v gcc
	make                     command -v make
	$server                  has_server
	$headers                 has_headers && has_libpq_headers
	libcurl4-openssl-dev     echo '#include <curl/curl.h>' | gcc -E -o /dev/null -
	EON
	case $TARGET in
		check | asan | majors | chaos | lint)
			cat <<-EON
			$server                  has_contrib
			$headers                 has_test_programs
			diffutils                command -v diff
			libipc-run-perl          perl -MIPC::Run -MTest::More -MTAP::Harness -MDigest::SHA -MFindBin -e 1 && command -v prove
			EON
			;;
	esac
	[ "$TARGET ${EXAMPLE:-}" != 'demo services' ] || cat <<-EON
		nodejs                   command -v node
		npm                      command -v npm
		python3                  command -v python3
		python3-pip              python3 -c 'import psycopg' || python3 -m pip --version
	EON
	case $TARGET in
		asan) needs_to_build_postgres ;;
		lint)
			cat <<-EON
			shellcheck               command -v shellcheck
			cppcheck                 command -v cppcheck
			EON
			;;
	esac
}

# A line for each package that is needed: "there NAME" or "missing NAME".
needs_met()
{
	local package test

	needs_of | while read -r package test; do
		if (eval "$test") </dev/null >/dev/null 2>&1; then
			printf 'there %s\n' "$package"
		else
			printf 'missing %s\n' "$package"
		fi
	done
}

missing_packages()
{
	needs_met | sed -n 's/^missing //p' | LC_ALL=C sort -u | tr '\n' ' '
}

# ---------------------------------------------------------- other machines

# The names that packages have elsewhere: what has several names here is one package there, or the
# other way round. N is the major version where it is part of the name and known.
names_elsewhere()
{
	cat <<-EON
	Debian                    dnf                              zypper                            apk                             pacman         brew
	tar                       tar                              tar                               tar                             tar            gnu-tar
	findutils                 findutils                        findutils                         findutils                       findutils      findutils
	diffutils                 diffutils                        diffutils                         diffutils                       diffutils      diffutils
	perl                      perl                             perl                              perl                            perl           perl
	gcc                       gcc                              gcc                               gcc,musl-dev                    gcc            -
	make                      make                             make                              make                            make           -
	postgresql                postgresql-server,postgresql-contrib postgresql-server,postgresql-contrib postgresql,postgresql-contrib postgresql  postgresql@17
	postgresql-N              postgresqlN-server,postgresqlN-contrib postgresqlN-server,postgresqlN-contrib postgresqlN,postgresqlN-contrib postgresql postgresql@N
	postgresql-server-dev-all postgresql-server-devel          postgresql-server-devel           postgresql-dev,libpq-dev        postgresql     postgresql@17
	postgresql-server-dev-N   postgresqlN-devel                postgresqlN-server-devel          postgresqlN-dev,libpq-dev       postgresql     postgresql@N
	libcurl4-openssl-dev      libcurl-devel                    libcurl-devel                     curl-dev                        curl           curl
	libipc-run-perl           perl-IPC-Run                     perl-IPC-Run                      perl-ipc-run,perl-test-harness-utils perl-ipc-run -
	nodejs                    nodejs                           nodejs                            nodejs                          nodejs         node
	npm                       npm                              npm                               npm                             npm            node
	python3                   python3                          python3                           python3                         python         python
	python3-pip               python3-pip                      python3-pip                       py3-pip                         python-pip     python
	shellcheck                ShellCheck                       ShellCheck                        shellcheck                      shellcheck     shellcheck
	zlib1g-dev                zlib-devel                       zlib-devel                        zlib-dev                        zlib           zlib
	libicu-dev                libicu-devel                     libicu-devel                      icu-dev                         icu            icu4c
	libssl-dev                openssl-devel                    libopenssl-devel                  openssl-dev                     openssl        openssl
	libreadline-dev           readline-devel                   readline-devel                    readline-dev                    readline       readline
	EON
}

# The package manager of this machine, and how packages are installed with it.
package_manager()
{
	local manager

	for manager in apt-get dnf yum zypper apk pacman brew; do
		command -v "$manager" >/dev/null && { echo "$manager"; return; }
	done
	return 1
}

# translate MANAGER PACKAGE...: what that manager calls these; what the table does not have goes
# by the same name.
translate()
{
	local manager=$1 package

	shift
	[ "$manager" != yum ] || manager=dnf
	for package in "$@"; do
		# Fedora's own packages have no number, those of the PostgreSQL project do
		if [ "$manager" = dnf ] && [[ ${PG_CONFIG:-} != /usr/pgsql-* ]]; then
			package=$(sed -E 's/^postgresql-[0-9]+$/postgresql/; s/^(postgresql-server-dev)-[0-9]+$/\1-all/' <<<"$package")
		fi
		names_elsewhere | awk -v manager="$manager" -v package="$package" -v n="$PG_MAJOR" '
			NR == 1 { for (i = 1; i <= NF; i++) if ($i == manager) column = i; next }
			{ name = $1; if (n != "") sub(/-N$/, "-" n, name) }
			name == package && column { found = 1; names = $column; gsub(/N/, n, names); gsub(/,/, " ", names); if (names != "-") print names }
			END { if (!found) print package }'
	done | tr ' ' '\n' | awk 'NF && !seen[$0]++' | tr '\n' ' '
}

# how_to_install PACKAGE...: what somebody says on this machine who wants them.
how_to_install()
{
	local manager names as=', as root'

	if ! manager=$(package_manager); then
		echo "This machine has no package manager that is known here. On Debian it is: apt-get install $*"
		return
	fi
	if [ "$manager" = apt-get ]; then
		names="$* "
	else
		names=$(translate "$manager" "$@")
	fi
	[ "$(id -u)" != 0 ] || as=''
	case $manager in
		apt-get) printf 'Install it%s:\napt-get update && apt-get install %s\n' "$as" "${names% }" ;;
		apk) printf 'Install it%s:\napk add %s\n' "$as" "${names% }" ;;
		pacman) printf 'Install it%s:\npacman -S %s\n' "$as" "${names% }" ;;
		brew) printf 'Install it:\nbrew install %s\n' "${names% }" ;;
		*) printf 'Install it%s:\n%s install %s\n' "$as" "$manager" "${names% }" ;;
	esac
	case $manager in
		dnf | yum)
			cat <<-EON
			The PostgreSQL project's own packages do as well: postgresqlN-server, postgresqlN-contrib and postgresqlN-devel. make check needs
			those: Fedora's and Red Hat's are built without the Perl modules for tests.
			EON
			;;
		zypper | apk | pacman)
			echo "Where PostgreSQL was built without --enable-tap-tests (pg_config --configure says), make check needs one that was."
			;;
	esac
}

# --------------------------------------------------------------------- apt

# run_apt COMMAND...: apt-get, as root, which waits for others that hold its locks: ten minutes at
# most. What it says is shown if it fails.
run_apt()
{
	local log status said='' deadline=$((SECONDS + 600))

	log=$(mktemp -p /tmp) || die "could not write to /tmp"
	# into a file: what a package starts may keep a pipe open for ever. It must not keep our lock either
	while :; do
		"${AS_ROOT[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C apt-get -q -y -o DPkg::Lock::Timeout=60 "$@" </dev/null >"$log" 2>&1 {APT_LOCK}<&-
		status=$?
		if [ $status -eq 0 ] || [ $SECONDS -ge $deadline ] || ! grep -qE 'Could not get lock|Unable to (acquire|lock)|is another process using it' "$log"; then
			break
		fi
		[ -n "$said" ] || say "Another program installs packages at the moment: waiting for it"
		said=1
		sleep 2
	done
	[ $status -eq 0 ] || tail -n 30 "$log" >&2
	rm -f "$log"
	return $status
}

# Choose a PostgreSQL, and install what is missing: by apt, and only where this needs no password.
# Else it is said what there is to be installed.
install_packages()
{
	local missing

	AS_ROOT=()
	APT_LOCK=''
	if command -v apt-get >/dev/null && command -v flock >/dev/null; then
		# one run at a time; another may just be installing the same
		exec {APT_LOCK}<"$(command -v apt-get)"
		flock -n "$APT_LOCK" || { say "Waiting for another run, which installs packages"; flock "$APT_LOCK"; }
	else
		exec {APT_LOCK}</dev/null
	fi
	choose_postgres
	missing=$(missing_packages)
	[ -z "$missing" ] || install_missing "$missing"
	exec {APT_LOCK}<&-
}

# die_missing PACKAGES: say what there is to do.
die_missing()
{
	local missing=$1

	if [ -z "$PG_MAJOR" ] && PG_MAJOR=$(distribution_major) && [ -n "$PG_MAJOR" ]; then
		missing=$(missing_packages)
	fi
	# shellcheck disable=SC2086
	die "not all is here that this needs. $(how_to_install $missing)"
}

install_missing()
{
	local missing=$1

	if ! command -v apt-get >/dev/null; then
		die_missing "$missing"
	fi
	if ! is_packaged && grep -qwE "postgresql(-server-dev)?-$PG_MAJOR" <<<"$missing"; then
		die "PG_CONFIG=$PG_CONFIG is of an installation that lacks something, and is no package's. It has$(
			has_server || printf ' no server, or not its programs;'
			{ has_headers && has_libpq_headers; } || printf ' no headers to build with;'
			has_contrib || printf ' not its contrib modules;'
			has_test_programs || printf ' no programs or Perl modules for tests (configure with --enable-tap-tests);')"
	fi
	if [ "$(id -u)" != 0 ]; then
		sudo -n true 2>/dev/null || die_missing "$missing"
		AS_ROOT=(sudo -n)
	fi
	say "Looking for packages"
	# packages that are to be had are installed, whatever other source does not answer
	run_apt update || say "Going on with the lists of packages that are there"
	if [ -z "$PG_MAJOR" ] && [ "$TARGET" != fresh ]; then
		PG_MAJOR=$(distribution_major)
		[ -n "$PG_MAJOR" ] || die "apt has no package postgresql"
		[ "$PG_MAJOR" -ge $OLDEST ] || die "this distribution has PostgreSQL $PG_MAJOR, and dtx needs $OLDEST or newer.
The PostgreSQL project has packages of all majors: the package postgresql-common has a script that adds them to apt's sources."
		missing=$(missing_packages)
	fi
	say "Installing $missing"
	# shellcheck disable=SC2086
	run_apt install --no-install-recommends $missing || die "could not install: $missing"
	choose_postgres
	missing=$(missing_packages)
	[ -z "$missing" ] || die "still missing: $missing(is PG_CONFIG=${PG_CONFIG:-pg_config} the right one?)"
}
