
=pod

=head1 NAME

DtxTest::Messages - who published what, who handled what, and what must be true of both

=head1 DESCRIPTION

Everything that is published is noted in table published, in the transaction that
publishes it. Everything that is handled is noted in table handled, which has no
unique key: what is handled twice is there twice. Topics are not shared by
subscriptions here, so a message is to be handled once.

=cut

package DtxTest::Messages;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

our @EXPORT = qw(
  define_messages
  differences
  out_of_order
  undelivered
  handled_once
  few_rows_left
);

# The tables, and handlers. A payload {"fail": n} fails at the first n attempts;
# {"sleep": s} takes that time.
sub define_messages
{
	my ($bank, $database) = @_;
	$bank->safe_psql($database // $bank->{bank}, <<'SQL');
CREATE TABLE published (id bigint NOT NULL, topic text NOT NULL, key text);
CREATE TABLE handled (
    seq     bigint GENERATED ALWAYS AS IDENTITY,
    id      bigint NOT NULL,
    topic   text NOT NULL,
    key     text,
    attempt integer NOT NULL
);
CREATE FUNCTION handle(id bigint, topic text, key text, payload jsonb, attempt integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO handled (id, topic, key, attempt) VALUES (id, topic, key, attempt);
    PERFORM pg_sleep((payload->>'sleep')::float8);
    IF attempt <= (payload->>'fail')::integer THEN
        RAISE EXCEPTION 'attempt % fails', attempt;
    END IF;
END $$;
CREATE FUNCTION publish(topic text, payload jsonb DEFAULT '{}', key text DEFAULT NULL, deliver_at timestamptz DEFAULT NULL) RETURNS bigint
    LANGUAGE sql BEGIN ATOMIC
    INSERT INTO published SELECT dtx_publish(topic, payload, key, NULL, deliver_at), topic, key RETURNING id;
END;
-- so many, every tenth of which fails at first
CREATE FUNCTION publish_some(topic text, n integer, keys integer DEFAULT 3) RETURNS bigint LANGUAGE sql BEGIN ATOMIC
    SELECT count(publish(topic, CASE WHEN i % 10 = 4 THEN '{"fail": 1}' ELSE '{}' END::jsonb, 'k' || i % keys))
    FROM generate_series(1, n) i;
END;
-- one transaction each
CREATE PROCEDURE publish_each(topic text, n integer, payload jsonb DEFAULT '{}') LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. n LOOP
        PERFORM publish(topic, payload, 'k' || i % 7);
        COMMIT;
    END LOOP;
END $$;
SQL
	return;
}

sub list_of
{
	my ($bank, $table, $topic, $database) = @_;
	my $rows = value($bank,
		"SELECT string_agg(id::text, ' ') FROM $table WHERE topic ~ '^$topic\$'", $database);
	my %count;
	$count{$_}++ foreach split / /, $rows // '';
	return \%count;
}

# In what the messages of a topic that were published differ from those that
# were handled, or an empty string. Options: databases, a pair of names; known,
# published elsewhere too: id to count; times, how often each is to be handled.
sub differences
{
	my ($from, $to, $topic, %options) = @_;
	my ($here, $there) = @{ $options{databases} // [ $from->{bank}, $to->{bank} ] };
	my $published = list_of($from, 'published', $topic, $here);
	my $handled = list_of($to, 'handled', $topic, $there);
	my $times = $options{times} // 1;
	my @lost = grep { !$handled->{$_} } keys %$published;
	my @wrong = grep { $handled->{$_} && $handled->{$_} != $times } keys %$published;
	my @invented = grep { !$published->{$_} } keys %$handled;
	return join '; ', map { my ($what, @ids) = @$_; @ids ? scalar(@ids) . " $what: " . join(' ', (sort { $a <=> $b } @ids)[ 0 .. ($#ids < 9 ? $#ids : 9) ]) : () }
	  [ 'not handled', @lost ], [ 'not handled as often as they should be', @wrong ], [ 'never published', @invented ];
}

# Messages of a key that were handled before an earlier one of that key.
sub out_of_order
{
	my ($to, $topic, $database) = @_;
	return value($to, <<"SQL", $database);
SELECT coalesce(string_agg(id::text || ' of ' || key, ', ' ORDER BY seq), '')
FROM (SELECT *, lag(id) OVER (PARTITION BY key ORDER BY seq) AS former FROM handled WHERE topic = '$topic') h
WHERE id < former
SQL
}

# What is still to be delivered, or an empty string. Of messages that are
# handled in parallel to this a few may be counted twice.
sub undelivered
{
	my ($from, $database) = @_;
	return value($from, <<'SQL', $database) // 'no answer';
SELECT concat_ws('; ',
    (SELECT string_agg(concat_ws(' ', name || ':', lag, 'in the log,', retrying, 'retrying,', waiting, 'waiting,', leased, 'leased,',
                                 dead, 'dead', last_error), ', ')
     FROM dtx_subscriptions WHERE lag + retrying + waiting + leased + dead > 0),
    (SELECT count(*) || ' undelivered' FROM dtx.undelivered HAVING count(*) > 0),
    (SELECT count(*) || ' delayed' FROM dtx.delayed_message HAVING count(*) > 0),
    (SELECT count(*) || ' held' FROM dtx.held_message HAVING count(*) > 0),
    (SELECT count(*) || ' half' FROM dtx.half_message HAVING count(*) > 0))
SQL
}

# Wait until a sender has nothing to deliver; then all of a topic was handled once.
# Returns what is wrong, or an empty string.
sub handled_once
{
	my ($from, $to, $topic, %options) = @_;
	my $left;
	my $differences;
	my $database = $options{databases} && $options{databases}[0];
	my $all = sub {
		$left = eval { undelivered($from, $database) } // 'no answer';
		return 0 if $left ne '';
		# the sender's position is behind what it knows of
		$differences = differences($from, $to, $topic, %options);
		return $differences !~ /not handled:/;
	};
	my $done = wait_until($all, "messages of $topic are handled", $options{seconds} // 30);
	return '' if $done && $differences eq '';
	$differences = differences($from, $to, $topic, %options);
	return join '; ', grep { $_ ne '' } $left, $differences;
}

# The receiver remembers few batches once the senders' subscriptions to these topics
# have gone on: those since the last position that is known to be durable.
sub few_rows_left
{
	my ($from, $to, $limit, @topics) = @_;
	my $rows;
	my $done = wait_until(
		sub {
			value($from, "SELECT publish('$_')") foreach @topics;
			$rows = value($to, 'SELECT count(*) FROM dtx.de_duplication');
			return $rows <= $limit;
		},
		"at most $limit rows in dtx.de_duplication", 20);
	diag "there are $rows" unless $done;
	return $done;
}

1;
