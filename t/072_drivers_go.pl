# The drivers of Go: pgx, in each of its modes, and lib/pq.

use strict;
use warnings;

use DtxTest::Drivers;

my $dir = fetched_or_skipped('go');
test_drivers('go', ["$dir/go/drivers"]);
