# The random campaign of messages among the other modes: three banks, transfers
# by message, AT, XA and TCC, messages that are published in transactions and in
# branches of others, delayed ones, ordered ones, half ones, handlers that fail
# and consumers that die, while processes are killed, clusters are stopped and
# connections are cut; some transactions that publish are prepared and committed by
# hand, and a synchronous standby comes and goes.
#
#	SEED=n DURATION=s prove t/020_message_chaos.pl
#
# Whatever is published is noted in the transaction that publishes it, and what is
# handled is noted, without a unique key, by its handler. At the end each message
# was handled once, and no other; those of a key in their order; no money is lost,
# in the accounts or on its way; and nothing is left of any transaction.
#
# The seed fixes what is done, though not how the processes interleave.

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use DtxTest;
use DtxTest::Bystanders;
use DtxTest::Chaos;
use DtxTest::Messages;
use DtxTest::Modes;

my $seed = $ENV{SEED} || int(rand(2**31));
my $duration = $ENV{DURATION} || 20;
my $clients = 5;
my $consumers = 3;		# they come after the clients
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
max_worker_processes = 16
wal_writer_delay = '$delay'
dtx.message_segment_size = '64kB'
dtx.message_retention = '1s'
dtx.message_check_first = '500ms'
dtx.message_check_interval = '500ms'
CONF
my %bank = map { $_->{bank} => $_ } @banks;
# each sends to the one after it
my %next = map { $banks[$_]{bank} => $banks[ ($_ + 1) % 3 ]{bank} } 0 .. 2;
my $standby = make_sync_standby($banks[ int rand 3 ]);
my $total = money(@banks);
my $notes = PostgreSQL::Test::Utils::tempdir . '/notes';

my $many = 'max_attempts => 1000000';
foreach my $bank (@banks)
{
	my $name = $bank->{bank};
	define_messages($bank);
	$bank->safe_psql($name, <<"SQL");
ALTER TABLE published ADD PRIMARY KEY (id);
SELECT dtx_attach('published');
CREATE TABLE move_log (id text PRIMARY KEY, account text NOT NULL, delta numeric NOT NULL);
SELECT dtx_attach('move_log');
-- transfers by message
CREATE TABLE sent (id text PRIMARY KEY, account text NOT NULL, to_bank text NOT NULL, to_account text NOT NULL, amount numeric NOT NULL);
CREATE FUNCTION handle_or_not(id bigint, topic text, key text, payload jsonb, attempt integer) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
    INSERT INTO handled (id, topic, key, attempt) VALUES (id, topic, key, attempt);
    IF random() < 0.05 THEN
        RAISE EXCEPTION 'bad luck';
    ELSIF random() < 0.02 THEN
        PERFORM set_config('dtx.retry_after', '100ms', true);
        RAISE EXCEPTION 'not now';
    END IF;
END \$\$;
-- who has not committed a half message in time is not going to
CREATE FUNCTION give_up(id bigint) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT 'rollback'; END;
SELECT dtx_subscribe('plain.*', '$next{$name}', 'handle_or_not', name => 'plain', schedule => '{20ms,50ms}', $many);
SELECT dtx_subscribe('ordered.*', '$next{$name}', 'handle_or_not', name => 'ordered', ordered => true, schedule => '{20ms,50ms}', batch_size => 10, $many);
SELECT dtx_subscribe('local.*', NULL, 'handle_or_not', name => 'local', ordered => true, schedule => '{20ms,50ms}', $many);
SELECT dtx_subscribe('pull.*', NULL, NULL, name => 'pull', schedule => '{20ms,50ms}', $many);
SQL
}
# money that cannot arrive yet
foreach my $bank (@banks)
{
	my $name = $bank->{bank};
	$bank->safe_psql($name, <<"SQL");
SELECT dtx_transfer('$next{$name}', 'a1', 'nobody', 10, 'message');
INSERT INTO sent VALUES ('0-$name', 'a1', '$next{$name}', 'nobody', 10);
SQL
}

# --- transactions

my $number;				# of this client

# Each has a tag, which its rows bear. At a bank: statements, and the banks at
# which they leave rows: tag => tables.
sub publish_plain
{
	my ($tag, $name, $n) = @_;
	my $delayed = rand() < 0.3 ? sprintf(", deliver_at => now() + interval '%d ms'", int rand 2000) : '';
	return "SELECT count(publish('plain.$name', '{}', '$tag'$delayed)) FROM generate_series(1, $n)";
}

# What comes in the order in which this client commits has a key of its own.
sub publish_ordered
{
	my ($name) = @_;
	my $topic = pick(qw(ordered local));
	return "SELECT publish('$topic.$name', '{}', 'client $number key ' || i % 2) FROM generate_series(1, 1 + @{[int rand 4]}) i";
}

sub statements
{
	my ($tag, $a, $b) = @_;
	my ($from, $to) = (pick(@accounts), pick(@accounts));
	my $amount = 1 + int rand 20;
	my $log = sub { "INSERT INTO move_log VALUES ('$tag', '$_[0]', $_[1])" };
	my @message = ("SELECT dtx_transfer('$b', '$from', '$to', $amount, 'message')",
		"INSERT INTO sent VALUES ('$tag', '$from', '$b', '$to', $amount)");
	my $publish = publish_plain($tag, $a, 1 + int rand 20);
	my $publish_at_b = publish_plain($tag, $b, 1 + int rand 3);
	my $dice = rand;
	my @body;
	my %rows;			# at which banks, in which table

	if ($dice < 0.2)
	{
		@body = @message;
		%rows = ("$a sent" => 1);
	}
	elsif ($dice < 0.4)
	{
		@body = ("SELECT dtx_transfer('$b', '$from', '$to', $amount, '" . pick(qw(at xa tcc)) . q{')},
			$log->($from, -$amount), "SELECT dtx_exec('$b', \$\$" . $log->($to, $amount) . '$$)');
		%rows = ("$a move_log" => 1, "$b move_log" => 1);
		if (rand() < 0.5)
		{
			push @body, $publish;
			$rows{"$a published"} = 1;
		}
	}
	elsif ($dice < 0.65)
	{
		# in a branch, with or without messages of the coordinator
		my $at_b = "SELECT count(*) FROM dtx_query('$b', \$q\$$publish_at_b\$q\$) AS t(n bigint)";
		@body = ($at_b);
		%rows = ("$b published" => 1);
		if (rand() < 0.5)
		{
			push @body, $publish;
			$rows{"$a published"} = 1;
		}
		unshift @body, q{SELECT dtx_begin('xa')} if rand() < 0.5;
		if (rand() < 0.3)
		{
			push @body, @message;
			$rows{"$a sent"} = 1;
		}
		# at the peer and here, but for XA, which knows no savepoints
		push @body, 'SAVEPOINT s', $at_b, $publish, 'ROLLBACK TO s' if rand() < 0.2 && $body[0] !~ /xa/;
	}
	elsif ($dice < 0.85)
	{
		@body = ($publish);
		%rows = ("$a published" => 1);
		push @body, 'SAVEPOINT s', $publish, publish_ordered($a), 'ROLLBACK TO s' if rand() < 0.3;
		push @body, publish_ordered($a) if rand() < 0.3;
		push @body, "SELECT publish('pull.$a')";
	}
	else
	{
		@body = (publish_ordered($a), "SELECT count(publish('pull.$a')) FROM generate_series(1, 5)");
	}
	# what has no branches may be prepared
	return (\%rows, 'BEGIN', @body, "PREPARE TRANSACTION 'plain-$tag'", "COMMIT PREPARED 'plain-$tag'")
	  if join(',', keys %rows) =~ /^(\w+ published)?$/ && !grep({ /dtx_/ } @body) && rand() < 0.3;
	return (\%rows, 'BEGIN', @body, rand() < 0.15 ? 'ROLLBACK' : 'COMMIT');
}

# --- clients

my %sessions;

# A session, or undef while the cluster is down.
sub client_session
{
	my ($name) = @_;
	return $sessions{$name} if defined $sessions{$name};
	my $s = session($bank{$name}, application => "client $number", fail_ok => 1);
	usleep(20_000) unless defined $s;
	# opposite transfers wait for each other until this ends it
	$s->run('SET dtx.lock_timeout = ' . pick(30, 100, 300) . '; SET lock_timeout = 500') if defined $s;
	return $sessions{$name} = $s;
}

# Run a transaction at a bank. What its client knows is acknowledged, refused or
# unknown; then the error.
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
		my $unknown = $sql =~ /^COMMIT/ && ($r->{lost} || $r->{state} =~ /^(08|57P)/ || $sql ne 'COMMIT');
		delete $sessions{$name} if $r->{lost} || ($sql ne 'COMMIT' && !$s->run('ROLLBACK')->{ok});
		return ($unknown ? 'unknown' : 'refused', $error // 'lost connection');
	}
	return ($statements[-1] eq 'ROLLBACK' ? 'refused' : 'acknowledged', '');
}

# Prepare a message, and send it in another transaction, or give it up, or forget it.
sub half_message
{
	my ($tag, $name) = @_;
	my $s = client_session($name) // return ('refused', 'not connected');
	my $r = $s->run("SELECT dtx_message_prepare('plain.$name', '{}', '$tag', 'give_up(bigint)')");
	my $end = pick(qw(commit commit rollback nothing));
	if (!$r->{ok})
	{
		my ($error) = $r->{err} =~ /(?:ERROR|FATAL): +(.*)/;
		delete $sessions{$name} if $r->{lost};
		return ('refused', 'dtx_message_prepare: ' . ($error // 'lost connection'));
	}
	return ('refused', '') if $end eq 'nothing';
	my @note = $end eq 'commit' ? "INSERT INTO published VALUES ($r->{out}, 'plain.$name', '$tag')" : ();
	my ($seen, $error) = outcome($name, 'BEGIN', "SELECT dtx_message_$end($r->{out})", @note, 'COMMIT');
	return ($end eq 'commit' ? $seen : 'refused', $error);
}

sub client
{
	my ($until, $note) = @_;
	my $made = 0;

	while (time() < $until)
	{
		my $a = pick(@banks)->{bank};
		my $b = pick(grep { $_ ne $a } map { $_->{bank} } @banks);
		my $tag = "$number-" . ++$made;
		my ($rows, $seen, $error, @did);
		if (rand() < 0.1)
		{
			$rows = { "$a published" => 1 };
			@did = 'half message';
			($seen, $error) = half_message($tag, $a);
		}
		else
		{
			($rows, @did) = statements($tag, $a, $b);
			($seen, $error) = outcome($a, @did);
		}
		print $note join("\t", $tag, $seen, $error, join(',', sort keys %$rows), "$a: " . join '; ', @did) . "\n";
	}
	return;
}

# Fetches messages, and handles them, gives them back, or dies. What it handles and
# that it has done so commit together.
sub consumer
{
	my ($until, $note) = @_;
	while (time() < $until)
	{
		my $name = pick(@banks)->{bank};
		my $s = client_session($name) // next;
		my $r = $s->run(q{SELECT string_agg(id::text, ',') FROM dtx_receive('pull', 5, '1s')});
		delete $sessions{$name} if $r->{lost};
		next unless $r->{ok};
		if ($r->{out} eq '')
		{
			usleep(10_000);
			next;
		}
		my $ids = "'{$r->{out}}'";
		my $n = split /,/, $r->{out};
		my $dice = rand;
		my $did = 'dies';
		if ($dice < 0.1)
		{
			$sessions{$name}->close;
			delete $sessions{$name};
		}
		elsif ($dice < 0.2)
		{
			$did = 'gives back';
			$r = $s->run("SELECT dtx_nack('pull', $ids, '50ms')");
			delete $sessions{$name} if $r->{lost};
		}
		else
		{
			# it has lost those that it was too slow for
			($did) = outcome($name, 'BEGIN',
				"SELECT 1 / (dtx_ack('pull', $ids) = $n)::integer",
				"INSERT INTO handled (id, topic, attempt) SELECT unnest(CAST($ids AS bigint[])), 'pull.$name', 1", 'COMMIT');
		}
		print $note join("\t", 'consumer', $did, $r->{out}) . "\n";
	}
	return;
}

sub start_client
{
	my ($until) = @_;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	# the clusters belong to the parent: end without its END blocks
	eval {
		srand($seed + $number);
		open my $note, '>', "$notes.$number" or die "$notes.$number: $!";
		$note->autoflush(1);
		if ($number > $clients) { consumer($until, $note) }
		else { client($until, $note) }
		$_->close foreach grep { defined } values %sessions;
		1;
	} or do
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
foreach my $client (1 .. $clients + $consumers)
{
	$number = $client;
	push @pids, start_client($until);
}
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
# nobody commits these any more
foreach my $bank (@banks)
{
	value($bank, "ROLLBACK PREPARED '$_'")
	  foreach split /\n/, value($bank, q{SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'plain-%' AND database = current_database()});
}

# what consumers have left behind
sub fetch_the_rest
{
	foreach my $bank (@banks)
	{
		value($bank, <<"SQL");
WITH r AS MATERIALIZED (SELECT id FROM dtx_receive('pull', 1000, '10s')),
     h AS (INSERT INTO handled (id, topic, attempt) SELECT id, 'pull.$bank->{bank}', 1 FROM r)
SELECT dtx_ack('pull', array_agg(id)) FROM r HAVING count(*) > 0
SQL
	}
	return;
}

my $rest = <<'SQL';
SELECT concat_ws('; ',
    (SELECT string_agg(concat_ws(' ', name || ':', lag, 'in the log,', retrying, 'retrying,', waiting, 'waiting,', leased, 'leased', last_error), ', ')
     FROM dtx_subscriptions WHERE lag + retrying + waiting + leased > 0),
    (SELECT string_agg(concat_ws(' ', 'dead:', id, topic, payload, last_error), ', ') FROM dtx_dead_letters WHERE topic !~ '^dtx.transfer'),
    (SELECT count(*) || ' delayed' FROM dtx.delayed_message HAVING count(*) > 0),
    (SELECT count(*) || ' held' FROM dtx.held_message HAVING count(*) > 0),
    (SELECT count(*) || ' half' FROM dtx.half_message HAVING count(*) > 0))
SQL
my @left;
ok( wait_until(
		sub {
			fetch_the_rest();
			@left = map { my $l = value($_, $rest) // 'no answer'; $l eq '' ? () : "$_->{bank}: $l" } @banks;
			return @left == 0;
		},
		'all messages are delivered'),
	'all messages are delivered') or diag join "\n", @left;
ok(nothing_left(@banks), 'nothing is left of any transaction');

# --- messages

my (%seen, %rows, %text, %count, %errors);
foreach my $client (1 .. $clients + $consumers)
{
	foreach my $line (split /\n/, slurp_file("$notes.$client"))
	{
		my ($tag, $outcome, $error, $rows, $did) = split /\t/, $line;
		$count{ ($tag eq 'consumer' ? 'consumer ' : '') . $outcome }++;
		foreach my $kind ([ 'half', qr/half message/ ], [ 'transfer', qr/'message'/ ], [ 'branch', qr/dtx_query/ ], [ 'delayed', qr/deliver_at/ ],
			[ 'prepared', qr/PREPARE TRANSACTION/ ])
		{
			$count{"$outcome, $kind->[0]"}++ if ($did // '') =~ $kind->[1];
		}
		next if $tag eq 'consumer';
		($seen{$tag}, $rows{$tag}, $text{$tag}) = ($outcome, $rows, "$outcome $error: $did");
		# by kind: names and numbers do not matter
		$errors{ $error =~ s/"[^"]*"/.../gr =~ s!=\([^)]*\)!!gr }++ if $error;
	}
}
note 'transactions: ' . join ', ', map { "$_ $count{$_}" } sort keys %count;
note "$errors{$_} times: $_" foreach sort { $errors{$b} <=> $errors{$a} } keys %errors;
cmp_ok($count{acknowledged} // 0, '>', $duration, 'transactions were made');
foreach my $kind (qw(half transfer branch delayed prepared))
{
	cmp_ok($count{"acknowledged, $kind"} // 0, '>', 0, "some of the kind: $kind");
}
cmp_ok($count{'consumer acknowledged'} // 0, '>', 0, 'messages were fetched');

foreach my $bank (@banks)
{
	my $name = $bank->{bank};
	my $next = $bank{ $next{$name} };
	is(differences($bank, $next, "plain.$name"), '', "$name: messages were handled once at the next bank");
	is(differences($bank, $next, "ordered.$name"), '', "$name: ordered ones");
	is(differences($bank, $bank, "local.$name"), '', "$name: those of its own");
	is(differences($bank, $bank, "pull.$name"), '', "$name: those that were fetched");
	is(out_of_order($next, "ordered.$name"), '', "$name: in the order of their keys");
	is(out_of_order($bank, "local.$name"), '', "$name: here, too");
	cmp_ok(value($bank, q{SELECT count(DISTINCT topic) FROM published}), '==', 4, "$name: there were messages of each kind");
	is(value($bank, q{SELECT string_agg(DISTINCT topic, ' ') FROM handled
		WHERE topic !~ '^(plain|ordered|local|pull)\.bank[123]$'}), '', "$name: and of no other");
}

# --- transactions

my %there;
my @wrong;
foreach my $bank (@banks)
{
	foreach my $table ([ 'published', 'key', q{topic ~ '^plain'} ], [ 'move_log', 'id', 'true' ], [ 'sent', 'id', q{to_account <> 'nobody'} ])
	{
		my ($name, $column, $condition) = @$table;
		$there{$_}{"$bank->{bank} $name"} = 1
		  foreach split /\n/, value($bank, "SELECT DISTINCT $column FROM $name WHERE $condition");
	}
}
foreach my $tag (sort keys %seen)
{
	my $found = join ',', sort keys %{ $there{$tag} // {} };
	my $right = $rows{$tag} eq '' || ($found eq '' ? $seen{$tag} ne 'acknowledged' : $found eq $rows{$tag} && $seen{$tag} ne 'refused');
	push @wrong, "$tag: there is $found of $rows{$tag}: $text{$tag}" unless $right;
}
is(scalar @wrong, 0, 'acknowledged transactions are everywhere, refused ones nowhere')
  or diag join "\n", @wrong[ 0 .. ($#wrong < 20 ? $#wrong : 20) ];
is(join(' ', grep { !exists $seen{$_} } keys %there), '', 'there are no other transactions');

# --- money

my $in_flight = sub {
	my $sum = 0;
	$sum += value($_, 'SELECT coalesce(sum(amount), 0) FROM dtx_in_flight') foreach @banks;
	return $sum;
};
cmp_ok($in_flight->(), '>=', 30, 'some money has not arrived');
is(money(@banks) + $in_flight->(), $total, 'together with what has, it is what it was');
value($_, q{INSERT INTO account_info VALUES ('nobody', 'Somebody', 0)}) foreach @banks;
foreach my $bank (@banks)
{
	value($bank, q{SELECT sum(dtx_redeliver(name)) FROM dtx_subscriptions WHERE topic ~ '^dtx.transfer'});
}
ok(wait_until(sub { $in_flight->() == 0 }, 'the money arrives'), 'it arrives once it can');
is_all_over($total, 'at the end', @banks);
foreach my $bank (@banks)
{
	my $name = $bank->{bank};
	my %balances = (nobody => 0, map { $_ => $initial } @accounts);
	foreach my $other (@banks)
	{
		foreach my $line (split /\n/, value($other, 'SELECT account, to_bank, to_account, amount FROM sent'))
		{
			my ($account, $to, $to_account, $amount) = split /\|/, $line;
			$balances{$account} -= $amount if $other == $bank;
			$balances{$to_account} += $amount if $to eq $name;
		}
	}
	foreach my $line (split /\n/, value($bank, 'SELECT account, delta FROM move_log'))
	{
		my ($account, $delta) = split /\|/, $line;
		$balances{$account} += $delta;
	}
	my %actual = map { split /\|/ } split /\n/, value($bank, 'SELECT account_no, account_balance FROM account_info');
	is_deeply(\%actual, \%balances, "$name: every balance is what was moved");
	ok(wait_for_value($bank, 'SELECT count(*) FROM dtx.undelivered', '0'), "$name: nothing is undelivered");
	ok(wait_for_value($bank, 'SELECT count(*) < 40 FROM dtx.de_duplication', 't'), "$name: few batches are remembered");
	is(value($bank, "SELECT value FROM dtx_stats WHERE name = 'lost_branches'"), '0', "$name: no branch was lost");
	unlike(log_since($bank), qr/PANIC|TRAP:|terminated by signal (?!9\b)|could not (read|open) .*undo/,
		"$name: no process crashed by itself");
	my @internal = grep { /invisible tuple|tuple concurrently|not in the log any more|unexpected answer/ } split /\n/, log_since($bank);
	is(join("\n", @internal), '', "$name: no internal error");
}

# --- would it be noticed?

my $checks = sub { return differences($banks[0], $banks[1], 'ordered.bank1') };
value($banks[1], q{INSERT INTO handled (id, topic, key, attempt) SELECT id, topic, key, attempt FROM handled
	WHERE topic = 'ordered.bank1' AND seq = (SELECT max(seq) FROM handled WHERE topic = 'ordered.bank1')});
like($checks->(), qr/^1 not handled as often/, '(a message that is handled twice would be noticed)');
value($banks[1], q{DELETE FROM handled WHERE topic = 'ordered.bank1' AND id = (SELECT min(id) FROM handled WHERE topic = 'ordered.bank1')});
like($checks->(), qr/^1 not handled:/, '(so would one that is lost)');
value($banks[1], q{INSERT INTO handled (id, topic, key, attempt) SELECT 0, topic, key, attempt FROM handled
	WHERE topic = 'ordered.bank1' LIMIT 1});
like($checks->(), qr/1 never published: 0/, '(and one that was never published)');
isnt(out_of_order($banks[1], 'ordered.bank1'), '', '(or is not in its place)');

diag "SEED=$seed" unless Test::More->builder->is_passing;
done_testing();
