
=pod

=head1 NAME

DtxTest::Drivers - programs that use dtx through the drivers of their language

=head1 DESCRIPTION

For each language there is a program in t/drivers/LANGUAGE, which takes every driver through
the situations below, and prints a line of JSON for each:

	{"driver": "pgx", "version": "5.12.0", "situation": "bind", "passed": true, "note": "..."}

passed is null where the driver has no such thing; note says what went wrong. What comes out must be
what the table of that language in docs/drivers.md says; "make drivers" writes it there.

t/drivers/fetch has fetched the packages, into the directory that the environment names in DTX_DRIVERS. A
language that it left out is left out here.

The program finds two clusters, bank1 and bank2, which listen on 127.0.0.1, and in the environment:

	DTX_PORT1, DTX_PORT2	their ports; the databases are named as the clusters
	DTX_POOLER				that of a PgBouncer in transaction mode before both, if there is one
	DTX_PASSWORD			of the roles shop, who uses dtx, and warden, a superuser

=cut

package DtxTest::Drivers;

use strict;
use warnings;

use Exporter 'import';
use File::Basename;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

our @EXPORT = qw(fetched_or_skipped driver_banks test_drivers);

# What a row of the tables is about, in their order.
my @situations = (
	bind => 'a transfer, every parameter bound, the statement too',
	types => 'values of every kind, bound, NULL included',
	rows => 'rows by `dtx_query`',
	rollback => 'rollback',
	error => 'an error of the peer: its SQLSTATE, and the connection goes on',
	retry => 'tried again after `55P03`, in a loop',
	again => 'the same row again at once, after a rollback',
	savepoint => 'savepoint, or nested transaction',
	autosave => 'a savepoint of the driver around `dtx_join`',
	cancel => 'cancelled while the peer works',
	timeout => 'timeout while the peer works',
	pool => 'given back to the pool in the middle',
	discard => '`DISCARD ALL` between two transactions',
	prepared => 'prepared statements, in every mode of the driver',
	pipeline => 'pipeline, or batch',
	views => 'reads every public view',
	unavailable => 'the peer is down: the pool keeps its connection',
	pooler => 'through PgBouncer, transactions pooled',
	shared => 'a transaction shared by `dtx_open`, `dtx_join`, `dtx_commit`',
	messages => '`dtx_publish`, `dtx_receive` that waits, `dtx_ack`');
my %words = @situations;
my @order = @situations[ map { 2 * $_ } 0 .. $#situations / 2 ];

my $top = dirname(__FILE__) . '/../..';

# Where the packages of a language are; without them the test is skipped, or has failed.
sub fetched_or_skipped
{
	my (@languages) = @_;
	my $dir = $ENV{DTX_DRIVERS};
	plan skip_all => 'no drivers were fetched (t/drivers/fetch does that)' unless defined $dir;
	foreach my $language (@languages)
	{
		plan skip_all => "left out: " . slurp_first("$dir/$language.out") if -e "$dir/$language.out";
		next if -e "$dir/$language.ready";
		diag slurp_file("$dir/$language.log") if -e "$dir/$language.log";
		BAIL_OUT(-e "$dir/$language.failed" ? slurp_first("$dir/$language.failed") : "$language was not fetched");
	}
	return $dir;
}

sub slurp_first
{
	my ($line) = split /\n/, slurp_file($_[0]);
	return $line;
}

# Two banks that can be reached by TCP, as drivers do. shop may what an application may.
sub driver_banks
{
	my $password = join '', map { ('a' .. 'z', 0 .. 9)[ rand 36 ] } 1 .. 20;
	my @banks = map { new_bank("bank$_", conf => "listen_addresses = '127.0.0.1'\nmax_connections = 100\n") } 1, 2;
	$_->{password} = $password foreach @banks;
	foreach my $bank (@banks)
	{
		# by socket there is no password, and by TCP always
		my $hba = $bank->data_dir . '/pg_hba.conf';
		my $lines = slurp_file($hba);
		$lines =~ s/^host.*\n//mg;
		open my $file, '>', $hba or die "$hba: $!";
		print $file $lines, "host all all 127.0.0.1/32 scram-sha-256\n";
		close $file;
		$bank->reload;
		$bank->safe_psql($bank->{bank}, <<"SQL");
CREATE ROLE warden SUPERUSER LOGIN PASSWORD '$password';
CREATE ROLE shop LOGIN PASSWORD '$password';
GRANT pg_monitor TO shop;
SELECT dtx_admit('shop');
GRANT EXECUTE ON FUNCTION dtx_subscribe, dtx_unsubscribe TO shop;
GRANT SELECT, INSERT, UPDATE, DELETE ON account_info TO shop;
CREATE TABLE kinds (
    id bigint PRIMARY KEY, t text, i integer, b bigint, n numeric, f float8, o boolean, d date, z timestamptz,
    u uuid, j jsonb, a integer[], x text[], y bytea
);
GRANT SELECT, INSERT, UPDATE, DELETE ON kinds TO shop;
SELECT dtx_attach('kinds');
SQL
	}
	foreach my $pair ([ 0, 1 ], [ 1, 0 ])
	{
		my ($bank, $peer) = @banks[@$pair];
		my $port = $peer->port;
		$bank->safe_psql($bank->{bank}, <<"SQL");
CREATE SERVER $peer->{bank} FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '127.0.0.1', port '$port', dbname '$peer->{bank}');
CREATE USER MAPPING FOR shop SERVER $peer->{bank} OPTIONS (user 'shop', password '$password');
GRANT USAGE ON FOREIGN SERVER $peer->{bank} TO shop;
-- nobody listens there
CREATE SERVER nowhere FOREIGN DATA WRAPPER dtx_fdw OPTIONS (host '127.0.0.1', port '1', dbname 'nowhere');
CREATE USER MAPPING FOR shop SERVER nowhere OPTIONS (user 'shop', password '$password');
GRANT USAGE ON FOREIGN SERVER nowhere TO shop;
SQL
	}
	return @banks;
}

my $pooler;

# A PgBouncer before the banks; returns its port, or '' where there is none.
sub start_pooler
{
	my (@banks) = @_;
	my ($binary) = grep { -x $_ } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), qw(/usr/sbin /usr/local/sbin);
	return '' unless defined $binary;
	my $directory = PostgreSQL::Test::Utils::tempdir_short();
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $databases = join '', map { "$_->{bank} = host=127.0.0.1 port=" . $_->port . " dbname=$_->{bank}\n" } @banks;
	write_file("$directory/users", qq("shop" "$banks[0]{password}"\n));
	write_file("$directory/pgbouncer.ini", "[databases]\n$databases" . <<"INI");
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir = $directory
auth_type = scram-sha-256
auth_file = $directory/users
pool_mode = transaction
default_pool_size = 4
server_round_robin = 1
ignore_startup_parameters = extra_float_digits, search_path, statement_timeout
logfile = $directory/log
INI
	$pooler = fork() // die "fork: $!";
	if ($pooler == 0)
	{
		require POSIX;
		open STDOUT, '>>', "$directory/output";
		open STDERR, '>>', "$directory/output";
		exec($binary, "$directory/pgbouncer.ini") or POSIX::_exit(127);
	}
	wait_until(sub { -S "$directory/.s.PGSQL.$port" }, 'the pooler listens') or return '';
	return $port;
}

sub write_file
{
	my ($path, $text) = @_;
	open my $file, '>', $path or die "$path: $!";
	print $file $text;
	close $file;
	return;
}

END
{
	my $status = $?;
	if ($pooler)
	{
		kill 'TERM', $pooler;
		waitpid $pooler, 0;
	}
	$? = $status;
}

# Run a language's program, and compare what comes out with the table.
sub test_drivers
{
	my ($language, $command, %environment) = @_;
	my @banks = driver_banks();
	local %ENV = (%ENV, %environment,
		DTX_PORT1 => $banks[0]->port,
		DTX_PORT2 => $banks[1]->port,
		DTX_POOLER => start_pooler(@banks),
		DTX_PASSWORD => $banks[0]{password});
	my ($out, $err) = ('', '');
	my $timer = IPC::Run::timeout(900);
	my $ok = eval { IPC::Run::run($command, '<', \undef, '>', \$out, '2>', \$err, $timer) };
	ok($ok, "the program of $language runs to its end") or diag $err, $@ // '';
	note $err if $ok;

	my (@drivers, %version, %result);
	foreach my $line (grep { /^\{/ } split /\n/, $out)
	{
		my $got = decode_json($line);
		my ($driver, $situation) = @{$got}{qw(driver situation)};
		push @drivers, $driver unless exists $version{$driver};
		$version{$driver} = $got->{version};
		$result{$driver}{$situation} = defined $got->{passed} ? ($got->{passed} ? 'yes' : 'no') : '-';
		ok(exists $words{$situation}, "$situation is in the list") or next;
		# what the table knows to fail
		note "$driver: $situation took $got->{seconds} s" if $got->{seconds};
		diag "$driver: $situation: $got->{note}" if defined $got->{passed} && !$got->{passed};
	}
	my @table = table($language, \@drivers, \%version, \%result);
	# where the tables are to be made anew
	my $tables = $ENV{DTX_DRIVERS_TABLES};
	write_file("$tables/$language.table", join("\n", @table) . "\n") if defined $tables;
	my @committed = defined $tables ? @table : committed_table($language);
	for my $i (0 .. ($#table > $#committed ? $#table : $#committed))
	{
		is($table[$i], $committed[$i], 'docs/drivers.md, ' . ($table[$i] // $committed[$i]) =~ s/^\| ([^|]*?) *\|.*/$language: $1/r);
	}
	ok(settled(@banks), 'in the end nothing is left');
	done_testing();
	return;
}

sub table
{
	my ($language, $drivers, $version, $result) = @_;
	my @lines = (
		'| ' . join(' | ', $language, map { "$_ $version->{$_}" } @$drivers) . ' |',
		'| --- |' . ' :-: |' x @$drivers);
	foreach my $situation (@order)
	{
		my @cells = map { $result->{$_}{$situation} // '-' } @$drivers;
		push @lines, '| ' . join(' | ', $words{$situation}, @cells) . ' |' if grep { $_ ne '-' } @cells;
	}
	return @lines;
}

sub committed_table
{
	my ($language) = @_;
	my ($text) = slurp_file("$top/docs/drivers.md") =~ /^<!-- $language: begin[^\n]*\n\n(.*?)\n\n<!-- $language: end/ms;
	return split /\n/, $text // '';
}

1;
