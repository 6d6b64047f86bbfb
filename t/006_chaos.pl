# The random campaign: concurrent transfers both ways between two clusters,
# while processes are killed, clusters are stopped and connections are cut, others
# prepare transactions on the same rows, and a synchronous standby comes and goes.
#
#	make chaos SEED=n DURATION=s
#
# Every transfer leaves a row of its own in a log on both sides, and its client
# notes what it was told. At the end what was acknowledged is on both sides,
# what was refused on neither, what is unknown on both or neither; every balance
# is what the log makes of it; and nothing is in doubt.
#
# The seed fixes what is done, though not how the processes interleave.

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use DtxTest;
use DtxTest::Bystanders;

my $seed = $ENV{SEED} || int(rand(2**31));
my $duration = $ENV{DURATION} || 60;
my $clients = 6;
my @accounts = map { "a$_" } 1 .. 12;
my $initial = 1000;

diag "SEED=$seed DURATION=$duration";
srand($seed);

my $rows = [ map { "('$_', 'Owner of $_', $initial)" } @accounts ];
# what is not flushed by a commit is flushed soon, or rarely
my $delay = (qw(1ms 200ms 10s))[ int rand 3 ];
my @banks = two_banks(accounts => $rows, streaming => 1, conf => <<"CONF");
$DtxTest::Bystanders::conf
restart_after_crash = on
log_checkpoints = off
wal_writer_delay = '$delay'
CONF
foreach my $bank (@banks)
{
	$bank->safe_psql($bank->{bank}, <<'SQL');
CREATE TABLE transfer_log (
    id           text PRIMARY KEY,
    from_bank    text NOT NULL,
    from_account text NOT NULL,
    to_account   text NOT NULL,
    amount       numeric NOT NULL
);
SELECT dtx_attach('transfer_log');
SQL
}
make_plain_log(@banks);
my $standby = make_sync_standby($banks[0]);
my $total = money(@banks);
my $notes = PostgreSQL::Test::Utils::tempdir . '/notes';

# --- clients

sub pick
{
	return $_[ int rand @_ ];
}

# The statements of a random transfer. Each is tagged with its id on both sides.
sub statements
{
	my ($id, $from, $to) = @_;
	my ($debited, $credited) = (pick(@accounts), pick(@accounts));
	my $amount = 1 + int rand 50;
	my $log = sub {
		return "INSERT INTO transfer_log VALUES ('$id', '$from', '$debited', '$credited', $_[0])";
	};
	my $debit = "UPDATE account_info SET account_balance = account_balance - $amount"
	  . " WHERE account_no = '$debited'";
	my $credit = "UPDATE account_info SET account_balance = account_balance + \$1 WHERE account_no = \$2";
	my $exec = "SELECT dtx_exec('$to', ";
	my $log_there = $exec . '$$' . $log->('$1') . "\$\$, $amount)";
	my $dice = rand;
	my @body;

	if ($dice < 0.3)
	{
		# two branches
		@body = ($debit, $log->($amount), "$exec\$\$$credit\$\$, $amount, '$credited')", $log_there);
		@body[0, 2] = @body[2, 0] if rand() < 0.5;
	}
	elsif ($dice < 0.5)
	{
		# one
		@body = ($debit, $log->($amount),
			"$exec\$\$WITH l AS (" . $log->('$1') . ") $credit\$\$, $amount, '$credited')");
	}
	elsif ($dice < 0.75)
	{
		@body = ("SELECT dtx_transfer('$to', '$debited', '$credited', $amount)", $log->($amount), $log_there);
	}
	else
	{
		# one that a savepoint takes back, of the same row
		@body = ($debit, $log->($amount), 'SAVEPOINT s',
			"$exec\$\$$credit\$\$, 7, '$credited')", 'ROLLBACK TO s',
			"$exec\$\$$credit\$\$, $amount, '$credited')", $log_there);
	}
	return ('BEGIN', @body, rand() < 0.1 ? 'ROLLBACK' : 'COMMIT');
}

# Run one transfer; what the client knows of it at the end is acknowledged,
# refused or unknown.
sub outcome
{
	my ($s, @statements) = @_;
	foreach my $sql (@statements)
	{
		my $r = $s->run($sql, 120);
		next if $r->{ok};
		# without an answer to COMMIT it may have been done
		return ('unknown', $r->{lost})
		  if $sql eq 'COMMIT' && ($r->{lost} || $r->{state} =~ /^(08|57P)/);
		my $lost = $r->{lost} || !$s->run('ROLLBACK')->{ok};
		my ($error) = $r->{err} =~ /(?:ERROR|FATAL): +(.*)/;
		return ('refused', $lost, $error // 'lost connection');
	}
	return ($statements[-1] eq 'COMMIT' ? 'acknowledged' : 'refused', 0);
}

# A session, or undef while the cluster is down.
sub connect_to
{
	my ($bank, $number) = @_;
	my $s = session($bank, application => "client $number", fail_ok => 1);
	Time::HiRes::usleep(20_000) unless defined $s;
	# opposite transfers wait for each other until this ends it
	$s->run('SET dtx.lock_timeout = ' . pick(30, 100, 300)) if defined $s;
	return $s;
}

sub client
{
	my ($number, $until) = @_;
	my %sessions;
	my $transfers = 0;

	srand($seed + $number);
	open my $note, '>', "$notes.$number" or die "$notes.$number: $!";
	$note->autoflush(1);
	while (time() < $until)
	{
		my ($from, $to) = rand() < 0.5 ? @banks : reverse @banks;
		my $name = $from->{bank};
		my $id = "$number-" . ++$transfers;
		my @statements = statements($id, $name, $to->{bank});
		my $s = $sessions{$name} //= connect_to($from, $number) // next;
		my ($seen, $lost, $error) = outcome($s, @statements);
		print $note join("\t", $id, $seen, $error // '', join '; ', @statements) . "\n";
		delete $sessions{$name} if $lost;
	}
	$_->close foreach grep { defined } values %sessions;
	return;
}

sub start_client
{
	my ($number, $until) = @_;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	# the clusters belong to the parent: end without its END blocks
	eval { client($number, $until); 1 } or do
	{
		print STDERR "client $number: $@";
		POSIX::_exit(1);
	};
	POSIX::_exit(0);
}

sub notes_size
{
	my $size = 0;
	$size += -s "$notes.$_" // 0 foreach 1 .. $clients;
	return $size;
}

# --- chaos

# The value of a query, or undef: the cluster may be down just now.
sub try_value
{
	my ($bank, $sql) = @_;
	return eval { value($bank, $sql) };
}

sub random_process
{
	my ($bank, $condition) = @_;
	my $pids = try_value($bank, <<"SQL");
SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity
WHERE pid <> pg_backend_pid() AND $condition
SQL
	return pick(split / /, $pids // '');
}

my $client_or_call = "(application_name LIKE 'client%' OR application_name = 'dtx')";
my $busy = "$client_or_call AND state = 'active'";
my %actions = (
	# a crash: the cluster comes back by itself
	kill => sub {
		my ($bank) = @_;
		my $pid = random_process($bank, pick($busy, $client_or_call, "backend_type LIKE 'dtx%'", 'true'));
		kill 'KILL', $pid if $pid;
	},
	stop => sub {
		my ($bank) = @_;
		$bank->stop(pick('immediate', 'immediate', 'fast'));
		$bank->start;
	},
	stop_both => sub {
		$_->stop('immediate') foreach @banks;
		$_->start foreach @banks;
	},
	down => sub {
		my ($bank) = @_;
		$bank->stop('immediate');
		progress(20);
		$bank->start;
	},
	cut => sub {
		my ($bank) = @_;
		my $pid = random_process($bank, pick($busy, $client_or_call));
		try_value($bank, "SELECT pg_terminate_backend($pid)") if $pid;
	},
	cancel => sub {
		my ($bank) = @_;
		my $pid = random_process($bank, $busy);
		try_value($bank, "SELECT pg_cancel_backend($pid)") if $pid;
	},
	end_worker => sub {
		my ($bank) = @_;
		my $pid = random_process($bank, "backend_type LIKE 'dtx%'");
		try_value($bank, "SELECT pg_terminate_backend($pid)") if $pid;
	},
	freeze => sub {
		my ($bank) = @_;
		my $pid = random_process($bank, $client_or_call) or return;
		kill 'STOP', $pid;
		progress(1);
		kill 'CONT', $pid;
	},
	standby => sub {
		change_standby($standby, sub { progress(5) });
	});
my %weights = (standby => 4, kill => 4, stop => 3, stop_both => 1, down => 2, cut => 6, cancel => 4, end_worker => 2, freeze => 2);
my @plan = map { ($_) x $weights{$_} } sort keys %weights;
my %done;

# Let the clients get on: until they have noted some transfers more, if they can.
sub progress
{
	my ($transfers) = @_;
	my $enough = notes_size() + 300 * $transfers;
	my $until = time() + 1;
	Time::HiRes::usleep(10_000) while notes_size() < $enough && time() < $until;
	return;
}

# or else the clients would hold their pipes open
forget_sessions();
my $until = time() + $duration;
my @pids = map { start_client($_, $until) } 1 .. $clients;
push @pids, map { start_preparer($banks[$_], $seed + $clients + 1 + $_, $until, @accounts) } 0 .. $#banks;
while (time() < $until)
{
	progress(1 + int rand 40);
	my $name = pick(@plan);
	$actions{$name}->(pick(@banks));
	$done{$name}++;
}
my $failed_clients = 0;
foreach my $pid (@pids)
{
	waitpid $pid, 0;
	$failed_clients++ if $?;
}
note 'chaos: ' . join ', ', map { "$_ $done{$_}" } sort keys %done;
is($failed_clients, 0, 'every client came to its end');

# --- what came of it

foreach my $bank (@banks)
{
	ok(wait_until(sub { defined try_value($bank, 'SELECT 1') }, "$bank->{bank} is up"),
		"$bank->{bank} is up");
}
standby_at_last($standby);
my @plain = map { { end_of_preparers($_) } } @banks;
ok(settled(@banks), 'everything is settled');
is(money(@banks), $total, 'the sum of money is what it was');

my (%seen, %errors, %count, %text);
foreach my $number (1 .. $clients)
{
	foreach my $line (split /\n/, slurp_file("$notes.$number"))
	{
		my ($id, $outcome, $error, $statements) = split /\t/, $line;
		$seen{$id} = $outcome;
		$text{$id} = "$outcome $error $statements";
		$count{$outcome}++;
		# by kind: names and numbers do not matter
		$errors{ $error =~ s/"[^"]*"/.../gr =~ s!=\([^)]*\)!!gr }++ if $error;
	}
}
note 'transfers: ' . join ', ', map { "$_ $count{$_}" } sort keys %count;
note "$errors{$_} times: $_" foreach sort { $errors{$b} <=> $errors{$a} } keys %errors;
cmp_ok($count{acknowledged} // 0, '>', $duration, 'transfers were made');

my @logged;
my %balances = map { ("bank1 $_" => $initial + ($plain[0]{$_} // 0), "bank2 $_" => $initial + ($plain[1]{$_} // 0)) } @accounts;
foreach my $bank (@banks)
{
	my %here;
	my $log = value($bank,
		q{SELECT id, from_bank, from_account, to_account, amount FROM transfer_log ORDER BY id});
	foreach my $line (split /\n/, $log)
	{
		my ($id, $from, $debited, $credited, $amount) = split /\|/, $line;
		$here{$id} = 1;
		my $debits = $from eq $bank->{bank};
		my $account = "$bank->{bank} " . ($debits ? $debited : $credited);
		$balances{$account} += $debits ? -$amount : $amount;
	}
	push @logged, \%here;
}

my @wrong;
foreach my $id (sort keys %seen)
{
	my ($one, $two) = map { $_->{$id} ? 1 : 0 } @logged;
	my $right = $one == $two
	  && ($seen{$id} eq 'unknown' || $one == ($seen{$id} eq 'acknowledged' ? 1 : 0));
	push @wrong, "$id: bank1 $one bank2 $two: $text{$id}" unless $right;
}
is(scalar @wrong, 0, 'acknowledged transfers are there, refused ones are not')
  or diag join "\n", @wrong[ 0 .. ($#wrong < 20 ? $#wrong : 20) ];

my @strangers = grep { !exists $seen{$_} } map { keys %$_ } @logged;
is("@strangers", '', 'there are no other transfers');

foreach my $bank (@banks)
{
	my $name = $bank->{bank};
	my %actual = map { split /\|/ } split /\n/,
	  value($bank, 'SELECT account_no, account_balance FROM account_info');
	is_deeply(\%actual, { map { $_ => $balances{"$name $_"} } @accounts },
		"$name: every balance is what the log makes of it");
	is(value($bank, "SELECT count(*) FROM dtx_branches"), '0', "$name: no branch is left");
	is(value($bank, "SELECT value FROM dtx_stats WHERE name = 'lost_branches'"), '0',
		"$name: no branch was lost");
	unlike(log_since($bank), qr/PANIC|TRAP:|terminated by signal (?!9\b)|could not (read|open) .*undo/,
		"$name: no process crashed by itself");
}

diag "SEED=$seed" unless Test::More->builder->is_passing;
done_testing();
