# The random campaign of all modes: three banks, transfers by AT, XA and TCC,
# nested ones, ones that services join, while processes are killed, clusters are
# stopped and connections are cut, others prepare transactions on the same rows, and
# a synchronous standby comes and goes.
#
#	SEED=n DURATION=s prove t/013_modes_chaos.pl
#
# A transaction moves money between two or three banks, and leaves a row in a log
# at each. Its client notes what it was told. At the end what was acknowledged
# is at all of its banks, what was refused at none, what is unknown at all or
# none; every balance is what the log makes of it; and nothing is left of any
# global transaction.
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
use DtxTest::Chaos;
use DtxTest::Modes;

my $seed = $ENV{SEED} || int(rand(2**31));
my $duration = $ENV{DURATION} || 40;
my $clients = 6;
my @accounts = map { "a$_" } 1 .. 12;
my $initial = 1000;

diag "SEED=$seed DURATION=$duration";
srand($seed);

my $delay = (qw(1ms 200ms 10s))[ int rand 3 ];
my @banks = three_banks(
	accounts => [ map { "('$_', 'Owner of $_', $initial)" } @accounts ],
	streaming => 1,
	conf => <<"CONF");
$DtxTest::Bystanders::conf
restart_after_crash = on
log_checkpoints = off
max_connections = 100
wal_writer_delay = '$delay'
CONF
my %bank = map { $_->{bank} => $_ } @banks;
foreach my $bank (@banks)
{
	$bank->safe_psql($bank->{bank}, <<'SQL');
CREATE TABLE move_log (id text PRIMARY KEY, account text NOT NULL, delta numeric NOT NULL);
SELECT dtx_attach('move_log');
CREATE FUNCTION move_try(id text, account text, delta numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF delta < 0 THEN PERFORM debit_try(account, -delta); END IF;
    INSERT INTO tcc_call VALUES ('try');
END $$;
CREATE FUNCTION move_confirm(id text, account text, delta numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF delta < 0 THEN
        PERFORM debit_confirm(account, -delta);
    ELSE
        UPDATE account_info SET account_balance = account_balance + delta WHERE account_no = account;
    END IF;
    INSERT INTO tcc_call VALUES ('end');
    INSERT INTO move_log VALUES (id, account, delta);
END $$;
CREATE FUNCTION move_cancel(id text, account text, delta numeric) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF delta < 0 THEN PERFORM debit_cancel(account, -delta); END IF;
    INSERT INTO tcc_call VALUES ('end');
END $$;
SELECT dtx_tcc_define('move', 'move_try(text,text,numeric)', 'move_confirm(text,text,numeric)',
    'move_cancel(text,text,numeric)');
SQL
}
make_plain_log(@banks);
my $standby = make_sync_standby($banks[ int rand 3 ]);
my $total = money(@banks);
my $notes = PostgreSQL::Test::Utils::tempdir . '/notes';

# --- transactions

# A leg of a transaction: a change of one account. As one statement,
sub leg
{
	my ($id, $delta) = @_;
	my $account = pick(@accounts);
	return "WITH l AS (INSERT INTO move_log VALUES ('$id', '$account', $delta))"
	  . " UPDATE account_info SET account_balance = account_balance + ($delta) WHERE account_no = '$account'";
}

# as a statement at a server,
sub leg_at
{
	my ($server, @leg) = @_;
	return "SELECT dtx_exec('$server', \$\$" . leg(@leg) . '$$)';
}

# as a call of the action,
sub try_leg
{
	my ($server, $id, $delta) = @_;
	my $account = pick(@accounts);
	$server = defined $server ? "'$server'" : 'NULL';
	return qq(SELECT dtx_try($server, 'move', '{"id": "$id", "account": "$account", "delta": $delta}'));
}

# as a statement at a server that has another leg at the next one.
sub nested_legs
{
	my ($server, $id, $delta, $next, $delta_next) = @_;
	my $here = leg($id, $delta) =~ s/^WITH (.*?\)\)) (.*)/WITH $1, u AS ($2)/sr;
	my $there = rand() < 0.3 ? try_leg($next, $id, $delta_next) : leg_at($next, $id, $delta_next);
	if ($there =~ /dtx_exec/ && rand() < 0.5)
	{
		$here .= q{, b AS MATERIALIZED (SELECT dtx_begin('xa'))};
		$there .= '::text FROM b WHERE dtx_begin IS NOT NULL';
	}
	else
	{
		$there .= '::text';
	}
	return "SELECT * FROM dtx_query('$server', \$q\$$here $there\$q\$) AS t(x text)";
}

sub transfer
{
	my ($id, $peer, $amount) = @_;
	my ($from, $to) = (pick(@accounts), pick(@accounts));
	my $log = "INSERT INTO move_log VALUES ('$id', ";
	return ("SELECT dtx_transfer('$peer', '$from', '$to', $amount, '" . pick(qw(at xa tcc)) . q{')},
		"$log'$from', -$amount)", "SELECT dtx_exec('$peer', \$\$$log'$to', $amount)\$\$)");
}

# The statements of a random transaction, and at how many banks it leaves a row.
sub statements
{
	my ($id, $b, $c) = @_;
	my $amount = 2 * (1 + int rand 25);
	my $half = $amount / 2;
	my $xa = q{SELECT dtx_begin('xa')};
	my $debit = leg($id, -$amount);
	my $dice = rand;
	my @body;

	if ($dice < 0.25)
	{
		@body = transfer($id, $b, $amount);
		return (2, 'BEGIN', @body, 'COMMIT');
	}
	elsif ($dice < 0.5)
	{
		@body = ($debit, leg_at($b, $id, $half), leg_at($c, $id, $half));
		@body[ 0, 2 ] = @body[ 2, 0 ] if rand() < 0.5;
		splice @body, 1, 0, 'SAVEPOINT s', leg_at($b, $id, 7), 'ROLLBACK TO s' if rand() < 0.3;
		unshift @body, $xa if rand() < 0.6;
	}
	elsif ($dice < 0.65)
	{
		@body = (try_leg(undef, $id, -$amount), try_leg($b, $id, $half), try_leg($c, $id, $half));
	}
	elsif ($dice < 0.75)
	{
		@body = ($xa, $debit, leg_at($b, $id, $half), try_leg($c, $id, $half));
		shift @body if rand() < 0.3;
	}
	else
	{
		@body = ($debit, nested_legs($b, $id, $half, $c, $half));
		unshift @body, $xa if rand() < 0.5;
	}
	return (3, 'BEGIN', @body, rand() < 0.1 ? 'ROLLBACK' : 'COMMIT');
}

# What services do in a transaction that one of them opens at a: [bank, statements].
sub services
{
	my ($id, $a, $b, $c) = @_;
	my $amount = 2 * (1 + int rand 25);
	my $half = $amount / 2;
	my @parts = ([ $a, leg($id, -$amount) ]);
	my @b_part = rand() < 0.3 ? try_leg(undef, $id, $half) : leg($id, $half);

	unshift @b_part, q{SELECT dtx_begin('xa')} if rand() < 0.4;
	push @parts,
	    rand() < 0.4 ? ([ $b, @b_part ], [ $c, leg($id, $half) ])
	  : rand() < 0.3 ? [ $b, @b_part, try_leg($c, $id, $half) ]
	  : [ $b, @b_part, leg_at($c, $id, $half) ];
	@parts = reverse @parts if rand() < 0.5;
	return @parts;
}

# --- clients

my %sessions;
my $number;

# A session, or undef while the cluster is down.
sub client_session
{
	my ($name) = @_;
	return $sessions{$name} if defined $sessions{$name};
	my $s = session($bank{$name}, application => "client $number", fail_ok => 1);
	Time::HiRes::usleep(20_000) unless defined $s;
	# opposite transfers wait for each other until this ends it
	$s->run('SET dtx.lock_timeout = ' . pick(30, 100, 300) . '; SET lock_timeout = 500') if defined $s;
	return $sessions{$name} = $s;
}

# Run a transaction at a bank. What its client knows is acknowledged, refused or
# unknown; then the error, or what the last statement but one returned.
sub outcome
{
	my ($name, @statements) = @_;
	my $s = client_session($name) // return ('refused', 'not connected');
	foreach my $sql (@statements)
	{
		my $r = $s->run($sql, 120);
		next if $r->{ok};
		my ($error) = $r->{err} =~ /(?:ERROR|FATAL): +(.*)/;
		# without an answer to COMMIT it may have been done
		my $unknown = $sql =~ /^(COMMIT|SELECT dtx_(commit|open))/ && ($r->{lost} || $r->{state} =~ /^(08|57P)/);
		delete $sessions{$name} if $r->{lost} || ($sql ne 'COMMIT' && !$s->run('ROLLBACK')->{ok});
		return ($unknown ? 'unknown' : 'refused', $error // 'lost connection');
	}
	return ($statements[-1] eq 'ROLLBACK' ? 'refused' : 'acknowledged', '');
}

# What dtx_commit says, which may be asked again.
sub decide
{
	my ($a, $xid) = @_;
	my ($seen, $error) = ('refused', 'open');
	foreach (1 .. 8)
	{
		my $s = client_session($a) // next;
		my $r = $s->run("SELECT dtx_commit('$xid')", 120);
		return ($r->{out} eq 'committed' ? 'acknowledged' : 'refused', "dtx_commit: $r->{out}") if $r->{ok};
		($error) = $r->{err} =~ /(?:ERROR|FATAL): +(.*)/;
		delete $sessions{$a} if $r->{lost};
		$seen = 'unknown' if $r->{lost} || $r->{state} =~ /^(08|57P)/;
		# it says how it ended
		return ('refused', $error) if $r->{err} =~ /timed out|was rolled back/;
		last if rand() < 0.2;
	}
	return ($seen, $error // 'lost connection');
}

# A transaction that services share.
sub shared_outcome
{
	my ($a, @parts) = @_;
	my $end = pick(qw(commit commit commit rollback nothing));
	my $timeout = $end eq 'nothing' ? '300ms' : '5s';
	my $s = client_session($a) // return ('refused', 'not connected');
	my $r = $s->run("SELECT dtx_open('$timeout')");
	my $xid = $r->{out};
	if (!$r->{ok})
	{
		delete $sessions{$a} if $r->{lost};
		return ('refused', 'dtx_open');
	}
	foreach my $part (@parts)
	{
		my ($name, @body) = @$part;
		my ($seen, $error) = outcome($name, 'BEGIN', "SELECT dtx_join('$xid')", @body, 'COMMIT');
		next if $seen eq 'acknowledged';
		# it has joined, and the vote tells whether it has committed its part
		next if $seen eq 'unknown';
		outcome($a, "SELECT dtx_rollback('$xid')") if rand() < 0.7;
		return ('refused', $error);
	}
	return decide($a, $xid) if $end eq 'commit';
	outcome($a, "SELECT dtx_rollback('$xid')") if $end eq 'rollback';
	return ('refused', '');
}

sub client
{
	my ($until) = @_;
	my $made = 0;

	srand($seed + $number);
	open my $note, '>', "$notes.$number" or die "$notes.$number: $!";
	$note->autoflush(1);
	while (time() < $until)
	{
		my ($a, @others) = map { $_->{bank} } @banks;
		($a, @others) = (@others, $a) foreach 1 .. int rand 3;
		@others = reverse @others if rand() < 0.5;
		my $id = "$number-" . ++$made;
		my ($legs, $seen, $error, @did);
		if (rand() < 0.3)
		{
			my @parts = services($id, $a, @others);
			$legs = 3;
			@did = ('shared', map { join '; ', @$_ } @parts);
			($seen, $error) = shared_outcome($a, @parts);
		}
		else
		{
			($legs, @did) = statements($id, @others);
			($seen, $error) = outcome($a, @did);
		}
		print $note join("\t", $id, $legs, $seen, $error, "$a: " . join '; ', @did) . "\n";
	}
	$_->close foreach grep { defined } values %sessions;
	return;
}

sub start_client
{
	my ($until) = @_;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	# the clusters belong to the parent: end without its END blocks
	eval { client($until); 1 } or do
	{
		print STDERR "client $number: $@";
		POSIX::_exit(1);
	};
	POSIX::_exit(0);
}

# --- chaos

# How many bytes the clients have noted.
sub noted
{
	my $sum = 0;
	$sum += -s "$notes.$_" // 0 foreach 1 .. $clients;
	return $sum;
}

# or else the clients would hold their pipes open
forget_sessions();
my $until = time() + $duration;
my @pids;
foreach my $client (1 .. $clients)
{
	$number = $client;
	push @pids, start_client($until);
}
push @pids, map { start_preparer($banks[$_], $seed + $clients + 1 + $_, $until, @accounts) } 0 .. $#banks;
let_come_and_go($standby);
my $done = chaos($until, \&noted, @banks);
my $failed_clients = 0;
foreach my $pid (@pids)
{
	waitpid $pid, 0;
	$failed_clients++ if $?;
}
note "chaos: $done";
is($failed_clients, 0, 'every client came to its end');

# --- what came of it

foreach my $bank (@banks)
{
	ok(wait_until(sub { defined eval { value($bank, 'SELECT 1') } }, "$bank->{bank} is up"), "$bank->{bank} is up");
}
standby_at_last($standby);
my %plain = map { $_->{bank} => { end_of_preparers($_) } } @banks;
is_all_over($total, 'at the end', @banks);

my (%seen, %legs, %text, %count, %errors);
foreach my $client (1 .. $clients)
{
	foreach my $line (split /\n/, slurp_file("$notes.$client"))
	{
		my ($id, $legs, $outcome, $error, $did) = split /\t/, $line;
		($seen{$id}, $legs{$id}, $text{$id}) = ($outcome, $legs, "$outcome $error: $did");
		$count{$outcome}++;
		$count{"$outcome, shared"}++ if $did =~ /^\w+: shared/;
		# by kind: names and numbers do not matter
		$errors{ $error =~ s/"[^"]*"/.../gr =~ s!=\([^)]*\)!!gr }++ if $error;
	}
}
note 'transactions: ' . join ', ', map { "$_ $count{$_}" } sort keys %count;
note "$errors{$_} times: $_" foreach sort { $errors{$b} <=> $errors{$a} } keys %errors;
cmp_ok($count{acknowledged} // 0, '>', $duration, 'transactions were made');
cmp_ok($count{'acknowledged, shared'} // 0, '>', 0, 'shared ones among them');

my %logged;
foreach my $bank (@banks)
{
	my $name = $bank->{bank};
	my %balances = map { $_ => $initial + ($plain{$name}{$_} // 0) } @accounts;
	foreach my $line (split /\n/, value($bank, 'SELECT id, account, delta FROM move_log'))
	{
		my ($id, $account, $delta) = split /\|/, $line;
		$logged{$id}{$name} = $delta;
		$balances{$account} += $delta;
	}
	my %actual = map { split /\|/ } split /\n/, value($bank, 'SELECT account_no, account_balance FROM account_info');
	is_deeply(\%actual, \%balances, "$name: every balance is what the log makes of it");
	is(value($bank, "SELECT value FROM dtx_stats WHERE name = 'lost_branches'"), '0', "$name: no branch was lost");
	unlike(log_since($bank), qr/PANIC|TRAP:|terminated by signal (?!9\b)|could not (read|open) .*undo/,
		"$name: no process crashed by itself");
}

my @wrong;
foreach my $id (sort keys %seen)
{
	my $there = keys %{ $logged{$id} // {} };
	my $right = $there == 0 ? $seen{$id} ne 'acknowledged' : $there == $legs{$id} && $seen{$id} ne 'refused';
	push @wrong, "$id: at " . join(' ', sort keys %{ $logged{$id} // {} }) . ": $text{$id}" unless $right;
}
is(scalar @wrong, 0, 'acknowledged transactions are everywhere, refused ones nowhere')
  or diag join "\n", @wrong[ 0 .. ($#wrong < 20 ? $#wrong : 20) ];
is(join(' ', grep { !exists $seen{$_} } keys %logged), '', 'there are no other transactions');

diag "SEED=$seed" unless Test::More->builder->is_passing;
done_testing();
