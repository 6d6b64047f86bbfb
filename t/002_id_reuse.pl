# An id is never taken for another's.
#
# A transaction id that was handed out but never reached the disk is handed out
# again after a crash. Here the first transaction with id N leaves a branch at
# the peer and is lost; the second has the same N, and commits. The first one's
# branch must be rolled back, and the second one's must not.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

# Nothing but a synchronous commit flushes the log here, and the worker, which
# uses ids for its notes, takes its time.
my $bank1 = new_bank('bank1', conf => <<'CONF');
wal_level = minimal
max_wal_senders = 0
wal_writer_delay = '10s'
bgwriter_delay = '10s'
autovacuum = off
dtx.recovery_interval = '3s'
dtx.retry_base = '2s'
dtx.retry_max = '2s'
CONF
my $bank2 = new_bank('bank2',
	accounts => [ "('first', 'First', 1000)", "('second', 'Second', 1000)" ]);

# two tellers, so that one of them can be locked out
foreach my $role (qw(teller other))
{
	$bank2->safe_psql('bank2', <<"SQL");
CREATE ROLE $role LOGIN;
GRANT SELECT, UPDATE ON account_info TO $role;
SELECT dtx_admit('$role');
SQL
	make_peer($bank1, $bank2, server => "bank2_$role");
	$bank1->safe_psql('bank1',
		"ALTER USER MAPPING FOR CURRENT_USER SERVER bank2_$role OPTIONS (SET user '$role')");
}

# Let a teller in, or lock it out and end its connections.
my %locked;

sub lock_out
{
	my ($role, $out) = @_;
	my $path = $bank2->data_dir . '/pg_hba.conf';
	my $hba = slurp_file($path);
	$locked{$role} = $out;
	my $lines = join '', map { "local all $_ reject\n" } grep { $locked{$_} } sort keys %locked;
	$hba =~ s/\A(local all \w+ reject\n)*/$lines/;
	open my $file, '>', $path or die "$path: $!";
	print $file $hba;
	close $file;
	$bank2->reload;
	ok( wait_until(
			sub {
				my $probe = DtxTest::Session->new($bank2->connstr('bank2') . " user=$role", fail_ok => 1);
				return $out ? !defined $probe : defined $probe;
			},
			'pg_hba.conf is in force'),
		$out ? "$role is locked out" : "$role is let in");
	value($bank2, <<"SQL") if $out;
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE usename = '$role'
SQL
	return;
}

sub credit
{
	my ($s, $role, $account) = @_;
	$s->must("SELECT dtx_exec('bank2_$role', 'UPDATE account_info SET account_balance = account_balance + 10"
		  . " WHERE account_no = \$1', '$account')");
	return $s->must('SELECT dtx_xid()');
}

sub id_of
{
	my ($xid) = @_;
	return $xid =~ /:(\d+)\./ ? $1 : die "no xid: $xid";
}

# A transaction that leaves a branch of account 'first' and is lost, with its
# id. Returns its xid and a session at the restarted bank1 in a transaction with
# the same id, or nothing when somebody else got that.
sub lose_transaction
{
	my $s = session($bank1);
	$s->must('CHECKPOINT');
	# ids before N, for whoever wants some after the crash
	$s->must('BEGIN', 'SELECT pg_current_xact_id()', 'ROLLBACK') for 1 .. 20;
	$s->must('BEGIN');
	my $first = credit($s, 'teller', 'first');
	my $n = id_of($first);
	lock_out('teller', 1);
	crash($bank1);
	$bank1->start;
	$s->close;

	$s = session($bank1);
	for (;;)
	{
		$s->must('BEGIN');
		my $id = $s->must('SELECT pg_current_xact_id()');
		return ($first, $s) if $id == $n;
		note("$id is not $n");
		$s->must('ROLLBACK');
		return () if $id > $n;
	}
}

# How the second transaction goes on, once it has the id, to its end. Returns
# its xid, if it is a global transaction.
my %variants = (
	'a plain transaction' => sub {
		my ($s) = @_;
		$s->must("UPDATE account_info SET account_name = 'x'", 'COMMIT');
		lock_out('teller', 0);
		return undef;
	},
	'settled before the first is asked for' => sub {
		my ($s) = @_;
		my $xid = credit($s, 'other', 'second');
		$s->must('COMMIT');
		ok(wait_for_value($bank1, 'SELECT count(*) FROM dtx.branch', '0'),
			'the second is settled while the first is in doubt');
		is(balance($bank2, 'first'), '1010', 'the branch of the first is in doubt');
		lock_out('teller', 0);
		return $xid;
	},
	'committed, and not settled when the first is asked for' => sub {
		my ($s) = @_;
		my $xid = credit($s, 'other', 'second');
		lock_out('other', 1);
		$s->must('COMMIT');
		lock_out('teller', 0);
		ok(wait_for_value($bank2, q{SELECT account_balance FROM account_info WHERE account_no = 'first'}, '1000'),
			'the first is rolled back');
		is(value($bank1, 'SELECT count(*) FROM dtx.branch'), '1', 'the row of the second is there');
		lock_out('other', 0);
		return $xid;
	},
	'running when the first is asked for, in the same role' => sub {
		my ($s) = @_;
		lock_out('teller', 0);
		ok( wait_for_value(
				$bank1, "SELECT reachable FROM dtx_peers WHERE server = 'bank2_teller'", 't'),
			'the peer is asked while the second runs');
		my $xid = credit($s, 'teller', 'second');
		my ($first, $second) = split /,/, value($bank2,
			q{SELECT string_agg(gid, ',' ORDER BY joined_at) FROM dtx.joined_branch WHERE state = 'd'});
		is($second =~ /:(\d+)\..*\/(\d+)$/ && "$1/$2", $first =~ /:(\d+)\..*\/(\d+)$/ && "$1/$2",
			'both branches have the same numbers') if defined $second;
		$s->must('COMMIT');
		return $xid;
	});

foreach my $variant (sort keys %variants)
{
	my ($first, $s);
	for my $attempt (1 .. 10)
	{
		($first, $s) = lose_transaction();
		last if defined $first;
		note('somebody else got the id; once more');
		lock_out('teller', 0);
		settled($bank1, $bank2);
	}
	ok(defined $first, "$variant: the same id was handed out twice") or next;

	my $before = balance($bank2, 'second');
	my $second = $variants{$variant}->($s);
	$s->close;
	ok(settled($bank1, $bank2), "$variant: settled");
	is(balance($bank2, 'first'), '1000', "$variant: the lost transaction's branch was rolled back");
	is(balance($bank2, 'second'), $before + (defined $second ? 10 : 0),
		"$variant: the second transaction's branch was committed");
	like(value($bank1, "SELECT dtx_status('$first')"), qr/^(rolling back|rolled back|unknown)$/,
		"$variant: nobody says that the lost one is committed");
	like(value($bank1, "SELECT dtx_wait('$first', '180s')"), qr/^(rolled back|unknown)$/,
		"$variant: nor later");
	next unless defined $second;
	is(id_of($second), id_of($first), "$variant: the xids have the same id");
	isnt($second, $first, "$variant: and differ");
	is(value($bank1, "SELECT dtx_wait('$second', '180s')"), 'committed', "$variant: the second did commit");
}

done_testing();
