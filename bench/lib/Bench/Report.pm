# Report.pm: what was measured, as tables, as a list of goals, and as a plot.
package Bench::Report;

use strict;
use warnings;
use List::Util qw(max min);

my @CLIENTS = (1, 4, 16);
my @VARIANTS = qw(unsafe prepared dtx dtx_xa dtx_tcc unsafe_call dtx_call);
my %NAME = (
	unsafe      => 'unsafe',
	prepared    => '2PC by hand',
	dtx         => 'dtx AT',
	dtx_xa      => 'dtx XA',
	dtx_tcc     => 'dtx TCC',
	unsafe_call => 'unsafe, one call',
	dtx_call    => 'dtx_transfer',
	plain       => 'plain',
	attached    => 'attached',
	noop        => 'plain, as for a branch',
	branch      => 'inside a branch',
	jsonb       => 'PL/pgSQL trigger, jsonb',
	settle      => 'settling that branch',
	outbox      => 'outbox',
	pgq         => 'PgQ',
);

my @MESSAGES = qw(outbox pgq dtx);
my @RATES = (100, 1000);

# The goal of notifications a second is for a machine where the bare loop does as many as that
# on one connection; a slower machine's is so much less.
use constant { NOTIFY_GOAL => 10_000, NOTIFY_BARE => 14_400 };

# A session's memory is flat when it has grown by no more than this from 10 % on.
use constant FLAT_KB => 256;
# The tables of schema dtx are small when they all have no more pages than this.
use constant SMALL_PAGES => 2048;

sub new
{
	my ($class, $results) = @_;
	return bless { results => $results }, $class;
}

# How a part was measured, for its title.
sub medians_of
{
	my ($self, $part, $length) = @_;
	my ($runs, $seconds) = $self->{results}->all("setting/$part");

	return '' unless defined $runs;
	return ", medians of $runs interleaved runs" . ($length ? " of $seconds s" : '');
}

# ---- the tables: each a title, a header, rows, and a word on how to read it

sub tables
{
	my ($self) = @_;
	return grep { @{ $_->{rows} } } ($self->transfers, $self->ratios, $self->cpu, $self->flushes, $self->participants,
		$self->single_rows, $self->bulk, $self->snapshot, $self->memory, $self->own_tables, $self->publishing, $self->delivering,
		$self->latency, $self->message_snapshot, $self->message_tables, $self->notifying, $self->hanging, $self->beside_hanging);
}

sub with_spread
{
	my ($self, $name, $format) = @_;
	my @figures = $self->{results}->all($name);

	return '-' unless @figures;
	return sprintf("$format (%s to %s)", $self->{results}->median($name),
		sprintf($format, min @figures), sprintf($format, max @figures));
}

sub number
{
	my ($format, $value) = @_;
	return defined $value ? sprintf($format, $value) : '-';
}

sub transfers
{
	my ($self) = @_;
	my $results = $self->{results};
	my @rows;

	for my $variant (@VARIANTS)
	{
		next unless grep { $results->has("tps/$variant/$_") } @CLIENTS;
		push @rows, [ $NAME{$variant}, map({ $self->with_spread("tps/$variant/$_", '%.0f') } @CLIENTS),
			join(' / ', map { number('%.2f', $results->median("drain/$variant/$_")) } @CLIENTS) ];
	}
	return {
		title  => 'Transfers a second' . $self->medians_of('transfer', 1),
		header => [ 'variant', map({ $_ == 1 ? '1 client' : "$_ clients" } @CLIENTS), 'settled after, s' ],
		rows   => \@rows,
		note   => 'In brackets the least and the most. The first five send BEGIN, a local UPDATE, the remote statement, and COMMIT '
		  . '("dtx XA" a dtx_begin besides, and "2PC by hand" a COMMIT PREPARED); the other two one SELECT. "Settled after" is how long after the last commit '
		  . 'every branch was settled (1 / 4 / 16 clients); what it says of variants without dtx is how long asking takes.',
	};
}

sub ratios
{
	my ($self) = @_;
	my $results = $self->{results};
	my @rows;

	for my $pair ([ 'dtx', 'unsafe' ], [ 'dtx_tcc', 'unsafe' ], [ 'dtx_xa', 'unsafe' ], [ 'dtx', 'prepared' ],
		[ 'dtx_tcc', 'prepared' ], [ 'dtx_xa', 'prepared' ], [ 'unsafe', 'prepared' ], [ 'dtx_call', 'unsafe_call' ])
	{
		my @ratios = map { $results->ratio("tps/$pair->[0]/$_", "tps/$pair->[1]/$_") } @CLIENTS;

		push @rows, [ "$NAME{$pair->[0]} / $NAME{$pair->[1]}", map { number('%.2f', $_) } @ratios ]
		  if grep { defined } @ratios;
	}
	return {
		title  => 'Ratios of medians',
		header => [ 'of', map { $_ == 1 ? '1 client' : "$_ clients" } @CLIENTS ],
		rows   => \@rows,
	};
}

sub cpu
{
	my ($self) = @_;
	my $results = $self->{results};

	return {
		title  => 'CPU time of both servers a transfer, microseconds',
		header => [ 'variant', map { $_ == 1 ? '1 client' : "$_ clients" } @CLIENTS ],
		rows   => [
			map { my $variant = $_; [ $NAME{$variant}, map { number('%.0f', $results->median("cpu/$variant/$_")) } @CLIENTS ] }
			grep { my $variant = $_; grep { $results->has("cpu/$variant/$_") } @CLIENTS }
			@VARIANTS
		],
		note => 'All processes of both servers, from the first transfer until every branch is settled; the clients not.',
	};
}

sub flushes
{
	my ($self) = @_;
	my $results = $self->{results};

	return {
		title  => 'WAL flushes a transfer, one client',
		header => [ 'variant', 'coordinator', 'participant' ],
		rows   => [
			map { [ $NAME{$_}, map { number('%.3f', $_) } $results->median("flushes/$_/bank1"), $results->median("flushes/$_/bank2") ] }
			grep { $results->has("flushes/$_/bank1") } @VARIANTS
		],
		note => 'Everything that the servers flush while the transfers run and are settled, background processes included.',
	};
}

sub participants
{
	my ($self) = @_;
	my $results = $self->{results};
	my @rows;

	for my $mode (qw(xa at))
	{
		my @names = map { "participants/$mode/$_" } 1, 2, 4;

		push @rows, [ 'dtx ' . uc $mode, map({ $self->with_spread($_, '%.3f') } @names),
			map { number('%.2f', $results->ratio($_, $names[0])) } @names[ 1, 2 ] ]
		  if grep { $results->has($_) } @names;
	}
	return {
		title  => 'One transaction with several participants, one client, ms' . $self->medians_of('participants', 1),
		header => [ 'mode', '1', '2', '4', '2 / 1', '4 / 1' ],
		rows   => \@rows,
		note   => 'BEGIN, dtx_begin, a local UPDATE, a dtx_exec for each participant, one after the other, and COMMIT. '
		  . 'The participants are databases of one cluster.',
	};
}

sub single_rows
{
	my ($self) = @_;
	my $results = $self->{results};
	my %to = (attached => 'plain', branch => 'noop');

	return {
		title  => 'Capture: single rows by key, 4 clients' . $self->medians_of('capture', 1),
		header => [ 'table', 'updates a second', 'ratio' ],
		rows   => [
			map { [ $NAME{$_}, $self->with_spread("row/$_", '%.0f'),
				$to{$_} ? number('%.3f', $results->ratio("row/$_", "row/$to{$_}")) : '' ] }
			grep { $results->has("row/$_") } qw(plain attached noop branch)
		],
		note => '"Attached" is to be compared with "plain", and "inside a branch" with "plain, as for a branch": '
		  . 'BEGIN, a SELECT (there a function that does nothing, here the join), the UPDATE, COMMIT.',
	};
}

sub bulk
{
	my ($self) = @_;
	my $results = $self->{results};

	return {
		title  => 'Capture: one UPDATE of 100,000 rows' . $self->medians_of('capture', 0),
		header => [ 'table', 'ms', 'times plain' ],
		rows   => [
			map { [ $NAME{$_}, $self->with_spread("bulk/$_", '%.0f'), number('%.2f', $results->ratio("bulk/$_", 'bulk/plain')) ] }
			grep { $results->has("bulk/$_") } qw(plain attached branch jsonb settle)
		],
	};
}

sub snapshot
{
	my ($self) = @_;
	my $results = $self->{results};
	my ($part)  = $results->all('snapshot/part');
	my @rows;

	for my $key (qw(dtx/free dtx/held unsafe/free unsafe/held))
	{
		my @tps = $results->all("snapshot/$key") or next;
		my ($variant, $held) = split m{/}, $key;

		push @rows, [ $NAME{$variant}, $held eq 'held' ? 'held' : '-', map({ sprintf '%.0f', $_ } @tps),
			sprintf('%.2f', $tps[-1] / $tps[0]) ];
		my @cpu = $results->all("snapshot/$key/cpu") or next;
		push @rows, [ "$NAME{$variant}, CPU", $held eq 'held' ? 'held' : '-', map({ sprintf '%.0f', $_ } @cpu),
			sprintf('%.2f', $cpu[-1] / $cpu[0]) ];
	}
	return {
		title  => 'A snapshot held open on both sides, 4 clients',
		header => [ 'variant', 'snapshot', map({ $part ? sprintf('to %d s', $_ * $part) : '' } 1 .. 6), 'last / first' ],
		rows   => \@rows,
		note   => 'Transfers a second, and CPU time of both servers a transfer, microseconds. What the accounts themselves lose, because their old versions cannot be '
		  . 'removed either, is in the rows of "unsafe".',
	};
}

sub memory
{
	my ($self) = @_;
	my $results = $self->{results};
	my ($total) = $results->all('memory/transactions');
	my (%line, @order);

	for my $name (grep { m{^memory/bank} } $results->names)
	{
		my (undef, $bank, $what, $point) = split m{/}, $name;

		push @order, [ $bank, $what ] unless $line{"$bank/$what"};
		$line{"$bank/$what"}{$point} = $results->median($name);
	}
	return {
		title  => 'Private memory over ' . ($total || 0) . ' global transactions of one session, kB',
		header => [ 'process', 'at', '10 %', '50 %', '100 %' ],
		rows   => [
			map { my ($bank, $what) = @$_;
				[ $what, side($bank), map { number('%d', $line{"$bank/$what"}{$_}) } 10, 50, 100 ] } @order
		],
	};
}

sub own_tables
{
	my ($self) = @_;
	my $results = $self->{results};
	my @rows;

	for my $name (grep { m{^tables/.*/end$} } $results->names)
	{
		my (undef, $bank, $table) = split m{/}, $name;
		my @end = $results->all($name);
		my $pages = sub { my @f = $results->all("tables/$bank/$table/$_[0]"); @f ? $f[1] + $f[2] : '-' };

		push @rows, [ "dtx.$table", side($bank), $end[0], $end[1], $end[2], map { $pages->($_) } 10, 50, 100 ];
	}
	return {
		title  => 'Tables of schema dtx, after the same',
		header => [ 'table', 'at', 'rows', 'pages', 'of indexes, TOAST', 'all at 10 %', 'at 50 %', 'at 100 %' ],
		rows   => \@rows,
		note   => 'Rows and pages when everything was settled; then all pages of a table while the session was at work.',
	};
}

# ---- the part messages

sub message_variants
{
	my ($self, $what) = @_;
	return grep { my $v = $_; grep { m{^messages/$what/$v(/|$)} } $self->{results}->names } @MESSAGES;
}

sub message_name { return $_[0] eq 'dtx' ? 'dtx' : $NAME{ $_[0] } }

# What to say where a variant could not be measured.
sub without_pgq
{
	my ($self) = @_;
	my ($pgq) = $self->{results}->all('messages/pgq');

	return defined $pgq && !$pgq ? ' PgQ (postgresql-15-pgq3, pgqd) was not installed.' : '';
}

sub publishing
{
	my ($self) = @_;
	my $results = $self->{results};
	my ($bulk_of) = $results->all('messages/bulk_of');
	my @rows;

	for my $variant ($self->message_variants('publish'))
	{
		push @rows, [ message_name($variant), map({ $self->with_spread("messages/publish/$variant/$_", '%.0f') } @CLIENTS),
			$self->with_spread("messages/bulk/$variant", '%.0f') ];
		next if $variant eq 'outbox';
		push @rows, [ message_name($variant) . ' / outbox',
			map({ number('%.2f', $results->ratio("messages/publish/$variant/$_", "messages/publish/outbox/$_")) } @CLIENTS),
			number('%.2f', $results->ratio("messages/bulk/$variant", 'messages/bulk/outbox')) ];
	}
	return {
		title  => 'Messages published a second' . $self->medians_of('messages', 1),
		header => [ 'variant', map({ $_ == 1 ? '1 client' : "$_ clients" } @CLIENTS), sprintf('%d in one statement', $bulk_of || 0) ],
		rows   => \@rows,
		note   => 'One message a transaction, prepared statements, nobody consumes. The outbox is a table with a bigserial primary key, and the statement '
		  . 'an INSERT; dtx_publish and pgq.insert_event are called in a SELECT.' . $self->without_pgq,
	};
}

sub delivering
{
	my ($self) = @_;
	my $results = $self->{results};
	my @rows;

	for my $variant ($self->message_variants('drain'))
	{
		push @rows, [ message_name($variant), map { my $what = $_;
			$self->with_spread("messages/$what/$variant", '%.0f'), number('%.0f', $results->median("messages/${what}_cpu/$variant")) } qw(drain flow) ];
		next if $variant eq 'dtx';
		push @rows, [ 'dtx / ' . message_name($variant), map { my $what = $_;
			number('%.2f', $results->ratio("messages/$what/dtx", "messages/$what/$variant")),
			number('%.2f', $results->ratio("messages/${what}_cpu/dtx", "messages/${what}_cpu/$variant")) } qw(drain flow) ]
		  if $results->has("messages/drain/dtx");
	}
	return {
		title  => 'Messages delivered a second, and CPU time of both servers for each, microseconds' . $self->medians_of('messages', 0),
		header => [ 'variant', 'a backlog', 'CPU', '4 producers', 'CPU' ],
		rows   => \@rows,
		note   => 'From bank1 until they are handled once at bank2, by the same function for each message, in calls of up to 500. A backlog is read, sent and handled; '
		  . 'with producers at full speed it counts from the first message until the last is handled. PgQ and the outbox (DELETE ... FOR UPDATE SKIP LOCKED) '
		  . 'send a batch in one call over dblink, and a unique key at the receiver tells what came twice; they commit asynchronously at bank1, as that allows.',
	};
}

sub latency
{
	my ($self) = @_;
	my @names = map { my $rate = $_; map { "$rate/$_" } qw(p50 p99 max) } @RATES;

	return {
		title  => 'Milliseconds until a message is handled' . $self->medians_of('messages', 1),
		header => [ 'variant', map { my $rate = $_; ("$rate/s: p50", 'p99', 'most') } @RATES ],
		rows   => [
			map { my $variant = $_; [ message_name($variant), map { number('%.2f', $self->{results}->median("messages/latency/$variant/$_")) } @names ] }
			$self->message_variants('latency')
		],
		note => 'From clock_timestamp() in the statement that publishes, which is a transaction of its own, to clock_timestamp() in the handler: the flush '
		  . 'of that commit is in it. The consumer of the outbox sleeps 1 ms when there is nothing; PgQ\'s ticker runs every 10 ms.',
	};
}

sub message_snapshot
{
	my ($self) = @_;
	my $results = $self->{results};
	my ($seconds) = $results->all('messages/snapshot_seconds');

	return {
		title  => sprintf('Messages a second with a snapshot held open on both sides, 4 producers for %d s', $seconds || 0),
		header => [ 'variant', 'none held', 'held', 'held / none' ],
		rows   => [
			map { [ 'dtx', map({ number('%.0f', $results->median("messages/snapshot/$_")) } qw(free held)),
				number('%.2f', $results->ratio('messages/snapshot/held', 'messages/snapshot/free')) ] }
			grep { $results->has('messages/snapshot/held') } 1
		],
	};
}

sub message_tables
{
	my ($self) = @_;
	my $results = $self->{results};
	my ($published) = $results->all('messages/published');
	my ($delivered) = $results->all('messages/delivered');
	my @rows;

	for my $name (grep { m{^messages/tables/} } $results->names)
	{
		my (undef, undef, $bank, $table) = split m{/}, $name;
		my ($rows, $heap, $rest) = $results->all($name);

		push @rows, [ "dtx.$table", $bank eq 'bank1' ? 'sender' : 'receiver', $rows, $heap, $rest ] if $rows > 0 || $heap > 0;
	}
	return {
		title  => sprintf('Tables of schema dtx after %d messages, of which %d were for a subscription', $published || 0, $delivered || 0),
		header => [ 'table', 'at', 'rows', 'pages', 'of indexes, TOAST' ],
		rows   => \@rows,
		note   => 'dtx.message is the log with all its segments, which are kept for dtx.message_retention. Tables without a row or a page of their own are left out.',
	};
}

# ---- the part notify

my %NOTIFY = (
	'bare/1'     => 'bare loop, 1 connection',
	'bare/32'    => 'bare loop, 32 connections',
	backlog      => 'dtx, a backlog',
	flow         => 'dtx, 4 producers',
	producers    => 'the producers alone',
	nothing      => 'nothing',
	alive        => 'ten that are alive, too',
	hanging      => 'ten that hang',
	notification => 'notification delivered',
	message      => 'message handled',
	transfer     => 'transfer settled',
);

sub notifying
{
	my ($self) = @_;
	my $results = $self->{results};
	my ($count) = $results->all('notify/notifications');

	return {
		title  => sprintf('Notifications by HTTP a second, %d to one endpoint', $count || 0) . $self->medians_of('notify', 0),
		header => [ 'variant', 'a second', '/ bare, 1', '/ bare, 32', 'CPU, microseconds' ],
		rows   => [
			map { my $name = $_; [ $NOTIFY{$name}, $self->with_spread("notify/rate/$name", '%.0f'),
				map({ number('%.2f', $results->ratio("notify/rate/$name", "notify/rate/bare/$_")) } 1, 32),
				number('%.0f', $results->median("notify/cpu/$name")) ] }
			grep { $results->has("notify/rate/$_") } qw(bare/1 bare/32 backlog flow producers)
		],
		note => 'To an nginx with one process that answers 204. The bare loop is libcurl\'s multi interface with the same body and headers, which are constant: '
		  . 'it signs, reads and records nothing. dtx counts each attempt durably before it makes it, signs it, and records durably what came of it. A backlog '
		  . 'counts from dtx_target_enable until all is recorded; with producers at full speed, one dtx_notify a transaction, it counts from the first until the last '
		  . 'is recorded. The producers alone notify an endpoint that is stopped. CPU time is the loop\'s process or the worker\'s, for each.',
	};
}

sub hanging
{
	my ($self) = @_;
	my $results = $self->{results};
	my ($count) = $results->all('notify/living_of');

	return {
		title  => sprintf('Seconds until %d notifications to 90 endpoints are delivered', $count || 0) . $self->medians_of('notify', 0),
		header => [ 'beside them', 's', '/ nothing', 'attempts that failed' ],
		rows   => [
			map { [ $NOTIFY{$_}, $self->with_spread("notify/living/$_", '%.2f'), number('%.2f', $results->ratio("notify/living/$_", 'notify/living/nothing')),
				number('%d', $results->median("notify/living_more/$_")) ] }
			grep { $results->has("notify/living/$_") } qw(nothing alive hanging)
		],
		note => 'All are due at once, as many for each endpoint, and for the ten others as many, too. Those that hang accept a connection and never answer; '
		  . 'they have a timeout of 1 s. Attempts that failed are those at the 90.',
	};
}

sub beside_hanging
{
	my ($self) = @_;
	my $results = $self->{results};
	my @rows;

	for my $what (qw(notification message transfer))
	{
		my @names = map { my $beside = $_; map { "notify/beside/$beside/$what/$_" } qw(p50 p99 max) } qw(nothing hanging);

		push @rows, [ $NOTIFY{$what}, map({ number('%.2f', $results->median($_)) } @names),
			number('%.2f', $results->ratio($names[3], $names[0])), number('%.2f', $results->ratio($names[4], $names[1])) ]
		  if $results->has($names[0]);
	}
	return {
		title  => 'Milliseconds beside ten endpoints that hang' . $self->medians_of('notify', 1),
		header => [ '', 'without: p50', 'p99', 'most', 'hanging: p50', 'p99', 'most', 'p50 ratio', 'p99 ratio' ],
		rows   => \@rows,
		note   => 'All three at once: 100 notifications a second to an endpoint that answers, until they are recorded; 100 messages a second, until they are handled; '
		  . 'and transfers to bank2 one after the other, 20 ms apart, from the commit until dtx_wait says that they are settled.',
	};
}

sub side { return $_[0] eq 'bank1' ? 'coordinator' : 'participant' }

# ---- the goals: [what, figure, relation, bound, format, remark]

sub goals
{
	my ($self) = @_;
	my $results = $self->{results};
	my @goals;
	my $tps = sub { my ($of, $to, $clients, $least) = @_;
		push @goals, [ "$NAME{$of} / $NAME{$to}, $clients client" . ($clients > 1 ? 's' : ''),
			$results->ratio("tps/$of/$clients", "tps/$to/$clients"), '>=', $least, '%.2f',
			$to eq 'prepared' ? $self->out_of_reach($clients, $least) : '' ] };

	$tps->('dtx', 'unsafe', $_, 0.90) for @CLIENTS;
	$tps->('dtx', 'prepared', $_, $_ == 16 ? 1.75 : 1.6) for @CLIENTS;
	$tps->('dtx_xa', 'prepared', $_, 1.4) for @CLIENTS;
	$tps->('dtx_tcc', 'unsafe', $_, 0.75) for @CLIENTS;
	$tps->('dtx_call', 'unsafe_call', $_, 0.85) for @CLIENTS;
	push @goals, [ 'XA with 4 participants / with 1, time', $results->ratio('participants/xa/4', 'participants/xa/1'),
		'<=', 2, '%.2f' ];
	push @goals, [ 'WAL flushes a transfer, ' . side($_), $results->median("flushes/dtx/$_"), '<=', 1.02, '%.3f' ]
	  for qw(bank1 bank2);
	push @goals, [ 'single rows, attached / plain', $results->ratio('row/attached', 'row/plain'), '>=', 0.97, '%.3f' ],
	  [ 'single rows, inside a branch / plain', $results->ratio('row/branch', 'row/noop'), '>=', 0.90, '%.3f' ],
	  [ '100,000 rows, attached / plain, time', $results->ratio('bulk/attached', 'bulk/plain'), '<=', 1.4, '%.2f' ],
	  [ '100,000 rows, inside a branch / plain, time', $results->ratio('bulk/branch', 'bulk/plain'), '<=', 2.0, '%.2f' ];
	my @held = $results->all('snapshot/dtx/held');
	my ($part) = $results->all('snapshot/part');
	push @goals, [ sprintf('snapshot held for %d s, last / first part', ($part || 0) * @held), @held ? $held[-1] / $held[0] : undef, '>=', 0.80, '%.2f' ];
	my ($early, $late) = map { $results->median("memory/bank1/session pgbench/$_") } 10, 100;
	push @goals, [ 'growth of the session from 10 % to 100 %, kB',
		defined $early && defined $late ? $late - $early : undef, '<=', FLAT_KB, '%d' ];
	for my $bank (qw(bank1 bank2))
	{
		my @left = map { ($results->all("tables/$bank/$_/end"))[0] } qw(branch joined_branch undo_log);

		push @goals, [ 'rows left in branch, joined_branch, undo_log, ' . side($bank),
			@left == 3 ? $left[0] + $left[1] + $left[2] : undef, '<=', 0, '%d' ];
		push @goals, [ 'pages of schema dtx, ' . side($bank),
			max(grep { defined } map { $results->median("pages/$bank/$_") } 10, 50, 100, 'end'), '<=', SMALL_PAGES, '%d' ];
	}
	push @goals, [ "publishing, dtx / outbox, $_ client" . ($_ > 1 ? 's' : ''),
		$results->ratio("messages/publish/dtx/$_", "messages/publish/outbox/$_"), '>=', 0.90, '%.2f' ]
	  for @CLIENTS;
	push @goals, [ 'publishing in one statement, dtx / outbox', $results->ratio('messages/bulk/dtx', 'messages/bulk/outbox'), '>=', 0.50, '%.2f' ];
	push @goals, [ "draining a backlog, dtx / $NAME{$_}", $results->ratio('messages/drain/dtx', "messages/drain/$_"), '>=', 1.3, '%.2f' ]
	  for qw(pgq outbox);
	my ($best) = sort { $b->[0] <=> $a->[0] } map { [ $results->median("messages/flow/$_") // 0, $_ ] } qw(pgq outbox);
	push @goals, [ "4 producers, dtx / the better of the two ($NAME{$best->[1]})", $results->ratio('messages/flow/dtx', "messages/flow/$best->[1]"),
		'>=', 1.1, '%.2f' ];
	push @goals, [ "latency at 1,000 messages/s, p$_->[0], ms", $results->median("messages/latency/dtx/1000/p$_->[0]"), '<=', $_->[1], '%.2f' ]
	  for [ 50, 1 ], [ 99, 3 ];
	my ($seconds) = $results->all('messages/snapshot_seconds');
	push @goals, [ sprintf('messages, snapshot held for %d s / none', $seconds || 0), $results->ratio('messages/snapshot/held', 'messages/snapshot/free'),
		'>=', 0.90, '%.2f' ];
	push @goals, $self->notify_goals;
	return grep { defined $_->[1] } @goals;
}

# What is sent, is sent from what waits for an endpoint, and beside those who notify. On a machine
# where the bare loop is slower, the goal that counts is less by as much: both are shown. And
# nothing is delivered faster than the producers make it.
sub notify_goals
{
	my ($self) = @_;
	my $results = $self->{results};
	my $bare = $results->median('notify/rate/bare/1') // NOTIFY_BARE;
	my $producers = $results->median('notify/rate/producers');
	my $scaled = sprintf '%.0f', NOTIFY_GOAL / NOTIFY_BARE * $bare;
	my @goals;

	foreach my $variant (qw(backlog flow))
	{
		my $rate  = $results->median("notify/rate/$variant");
		my $reach = sub { my ($least) = @_;
			return $variant eq 'flow' && defined $producers && $producers < $least
			  ? sprintf('out of reach here: the producers alone make %.0f', $producers) : '' };
		my $what = $variant eq 'flow' ? '4 producers' : 'a backlog';

		push @goals, [ "notifications a second, $what", $rate, '>=', NOTIFY_GOAL, '%.0f', $reach->(NOTIFY_GOAL) ||
			($bare >= NOTIFY_BARE ? '' : sprintf('the bare loop on 1 connection does %.0f here, not %d', $bare, NOTIFY_BARE)) ];
		push @goals, [ 'the same, scaled by the bare loop', $rate, '>=', $scaled, '%.0f',
			$reach->($scaled) || sprintf('%d x %.0f / %d', NOTIFY_GOAL, $bare, NOTIFY_BARE) ]
		  if $bare < NOTIFY_BARE;
	}
	push @goals, [ 'notifications to 90 endpoints, 10 hang / nothing else, time', $results->ratio('notify/living/hanging', 'notify/living/nothing'),
		'<=', 1.2, '%.2f' ],
	  [ 'of these, attempts that failed', $results->median('notify/living_more/hanging'), '<=', 0, '%d' ];
	return @goals;
}

# Without atomicity it would be no faster: then nothing that is atomic can reach the goal here.
sub out_of_reach
{
	my ($self, $clients, $least) = @_;
	my $floor = $self->{results}->ratio("tps/unsafe/$clients", "tps/prepared/$clients");

	return defined $floor && $floor < $least ? sprintf('out of reach here: unsafe / 2PC by hand is %.2f', $floor) : '';
}

sub goal_table
{
	my ($self) = @_;
	my @goals = $self->goals;
	my $met = 0;
	my @rows;

	for my $goal (@goals)
	{
		my ($what, $figure, $relation, $bound, $format, $remark) = @$goal;
		my $ok = $relation eq '>=' ? $figure >= $bound : $figure <= $bound;

		$met += $ok;
		push @rows, [ $what, sprintf($format, $figure), "$relation $bound", $ok ? 'met' : 'NOT MET', $remark // '' ];
	}
	my $remarks = grep { $_->[4] ne '' } @rows;
	return {
		title  => sprintf('Goals: %d of %d met', $met, scalar @goals),
		header => [ 'goal', 'figure', 'wanted', '', $remarks ? 'remark' : () ],
		rows   => [ map { [ @$_[ 0 .. 3 + ($remarks > 0) ] ] } @rows ],
	};
}

# ---- text and Markdown

sub machine
{
	my ($self) = @_;
	my $results = $self->{results};
	my ($postgresql, $cpu, $cores, $date) =
	  map { ($results->all("machine/$_"))[0] // '?' } qw(postgresql cpu cores date);
	my @flush = map { $results->all($_) } grep { m{^flush/} } $results->names;
	my $flush = !@flush ? '?' : min(@flush) == max(@flush) ? $flush[0] : min(@flush) . ' to ' . max(@flush);

	$postgresql =~ s/ .*//;
	return "PostgreSQL $postgresql, two clusters and all clients on one machine: $cpu, $cores cores, "
	  . "a write of 8 kB with fsync takes $flush ms. $date.";
}

sub aligned
{
	my ($table, $left, $between, $right, $rule) = @_;
	my @lines = ($table->{header}, @{ $table->{rows} });
	my @width = map { my $column = $_; max map { length($_->[$column] // '') } @lines } 0 .. $#{ $table->{header} };
	my @text;

	for my $line (@lines)
	{
		push @text, $left . join($between, map {
			my $cell = $line->[$_] // '';
			$_ == 0 ? sprintf("%-*s", $width[$_], $cell) : sprintf("%*s", $width[$_], $cell)
		} 0 .. $#width) . $right;
		push @text, $rule->(\@width) if @text == 1;
	}
	return join("\n", @text) . "\n";
}

sub text
{
	my ($self) = @_;
	my $text = wrapped($self->machine) . "\n";

	for my $table ($self->tables, $self->goal_table)
	{
		$text .= "\n$table->{title}\n\n" . aligned($table, '  ', '   ', '', sub { '  ' . join('   ', map { '-' x $_ } @{ $_[0] }) });
		$text .= "\n" . wrapped("  $table->{note}") . "\n" if $table->{note};
	}
	$text =~ s/ +$//mg;
	return $text;
}

sub wrapped
{
	my ($text) = @_;
	my ($indent) = $text =~ /^( *)/;

	$text =~ s/(\S.{0,95})(?: +|$)/$1\n$indent/g;
	$text =~ s/\s+$//;
	return $text;
}

sub markdown
{
	my ($self) = @_;
	my $text = "# dtx, measured\n\nMade by `make bench`. " . $self->machine . "\n\n![transfers a second](results.svg)\n";

	for my $table ($self->goal_table, $self->tables)
	{
		$text .= "\n## $table->{title}\n\n" . aligned($table, '| ', ' | ', ' |',
			sub { my ($first, @rest) = @{ $_[0] }; '| ' . join(' | ', '-' x max(3, $first), map { '-' x max(2, $_ - 1) . ':' } @rest) . ' |' });
		$text .= "\n$table->{note}\n" if $table->{note};
	}
	return $text;
}

# ---- the plot

my %COLOR = (
	unsafe => '#9aa5b1', prepared => '#d98b5f', dtx => '#2f6fb0', dtx_xa => '#3f8f6b', dtx_tcc => '#8a5fb0', unsafe_call => '#c3cad2', dtx_call => '#7fb0de');

sub svg
{
	my ($self) = @_;
	my @part = ($self->transfer_plot(60, 50, 800, 300), $self->snapshot_plot(60, 440, 800, 160));
	my $height = grep({ /class="snapshot"/ } @part) ? 660 : 420;

	return qq{<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 $height" width="900" height="$height"}
	  . qq{ font-family="sans-serif" font-size="12" fill="#222">\n}
	  . qq{<rect width="900" height="$height" fill="#fff"/>\n}
	  . join('', map { "$_\n" } @part) . "</svg>\n";
}

# A round number of steps that reaches over the greatest figure.
sub axis
{
	my ($most) = @_;
	my $step = 10 ** int(log($most || 1) / log(10));

	$step /= $step * 2 > $most ? 5 : $step * 5 > $most ? 2 : 1;
	return map { $_ * $step } 0 .. int($most / $step) + 1;
}

sub frame
{
	my ($x, $y, $width, $height, $title, @ticks) = @_;
	my @part = (qq{<text x="$x" y="@{[ $y - 24 ]}" font-size="15">$title</text>});

	for my $tick (@ticks)
	{
		my $at = sprintf '%.1f', $y + $height * (1 - $tick / $ticks[-1]);

		push @part, qq{<line x1="$x" y1="$at" x2="@{[ $x + $width ]}" y2="$at" stroke="#e4e7eb"/>},
		  qq{<text x="@{[ $x - 6 ]}" y="@{[ $at + 4 ]}" text-anchor="end">$tick</text>};
	}
	return @part;
}

# Bars of the medians, with a dot for each run.
sub transfer_plot
{
	my ($self, $x, $y, $width, $height) = @_;
	my $results  = $self->{results};
	my @variants = grep { my $v = $_; grep { $results->has("tps/$v/$_") } @CLIENTS } @VARIANTS;

	return () unless @variants;
	my @ticks = axis(max map { my $v = $_; map { $results->all("tps/$v/$_") } @CLIENTS } @variants);
	my @part  = frame($x, $y, $width, $height, 'Transfers a second (median of the runs; each run a dot)', @ticks);
	my $group = $width / @CLIENTS;
	my $bar   = $group * 0.84 / @variants;

	for my $g (0 .. $#CLIENTS)
	{
		for my $v (0 .. $#variants)
		{
			my $name = "tps/$variants[$v]/$CLIENTS[$g]";
			my $median = $results->median($name) // next;
			my $left = $x + $group * ($g + 0.08) + $bar * $v;
			my $top  = $y + $height * (1 - $median / $ticks[-1]);

			push @part, sprintf('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>',
				$left, $top, $bar - 3, $y + $height - $top, $COLOR{ $variants[$v] });
			push @part, sprintf('<circle cx="%.1f" cy="%.1f" r="2" fill="#222" fill-opacity="0.6"/>',
				$left + $bar / 2 - 1.5, $y + $height * (1 - $_ / $ticks[-1])) for $results->all($name);
			push @part, sprintf('<text x="%.1f" y="%.1f" text-anchor="middle" font-size="11">%.0f</text>',
				$left + $bar / 2 - 1.5, $y + $height * (1 - max($results->all($name)) / $ticks[-1]) - 6, $median);
		}
		push @part, sprintf('<text x="%.1f" y="%.1f" text-anchor="middle">%s</text>', $x + $group * ($g + 0.5),
			$y + $height + 18, $CLIENTS[$g] == 1 ? '1 client' : "$CLIENTS[$g] clients");
	}
	push @part, legend($x, $y + $height + 40, map { [ $NAME{$_}, $COLOR{$_} ] } @variants);
	return @part;
}

sub legend
{
	my ($x, $y, @entries) = @_;
	my @part;

	for my $entry (@entries)
	{
		push @part, qq{<rect x="$x" y="@{[ $y - 10 ]}" width="12" height="12" fill="$entry->[1]"/>},
		  qq{<text x="@{[ $x + 17 ]}" y="$y">$entry->[0]</text>};
		$x += 40 + 7 * length $entry->[0];
	}
	return @part;
}

# Lines over time; dashed without the snapshot.
sub snapshot_plot
{
	my ($self, $x, $y, $width, $height) = @_;
	my $results = $self->{results};
	my @keys = grep { $results->has("snapshot/$_") } qw(unsafe/free unsafe/held dtx/free dtx/held);
	my ($part) = $results->all('snapshot/part');

	return () unless @keys;
	my @ticks = axis(max map { $results->all("snapshot/$_") } @keys);
	my @parts = (qq{<g class="snapshot">},
		frame($x, $y, $width, $height, 'A snapshot held open on both sides: transfers a second, 4 clients (dashed: none held)', @ticks));

	for my $key (@keys)
	{
		my @tps = $results->all("snapshot/$key");
		my ($variant, $held) = split m{/}, $key;
		my $at = sub { $x + $width * ($_[0] + 0.5) / @tps };

		push @parts, sprintf('<polyline fill="none" stroke="%s" stroke-width="2"%s points="%s"/>', $COLOR{$variant},
			$held eq 'held' ? '' : ' stroke-dasharray="5 4"',
			join(' ', map { sprintf '%.1f,%.1f', $at->($_), $y + $height * (1 - $tps[$_] / $ticks[-1]) } 0 .. $#tps));
	}
	push @parts, map({ sprintf '<text x="%.1f" y="%.1f" text-anchor="middle">to %d s</text>',
		$x + $width * ($_ + 0.5) / 6, $y + $height + 18, ($_ + 1) * $part } 0 .. 5),
	  legend($x, $y + $height + 40, [ $NAME{unsafe}, $COLOR{unsafe} ], [ $NAME{dtx}, $COLOR{dtx} ]), '</g>';
	return @parts;
}

1;
