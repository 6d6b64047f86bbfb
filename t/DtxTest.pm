
=pod

=head1 NAME

DtxTest - banks to transfer between, and what must be true of them afterwards

=head1 DESCRIPTION

A bank is a cluster with one database of its own name, in which table
account_info is attached and is the ledger. Clusters listen on sockets in a
temporary directory only, and flush nothing: what a test of crashes needs is
that processes die, not that the power fails.

Nothing here sleeps for an effect: what has to come is polled for, with a
deadline.

=cut

package DtxTest;

use strict;
use warnings;

use Carp;
use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use DtxTest::Session;

our @EXPORT = qw(
  new_bank
  new_bank_database
  two_banks
  make_peer
  session
  value
  forget_sessions
  wait_until
  wait_for_value
  settled
  is_settled
  money
  balance
  log_mark
  log_since
  wait_for_log_line
  wait_down
  revive
  crash
  workers
  needs_programs
);

my $deadline = 180;
my %monitors;

# Wait until a condition holds; false, with a note, when it never does.
sub wait_until
{
	my ($condition, $what, $seconds) = @_;
	my $until = time() + ($seconds // $deadline);
	for (;;)
	{
		return 1 if $condition->();
		last if time() > $until;
		usleep(20_000);
	}
	diag "waited in vain: $what";
	return 0;
}

# A test file that cannot do without these programs of others is left out where they are not.
sub needs_programs
{
	foreach my $program (@_)
	{
		plan skip_all => "the program $program is not there" unless grep { -x "$_/$program" } split /:/, $ENV{PATH};
	}
	return;
}

# A cluster with a bank in it. Options: conf, more lines for postgresql.conf;
# label, the cluster's name where it is not the bank's; streaming; accounts.
sub new_bank
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($options{label} // $name);
	# whatever the environment of the run is
	$node->init(allows_streaming => $options{streaming}, extra => [ "--encoding=UTF8", "--locale=C" ]);
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'dtx'
log_statement = none
log_replication_commands = off
max_connections = 60
shared_buffers = 16MB
wal_level = replica
dtx.recovery_interval = '1s'
dtx.retry_base = '20ms'
dtx.retry_max = '500ms'
CONF
	$node->append_conf('postgresql.conf', $options{conf}) if defined $options{conf};
	# last: what a test changes on the way prevails
	$node->append_conf('postgresql.conf', "include_if_exists 'test.conf'");
	$node->start;
	$node->{bank} = $name;
	new_bank_database($node, $name, $options{accounts});
	return $node;
}

# A database with accounts, by default one: '1' in bank1, '2' in bank2.
sub new_bank_database
{
	my ($node, $database, $accounts) = @_;
	my ($number) = $database =~ /(\d+)$/;
	$accounts //= ["('$number', 'Owner $number', 10000)"];
	my $values = join ', ', @$accounts;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, <<"SQL");
CREATE EXTENSION dtx;
CREATE TABLE account_info (
    account_no      text PRIMARY KEY,
    account_name    text,
    account_balance numeric NOT NULL CHECK (account_balance >= 0)
);
INSERT INTO account_info VALUES $values;
SELECT dtx_attach('account_info');
SELECT dtx_ledger('account_info');
SQL
	return;
}

# A server in the bank's database that names another bank's. Options are more
# options of the server; database and server differ from the names otherwise.
sub make_peer
{
	my ($node, $peer, %options) = @_;
	my $database = delete $options{database} // $node->{bank};
	my $peer_database = delete $options{peer_database} // $peer->{bank};
	my $server = delete $options{server} // $peer_database;
	my $more = join '', map { ", $_ '$options{$_}'" } sort keys %options;
	my ($host, $port, $user) = ($peer->host, $peer->port, (getpwuid($>))[0]);
	$node->safe_psql($database, <<"SQL");
CREATE SERVER $server FOREIGN DATA WRAPPER dtx_fdw
    OPTIONS (host '$host', port '$port', dbname '$peer_database'$more);
CREATE USER MAPPING FOR CURRENT_USER SERVER $server OPTIONS (user '$user');
SQL
	return;
}

# bank1 and bank2, which know each other.
sub two_banks
{
	my (%options) = @_;
	my @banks = map {
		new_bank("bank$_", %options,
			(defined $options{label} ? (label => "bank${_}_$options{label}") : ()))
	} 1, 2;
	make_peer($banks[0], $banks[1]);
	make_peer($banks[1], $banks[0]);
	return @banks;
}

sub session
{
	my ($node, %options) = @_;
	return DtxTest::Session->new($node->connstr($options{database} // $node->{bank}), %options);
}

# One value, over a session that is kept for the purpose. undef when there is
# no answer to be had.
sub value
{
	my ($node, $sql, $database) = @_;
	$database //= $node->{bank};
	my $kept = \$monitors{ $node->name . "/$database" };
	for my $attempt (1, 2)
	{
		$$kept //= session($node, database => $database, application => 'monitor', fail_ok => 1);
		return undef unless defined $$kept;
		my $result = $$kept->run($sql);
		return $result->{out} if $result->{ok};
		croak "failed: $sql\n$result->{err}" unless $result->{lost};
		$$kept = undef;
	}
	return undef;
}

# Close the sessions that value() keeps, for commands that need a database or
# a cluster without any.
sub forget_sessions
{
	%monitors = ();
	return;
}

sub wait_for_value
{
	my ($node, $sql, $expected, $seconds, $database) = @_;
	my $last;
	my $ok = wait_until(
		sub { defined($last = value($node, $sql, $database)) && $last eq $expected },
		"$sql: $expected", $seconds);
	diag 'the last value was ' . ($last // 'none') unless $ok;
	return $ok;
}

# What is left of global transactions at a bank, or an empty string.
sub leftovers
{
	my ($node, $database) = @_;
	# calls first, rows second: one that is under way may leave rows yet
	my $calls = value($node, <<'SQL', $database);
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'dtx' AND state <> 'idle'
SQL
	return 'no answer' unless defined $calls;
	return "$calls calls under way" if $calls > 0;
	my $rows = value($node, <<'SQL', $database);
SELECT concat_ws('; ',
    (SELECT 'branch: ' || string_agg(concat_ws(' ', gid, attempts, last_error), ', ') FROM dtx.branch),
    (SELECT 'joined_branch: ' || string_agg(concat_ws(' ', gid, attempts, last_error), ', ')
     FROM dtx.joined_branch WHERE state = 'd'),
    (SELECT 'undo_log: ' || count(*) FROM dtx.undo_log HAVING count(*) > 0),
    (SELECT 'locks: ' || count(*) FROM pg_locks WHERE locktype = 'advisory'
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
     HAVING count(*) > 0),
    (SELECT 'prepared: ' || string_agg(gid, ', ') FROM pg_prepared_xacts
     WHERE database = current_database()))
SQL
	return $rows // 'no answer';
}

# Wait until nothing is in doubt or prepared anywhere, no undo row left, no call
# under way.
sub settled
{
	my @nodes = @_;
	my @left;
	my $ok = wait_until(
		sub {
			@left = map { my $l = leftovers($_); $l eq '' ? () : $_->name . ": $l" } @nodes;
			return @left == 0;
		},
		'everything is settled');
	diag join "\n", @left unless $ok;
	return $ok;
}

sub balance
{
	my ($node, $account, $database) = @_;
	return value($node, "SELECT account_balance FROM account_info WHERE account_no = '$account'",
		$database);
}

# The sum of all balances of these banks.
sub money
{
	my $sum = 0;
	$sum += value($_, 'SELECT sum(account_balance) FROM account_info') foreach @_;
	return $sum;
}

# The one check that ends every scenario.
sub is_settled
{
	my ($total, $what, @nodes) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(settled(@nodes), "$what: settled");
	is(money(@nodes), $total, "$what: the sum of money is what it was");
	return;
}

# How long the server's log is now.
sub log_mark
{
	my ($node) = @_;
	return -s $node->logfile;
}

sub log_since
{
	my ($node, $mark) = @_;
	return slurp_file($node->logfile, $mark // 0);
}

sub wait_for_log_line
{
	my ($node, $pattern, $mark, $seconds) = @_;
	return wait_until(sub { log_since($node, $mark) =~ $pattern },
		'in the log of ' . $node->name . ": $pattern", $seconds);
}

# Wait until a cluster that crashed is gone.
sub wait_down
{
	my ($node, $seconds) = @_;
	my $ok = wait_until(sub { !-e $node->data_dir . '/postmaster.pid' },
		$node->name . ' goes down', $seconds);
	$node->_update_pid(0) if $ok;
	return $ok;
}

# Start a cluster again that crashed, or is about to.
sub revive
{
	my ($node) = @_;
	wait_down($node) or BAIL_OUT($node->name . ' did not go down');
	$node->start;
	return;
}

sub crash
{
	my ($node) = @_;
	$node->stop('immediate');
	return;
}

# Process ids of the workers at a bank's database.
sub workers
{
	my ($node, $database) = @_;
	$database //= $node->{bank};
	return value($node, <<"SQL", 'postgres');
SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity
WHERE backend_type = 'dtx worker' AND datname = '$database'
SQL
}

# Sessions must be gone before the clusters are stopped.
END
{
	my $status = $?;
	forget_sessions();
	$? = $status;
}

1;
