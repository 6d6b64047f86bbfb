# dtx called as drivers do, over the extended protocol, with parameters that have no type, some, or all of
# them. sql/api_untyped.sql has what the server makes of them in PREPARE.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest;
use DtxTest::Wire;

my ($bank1, $bank2) = two_banks();
my $client = DtxTest::Wire->new($bank1, 'bank1');
my $credit = 'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2';
my $read = 'SELECT account_balance, account_name FROM account_info WHERE account_no = $1';
my ($name, $int2, $int4, $text, $varchar, $numeric) = (19, 21, 23, 25, 1043, 1700);
my $balance = 10000;

# A call that adds 1, and what it is.
sub adds
{
	my ($what, $sql, @parameters) = @_;
	my $result = $client->run($sql, @parameters);
	is($result->{state}, undef, "$what: no error") or diag $result->{message};
	is_deeply($result->{rows}, [ ['1'] ], "$what: a row");
	$balance++;
	return $result;
}

# node-postgres, postgres.js, Prisma, PDO, DBD::Pg, Ruby, lib/pq: everything bound, the statement included
my $all = adds('nothing has a type', 'SELECT dtx_exec($1, $2, $3, $4)', 'bank2', $credit, '1', '2');
is_deeply($all->{types}, [ $name, $text, $text, $text ], 'as drivers are told that ask');
adds('a literal and two parameters', "SELECT dtx_exec('bank2', '$credit', \$1, \$2)", '1', '2');
# psycopg: numbers have the smallest type that holds them, strings none; JDBC: strings are varchar
adds('a smallint and a string', 'SELECT dtx_exec($1, $2, $3, $4)', 'bank2', $credit, [ $int2, '1' ], '2');
adds('JDBC', 'SELECT dtx_exec($1, $2, $3, $4)', [ $varchar, 'bank2' ], [ $varchar, $credit ], [ $int4, '1' ], [ $varchar, '2' ]);
adds('JDBC, strings', 'SELECT dtx_exec($1, $2, $3, $4)', [ $varchar, 'bank2' ], [ $varchar, $credit ], [ $varchar, '1' ], [ $varchar, '2' ]);
adds('a cast', 'SELECT dtx_exec($1, $2, $3::numeric, $4)', 'bank2', $credit, '1', '2');
adds('what asks first', 'SELECT dtx_exec($1, $2, $3, $4)', [ $name, 'bank2' ], [ $text, $credit ], [ $text, '1' ], [ $text, '2' ]);
adds('an array', 'SELECT dtx_exec($1, $2, VARIADIC $3::text[])', 'bank2', $credit, '{1,2}');
adds('the same parameter twice', 'SELECT dtx_exec($1, $2, $3, $4, $4)', 'bank2',
	'UPDATE account_info SET account_balance = account_balance + $1 WHERE account_no = $2 AND $3 <> \'\'', '1', '2');
is_deeply(
	$client->run('SELECT * FROM dtx_query($1, $2, $3) AS t(balance numeric, name text)', 'bank2', $read, '2')->{rows},
	[ [ $balance, 'Owner 2' ] ], 'dtx_query');

# NULLs, of no type and of some
foreach my $null (undef, [ $varchar, undef ], [ $numeric, undef ])
{
	adds('NULL', 'SELECT dtx_exec($1, $2, $3, $4, $5)', 'bank2',
		'UPDATE account_info SET account_balance = account_balance + $1, account_name = $3 WHERE account_no = $2', '1', '2', $null);
}

# what a value says is never read as SQL
is_deeply($client->run('SELECT dtx_exec($1, $2, $3, $4)', 'bank2', $credit, '1', q{2' OR '1' = '1})->{rows}, [ ['0'] ], 'a quote is a quote');
is($client->run('SELECT dtx_exec($1, $2, $3, $4)', 'bank2', $credit, 'many', '2')->{state}, '22P02', 'a value that is none');

# in what runs the statement otherwise
my $plan = $client->run('EXPLAIN (COSTS OFF) SELECT dtx_exec($1, $2, $3, $4)', 'bank2', $credit, '1', '2');
is_deeply($plan->{rows}, [ ['Result'] ], 'EXPLAIN') or diag $plan->{message};
$client->run('BEGIN');
is($client->run("CREATE TEMP TABLE r AS SELECT dtx_exec(\$1, \$2, \$3, \$4)", 'bank2', $credit, '1', '2')->{state}, undef, 'CREATE TABLE AS');
is($client->run('DECLARE c CURSOR FOR SELECT dtx_exec($1, $2, $3, $4)', 'bank2', $credit, '1', '2')->{state}, undef, 'a cursor');
is_deeply($client->run('FETCH c')->{rows}, [ ['1'] ], 'and its row');
$client->run('ROLLBACK');

# a transfer, rolled back and committed
foreach my $end (qw(ROLLBACK COMMIT))
{
	$client->run('BEGIN');
	$client->run('UPDATE account_info SET account_balance = account_balance - $1 WHERE account_no = $2', '5', '1');
	is($client->run('SELECT dtx_exec($1, $2, $3, $4)', 'bank2', $credit, '5', '2')->{state}, undef, "a transfer, then $end");
	$client->run($end);
	ok(settled($bank1, $bank2), 'settled');
}
is(balance($bank1, '1') . ' ' . balance($bank2, '2'), '9995 ' . ($balance + 5), 'nothing else was changed');
done_testing();
