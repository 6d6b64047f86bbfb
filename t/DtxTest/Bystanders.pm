
=pod

=head1 NAME

DtxTest::Bystanders - what else goes on at a bank while global transactions do

=head1 DESCRIPTION

Clients that know nothing of dtx, and end their transactions with PREPARE
TRANSACTION and COMMIT PREPARED or ROLLBACK PREPARED, from another session now
and then; and a synchronous standby that comes and goes.

=cut

package DtxTest::Bystanders;

use strict;
use warnings;

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use DtxTest;

our @EXPORT = qw(
  make_plain_log
  start_preparer
  end_of_preparers
  make_sync_standby
  change_standby
  standby_at_last
);

# What the banks' configuration needs for all this.
our $conf = <<'CONF';
max_prepared_transactions = 40
wal_keep_size = '512MB'
CONF

sub pick
{
	return $_[ int rand @_ ];
}

# --- prepared transactions

my %notes;

sub make_plain_log
{
	foreach my $bank (@_)
	{
		$bank->safe_psql($bank->{bank},
			'CREATE TABLE plain_log (id text PRIMARY KEY, debited text NOT NULL, credited text NOT NULL, amount numeric NOT NULL)');
		$notes{ $bank->{bank} } = PostgreSQL::Test::Utils::tempdir . "/plain.$bank->{bank}";
	}
	return;
}

# COMMIT PREPARED, or ROLLBACK PREPARED; what came of it.
sub finish
{
	my ($s, $id) = @_;
	my $end = pick('COMMIT', 'COMMIT', 'ROLLBACK');
	my $r = $s->run("$end PREPARED 'plain-$id'", 120);
	return ('unknown', $r->{lost}) unless $r->{ok};
	return ($end eq 'COMMIT' ? 'acknowledged' : 'refused', 0);
}

sub preparer
{
	my ($bank, $until, @accounts) = @_;
	my $name = $bank->{bank};
	my $made = 0;
	my $s;

	open my $note, '>', $notes{$name} or die "$notes{$name}: $!";
	$note->autoflush(1);
	while (time() < $until)
	{
		if (!defined $s)
		{
			$s = session($bank, application => 'client plain', fail_ok => 1);
			usleep(20_000), next unless defined $s;
			$s->run('SET lock_timeout = 300; SET dtx.lock_timeout = 100');
			# what was prepared before the connection was lost
			my $left = $s->run("SELECT substr(gid, 7) FROM pg_prepared_xacts WHERE gid LIKE 'plain-$name-%'");
			foreach my $id ($left->{ok} ? split(/\n/, $left->{out}) : ())
			{
				my ($outcome, $lost) = finish($s, $id);
				print $note "$id $outcome\n";
			}
		}
		my $id = "$name-" . ++$made;
		my ($debited, $credited, $amount) = (pick(@accounts), pick(@accounts), 1 + int rand 20);
		my $outcome = 'prepared';
		my $lost = 0;
		foreach my $sql ('BEGIN',
			"UPDATE account_info SET account_balance = account_balance - $amount WHERE account_no = '$debited'",
			"UPDATE account_info SET account_balance = account_balance + $amount WHERE account_no = '$credited'",
			"INSERT INTO plain_log VALUES ('$id', '$debited', '$credited', $amount)",
			"PREPARE TRANSACTION 'plain-$id'")
		{
			my $r = $s->run($sql, 120);
			next if $r->{ok};
			$lost = $r->{lost};
			$outcome = $sql =~ /^PREPARE/ && ($lost || $r->{state} =~ /^(08|57P)/) ? 'unknown' : 'refused';
			$lost ||= !$s->run('ROLLBACK')->{ok};
			last;
		}
		if ($outcome eq 'prepared')
		{
			usleep(int rand 30_000);
			if (rand() < 0.2)
			{
				$s->close;
				$s = session($bank, application => 'client plain', fail_ok => 1);
			}
			($outcome, $lost) = defined $s ? finish($s, $id) : ('unknown', 1);
			# it may still be there
			$lost = 1 if $outcome eq 'unknown';
		}
		print $note "$id $outcome\n";
		undef $s if $lost;
	}
	$s->close if defined $s;
	return;
}

# One client that prepares its transactions, between these accounts of a bank; its pid.
sub start_preparer
{
	my ($bank, $seed, $until, @accounts) = @_;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	# the clusters belong to the parent: end without its END blocks
	eval { srand($seed); preparer($bank, $until, @accounts); 1 } or do
	{
		print STDERR "preparer: $@";
		POSIX::_exit(1);
	};
	POSIX::_exit(0);
}

# When they have come to their end: end what is still prepared, and tell what they
# made of a bank's accounts, a hash of account => change. Tests that
# what was acknowledged is there, and what was refused is not.
sub end_of_preparers
{
	my ($bank) = @_;
	my (%seen, %there, %change, @wrong);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $gid (split /\n/, value($bank, q{SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'plain-%' AND database = current_database()}))
	{
		value($bank, "ROLLBACK PREPARED '$gid'");
	}
	foreach my $line (split /\n/, slurp_file($notes{ $bank->{bank} }))
	{
		my ($id, $outcome) = split / /, $line;
		$seen{$id} = $outcome unless ($seen{$id} // 'unknown') ne 'unknown';
	}
	foreach my $line (split /\n/, value($bank, 'SELECT id, debited, credited, amount FROM plain_log'))
	{
		my ($id, $debited, $credited, $amount) = split /\|/, $line;
		$there{$id} = 1;
		$change{$debited} -= $amount;
		$change{$credited} += $amount;
	}
	foreach my $id (sort keys %seen)
	{
		push @wrong, "$id is " . ($there{$id} ? 'there' : 'not there') . " and was $seen{$id}"
		  if $seen{$id} eq ($there{$id} ? 'refused' : 'acknowledged');
	}
	my $kept = keys %there;
	cmp_ok($kept, '>', 0, "$bank->{bank}: $kept prepared transactions of bystanders were committed");
	is(join(', ', @wrong), '', "$bank->{bank}: those that were acknowledged, and none that was refused");
	return %change;
}

# --- the standby

# A standby of a bank, which runs, and which nobody waits for yet.
sub make_sync_standby
{
	my ($bank) = @_;
	my $name = $bank->name . '_standby';
	$bank->backup($name);
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($bank, $name, has_streaming => 1);
	$standby->start;
	return { bank => $bank, node => $standby, name => $name, runs => 1, is_waited_for => 0 };
}

sub wait_for_it
{
	my ($standby, $wait) = @_;
	$standby->{bank}->append_conf('test.conf', "synchronous_standby_names = '" . ($wait ? $standby->{name} : '') . "'");
	$standby->{bank}->reload;
	$standby->{is_waited_for} = $wait;
	return;
}

sub run_it
{
	my ($standby, $runs) = @_;
	return if $standby->{runs} == $runs;
	$runs ? $standby->{node}->start : $standby->{node}->stop(pick('fast', 'immediate'));
	$standby->{runs} = $runs;
	return;
}

# It comes, or goes; or goes while commits wait for it, until they have had some
# time to: meanwhile is called between.
sub change_standby
{
	my ($standby, $meanwhile) = @_;
	if (!$standby->{is_waited_for})
	{
		# commits may wait for it before it is there
		my @steps = (sub { run_it($standby, 1) }, sub { wait_for_it($standby, 1) });
		$_->() foreach rand() < 0.5 ? @steps : reverse @steps;
	}
	elsif (rand() < 0.5)
	{
		run_it($standby, 0);
		$meanwhile->();
		run_it($standby, 1);
	}
	else
	{
		wait_for_it($standby, 0);
		run_it($standby, 0) if rand() < 0.5;
	}
	return;
}

# It is there and is waited for; the end of a campaign is settled with it.
sub standby_at_last
{
	my ($standby) = @_;
	run_it($standby, 1);
	wait_for_it($standby, 1) unless $standby->{is_waited_for};
	return;
}

1;
