# examples/services: an order that spans two services, of node and of Python, by an xid in a header.

use strict;
use warnings;

use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DtxTest::Drivers;

my $dir = fetched_or_skipped('node', 'python');
$ENV{NODE_PATH} = "$dir/node/node_modules";
$ENV{PYTHONPATH} = "$dir/python";
$ENV{PYTHONDONTWRITEBYTECODE} = 1;

my $example = dirname(__FILE__) . '/../examples/services';
my $story = PostgreSQL::Test::Utils::tempdir_short() . '/s';
my ($out, $err) = run_command([ 'bash', "$example/run", $story ]);
like($out, qr/^Each order took its goods$/m, 'the example runs to its end') or diag "$out\n$err";
is($err, '', 'and has nothing to complain of');

done_testing();
