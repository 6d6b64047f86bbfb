# Consumers that fetch messages side by side, each in a transaction of its own in which it
# handles and acknowledges them, some of which are rolled back, and the server crashes:
# each message is handled once, and those of a key in turn.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my $consumers = 4;
my $bank1 = new_bank('bank1', conf => <<'CONF');
dtx.message_segment_size = '64kB'
dtx.message_retention = '1s'
dtx.worker_idle_timeout = '10min'
CONF
$bank1->safe_psql('bank1', <<'SQL');
CREATE TABLE sent (id bigint PRIMARY KEY, topic text NOT NULL, key text);
CREATE TABLE handled (at bigint GENERATED ALWAYS AS IDENTITY, id bigint PRIMARY KEY, consumer integer);
CREATE TABLE closed (topic text PRIMARY KEY);
CREATE PROCEDURE publish_many(topic text, n integer) LANGUAGE plpgsql AS $$
DECLARE
    key text;
BEGIN
    FOR i IN 1 .. n LOOP
        -- of another publisher's messages nobody knows which is earlier
        key := pg_backend_pid() || '-' || (random() * 3)::integer;
        INSERT INTO sent SELECT dtx_publish(publish_many.topic, to_jsonb(i), key), publish_many.topic, key;
        IF random() < 0.1 THEN
            ROLLBACK;
        ELSIF random() < 0.5 THEN
            COMMIT;
        END IF;
    END LOOP;
END $$;
-- until there is nothing, and there will be nothing more
CREATE PROCEDURE consume(consumer integer, subscription text, most integer, wait interval) LANGUAGE plpgsql AS $$
DECLARE
    ids  bigint[];
    over boolean;
BEGIN
    LOOP
        over := EXISTS (SELECT FROM closed c WHERE c.topic = subscription);
        WITH got AS (INSERT INTO handled (id, consumer) SELECT r.id, consume.consumer FROM dtx_receive(subscription, most, '1h', wait) r RETURNING id)
        SELECT array_agg(id) INTO ids FROM got;
        EXIT WHEN over AND ids IS NULL AND (SELECT lag + retrying + leased + waiting = 0 FROM dtx_subscriptions WHERE name = subscription);
        IF random() < 0.1 THEN
            BEGIN
                INSERT INTO handled (id, consumer) SELECT r.id, consume.consumer FROM dtx_receive(subscription, most) r;
                RAISE EXCEPTION 'changes its mind';
            EXCEPTION WHEN raise_exception THEN
                NULL;
            END;
        END IF;
        IF dtx_ack(subscription, ids) <> cardinality(ids) THEN
            RAISE EXCEPTION 'somebody else has acknowledged %', ids;
        END IF;
        IF random() < 0.2 THEN
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
    END LOOP;
END $$;
SQL

# Both kinds, with a crash on the way.
foreach my $ordered (qw(false true))
{
	my $name = $ordered eq 'true' ? 'ordered' : 'plain';

	value($bank1, "SELECT dtx_subscribe('$name', name => '$name', ordered => $ordered)");
	value($bank1, qq{CALL publish_many('$name', 300)});
	foreach my $round (1, 2)
	{
		my @sessions = map { session($bank1) } 1 .. $consumers + 2;
		$sessions[$_]->send("CALL consume($_, '$name', " . (1 + $_ % 3) . ', ' . ($_ % 2 ? q{'0'} : q{'1s'}) . ')') foreach 0 .. $consumers - 1;
		$sessions[ $consumers + $_ ]->send("CALL publish_many('$name', 400)") foreach 0, 1;
		if ($round == 1)
		{
			ok(wait_for_value($bank1, qq{SELECT count(*) > 100 FROM handled JOIN sent USING (id) WHERE topic = '$name'}, 't'), "$name: consumers work");
			crash($bank1);
			$_->close foreach @sessions;
			revive($bank1);
		}
		else
		{
			is($sessions[ $consumers + $_ ]->wait(180)->{ok}, 1, "$name: all is published") foreach 0, 1;
			value($bank1, "INSERT INTO closed VALUES ('$name')");
			ok($sessions[$_]->wait(180)->{ok}, "$name: consumer $_ is done") foreach 0 .. $consumers - 1;
			$_->close foreach @sessions;
		}
	}
	is(value($bank1, qq{SELECT count(*) FROM sent LEFT JOIN handled USING (id) WHERE topic = '$name' AND at IS NULL}), '0', "$name: every message is handled");
	is(value($bank1, qq{SELECT count(*) FROM handled LEFT JOIN sent USING (id) WHERE topic IS NULL}), '0', 'and nothing that was not published');
	is(value($bank1, qq{SELECT count(DISTINCT consumer) > 1 FROM handled JOIN sent USING (id) WHERE topic = '$name'}), 't', 'by several');
	is(value($bank1, q{SELECT count(*) FROM dtx.undelivered WHERE state <> 'k'}), '0', 'and nothing is left of it');
}
is(value($bank1, q{SELECT count(*) FROM (SELECT at < lag(at) OVER (PARTITION BY key ORDER BY id) AS late
    FROM handled JOIN sent USING (id) WHERE topic = 'ordered') o WHERE late}), '0', 'those of a key were handled in turn');

# What is done and not passed goes with the next message, and the log with it.
value($bank1, qq{SELECT dtx_publish('$_', '0'), count(*) FROM dtx_receive('$_')}) foreach qw(plain ordered);
value($bank1, qq{SELECT count(*) FROM dtx_receive('$_')}) foreach qw(plain ordered);
is(value($bank1, q{SELECT count(*) FROM dtx.undelivered WHERE state = 'k'}), '0', 'no message is marked as done for ever');
ok(wait_for_value($bank1, q{SELECT count(*) < 3 FROM dtx.message_segment CROSS JOIN LATERAL (SELECT count(*) FROM dtx_receive('plain')) p
    CROSS JOIN LATERAL (SELECT dtx_publish('plain', '1')) m}, 't'), 'segments that all have passed go');

done_testing();
