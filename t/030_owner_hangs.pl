# A function of a table's owner that hangs, and cannot be cancelled, while the table is
# undone in the database of a shared transaction's opener: who wrote to the table goes
# on with everything else, the worker too, and it is undone once the function returns.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;

my $bank1 = new_bank('bank1', conf => <<'CONF');
dtx.call_timeout = '500ms'
dtx.retry_max = '500ms'
CONF
$bank1->safe_psql('bank1', <<'SQL');
CREATE ROLE owner LOGIN;
CREATE ROLE writer LOGIN;
GRANT EXECUTE ON FUNCTION dtx_subscribe TO writer;
CREATE SCHEMA shop AUTHORIZATION owner;
GRANT USAGE ON SCHEMA shop TO writer;
SET ROLE owner;
CREATE TABLE shop.switch (hangs boolean);
INSERT INTO shop.switch VALUES (false);
GRANT SELECT ON shop.switch TO writer;
CREATE FUNCTION shop.hangs(v integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    WHILE (SELECT hangs FROM shop.switch) LOOP
        BEGIN
            PERFORM pg_sleep(600);
        EXCEPTION WHEN query_canceled THEN NULL;
        END;
    END LOOP;
    RETURN true;
END $$;
CREATE TABLE shop.hanging (id integer PRIMARY KEY, v integer CHECK (shop.hangs(v)));
CREATE TABLE shop.other (id integer PRIMARY KEY, v integer);
INSERT INTO shop.hanging VALUES (1, 1);
INSERT INTO shop.other VALUES (1, 1);
SELECT dtx_attach('shop.hanging'), dtx_attach('shop.other');
GRANT SELECT, UPDATE ON shop.hanging, shop.other TO writer;
RESET ROLE;
CREATE TABLE handled (by text);
GRANT INSERT ON handled TO writer;
CREATE FUNCTION handle(payload jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO handled VALUES (current_user)';
SQL

# A shared transaction that writer has opened and joined, and that is open; its xid.
sub open_one
{
	my ($table) = @_;
	my $session = session($bank1);
	my $xid = $session->must('SET SESSION AUTHORIZATION writer', q{SELECT dtx_open('1 hour')});
	chomp $xid;
	$session->must('BEGIN', "SELECT dtx_join('$xid')", "UPDATE shop.$table SET v = 2", 'COMMIT');
	$session->close;
	return $xid;
}

sub time_out
{
	my ($xid) = @_;
	value($bank1, "UPDATE dtx.global SET deadline = clock_timestamp() WHERE xid = '$xid'");
	return;
}

# As writer, whose process does not live on from what was before.
my $session = session($bank1);
$session->must('SET SESSION AUTHORIZATION writer', q{SELECT dtx_subscribe('news', handler => 'handle', name => 'news')});
$session->close;

sub is_handled
{
	my ($name) = @_;
	value($bank1, 'DELETE FROM handled');
	value($bank1, q{SELECT dtx_publish('news', '1')});
	ok(wait_for_value($bank1, q{SELECT string_agg(by, ' ') FROM handled}, 'writer'), $name);
	return;
}

my $worker = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dtx worker' AND datname = 'bank1'};

is_handled('before');
my $hanging = open_one('hanging');
my $other = open_one('other');
value($bank1, 'UPDATE shop.switch SET hangs = true');
my $before = value($bank1, $worker);
time_out($hanging);
ok( wait_for_value($bank1, q{SELECT bool_or(attempts > 1 AND last_error = 'rolling it back has not come to an end') FROM dtx_branches}, 't'),
	'a process that cannot be cancelled is ended, and another one tries');
is_handled('handlers of the role that wrote to the table go on');
time_out($other);
ok(wait_for_value($bank1, "SELECT dtx_status('$other')", 'rolled back'), 'what else it has to undo is undone');
is(value($bank1, $worker), $before, 'the worker has not been ended meanwhile');
is(value($bank1, 'SELECT v FROM shop.hanging'), '2', 'what hangs is in doubt');
is(value($bank1, 'SELECT v FROM shop.other'), '1', 'the other table is as it was');
# settings of the role do not keep it from being undone
value($bank1, 'ALTER ROLE writer SET default_transaction_read_only = on');
value($bank1, q{ALTER ROLE writer SET default_transaction_isolation = 'serializable'});
value($bank1, 'UPDATE shop.switch SET hangs = false');
ok(wait_for_value($bank1, "SELECT dtx_status('$hanging')", 'rolled back'), 'undone once the function returns');
is(value($bank1, 'SELECT v FROM shop.hanging'), '1', 'and as it was');

done_testing();
